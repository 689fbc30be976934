"""How fast: stepping, learning, evaluating clean and under attack, certifying.

    python -m benchmarks.throughput --env hopper --backend spring --json throughput.json

Rates are env steps per second over all devices (masks or pairs of mask and state per second for
the certificates), the
median of the repeats with their range; compilation is timed apart. Every rate is also given as a
ratio to bare stepping: random actions, no policy, in the same process. Of an evaluation, the share
of the simulated steps that count: the others are those of lanes that idle at the end of the queue.
"""

import copy
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console

from benchmarks.experiment.config import Grid, parse_grid
from benchmarks.experiment.design import hyper_of
from benchmarks.experiment.memory import FLOAT, Need, check_memory, network_size
from benchmarks.experiment.plan import learning_steps
from benchmarks.runtime.command_line import read_options
from benchmarks.runtime.console import make_console
from benchmarks.runtime.guard import guarded
from benchmarks.runtime.run_folder import provenance
from benchmarks.runtime.tables import terminal_table
from jaxprune import devices
from jaxprune.attacks import AttackConfig, Victims, find_attack, make_attack
from jaxprune.attacks.members import blanks, prepared
from jaxprune.cells import as_cells
from jaxprune.certify import BOUNDS, certify
from jaxprune.devices import Mapped, lane_width, layout
from jaxprune.envs import Environment, make_env
from jaxprune.envs.mujoco import MujocoEnv
from jaxprune.envs.physics import mjx
from jaxprune.evaluation.episodes import (
    Shared,
    cell_program,
    check_evaluation,
    episode_set,
    timeless,
    turns,
)
from jaxprune.losses import Hyper
from jaxprune.policy import action_distribution, init_policy, normalise
from jaxprune.policy_io import load_policy
from jaxprune.ppo import REGIMES, PPOConfig, TrainState, make_learner
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
from jaxprune.types import Array, Masks, Policy, PyTree
from jaxprune.validation import COUNT, SPARSITY, InputError, at_least, check_ranges, lookup


@dataclass(frozen=True)
class Options:
    """What to measure."""

    env: str = "hopper"
    """Task."""
    backend: str | None = None
    """Simulator; default: the task's own."""
    agents: Annotated[int, at_least(1, 1_000_000)] = 2
    """Agents that train together."""
    methods: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ("none", "micro")
    """Pruning methods to train with; none is dense."""
    regimes: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ("ppo",)
    """Training regimes; the time of the others is also given in percent of that of the first."""
    allocation: str = "global"
    """Of the weights that they remove."""
    bare_steps: Annotated[int, at_least(1, 1_000_000_000)] = 500
    """Bare steps of every environment, in one call."""
    policy: Path | None = None
    """Policy of the evaluation, a file; default: a fresh one, which falls at once."""
    sparsity_grid: Annotated[Grid, SPARSITY] = field(
        default_factory=lambda: parse_grid("0:0.95:20")
    )
    """Fractions of its weights that magnitude pruning removes: a cell of the evaluation each."""
    episodes: Annotated[int, at_least(1, 1_000_000)] = 10
    """Episodes per cell of the evaluation."""
    attacks: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ("none", "mad")
    """Attacks of the evaluation, unprepared: learned ones act with fresh parameters."""
    bounds: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ()
    """Bounds to time; default: all of them. The widths are those of --hidden."""
    masks: Annotated[int, at_least(1, 1_000_000)] = 64
    """Masks bounded in one call."""
    states: Annotated[int, at_least(1, 1_000_000)] = 256
    """Observations of each mask at which local bounds are computed."""
    precision: str = "float64"
    """Of the bounds: float64, or float32 with its larger margins."""
    repeats: Annotated[int, at_least(1, 10_000)] = 5
    """Timed calls of everything."""
    rates: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = (
        "stepping",
        "training",
        "evaluation",
        "bounds",
    )
    """What to time, of these, `preparation` (of the --attacks that train something, without
    pruning) and `mjx`: a gym/ task stepped by MJX's own program."""
    mjx_iterations: Annotated[int | None, COUNT] = None
    """For `mjx`: the most solver iterations; default: the model's."""
    mjx_ls_iterations: Annotated[int | None, COUNT] = None
    """For `mjx`: line search iterations of each; default: the model's."""
    json: Path | None = None
    """File for the figures."""
    attack: Annotated[AttackConfig, tyro.conf.arg(name="")] = field(default_factory=AttackConfig)
    """Of the adversaries."""
    ppo: Annotated[PPOConfig, tyro.conf.OmitArgPrefixes] = field(
        default_factory=lambda: PPOConfig(
            steps=40_960, num_envs=64, unroll=32, epochs=4, minibatches=4
        )
    )
    """The learner; `steps` are those of one call."""


