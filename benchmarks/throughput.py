"""How fast: stepping, learning, evaluating clean and under attack, certifying.

    python -m benchmarks.throughput --env hopper --backend spring --json throughput.json

Rates are env steps per second over all devices (masks or pairs of mask and state per second for
the certificates), the
median of the repeats with their range; compilation is timed apart. Every rate is also given as a
ratio to bare stepping: random actions, no policy, in the same process. Of an evaluation, the share
of the simulated steps that count: the others are those of lanes that idle at the end of the queue.

    python -m benchmarks.throughput --peers --json peers.json

times programs of others beside ours instead, in turns and on one core; see `benchmarks.peers`.
"""

import copy
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from benchmarks.peers.compare import rates_of, table_of, take_turns
from benchmarks.peers.process import PeerError, PeerProcess, processor
from benchmarks.peers.registry import (
    PEERS,
    Comparison,
    default_folder,
    missing,
    program_of,
    python_of,
)
from benchmarks.runtime.command_line import read_options
from benchmarks.runtime.console import make_console, remark
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
from jaxprune.policy import action_distribution, affine_layers, init_policy, normalise
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
    peers: Annotated[tuple[str, ...] | None, tyro.conf.arg(metavar="NAME ...")] = None
    """Time these peers beside ours, on one core, and nothing else; without a name: all of them."""
    peer_folder: Path | None = None
    """Where `python -m benchmarks.peers` made their environments; default: in the user's cache."""
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


class Work(NamedTuple):
    """A call that can be timed."""

    name: str
    unit: str
    run: Callable[[], PyTree]
    amount: int
    """Of the unit, in one call."""
    compile_seconds: float


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
    check(options)
    if options.peers is None:
        measure(options, console)
    else:
        measure_peers(options, options.peers or tuple(PEERS), console)
    return 0


def check(options: Options) -> None:
    """Raises `InputError` for settings that measure nothing."""
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
    for name in options.peers or ():
        lookup(PEERS, name, "peer")


def measure(options: Options, console: Console) -> None:
    """All rates, printed and written."""
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
        write_json(options, env=env.spec.name, backend=env.spec.backend, rates=figures)


def write_json(options: Options, **facts: object) -> None:
    """Figures, versions, machine and settings."""
    assert options.json is not None
    settings = {k: v for k, v in vars(options).items() if isinstance(v, int | str)}
    text = json.dumps({**provenance(), "settings": settings, **facts}, indent=1)
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
        changes = {name: n for name, n in zip(names, given, strict=True) if n is not None}
        self._model = physics.model.tree_replace(changes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ours, name)

    def simulate(self, qpos: Array, qvel: Array, qacc_warmstart: Array, ctrl: Array) -> Any:
        """One control step."""
        start = self.rest.replace(qpos=qpos, qvel=qvel, qacc_warmstart=qacc_warmstart, ctrl=ctrl)
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
    numbered = episode_set(key, np.zeros((episodes, 0), np.int32))
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


def compile_timed(
    program: Mapped, shared: PyTree, items: PyTree, width: int
) -> tuple[Callable[..., PyTree], float]:
    """A program compiled ahead of time for these arguments, and the seconds that took."""
    start = time.monotonic()
    compiled = program.lower(shared, items, width).compile()
    return compiled, time.monotonic() - start


def timed(work: Work, repeats: int) -> Rate:
    """Units of work per second of so many calls."""
    spent = np.array(in_turns([work.run], repeats)[0])
    return rate_of(work.name, work.unit, work.amount / spent, work.compile_seconds)


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


class Side(NamedTuple):
    """Our side of a comparison, and what follows from it for the other one."""

    work: Work
    settings: dict[str, Any]
    """What the peer's program is told."""
    difference: Callable[[Mapping[str, Any]], float | None] = lambda facts: None
    """How far bounds that it tells are from ours, at most, in mean widths of our boxes."""


def stepping_side(options: Options, env: Environment) -> Side:
    """Bare stepping of the same model, as many env steps."""
    assert isinstance(env, MujocoEnv)
    work, task = bare_stepping(options, env, STEPPING), env.task
    model = {"model": task.model, "frame_skip": task.frame_skip, "noise": task.qpos_noise}
    return Side(work, {**model, "steps": work.amount})


