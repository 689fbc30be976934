"""The interactive charts of report.html, from the contents to plotly figures.

Axes follow what was measured, means and seeds, and not the bands, which few seeds make enormous.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go

from benchmarks.report.contents import SEEDS, Contents, Line, Panel, Remains, Sweep
from benchmarks.report.png_figures import COLOURS, ROUNDING, TERMS
from benchmarks.report.rows import short
from jaxprune.attacks import label_of
from jaxprune.statistics import Interval

# A colour that the page replaces by that of its text, which depends on the reader's scheme.
INK = "#444444"
# Colours run out after the first; then the dashes change.
DASHES = ("solid", "dash", "dot", "dashdot")
# Opacity; bands of a few seeds are wide and would bury what is behind them.
BAND, FAINT = 0.15, 0.04
HEIGHT, PAD = 430, 0.06
SPARSITY = "sparsity"
LEVELS = 6  # lines of a sweep
LEGEND = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "maxheight": 150}
Trace = dict[str, Any]


class Chart(NamedTuple):
    """A figure and what is written above it."""

    caption: str
    figure: go.Figure


def charts(contents: Contents) -> dict[str, list[Chart]]:
    """By the name of the picture that they stand for in the text."""
    by_method, by_radius = contents.by_method, contents.by_radius
    each: dict[str, Callable[[list[Panel]], go.Figure]] = {
        "returns.png": _returns,
        "certificates.png": lambda panels: _certificates(panels, contents.units["D"]),
        "regret.png": _regret,
    }
    found = {
        name: [Chart(method, draw(panels)) for method, panels in by_method.items()]
        for name, draw in each.items()
    }
    found["worst.png"] = [Chart("each agent under its own worst adversary", _worst(by_radius))]
    found["change.png"] = [Chart("difference to the dense agents, in pairs", _change(by_radius))]
    found["layers.png"] = [Chart(name, _layers(left)) for name, left in contents.remains.items()]
    if contents.sweeps:
        found["sweep.png"] = [Chart(name, _sweep(x)) for name, x in contents.sweeps.items()]
    return found


# --- figures --------------------------------------------------------------------------------------


def _returns(panels: Sequence[Panel]) -> go.Figure:
    """Return against sparsity of one method, a line per adversary, the strongest ones shown."""

    def traces(panel: Panel) -> Iterator[Trace]:
        yield from _lines(panel.sparsity, panel.clean, _style(0), "clean")
        for i, line in enumerate(panel.attacks):
            name = label_of(line.name)
            shown = i < panel.shown
            yield from _lines(panel.sparsity, line, _style(i + 1), name, shown=shown)
        yield from _lines(panel.sparsity, panel.worst, {"color": INK}, "worst of all")
        yield _level(panel.sparsity, panel.dense_clean, "dense, clean", "dash")
        yield _level(panel.sparsity, panel.dense_worst, "dense, worst of all", "dot")

    seen = [x for p in panels for line in (p.clean, p.worst, *p.attacks) for x in _seen(line)]
    seen += [np.ravel(x) for p in panels for x in (p.dense_clean.mean, p.dense_worst.mean)]
    return _by_eps([(p.eps, list(traces(p))) for p in panels], _axis("return per episode", seen))


def _worst(by_radius: Sequence[Sequence[Panel]]) -> go.Figure:
    """The worst-of return, a line per method."""

    def traces(panels: Sequence[Panel]) -> Iterator[Trace]:
        for i, panel in enumerate(panels):
            yield from _lines(panel.sparsity, panel.worst, _style(i), panel.method)
        unpruned = {panel.dense: panel for panel in panels}
        for i, (label, panel) in enumerate(unpruned.items()):
            name = "dense" if len(unpruned) == 1 else f"dense, {label.removesuffix(' none')}"
            yield _level(panel.sparsity, panel.dense_worst, name, DASHES[1 + i % 3])

    seen = [x for panels in by_radius for p in panels for x in _seen(p.worst)]
    seen += [np.ravel(p.dense_worst.mean) for panels in by_radius for p in panels]
    groups = [(panels[0].eps, list(traces(panels))) for panels in by_radius]
    return _by_eps(groups, _axis("return per episode", seen))


def _change(by_radius: Sequence[Sequence[Panel]]) -> go.Figure:
    """What pruning changes in the worst-of return, a line per method around 0."""

    def traces(panels: Sequence[Panel]) -> Iterator[Trace]:
        for i, panel in enumerate(panels):
            yield from _lines(panel.sparsity, panel.change, _style(i), panel.method)
        nothing = Interval(0.0, np.nan, np.nan)
        yield _level(panels[0].sparsity, nothing, "dense", "dash")

    seen = [x for panels in by_radius for p in panels for x in _seen(p.change)]
    groups = [(panels[0].eps, list(traces(panels))) for panels in by_radius]
    return _by_eps(groups, _axis("change of the return", [*seen, np.zeros(1)]))


def _certificates(panels: Sequence[Panel], unit: str) -> go.Figure:
    """Bounds on D, what attacks reached, and between them the range in which the truth lies."""

    def traces(panel: Panel) -> Iterator[Trace]:
        yield from _truth(panel)
        for i, bound in enumerate(panel.bounds):
            local = bound.scope == "local"
            monotone = bound.monotone and panel.nested
            words = "monotone" if monotone else "not monotone"
            name = f"{bound.bound}, {words}{', visited states' if local else ''}"
            dash = "solid" if monotone else "dashdot" if local else "dash"
            style = {"color": COLOURS[i % len(COLOURS)], "dash": dash}
            yield from _positive(bound.sparsity, bound.values, style, name)
        for i, line in enumerate(panel.reached):
            name = f"{label_of(line.name)}, reached"
            style = {"color": INK, "dash": DASHES[1 + i % 3]}
            yield from _positive(panel.sparsity, line.seeds, style, name, i < panel.shown)

    axis = {"title": {"text": f"D ({unit})"}, "type": "log", "exponentformat": "power"}
    return _by_eps([(p.eps, list(traces(p))) for p in panels], axis)


def _truth(panel: Panel) -> Iterator[Trace]:
    """The area from the strongest attack up to the tightest bound that holds everywhere."""
    bounds = [b.values.mean(0) for b in panel.bounds if b.scope == "global"]
    if not bounds or not panel.reached:
        return
    upper = np.min(bounds, axis=0)
    lower = np.max([line.seeds.mean(0) for line in panel.reached], axis=0)
    both = (upper > ROUNDING) & (lower > ROUNDING)
    name = "between attack and certificate"
    if both.any():
        yield _area(panel.sparsity[both], lower[both], upper[both], "#999999", name, legend=True)


def _regret(panels: Sequence[Panel]) -> go.Figure:
    """The three terms stacked, negative ones below zero, and their total."""

    def traces(panel: Panel) -> Iterator[Trace]:
        curve, x = panel.regrets["returns"], panel.sparsity
        width = min(0.08, 0.8 * np.diff(x).min() if len(x) > 1 else 0.08)
        for term, name, colour in zip(
            (curve.clean, curve.pruning, curve.robustness), TERMS, COLOURS[3:], strict=False
        ):
            yield {
                "type": "bar",
                "x": x,
                "y": term.mean,
                "width": width,
                "name": name,
                "marker": {"color": colour},
                **_hover(name, term),
            }
        line = Line("total", curve.total, np.asarray(curve.total.mean)[None])
        yield from _lines(panel.sparsity, line, {"color": INK}, f"total ({curve.attack})")

    figure = _by_eps(
        [(p.eps, list(traces(p))) for p in panels], {"title": {"text": "regret (return)"}}
    )
    return figure.update_layout(barmode="relative")


def _layers(left: Remains) -> go.Figure:
    """How sparse each layer is, as a map."""
    words = [short(name) for name in left.layers]
    # Categories, so that a list of any sparsities has cells of one size.
    trace = {
        "type": "heatmap",
        "x": [f"{level:.3g}" for level in left.sparsity],
        "y": words,
        "z": left.shares,
        "zmin": 0,
        "zmax": 1,
        "colorscale": "Cividis",
        "colorbar": {"thickness": 12, "title": {"text": "removed"}, "tickformat": ".0%"},
        "hovertemplate": "%{y}<br>sparsity %{x}<br>removed %{z:.1%}<extra></extra>",
    }
    figure = _figure([trace], {"type": "category", "autorange": "reversed"})
    figure.update_xaxes(type="category", title={"text": "sparsity asked for"}, range=None)
    return figure.update_layout(height=150 + 42 * len(words), showlegend=False)


def _sweep(found: Sweep) -> go.Figure:
    """The worst-of return against eps, a line per sparsity."""
    radii, sparsity, returns, _ = found
    shown = np.unique(np.linspace(0, len(sparsity) - 1, LEVELS).astype(int))
    traces: list[Trace] = []
    for place, i in enumerate(shown):
        interval = Interval(*(x[:, i] for x in returns))
        line = Line("", interval, np.asarray(interval.mean)[None])
        name = f"sparsity {sparsity[i]:.3g}"
        traces += _lines(np.array(radii), line, _style(place), name, what="eps")
    figure = _figure(traces, _axis("worst-of return", [returns.mean[:, shown]]))
    return figure.update_xaxes(title={"text": "eps"}, range=[-0.03 * radii[-1], 1.03 * radii[-1]])


# --- parts ----------------------------------------------------------------------------------------


def _style(i: int) -> Trace:
    """Of line number i: a colour, and another dash where colours repeat."""
    return {"color": COLOURS[i % len(COLOURS)], "dash": DASHES[i // len(COLOURS) % len(DASHES)]}


def _lines(
    x: np.ndarray, line: Line, style: Trace, name: str, shown: bool = True, what: str = SPARSITY
) -> Iterator[Trace]:
    """A line with its band and its seeds; the legend switches all three."""
    visible = True if shown else "legendonly"
    mean, low, high = (np.asarray(y, float) for y in line.interval)
    group = {"legendgroup": name, "visible": visible}
    if np.isfinite(low).any():
        low, high = (np.where(np.isfinite(y), y, mean) for y in (low, high))
        faint = 1 < len(line.seeds) < SEEDS
        yield _area(x, low, high, style["color"], name, FAINT if faint else BAND) | group
    if len(line.seeds) > 1:
        yield {
            "x": np.tile(x, len(line.seeds)),
            "y": line.seeds.ravel(),
            "mode": "markers",
            "marker": {"color": style["color"], "size": 4, "opacity": 0.45},
            "showlegend": False,
            "hoverinfo": "skip",
            **group,
        }
    yield _curve(x, mean, style, name, size=5) | _hover(name, line.interval, what) | group


def _curve(x: np.ndarray, y: np.ndarray, style: Trace, name: str, size: int) -> Trace:
    """A line with a mark at every sparsity."""
    return {
        "x": x,
        "y": y,
        "mode": "lines+markers",
        "name": name,
        "line": {"width": 2, **style},
        "marker": {"size": size},
    }


def _positive(
    x: np.ndarray, values: np.ndarray, style: Trace, name: str, shown: bool = True
) -> Iterator[Trace]:
    """Geometric mean and range over the seeds, `[seeds, S]`; zeros have no place on a log axis."""
    values = np.where(values > ROUNDING, values, np.nan)
    some = np.isfinite(values).any(0)
    if not some.any():
        return
    x, values = x[some], values[:, some]
    mean = np.exp(np.nanmean(np.log(values), axis=0))
    edges = Interval(mean, np.nanmin(values, 0), np.nanmax(values, 0))
    group = {"legendgroup": name, "visible": True if shown else "legendonly"}
    if len(values) > 1:
        yield _area(x, edges.low, edges.high, style["color"], name) | group
    yield _curve(x, mean, style, name, size=3) | _hover(name, edges, digits=".3g") | group


def _area(
    x: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    colour: str,
    name: str,
    opacity: float = BAND,
    legend: bool = False,
) -> Trace:
    """The area between two curves."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return {
        "x": np.concatenate([x, x[::-1]]),
        "y": np.concatenate([high, low[::-1]]),
        "fill": "toself",
        "fillcolor": f"rgba({red},{green},{blue},{opacity})",
        "mode": "lines",
        "line": {"width": 0},
        "name": name,
        "showlegend": legend,
        "hoverinfo": "skip",
    }