class Rate(NamedTuple):
    """One figure."""

    name: str
    unit: str
    median: float
    low: float
    high: float
    compile_seconds: float


@guarded("nothing was measured to the end")
def main(argv: Sequence[str]) -> int:
    """The command; returns its exit status."""
    console = make_console()
    options = read_options(Options, argv, "benchmarks.throughput")
    measure(options, console)
    return 0


def measure(options: Options, console: Console) -> None:
    """All rates, printed and written. Raises `InputError` for settings that measure nothing."""
    check_ranges(options)
    options.attack.check()
    options.ppo.check()
    for name in options.rates:
        lookup(RATES, name, "rate")
    for name in options.methods:
        find_method(name)
    for name in options.regimes:
        lookup(REGIMES, name, "regime")
    for name in options.attacks:
        find_attack(name)
    for name in options.bounds:
        lookup(BOUNDS, name, "bound")
    devices.configure()
    env = make_env(options.env, options.backend)
    check_memory(_needs(options, env))
    rates = [rate for name in options.rates for rate in RATES[name](options, env)]
    bare = next((rate.median for rate in rates if rate.name == STEPPING), None)
    header = ("what", "median", "range", "unit", "ratio to bare", "compile s")
    rows = []
    for rate in rates:
        spread = f"{rate.low:,.0f} - {rate.high:,.0f}"
        ratio = f"{rate.median / bare:.3g}" if bare else "-"
        compiled = f"{rate.compile_seconds:.1f}"
        rows.append((rate.name, f"{rate.median:,.0f}", spread, rate.unit, ratio, compiled))
    title = f"{env.spec.name} on {env.spec.backend}"
    console.print(terminal_table(title, header, rows, left=("what", "unit"), wrap=True))
    if options.json is not None:
        ratios = [{"ratio_to_bare": rate.median / bare if bare else None} for rate in rates]
        figures = [rate._asdict() | ratio for rate, ratio in zip(rates, ratios, strict=True)]
        facts = {"env": env.spec.name, "backend": env.spec.backend, **provenance()}
        settings = {k: v for k, v in vars(options).items() if isinstance(v, int | str)}
        text = json.dumps({**facts, "settings": settings, "rates": figures}, indent=1)
        options.json.write_text(text + "\n", encoding="utf-8")


def _needs(options: Options, env: Environment) -> list[Need]:
    """What takes the most memory, at least."""
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


def bare_stepping(options: Options, env: Environment, name: str) -> Rate:
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
    work = lanes * options.bare_steps
    run = lambda: compiled((), keys)  # noqa: E731
    return timed(name, "env steps/s", options, run, work, seconds)


class PlainMJX:
    """A simulator of `jaxprune.envs.physics` whose steps are MJX's own."""

    def __init__(self, physics: Any, options: Options):
        self._ours = physics
        given = (options.mjx_iterations, options.mjx_ls_iterations)
        names = ("opt.iterations", "opt.ls_iterations")
        changes = {name: n for name, n in zip(names, given, strict=True) if n is not None}
        self._model = physics.model.tree_replace(changes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ours, name)

    def simulate(self, qpos: Array, qvel: Array, qacc_warmstart: Array, ctrl: Array) -> Any:
        """One control step."""
        start = self.rest.replace(qpos=qpos, qvel=qvel, qacc_warmstart=qacc_warmstart, ctrl=ctrl)
        step = lambda _, data: mjx.step(self._model, data)  # noqa: E731
        return jax.lax.fori_loop(0, self.frame_skip, step, start)


def plain_stepping(options: Options, env: Environment) -> Rate:
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
    names, tasks = options.regimes, [training(options, env, method, x) for x in options.regimes]
    spent = np.array(in_turns([task.run for task in tasks], options.repeats))
    work = options.agents * options.ppo.iterations * options.ppo.batch
    kind, unit = "dense" if method == "none" else method, f"% of the time of {names[0]}"
    speeds = [
        rate_of(f"{name} training, {kind}", "env steps/s", work / seconds, task.compile_seconds)
        for name, task, seconds in zip(names, tasks, spent, strict=True)
    ]
    shares = [
        rate_of(f"{name} training, {kind}: time", unit, 100 * seconds / spent[0])
        for name, seconds in zip(names[1:], spent[1:], strict=True)
    ]
    return speeds + shares


class Task(NamedTuple):
    """What is ready to be timed."""

    run: Callable[[], PyTree]
    compile_seconds: float


def training(options: Options, env: Environment, method: str, regime: str) -> Task:
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
    return Task(lambda: compiled(hyper, items), seconds)


