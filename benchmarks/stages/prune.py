"""The prune stage: the cells of a block, one masked policy each."""

import itertools

import jax
import numpy as np

from benchmarks.experiment.config import Experiment
from benchmarks.experiment.design import (
    AFTER,
    PRUNE,
    PRUNE_DATA,
    RESCALED,
    Arm,
    Row,
    allocations,
    key_for,
    posthoc_methods,
    regimes,
)
from benchmarks.experiment.labels import DENSE
from benchmarks.stages.base import Population
from benchmarks.stages.train import Agents, stacked
from jaxprune.cells import Cell
from jaxprune.devices import take
from jaxprune.envs import Environment
from jaxprune.evaluation import collect_batch
from jaxprune.pruning import find_method, prune, sparsity_of
from jaxprune.pruning.controls import rescaled
from jaxprune.types import Masks, Policy

# --- prune ----------------------------------------------------------------------------------------


def make_population(experiment: Experiment, env: Environment, agents: Agents) -> Population:
    """The cells: every arm of training, then the dense agents under every method and sparsity."""
    grid, scope = experiment.sparsity_grid, experiment.ppo.scope
    prunable = scope.prunable(agents.policy.params)
    rows: list[Row] = []
    cells: list[Cell] = []
    extra: list[Policy] = []  # policies that no training made

    def add(arm: Arm, agent: int, masks: Masks, nested: bool) -> None:
        achieved = float(sparsity_of(masks, prunable))
        rows.append(Row(*arm, achieved, nested))
        cells.append(Cell(np.int32(agent), masks))

    for agent, arm in enumerate(agents.arms):
        add(arm, agent, take(agents.masks, agent), arm.mode == DENSE)

    for regime in regimes(experiment):
        index = [i for i, a in enumerate(agents.arms) if a.regime == regime and a.mode == DENSE]
        dense_policy = take(agents.policy, np.array(index))
        unpruned = [(agents.arms[i].seed, row, i) for row, i in enumerate(index)]
        for method in posthoc_methods(experiment):
            for allocation in allocations(experiment, method):
                masks = masks_after(experiment, env, dense_policy, method, allocation)
                nested = find_method(method).nested
                for (seed, row, agent), (i, level) in itertools.product(unpruned, enumerate(grid)):
                    arm = Arm(seed, regime, method, allocation, AFTER, level)
                    add(arm, agent, take(masks, (row, i)), nested)
        if RESCALED in experiment.controls:
            masks = masks_after(experiment, env, dense_policy, "magnitude", "global")
            for (seed, row, agent), (i, level) in itertools.product(unpruned, enumerate(grid)):
                policy = take(agents.policy, agent)
                scaled = rescaled(policy, take(masks, (row, i)), prunable)
                arm = Arm(seed, regime, RESCALED, "none", AFTER, level)
                add(arm, len(agents.arms) + len(extra), take(agents.masks, agent), False)
                extra.append(jax.tree.map(np.asarray, scaled))

    # In the order in which they were asked for, the unpruned agents first.
    order = ["none", *experiment.methods, *experiment.controls]
    place = sorted(range(len(rows)), key=lambda i: order.index(rows[i].method))
    rows, cells = [rows[i] for i in place], [cells[i] for i in place]
    policy = agents.policy
    if extra:
        policy = jax.tree.map(lambda x, *more: np.concatenate([x, *more]), policy, stacked(extra))
    return Population(policy, rows, stacked(cells))


def masks_after(
    experiment: Experiment, env: Environment, policy: Policy, method: str, allocation: str
) -> Masks:
    """Masks `[seeds, S]` of trained policies `[seeds]`, on the host."""
    key, batch = key_for(experiment, PRUNE, experiment.first_seed), None
    if find_method(method).needs_data:
        key_data = key_for(experiment, PRUNE_DATA, experiment.first_seed)
        batch = collect_batch(
            env, policy, key=key_data, eps=experiment.eps[0], hyper=experiment.ppo.hyper
        )
    grid, scope = experiment.sparsity_grid, experiment.ppo.scope
    return jax.device_get(prune(policy, method, grid, allocation, key, batch, scope))
