"""The stages of an experiment, in order: train, prune, attack, certify. Data goes one way.

Every stage works on whole populations. Its loops run over chunks of one shape, so that a larger
grid repeats a program and never compiles another one. `prepare_*` starts compiling at once and
returns the function that runs the stage, so that programs compile side by side.
"""

import itertools
from collections.abc import Callable
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
from benchmarks.cells import (
    ATTACK,
    PRUNE,
    Columns,
    Population,
    Progress,
    Row,
    blocks,
    described,
    key_for,
)
from benchmarks.certification import certify_population
from benchmarks.experiment import Experiment
from benchmarks.labels import DENSE, PARTS, Labels
from benchmarks.programs import Programs
from benchmarks.training import Agents, prepare_training, stacked, training_table
from benchmarks.visits import Visits, collect, visit_times
from jaxprune.collection import collect_batch
from jaxprune.envs import Environment
from jaxprune.evaluation import (
    VICTIMS,
    Shared,
    cell_program,
    episode_columns,
    episode_keys,
)
from jaxprune.population import lane_width, layout, take
from jaxprune.ppo import initial_policy
from jaxprune.pruning import dense, find_method, prune, sparsity_of
from jaxprune.pruning.cells import Cell
from jaxprune.pruning.controls import rescaled
from jaxprune.rollout import Play
from jaxprune.types import Masks, Policy

# Chunks of cells that a device walks through in one call of the evaluation.
CHUNKS_PER_CALL = 4


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


# --- attack ---------------------------------------------------------------------------------------


def attack_plan(experiment: Experiment) -> list[tuple[str, float]]:
    """(attack, eps) in the order of the table; the clean run has eps 0."""
    names = dict.fromkeys(["none", *experiment.attacks])
    return [
        (name, eps)
        for name in names
        for eps in ([0.0] if name == "none" else dict.fromkeys(experiment.eps))
    ]


def prepare_attacks(
    experiment: Experiment, env: Environment, programs: Programs, policy: Any
) -> Callable[[Population, Progress], tuple[Columns, Visits]]:
    """Start compiling the episodes; the result attacks every cell.

    It returns the table of the episodes and the states that the unattacked ones visited.

    Args:
        experiment: resolved.
        env: the task.
        programs: compiles.
        policy: the agents' policies or their shapes, `[agents]`.
    """
    plan = attack_plan(experiment)
    names = tuple(dict.fromkeys(name for name, _ in plan))
    width = lane_width(experiment.episodes, cell_count(experiment), experiment.lanes)
    block = width * len(jax.devices()) * CHUNKS_PER_CALL
    order, place = layout(block, width)
    keys = episode_keys(key_for(experiment, ATTACK), experiment.episodes)

    run_cells = cell_program(env, names, experiment.mad, width)
    play = Play(
        np.bool_(VICTIMS[experiment.victim]),
        gamma=np.float32(experiment.ppo.hyper.gamma),
        times=visit_times(experiment, env.spec),
    )
    shared = Shared(policy, np.int32(0), np.float32(0), keys, play)
    one_mask = jax.eval_shape(lambda p: dense(take(p.params, 0)), policy)
    masks = jax.tree.map(lambda m: jax.ShapeDtypeStruct((block, *m.shape), bool), one_mask)
    agent = jax.ShapeDtypeStruct((block,), np.int32)
    compiled = programs.compile("evaluate", run_cells, shared, Cell(agent, masks))

    def episodes_of(population: Population, name: str, eps: float, progress: Progress) -> Any:
        """One (attack, eps): `Episode [cells, episodes]`."""
        index = np.int32(names.index(name))
        shared = Shared(population.policy, index, np.float32(eps), keys, play)
        parts = []
        for index, size in blocks(len(population.rows), block):
            cells = take(population.cells, index[order])
            episodes = jax.device_get(compiled.result()(shared, cells))
            parts.append(take(episodes, place[:size]))
            progress.advance(size)
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)

    def run(population: Population, progress: Progress) -> tuple[Columns, Visits]:
        progress.stage("attack", len(plan) * len(population.rows))
        # A chunk takes as long as its longest episode, so cells of like length go together: by
        # sparsity at first, then by how long they lasted without an adversary, longest first.
        ranking = np.argsort([row.sparsity for row in population.rows], kind="stable")
        results = []
        for name, eps in plan:
            sorted_ = population._replace(cells=take(population.cells, ranking))
            episodes = episodes_of(sorted_, name, eps, progress)
            results.append(take(episodes, np.argsort(ranking)))
            if name == "none":
                ranking = np.argsort(-results[0].length.mean(-1), kind="stable")
        visits = collect(experiment, env.spec, results[0])
        flat = [{k: np.ravel(v) for k, v in episode_columns(r).items()} for r in results]
        joined = {name: np.concatenate([r[name] for r in flat]) for name in flat[0]}
        return _returns_table(experiment, env, population, plan, joined), visits

    return run


def _returns_table(
    experiment: Experiment, env: Environment, population: Population, plan: Any, episodes: Columns
) -> Columns:
    """One line per (attack, eps), cell and episode; `episodes` is flat and in that order."""
    cells, count = len(population.rows), experiment.episodes
    facts = described(env.spec, population)
    return {
        **{k: np.tile(np.repeat(v, count), len(plan)) for k, v in facts.items()},
        "victim": np.repeat([experiment.victim], len(plan) * cells * count),
        "attack": np.repeat([name for name, _ in plan], cells * count),
        "eps": np.repeat([eps for _, eps in plan], cells * count),
        "episode": np.tile(np.arange(count), len(plan) * cells),
        **episodes,
    }


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
    attack = prepare_attacks(experiment, env, programs, policy_shapes(experiment, env, loaded))
    agents = train(progress)
    population = make_population(experiment, env, agents)
    returns, visits = attack(population, progress)
    certificates = certify_population(experiment, env.spec, population, visits, progress)
    training = training_table(experiment, env, agents)
    sparsity = account_population(experiment, env.spec, population)
    return Results(population, training, returns, certificates, sparsity, programs.facts())


class Results(NamedTuple):
    """What the stages leave behind."""

    population: Population
    training: Columns
    returns: Columns
    certificates: Columns
    sparsity: Columns
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
