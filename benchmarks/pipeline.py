"""The stages of an experiment, in order: train, prune, attack, certify. Data goes one way.

Every stage works on whole populations. Its loops run over chunks of one shape, so that a larger
grid repeats a program and never compiles another one. `prepare_*` starts compiling at once and
returns the function that runs the stage, so that programs compile side by side.
"""

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.cells import (
    ATTACK,
    PRUNE,
    TRAIN,
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
from benchmarks.programs import Programs
from benchmarks.visits import Visits, collect, visit_times
from jaxprune.envs import Environment
from jaxprune.evaluation import (
    VICTIMS,
    Shared,
    cell_program,
    check_evaluation,
    episode_columns,
    episode_keys,
)
from jaxprune.policy_io import load_policy
from jaxprune.population import lane_width, layout, over_population, take
from jaxprune.ppo import Hyper, Metrics, PPOConfig, TrainState, initial_policy, make_learner
from jaxprune.pruning import METHODS, SCHEDULES, allocate, counts_per_iteration, dense, prune
from jaxprune.pruning.cells import Cell
from jaxprune.pruning.masks import prunable_sizes
from jaxprune.rollout import Play
from jaxprune.types import Array, Masks, Policy

# Calls that training is split into, between which the host shows progress.
TRAINING_CALLS = 20
# Chunks of cells that a device walks through in one call of the evaluation.
CHUNKS_PER_CALL = 4


class Arm(NamedTuple):
    """One agent to train."""

    seed: int
    method: str
    sparsity: float


class Agents(NamedTuple):
    """Trained (or loaded) agents."""

    arms: list[Arm]
    policy: Policy  # [agents], on the host
    masks: Masks  # [agents], what training itself removed
    metrics: Metrics | None  # [agents, iterations]; None without training


# --- train ----------------------------------------------------------------------------------------


def arms(experiment: Experiment) -> list[Arm]:
    """One dense agent per seed, then one per training-time method, sparsity and seed.

    Agents of one seed share their key, so pruned and dense ones start from the same weights.
    """
    seeds = range(experiment.seeds)
    dense_arms = [Arm(seed, "none", 0.0) for seed in seeds]
    trained = [name for name in experiment.methods if METHODS[name].schedule]
    grid = itertools.product(trained, seeds, experiment.sparsity_grid)
    return dense_arms + [Arm(seed, method, sparsity) for method, seed, sparsity in grid]


def rounded(config: PPOConfig) -> PPOConfig:
    """The learner with iterations rounded up to a multiple of the calls training is split into."""
    calls = min(TRAINING_CALLS, config.iterations)
    return replace(config, steps=-(-config.iterations // calls) * calls * config.batch)


def prepare_training(
    experiment: Experiment, env: Environment, programs: Programs
) -> Callable[[Progress], Agents]:
    """Start compiling the learner; the result trains every arm."""
    config, todo = rounded(experiment.ppo), arms(experiment)
    learner = make_learner(config, env)
    width = lane_width(config.num_envs, len(todo), experiment.lanes)
    order, place = layout(len(todo), width)
    calls = min(TRAINING_CALLS, config.iterations)

    def iterations(hyper: Hyper, item: tuple[TrainState, Array]) -> tuple[TrainState, Metrics]:
        state, counts = item
        return jax.lax.scan(lambda s, count: learner.iterate(s, hyper, count), state, counts)

    init_all = over_population(lambda _, key: learner.init(key), width=width)
    train_all = over_population(iterations, width=width)

    keys = jnp.stack([key_for(experiment, TRAIN, arm.seed) for arm in todo])[order]
    shapes = jax.eval_shape(init_all, (), keys)
    counts = prune_counts(experiment, config, todo, shapes.policy.params)[order]
    counts = np.split(counts, calls, axis=1)
    compiled_init = programs.compile("init", init_all, (), keys)
    compiled_train = programs.compile("train", train_all, config.hyper, (shapes, counts[0]))

    def run(progress: Progress) -> Agents:
        progress.stage("train", config.iterations * config.batch * len(todo))
        state, metrics = compiled_init.result()((), keys), []
        for count in counts:
            state, metric = compiled_train.result()(config.hyper, (state, count))
            metrics.append(jax.device_get(metric))
            progress.advance(count.shape[1] * config.batch * len(todo))
        policy, masks = take(jax.device_get((state.policy, state.masks)), place)
        joined = jax.tree.map(lambda *parts: np.concatenate(parts, axis=1)[place], *metrics)
        return Agents(todo, policy, masks, joined)

    return run


def training_table(experiment: Experiment, env: Environment, agents: Agents) -> Columns:
    """One line per agent and iteration; empty where nothing was trained."""
    if agents.metrics is None:
        return {}
    metrics = agents.metrics._asdict()
    metrics["sparsity_now"] = metrics.pop("sparsity")
    count = metrics["kl"].shape[1]
    iteration = np.arange(1, count + 1)
    return {
        **{name: np.ravel(values) for name, values in metrics.items()},
        **{f: np.repeat([getattr(a, f) for a in agents.arms], count) for f in Arm._fields},
        "iteration": np.tile(iteration, len(agents.arms)),
        "env_steps": np.tile(iteration * experiment.ppo.batch, len(agents.arms)),
        "env": np.repeat([env.spec.name], count * len(agents.arms)),
        "backend": np.repeat([env.spec.backend], count * len(agents.arms)),
    }


def prune_counts(
    experiment: Experiment, config: PPOConfig, todo: list[Arm], params: Any
) -> np.ndarray:
    """What every agent has lost when an iteration starts, int32 `[agents, iterations, groups]`."""

    def of_arm(arm: Arm) -> np.ndarray:
        schedule = METHODS[arm.method].schedule or "one_shot"
        (allocation,) = allocate(params, config.allocation, [arm.sparsity])
        return counts_per_iteration(
            SCHEDULES[schedule], allocation, config.iterations, experiment.prune_window
        )

    return np.stack([of_arm(arm) for arm in todo])


def load_agents(experiment: Experiment, env: Environment) -> Agents | None:
    """The policy of `--policy` as a population of one; None if the experiment trains its own.

    Raises:
        InputError: the files hold no policy, or one that does not fit the task.
    """
    if experiment.policy is None:
        return None
    loaded = load_policy(experiment.policy, experiment.policy_stats)
    policy = jax.tree.map(lambda x: np.asarray(x)[None], loaded)
    for eps in experiment.eps:
        check_evaluation(env, policy, eps, experiment.episodes)
    return Agents([Arm(0, "none", 0.0)], policy, jax.device_get(dense(policy.params)), None)


# --- prune ----------------------------------------------------------------------------------------


def make_population(experiment: Experiment, agents: Agents) -> Population:
    """The cells: every dense agent unpruned, then every method at every sparsity."""
    grid, allocation = experiment.sparsity_grid, experiment.ppo.allocation
    seeds = [i for i, arm in enumerate(agents.arms) if arm.method == "none"]
    dense_policy = take(agents.policy, np.array(seeds))
    weights = sum(prunable_sizes(take(agents.policy.params, 0)).values())
    rows, index, masks = [], [], []

    def add(method: str, sparsity: float, seed: int, agent: int, mask: Masks) -> None:
        (plan,) = allocate(agents.policy.params, allocation, [sparsity])
        rows.append(Row(seed, method, sparsity, sum(plan.counts) / weights))
        index.append(agent)
        masks.append(mask)

    for method in dict.fromkeys(["none", *experiment.methods]):
        if METHODS[method].schedule is not None:
            for agent, arm in enumerate(agents.arms):
                if arm.method == method:
                    add(method, arm.sparsity, arm.seed, agent, take(agents.masks, agent))
            continue
        levels = (0.0,) if method == "none" else grid
        key = key_for(experiment, PRUNE)
        pruned = jax.device_get(prune(dense_policy, method, levels, allocation, key))
        for (seed, agent), (i, level) in itertools.product(enumerate(seeds), enumerate(levels)):
            add(method, level, seed, agent, take(pruned, (seed, i)))

    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *masks)
    return Population(agents.policy, rows, Cell(np.array(index, np.int32), stacked))


def cell_count(experiment: Experiment) -> int:
    """Cells that `make_population` will make."""
    pruned = sum(method != "none" for method in experiment.methods)
    return experiment.seeds * (1 + pruned * len(experiment.sparsity_grid))


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
    facts = described(experiment, env.spec, population)
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
    experiment: Experiment, env: Environment, loaded: Agents | None, progress: Progress
) -> "Results":
    """All stages; training is skipped for agents that were loaded.

    The experiment is checked and resolved.
    """
    programs = Programs()
    if loaded is None:
        train = prepare_training(experiment, env, programs)
        attack = prepare_attacks(experiment, env, programs, policy_shapes(experiment, env))
        agents = train(progress)
    else:
        attack = prepare_attacks(experiment, env, programs, loaded.policy)
        agents = loaded
    population = make_population(experiment, agents)
    returns, visits = attack(population, progress)
    certificates = certify_population(experiment, env.spec, population, visits, progress)
    training = training_table(experiment, env, agents)
    return Results(population, training, returns, certificates, programs.facts())


class Results(NamedTuple):
    """What the stages leave behind."""

    population: Population
    training: Columns
    returns: Columns
    certificates: Columns
    facts: dict[str, Any]  # about the compiled programs

    def masks(self) -> dict[str, Masks]:
        """Masks by method, `[cells of the method]`, in the order of the tables."""
        methods = np.array([row.method for row in self.population.rows])
        return {
            str(method): take(self.population.cells.masks, np.flatnonzero(methods == method))
            for method in dict.fromkeys(methods)
        }


def policy_shapes(experiment: Experiment, env: Environment) -> Any:
    """Shapes of the agents' policies, `[agents]`."""
    one = jax.eval_shape(partial(initial_policy, experiment.ppo, env.spec), jax.random.key(0))
    count = len(arms(experiment))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype), one)
