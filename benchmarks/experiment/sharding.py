"""Which part of a run this process takes: blocks of seeds, dealt out to shards.

A block is a number of seeds with everything that is computed about them. What a block contains
depends on the experiment alone, so that shards together compute what a single process would.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from benchmarks.experiment.config import RunOptions
from benchmarks.runtime.run_folder import SHARDS
from jaxprune.validation import InputError

AUTO = "auto"
# How many shards there are, where the scheduler does not say it or says something else.
COUNT = "JAXPRUNE_SHARDS"
# What a launcher tells each of its processes: its index and how many there are.
# srun comes last, since mpirun starts its daemons with it.
RANKS = {
    "JAX": ("JAX_PROCESS_ID", "JAX_NUM_PROCESSES"),
    "Open MPI": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    "MPICH": ("PMI_RANK", "PMI_SIZE"),
    "srun": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
}
TPU_INDEX, TPU_HOSTS = "TPU_WORKER_ID", "TPU_WORKER_HOSTNAMES"
# Of an indexed Kubernetes job.
JOB_INDEX = "JOB_COMPLETION_INDEX"
SKY_INDEX, SKY_JOBS = "SKYPILOT_JOB_RANK", "SKYPILOT_NUM_JOBS"


class Shard(NamedTuple):
    """One of `count` processes that share an experiment."""

    index: int = 0
    count: int = 1

    def __str__(self) -> str:
        """Returns the shard as on the command line."""
        return f"{self.index}/{self.count}"


# The only process of a run.
ALONE = Shard()


def find_shard(
    options: RunOptions,
    folder: Path,
    seeds: int,
    size: int,
    environment: Mapping[str, str] = os.environ,
) -> Shard:
    """Returns the shard of this process: as its command line, scheduler or launcher says.

    Shards share nothing but the folder of the results. None of them joins `jax.distributed`, whose
    processes have to end together, while shards take different times.

    Args:
        options: of the command line.
        folder: of the run.
        seeds: of the run.
        size: seeds of a block.
        environment: variables of the process.

    Raises:
        InputError: a malformed shard, no scheduler or launcher, more shards than blocks, or a
            folder that holds the shards of another partition.
    """
    asked = options.shard
    if asked is None:
        return ALONE
    if asked == AUTO or asked.startswith(f"{AUTO}/"):
        shard = shard_of_scheduler(environment, asked.removeprefix(AUTO).removeprefix("/"))
    else:
        shard = parse_shard(asked)
    blocks = seeds // size
    if shard.count > blocks:
        raise InputError(
            f"shard {shard} needs {shard.count} blocks of seeds, and {seeds} seeds in "
            f"chunks of {size} are {blocks}: give every shard a --chunk-seeds "
            f"of {max(seeds // shard.count, 1)} or less, more --seeds, or fewer shards"
        )
    check_partition(folder, shard)
    return shard


def parse_shard(text: str) -> Shard:
    """Returns the shard that a text names; `0/4` is the first of four.

    Raises:
        InputError: anything else, or an index that is none of them.
    """
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if not found or not int(found[1]) < int(found[2]):
        raise InputError(
            f"shard {text!r} is none: give INDEX/COUNT with 0 <= INDEX < COUNT < 1000000, e.g. "
            f"0/4 to 3/4, or {AUTO!r} to ask the scheduler"
        )
    return Shard(int(found[1]), int(found[2]))


def shard_of_scheduler(environment: Mapping[str, str], count: str = "") -> Shard:
    """Returns the shard of a task of a Slurm array, of a pod of an indexed Kubernetes job, of one
    of the managed jobs that SkyPilot started together, or of a process that a launcher started.

    Args:
        environment: variables of the process.
        count: how many shards there are; empty: what `JAXPRUNE_SHARDS` says, or the array.

    Raises:
        InputError: there is no scheduler, it leaves the count open, or a submission of some tasks
            of a larger array does not say how large that is.
    """
    env, count = environment, count or environment.get(COUNT, "")
    if "SLURM_ARRAY_TASK_ID" in env:
        if count:
            return parse_shard(f"{env['SLURM_ARRAY_TASK_ID']}/{count}")
        return _of_whole_array(env)
    if SKY_INDEX in env:
        return parse_shard(f"{env[SKY_INDEX]}/{count or env.get(SKY_JOBS, '1')}")
    if JOB_INDEX in env and count:
        return parse_shard(f"{env[JOB_INDEX]}/{count}")
    return shard_of_process(env)


def _of_whole_array(env: Mapping[str, str]) -> Shard:
    """Returns the shard of a task of an array that is the whole partition.

    Raises:
        InputError: Slurm's variables are no numbers, or the array has gaps.
    """
    names = [f"SLURM_ARRAY_TASK_{name}" for name in ("ID", "MIN", "MAX", "COUNT")]
    told = [env.get(name, "") for name in names]
    if not all(re.fullmatch(r"\d{1,9}", value) for value in told):
        values = ", ".join(f"{n}={v!r}" for n, v in zip(names, told, strict=True))
        raise InputError(f"a Slurm array says {values}, which are no numbers: give INDEX/COUNT")
    task, first, last, count = map(int, told)
    if last - first + 1 != count:
        raise InputError(
            f"the Slurm array of {count} tasks from {first} to {last} has gaps, and does not say "
            f"how many shards there are: give --shard {AUTO}/COUNT or set {COUNT}, and number the "
            "tasks from 0"
        )
    return parse_shard(f"{task - first}/{count}")


def shard_of_process(environment: Mapping[str, str]) -> Shard:
    """Returns the shard of one process of several that were started together.

    Raises:
        InputError: no launcher told this process its index.
    """
    env = environment
    for index, size in RANKS.values():
        if index in env and size in env:
            return parse_shard(f"{env[index]}/{env[size]}")
    hosts = env.get(TPU_HOSTS, "").split(",")
    if TPU_INDEX in env and len(hosts) > 1:
        return parse_shard(f"{env[TPU_INDEX]}/{len(hosts)}")
    if JOB_INDEX in env:
        raise InputError(
            f"{JOB_INDEX} {env[JOB_INDEX]} is one of an unknown number: set {COUNT} to the "
            "completions of the job"
        )
    known = ", ".join(f"{index} and {size} ({name})" for name, (index, size) in RANKS.items())
    raise InputError(
        f"shard {AUTO!r} finds no scheduler: set SLURM_ARRAY_TASK_ID (Slurm array), {JOB_INDEX} "
        f"and {COUNT} (Kubernetes), {SKY_INDEX} (SkyPilot), {known}, or {TPU_INDEX} and "
        f"{TPU_HOSTS} (TPU slice); or give --shard INDEX/COUNT"
    )


def check_partition(folder: Path, shard: Shard) -> None:
    """Checks that a folder holds no shards of another partition.

    Raises:
        InputError: it does. Their union would miss blocks or hold them twice.
    """
    for other in sorted((folder / SHARDS).glob("*-of-*")):
        count = other.name.rpartition("-of-")[2]
        if count != str(shard.count):
            raise InputError(
                f"{folder} holds {SHARDS}/{other.name}, and this is shard {shard}: give the count "
                f"of the first submission (--shard INDEX/{count}, --shard {AUTO}/{count} or "
                f"{COUNT}={count}), or choose another --out"
            )


def where(whole: Path, shard: Shard) -> Path:
    """Returns the folder of a run, or of a shard inside of it."""
    return whole if shard.count == 1 else whole / SHARDS / f"{shard.index}-of-{shard.count}"


def blocks_of(blocks: range, shard: Shard) -> range:
    """Returns the ids of the blocks of one shard."""
    return blocks[shard.index :: shard.count]
