"""The train stage: the agents of every family of regimes as one population of one program."""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import cache, lru_cache, partial
from typing import NamedTuple

import jax
import numpy as np

from benchmarks.experiment.design import (
    FILE,
    NARROW,
    TRAIN,
    TRAINING_CALLS,
    TRAJECTORY,
    Agent,
    Block,
    Design,
    hyper_of,
    key_for,
)
from benchmarks.runtime.arrays import Arrays, joined, packed, part, skeleton, under, unpacked
from benchmarks.runtime.checkpoints import Chunks, Work
from benchmarks.runtime.compilation import Program, Programs
from benchmarks.stages.base import Columns, train_chunk
from jaxprune.devices import Mapped, agreed, fetch, lane_width, layout, take
from jaxprune.envs import Environment, EnvSpec
from jaxprune.losses import Hyper
from jaxprune.policy_io.labels import DENSE
from jaxprune.ppo import Metrics, PPOConfig, TrainState, initial_policy, make_learner
from jaxprune.pruning import (
    Directive,
    Timing,
    dense,
    find_method,
    make_directives,
    make_target,
)
from jaxprune.pruning.controls import narrow_policy, narrow_width
from jaxprune.types import AnyArray, Key, Masks, Params, Policy, PyTree

# Training is not interrupted more often than this to keep its state.
KEEP_SECONDS = 30.0
# Observations that statistics of an unknown number are taken to be of.
LASTING = 1e8


class Agents(NamedTuple):
    """Trained (or loaded) agents, on the host."""

    policy: Policy  # [agents]
    masks: Masks  # [agents], what training itself removed
    table: Arrays  # of training; empty without


class Start(NamedTuple):
    """Where the training of one agent begins."""

    key: AnyArray  # the numbers of a key: indexing keys would be a program
    hyper: Hyper
    first: Directive
    policy: Policy
    masks: Masks


def prepare_training(
    design: Design,
    block: Block,
    env: Environment,
    programs: Programs,
    loaded: Policy | None,
    left: Collection[str] | None = None,
) -> Callable[[Block, Work], Agents]:
    """Start compiling the learners; the result trains every agent of a block.

    Args:
        design: of the experiment.
        block: any of its blocks; they differ in their seeds.
        env: the task.
        programs: compiles.
        loaded: the policy of `--policy`, from which training then starts.
        left: families of regimes of which agents are left to be trained; None: all.
    """
    if not block.trainings:
        grid = design.experiment.sparsity_grid
        return lambda block, work: with_file(block, grid, loaded, None, {})
    trainers = [Trainer(design, block, family, env, loaded, programs) for family in block.families]
    for trainer in trainers:
        if left is None or trainer.family in left:
            trainer.compile()
    return partial(train_block, design, trainers, loaded)


def train_block(
    design: Design, trainers: Sequence["Trainer"], loaded: Policy | None, block: Block, work: Work
) -> Agents:
    """The agents of a block, one family of regimes after the other."""
    per_agent = design.learner.iterations * design.learner.batch
    work.progress.stage("train", per_agent * len(block.trainings))
    finals, tables = zip(*(trainer.run(block, work) for trainer in trainers), strict=True)
    found = [agent for family in block.families.values() for agent in family]
    order = np.array([found.index(agent) for agent in block.trainings])
    final = take(jax.tree.map(lambda *x: np.concatenate(x), *finals), order)
    iterations = np.arange(design.learner.iterations)
    rows = (order[:, None] * len(iterations) + iterations).ravel()
    table = take(joined(list(tables)), rows)
    return with_file(block, design.experiment.sparsity_grid, loaded, final, table)


