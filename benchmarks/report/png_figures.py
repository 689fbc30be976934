"""The figures of a report, from curves to PNG."""

from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from benchmarks.report.contents import BoundCurve, Columns, Contents, Panel
from benchmarks.runtime.atomic import write_whole
from jaxprune.attacks import label_of
from jaxprune.statistics import Interval

matplotlib.use("Agg")

# Okabe and Ito's palette: distinguishable with colour-blind eyes.
COLOURS = ("#0072B2", "#E69F00", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#F0E442")
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "figure.dpi": 130,
}
# A local bound of a constant policy is what its rounding is.
ROUNDING = 1e-12
# Panels side by side; of a training curve, lines in a panel and points of a line.
COLUMNS, LINES, POINTS = 4, 5, 60
SMOOTHED = ("iteration", "env_steps", "episodes", "episode_return")
# Each agent's own line, and bands: those of fewer seeds fill the view.
AGENT = {"linewidth": 0.7, "alpha": 0.45, "marker": ".", "markersize": 3, "markeredgewidth": 0}
MANY, BAND, FAINT = 5, 0.18, 0.05
GREYS = ("0.55", "0", "0.3", "0.7")
TERMS = ("clean-task performance", "pruning-induced loss", "robustness")


def draw(contents: Contents, folder: Path) -> dict[str, str]:
    """Write every figure; caption -> file name."""
    with plt.rc_context(STYLE):
        figures = {
            "returns": _returns(contents),
            "certificates": _certificates(contents),
            "regret": _regret(contents),
        }
        if contents.training:
            figures["training"] = _training(contents.training, contents.title)
        for name, figure in figures.items():
            save = partial(figure.savefig, format="png", bbox_inches="tight")
            write_whole(folder / f"{name}.png", save)
            plt.close(figure)
    return {name: f"{name}.png" for name in figures}


def _panels(contents: Contents, title: str, ylabel: str) -> tuple[Figure, list[tuple[Axes, Panel]]]:
    """Axes of every panel; on paper, as many methods in a row as fit."""
    radii, methods = contents.radii, contents.by_method
    columns = min(len(methods), COLUMNS)
    rows = len(radii) * -(-len(methods) // columns)
    figure, grid = plt.subplots(
        rows,
        columns,
        figsize=(4.6 * columns + 1.6, 3.5 * rows),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    figure.suptitle(f"{contents.title}: {title}")
    drawn = []
    for row, panels in zip(grid.reshape(len(radii), -1), contents.by_radius, strict=True):
        for ax, panel in zip(row, panels, strict=False):
            ax.set_title(f"{panel.method}, eps = {panel.eps:g}")
            drawn.append((ax, panel))
        for ax in row[len(methods) :]:
            ax.set_visible(False)
    for column in range(columns):
        shown = [ax for ax in grid[:, column] if ax.get_visible()]
        shown[-1].set_xlabel("sparsity (fraction of the prunable weights removed)")
        shown[-1].tick_params(labelbottom=True)
    for ax in grid[:, 0]:
        ax.set_ylabel(ylabel)
    return figure, drawn


def _band(ax: Axes, x: np.ndarray, mean: np.ndarray, low, high, label: str, **style) -> None:
    (line,) = ax.plot(x, mean, **{"marker": "o", "markersize": 3, "label": label, **style})
    low, high = (np.where(np.isfinite(edge), edge, mean) for edge in (low, high))
    ax.fill_between(x, low, high, color=line.get_color(), alpha=BAND, linewidth=0)


def _estimate(
    ax: Axes, x: np.ndarray, interval: Interval, agents: np.ndarray, label: str, **style
) -> None:
    """Mean with its interval, and a thin line per agent, `[seeds, S]`, where there are several.

    The view follows the lines: of two seeds, an interval is a multiple of all that was seen.
    """
    (line,) = ax.plot(x, interval.mean, **{"marker": "o", "markersize": 3, "label": label, **style})
    if len(agents) > 1:
        ax.plot(x, agents.T, color=line.get_color(), **AGENT)
    low, high = (np.where(np.isfinite(e), e, interval.mean) for e in (interval.low, interval.high))
    outline = np.concatenate([np.stack([x, low], 1), np.stack([x, high], 1)[::-1]])
    alpha = FAINT if 1 < len(agents) < MANY else BAND
    band = PolyCollection([outline], color=line.get_color(), alpha=alpha, linewidth=0)
    ax.add_collection(band, autolim=False)


def _legend(figure: Figure, ax: Axes, columns: int = 4) -> None:
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), columns))


def _returns(contents: Contents) -> Figure:
    """Return against sparsity, a line per adversary with its interval and its agents."""
    figure, panels = _panels(contents, "return of the pruned policy", "return per episode")
    for ax, panel in panels:
        shown = [panel.clean, *panel.attacks[: panel.shown]]
        for line, colour in zip(shown, COLOURS, strict=False):
            label = label_of(line.name)
            _estimate(ax, panel.sparsity, line.interval, line.seeds, label, color=colour)
        worst, label = panel.worst, "worst of all"
        _estimate(ax, panel.sparsity, worst.interval, worst.seeds, label, color="0")
        dense = float(panel.dense_clean.mean)
        ax.axhline(dense, color="0.4", linestyle="--", linewidth=1, label="dense, clean")
    _legend(figure, panels[0][0])
    return figure


