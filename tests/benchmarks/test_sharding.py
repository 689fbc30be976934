"""Who computes what: shards from the command line, from schedulers, and of blocks of seeds."""

from dataclasses import replace

import pytest

from benchmarks.arms import arms
from benchmarks.experiment import PRESETS, check, parse
from benchmarks.sharding import (
    ALONE,
    Shard,
    block_of,
    blocks_of,
    find_shard,
    parse_shard,
    shard_of_scheduler,
)
from jaxprune.envs import make_env
from jaxprune.families import InputError

SIX = replace(PRESETS["smoke"], seeds=6, chunk_seeds=2).resolved(make_env("cartpole"))


def test_blocks_are_dealt_out_and_together_they_are_the_experiment():
    dealt = [blocks_of(SIX, Shard(i, 2)) for i in range(2)]
    assert dealt == [[0, 2], [1]]
    assert blocks_of(SIX, ALONE) == [0, 1, 2]
    seeds = [[a.seed for a in arms(block_of(SIX, i)) if a.method == "none"] for i in range(3)]
    assert seeds == [[0, 1], [2, 3], [4, 5]]
    every = [arm for i in range(3) for arm in arms(block_of(SIX, i))]
    assert sorted(every) == sorted(arms(SIX))


def test_all_seeds_are_one_block_unless_asked_otherwise():
    experiment = replace(SIX, chunk_seeds=None).resolved(make_env("cartpole"))
    assert experiment.chunk_seeds == 6
    assert [len(arms(block_of(experiment, i))) for i in blocks_of(experiment, ALONE)] == [
        len(arms(SIX))
    ]


@pytest.mark.parametrize(
    ("environment", "shard"),
    [
        ({"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "3"}, Shard(2, 3)),
        (
            {
                "SLURM_ARRAY_TASK_ID": "12",
                "SLURM_ARRAY_TASK_MIN": "10",
                "SLURM_ARRAY_TASK_COUNT": "3",
            },
            Shard(2, 3),
        ),
        ({"JOB_COMPLETION_INDEX": "0", "JAXPRUNE_SHARDS": "2"}, Shard(0, 2)),
    ],
)
def test_a_scheduler_tells_the_shard(environment: dict[str, str], shard: Shard):
    assert shard_of_scheduler(environment) == shard
    assert find_shard(replace(SIX, shard="auto"), environment) == shard


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "finds no scheduler.*--shard INDEX/COUNT"),
        ({"JOB_COMPLETION_INDEX": "1"}, "set JAXPRUNE_SHARDS to the completions"),
        ({"SLURM_ARRAY_TASK_ID": "1"}, "shard '1/None' is none"),
    ],
)
def test_a_scheduler_that_says_too_little(environment: dict[str, str], message: str):
    with pytest.raises(InputError, match=message):
        shard_of_scheduler(environment)


@pytest.mark.parametrize("text", ["3/3", "a/b", "1", "-1/2", "1/0", ""])
def test_what_is_no_shard(text: str):
    with pytest.raises(InputError, match=r"give INDEX/COUNT with 0 <= INDEX < COUNT"):
        parse_shard(text)


def test_more_shards_than_blocks():
    with pytest.raises(InputError, match=r"6 seeds in chunks of 2 are 3.*--chunk-seeds of 1"):
        find_shard(replace(SIX, shard="0/4"))
    assert find_shard(replace(SIX, shard="2/3")) == Shard(2, 3)
    assert find_shard(SIX) == ALONE


def test_a_shard_and_processes_contradict_each_other():
    with pytest.raises(InputError, match="leave out --shard"):
        find_shard(replace(SIX, shard="0/2", distributed=True))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--seeds 6 --chunk-seeds 4", "does not divide the 6 seeds: choose from 1, 2, 3, 6"),
        ("--chunk-seeds 0", "chunk_seeds 0 is below 1"),
    ],
)
def test_blocks_of_different_sizes(words: str, message: str):
    with pytest.raises(InputError, match=message):
        check(parse(["--preset", "smoke", *words.split()]))


def test_how_a_run_is_split_does_not_name_another_experiment():
    asked = replace(SIX, shard="1/3", distributed=True, resume=False, dry_run=True)
    assert asked.settings() == SIX.settings()
    assert replace(SIX, chunk_seeds=3).settings() != SIX.settings()
    assert "first_seed" not in SIX.settings()