class Trainer:
    """The training of one family of regimes: one program, called a number of times on each block.

    Where a call ends the state may be kept in a chunk, from which a killed run goes on. What all
    blocks share is found from one of them, and programs are compiled when they are first asked for.
    """

    def __init__(
        self,
        design: Design,
        block: Block,
        family: str,
        env: Environment,
        loaded: Policy | None,
        programs: Programs,
    ):
        self.design, self.env, self.loaded, self.config = design, env, loaded, design.learner
        self.experiment, self.family, todo = design.experiment, family, block.families[family]
        grid, methods = self.experiment.sparsity_grid, list(design.training.values())
        slots = len(grid) if any(agent.mode == TRAJECTORY for agent in todo) else 0
        self.learner = make_learner(self.config, env, methods, slots, family)
        width = lane_width(self.config.num_envs, len(todo), self.experiment.lanes)
        self.layout = layout(len(todo), width)
        self.calls = min(TRAINING_CALLS, self.config.iterations)

        def iterations(_, item: tuple[TrainState, Hyper, Directive]) -> tuple[TrainState, Metrics]:
            state, hyper, directives = item
            return jax.lax.scan(lambda s, d: self.learner.iterate(s, hyper, d), state, directives)

        def begin(_, start: Start) -> TrainState:
            return self.learner.init(jax.random.wrap_key_data(start.key), *start[1:])

        self.init_all = Mapped(begin)
        self.train_all = Mapped(iterations)
        self.fresh = jax.jit(self.learner.fresh)
        self.begin = lru_cache(maxsize=1)(self._begin)
        self.state_like = cache(partial(self._state_like, block))
        self.compile = cache(partial(self._compile, programs, block))

    def _compile(self, programs: Programs, block: Block) -> tuple[Program, Program]:
        """Start compiling what begins and what trains."""
        (start, orders_of_calls), width = self.begin(block), self.layout.width
        names = dict(zip(block.families, block.programs, strict=True))
        first, then = names[self.family]
        item = (self.state_like(), start.hyper, orders_of_calls[0])
        return (
            programs.compile(first, self.init_all, (), start, width),
            programs.compile(then, self.train_all, (), item, width),
        )

    def run(self, block: Block, work: Work) -> tuple[PyTree, Arrays]:
        """The family's (policies, masks, snapshots) `[todo]` of a block, and its table."""
        steps = self.config.iterations * self.config.batch * len(block.families[self.family])
        compute, chunk = partial(self._trained, block, work), train_chunk(block.id, self.family)
        held = work.piece(compute, steps, "training", **chunk)
        work.chunks.drop(**train_chunk(block.id, self.family, "state"))
        like = self.state_like()
        final = unpacked((like.policy, like.masks, like.snapshots), part("agents", held))
        return final, part("training", held)

    def _trained(self, block: Block, work: Work) -> Arrays:
        """What the chunk of a block holds: its table, and (policies, masks, snapshots) `[todo]`."""
        (start, orders_of_calls), todo = self.begin(block), block.families[self.family]
        _, train = self.compile()
        per_call = self.config.iterations // self.calls * self.config.batch * len(todo)
        done, state, metrics = self._kept(block, work.chunks, start)
        work.progress.advance(done * per_call)
        kept = time.monotonic()
        for call in range(done, self.calls):
            item = (state, start.hyper, orders_of_calls[call])
            state, metric = train.result()((), item)
            metrics.append(fetch(metric))
            work.progress.advance(per_call)
            if call + 1 < self.calls and agreed(time.monotonic() - kept >= KEEP_SECONDS):
                told = under("metrics", packed(_joined(metrics)))
                count = {"calls": np.array(call + 1)}
                held = under("state", packed(fetch(state))) | told | count
                work.chunks.put(held, **train_chunk(block.id, self.family, "state"))
                kept = time.monotonic()
        final, joined = self.layout.collect(
            ((state.policy, state.masks, state.snapshots), _joined(metrics))
        )
        table = training_table(todo, self.config.batch, self.env.spec, joined)
        return under("agents", packed(final)) | under("training", table)

    def _kept(
        self, block: Block, chunks: Chunks, start: "Start"
    ) -> tuple[int, TrainState, list[Metrics]]:
        """(calls that are done, state, their metrics): of the chunk of a killed run, or of none."""
        held = chunks.get(**train_chunk(block.id, self.family, "state"))
        if held is None:
            init, _ = self.compile()
            return 0, init.result()((), start), []
        metrics = unpacked(skeleton(Metrics), part("metrics", held))
        return int(held["calls"]), unpacked(self.state_like(), part("state", held)), [metrics]

    def _state_like(self, block: Block) -> TrainState:
        """The shapes of the state that training begins with."""
        return self.init_all.shapes((), self.begin(block)[0], self.layout.width)

    def _begin(self, block: Block) -> tuple["Start", list[Directive]]:
        """Where every training begins, and the directives of every call, `[padded]`."""
        todo, ppo, eps = block.families[self.family], self.experiment.ppo, self.env.spec.eps
        keys = {a.seed: key_for(self.experiment.seed, TRAIN, a.seed) for a in todo}
        first = cache(lambda seed: jax.device_get(self.fresh(keys[seed])))
        base = None if self.loaded is None else settled(self.loaded)
        policies = [
            starting_policy(ppo, self.env, a, keys[a.seed], base or first(a.seed)) for a in todo
        ]
        shapes = policies[0][0].params
        directives = stacked([orders(self.design, agent, shapes) for agent in todo])
        start = Start(
            np.stack([jax.random.key_data(keys[agent.seed]) for agent in todo]),
            stacked([floats(hyper_of(ppo.hyper, agent.regime, eps)) for agent in todo]),
            jax.tree.map(lambda x: x[:, 0], directives),
            *(stacked(list(x)) for x in zip(*policies, strict=True)),
        )
        start, dealt = self.layout.deal((start, directives))
        split = partial(np.split, indices_or_sections=self.calls, axis=1)
        return start, [jax.tree.map(lambda x, i=i: split(x)[i], dealt) for i in range(self.calls)]


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


