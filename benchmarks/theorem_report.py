"""What `benchmarks.theorem` found, in numbers, words and a figure."""

import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from pyarrow import csv

from benchmarks.figures import COLOURS, STYLE
from benchmarks.store import provenance
from benchmarks.whole import write_whole
from jaxprune.certify import BOUNDS, TOTAL_VARIATION
from jaxprune.types import Policy

# Whether a change of a bound that is not monotone is more than rounding. Of one that is, every bit
# counts.
ROUNDING = 1e-9
# Levels of sparsity that the tables show.
LEVELS = (0.0, 0.5, 0.75)
BASELINE_LEVEL = 0.5

PALETTE = (*COLOURS, "#7A5230")

JACOBIAN, ATTACK = "jacobian", "attack"
TRUTH = {JACOBIAN: "true Jacobian norm", ATTACK: "attack (lower bound)"}
RANDOM, ONE_BY_ONE, RESCALED = "random", "one by one", "rescaled"


class Network(NamedTuple):
    """A policy and where to look at it."""

    name: str
    group: str  # networks that the report shows together
    policy: Policy
    obs: Any  # raw float32 [n, obs_size]


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
        told = _told(values)
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
    return sum(int((~_told(line.values[name])).sum()) for line in lines)


def _told(values: np.ndarray) -> np.ndarray:
    """Whether both ends of a step are finite, `[chains, S, states] -> [chains, S - 1, states]`."""
    finite = np.isfinite(values)
    return finite[:, :-1] & finite[:, 1:]


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
    unknown = {name: untold(found.of(), name) for name in bounds}
    calm = [name for name in bounds if not risen[name].raised and not unknown[name]]
    yield f"The claim holds for {len(calm)} of {len(bounds)} bounds."
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
        parts.append(f"{part.raised / max(part.steps, 1):.1%} ({sweep})")
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


def report(found: Findings, settings: Mapping[str, Any], command: str) -> Iterator[str]:
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
    yield from (READING.format(**settings), f"`{command}`", "")
    yield f"{facts['device']}, {facts['cores']} cores, {facts['versions']}, {facts['git']}"


READING = """\
## How to read this

- **Steps**: from each mask of a nested chain to the next; where a quantity depends on the state,
  a step at every one of {states} states. Of bounds that claim to be monotone every bit counts, of
  the rest a rise by more than 1e-9. Where a bound is infinite at either end of a step, nothing is
  known of it, and it is counted apart.
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
    """Name -> share of the steps and largest ratios; 0 if it never rose; how many are not known."""

    def one(name: str) -> str:
        x, unknown = rises(lines, name), untold(lines, name)
        rose = f"{x.raised / x.steps:.1%}; {times(x.step)}; {times(x.dense)}" if x.raised else "0"
        return f"{rose}; {unknown} not known" if unknown else rose

    return {name: one(name) for name in lines[0].values}


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


def write(out: Path, found: Findings, settings: Mapping[str, Any], command: str) -> None:
    """Tables, figure and report; `settings` are those that the report explains."""
    out.mkdir(parents=True, exist_ok=True)
    for name, rows in (("table", table(found.lines)), ("curves", curves(found.lines))):
        rounded = [{k: significant(v) for k, v in row.items()} for row in rows]
        columns = pa.Table.from_pylist(rounded)
        write_whole(out / f"{name}.csv", partial(csv.write_csv, columns))
    with plt.rc_context(STYLE):
        figure = draw(found)
        pixels = io.BytesIO()
        figure.savefig(pixels, format="png", dpi=100)
        plt.close(figure)
    # A palette looks the same and takes a third of the space.
    image = Image.open(pixels).convert("RGB").quantize(128)
    write_whole(out / "theorem.png", partial(image.save, format="png"))
    text = "\n".join(report(found, settings, command)) + "\n"
    write_whole(out / "report.md", lambda path: path.write_text(text, encoding="utf-8"))


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
                "not_known": untold([line], name),
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
