"""The last step of a run, of a shard and of their union: tables and agents, whole and checked."""

import errno
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from benchmarks.pipeline import Results
from benchmarks.store import RunFolder, checksum
from benchmarks.whole import write_whole
from jaxprune.policy_io import save_agents
from jaxprune.policy_io.agents import agents_of, agents_state
from jaxprune.types import Masks, Policy

# The agents of a run are a checkpoint for people to load, those of a shard one file for `merge`.
AGENTS, SHARD_AGENTS = "agents", "agents.npz"


def finish(
    folder: RunFolder, results: Results, facts: Mapping[str, Any], is_shard: bool = False
) -> None:
    """Write everything, and only then say in experiment.json that it is complete.

    Raises:
        OSError: the disk is full, or the folder not writable.
    """
    names = [name for name, columns in results.tables.items() if columns]
    for name in names:
        folder.write_table(name, results.tables[name])
    files = [f"{name}.parquet" for name in names]
    if is_shard:
        write_shard_agents(folder.path / SHARD_AGENTS, results.policy, results.masks)
        files.append(SHARD_AGENTS)
    else:
        write_agents(folder.path / AGENTS, results.policy, results.masks)
        files.append(AGENTS)
    known = {name: checksum(folder.path / name) for name in files}
    folder.describe({**facts, "files": known})


def write_agents(path: Path, policy: Policy, masks: Mapping[str, Masks]) -> None:
    """The agents of a run, as a checkpoint; what a killed process left of one is removed.

    Raises:
        OSError: the disk is full, or the folder not writable.
    """
    try:
        _sweep(path)
        save_agents(path, policy, masks)
    except ValueError as error:  # how Orbax passes on that a file could not be written
        _sweep(path)
        reason = str(error).splitlines()[0][:200]
        raise OSError(errno.EIO, reason, str(path)) from error


def _sweep(path: Path) -> None:
    """Remove Orbax's temporary folders beside a checkpoint."""
    for left in path.parent.glob(f"{path.name}.orbax-checkpoint-tmp*"):
        shutil.rmtree(left, ignore_errors=True)


def write_shard_agents(file: Path, policy: Policy, masks: Mapping[str, Masks]) -> None:
    """The agents of a shard as one file."""
    state, static = agents_state(policy, masks)
    arrays: dict[str, Any] = flatten_dict(state, sep="/") | {"static": np.array(json.dumps(static))}

    def write(partial: Path) -> None:
        with partial.open("wb") as open_file:
            np.savez(open_file, allow_pickle=False, **arrays)

    write_whole(file, write)


def read_shard_agents(file: Path) -> tuple[Policy, dict[str, Masks]]:
    """What `write_shard_agents` wrote."""
    with np.load(file, allow_pickle=False) as held:
        arrays = dict(held)
    static = json.loads(str(arrays.pop("static")))
    return agents_of(unflatten_dict(arrays, sep="/"), static)