def training_side(options: Options, env: Environment) -> Side:
    """PPO with the same numbers of environments, steps, passes, minibatches and units."""
    config, work = options.ppo, training(options, env, "none", "ppo")
    of_config = ("num_envs", "unroll", "epochs", "minibatches", "hidden", "activation")
    of_hyper = ("learning_rate", "gamma", "max_grad_norm")
    settings = {name: getattr(config, name) for name in of_config}
    settings |= {name: float(getattr(config.hyper, name)) for name in of_hyper}
    return Side(work, {**settings, "horizon": env.spec.horizon, "steps": work.amount})


def bounds_side(options: Options, env: Environment) -> Side:
    """The same bound of the same actors over the same boxes."""
    given, (name,) = bounded(options, env), options.bounds
    each = jax.vmap(lambda masks: affine_layers(mask_policy(given.policy, masks)))(given.masks)
    layers = [[np.asarray(x, np.float64).tolist() for x in layer] for layer in each]
    actors = [[(w[i], b[i]) for w, b in layers] for i in range(options.masks)]
    with jax.enable_x64(True):
        policy = jax.tree.map(lambda x: jnp.asarray(x, float), given.policy)
        centres = jax.vmap(partial(normalise, policy))(jnp.asarray(given.obs)).tolist()
    settings = {"eps": given.eps, "obs": centres, "actors": actors}
    work = bounding(options, given, name)
    ours = work.run()[name]

    def difference(facts: Mapping[str, Any]) -> float:
        ends = (ours.low - np.array(facts["low"]), ours.high - np.array(facts["high"]))
        return float(np.max(np.abs(ends)) / np.mean(ours.high - ours.low))

    return Side(work, {**settings, "activation": given.policy.activation}, difference)


SIDES: dict[str, Callable[[Options, Environment], Side]] = {
    "stepping": stepping_side,
    "training": training_side,
    "bounds": bounds_side,
}


def measure_peers(options: Options, names: Sequence[str], console: Console) -> None:
    """All comparisons with these peers, printed and written.

    A peer that cannot be run is left out, and the reason is told.

    Raises:
        InputError: none of them can be run.
    """
    folder = options.peer_folder or default_folder()
    skipped = {name: reason for name in names if (reason := missing(name, folder))}
    on_one_core()
    devices.configure()
    rows = []
    for name in names:
        if name in skipped:
            continue
        remark(f"beside {name} ...")
        try:
            rows.extend(beside(options, name, folder))  # also what comes before an error
        except PeerError as error:
            skipped[name] = f"its program failed: {error}"
    for name, reason in skipped.items():
        remark(f"{name} is left out: {reason}")
    if not rows:
        raise InputError("no peer was measured: make the environment of one, as told above")
    console.print(table_of(rows, options.repeats))
    for row in rows:
        if row["largest_difference"] is not None:
            told = f"{row['largest_difference']:.1g} of the mean width of a box"
            console.print(f"{row['what']}: bounds differ by at most {told}", markup=False)
    if options.json is not None:
        write_json(options, processor=processor(), peers=rows, skipped=skipped)


def beside(options: Options, name: str, folder: Path) -> Iterator[dict[str, Any]]:
    """Yields each comparison with a peer. Raises `PeerError` where its program ends."""
    words = [str(python_of(name, folder)), "-E", str(program_of(PEERS[name]))]
    for comparison in PEERS[name].comparisons:
        side = our_side(options, comparison)
        run = lambda work=side.work: jax.block_until_ready(work.run())  # noqa: E731
        run()
        with PeerProcess(words, {**side.settings, **comparison.settings}) as peer:
            pairs = take_turns(run, side.work.amount, peer, options.repeats)
        yield {
            "peer": name,
            "what": comparison.what,
            "unit": side.work.unit,
            "versions": peer.facts["versions"],
            "per_second": rates_of(pairs, "seconds"),
            "per_cpu_second": rates_of(pairs, "cpu_seconds"),
            "largest_difference": side.difference(peer.facts),
        }


def our_side(options: Options, comparison: Comparison) -> Side:
    """Our side, ready to run: one agent, because a peer trains one."""
    ours = replace(options, agents=1, **comparison.options)
    env = make_env(ours.env, ours.backend)
    check_memory(_needs(ours, env))
    return SIDES[comparison.kind](ours, env)


def on_one_core() -> None:
    """Keeps this process and those that it starts on one core of the CPU, where a system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    jax.config.update("jax_platforms", "cpu")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
