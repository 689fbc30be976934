"""Can pruning only tighten a certificate? Every bound, along every way of removing weights.

    python -m benchmarks.theorem --random 5 --out results/theorem
    python -m benchmarks.theorem --policies policy.npz --env gym/Hopper-v4 --out results/theorem

Along nested masks of each network: how often a pruning step raised a bound and by how much, beside
the true sensitivity (Jacobian norm, attack), two null baselines, and what monotonicity costs in
tightness. Writes `table.csv`, `curves.csv`, `theorem.png` and `report.md`, which opens with the
verdict.
"""

import io
import itertools
import math
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pyarrow as pa
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from pyarrow import csv

from benchmarks.display import complain, make_console
from benchmarks.experiment import parse_grid
from benchmarks.figures import COLOURS, STYLE
from benchmarks.store import provenance, write_whole
from jaxprune import population
from jaxprune.attacks import none
from jaxprune.ball import ascend
from jaxprune.certify import BOUNDS, TOTAL_VARIATION, certify
from jaxprune.certify.query import Query, length, make_query
from jaxprune.envs import Environment, make_env
from jaxprune.evaluation import check_evaluation, episode_keys
from jaxprune.families import InputError, lookup
from jaxprune.policy import ACTIVATIONS, affine_layers, init_policy, inverse_std, normalise
from jaxprune.policy_io import load_policy
from jaxprune.population import layout, over_population, take
from jaxprune.pruning import METHODS, prune
from jaxprune.pruning.cells import Cell, as_cells, masked_policy
from jaxprune.pruning.masks import prunable_sizes
from jaxprune.rollout import Play, episode
from jaxprune.types import Array, Key, Masks, Policy

# Whether a change of a bound that is not monotone is more than rounding. Of one that is, every bit
# counts.
ROUNDING = 1e-9
# Episodes whose states are drawn from, and the levels of sparsity that the tables show.
EPISODES = 8
LEVELS = (0.0, 0.5, 0.75)
BASELINE_LEVEL = 0.5

PALETTE = (*COLOURS, "#7A5230")

JACOBIAN, ATTACK = "jacobian", "attack"
TRUTH = {JACOBIAN: "true Jacobian norm", ATTACK: "attack (lower bound)"}
RANDOM, ONE_BY_ONE, RESCALED = "random", "one by one", "rescaled"


