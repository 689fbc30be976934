"""The prune stage: the cells of a block, one masked policy each."""

from functools import cache

import jax
import numpy as np

from benchmarks.experiment.config import Experiment
from benchmarks.experiment.design import (
    AFTER,
    INT8,
    PRUNE,
    PRUNE_DATA,
    RESCALED,
    Agent,
    Block,
    PlannedCell,
    key_for,
)
from benchmarks.stages.base import Population, Row
from benchmarks.stages.train import Agents, stacked
from jaxprune.cells import Cell
from jaxprune.devices import take
from jaxprune.envs import Environment
from jaxprune.evaluation import collect_batch
from jaxprune.policy_io.labels import DENSE
from jaxprune.pruning import find_method, prune, sparsity_of
from jaxprune.pruning.controls import quantised, rescaled
from jaxprune.types import Masks, Policy

# The method and the allocation whose masks the copies of trained policies are made of.
MAGNITUDE = ("magnitude", "global")


def make_population(
    experiment: Experiment, block: Block, env: Environment, agents: Agents
) -> Population:
    """Returns the cells: every agent, then the dense ones under every method and sparsity."""
    prunable = experiment.ppo.scope.prunable(agents.policy.params)
    unpruned = {(a.regime, a.seed): i for i, a in enumerate(block.agents) if a.mode == DENSE}

    @cache
    def masks_of(regime: str, method: str, allocation: str) -> Masks:
        policy = take(agents.policy, np.array([i for at, i in unpruned.items() if at[0] == regime]))
        return _masks_after(experiment, block, env, policy, method, allocation)

    def masks_at(about: Agent, method: str, allocation: str) -> Masks:
        row = [seed for regime, seed in unpruned if regime == about.regime].index(about.seed)
        level = experiment.sparsity_grid.index(about.sparsity)
        return take(masks_of(about.regime, method, allocation), (row, level))

    def masks_for(cell: PlannedCell) -> Masks:
        about = cell.about
        if about.mode != AFTER:
            return take(agents.masks, cell.agent)
        if about.method == RESCALED:  # nothing is removed
            return take(agents.masks, unpruned[about.regime, about.seed])
        if about.method == INT8:
            return masks_at(about, *MAGNITUDE)
        return masks_at(about, about.method, about.allocation)

    def copy_of(about: Agent) -> Policy:
        policy = take(agents.policy, unpruned[about.regime, about.seed])
        masks = masks_at(about, *MAGNITUDE)
        if about.method == INT8:
            return quantised(policy, masks)
        return rescaled(policy, masks, prunable)

    masks = [masks_for(cell) for cell in block.cells]
    achieved = [float(sparsity_of(kept, prunable)) for kept in masks]
    rows = [Row(*c.about, x, c.nested) for c, x in zip(block.cells, achieved, strict=True)]
    policy, copies = agents.policy, list(map(copy_of, block.policies[len(block.agents) :]))
    if copies:
        policy = jax.tree.map(lambda x, *more: np.concatenate([x, more]), policy, *copies)
    index = np.array([cell.agent for cell in block.cells], np.int32)
    return Population(policy, rows, Cell(index, stacked(masks)), block.id)


def _masks_after(
    experiment: Experiment,
    block: Block,
    env: Environment,
    policy: Policy,
    method: str,
    allocation: str,
) -> Masks:
    """Returns masks `[seeds, S]` of trained policies `[seeds]`, on the host."""
    seed, first = experiment.seed, block.seeds.start
    grid, config, batch = experiment.sparsity_grid, experiment.ppo, None
    if find_method(method).needs_data:
        key = key_for(seed, PRUNE_DATA, first)
        batch = collect_batch(env, policy, key=key, eps=experiment.eps[0], hyper=config.hyper)
    key = key_for(seed, PRUNE, first)
    return jax.device_get(prune(policy, method, grid, allocation, key, batch, config.scope))
