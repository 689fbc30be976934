"""What all stages share: the population of cells, and how tables describe it."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import NamedTuple, TypeAlias

import jax
import numpy as np

from benchmarks.experiment.design import Case
from benchmarks.runtime.arrays import Arrays, joined, part
from benchmarks.runtime.checkpoints import What, Work
from jaxprune.cells import Cell
from jaxprune.envs import EnvSpec
from jaxprune.types import Policy

# The columns of a table.
Columns: TypeAlias = Arrays


class Row(NamedTuple):
    """A cell as it appears in the tables."""

    seed: int
    regime: str
    method: str
    allocation: str
    mode: str
    sparsity: float
    sparsity_achieved: float
    nested: bool  # the masks of its curve are nested and of the same weights


class Population(NamedTuple):
    """The cells of the experiment: one policy with one mask each."""

    policy: Policy  # [policies]
    rows: list[Row]  # [cells]
    cells: Cell  # [cells]
    block: int  # id of the block that they are of


def described(spec: EnvSpec, population: Population) -> Columns:
    """The columns that say what a cell is, `[cells]` each."""
    rows = population.rows
    return repeated({"env": spec.name, "backend": spec.backend}, len(rows)) | {
        name: np.array([getattr(row, name) for row in rows]) for name in Row._fields
    }


def repeated(values: Mapping[str, object], count: int) -> Columns:
    """Columns of so many rows that all hold the same."""
    return {name: np.array([value] * count) for name, value in values.items()}


def distinct(cells: Cell) -> tuple[np.ndarray, np.ndarray]:
    """Returns the first cell of each kind, and of which kind every cell is.

    Cells of one kind are the same policy: a mask that removes nothing is that of the dense agent.
    """
    masks = [np.asarray(x) for x in jax.tree.leaves(cells.masks)]
    kinds: dict[tuple[int, bytes], int] = {}
    kind = []
    for i, agent in enumerate(cells.agent):
        kept = hashlib.sha256(b"".join(mask[i].tobytes() for mask in masks)).digest()
        kind.append(kinds.setdefault((int(agent), kept), len(kinds)))
    return np.unique(kind, return_index=True)[1], np.array(kind)


def finite(policy: Policy) -> np.ndarray:
    """Whether every parameter of a policy is finite, bool `[cells]`."""
    leaves = jax.tree.leaves(policy.params)
    return np.all([np.isfinite(x).reshape(len(x), x[0].size).all(1) for x in leaves], axis=0)


def blocks(count: int, block: int) -> Iterator[tuple[np.ndarray, int]]:
    """Indices of `count` items in chunks of exactly `block`, with their true sizes.

    The last item is repeated as padding, so that a larger grid never compiles another program.
    """
    for start in range(0, count, block):
        yield np.minimum(np.arange(start, start + block), count - 1), min(block, count - start)


# --- chunks ---------------------------------------------------------------------------------------


def train_chunk(block: int, family: str, part: str = "agents") -> What:
    """Returns the key of a block's agents of one family of regimes; part="state" is that of
    unfinished ones.
    """
    return {"stage": "train", "block": block, "family": family, "part": part}


def attack_chunk(block: int, case: Case) -> What:
    """Returns the key of the chunk of one attack."""
    return {"stage": "attack", "block": block, **case._asdict()}


def radius_chunk(stage: str, block: int, eps: float) -> What:
    """Returns the key of the chunk of one radius of a stage."""
    return {"stage": stage, "block": block, "eps": eps}


def account_chunk(block: int) -> What:
    """Returns the key of the chunk of the accounted masks."""
    return {"stage": "account", "block": block}


def by_radius(
    population: Population,
    radii: Iterable[float],
    work: Work,
    stage: str,
    table: str,
    kinds: int,
    compute: Callable[[float], Arrays],
) -> Arrays:
    """The table of a stage that looks at one radius after the other, in a chunk for each.

    Args:
        population: of one block.
        radii: in the order of the table; one that is there twice is looked at once.
        work: what was finished before.
        stage: its name.
        table: the name of its table.
        kinds: how often the stage looks at every cell.
        compute: eps -> the rows, below the name of their table.
    """
    radii, units = dict.fromkeys(radii), kinds * len(population.rows)
    work.progress.stage(stage, len(radii) * units)
    tables = []
    for eps in radii:
        what = radius_chunk(stage, population.block, eps)
        tables.append(part(table, work.piece(partial(compute, eps), units, table, **what)))
    return joined(tables)
