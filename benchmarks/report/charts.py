"""The charts of a report, described once: `png_figures` and `html_figures` only render them.

The panels of a chart have the same axes. A run without pruning has charts of its training alone.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from benchmarks.report.contents import (
    TOLERATED_LOSS,
    Columns,
    Contents,
    Line,
    Panel,
    Remains,
    Sweep,
)
from benchmarks.report.findings import name_of, percent
from jaxprune.attacks import label_of

# Okabe and Ito's palette: distinguishable with colour-blind eyes.
COLOURS = ("#0072B2", "#E69F00", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#F0E442")
BLUE, _, RED, GREEN, *_ = COLOURS
GREY = "#999999"
# The colour of text; a page replaces it by its own.
INK = "#444444"
# Colours run out after the first; then the dashes change.
DASHES = ("solid", "dashed", "dotted", "dashdot")
# A local bound of a constant policy is what its rounding is.
ROUNDING = 1e-12
TERMS = ("clean-task performance", "pruning-induced loss", "robustness")
REMOVED = "weights removed, %"
# Of the main chart; what is worst is red.
MAIN = {"clean": (BLUE, "solid"), "MAD": (GREEN, "dashed")}
# Traces of a sweep or of training in a panel, and points of a training curve.
LEVELS, POINTS = 5, 60
SMOOTHED = ("iteration", "env_steps", "episodes", "episode_return")
# Margins around what was measured, and the size of a letter, as shares of a panel.
PAD, LETTER, HEIGHT = 0.06, 0.022, 0.08
# No band, and no agents.
UNKNOWN, NO_DOTS = np.array(np.nan), np.empty((0, 0))


class Trace(NamedTuple):
    """A curve with a mark at every point, its band and its agents."""

    name: str
    x: np.ndarray  # [n]
    y: np.ndarray  # [n]
    colour: str
    dash: str = "solid"
    low: np.ndarray = UNKNOWN  # [n], the edges of the band; none where not finite
    high: np.ndarray = UNKNOWN
    dots: np.ndarray = NO_DOTS  # [agents, n]
    shown: bool = True  # in an interactive chart before anybody asks


class Shade(NamedTuple):
    """A range of the horizontal axis."""

    low: float
    high: float
    colour: str
    words: str = ""


class Facet(NamedTuple):
    """One panel of a chart."""

    title: str
    traces: list[Trace]
    shade: Shade | None = None
    level: float | None = None  # of a dotted line
    unit: float = 1.0  # what 1 on the left-hand axis is on the right-hand one


class Chart(NamedTuple):
    """Panels with the same axes."""

    title: str
    facets: list[Facet]
    y: str
    x: str = REMOVED
    right: str = ""  # title of the right-hand axis; none where empty
    log: bool = False
    on_lines: bool = False  # names stand on the lines, not in a legend

    @property
    def y_range(self) -> tuple[float, float]:
        """Returns what the vertical axis shows; powers of 10 on a log axis."""
        traces = [trace for facet in self.facets for trace in facet.traces if trace.shown]
        levels = [f.level for f in self.facets if f.level is not None]
        parts = [np.ravel(values) for t in traces for values in (t.y, t.low, t.high)]
        seen = np.concatenate([*parts, levels])
        return _range(np.log10(seen[seen > 0]) if self.log else seen, PAD)

    @property
    def x_range(self) -> tuple[float, float]:
        """Returns what the horizontal axis shows."""
        return _range(np.concatenate([t.x for f in self.facets for t in f.traces]), PAD / 2)


def _range(values: np.ndarray, margin: float) -> tuple[float, float]:
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    around = margin * max(high - low, 0.1 * abs(high)) or 1.0
    return low - around, high + around


def charts(contents: Contents) -> dict[str, Chart]:
    """Returns the charts that a run has something for, by name."""
    found = {"training": training(contents.training), "sweep": sweep(contents.sweeps)}
    if contents.pruned:
        found |= {
            "returns": returns(contents),
            "attacks": attacks(contents),
            "change": change(contents),
            "certificates": certificates(contents),
            "regret": regret(contents),
            "layers": layers(contents.remains),
        }
    return {name: chart for name, chart in found.items() if chart.facets}


# More agents than this are not shown one by one.
MOST_DOTS = 50


def style(i: int) -> tuple[str, str]:
    """Returns colour and dash of trace number i."""
    return COLOURS[i % len(COLOURS)], DASHES[i // len(COLOURS) % len(DASHES)]


def measured(
    sparsity: np.ndarray, line: Line, name: str, colour: str, dash: str = "solid"
) -> Trace:
    """Returns a line of the contents as a trace; few seeds are dots."""
    mean, dots = np.asarray(line.interval.mean), line.seeds if line.few else NO_DOTS
    return Trace(name, 100 * sparsity, mean, colour, dash, *line.edges, dots)


def _are_several(line: Line) -> bool:
    """Whether the agents of a line are shown one by one."""
    return 1 < len(line.seeds) <= MOST_DOTS


def _every_agent(sparsity: np.ndarray, line: Line, name: str, colour: str, dash: str) -> Trace:
    """Returns a line as a trace with its agents as dots and their range, if they are several."""
    trace = measured(sparsity, line, name, colour, dash)
    if not _are_several(line):
        return trace
    return trace._replace(low=line.seeds.min(0), high=line.seeds.max(0), dots=line.seeds)


# --- returns --------------------------------------------------------------------------------------


def returns(contents: Contents) -> Chart:
    """Returns the main chart: clean, MAD and worst of all, in per cent of the dense clean return.

    Of several agents each is a dot, and the band their range: an interval for every distribution is
    so wide that it hides the curve. Of more than `MOST_DOTS` it is narrow, and is the band. There
    is no per cent of a negative return: then the axis shows returns.
    """
    facets = [_main(contents, panel) for panel in contents.panels]
    several = any(_are_several(panel.clean) for panel in contents.panels)
    spread = "dots, with their range" if several else "band: 95 %"
    radii = ", ".join(f"{eps:g}" for eps in contents.radii)
    title = f"{contents.title}, {contents.size} ({spread}), eps {radii}"
    chart = Chart(title, facets, "return", on_lines=True)
    if any(panel.dense_clean.mean <= 0 for panel in contents.panels):
        return chart
    units = [float(panel.dense_clean.mean) / 100 for panel in contents.panels]
    facets = [scaled(facet, unit) for facet, unit in zip(facets, units, strict=True)]
    return chart._replace(facets=facets, y="return, % of dense clean", right="return")


def _main(contents: Contents, panel: Panel) -> Facet:
    """Three lines, what 5 % less than the dense clean return is, and how sparse that allows."""
    traces = [
        _every_agent(panel.levels, line, name, *MAIN.get(name, (RED, "solid")))
        for name, line in panel.main.items()
    ]
    title, share = name_of(contents, panel), 0.0
    if panel.verdict is not None:
        share = panel.verdict.within_clean.sparsity
        within = f"clean return within {percent(TOLERATED_LOSS)}"
        title += f": {percent(share)} of the weights can go\n({within})"
    dense = float(panel.dense_clean.mean)
    shade = Shade(0, 100 * share, GREEN) if share else None
    return Facet(title, traces, shade, dense - TOLERATED_LOSS * abs(dense))


def scaled(facet: Facet, unit: float) -> Facet:
    """Returns a facet whose left-hand axis counts units, and whose right-hand axis shows both."""
    traces = [
        t._replace(y=t.y / unit, low=t.low / unit, high=t.high / unit, dots=t.dots / unit)
        for t in facet.traces
    ]
    level = None if facet.level is None else facet.level / unit
    return facet._replace(traces=traces, level=level, unit=unit)


def attacks(contents: Contents) -> Chart:
    """Returns the chart with a trace per attack; of many, the strongest are shown at first."""

    def facet(panel: Panel) -> Facet:
        traces = [measured(panel.sparsity, panel.clean, "clean", *style(0))]
        for i, line in enumerate(panel.attacks):
            trace = measured(panel.sparsity, line, label_of(line.name), *style(i + 1))
            traces.append(trace._replace(shown=i < panel.shown))
        traces.append(measured(panel.sparsity, panel.worst, "worst of all", INK))
        dense = float(panel.dense_clean.mean)
        return Facet(name_of(contents, panel), traces, level=dense)

    return Chart("Return under each attack", list(map(facet, contents.panels)), "return")


def change(contents: Contents) -> Chart:
    """Returns what pruning changes in the worst-of return: a trace per method."""
    facets = [
        Facet(
            f"eps {panels[0].eps:g}",
            [measured(p.sparsity, p.change, p.method, *style(i)) for i, p in enumerate(panels)],
            level=0.0,
        )
        for panels in contents.by_radius
    ]
    return Chart("Change of the return under attack", facets, "pruned less dense")


# --- explanations ---------------------------------------------------------------------------------


def certificates(contents: Contents) -> Chart:
    """Returns the upper bounds on D, and what attacks reached."""

    def facet(panel: Panel) -> Facet:
        traces = _between(panel)
        for i, bound in enumerate(panel.proved.bounds):
            local, monotone = bound.scope == "local", bound.monotone and panel.nested
            words = f"{'' if monotone else 'not '}monotone{', visited states' if local else ''}"
            dash = "solid" if monotone else "dashdot" if local else "dashed"
            name = f"{bound.bound}, {words}"
            traces.append(_positive(bound.sparsity, bound.values, name, style(i)[0], dash))
        for i, line in enumerate(panel.reached):
            name, dash = f"{label_of(line.name)}, reached", DASHES[1 + i % 3]
            trace = _positive(panel.sparsity, line.seeds, name, INK, dash)
            traces.append(trace._replace(shown=i < panel.shown))
        return Facet(name_of(contents, panel), traces, _constant(panel))

    facets = [facet(panel) for panel in contents.panels]
    return Chart("What can move the policy", facets, f"D ({contents.units['D']})", log=True)


def _positive(sparsity: np.ndarray, values: np.ndarray, name: str, colour: str, dash: str) -> Trace:
    """Geometric mean and range over the seeds, `[seeds, S]`; a log axis has no place for zeros."""
    positive = np.ma.masked_less_equal(values, ROUNDING)
    mean = np.ma.exp(np.ma.log(positive).mean(0))
    y, low, high = (x.filled(np.nan) for x in (mean, positive.min(0), positive.max(0)))
    return Trace(name, 100 * sparsity, y, colour, dash, low, high)


def _between(panel: Panel) -> list[Trace]:
    """The area from the strongest attack up to the tightest bound that holds everywhere."""
    bounds = [b.values.mean(0) for b in panel.proved.bounds if b.scope == "global"]
    reached = [line.seeds.mean(0) for line in panel.reached]
    if not bounds or not reached:
        return []
    low, high = np.max(reached, 0), np.min(bounds, 0)
    both = (low > ROUNDING) & (high > ROUNDING)
    x, nothing = 100 * panel.sparsity[both], np.full(both.sum(), np.nan)
    name = "between attack and certificate"
    return [Trace(name, x, nothing, GREY, low=low[both], high=high[both])]


def _constant(panel: Panel) -> Shade | None:
    """Where a bound is 0 for every seed, which a log axis cannot show."""
    dead = [x for b in panel.proved.bounds for x in b.sparsity[b.values.max(0) < ROUNDING]]
    if not dead or panel.eps == 0:  # a ball of radius 0 moves no policy
        return None
    words = "D = 0: the policy is constant"
    return Shade(100 * min(dead) - 2.5, 100 * max(dead) + 2.5, GREY, words)


def regret(contents: Contents) -> Chart:
    """Returns the three terms of the regret, and their sum."""

    def facet(panel: Panel) -> Facet:
        curve = panel.regrets["returns"]
        terms = zip(TERMS, (curve.clean, curve.pruning, curve.robustness), strict=True)
        traces = [
            Trace(name, 100 * panel.sparsity, np.asarray(term.mean), *style(i + 3))
            for i, (name, term) in enumerate(terms)
        ]
        total = Line("total", curve.total, curve.agents)
        traces.append(measured(panel.sparsity, total, "total", INK))
        return Facet(f"{name_of(contents, panel)} ({curve.attack})", traces, level=0.0)

    return Chart("Regret to the reference", list(map(facet, contents.panels)), "return")


def layers(remains: Mapping[str, Remains]) -> Chart:
    """Returns how sparse each layer is."""
    facets = [
        Facet(
            method,
            [
                Trace(short(name), 100 * left.sparsity, 100 * share, *style(i))
                for i, (name, share) in enumerate(zip(left.layers, left.shares, strict=True))
            ],
        )
        for method, left in remains.items()
    ]
    return Chart("Sparsity of each layer", facets, "weights of the layer removed, %")


def short(path: str) -> str:
    """actor/layer_0/kernel -> layer 0."""
    return path.split("/")[1].replace("_", " ")


def sweep(sweeps: Mapping[str, Sweep]) -> Chart:
    """Returns the worst-of return against eps: a trace per sparsity."""

    def facet(method: str, found: Sweep) -> Facet:
        traces = []
        for place, i in enumerate(some(len(found.sparsity)).tolist()):
            mean, low, high = (np.asarray(x)[:, i] for x in found.returns)
            name, x = f"{percent(float(found.sparsity[i]))} removed", np.array(found.radii)
            traces.append(Trace(name, x, mean, *style(place), low, high))
        return Facet(method, traces)

    facets = [facet(method, found) for method, found in sweeps.items()]
    return Chart("Return against eps", facets, "worst-of return", x="eps")


def some(count: int) -> np.ndarray:
    """Returns a few of so many indices, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, LEVELS)).astype(int))


