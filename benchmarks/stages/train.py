"""The train stage: all agents of an experiment as one population of one program."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.experiment.config import Experiment
from benchmarks.experiment.design import (
    FILE,
    NARROW,
    TRAIN,
    TRAINING_CALLS,
    TRAJECTORY,
    Arm,
    allocations,
    arms,
    hyper_of,
    key_for,
    learner_config,
    posthoc_methods,
    training_methods,
    trainings,
)
from benchmarks.experiment.labels import DENSE
from benchmarks.runtime.arrays import Arrays, packed, part, skeleton, under, unpacked
from benchmarks.runtime.checkpoints import Chunks, Work
from benchmarks.runtime.compilation import Programs
from benchmarks.stages.base import Columns
from jaxprune.devices import Mapped, lane_width, layout, take
from jaxprune.envs import Environment
from jaxprune.evaluation.episodes import check_evaluation
from jaxprune.losses import Hyper
from jaxprune.policy_io import PolicyFile, read_policy_file
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

# Training is not interrupted more often than this to keep its state.
KEEP_SECONDS = 30.0
# Observations that statistics of an unknown number are taken to be of.
LASTING = 1e8


class Agents(NamedTuple):
    """Trained (or loaded) agents, on the host."""

    arms: list[Arm]
    policy: Policy  # [arms]
    masks: Masks  # [arms], what training itself removed
    table: Arrays  # of training; empty without


class Start(NamedTuple):
    """Where the training of one agent begins."""

    key: Any
    hyper: Hyper
    first: Directive
    policy: Policy
    masks: Masks


def prepare_training(
    block: Experiment,
    env: Environment,
    programs: Programs,
    loaded: Policy | None,
    needed: bool = True,
) -> Callable[[Experiment, Work], Agents]:
    """Start compiling the learner; the result trains every arm of a block.

    Args:
        block: any block of the experiment, resolved; they differ in their seeds.
        env: the task.
        programs: compiles.
        loaded: the policy of `--policy`, from which training then starts.
        needed: whether anything is left to be trained.
    """
    if not trainings(block):
        assert loaded is not None
        return lambda block, work: with_file(block, loaded, [], None, {})
    course = Course(block, env, loaded)
    if needed:
        course.compile(programs)
    return course.run


class Course:
    """The training of blocks: one program, called a number of times on each.

    Where a call ends the state may be kept in a chunk, from which a killed run goes on.
    """

    def __init__(self, block: Experiment, env: Environment, loaded: Policy | None):
        self.first, self.env, self.loaded = block, env, loaded
        self.config, todo = learner_config(block), trainings(block)
        slots = len(block.sparsity_grid) if any(a.mode == TRAJECTORY for a in todo) else 0
        self.learner = make_learner(self.config, env, learner_methods(block), slots)
        width = lane_width(self.config.num_envs, len(todo), block.lanes)
        self.layout = layout(len(todo), width)
        self.calls = min(TRAINING_CALLS, self.config.iterations)

        def iterations(_, item: tuple[TrainState, Hyper, Directive]) -> tuple[TrainState, Metrics]:
            state, hyper, directives = item
            return jax.lax.scan(lambda s, d: self.learner.iterate(s, hyper, d), state, directives)

        self.init_all = Mapped(lambda _, start: self.learner.init(*start))
        self.train_all = Mapped(iterations)
        self.begin = cache(self._begin)

    def compile(self, programs: Programs) -> None:
        """Start compiling for the shapes that all blocks have."""
        start, orders_of_calls = self.begin(self.first)
        width = self.layout.width
        item = (self._state_like(start), start.hyper, orders_of_calls[0])
        self.init = programs.compile("init", self.init_all, (), start, width)
        self.train = programs.compile("train", self.train_all, (), item, width)

    def run(self, block: Experiment, work: Work) -> Agents:
        """The agents of a block."""
        todo = trainings(block)
        steps = self.config.iterations * self.config.batch * len(todo)
        work.progress.stage("train", steps)
        start, _ = self.begin(block)
        held = work.piece(partial(self._trained, block, work), steps, "training", **_chunk(block))
        work.chunks.drop(**_chunk(block, "state"))
        like = self._state_like(start)
        final = unpacked((like.policy, like.masks, like.snapshots), part("agents", held))
        return with_file(block, self.loaded, todo, final, part("training", held))

    def _trained(self, block: Experiment, work: Work) -> Arrays:
        """What the chunk of a block holds: its table, and (policies, masks, snapshots) `[todo]`."""
        start, orders_of_calls = self.begin(block)
        per_call = self.config.iterations // self.calls * self.config.batch * len(trainings(block))
        done, state, metrics = self._kept(block, work.chunks, start)
        work.progress.advance(done * per_call)
        kept = time.monotonic()
        for call in range(done, self.calls):
            item = (state, start.hyper, orders_of_calls[call])
            state, metric = self.train.result()((), item)
            metrics.append(jax.device_get(metric))
            work.progress.advance(per_call)
            if call + 1 < self.calls and time.monotonic() - kept >= KEEP_SECONDS:
                told = under("metrics", packed(_joined(metrics)))
                count = {"calls": np.array(call + 1)}
                held = under("state", packed(state)) | told | count
                work.chunks.put(held, **_chunk(block, "state"))
                kept = time.monotonic()
        final, joined = self.layout.collect(
            ((state.policy, state.masks, state.snapshots), _joined(metrics))
        )
        table = training_table(block, self.env, joined)
        return under("agents", packed(final)) | under("training", table)

    def _kept(
        self, block: Experiment, chunks: Chunks, start: "Start"
    ) -> tuple[int, TrainState, list[Metrics]]:
        """(calls that are done, state, their metrics): of the chunk of a killed run, or of none."""
        held = chunks.get(**_chunk(block, "state"))
        if held is None:
            return 0, self.init.result()((), start), []
        like = self._state_like(start)
        metrics = unpacked(skeleton(Metrics), part("metrics", held))
        return int(held["calls"]), unpacked(like, part("state", held)), [metrics]

    def _state_like(self, start: Start) -> TrainState:
        """The shapes of the state that training begins with."""
        return self.init_all.shapes((), start, self.layout.width)

    def _begin(self, block: Experiment) -> tuple["Start", list[Directive]]:
        """Where every training begins, and the directives of every call, `[padded]`."""
        todo = trainings(block)
        fresh = jax.jit(self.learner.fresh)
        first = cache(lambda seed: jax.device_get(fresh(key_for(block, TRAIN, seed))))
        base = None if self.loaded is None else settled(self.loaded)
        policies = [starting_policy(block, self.env, a, base or first(a.seed)) for a in todo]
        shapes = policies[0][0].params
        directives = stacked([orders(block, self.config, arm, shapes) for arm in todo])
        start = Start(
            jnp.stack([key_for(block, TRAIN, arm.seed) for arm in todo]),
            stacked([floats(hyper_of(block, self.env.spec, arm.regime)) for arm in todo]),
            jax.tree.map(lambda x: x[:, 0], directives),
            *(stacked(list(x)) for x in zip(*policies, strict=True)),
        )
        start, dealt = self.layout.deal((start, directives))
        split = partial(np.split, indices_or_sections=self.calls, axis=1)
        return start, [jax.tree.map(lambda x, i=i: split(x)[i], dealt) for i in range(self.calls)]


def _chunk(block: Experiment, part: str = "agents") -> dict[str, Any]:
    """What the chunk of a trained block is; its "state" is that of a block in training."""
    return {"stage": "train", "first_seed": block.first_seed, "part": part}


def is_trained(block: Experiment, chunks: Chunks) -> bool:
    """Whether the agents of a block are there already."""
    return not trainings(block) or chunks.get(**_chunk(block)) is not None


def _joined(metrics: list[Metrics]) -> Metrics:
    """One after the other along the iterations."""
    return jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), *metrics)


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
    table: Arrays,
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
    return Agents(arms(experiment), policy, masks, table)


def check_orders(experiment: Experiment, env: Environment, loaded: Policy | None) -> None:
    """Raises `InputError` for a sparsity that a method cannot reach with these layers."""
    config, policy = learner_config(experiment), loaded
    if policy is None:
        policy = jax.eval_shape(partial(initial_policy, config, env.spec), jax.random.key(0))
    for arm in trainings(replace(experiment, seeds=1)):  # the same for every seed
        orders(experiment, config, arm, policy.params)
    for name in posthoc_methods(experiment):
        for allocation in allocations(experiment, name):
            for level in experiment.sparsity_grid:
                make_target(find_method(name), policy.params, config.scope, allocation, level)


def training_table(block: Experiment, env: Environment, metrics: Metrics) -> Columns:
    """One line per trained agent and iteration, of `Metrics [todo, iterations]`."""
    columns, todo = metrics._asdict(), trainings(block)
    columns["sparsity_now"] = columns.pop("sparsity")
    count = columns["kl"].shape[1]
    iteration = np.arange(1, count + 1)
    return {
        **{name: np.ravel(values) for name, values in columns.items()},
        **{f: np.repeat([getattr(a, f) for a in todo], count) for f in Arm._fields},
        "iteration": np.tile(iteration, len(todo)),
        "env_steps": np.tile(iteration * block.ppo.batch, len(todo)),
        "env": np.repeat([env.spec.name], count * len(todo)),
        "backend": np.repeat([env.spec.backend], count * len(todo)),
    }


def read_file(experiment: Experiment, env: Environment) -> PolicyFile | None:
    """The policy of `--policy`, on the host; None if the experiment starts from nothing.

    Raises:
        InputError: the files hold no policy, or one that does not fit the task.
    """
    if experiment.policy is None:
        return None
    file = read_policy_file(
        experiment.policy, experiment.policy_stats, experiment.policy_activation
    )
    for eps in experiment.eps or (env.spec.eps,):
        check_evaluation(env, file.policy, eps)
    return file._replace(policy=jax.tree.map(np.asarray, file.policy))


def stacked(trees: list[Any]) -> Any:
    """Trees as one with a leading axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def floats(hyper: Hyper) -> Hyper:
    """The settings as float32 arrays `[]`."""
    return jax.tree.map(np.float32, hyper)
