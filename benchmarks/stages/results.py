"""The last step of a run, of a shard and of their union: tables and agents, whole and checked."""

import errno
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from benchmarks.experiment.design import Case
from benchmarks.runtime.arrays import joined
from benchmarks.runtime.atomic import write_whole
from benchmarks.runtime.run_folder import RunFolder, checksum
from benchmarks.stages.attack import Seconds
from benchmarks.stages.base import Columns
from jaxprune.devices import take
from jaxprune.policy_io import save_agents
from jaxprune.policy_io.addresses import in_memory
from jaxprune.policy_io.agents import agents_of, agents_state
from jaxprune.types import Masks, Policy


class Results(NamedTuple):
    """What the stages leave behind."""

    tables: dict[str, Columns]  # by name; empty where nothing was trained
    policy: Policy  # [policies]
    masks: dict[str, Masks]  # by the name of their curve, [cells of the curve]
    facts: dict[str, object]  # about the compiled programs


# The agents of a run are a checkpoint for people to load, those of a shard one file for `merge`.
AGENTS, SHARD_AGENTS = "agents", "agents.npz"


def finish(
    folder: RunFolder, results: Results, facts: Mapping[str, object], is_shard: bool = False
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
    with np.load(in_memory(file), allow_pickle=False) as held:
        arrays = dict(held)
    static = json.loads(str(arrays.pop("static")))
    return agents_of(unflatten_dict(arrays, sep="/"), static)


def united(parts: Sequence[Results], size: int) -> Results:
    """Returns the results of blocks or shards as those of one process, sorted by block.

    Args:
        parts: each with whole blocks in ascending order; their tables are taken out, one after the
            other, so that a large run is not in memory twice.
        size: seeds of a block.
    """
    held = [np.unique(part.tables["cells"]["seed"] // size) for part in parts]
    blocks = np.sort(np.concatenate(held))

    def by_block(*leaves: np.ndarray) -> np.ndarray:
        each = [len(leaf) // len(ids) for leaf, ids in zip(leaves, held, strict=True)]
        of_row = np.concatenate([np.repeat(i, n) for i, n in zip(held, each, strict=True)])
        return np.concatenate(leaves)[np.argsort(of_row, kind="stable")]

    tables = {}
    for name in list(parts[0].tables):
        table = joined([part.tables.pop(name) for part in parts])
        if "seed" in table:
            table = take(table, np.argsort(table["seed"] // size, kind="stable"))
        tables[name] = table
    tables["seconds"] = summed(tables["seconds"])
    policy, masks = (
        jax.tree.map(by_block, *trees)
        for trees in zip(*((part.policy, part.masks) for part in parts), strict=True)
    )
    cells, agents = tables["cells"], len(jax.tree.leaves(policy)[0]) // len(blocks)
    place = np.searchsorted(blocks, cells["seed"] // size)
    cells["agent"] = (cells["agent"] % agents + place * agents).astype(np.int32)
    cells["index"] = counted(cells["curve"])
    return Results(tables, policy, masks, {})


def summed(seconds: Columns) -> Columns:
    """The seconds of all blocks: a row per case."""
    rows = list(zip(*(seconds[name].tolist() for name in Case._fields), strict=True))
    cases = list(dict.fromkeys(rows))
    of_case = np.array([cases.index(row) for row in rows])
    columns = zip(Case._fields, map(np.array, zip(*cases, strict=True)), strict=True)
    return dict(columns) | {name: np.bincount(of_case, seconds[name]) for name in Seconds._fields}


def counted(names: np.ndarray) -> np.ndarray:
    """How many equal ones are before each."""
    found = np.zeros(len(names), np.int32)
    for name in np.unique(names):
        of_name = names == name
        found[of_name] = np.arange(of_name.sum())
    return found
