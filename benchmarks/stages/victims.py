"""What adversaries are prepared against: the cells, other policies, other adversaries."""

from zlib import crc32

import jax
import numpy as np

from benchmarks.experiment.design import PREPARE, Case, key_for
from benchmarks.stages.base import Population, Row
from jaxprune.attacks import ATTACKS, Attack, Victims
from jaxprune.attacks.members import prepared
from jaxprune.devices import take
from jaxprune.envs import Environment
from jaxprune.evaluation.episodes import VICTIMS
from jaxprune.policy_io.labels import DENSE
from jaxprune.pruning import masked_on_host
from jaxprune.types import Policy, PyTree


def victims_of(
    env: Environment, population: Population, case: Case, seed: int, lanes: int | None
) -> Victims:
    """Returns the cells as an attack prepares itself against them.

    Args:
        env: the task.
        population: the cells.
        case: of the attack.
        seed: of the experiment.
        lanes: environments per device in one call.
    """
    key = jax.random.fold_in(key_for(seed, PREPARE), crc32(case.attack.encode()))
    source = sources(population) if "source" in ATTACKS[case.attack].needs else None
    return Victims(
        env,
        population.policy,
        population.cells,
        case.eps,
        key,
        VICTIMS[case.victim],
        source,
        lanes,
    )


def sources(population: Population) -> Policy:
    """Whose attack is transferred to each cell: `[cells]`, masked.

    That of the unpruned agent of the same regime and seed; to an unpruned agent, that of the pruned
    one in the middle of the first curve.
    """
    rows = population.rows
    unpruned = {(r.regime, r.seed): i for i, r in enumerate(rows) if r.mode == DENSE}

    def source_of(i: int) -> int:
        row = rows[i]
        if row.mode != DENSE:
            return unpruned[row.regime, row.seed]
        mine = [j for j, r in enumerate(rows) if (r.regime, r.seed) == (row.regime, row.seed)]
        pruned = [j for j in mine if rows[j].mode != DENSE]
        curve = [j for j in pruned if rows[j][2:5] == rows[pruned[0]][2:5]]
        return sorted(curve, key=lambda j: rows[j].sparsity)[len(curve) // 2] if curve else i

    cells = take(population.cells, np.array([source_of(i) for i in range(len(rows))]))
    return masked_on_host(take(population.policy, cells.agent), cells.masks)


def warmed(attack: Attack, victims: Victims, rows: list[Row]) -> PyTree:
    """What `prepared` returns, each sparsity trained from the next lower one of its curve.

    Level by level: the unpruned agents from nothing, then all lowest sparsities from these, ...
    """
    start: PyTree = None
    levels = sorted({(row.mode != DENSE, row.sparsity) for row in rows})
    for pruned, sparsity in levels:
        level = [
            i for i, r in enumerate(rows) if (r.mode != DENSE, r.sparsity) == (pruned, sparsity)
        ]
        of_level = victims._replace(cells=take(victims.cells, np.array(level)))
        if pruned:
            before = np.array([_below(rows, i) for i in level])
            of_level = of_level._replace(start=take(start, before))
        found = prepared(attack, of_level)
        if start is None:
            start = jax.tree.map(lambda x: np.zeros((len(rows), *x.shape[1:]), x.dtype), found)
        for whole, part in zip(jax.tree.leaves(start), jax.tree.leaves(found), strict=True):
            whole[np.array(level)] = part
    return start


def _below(rows: list[Row], i: int) -> int:
    """The cell of the next lower sparsity of the same curve; below the first the unpruned agent."""
    row = rows[i]
    curve = [j for j, r in enumerate(rows) if r[:5] == row[:5] and r.sparsity < row.sparsity]
    if curve:
        return max(curve, key=lambda j: rows[j].sparsity)
    same = (row.regime, row.seed, DENSE)
    return next(j for j, r in enumerate(rows) if (r.regime, r.seed, r.mode) == same)