def starting_policy(
    config: PPOConfig, env: Environment, agent: Agent, key: Key, policy: Policy
) -> tuple[Policy, Masks]:
    """Returns what an agent starts from; a narrow network, shaped like the others, from its own

    These are drawn as the learner draws them, so that at sparsity 0 they are the dense agent's.
    """
    if agent.method != NARROW:
        return policy, dense(policy.params)
    widths = narrow_width(policy.params, agent.sparsity)
    narrow = make_learner(replace(config, hidden=widths), env).fresh(key)
    return jax.device_get(narrow_policy(policy, narrow))


def orders(design: Design, agent: Agent, params: Params) -> Directive:
    """Returns the directives of one agent, `[iterations, ...]`."""
    experiment, config = design.experiment, design.learner
    prunes = agent.mode != DENSE and agent.method != NARROW
    levels = experiment.sparsity_grid if agent.mode == TRAJECTORY else (agent.sparsity,)
    return make_directives(
        list(design.training.values()),
        list(design.training).index(agent.method) if prunes else 0,
        params,
        config.scope,
        agent.allocation if prunes else "global",
        levels if prunes else (0.0,),
        Timing(config.iterations, experiment.prune_window, config.events),
    )


def with_file(
    block: Block,
    grid: Sequence[float],
    loaded: Policy | None,
    final: tuple[Policy, Masks, PyTree] | None,
    table: Arrays,
) -> Agents:
    """Returns every agent of a block, from what training left and from the file."""
    todo = block.trainings

    def of(agent: Agent) -> tuple[Policy, Masks]:
        if agent.regime == FILE:
            assert loaded is not None
            return loaded, dense(loaded.params)
        assert final is not None
        policy, masks, snapshots = final
        if agent in todo:  # the last of a trajectory too: a grid of one has no snapshots
            return take((policy, masks), todo.index(agent))
        slot = grid.index(agent.sparsity)
        row = todo.index(agent._replace(sparsity=max(grid)))
        return take((snapshots.policy, snapshots.masks), (row, slot))

    found = [of(agent) for agent in block.agents]
    policy, masks = (stacked(list(x)) for x in zip(*found, strict=True))
    return Agents(policy, masks, table)


def check_orders(design: Design, env: Environment, loaded: Policy | None) -> None:
    """Raises `InputError` for a sparsity that a method cannot reach with these layers."""
    config, policy = design.learner, loaded
    if policy is None:
        policy = jax.eval_shape(partial(initial_policy, config, env.spec), jax.random.key(0))
    for agent in design.first(1).trainings:  # the same for every seed
        orders(design, agent, policy.params)
    for name, allocation in design.posthoc:
        for level in design.experiment.sparsity_grid:
            make_target(find_method(name), policy.params, config.scope, allocation, level)


def training_table(todo: list[Agent], batch: int, spec: EnvSpec, metrics: Metrics) -> Columns:
    """Returns one line per trained agent and iteration, of `Metrics [todo, iterations]`."""
    columns = metrics._asdict()
    columns["sparsity_now"] = columns.pop("sparsity")
    count = columns["kl"].shape[1]
    iteration = np.arange(1, count + 1)
    return {
        **{name: np.ravel(values) for name, values in columns.items()},
        **{f: np.repeat([getattr(a, f) for a in todo], count) for f in Agent._fields},
        "iteration": np.tile(iteration, len(todo)),
        "env_steps": np.tile(iteration * batch, len(todo)),
        "env": np.repeat([spec.name], count * len(todo)),
        "backend": np.repeat([spec.backend], count * len(todo)),
    }


def stacked(trees: list[PyTree]) -> PyTree:
    """Trees as one with a leading axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def floats(hyper: Hyper) -> Hyper:
    """The settings as float32 arrays `[]`."""
    return jax.tree.map(np.float32, hyper)