def _level(x: np.ndarray, interval: Interval, name: str, dash: str) -> Trace:
    """A horizontal line for the unpruned agents, `[]`."""
    wide = Interval(*(np.full(2, float(y)) for y in interval))
    return {
        "x": [0.0, float(x.max())],
        "y": wide.mean,
        "mode": "lines",
        "name": name,
        "line": {"color": INK, "width": 1.5, "dash": dash},
        **_hover(name, wide),
    }


def _hover(name: str, interval: Interval, what: str = SPARSITY, digits: str = ".0f") -> Trace:
    """Mean and interval where the pointer is."""
    low, high = (np.asarray(y, float) for y in interval[1:])
    known = np.isfinite(low) & np.isfinite(high)
    words = [
        f" [{a:{digits}}, {b:{digits}}]" if k else ""
        for a, b, k in zip(low, high, known, strict=True)
    ]
    text = f"{name}<br>{what} %{{x:.3g}}<br>%{{y:{digits}}}%{{customdata}}<extra></extra>"
    return {"customdata": words, "hovertemplate": text}


def _seen(line: Line) -> list[np.ndarray]:
    """What an axis has to show of a line."""
    return [np.ravel(line.interval.mean), line.seeds.ravel()]


def _axis(title: str, seen: Sequence[np.ndarray]) -> Trace:
    """A y axis that shows some values and a little more."""
    values = np.concatenate([np.ravel(x) for x in seen])
    values = values[np.isfinite(values)]
    low, high = (values.min(), values.max()) if values.size else (0.0, 1.0)
    margin = PAD * max(high - low, 0.1 * abs(high)) or 1.0
    return {"title": {"text": title}, "range": [float(low - margin), float(high + margin)]}


