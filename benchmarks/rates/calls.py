"""The calls: stepping, learning, evaluating, preparing an attack, certifying."""

import copy
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.experiment.design import hyper_of
from benchmarks.experiment.memory import FLOAT, Need, network_size
from benchmarks.experiment.plan import learning_steps
from benchmarks.rates.options import Options
from benchmarks.rates.timing import Rate, Work, compile_timed, in_turns, rate_of, timed
from jaxprune.attacks import Victims, make_attack
from jaxprune.attacks.members import blanks, prepared
from jaxprune.cells import as_cells
from jaxprune.certify import BOUNDS, certify
from jaxprune.devices import Mapped, lane_width, layout
from jaxprune.envs import Environment
from jaxprune.envs.mujoco import MujocoEnv
from jaxprune.envs.spatial import mjx
from jaxprune.evaluation.episodes import (
    EpisodeSet,
    Shared,
    cell_program,
    check_evaluation,
    timeless,
    turns,
)
from jaxprune.losses import Hyper
from jaxprune.policy import action_distribution, init_policy, normalise
from jaxprune.policy_io import load_policy
from jaxprune.ppo import TrainState, make_learner
from jaxprune.pruning import (
    Directive,
    Timing,
    dense,
    find_method,
    make_directives,
    mask_policy,
    prune,
)
from jaxprune.queue import Queued, lane_steps, queue_width
from jaxprune.rollout import Play
from jaxprune.types import Array, Masks, Policy
from jaxprune.validation import InputError, lookup


def needs(options: Options, env: Environment) -> list[Need]:
    """Returns what takes the most memory, at least."""
    config, spec = options.ppo, env.spec
    weights = network_size(config.hidden, spec)
    rows = options.agents * config.batch
    return [
        Need(
            f"{options.masks:,} masks and {options.agents:,} agents of {weights:,} parameters",
            "fewer --masks or --agents, or smaller --hidden",
            weights * (options.masks + 4 * FLOAT * options.agents),
            True,
        ),
        Need(
            f"rollouts of {rows:,} steps",
            "fewer --agents or --num-envs, or a shorter --unroll",
            rows * FLOAT * 2 * spec.obs_size,
            True,
        ),
    ]


def bare_stepping(options: Options, env: Environment, name: str) -> Work:
    """Random actions in `agents * num_envs` environments, ended episodes start again."""
    spec, lanes = env.spec, options.agents * options.ppo.num_envs
    laid = layout(lanes, lane_width(1, lanes))

    def walk(_, key: Array) -> Array:
        key_reset, key_act = jax.random.split(key)
        fresh = env.reset(key_reset)[0]

        def step(state, key: Array):
            if spec.discrete:
                action = jax.random.randint(key, (), 0, spec.action_size)
            else:
                action = jax.random.uniform(key, (spec.action_size,), minval=-1.0, maxval=1.0)
            state, after = env.step(state, action)
            done = after.terminated | after.truncated
            state = jax.tree.map(lambda new, old: jnp.where(done, new, old), fresh, state)
            return state, after.reward

        return jnp.sum(jax.lax.scan(step, fresh, jax.random.split(key_act, options.bare_steps))[1])

    keys = laid.deal(jax.random.split(jax.random.key(0), lanes))
    compiled, seconds = compile_timed(Mapped(walk), (), keys, laid.width)
    steps = lanes * options.bare_steps
    return Work(name, "env steps/s", lambda: compiled((), keys), steps, seconds)


class PlainMJX:
    """A simulator of `jaxprune.envs.physics` whose steps are MJX's own."""

    def __init__(self, physics: Any, options: Options):
        self._ours = physics
        given = (options.mjx_iterations, options.mjx_ls_iterations)
        names = ("opt.iterations", "opt.ls_iterations")
        changes: Any = {name: n for name, n in zip(names, given, strict=True) if n is not None}
        self._model = mjx.put_model(physics.c_model, impl="jax").tree_replace(changes)
        self._rest = mjx.make_data(self._model)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ours, name)

    def simulate(self, qpos: Array, qvel: Array, qacc_warmstart: Array, ctrl: Array) -> Any:
        """One control step."""
        start = self._rest.replace(qpos=qpos, qvel=qvel, qacc_warmstart=qacc_warmstart, ctrl=ctrl)
        step = lambda _, data: mjx.step(self._model, data)  # noqa: E731
        return jax.lax.fori_loop(0, self.frame_skip, step, start)


