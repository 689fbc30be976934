"""Who computes what: shards from the command line, from schedulers, and of blocks of seeds."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.experiment import PRESETS, check, parse
from benchmarks.experiment.config import RunOptions
from benchmarks.experiment.design import expand
from benchmarks.experiment.sharding import (
    ALONE,
    Shard,
    blocks_of,
    find_shard,
    parse_shard,
)
from jaxprune.envs import make_env
from jaxprune.validation import InputError

SIX = replace(PRESETS["smoke"], seeds=6, chunk_seeds=2).resolved(make_env("cartpole"))


def shard_of(options: RunOptions, environment: Mapping[str, str] = os.environ) -> Shard:
    """The shard of a process of six seeds in blocks of two."""
    return find_shard(options, options.out or SIX.folder(), SIX.seeds, SIX.block_seeds, environment)


def test_blocks_are_dealt_out_and_together_they_are_the_experiment():
    design = expand(SIX)
    dealt = [list(blocks_of(design.blocks, Shard(i, 2))) for i in range(2)]
    assert dealt == [[0, 2], [1]]
    assert list(blocks_of(design.blocks, ALONE)) == [0, 1, 2]
    blocks = [design.block(i) for i in design.blocks]
    seeds = [[a.seed for a in block.agents if a.method == "none"] for block in blocks]
    assert seeds == [[0, 1], [2, 3], [4, 5]] == [list(block.seeds) for block in blocks]
    every = [agent for block in blocks for agent in block.agents]
    assert sorted(every) == sorted(design.first(6).agents)


def test_all_seeds_are_one_block_unless_asked_otherwise():
    experiment = replace(SIX, chunk_seeds=None).resolved(make_env("cartpole"))
    assert experiment.chunk_seeds == 6
    (block,) = map(expand(experiment).block, expand(experiment).blocks)
    assert block.agents == expand(SIX).first(6).agents


def slurm(task: int, first: int, last: int, count: int) -> dict[str, str]:
    """What Slurm tells a task of an array."""
    told = {"ID": task, "MIN": first, "MAX": last, "COUNT": count}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in told.items()}


@pytest.mark.parametrize(
    ("environment", "asked", "shard"),
    [
        (slurm(2, 0, 2, 3), "auto", Shard(2, 3)),
        (slurm(12, 10, 12, 3), "auto", Shard(2, 3)),
        # Some tasks of three: a count that is given says which.
        (slurm(1, 1, 1, 1), "auto/3", Shard(1, 3)),
        (slurm(2, 1, 2, 2) | {"JAXPRUNE_SHARDS": "3"}, "auto", Shard(2, 3)),
        (slurm(2, 0, 2, 2) | {"JAXPRUNE_SHARDS": "9"}, "auto/3", Shard(2, 3)),
        ({"JOB_COMPLETION_INDEX": "0", "JAXPRUNE_SHARDS": "2"}, "auto", Shard(0, 2)),
        ({"JOB_COMPLETION_INDEX": "1"}, "auto/2", Shard(1, 2)),
        ({"SKYPILOT_JOB_RANK": "1", "SKYPILOT_NUM_JOBS": "3"}, "auto", Shard(1, 3)),
        ({"SKYPILOT_JOB_RANK": "0"}, "auto", Shard(0, 1)),
    ],
)
def test_a_scheduler_tells_the_shard(
    environment: dict[str, str], asked: str, shard: Shard, tmp_path: Path
):
    assert shard_of(RunOptions(shard=asked, out=tmp_path), environment) == shard


@pytest.mark.parametrize(
    ("environment", "asked", "message"),
    [
        ({}, "auto", "finds no scheduler.*--shard INDEX/COUNT"),
        ({"JOB_COMPLETION_INDEX": "1"}, "auto", "set JAXPRUNE_SHARDS to the completions"),
        ({"SLURM_ARRAY_TASK_ID": "1"}, "auto", "SLURM_ARRAY_TASK_MIN='', .* give INDEX/COUNT"),
        (slurm(3, 3, 7, 2), "auto", "2 tasks from 3 to 7 has gaps.*auto/COUNT or set JAXPRUNE_SH"),
        (slurm(3, 1, 3, 3), "auto/3", "shard '3/3' is none"),
    ],
)
def test_a_scheduler_that_says_too_little(
    environment: dict[str, str], asked: str, message: str, tmp_path: Path
):
    with pytest.raises(InputError, match=message):
        shard_of(RunOptions(shard=asked, out=tmp_path), environment)


@pytest.mark.parametrize(
    ("submitted", "asked"),
    [(slurm(1, 1, 1, 1), "auto"), (slurm(1, 1, 2, 2), "auto"), ({}, "0/2")],
)
def test_a_folder_keeps_its_partition(submitted: dict[str, str], asked: str, tmp_path: Path):
    """Some tasks of an array, submitted again, look like a smaller array."""
    (tmp_path / "shards" / "0-of-3").mkdir(parents=True)
    with pytest.raises(InputError, match=r"holds shards/0-of-3.*--shard INDEX/3.*another --out"):
        shard_of(RunOptions(shard=asked, out=tmp_path), submitted)
    again = RunOptions(shard="auto/3", out=tmp_path)
    assert shard_of(again, slurm(1, 1, 1, 1)) == Shard(1, 3)


@pytest.mark.parametrize(
    "environment",
    [
        {"JAX_PROCESS_ID": "1", "JAX_NUM_PROCESSES": "3"},
        {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "3"},
        {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "3"},
        {"PMI_RANK": "1", "PMI_SIZE": "3"},
        {"TPU_WORKER_ID": "1", "TPU_WORKER_HOSTNAMES": "a,b,c"},
        {"JOB_COMPLETION_INDEX": "1", "JAXPRUNE_SHARDS": "3"},
    ],
    ids=lambda environment: next(iter(environment)),
)
def test_a_launcher_tells_a_process_its_shard(environment: dict[str, str], tmp_path: Path):
    asked = RunOptions(shard="auto", out=tmp_path)
    assert shard_of(asked, environment) == Shard(1, 3)
    with pytest.raises(InputError, match=r"give --shard INDEX/COUNT|set JAXPRUNE_SHARDS"):
        shard_of(asked, dict([next(iter(environment.items()))]))


@pytest.mark.parametrize("text", ["3/3", "a/b", "1", "-1/2", "1/0", "", "0/1000000000000"])
def test_what_is_no_shard(text: str):
    with pytest.raises(InputError, match=r"give INDEX/COUNT with 0 <= INDEX < COUNT"):
        parse_shard(text)


def test_more_shards_than_blocks():
    with pytest.raises(InputError, match=r"6 seeds in chunks of 2 are 3.*--chunk-seeds of 1"):
        shard_of(RunOptions(shard="0/4"))
    assert shard_of(RunOptions(shard="2/3")) == Shard(2, 3)
    assert shard_of(RunOptions()) == ALONE


def test_a_single_host_of_a_tpu_is_no_slice(tmp_path: Path):
    """Pods of an indexed job on such hosts are told that they are the only one."""
    told = {"TPU_WORKER_ID": "0", "TPU_WORKER_HOSTNAMES": "localhost", "JOB_COMPLETION_INDEX": "2"}
    asked = RunOptions(shard="auto", out=tmp_path)
    assert shard_of(asked, told | {"JAXPRUNE_SHARDS": "3"}) == Shard(2, 3)
    with pytest.raises(InputError, match="set JAXPRUNE_SHARDS"):
        shard_of(asked, told)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--seeds 6 --chunk-seeds 4", "does not divide the 6 seeds: choose from 1, 2, 3, 6"),
        ("--chunk-seeds 0", "chunk_seeds 0 is below 1"),
    ],
)
def test_blocks_of_different_sizes(words: str, message: str):
    with pytest.raises(InputError, match=message):
        check(parse(["--preset", "smoke", *words.split()])[0])


def test_how_many_seeds_are_a_block_names_another_experiment():
    assert replace(SIX, chunk_seeds=3).settings() != SIX.settings()
