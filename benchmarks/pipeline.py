"""The stages of an experiment, in order: train, prune, attack, certify. Data goes one way.

Every stage works on the whole population of a block of seeds, and its loops run over calls of one
shape, so that a larger grid repeats a program and never compiles another one. Large programs start
to compile at once, side by side. What a stage has finished is kept in chunks.
"""

import itertools
from collections.abc import Sequence
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
    trainings,
)
from benchmarks.attacking import Battery, Seconds, attack_plan
from benchmarks.cells import PRUNE, PRUNE_DATA, Case, Columns, Population, Row, described, key_for
from benchmarks.certification import certify_population
from benchmarks.diagnosing import diagnose_population
from benchmarks.experiment import Experiment
from benchmarks.labels import DENSE, PARTS, Labels
from benchmarks.programs import Programs
from benchmarks.sharding import ALONE, Shard, block_of, blocks_of
from benchmarks.training import Agents, is_trained, prepare_training, stacked
from benchmarks.trees import joined
from benchmarks.work import Work
from jaxprune.collection import collect_batch
from jaxprune.envs import Environment, EnvSpec
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


def chunk_count(experiment: Experiment, blocks: int) -> int:
    """Chunks that so many blocks leave: of training, every attack, and three other stages."""
    trained, radii = bool(trainings(experiment)), len(set(experiment.eps))
    return blocks * (trained + len(attack_plan(experiment)) + 2 * radii + 1)


# --- all stages -----------------------------------------------------------------------------------


class Results(NamedTuple):
    """What the stages leave behind."""

    tables: dict[str, Columns]  # by name; empty where nothing was trained
    policy: Policy  # [policies]
    masks: dict[str, Masks]  # by the name of their curve, [cells of the curve]
    facts: dict[str, Any]  # about the compiled programs


def run(
    experiment: Experiment,
    env: Environment,
    loaded: Policy | None,
    work: Work,
    shard: Shard = ALONE,
) -> Results:
    """All stages on the blocks of one shard, one block after the other.

    Args:
        experiment: checked and resolved.
        env: the task.
        loaded: the policy of `--policy`.
        work: what was finished before, and who is told.
        shard: which blocks.
    """
    blocks = [block_of(experiment, index) for index in blocks_of(experiment, shard)]
    first = blocks[0]
    untrained = not all(is_trained(block, work.chunks) for block in blocks)
    battery = Battery(first, env, policy_shapes(first, env, loaded), cell_count(first))
    left = dict.fromkeys(case for block in blocks for case in battery.left(block, work.chunks))
    with Programs() as programs:
        train = prepare_training(first, env, programs, loaded, needed=untrained)
        if left:
            battery.compile(programs, left)
        done = [run_block(block, env, train(block, work), battery, work) for block in blocks]
    return united(done)._replace(facts=programs.facts())


def run_block(
    block: Experiment, env: Environment, agents: Agents, battery: Battery, work: Work
) -> Results:
    """Prune, attack, certify, diagnose and account the agents of one block."""
    population = make_population(block, env, agents)
    attacked = battery.run(block, population, work)
    about = (block, env.spec, population)
    names = curve_names(population.rows)
    tables = {
        "training": agents.table,
        "returns": attacked.returns,
        "attacks": attacked.attacks,
        "seconds": attacked.seconds,
        "certificates": certify_population(*about, attacked.visits, work),
        "diagnosis": diagnose_population(*about, attacked.visits, work),
        "sparsity": account_population(*about, work),
        "cells": cell_table(env.spec, population, names),
    }
    masks = {
        name: take(population.cells.masks, np.flatnonzero(names == name))
        for name in dict.fromkeys(names.tolist())
    }
    return Results(tables, population.policy, masks, {})


def curve_names(rows: Sequence[Row]) -> np.ndarray:
    """The curve that every cell is of, as a name without slashes."""
    table = {name: [getattr(row, name) for row in rows] for name in PARTS}
    return np.array([str(name).replace("/", "-") for name in Labels(table).column(table)])


def cell_table(spec: EnvSpec, population: Population, names: np.ndarray) -> Columns:
    """Where the policy and the masks of every cell are among the saved ones."""
    return described(spec, population) | {
        "agent": np.asarray(population.cells.agent),
        "curve": names,
        "index": counted(names),
    }


def united(parts: Sequence[Results]) -> Results:
    """Blocks, one after the other."""
    tables = {name: joined([part.tables[name] for part in parts]) for name in parts[0].tables}
    sizes = [len(jax.tree.leaves(part.policy)[0]) for part in parts]
    cells = [part.tables["cells"] for part in parts]
    offset = np.repeat(np.cumsum([0, *sizes[:-1]]), [len(table["agent"]) for table in cells])
    tables["cells"]["agent"] = (tables["cells"]["agent"] + offset).astype(np.int32)
    tables["cells"]["index"] = counted(tables["cells"]["curve"])
    tables["seconds"] = summed(tables["seconds"])
    policy, masks = (
        jax.tree.map(lambda *x: np.concatenate(x), *trees)
        for trees in zip(*((part.policy, part.masks) for part in parts), strict=True)
    )
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


def policy_shapes(experiment: Experiment, env: Environment, loaded: Policy | None) -> Any:
    """Shapes of the population's policies, `[policies]`."""
    one = loaded
    if one is None:
        one = jax.eval_shape(partial(initial_policy, experiment.ppo, env.spec), jax.random.key(0))
    count = policy_count(experiment)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype), one)
