"""The stages of an experiment, in order: train, prune, attack, certify. Data goes one way.

Every stage works on whole populations. Its loops run over chunks of one shape, so that a larger
grid repeats a program and never compiles another one. `prepare_*` starts compiling at once and
returns the function that runs the stage, so that programs compile side by side.
"""

import itertools
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.accounts import account_population
from benchmarks.arms import (
    AFTER,
    RESCALED,
    Arm,
    allocations,
    arms,
    posthoc_methods,
    regimes,
)
from benchmarks.attacking import prepare_attacks
from benchmarks.cells import PRUNE, Columns, Population, Progress, Row, key_for
from benchmarks.certification import certify_population
from benchmarks.diagnosing import diagnose_population
from benchmarks.experiment import Experiment
from benchmarks.labels import DENSE, PARTS, Labels
from benchmarks.programs import Programs
from benchmarks.training import Agents, prepare_training, stacked, training_table
from jaxprune.collection import collect_batch
from jaxprune.envs import Environment
from jaxprune.population import take
from jaxprune.ppo import initial_policy
from jaxprune.pruning import find_method, prune, sparsity_of
from jaxprune.pruning.cells import Cell
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
        for method in posthoc_methods(experiment):
            for allocation in allocations(experiment, method):
                masks = masks_after(experiment, env, dense_policy, method, allocation)
                nested = find_method(method).nested
                for (seed, agent), (i, level) in itertools.product(
                    enumerate(index), enumerate(grid)
                ):
                    arm = Arm(seed, regime, method, allocation, AFTER, level)
                    add(arm, agent, take(masks, (seed, i)), nested)
        if RESCALED in experiment.controls:
            masks = masks_after(experiment, env, dense_policy, "magnitude", "global")
            for (seed, agent), (i, level) in itertools.product(enumerate(index), enumerate(grid)):
                policy = take(agents.policy, agent)
                scaled = rescaled(policy, take(masks, (seed, i)), prunable)
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
    key, batch = key_for(experiment, PRUNE), None
    if find_method(method).needs_data:
        key_data = key_for(experiment, PRUNE, 1)
        batch = collect_batch(
            env, policy, key=key_data, eps=experiment.eps[0], hyper=experiment.ppo.hyper
        )
    grid, scope = experiment.sparsity_grid, experiment.ppo.scope
    return jax.device_get(prune(policy, method, grid, allocation, key, batch, scope))


def policy_count(experiment: Experiment) -> int:
    """Policies that `make_population` will hold."""
    dense_count = sum(arm.mode == DENSE for arm in arms(experiment))
    scaled = dense_count * len(experiment.sparsity_grid) * (RESCALED in experiment.controls)
    return len(arms(experiment)) + scaled


def cell_count(experiment: Experiment) -> int:
    """Cells that `make_population` will make."""
    dense_count = sum(arm.mode == DENSE for arm in arms(experiment))
    curves = sum(len(allocations(experiment, name)) for name in posthoc_methods(experiment))
    return policy_count(experiment) + dense_count * curves * len(experiment.sparsity_grid)


# --- shared ---------------------------------------------------------------------------------------


def run(
    experiment: Experiment, env: Environment, loaded: Policy | None, progress: Progress
) -> "Results":
    """All stages.

    Args:
        experiment: checked and resolved.
        env: the task.
        loaded: the policy of `--policy`.
        progress: told how far it is.
    """
    programs = Programs()
    train = prepare_training(experiment, env, programs, loaded)
    shapes = policy_shapes(experiment, env, loaded)
    attack = prepare_attacks(experiment, env, programs, shapes, cell_count(experiment))
    agents = train(progress)
    population = make_population(experiment, env, agents)
    attacked = attack(population, progress)
    visits = attacked.visits
    tables = {
        "training": training_table(experiment, env, agents),
        "returns": attacked.returns,
        "attacks": attacked.attacks,
        "certificates": certify_population(experiment, env.spec, population, visits, progress),
        "diagnosis": diagnose_population(experiment, env.spec, population, visits, progress),
        "sparsity": account_population(experiment, env.spec, population),
    }
    return Results(population, tables, programs.facts())


class Results(NamedTuple):
    """What the stages leave behind."""

    population: Population
    tables: dict[str, Columns]  # by name; empty where nothing was trained
    facts: dict[str, Any]  # about the compiled programs

    def masks(self) -> dict[str, Masks]:
        """Masks by the label of their curve, `[cells]`, in the order of the tables."""
        rows = self.population.rows
        labels = Labels({name: [getattr(row, name) for row in rows] for name in PARTS})
        names = np.array([labels.of(*(getattr(row, name) for name in PARTS)) for row in rows])
        masks = self.population.cells.masks
        return {
            str(name).replace("/", "-"): take(masks, np.flatnonzero(names == name))
            for name in dict.fromkeys(names)
        }


def policy_shapes(experiment: Experiment, env: Environment, loaded: Policy | None) -> Any:
    """Shapes of the population's policies, `[policies]`."""
    one = loaded
    if one is None:
        one = jax.eval_shape(partial(initial_policy, experiment.ppo, env.spec), jax.random.key(0))
    count = policy_count(experiment)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype), one)
