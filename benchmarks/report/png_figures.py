"""The charts of a report as PNG files."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.report.charts import COLOURS, Chart, Facet, Trace, places
from benchmarks.runtime.atomic import write_whole

__all__ = ["COLOURS", "STYLE", "draw", "render"]

matplotlib.use("Agg")

STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "figure.dpi": 130,
}
# Panels side by side; opacity of bands and of shaded ranges.
COLUMNS, BAND, SHADE = 4, 0.18, 0.12


def draw(charts: Mapping[str, Chart], folder: Path) -> list[str]:
    """Write every chart as NAME.png; the names of the files."""
    with plt.rc_context(STYLE):
        for name, chart in charts.items():
            figure = render(chart)
            save = partial(figure.savefig, format="png", bbox_inches="tight")
            write_whole(folder / f"{name}.png", save)
            plt.close(figure)
    return [f"{name}.png" for name in charts]


def render(chart: Chart) -> Figure:
    """Returns the figure of a chart; the caller closes it."""
    columns = min(len(chart.facets), COLUMNS)
    rows = -(-len(chart.facets) // columns)
    size = (4.6 * columns + 1.6, 3.6 * rows)
    figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    figure.suptitle(chart.title)
    for i, ax in enumerate(grid.ravel()):
        if i >= len(chart.facets):
            ax.set_visible(False)
            continue
        _axes(ax, chart, chart.facets[i])
        ax.set_ylabel(chart.y if i % columns == 0 else "")
        ax.set_xlabel(chart.x if i + columns >= len(chart.facets) else "")
    if not chart.on_lines:
        entries = [zip(*ax.get_legend_handles_labels(), strict=True) for ax in grid.ravel()]
        by_name = {name: handle for part in entries for handle, name in part}
        figure.legend(by_name.values(), by_name, loc="outside lower center", ncols=4)
    return figure


def _axes(ax: Axes, chart: Chart, facet: Facet) -> None:
    """One panel."""
    ax.set_title(facet.title)
    ax.set_xlim(*chart.x_range)
    ax.set_ylim(*(10**y if chart.log else y for y in chart.y_range))
    ax.set_yscale("log" if chart.log else "linear")
    if facet.shade is not None:
        low, high, colour, words = facet.shade
        ax.axvspan(low, high, color=colour, alpha=SHADE, linewidth=0, zorder=0)
        place = {"rotation": 90, "ha": "center", "va": "center"}
        ax.text((low + high) / 2, 0.5, words, transform=ax.get_xaxis_transform(), **place)
    if facet.level is not None:
        ax.axhline(facet.level, color="0.4", linestyle="dotted", linewidth=1)
    for trace in facet.traces:
        if trace.shown:
            _trace(ax, trace)
    if chart.on_lines:
        for trace, place in zip(facet.traces, places(chart, facet), strict=True):
            ax.text(*place, trace.name, color=trace.colour, ha="center", va="center")
    if chart.right:
        there, back = partial(np.multiply, facet.unit), partial(np.multiply, 1 / facet.unit)
        right = ax.secondary_yaxis("right", functions=(there, back))
        right.set_ylabel(chart.right)


def _trace(ax: Axes, trace: Trace) -> None:
    """Its line, its band and its agents."""
    line = ax.plot(trace.x, trace.y, color=trace.colour, linestyle=trace.dash, label=trace.name)
    plt.setp(line, marker="o", markersize=3)
    band = ax.fill_between(trace.x, trace.low, trace.high, color=trace.colour)
    band.set(alpha=BAND, linewidth=0)
    if len(trace.dots):
        ax.plot(trace.x, trace.dots.T, ".", color=trace.colour, markersize=3, alpha=0.5)