def _by_eps(groups: Sequence[tuple[float, list[Trace]]], yaxis: Trace) -> go.Figure:
    """One figure with the traces of every radius, of which a menu shows one."""
    first = groups[0][0]
    traces = [
        trace if eps == first else {**trace, "visible": False}
        for eps, group in groups
        for trace in group
    ]
    figure = _figure(traces, yaxis)
    if len(groups) == 1:
        return figure
    buttons = [
        {
            "label": f"eps = {eps:g}",
            "method": "restyle",
            "args": [
                {
                    "visible": [
                        trace.get("visible", True) if shown == eps else False
                        for shown, group in groups
                        for trace in group
                    ]
                }
            ],
        }
        for eps, _ in groups
    ]
    below = {"x": 0, "xanchor": "left", "y": 0, "yanchor": "top", "pad": {"t": 48}}
    return figure.update_layout(updatemenus=[{"buttons": buttons, "direction": "up", **below}])


def _figure(traces: Sequence[Trace], yaxis: Trace) -> go.Figure:
    axis = {"automargin": True, "zeroline": False, "ticks": "outside", "ticklen": 4}
    return go.Figure(
        [{"type": "scatter", **trace} for trace in traces],
        {
            "template": "none",
            "height": HEIGHT,
            "margin": {"l": 8, "r": 8, "t": 12, "b": 8},
            "font": {"family": "system-ui, sans-serif", "size": 13, "color": INK},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "xaxis": {**axis, "title": {"text": "sparsity (weights removed)"}, "range": [-0.03, 1]},
            "yaxis": {**axis, **yaxis},
            "legend": LEGEND,
            "hovermode": "closest",
            "dragmode": False,
        },
    )
