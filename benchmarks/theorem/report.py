"""What `benchmarks.theorem` found, in numbers, words and a figure."""

import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from benchmarks.report.png_figures import COLOURS, STYLE
from benchmarks.runtime.atomic import write_text, write_whole
from benchmarks.runtime.run_folder import provenance
from benchmarks.runtime.tables import markdown_table, write_csv
from benchmarks.theorem.findings import (
    ATTACK,
    BASELINE_LEVEL,
    JACOBIAN,
    LEVELS,
    ONE_BY_ONE,
    TRUTH,
    Findings,
    Line,
    geometric_mean,
    is_monotone,
    kind,
    nearest,
    prices,
    relative,
    rises,
    times,
    to_dense,
    untold,
    verdict,
)
from benchmarks.theorem.robustness import Along, f_columns, f_rows, meaning_table, sentences
from jaxprune.certify import BOUNDS

PALETTE = (*COLOURS, "#7A5230")


def report(
    found: Findings, along: Sequence[Along], settings: Mapping[str, object], command: str
) -> Iterator[str]:
    """The lines of report.md."""
    first, sparsity = found.sweeps[0], found.lines[0].sparsity
    yield from ("# Can pruning only tighten a certificate?", "")
    yield from ("The claim: removing weights never raises a certified bound.", "", "## Verdict", "")
    yield from (f"- {sentence}" for sentence in (*sentences(along), *verdict(found)))
    yield from ("", *_own_states(along))
    yield from ("![ratio to the dense network against sparsity](theorem.png)", "")
    for sweep in found.sweeps:
        yield from (f"## How often a step raised it, state by state: {sweep}", "")
        yield from (f"{STATES_SHOWN if along else RANDOM_STATES}, pooled over networks.", "")
        yield from ("Share of the steps; largest ratio in a step; largest ratio to dense.", "")
        yield from markdown({g: told(found.of(sweep, g)) for g in found.groups})
    for level in dict.fromkeys(nearest(sparsity, level) for level in LEVELS):
        yield from (f"## What bounds cost: {first}, sparsity {sparsity[level]:.3g}", "")
        yield from ("D; in action units; over the tightest at each state; over the attack's.", "")
        yield from markdown({g: _priced(found.of(first, g), level) for g in found.groups})
    level = nearest(sparsity, BASELINE_LEVEL)
    yield from (f"## Null baselines: sparsity {sparsity[level]:.3g}, ratio to dense", "")
    yield from (f"{'; '.join(found.compared)}.", "")
    yield from markdown({g: baselines(found, g, level) for g in found.groups})
    facts = provenance()
    yield from (((READING_F if along else "") + READING).format(**settings), f"`{command}`", "")
    yield f"{facts['device']}, {facts['cores']} cores, {facts['versions']}, {facts['git']}"


STATES_SHOWN = "At states that the dense policy visits (random networks: at normal states)"
RANDOM_STATES = "At normal states"
READING_F = """\
## How to read F

- **F**: the mean over the steps of a policy's episodes of the largest total variation in the ball.
  The policy acts with its mean, {episodes} episodes at each sparsity, {visits} steps of each.
  *At least* is what the attack found, *at most* the smallest of the fast bounds at each state; the
  95 % interval holds F, from the lower end of the first to the upper end of the second. Intervals
  are Student's, of the ratio of sums over episodes (linearised), because states of an episode are
  alike. A change is of pairs of episodes that start alike; of steps that change nothing one in 40
  rises beyond its interval.
- **SD of the action**: sqrt(sum_j Var(mu_j)) over the same steps, in action units. **D found** is
  the mean of ||mu(s) - mu(s')||_2 at what the attack found. Their ratio says whether D falls
  because the policy does less.

"""


def _own_states(along: Sequence[Along]) -> Iterator[str]:
    """F policy by policy, and where monotone bounds say anything."""
    for one in along:
        yield from (f"## F of {one.network}, magnitude", "", *markdown_table(*f_rows(one)), "")
        yield from (f"## Where a monotone bound says anything: {one.network}", "")
        yield from (*markdown_table(*meaning_table(one), left=1), "")


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
  l_inf ball of radius {eps} around the normalised observation. Standard deviations differ between
  policies: compare D in action units. Means over states, orders and
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


def _priced(lines: Sequence[Line], level: int) -> dict[str, str]:
    """Bound -> its value and ratios."""
    return {
        name: f"{p.value:.3g}; {p.action:.3g}; {times(p.over_tightest)}; {times(p.over_attack)}"
        for name, p in prices(lines, level).items()
    }


def baselines(found: Findings, group: str, level: int) -> dict[str, str]:
    """Name -> its ratio to dense at one level of every sweep that has it."""
    ratios = {
        name: [relative(found.of(sweep, group), name)[level] for sweep in found.compared]
        for name in found.names
    }
    return {name: "; ".join(f"{x:.3g}" for x in row) for name, row in ratios.items()}


def markdown(columns: dict[str, dict[str, str]]) -> list[str]:
    """A table with a row per quantity and a column per group."""
    names = next(iter(columns.values()))
    rows = [[name, kind(name), *(column[name] for column in columns.values())] for name in names]
    header = ["", "", *columns]
    return [*markdown_table(header, rows, left=len(header)), ""]


# --- what is written ------------------------------------------------------------------------------


def write(
    out: Path,
    found: Findings,
    along: Sequence[Along],
    settings: Mapping[str, object],
    command: str,
) -> None:
    """Tables, figure and report; `settings` are those that the report explains."""
    out.mkdir(parents=True, exist_ok=True)
    tables = {"table": table(found.lines), "curves": curves(found.lines)}
    for name, rows in (tables | ({"robustness": f_columns(along)} if along else {})).items():
        rounded = [{k: _significant(v) for k, v in row.items()} for row in rows]
        write_csv(out / f"{name}.csv", rounded)
    with plt.rc_context(STYLE):
        figure = draw(found)
        pixels = io.BytesIO()
        figure.savefig(pixels, format="png", dpi=100)
        plt.close(figure)
    # A palette looks the same and takes a third of the space.
    image = Image.open(pixels).convert("RGB").quantize(128)
    write_whole(out / "theorem.png", partial(image.save, format="png"))
    text = "\n".join(report(found, along, settings, command)) + "\n"
    write_text(out / "report.md", text)


def table(lines: Sequence[Line]) -> Iterator[Mapping[str, object]]:
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
                "dense_action_units": dense and dense.action,
                "dense_over_tightest": dense and dense.over_tightest,
                "dense_over_attack": dense and dense.over_attack,
            }


def curves(lines: Sequence[Line]) -> Iterator[Mapping[str, object]]:
    """A row per network, sweep over a grid and sparsity: geometric means of every quantity."""
    for line in (x for x in lines if x.sweep != ONE_BY_ONE):
        for i, sparsity in enumerate(line.sparsity):
            means = {name: geometric_mean(values[:, i]) for name, values in line.values.items()}
            yield {"network": line.network.name, "sweep": line.sweep, "sparsity": sparsity} | means


def _significant(x: object) -> object:
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
            _draw_lines(ax, found.of(sweep, group), shown, "-" if monotone else "--")
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


def _draw_lines(ax: Axes, lines: Sequence[Line], bounds: Sequence[str], style: str) -> None:
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
