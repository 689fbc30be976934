"""What the theorem program finds: rises, prices and the verdict, as numbers."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxprune.certify import BOUNDS, TOTAL_VARIATION
from jaxprune.envs import Environment
from jaxprune.types import AnyArray, Policy

# Whether a change of a bound that is not monotone is more than rounding. Of one that is, every bit
# counts.
ROUNDING = 1e-9
# Levels of sparsity that the tables show.
LEVELS = (0.0, 0.5, 0.75)
BASELINE_LEVEL = 0.5

JACOBIAN, ATTACK = "jacobian", "attack"
TRUTH = {JACOBIAN: "true Jacobian norm", ATTACK: "attack (lower bound)"}
MOVED = "attack, action units"
RANDOM, ONE_BY_ONE, RESCALED = "random", "one by one", "rescaled"


class Network(NamedTuple):
    """A policy and where to look at it."""

    name: str
    group: str  # networks that the report shows together
    policy: Policy
    obs: AnyArray  # raw float32 [n, obs_size]
    env: Environment | None = None  # where it acts; None of a random network


class Line(NamedTuple):
    """Everything measured along one sweep of one network."""

    network: Network
    sweep: str
    sparsity: list[float]  # [S]
    values: dict[str, np.ndarray]  # name -> [chains, S, states], one state if valid everywhere
    baseline: bool = False  # nothing was removed
    actions: dict[str, np.ndarray] | None = None  # D in action units, as `values`; None of logits

    def at_states(self, name: str) -> np.ndarray:
        """A quantity with its value at every state, `[chains, S, states]`."""
        return np.broadcast_to(self.values[name], self.values[ATTACK].shape)


# --- what follows ---------------------------------------------------------------------------------


class Rises(NamedTuple):
    """How often and how much a quantity rose along nested masks."""

    steps: int  # times the states, without those of which nothing is known
    raised: int
    step: float  # largest ratio to the level before
    dense: float  # largest ratio to the dense network


def rises(lines: Sequence[Line], name: str) -> Rises:
    """Over networks, sweeps, chains, levels and states. Of steps from or to a number."""
    tolerance = 0 if is_monotone(name) else ROUNDING
    found = []
    for values in (line.values[name] for line in lines):
        before, after = values[:, :-1], values[:, 1:]
        told = _is_known(values)
        raised = told & (after > before * (1 + tolerance))
        largest = (
            ratio(after, x).max(where=told & np.isfinite(x), initial=-np.inf)
            for x in (before, values[:, :1])
        )
        found.append((told.sum(), raised.sum(), *largest))
    steps, raised, step, dense = zip(*found, strict=True)
    return Rises(int(sum(steps)), int(sum(raised)), float(max(step)), float(max(dense)))


def untold(lines: Sequence[Line], name: str) -> int:
    """Steps, times the states, from or to what is infinite or NaN: nobody knows if these rose."""
    return sum(int((~_is_known(line.values[name])).sum()) for line in lines)


def _is_known(values: np.ndarray) -> np.ndarray:
    """Whether both ends of a step are finite, `[chains, S, states] -> [chains, S - 1, states]`."""
    finite = np.isfinite(values)
    return finite[:, :-1] & finite[:, 1:]


class Price(NamedTuple):
    """Geometric means over states and networks."""

    value: float  # of D
    action: float  # of D in action units; NaN of logits
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
    actions = {
        name: [line.actions[name][0, level] if line.actions else np.nan for line in lines]
        for name in names
    }
    return {
        name: Price(
            geometric_mean(at[name]),
            geometric_mean(np.concatenate([np.ravel(x) for x in actions[name]])),
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
    unknown = {name: untold(found.of(), name) for name in bounds}
    calm = [name for name in bounds if not risen[name].raised and not unknown[name]]
    yield (
        f"State by state (at the dense policy's states, pooled over nets), the claim holds for "
        f"{len(calm)} of {len(bounds)} bounds."
    )
    if proved := [name for name in calm if is_monotone(name)]:
        yield (
            f"It holds for {', '.join(proved)}: not one of {risen[proved[0]].steps:,} pruning "
            "steps raised any of them by a single bit, and none ever will."
        )
    if lucky := [name for name in calm if not is_monotone(name)]:
        yield f"No step raised {', '.join(lucky)} here, though nothing forbids it."
    for name in (name for name in bounds if unknown[name]):
        yield (
            f"It is not known for {name}: {unknown[name]:,} of the steps start or end at what is "
            "infinite or no number."
        )
    for name in bounds:
        if is_monotone(name) and risen[name].raised:
            yield f"Please report: {name} cannot rise, and rose in {shares(found, name)}."
    failing = [name for name in bounds if risen[name].raised and not is_monotone(name)]
    for name in sorted(failing, key=lambda name: -risen[name].raised / risen[name].steps):
        yield f"It fails for {name}, which rose in {shares(found, name)}."
    for name, called in TRUTH.items():
        yield f"The {called} rose in {shares(found, name)}."
    yield from _what_it_costs(found)
    yield _what_falls(found)
    if broken := exceeded(found.lines):
        yield f"Please report: the attack went beyond {'; '.join(broken)}."
    else:
        yield "No attack went beyond any bound."


def shares(found: Findings, name: str) -> str:
    """Of the steps of every sweep, then the largest ratios over all."""
    parts = []
    for sweep in found.sweeps:
        part = rises(found.of(sweep), name)
        parts.append(f"{part.raised / max(part.steps, 1):.1%} ({sweep})")
    worst = rises(found.of(), name)
    return (
        f"{', '.join(parts)} of the steps, at most to {times(worst.step)} in one and to "
        f"{times(worst.dense)} its dense value"
    )


def _what_it_costs(found: Findings) -> Iterator[str]:
    """The tightest monotone bound against the tightest of all and the attack, dense."""
    costs, sentences = [], []
    for group in found.groups:
        lines = found.of(found.sweeps[0], group)
        price, best = prices(lines, 0), _tightest_monotone(lines)
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


def _tightest_monotone(lines: Sequence[Line]) -> str | None:
    """Of the dense networks; None if no monotone bound was computed."""
    price = prices(lines, 0)
    return min(filter(is_monotone, price), key=lambda name: price[name].value, default=None)


def _what_falls(found: Findings) -> str:
    """How much of a falling bound the policy shares, and how much smaller weights explain."""
    level = nearest(found.lines[0].sparsity, BASELINE_LEVEL)
    bound = _tightest_monotone(found.of(found.sweeps[0], found.groups[0])) or found.names[0]
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


def nearest(sparsity: Sequence[float], level: float) -> int:
    """The position of the sparsity next to a level."""
    return int(np.argmin(np.abs(np.asarray(sparsity) - level)))


def times(x: float) -> str:
    """A factor, with as many digits as show that it is not 1; nothing for x / 0."""
    if not np.isfinite(x):
        return "-"
    return f"{x:.4f}x" if x < 1.1 else f"{x:.3g}x"
