"""The charts of report.html, as plotly figures: one per panel, so that a phone shows them too."""

from collections.abc import Iterator

import numpy as np
import plotly.graph_objects as go

from benchmarks.report.charts import INK, Chart, Facet, Trace, places

# Opacity of bands and of shaded ranges.
BAND, SHADE = 0.15, 0.1
DASHES = {"solid": "solid", "dashed": "dash", "dotted": "dot", "dashdot": "dashdot"}
LEGEND = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "maxheight": 150}
AXIS = {"automargin": True, "zeroline": False, "ticks": "outside", "ticklen": 4}
Part = dict[str, object]


def render(chart: Chart, facet: Facet) -> go.Figure:
    """Returns the figure of one panel."""
    data = [part for trace in facet.traces for part in _trace(trace)]
    low, high = chart.y_range
    axes: Part = {"xaxis": AXIS | {"title": {"text": chart.x}, "range": chart.x_range}}
    scale = {"type": "log", "exponentformat": "power"} if chart.log else {}
    axes["yaxis"] = AXIS | scale | {"title": {"text": chart.y}, "range": (low, high)}
    if chart.right:
        # An axis is drawn where a trace uses it, an empty one too.
        data.append({"x": [None], "y": [None], "yaxis": "y2", "showlegend": False})
        scale = {"overlaying": "y", "side": "right", "showgrid": False}
        scale |= {"range": (low * facet.unit, high * facet.unit), "fixedrange": True}
        axes["yaxis2"] = AXIS | scale | {"title": {"text": chart.right}}
        axes["yaxis"] |= {"fixedrange": True}
    return go.Figure(
        [{"type": "scatter", **part} for part in data],
        {
            "template": "none",
            "height": 340 if chart.on_lines else 430,
            "margin": {"l": 8, "r": 8, "t": 12, "b": 8},
            "font": {"family": "system-ui, sans-serif", "size": 13, "color": INK},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            **axes,
            "shapes": list(_shapes(facet)),
            "annotations": list(_names(chart, facet)) if chart.on_lines else [],
            "showlegend": not chart.on_lines,
            "legend": LEGEND,
            "hovermode": "closest",
            "dragmode": False,
        },
    )


def _shapes(facet: Facet) -> Iterator[Part]:
    """The shaded range and the dotted line."""
    if facet.shade is not None:
        low, high, colour, words = facet.shade
        label = {"text": words, "textangle": -90, "font": {"size": 11}}
        yield {
            "type": "rect",
            "yref": "paper",
            **{"x0": low, "x1": high, "y0": 0, "y1": 1, "layer": "below", "label": label},
            **{"fillcolor": colour, "opacity": SHADE, "line": {"width": 0}},
        }
    if facet.level is not None:
        line = {"color": INK, "width": 1, "dash": "dot"}
        ends = {"x0": 0, "x1": 1, "y0": facet.level, "y1": facet.level}
        yield {"type": "line", "xref": "paper", **ends, "line": line}


def _names(chart: Chart, facet: Facet) -> Iterator[Part]:
    """The names on the lines."""
    for trace, (x, y) in zip(facet.traces, places(chart, facet), strict=True):
        font = {"color": trace.colour}
        yield {"text": trace.name, "x": x, "y": y, "showarrow": False, "font": font}


def _trace(trace: Trace) -> Iterator[Part]:
    """A line with its band and its agents; the legend switches all three."""
    visible = True if trace.shown else "legendonly"
    group = {"legendgroup": trace.name, "visible": visible}
    quiet = {"showlegend": False, "hoverinfo": "skip", **group}
    edges = np.array(np.broadcast_arrays(trace.x, trace.low, trace.high), float)
    x, low, high = edges[:, np.isfinite(edges).all(0)]
    yield {
        **{"x": np.concatenate([x, x[::-1]]), "y": np.concatenate([high, low[::-1]])},
        **{"fill": "toself", "fillcolor": _faded(trace.colour), "mode": "lines"},
        **{"line": {"width": 0}, **quiet},
    }
    if len(trace.dots):
        marker = {"color": trace.colour, "size": 4, "opacity": 0.45}
        x = np.tile(trace.x, len(trace.dots))
        yield {"x": x, "y": trace.dots.ravel(), "mode": "markers", "marker": marker, **quiet}
    yield {
        **{"x": trace.x, "y": trace.y, "mode": "lines+markers", "name": trace.name, **group},
        "line": {"width": 2, "color": trace.colour, "dash": DASHES[trace.dash]},
        "marker": {"size": 5},
        **_hover(trace),
    }


def _faded(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{BAND})"


def _hover(trace: Trace) -> Part:
    """Mean and band where the pointer is."""
    edges = np.broadcast_arrays(trace.x, trace.low, trace.high)[1:]
    words = [
        f" ({a:.4g} to {b:.4g})" if np.isfinite(a + b) else "" for a, b in zip(*edges, strict=True)
    ]
    text = f"{trace.name}<br>%{{x:.4g}}: %{{y:.4g}}%{{customdata}}<extra></extra>"
    return {"customdata": words, "hovertemplate": text}
