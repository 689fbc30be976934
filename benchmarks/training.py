"""The train stage: all agents of an experiment as one population of one program."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.arms import (
    FILE,
    NARROW,
    TRAINING_CALLS,
    TRAJECTORY,
    Arm,
    allocations,
    arms,
    hyper_of,
    learner_config,
    posthoc_methods,
    training_methods,
    trainings,
)
from benchmarks.cells import TRAIN, Columns, Progress, key_for
from benchmarks.experiment import Experiment
from benchmarks.labels import DENSE
from benchmarks.programs import Programs
from jaxprune.envs import Environment
from jaxprune.episodes import check_evaluation
from jaxprune.losses import Hyper
from jaxprune.policy_io import load_policy
from jaxprune.population import lane_width, layout, over_population, take
from jaxprune.ppo import Metrics, PPOConfig, TrainState, initial_policy, make_learner
from jaxprune.pruning import (
    METHODS,
    Directive,
    Method,
    Timing,
    dense,
    find_method,
    make_directives,
    make_target,
)
from jaxprune.pruning.controls import narrow_policy, narrow_width
from jaxprune.types import Masks, Params, Policy

# Observations that statistics of an unknown number are taken to be of.
LASTING = 1e8


class Agents(NamedTuple):
    """Trained (or loaded) agents, on the host."""

    arms: list[Arm]
    policy: Policy  # [arms]
    masks: Masks  # [arms], what training itself removed
    trained: list[Arm]
    metrics: Metrics | None  # [trained, iterations]; None without training


class Start(NamedTuple):
    """Where the training of one agent begins."""

    key: Any
    hyper: Hyper
    first: Directive
    policy: Policy
    masks: Masks


def prepare_training(
    experiment: Experiment, env: Environment, programs: Programs, loaded: Policy | None
) -> Callable[[Progress], Agents]:
    """Start compiling the learner; the result trains every arm.

    Args:
        experiment: resolved.
        env: the task.
        programs: compiles.
        loaded: the policy of `--policy`, from which training then starts.
    """
    todo = trainings(experiment)
    if not todo:
        assert loaded is not None
        return lambda progress: with_file(experiment, loaded, [], None, None)
    config = learner_config(experiment)
    slots = len(experiment.sparsity_grid) if any(a.mode == TRAJECTORY for a in todo) else 0
    learner = make_learner(config, env, learner_methods(experiment), slots)
    width = lane_width(config.num_envs, len(todo), experiment.lanes)
    order, place = layout(len(todo), width)
    calls = min(TRAINING_CALLS, config.iterations)

    def iterations(_, item: tuple[TrainState, Hyper, Directive]) -> tuple[TrainState, Metrics]:
        state, hyper, directives = item
        return jax.lax.scan(lambda s, d: learner.iterate(s, hyper, d), state, directives)

    init_all = over_population(lambda _, start: learner.init(*start), width=width)
    train_all = over_population(iterations, width=width)

    fresh = jax.jit(learner.fresh)
    first = cache(lambda seed: jax.device_get(fresh(key_for(experiment, TRAIN, seed))))
    base = None if loaded is None else settled(loaded)
    policies = [starting_policy(experiment, env, arm, base or first(arm.seed)) for arm in todo]
    shapes = policies[0][0].params
    directives = stacked([orders(experiment, config, arm, shapes) for arm in todo])
    start = Start(
        jnp.stack([key_for(experiment, TRAIN, arm.seed) for arm in todo])[order],
        *take(
            (
                stacked([floats(hyper_of(experiment, env.spec, arm.regime)) for arm in todo]),
                jax.tree.map(lambda x: x[:, 0], directives),
                *(stacked(list(x)) for x in zip(*policies, strict=True)),
            ),
            order,
        ),
    )
    chunks = [
        jax.tree.map(lambda x, i=i: np.split(x, calls, axis=1)[i], take(directives, order))
        for i in range(calls)
    ]
    compiled_init = programs.compile("init", init_all, (), start)
    item = (jax.eval_shape(init_all, (), start), start.hyper, chunks[0])
    compiled_train = programs.compile("train", train_all, (), item)

    def run(progress: Progress) -> Agents:
        progress.stage("train", config.iterations * config.batch * len(todo))
        state, metrics = compiled_init.result()((), start), []
        for chunk in chunks:
            state, metric = compiled_train.result()((), (state, start.hyper, chunk))
            metrics.append(jax.device_get(metric))
            progress.advance(config.iterations // calls * config.batch * len(todo))
        joined = jax.tree.map(lambda *parts: np.concatenate(parts, axis=1)[place], *metrics)
        final = take(jax.device_get((state.policy, state.masks, state.snapshots)), place)
        return with_file(experiment, loaded, todo, final, joined)

    return run


def settled(policy: Policy) -> Policy:
    """The policy with statistics that last: those of a file that does not say how many
    observations they are of would be replaced by the first rollout's, and the policy with them.
    """
    stats = policy.obs_stats
    count = np.where(stats.count > 0, stats.count, np.float32(LASTING))
    return replace(policy, obs_stats=stats._replace(count=count))


def learner_methods(experiment: Experiment) -> list[Method]:
    """What the learner can do: nothing, and every method that prunes in training."""
    return [METHODS["none"], *(find_method(name) for name in training_methods(experiment))]


def starting_policy(
    experiment: Experiment, env: Environment, arm: Arm, policy: Policy
) -> tuple[Policy, Masks]:
    """What an arm starts from; a narrow network in the shapes of the others, from its own weights.

    These are drawn as the learner draws them, so that at sparsity 0 they are the dense agent's.
    """
    if arm.method != NARROW:
        return policy, jax.tree.map(np.asarray, dense(policy.params))
    widths = narrow_width(policy.params, arm.sparsity)
    config = replace(experiment.ppo, hidden=widths)
    narrow = make_learner(config, env).fresh(key_for(experiment, TRAIN, arm.seed))
    return jax.device_get(narrow_policy(policy, narrow))


def orders(experiment: Experiment, config: PPOConfig, arm: Arm, params: Params) -> Directive:
    """The directives of one arm, `[iterations, ...]`."""
    names = ["none", *training_methods(experiment)]
    prunes = arm.mode != DENSE and arm.method != NARROW
    levels = experiment.sparsity_grid if arm.mode == TRAJECTORY else (arm.sparsity,)
    return make_directives(
        learner_methods(experiment),
        names.index(arm.method) if prunes else 0,
        params,
        config.scope,
        arm.allocation if prunes else "global",
        levels if prunes else (0.0,),
        Timing(config.iterations, experiment.prune_window, config.events),
    )


def with_file(
    experiment: Experiment,
    loaded: Policy | None,
    todo: list[Arm],
    final: tuple[Policy, Masks, Any] | None,
    metrics: Metrics | None,
) -> Agents:
    """Every arm of the experiment from what training left, and from the file."""

    def of_arm(arm: Arm) -> tuple[Policy, Masks]:
        if arm.regime == FILE:
            assert loaded is not None
            return loaded, jax.tree.map(np.asarray, dense(loaded.params))
        assert final is not None
        policy, masks, snapshots = final
        if arm in todo:  # the last of a trajectory too: a grid of one has no snapshots
            return take((policy, masks), todo.index(arm))
        slot = experiment.sparsity_grid.index(arm.sparsity)
        row = todo.index(arm._replace(sparsity=max(experiment.sparsity_grid)))
        return take((snapshots.policy, snapshots.masks), (row, slot))

    found = [of_arm(arm) for arm in arms(experiment)]
    policy, masks = (stacked(list(x)) for x in zip(*found, strict=True))
    return Agents(arms(experiment), policy, masks, todo, metrics)


def check_orders(experiment: Experiment, env: Environment, loaded: Policy | None) -> None:
    """Raises `InputError` for a sparsity that a method cannot reach with these layers."""
    config, policy = learner_config(experiment), loaded
    if policy is None:
        policy = jax.eval_shape(partial(initial_policy, config, env.spec), jax.random.key(0))
    for arm in trainings(experiment):
        orders(experiment, config, arm, policy.params)
    for name in posthoc_methods(experiment):
        for allocation in allocations(experiment, name):
            for level in experiment.sparsity_grid:
                make_target(find_method(name), policy.params, config.scope, allocation, level)


def training_table(experiment: Experiment, env: Environment, agents: Agents) -> Columns:
    """One line per trained agent and iteration; empty where nothing was trained."""
    if agents.metrics is None:
        return {}
    metrics = agents.metrics._asdict()
    metrics["sparsity_now"] = metrics.pop("sparsity")
    count = metrics["kl"].shape[1]
    iteration = np.arange(1, count + 1)
    return {
        **{name: np.ravel(values) for name, values in metrics.items()},
        **{f: np.repeat([getattr(a, f) for a in agents.trained], count) for f in Arm._fields},
        "iteration": np.tile(iteration, len(agents.trained)),
        "env_steps": np.tile(iteration * experiment.ppo.batch, len(agents.trained)),
        "env": np.repeat([env.spec.name], count * len(agents.trained)),
        "backend": np.repeat([env.spec.backend], count * len(agents.trained)),
    }


def load_file(experiment: Experiment, env: Environment) -> Policy | None:
    """The policy of `--policy`; None if the experiment starts from nothing.

    Raises:
        InputError: the files hold no policy, or one that does not fit the task.
    """
    if experiment.policy is None:
        return None
    policy = load_policy(experiment.policy, experiment.policy_stats)
    for eps in experiment.eps or (env.spec.eps,):
        check_evaluation(env, policy, eps, experiment.episodes)
    return jax.tree.map(np.asarray, policy)


def stacked(trees: list[Any]) -> Any:
    """Trees as one with a leading axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def floats(hyper: Hyper) -> Hyper:
    """The settings as float32 arrays `[]`."""
    return jax.tree.map(np.float32, hyper)
