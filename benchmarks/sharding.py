"""Which part of a run this process takes: blocks of seeds, dealt out to shards.

A block is a number of seeds with everything that is computed about them. What a block contains
depends on the experiment alone, so that shards together compute what a single process would.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import jax

from benchmarks.experiment import Experiment
from jaxprune.families import InputError

# Kubernetes tells a pod its index, but not of how many.
KUBERNETES_COUNT = "JAXPRUNE_SHARDS"
# What JAX does not read itself, beside JAX_COORDINATOR_ADDRESS.
PROCESSES, PROCESS = "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
AUTO = "auto"


class Shard(NamedTuple):
    """One of `count` processes that share an experiment."""

    index: int = 0
    count: int = 1

    def __str__(self) -> str:
        """As on the command line."""
        return f"{self.index}/{self.count}"


# The only process of a run.
ALONE = Shard()


def find_shard(experiment: Experiment, environment: Mapping[str, str] = os.environ) -> Shard:
    """The shard that this process is, by its command line, its scheduler or `jax.distributed`.

    With `--distributed` call `join_processes` first.

    Raises:
        InputError: a malformed shard, no scheduler, or more shards than blocks.
    """
    if experiment.distributed:
        if experiment.shard is not None:
            raise InputError(
                f"shard {experiment.shard!r} and --distributed contradict each other: the "
                "process index is the shard, so leave out --shard"
            )
        shard = Shard(jax.process_index(), jax.process_count())
    elif experiment.shard is None:
        return ALONE
    elif experiment.shard == AUTO:
        shard = shard_of_scheduler(environment)
    else:
        shard = parse_shard(experiment.shard)
    blocks = block_count(experiment)
    if shard.count > blocks:
        raise InputError(
            f"shard {shard} needs {shard.count} blocks of seeds, and {experiment.seeds} seeds in "
            f"chunks of {experiment.block_seeds} are {blocks}: give every shard a --chunk-seeds "
            f"of {max(experiment.seeds // shard.count, 1)} or less, more --seeds, or fewer shards"
        )
    return shard


def parse_shard(text: str) -> Shard:
    """`0/4` is the first of four.

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


def shard_of_scheduler(environment: Mapping[str, str]) -> Shard:
    """The task of a Slurm array, or the pod of an indexed Kubernetes job.

    Raises:
        InputError: there is neither, or its variables make no sense.
    """
    env = environment
    if "SLURM_ARRAY_TASK_ID" in env:
        first = int(env.get("SLURM_ARRAY_TASK_MIN", 0))
        index, count = int(env["SLURM_ARRAY_TASK_ID"]) - first, env.get("SLURM_ARRAY_TASK_COUNT")
        return parse_shard(f"{index}/{count}")
    if "JOB_COMPLETION_INDEX" in env:
        if KUBERNETES_COUNT not in env:
            raise InputError(
                f"JOB_COMPLETION_INDEX {env['JOB_COMPLETION_INDEX']} is one of an unknown number: "
                f"set {KUBERNETES_COUNT} to the completions of the job"
            )
        return parse_shard(f"{env['JOB_COMPLETION_INDEX']}/{env[KUBERNETES_COUNT]}")
    raise InputError(
        "shard 'auto' finds no scheduler: SLURM_ARRAY_TASK_ID (Slurm array) and "
        "JOB_COMPLETION_INDEX (indexed Kubernetes job) are not set; give --shard INDEX/COUNT"
    )


def block_count(experiment: Experiment) -> int:
    """Blocks of a resolved experiment."""
    return experiment.seeds // experiment.block_seeds


def blocks_of(experiment: Experiment, shard: Shard) -> range:
    """The blocks of one shard."""
    return range(shard.index, block_count(experiment), shard.count)


def block_of(experiment: Experiment, index: int) -> Experiment:
    """The experiment on the seeds of one block alone."""
    size = experiment.block_seeds
    return replace(experiment, seeds=size, first_seed=index * size)


def join_processes(environment: Mapping[str, str] = os.environ) -> None:
    """Join `jax.distributed`; call it before anything touches a device.

    Raises:
        InputError: there is no cluster to join.
    """
    address = environment.get("JAX_COORDINATOR_ADDRESS")
    known: dict[str, Any] = {}
    if address is not None and {PROCESSES, PROCESS} <= environment.keys():
        known = {
            "coordinator_address": address,
            "num_processes": int(environment[PROCESSES]),
            "process_id": int(environment[PROCESS]),
        }
    try:
        jax.distributed.initialize(**known)
    except ValueError as error:  # nothing that JAX knows runs this process
        raise InputError(
            f"--distributed finds no cluster ({error}): start the processes by Slurm, Open MPI, "
            f"Kubernetes or on a TPU slice, or set JAX_COORDINATOR_ADDRESS, {PROCESSES} and "
            f"{PROCESS}"
        ) from None