def training(table: Columns) -> Chart:
    """Returns the return against env steps: a trace per target, with the range of the seeds."""

    def trace(place: int, method: str, target: float) -> Trace:
        rows = (table["method"] == method) & (table["sparsity"] == target)
        steps, returns = smoothed(table, rows)
        low, high, mean = (f(returns, 0) for f in (np.nanmin, np.nanmax, np.nanmean))
        return Trace(f"{percent(target)} removed", steps, mean, *style(place), low, high)

    facets = []
    targets = np.unique(table.get("sparsity", ()))
    shown = targets[some(len(targets))].tolist()
    for method in dict.fromkeys(table.get("method", ())):
        there = set(table["sparsity"][table["method"] == method].tolist())
        traces = [trace(i, method, target) for i, target in enumerate(shown) if target in there]
        facets.append(Facet(str(method).replace("none", "dense"), traces))
    return Chart("Training", facets, "return of finished episodes", x="env steps")


def smoothed(training: Columns, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Env steps `[points]` and mean returns of the episodes that ended since, `[seeds, points]`.

    Points at which no episode had ended are left out.
    """
    seeds = np.unique(training["seed"][rows])
    order = np.lexsort([training[name][rows] for name in ("iteration", "seed")])
    part = {name: training[name][rows][order].reshape(len(seeds), -1) for name in SMOOTHED}
    points = min(POINTS, part["iteration"].shape[1])
    blocks = np.array_split(np.arange(part["iteration"].shape[1]), points)
    total = np.nan_to_num(part["episode_return"]) * part["episodes"]
    with np.errstate(invalid="ignore"):
        means = [total[:, b].sum(1) / part["episodes"][:, b].sum(1) for b in blocks]
    steps, returns = np.array([part["env_steps"][0, b[-1]] for b in blocks]), np.stack(means, 1)
    ended = np.isfinite(returns).any(0)  # episodes that all end at the time limit end together
    return steps[ended], returns[:, ended]


# --- names on lines -------------------------------------------------------------------------------


def places(chart: Chart, facet: Facet) -> list[tuple[float, float]]:
    """Returns where the middle of every name is: near its own line, far from lines and names."""
    (left, right), (bottom, top) = chart.x_range, chart.y_range
    grid = np.linspace(0, 1, 201)
    lines = [((t.x - left) / (right - left), (t.y - bottom) / (top - bottom)) for t in facet.traces]
    paths = np.array([np.interp(grid, *line) for line in lines])
    taken: list[tuple[float, float, float]] = []  # x, y and half the width of every name

    def room(own: int, x: float, y: float, half: float) -> float:
        """How far the nearest line or name is, and other lines are from its own one."""
        near = abs(grid - x) <= half
        names = [abs(y - other) for at, other, size in taken if abs(x - at) < half + size]
        gaps = [abs(paths[:, near] - y).min(), *(gap - HEIGHT / 2 for gap in names), y, 1 - y]
        others = np.delete(paths, own, axis=0)[:, near] - paths[own, near]
        return min(*gaps, HEIGHT) + min(abs(others).mean(1).min(initial=1.0), HEIGHT) / 2

    for own, (trace, (xs, ys)) in enumerate(zip(facet.traces, lines, strict=True)):
        half = LETTER * (len(trace.name) + 1) / 2
        spots = [
            (float(np.clip(x, half, 1 - half)), y + side * HEIGHT * 0.75)
            for x, y in zip(xs, ys, strict=True)
            for side in (1, -1)
        ]
        taken.append((*max(spots, key=lambda spot: room(own, *spot, half)), half))
    return [(left + x * (right - left), bottom + y * (top - bottom)) for x, y, _ in taken]
