"""The cells of an experiment: one agent with one mask each, and how the tables describe them."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.experiment import Experiment
from jaxprune.envs import EnvSpec
from jaxprune.pruning.cells import Cell
from jaxprune.types import Key, Policy

# What a random stream is for.
TRAIN, PRUNE, ATTACK, CERTIFY, PREPARE, CHOOSE, DIAGNOSE, PRUNE_DATA = range(8)

Columns = dict[str, Any]


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


class Case(NamedTuple):
    """How the cells are played: the columns that all episodes of a call have in common."""

    attack: str
    eps: float
    victim: str  # how the policies act


def key_for(experiment: Experiment, purpose: int, index: int = 0) -> Key:
    """The key of one item of one purpose: any slice of the population can be recomputed alone."""
    base = jax.random.fold_in(jax.random.key(experiment.seed), purpose)
    return jax.random.fold_in(base, index)


def described(spec: EnvSpec, population: Population) -> Columns:
    """The columns that say what a cell is, `[cells]` each."""
    rows = population.rows
    constant = {"env": spec.name, "backend": spec.backend}
    return {k: np.array([v] * len(rows)) for k, v in constant.items()} | {
        name: np.array([getattr(row, name) for row in rows]) for name in Row._fields
    }


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