def _certificates(contents: Contents) -> Figure:
    """Upper bounds on D and what the attacks reached, on a log axis."""
    unit = contents.units["D"]
    figure, panels = _panels(contents, "what can move the policy", f"D ({unit})")
    for ax, panel in panels:
        ax.set_yscale("log")
        for bound, colour in zip(panel.bounds, COLOURS, strict=False):
            monotone = bound.monotone and panel.nested
            kind = "monotone" if monotone else "not monotone"
            where = ", at visited states" if bound.scope == "local" else ""
            label = f"{bound.bound}: upper bound, {kind}{where}"
            style = "-" if monotone else "-." if where else "--"
            _seed_band(ax, bound.sparsity, bound.values, label, color=colour, linestyle=style)
        if panel.eps > 0:  # a ball of radius 0 moves no policy
            _mark_constant(ax, panel.bounds)
        for line, colour in zip(panel.reached[: panel.shown], GREYS, strict=False):
            label = f"{label_of(line.name)}: reached (lower bound)"
            _seed_band(ax, panel.sparsity, line.seeds, label, color=colour, linestyle=":")
    _legend(figure, panels[0][0], columns=3)
    return figure


def _training(training: Columns, title: str) -> Figure:
    """Return against env steps, a panel per curve and a line per target, over the seeds."""
    methods = list(dict.fromkeys(training["method"]))
    columns = min(len(methods), COLUMNS)
    figure, axes = plt.subplots(
        -(-len(methods) // columns),
        columns,
        figsize=(4.6 * columns + 1.6, 3.5 * -(-len(methods) // columns)),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    figure.suptitle(f"{title}: training, mean and range of the seeds")
    for ax in axes.ravel()[len(methods) :]:
        ax.set_visible(False)
    for ax, method in zip(axes.ravel(), methods, strict=False):
        rows = training["method"] == method
        targets = np.unique(training["sparsity"][rows])
        shown = targets[np.unique(np.linspace(0, len(targets) - 1, LINES).astype(int))]
        for target, colour in zip(shown, COLOURS, strict=False):
            steps, returns = _smoothed(training, rows & (training["sparsity"] == target))
            low, high = np.nanmin(returns, 0), np.nanmax(returns, 0)
            label = f"sparsity {target:g}"
            _band(ax, steps, np.nanmean(returns, 0), low, high, label, color=colour, marker="")
        ax.set_title(method)
        ax.legend(fontsize=8)
        ax.set_xlabel("env steps")
    for ax in axes[:, 0]:
        ax.set_ylabel("return of finished episodes")
    return figure


def _smoothed(training: Columns, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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


def _mark_constant(ax: Axes, bounds: list[BoundCurve]) -> None:
    """Shade where a bound is 0 for every seed, which a log axis cannot show."""
    dead = [
        x for b in bounds for x, v in zip(b.sparsity, b.values.T, strict=True) if v.max() < ROUNDING
    ]
    if dead:
        ax.axvspan(min(dead) - 0.025, max(dead) + 0.025, color="0.92", zorder=0)
        ax.text(
            (min(dead) + max(dead)) / 2,
            0.5,
            "D = 0: the policy is constant",
            transform=ax.get_xaxis_transform(),
            rotation=90,
            ha="center",
            va="center",
            fontsize=8,
            color="0.4",
        )


def _seed_band(ax: Axes, x: np.ndarray, values: np.ndarray, label: str, **style) -> None:
    """Geometric mean and range over the seeds, `[seeds, S]`; zeros have no place on a log axis."""
    mean, low, high = np.full((3, len(x)), np.nan)
    for i, column in enumerate(values.T):
        if (positive := column[column > ROUNDING]).size:
            mean[i] = np.exp(np.log(positive).mean())
            low[i], high[i] = positive.min(), positive.max()
    _band(ax, x, mean, low, high, label, **style)


def _regret(contents: Contents) -> Figure:
    """The three terms stacked, negative ones below zero, with the total and its interval."""
    figure, panels = _panels(contents, "regret to the reference", "regret (return)")
    for ax, panel in panels:
        curve, x = panel.regrets["returns"], panel.sparsity
        width = min(0.08, 0.8 * np.diff(x).min() if len(x) > 1 else 0.08)
        above, below = np.zeros(len(x)), np.zeros(len(x))
        terms = (curve.clean, curve.pruning, curve.robustness)
        for term, name, colour in zip(terms, TERMS, COLOURS[3:], strict=False):
            base = np.where(term.mean >= 0, above, below)
            ax.bar(x, term.mean, width, bottom=base, label=name, color=colour, alpha=0.85)
            above = above + np.maximum(term.mean, 0)
            below = below + np.minimum(term.mean, 0)
        _estimate(ax, x, curve.total, curve.agents, "total", color="black", linewidth=1)
        ax.axhline(0, color="0.3", linewidth=0.8)
        label = label_of(curve.attack)
        ax.set_title(f"{panel.method}, {label}, eps = {panel.eps:g}")
    _legend(figure, panels[0][0])
    return figure