def plain_stepping(options: Options, env: Environment) -> Work:
    """Bare stepping of a gym/ task by MJX, with the model's solver settings or with others."""
    if not isinstance(env, MujocoEnv):
        raise InputError(f"rate mjx times gym/ tasks, not {env.spec.name!r}: leave it out")
    plain: Any = copy.copy(env)
    plain.physics = PlainMJX(env.physics, options)
    return bare_stepping(options, plain, "bare stepping by MJX")


def regimes(options: Options, env: Environment, method: str) -> list[Rate]:
    """Training by every regime in turns, and its time relative to the first in the same turn.

    What else the machine does falls on all of them alike.
    """
    works = [training(options, env, method, regime) for regime in options.regimes]
    spent = np.array(in_turns([work.run for work in works], options.repeats))
    speeds = [
        rate_of(work.name, work.unit, work.amount / seconds, work.compile_seconds)
        for work, seconds in zip(works, spent, strict=True)
    ]
    unit = f"% of the time of {options.regimes[0]}"
    shares = [
        rate_of(f"{work.name}: time", unit, 100 * seconds / spent[0])
        for work, seconds in zip(works[1:], spent[1:], strict=True)
    ]
    return speeds + shares


def training(options: Options, env: Environment, method: str, regime: str) -> Work:
    """Iterations with everything: rollout, advantages, updates, masks.

    A method is pursued by every agent to a sparsity of its own; "none" trains dense agents.
    """
    config, count = options.ppo, options.agents
    methods = [find_method(method)]
    learner = make_learner(config, env, methods, regime=regime)
    hyper = hyper_of(config.hyper, regime, env.spec.eps)
    laid = layout(count, lane_width(config.num_envs, count))
    timing = Timing(config.iterations, (0.0, 1.0), config.events)
    shapes = jax.eval_shape(learner.fresh, jax.random.key(0)).params
    levels = [0.95 * (i + 1) / count for i in range(count)]
    orders = [
        make_directives(methods, 0, shapes, config.scope, options.allocation, [level], timing)
        for level in levels
    ]
    directives = laid.deal(jax.tree.map(lambda *x: np.stack(x), *orders))

    def start(hyper: Hyper, item: tuple[Array, Directive]) -> TrainState:
        key, first = item
        policy = learner.fresh(key)
        return learner.init(key, hyper, first, policy, dense(policy.params))

    def iterations(hyper: Hyper, item: tuple[TrainState, Directive]):
        return jax.lax.scan(lambda s, d: learner.iterate(s, hyper, d), *item)

    keys = laid.deal(jax.random.split(jax.random.key(0), count))
    first = jax.tree.map(lambda x: x[:, 0], directives)
    items = (Mapped(start)(hyper, (keys, first), laid.width), directives)
    compiled, seconds = compile_timed(Mapped(iterations), hyper, items, laid.width)
    steps = count * config.iterations * config.batch
    name = f"{regime} training, {'dense' if method == 'none' else method}"
    return Work(name, "env steps/s", lambda: compiled(hyper, items), steps, seconds)


def evaluation(options: Options, env: Environment, attack: str) -> list[Rate]:
    """Episodes of one policy at the sparsities; only the steps that were taken count."""
    spec, key = env.spec, jax.random.key(0)
    policy = tested_policy(options, env)
    masks = prune(policy, "magnitude", list(options.sparsity_grid))
    _, policies, cells = as_cells(*jax.device_get((policy, masks)))
    count, episodes = len(cells.agent), options.episodes
    params = blanks([make_attack(attack, options.attack)], policy, spec, count)
    numbered = EpisodeSet(key, np.zeros((episodes, 0), np.int32))
    eps, play, laid = np.float32(spec.eps), timeless(Play()), layout(count * episodes, 1)
    shared = Shared(policies, cells, params, numbered, np.int32(0), eps, play)
    queue = laid.deal(Queued(np.ones(count * episodes, bool), turns(count, episodes)))
    program, width = cell_program(env, (attack,), options.attack), queue_width(count * episodes)
    compiled, seconds = compile_timed(program, shared, queue, width)
    lengths = laid.collect(compiled(shared, queue).length)
    name = "evaluation, clean" if attack == "none" else f"evaluation under {attack}"
    run, steps = lambda: compiled(shared, queue), int(lengths.sum())
    rate = timed(Work(name, "env steps/s", run, steps, seconds), options.repeats)
    share, unit = 100 * lengths.sum() / lane_steps(lengths, width), "% of those simulated"
    return [rate, Rate(f"{name}: steps that count", unit, share, share, share, 0.0)]