def evaluation(options: Options, env: Environment, attack: str) -> list[Rate]:
    """Episodes of one policy at the sparsities; only the steps that were taken count."""
    spec, key = env.spec, jax.random.key(0)
    policy = tested_policy(options, env)
    masks = prune(policy, "magnitude", list(options.sparsity_grid))
    _, policies, cells = as_cells(*jax.device_get((policy, masks)))
    count, episodes = len(cells.agent), options.episodes
    params = blanks([make_attack(attack, options.attack)], policy, spec, count)
    numbered = episode_set(key, np.zeros((episodes, 0), np.int32))
    eps, play, laid = np.float32(spec.eps), timeless(Play()), layout(count * episodes, 1)
    shared = Shared(policies, cells, params, numbered, np.int32(0), eps, play)
    queue = laid.deal(Queued(np.ones(count * episodes, bool), turns(count, episodes)))
    program, width = cell_program(env, (attack,), options.attack), queue_width(count * episodes)
    compiled, seconds = compile_timed(program, shared, queue, width)
    lengths = laid.collect(compiled(shared, queue).length)
    name = "evaluation, clean" if attack == "none" else f"evaluation under {attack}"
    run = lambda: compiled(shared, queue)  # noqa: E731
    rate = timed(name, "env steps/s", options, run, int(lengths.sum()), seconds)
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
    name, work = f"preparation of {attack}, {members} members", learning_steps(member, spec)
    return timed(name, "env steps/s", options, lambda: prepared(member, victims), work, seconds)


def bounds(options: Options, env: Environment) -> list[Rate]:
    """Every bound of many masks of one policy, and what merely acting with them costs."""
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
    rates = [forward(options, policy, masks, obs)]
    for name in options.bounds or BOUNDS:
        local = lookup(BOUNDS, name, "bound").scope == "local"
        work = options.masks * (options.states if local else 1)
        run = partial(
            certify, policy, masks, spec.eps, obs if local else None, (name,), options.precision
        )
        start = time.monotonic()
        run()
        first = time.monotonic() - start
        unit = PAIRS if local else "masks/s"
        rates.append(timed(f"bound {name}", unit, options, run, work, first))
    return rates


def forward(options: Options, policy: Policy, masks: Masks, obs: np.ndarray) -> Rate:
    """Action distributions of every masked policy at every observation, float32."""
    laid = layout(options.masks, width=1)

    def act(shared: tuple[Policy, Array], masks: Masks) -> Array:
        policy, obs = shared
        masked = mask_policy(policy, masks)
        return jax.vmap(lambda x: action_distribution(masked, normalise(policy, x)).mode())(obs)

    shared, items = (policy, np.float32(obs)), laid.deal(masks)
    compiled, seconds = compile_timed(Mapped(act), shared, items, laid.width)
    run = lambda: compiled(shared, items)  # noqa: E731
    return timed("forward pass", PAIRS, options, run, options.masks * options.states, seconds)


PAIRS = "(mask, state) pairs/s"
STEPPING = "bare stepping"
RATES: dict[str, Callable[[Options, Environment], list[Rate]]] = {
    "stepping": lambda options, env: [bare_stepping(options, env, STEPPING)],
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
    "mjx": lambda options, env: [plain_stepping(options, env)],
}


def compile_timed(
    program: Mapped, shared: PyTree, items: PyTree, width: int
) -> tuple[Callable[..., PyTree], float]:
    """A program compiled ahead of time for these arguments, and the seconds that took."""
    start = time.monotonic()
    compiled = program.lower(shared, items, width).compile()
    return compiled, time.monotonic() - start


def timed(
    name: str, unit: str, options: Options, run: Callable[[], PyTree], work: int, seconds: float
) -> Rate:
    """Units of work per second of `repeats` calls; `seconds` went into compiling."""
    spent = np.array(in_turns([run], options.repeats)[0])
    return rate_of(name, unit, work / spent, seconds)


def in_turns(runs: Sequence[Callable[[], PyTree]], repeats: int) -> list[list[float]]:
    """Seconds of each of `repeats` calls of every function; a first call is not timed."""
    for run in runs:
        jax.block_until_ready(run())
    spent: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats):
        for run, seconds in zip(runs, spent, strict=True):
            start = time.monotonic()
            jax.block_until_ready(run())
            seconds.append(time.monotonic() - start)
    return spent


def rate_of(name: str, unit: str, values: np.ndarray, compile_seconds: float = 0.0) -> Rate:
    """The median and the range of values `[repeats]`."""
    middle, low, high = (float(x) for x in (np.median(values), values.min(), values.max()))
    return Rate(name, unit, middle, low, high, compile_seconds)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