@dataclass(frozen=True)
class Options:
    """What to prune and what to bound."""

    out: Path
    """Folder for the tables, the figure and the report."""
    policies: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE ...")] = ()
    """Trained policies, of any format that `jaxprune.load_policy` reads."""
    policy_stats: Path | None = None
    """Observation statistics of policies of another library."""
    env: str | None = None
    """Task of the policies: local bounds are computed at states of their episodes."""
    random: int = 0
    """Networks with Gaussian weights, at standard normal states."""
    sizes: tuple[int, ...] = (11, 64, 64, 3)
    """Of their layers, inputs first."""
    activation: str = "tanh"
    """Of their hidden layers."""
    states: int = 64
    """States per network."""
    eps: float = 0.075
    """Radius of the l_inf ball in normalised observation units."""
    sparsity_grid: str = "0:0.95:20"
    """Sparsities as START:STOP:COUNT, ends included, or a list; the dense network comes first."""
    orders: int = 4
    """Random orders of removal."""
    singles: int = 256
    """Steps that remove one weight each, in a random order."""
    bounds: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = tuple(
        name for name, bound in BOUNDS.items() if not bound.slow
    )
    """Certificates; the slow ones only if named."""
    steps: int = 20
    """Gradient steps of the attack."""
    restarts: int = 4
    """Random starts of the attack."""
    seed: int = 0
    """Of everything random."""

    def check(self) -> None:
        """Raises `InputError` for settings that compare nothing."""
        if not self.policies and self.random < 1:
            raise InputError("nothing to prune: give --policies FILE ..., or --random 5")
        if self.policies and self.env is None:
            raise InputError("policies are looked at where they go: name their task with --env")
        if self.policy_stats is not None and not self.policies:
            raise InputError(f"policy statistics {self.policy_stats} belong to no --policies")
        if len({path.stem for path in self.policies}) < len(self.policies):
            raise InputError("two policies have the same name: the tables tell them by it")
        if self.out.exists() and not self.out.is_dir():
            raise InputError(f"{self.out} is no folder: choose another --out")
        for name, least in (("states", 1), ("orders", 1), ("singles", 1), ("steps", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name} {getattr(self, name)} is too few: give at least {least}")
        if self.restarts < 1 or len(self.sizes) < 2 or min(self.sizes) < 1:
            raise InputError(f"restarts {self.restarts} and sizes {self.sizes} must be positive")
        if not 0 < self.eps < math.inf:
            raise InputError(f"eps {self.eps:g} is no radius: give more than 0")
        for name in self.bounds:
            lookup(BOUNDS, name, "bound")
        lookup(ACTIVATIONS, self.activation, "activation")
        self.grid()

    def grid(self) -> list[float]:
        """Sparsities from 0 on."""
        grid = sorted({0.0, *parse_grid(self.sparsity_grid)})
        if len(grid) < 2:
            raise InputError(f"sparsity grid {self.sparsity_grid!r} removes nothing")
        return grid


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit status."""
    console = make_console()
    try:
        options = tyro.cli(Options, args=list(argv), prog="benchmarks.theorem")
        options.check()
        population.configure()
        found = list(networks(options))
        console.print(
            f"{len(found)} networks, {len(options.grid())} sparsities, {options.orders} random "
            f"orders, {options.singles} single weights, {options.states} states, bounds "
            f"{', '.join(options.bounds)}; results in {options.out}"
        )
        lines: list[Line] = []
        for network in found:
            lines += study(network, options)
            console.print(f"{network.name}: done")
        write(options, lines, shlex.join(["python", "-m", "benchmarks.theorem", *argv]))
    except InputError as error:
        complain(error)
        return 2
    for sentence in verdict(Findings(lines)):
        console.print(sentence, markup=False)
    return 0


# --- what is pruned -------------------------------------------------------------------------------


class Network(NamedTuple):
    """A policy and where to look at it."""

    name: str
    group: str  # networks that the report shows together
    policy: Policy
    obs: Any  # raw float32 [n, obs_size]


def networks(options: Options) -> Iterator[Network]:
    """The policies at states of their own episodes, then the random networks at normal ones."""
    policies = {path.stem: load_policy(path, options.policy_stats) for path in options.policies}
    if policies:
        env = make_env(str(options.env))
        for policy in policies.values():
            check_evaluation(env, policy, options.eps, EPISODES)
        play = player(env)
        for name, policy in policies.items():
            yield Network(name, name, policy, visited(play, policy, options))
    shape = "-".join(map(str, options.sizes))
    group = f"{options.random} random {shape} {options.activation}"
    for i in range(options.random):
        seed = options.seed + i
        rng = np.random.default_rng([seed, 1])
        obs = rng.standard_normal((options.states, options.sizes[0]), np.float32)
        policy = gaussian_policy(seed, options.sizes, options.activation)
        yield Network(f"seed {seed}", group, policy, obs)


def gaussian_policy(seed: int, sizes: Sequence[int], activation: str) -> Policy:
    """Weights N(0, 1 / inputs), biases N(0, 0.01), drawn layer by layer; sigma = 1."""
    rng = np.random.default_rng(seed)
    actor = {}
    for i, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        weight = rng.standard_normal((outputs, inputs)) / math.sqrt(inputs)
        bias = 0.1 * rng.standard_normal(outputs)
        actor[f"layer_{i}"] = {"kernel": jnp.asarray(weight.T, float), "bias": jnp.asarray(bias)}
    hidden = sizes[1:-1]
    policy = init_policy(
        jax.random.key(seed), sizes[0], sizes[-1], hidden=hidden, activation=activation
    )
    return replace(policy, params=policy.params._replace(actor=actor))


def player(env: Environment) -> Callable[[Policy, Key], tuple[np.ndarray, np.ndarray]]:
    """(policy, key) -> observations `[EPISODES, horizon, obs_size]` without attack, and lengths."""
    times = jnp.arange(env.spec.horizon)

    def one(policy: Policy, key: Key) -> tuple[Array, Array]:
        unattacked = (partial(none().perturb, ()), (), jnp.zeros(()))
        result = episode(key, env, policy, *unattacked, Play(times=times))
        return result.visited, result.length

    width = -(-EPISODES // len(jax.devices()))
    order, place = layout(EPISODES, width)
    program = over_population(one, width=width)
    return lambda policy, key: take(
        jax.device_get(program(policy, episode_keys(key, EPISODES)[order])), place
    )


def visited(play: Callable[..., Any], policy: Policy, options: Options) -> np.ndarray:
    """Raw observations `[n, obs_size]` drawn from episodes; fewer if these are short."""
    obs, lengths = play(policy, jax.random.key(options.seed))
    seen = obs[np.arange(obs.shape[1]) < lengths[:, None]]
    rng = np.random.default_rng(options.seed)
    return seen[rng.choice(len(seen), min(options.states, len(seen)), replace=False)]


class Sweep(NamedTuple):
    """Chains of nested masks."""

    name: str
    sparsity: list[float]  # [S]
    masks: Masks  # [chains, S]


def sweeps(policy: Policy, options: Options) -> Iterator[Sweep]:
    """One per method that prunes a trained policy, and one that removes single weights."""
    keys = jax.random.split(jax.random.key(options.seed), options.orders)
    for name, method in METHODS.items():
        if name != "none" and method.schedule is None:
            chains = keys if method.score == RANDOM else keys[:1]
            yield Sweep(name, options.grid(), chained(policy, name, options.grid(), chains))
    weights = sum(prunable_sizes(policy.params).values())
    counts = range(min(options.singles, weights - 1) + 1)
    one_by_one = [Fraction(count, weights) for count in counts]
    masks = chained(policy, RANDOM, one_by_one, keys[:1])
    yield Sweep(ONE_BY_ONE, [float(x) for x in one_by_one], masks)


def chained(policy: Policy, method: str, levels: list[Any], keys: Array) -> Masks:
    """Masks `[chains, S]`, a key per chain."""
    chains = [prune(policy, method, levels, key=key) for key in keys]
    return jax.tree.map(lambda *m: np.stack(m), *chains)


def rescaled(policy: Policy, masks: Masks) -> Policy:
    """Policies `[S]` with all weights: each kernel scaled to the norm that `masks [S]` left it."""
    count = len(masks.log_std)
    policies = jax.tree.map(lambda x: np.broadcast_to(x, (count, *np.shape(x))), policy)
    for name, layer in policy.params.actor.items():
        kernel = np.asarray(layer["kernel"])
        norms = np.linalg.norm(kernel * masks.actor[name]["kernel"], axis=(1, 2))
        scale = norms / max(np.linalg.norm(kernel), np.finfo(norms.dtype).tiny)
        policies.params.actor[name]["kernel"] = np.float32(scale[:, None, None] * kernel)
    return policies


# --- what is measured -----------------------------------------------------------------------------


class Line(NamedTuple):
    """Everything measured along one sweep of one network."""

    network: Network
    sweep: str
    sparsity: list[float]  # [S]
    values: dict[str, np.ndarray]  # name -> [chains, S, states], one state if valid everywhere
    baseline: bool = False  # nothing was removed

    def at_states(self, name: str) -> np.ndarray:
        """A quantity with its value at every state, `[chains, S, states]`."""
        return np.broadcast_to(self.values[name], self.values[ATTACK].shape)


def study(network: Network, options: Options) -> Iterator[Line]:
    """All sweeps of a network in one call, then its rescaled copies."""
    found = list(sweeps(network.policy, options))
    flat = [jax.tree.map(lambda m: m.reshape(-1, *m.shape[2:]), sweep.masks) for sweep in found]
    together = jax.tree.map(lambda *m: np.concatenate(m), *flat)
    values = measure(network.policy, together, network.obs, options)
    ends = np.cumsum([len(masks.log_std) for masks in flat])
    for sweep, first, last in zip(found, [0, *ends[:-1]], ends, strict=True):
        part = {
            name: x[first:last].reshape(-1, len(sweep.sparsity), x.shape[-1])
            for name, x in values.items()
        }
        yield Line(network, sweep.name, sweep.sparsity, part)
    for sweep in found:
        if sweep.name not in (RANDOM, ONE_BY_ONE):
            scaled = rescaled(network.policy, take(sweep.masks, 0))
            values = measure(scaled, None, network.obs, options)
            part = {name: x[None] for name, x in values.items()}
            yield Line(network, f"{sweep.name}, {RESCALED}", sweep.sparsity, part, baseline=True)


def measure(
    policy: Policy, masks: Masks | None, obs: Any, options: Options
) -> dict[str, np.ndarray]:
    """D by every bound, the Jacobian norm and the attack's D, `[N, states]`; global: `[N, 1]`."""
    bounds = certify(policy, masks, eps=options.eps, obs=obs, bounds=options.bounds)
    values = {
        name: bound.value[:, :1] if bound.scope == "global" else bound.value
        for name, bound in bounds.items()
    }
    return values | sensitivity(policy, masks, obs, options)


def sensitivity(
    policy: Policy, masks: Masks | None, obs: Any, options: Options
) -> dict[str, np.ndarray]:
    """What the bounds are about, `[N, states]` each, in float64: see `at_state`."""
    with jax.enable_x64(True):
        wide = lambda x: np.asarray(x, "float64")  # noqa: E731
        _, policies, cells = as_cells(jax.tree.map(wide, policy), masks)
        order, place = layout(len(cells.agent), 1)
        program = sensitivity_program(options.steps, options.restarts)
        shared = (policies, wide(obs), wide(options.eps), jax.random.key(options.seed))
        found = jax.device_get(program(shared, take(jax.device_get(cells), order)))
    return {name: found[name][place] for name in TRUTH}


@lru_cache(maxsize=4)
def sensitivity_program(steps: int, restarts: int) -> Any:
    """((policies, obs, eps, key), cells `[N]`) -> name -> `[N, states]`."""

    def of_cell(shared: tuple[Policy, Array, Array, Key], cell: Cell) -> dict[str, Array]:
        policies, obs, eps, key = shared
        policy = masked_policy(policies, cell)
        layers, inv_std = affine_layers(policy), inverse_std(policy)

        def at(obs: Array, key: Key) -> dict[str, Array]:
            radii = jnp.full(obs.shape, eps)
            query = make_query(layers, radii, inv_std, policy.activation, normalise(policy, obs))
            return at_state(query, key, eps, steps, restarts)

        return jax.vmap(at)(obs, jax.random.split(key, len(obs)))

    return over_population(of_cell, width=1)


def at_state(query: Query, key: Key, eps: Array, steps: int, restarts: int) -> dict[str, Array]:
    """||J(x)||_2 of the standardised outputs, and the largest D that gradient ascent found."""

    def outputs(x: Array) -> Array:
        *hidden, last = query.layers
        for weight, bias in hidden:
            x = ACTIVATIONS[query.activation](weight @ x + bias)
        return last.weight @ x + last.bias

    here = outputs(query.centre)
    distance = lambda x: length(query, outputs(x) - here)  # noqa: E731
    # A constant policy has no gradient but NaN; the best point is then the centre, and D is 0.
    step_size = 2.5 * eps / steps
    best = ascend(
        key, distance, query.centre, eps, steps=steps, step_size=step_size, restarts=restarts
    )
    norm = jnp.linalg.norm(jax.jacrev(outputs)(query.centre), ord=2)
    return {JACOBIAN: norm, ATTACK: distance(best)}


# --- what follows ---------------------------------------------------------------------------------


class Rises(NamedTuple):
    """How often and how much a quantity rose along nested masks."""

    steps: int  # times the states
    raised: int
    step: float  # largest ratio to the level before
    dense: float  # largest ratio to the dense network


def rises(lines: Sequence[Line], name: str) -> Rises:
    """Over networks, sweeps, chains, levels and states."""
    tolerance = 0 if is_monotone(name) else ROUNDING
    found = []
    for values in (line.values[name] for line in lines):
        before, after = values[:, :-1], values[:, 1:]
        raised = after > before * (1 + tolerance)
        largest = (ratio(after, x).max() for x in (before, values[:, :1]))
        found.append((raised.size, raised.sum(), *largest))
    steps, raised, step, dense = zip(*found, strict=True)
    return Rises(sum(steps), int(sum(raised)), float(max(step)), float(max(dense)))


class Price(NamedTuple):
    """Geometric means over states and networks."""

    value: float  # of D
    over_tightest: float  # over the tightest of all bounds at each state
    over_attack: float


def prices(lines: Sequence[Line], level: int) -> dict[str, Price]:
    """Of every bound at one level of the first chain of one sweep."""
    at = {
        name: np.stack([line.at_states(name)[0, level] for line in lines])
        for name in lines[0].values
    }
    names = [name for name in at if name in BOUNDS]
    least = np.min([at[name] for name in names], axis=0)
    return {
        name: Price(
            geometric_mean(at[name]),
            geometric_mean(ratio(at[name], least)),
            geometric_mean(ratio(at[name], at[ATTACK])),
        )
        for name in names
    }


def relative(lines: Sequence[Line], name: str) -> np.ndarray:
    """Geometric mean of `to_dense` at every level, `[S]`."""
    return np.array([geometric_mean(level) for level in to_dense(lines, name)])


def to_dense(lines: Sequence[Line], name: str) -> np.ndarray:
    """Ratios to the dense network by level, `[S, networks * chains * states]`."""
    ratios = [ratio(line.values[name], line.values[name][:, :1]) for line in lines]
    return np.stack(ratios).swapaxes(0, 2).reshape(len(lines[0].sparsity), -1)


def exceeded(lines: Sequence[Line]) -> list[str]:
    """Where the attack went beyond a bound: there must be none.

    The attack's D is a difference of two outputs, rounded relative to these.
    """
    return [
        f"{name} of {line.network.name}, {line.sweep}"
        for line in lines
        for name, values in line.values.items()
        if name in BOUNDS and np.any(line.values[ATTACK] > values * (1 + ROUNDING) + ROUNDING)
    ]


def is_monotone(name: str) -> bool:
    """Whether a quantity is a bound that claims never to rise."""
    return name in BOUNDS and BOUNDS[name].monotone


def kind(name: str) -> str:
    """What a quantity is."""
    if name in BOUNDS:
        return f"{BOUNDS[name].scope}, {'' if is_monotone(name) else 'not '}monotone"
    return TRUTH[name]


def ratio(x: np.ndarray, to: np.ndarray) -> np.ndarray:
    """0 / 0, of policies that have become constant, is 1: no change."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((x == 0) & (to == 0), 1.0, x / to)


def geometric_mean(values: np.ndarray) -> float:
    """0 if any value is."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.exp(np.log(values).mean()))


# --- what is said ---------------------------------------------------------------------------------


class Findings(NamedTuple):
    """The lines by what the report asks of them."""

    lines: list[Line]

    @property
    def names(self) -> list[str]:
        """Of all quantities, the bounds first."""
        return list(self.lines[0].values)

    @property
    def sweeps(self) -> list[str]:
        """That remove weights, in the order they were made."""
        return list(dict.fromkeys(x.sweep for x in self.lines if not x.baseline))

    @property
    def groups(self) -> list[str]:
        """Of networks."""
        return list(dict.fromkeys(x.network.group for x in self.lines))

    @property
    def compared(self) -> list[str]:
        """Sweeps over the grid, and their null baselines."""
        return [x for x in dict.fromkeys(x.sweep for x in self.lines) if x != ONE_BY_ONE]

    def of(self, sweep: str | None = None, group: str | None = None) -> list[Line]:
        """Those of one sweep, or of all that remove weights, and of one group or all."""
        return [
            x
            for x in self.lines
            if (not x.baseline if sweep is None else x.sweep == sweep)
            and group in (None, x.network.group)
        ]


def verdict(found: Findings) -> Iterator[str]:
    """The claim, bound by bound, and what it costs: a sentence each."""
    risen = {name: rises(found.of(), name) for name in found.names}
    bounds = [name for name in found.names if name in BOUNDS]
    calm = [name for name in bounds if not risen[name].raised]
    yield f"The claim holds for {len(calm)} of {len(bounds)} bounds."
    if proved := [name for name in calm if is_monotone(name)]:
        yield (
            f"It holds for {', '.join(proved)}: not one of {risen[proved[0]].steps:,} pruning "
            "steps raised any of them by a single bit, and none ever will."
        )
    if lucky := [name for name in calm if not is_monotone(name)]:
        yield f"No step raised {', '.join(lucky)} here, though nothing forbids it."
    for name in bounds:
        if is_monotone(name) and name not in calm:
            yield f"Please report: {name} cannot rise, and rose in {shares(found, name)}."
    failing = [name for name in bounds if name not in calm and not is_monotone(name)]
    for name in sorted(failing, key=lambda name: -risen[name].raised / risen[name].steps):
        yield f"It fails for {name}, which rose in {shares(found, name)}."
    for name, called in TRUTH.items():
        yield f"The {called} rose in {shares(found, name)}."
    yield from what_it_costs(found)
    yield what_falls(found)
    if broken := exceeded(found.lines):
        yield f"Please report: the attack went beyond {'; '.join(broken)}."
    else:
        yield "No attack went beyond any bound."


def shares(found: Findings, name: str) -> str:
    """Of the steps of every sweep, then the largest ratios over all."""
    parts = []
    for sweep in found.sweeps:
        part = rises(found.of(sweep), name)
        parts.append(f"{part.raised / part.steps:.1%} ({sweep})")
    worst = rises(found.of(), name)
    return (
        f"{', '.join(parts)} of the steps, at most to {times(worst.step)} in one and to "
        f"{times(worst.dense)} its dense value"
    )


def what_it_costs(found: Findings) -> Iterator[str]:
    """The tightest monotone bound against the tightest of all and the attack, dense."""
    costs, sentences = [], []
    for group in found.groups:
        lines = found.of(found.sweeps[0], group)
        price, best = prices(lines, 0), tightest_monotone(lines)
        if best is None:
            return
        tightest = min(price, key=lambda name: price[name].value)
        to_tv = TOTAL_VARIATION[lines[0].network.policy.distribution]
        proved = [
            f"{name} proves D <= {price[name].value:.3g} "
            f"(TV <= {float(to_tv(jnp.asarray(price[name].value))):.3f})"
            for name in (best, tightest)
        ]
        costs.append(price[best])
        attacked = price[best].value / price[best].over_attack
        sentences.append(f"{group}: {', '.join(proved)}; the attack reached {attacked:.3g}.")
    yield (
        "The price of monotonicity, before any pruning: the tightest monotone bound is "
        f"{span([x.over_tightest for x in costs])} times the tightest of all at each state and "
        f"{span([x.over_attack for x in costs])} times what an attack reached."
    )
    yield from sentences


def tightest_monotone(lines: Sequence[Line]) -> str | None:
    """Of the dense networks; None if no monotone bound was computed."""
    price = prices(lines, 0)
    return min(filter(is_monotone, price), key=lambda name: price[name].value, default=None)


def what_falls(found: Findings) -> str:
    """How much of a falling bound the policy shares, and how much smaller weights explain."""
    level = nearest(found.lines[0].sparsity, BASELINE_LEVEL)
    bound = tightest_monotone(found.of(found.sweeps[0], found.groups[0])) or found.names[0]
    fallen = []
    for sweep in found.compared:
        of_groups = [found.of(sweep, group) for group in found.groups]
        spans = [span([relative(x, n)[level] for x in of_groups]) for n in (bound, JACOBIAN)]
        fallen.append(f"{spans[0]} and {spans[1]} ({sweep})")
    return (
        f"At sparsity {found.lines[0].sparsity[level]:.3g}, {bound} and the Jacobian norm are at "
        f"these fractions of their dense values: {', '.join(fallen)}."
    )


def span(values: Sequence[float]) -> str:
    """From the least to the largest."""
    low, high = (f"{x:.3g}" for x in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def report(found: Findings, options: Options, command: str) -> Iterator[str]:
    """The lines of report.md."""
    first, sparsity = found.sweeps[0], found.lines[0].sparsity
    yield from ("# Can pruning only tighten a certificate?", "")
    yield from ("The claim: removing weights never raises a certified bound.", "", "## Verdict", "")
    yield from (f"- {sentence}" for sentence in verdict(found))
    yield from ("", "![ratio to the dense network against sparsity](theorem.png)", "")
    for sweep in found.sweeps:
        yield from (f"## How often a step raised it: {sweep}", "")
        yield from ("Share of the steps; largest ratio in a step; largest ratio to dense.", "")
        yield from markdown({g: told(found.of(sweep, g)) for g in found.groups})
    for level in dict.fromkeys(nearest(sparsity, level) for level in LEVELS):
        yield from (f"## What bounds cost: {first}, sparsity {sparsity[level]:.3g}", "")
        yield from ("D; over the tightest bound at each state; over what the attack reached.", "")
        yield from markdown({g: priced(found.of(first, g), level) for g in found.groups})
    level = nearest(sparsity, BASELINE_LEVEL)
    yield from (f"## Null baselines: sparsity {sparsity[level]:.3g}, ratio to dense", "")
    yield from (f"{'; '.join(found.compared)}.", "")
    yield from markdown({g: baselines(found, g, level) for g in found.groups})
    facts = provenance()
    yield from (READING.format(**vars(options)), f"`{command}`", "")
    yield f"{facts['device']}, {facts['cores']} cores, {facts['versions']}, {facts['git']}"


READING = """\
## How to read this

- **Steps**: from each mask of a nested chain to the next; where a quantity depends on the state,
  a step at every one of {states} states. Of bounds that claim to be monotone every bit counts, of
  the rest a rise by more than 1e-9.
- **Sweeps**: every method that prunes a trained policy, random removal in {orders} orders, and one
  weight after another ({singles} of them) in random order. *Rescaled* keeps all weights and gives
  each kernel the Frobenius norm that the masks left it: what smaller weights alone would do.
- **D**: the change of the mean action in standard deviations (of logits, the largest) over the
  l_inf ball of radius {eps} around the normalised observation. Means over states, orders and
  networks are geometric.
- **Truth**: the Jacobian norm ||J(x)||_2 of what D measures, and the largest D that gradient ascent
  found in the ball ({steps} steps, {restarts} starts), which no bound can be below. What an
  optimiser finds, here and in the slow bounds, may also rise because it stopped elsewhere.
"""


def told(lines: Sequence[Line]) -> dict[str, str]:
    """Name -> share of the steps and largest ratios; 0 if it never rose."""
    found = {name: rises(lines, name) for name in lines[0].values}
    return {
        name: f"{x.raised / x.steps:.1%}; {times(x.step)}; {times(x.dense)}" if x.raised else "0"
        for name, x in found.items()
    }


def priced(lines: Sequence[Line], level: int) -> dict[str, str]:
    """Bound -> its value and ratios."""
    return {
        name: f"{p.value:.3g}; {times(p.over_tightest)}; {times(p.over_attack)}"
        for name, p in prices(lines, level).items()
    }


def baselines(found: Findings, group: str, level: int) -> dict[str, str]:
    """Name -> its ratio to dense at one level of every sweep that has it."""
    ratios = {
        name: [relative(found.of(sweep, group), name)[level] for sweep in found.compared]
        for name in found.names
    }
    return {name: "; ".join(f"{x:.3g}" for x in row) for name, row in ratios.items()}


def nearest(sparsity: Sequence[float], level: float) -> int:
    """The position of the sparsity next to a level."""
    return int(np.argmin(np.abs(np.asarray(sparsity) - level)))


def times(x: float) -> str:
    """A factor, with as many digits as show that it is not 1; nothing for x / 0."""
    if not np.isfinite(x):
        return "-"
    return f"{x:.4f}x" if x < 1.1 else f"{x:.3g}x"


def markdown(columns: dict[str, dict[str, str]]) -> Iterator[str]:
    """A table with a row per quantity and a column per group."""
    yield f"| | | {' | '.join(columns)} |"
    yield "|---" * (2 + len(columns)) + "|"
    for name in next(iter(columns.values())):
        cells = (column[name] for column in columns.values())
        yield f"| {name} | {kind(name)} | {' | '.join(cells)} |"
    yield ""


# --- what is written ------------------------------------------------------------------------------


def write(options: Options, lines: list[Line], command: str) -> None:
    """Tables, figure and report."""
    options.out.mkdir(parents=True, exist_ok=True)
    for name, rows in (("table", table(lines)), ("curves", curves(lines))):
        rounded = [{k: significant(v) for k, v in row.items()} for row in rows]
        columns = pa.Table.from_pylist(rounded)
        write_whole(options.out / f"{name}.csv", partial(csv.write_csv, columns))
    with plt.rc_context(STYLE):
        figure = draw(Findings(lines))
        pixels = io.BytesIO()
        figure.savefig(pixels, format="png", dpi=100)
        plt.close(figure)
    # A palette looks the same and takes a third of the space.
    image = Image.open(pixels).convert("RGB").quantize(128)
    write_whole(options.out / "theorem.png", partial(image.save, format="png"))
    text = "\n".join(report(Findings(lines), options, command)) + "\n"
    write_whole(options.out / "report.md", lambda path: path.write_text(text, encoding="utf-8"))


def table(lines: Sequence[Line]) -> Iterator[dict[str, Any]]:
    """A row per network, sweep and quantity."""
    for line in (x for x in lines if not x.baseline):
        price = prices([line], 0)
        for name, values in line.values.items():
            found, dense = rises([line], name), price.get(name)
            yield {
                "network": line.network.name,
                "sweep": line.sweep,
                "quantity": name,
                "kind": kind(name),
                "steps": found.steps,
                "raised": found.raised,
                "largest_ratio_in_a_step": found.step,
                "largest_ratio_to_dense": found.dense,
                "dense": geometric_mean(values[:, 0]),
                "dense_over_tightest": dense and dense.over_tightest,
                "dense_over_attack": dense and dense.over_attack,
            }


def curves(lines: Sequence[Line]) -> Iterator[dict[str, Any]]:
    """A row per network, sweep over a grid and sparsity: geometric means of every quantity."""
    for line in (x for x in lines if x.sweep != ONE_BY_ONE):
        for i, sparsity in enumerate(line.sparsity):
            means = {name: geometric_mean(values[:, i]) for name, values in line.values.items()}
            yield {"network": line.network.name, "sweep": line.sweep, "sparsity": sparsity} | means


def significant(x: Any) -> Any:
    """Floats to seven digits, which further decimals of an optimiser do not blur."""
    return float(f"{x:.7g}") if isinstance(x, float) else x


def draw(found: Findings) -> Figure:
    """Ratio to dense against sparsity: a column per group, two rows per method."""
    methods = [sweep for sweep in found.sweeps if sweep != ONE_BY_ONE]
    bounds = [name for name in found.names if name in BOUNDS]
    rows = [(sweep, monotone) for sweep in methods for monotone in (True, False)]
    figure, axes = plt.subplots(
        len(rows),
        len(found.groups),
        figsize=(3.3 * len(found.groups) + 1, 2.5 * len(rows) + 1),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for row, (sweep, monotone) in enumerate(rows):
        shown = [name for name in bounds if is_monotone(name) == monotone]
        for ax, group in zip(axes[row], found.groups, strict=True):
            draw_lines(ax, found.of(sweep, group), shown, "-" if monotone else "--")
        axes[row, 0].set_ylabel(f"{sweep}: ratio to dense")
    for ax, group in zip(axes[0], found.groups, strict=True):
        ax.set_title(group, fontsize=10)
    for ax in axes[-1]:
        ax.set_xlabel("sparsity")
    legend = {}
    for ax in axes[:2, 0]:
        legend |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    figure.legend(legend.values(), legend.keys(), loc="outside lower center", ncols=5)
    return figure


def draw_lines(ax: Axes, lines: Sequence[Line], bounds: Sequence[str], style: str) -> None:
    """The given bounds and the truth, which may rise above 1."""
    x = lines[0].sparsity
    for name, colour in zip(bounds, itertools.cycle(PALETTE)):
        ax.plot(x, relative(lines, name), style, color=colour, label=name, linewidth=1.4)
    for name, colour in ((JACOBIAN, "black"), (ATTACK, "0.5")):
        ax.plot(x, relative(lines, name), ":", color=colour, label=TRUTH[name], linewidth=2)
    low, high = np.quantile(to_dense(lines, JACOBIAN), (0.1, 0.9), axis=1)
    ax.fill_between(
        x, low, high, color="0.9", linewidth=0, zorder=0, label="Jacobian norm, 10 - 90 % of states"
    )
    ax.axhline(1, color="0.7", linewidth=0.8)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