def tested_policy(options: Options, env: Environment) -> Policy:
    """The policy of a file, or a fresh one. Raises `InputError` if it is none of this task."""
    spec = env.spec
    if options.policy is not None:
        policy = load_policy(options.policy)
        check_evaluation(env, policy, spec.eps)
        return policy
    key = jax.random.key(0)
    return init_policy(key, spec.obs_size, spec.action_size, discrete=spec.discrete)


def preparation(options: Options, env: Environment, attack: str) -> Rate:
    """Env steps that an attack learns from against one fresh policy, its learning included."""
    spec, member = env.spec, make_attack(attack, options.attack)
    policy = init_policy(jax.random.key(0), spec.obs_size, spec.action_size, discrete=spec.discrete)
    _, policies, cells = as_cells(*jax.device_get((policy, None)))
    victims = Victims(env, policies, cells, spec.eps, jax.random.key(1))
    start = time.monotonic()
    prepared(member, victims)
    seconds = time.monotonic() - start
    members = member.members(spec)
    name, steps = f"preparation of {attack}, {members} members", learning_steps(member, spec)
    work = Work(name, "env steps/s", lambda: prepared(member, victims), steps, seconds)
    return timed(work, options.repeats)


class Bounded(NamedTuple):
    """What bounds are timed on."""

    policy: Policy
    masks: Masks  # [masks]
    eps: float
    obs: np.ndarray  # [states, obs_size]


def bounded(options: Options, env: Environment) -> Bounded:
    """Many masks of one fresh policy, and made-up observations."""
    spec = env.spec
    policy = init_policy(
        jax.random.key(0),
        spec.obs_size,
        spec.action_size,
        discrete=spec.discrete,
        hidden=options.ppo.hidden,
    )
    masks = prune(policy, "random", list(np.linspace(0, 0.95, options.masks)))
    obs = np.random.default_rng(0).standard_normal((options.states, spec.obs_size))
    return Bounded(policy, masks, spec.eps, obs)


def bounds(options: Options, env: Environment) -> list[Rate]:
    """Every bound of many masks of one policy, and what merely acting with them costs."""
    given = bounded(options, env)
    works = [forward(options, given.policy, given.masks, given.obs)]
    works += [bounding(options, given, name) for name in options.bounds or BOUNDS]
    return [timed(work, options.repeats) for work in works]


def bounding(options: Options, given: Bounded, name: str) -> Work:
    """One bound."""
    local = lookup(BOUNDS, name, "bound").scope == "local"
    pairs = options.masks * (options.states if local else 1)
    obs = given.obs if local else None
    run = partial(certify, given.policy, given.masks, given.eps, obs, (name,), options.precision)
    start = time.monotonic()
    run()
    seconds = time.monotonic() - start
    return Work(f"bound {name}", PAIRS if local else "masks/s", run, pairs, seconds)


def forward(options: Options, policy: Policy, masks: Masks, obs: np.ndarray) -> Work:
    """Action distributions of every masked policy at every observation, float32."""
    laid = layout(options.masks, width=1)

    def act(shared: tuple[Policy, Array], masks: Masks) -> Array:
        policy, obs = shared
        masked = mask_policy(policy, masks)
        return jax.vmap(lambda x: action_distribution(masked, normalise(policy, x)).mode())(obs)

    shared, items = (policy, np.float32(obs)), laid.deal(masks)
    compiled, seconds = compile_timed(Mapped(act), shared, items, laid.width)
    pairs = options.masks * options.states
    return Work("forward pass", PAIRS, lambda: compiled(shared, items), pairs, seconds)


PAIRS = "(mask, state) pairs/s"
STEPPING = "bare stepping"
RATES: dict[str, Callable[[Options, Environment], list[Rate]]] = {
    "stepping": lambda options, env: [
        timed(bare_stepping(options, env, STEPPING), options.repeats)
    ],
    "training": lambda options, env: [
        rate for x in options.methods for rate in regimes(options, env, x)
    ],
    "preparation": lambda options, env: [
        preparation(options, env, x)
        for x in options.attacks
        if make_attack(x, options.attack).prepare is not None
    ],
    "evaluation": lambda options, env: [
        rate for x in options.attacks for rate in evaluation(options, env, x)
    ],
    "bounds": bounds,
    "mjx": lambda options, env: [timed(plain_stepping(options, env), options.repeats)],
}
