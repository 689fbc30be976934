"""The tables of a report about one method and radius, from the evidence to header and rows."""

from collections.abc import Sequence

import numpy as np

from benchmarks.analysis import Bracket, Columns, RegretCurve
from benchmarks.evidence import Judged, Panel
from benchmarks.figures import ROUNDING, TERMS
from benchmarks.tables import interval_text
from jaxprune.statistics import Interval

Table = tuple[list[str], list[list[str]]]  # header, rows

# Where a bound holds, by its scope.
WHERE = {"global": "everywhere", "local": "at visited states"}


def at(interval: Interval, i: int) -> str:
    """One element of an interval `[S]`."""
    return interval_text(Interval(*(x[i] for x in interval)))


def return_rows(panel: Panel, wide: bool = True) -> Table:
    """Sparsity, clean, every agent's worst adversary, and the leading ones: mean with interval.

    On a terminal, which is not `wide`, a choice among many adversaries is left out.
    """
    shown = panel.attacks[: panel.shown]
    if not wide and len(panel.attacks) > len(shown):
        shown = []
    header = ["sparsity", "clean", "worst of", "its CVaR 10 %", *(line.name for line in shown)]
    lines = [panel.clean.interval, panel.worst.interval, panel.cvar, *(x.interval for x in shown)]
    return header, _by_sparsity(panel.sparsity, lines)


def judged_rows(judged: Judged) -> Table:
    """Sparsity, clean, worst of, and the adversaries that are shown: mean with interval."""
    header = ["sparsity", "clean", "worst of", *(line.name for line in judged.lines[2:])]
    return header, _by_sparsity(judged.sparsity, [line.interval for line in judged.lines])


def change_rows(panels: Sequence[Panel]) -> Table:
    """By sparsity, the worst-of return less that of the unpruned agents, a column per method.

    With the probability that a pruned agent does better than a dense one.
    """
    grid = sorted({float(s) for panel in panels for s in panel.sparsity})
    places = [{float(s): i for i, s in enumerate(panel.sparsity)} for panel in panels]
    rows = [
        [f"{level:.3g}"]
        + [
            f"{at(panel.change.interval, i)}, P {panel.better.mean[i]:.0%}" if i is not None else ""
            for panel, place in zip(panels, places, strict=True)
            for i in [place.get(level)]
        ]
        for level in grid
    ]
    return ["sparsity", *(panel.method for panel in panels)], rows


def bound_rows(panel: Panel) -> Table:
    """Every bound on D, means over the seeds, and the best bounds on TV of either scope."""
    header = ["sparsity", *(f"{b.bound} D" for b in panel.bounds)]
    header += [f"TV {WHERE[scope]}" for scope in panel.tv]
    rows = [
        [f"{sparsity:.3g}"]
        + [_bound(bound.values[:, i].mean()) for bound in panel.bounds]
        + [f"{tv[i]:.3f}" for tv in panel.tv.values()]
        for i, sparsity in enumerate(panel.bounds[0].sparsity if panel.bounds else [])
    ]
    return header, rows


def bracket_rows(found: Bracket) -> Table:
    """What the attacked return is at most and at least."""
    header = ["sparsity", f"clean {found.unit}", "attacked: at most", "at least", "at least (95 %)"]
    columns = (found.clean, found.reached, found.estimate, found.floor)
    rows = [
        [f"{sparsity:.3g}", *(f"{column[i]:.1f}" for column in columns)]
        for i, sparsity in enumerate(found.sparsity)
    ]
    return header, rows


def regret_rows(sparsity: np.ndarray, curve: RegretCurve) -> Table:
    """The three terms and their sum at every sparsity."""
    header = ["sparsity", *TERMS, f"total ({curve.attack})"]
    return header, _by_sparsity(
        sparsity, [curve.clean, curve.pruning, curve.robustness, curve.total]
    )


def layers(table: Columns, method: str) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Sparsities `[S]`, layers of the actor, and how sparse each is `[layers, S]`: seeds' means."""
    rows = {name: column[table["method"] == method] for name, column in table.items()}
    names = [str(x) for x in dict.fromkeys(rows["layer"]) if str(x).startswith("actor/")]
    levels = np.unique(rows["sparsity"])
    found = [
        [
            rows["layer_sparsity"][(rows["sparsity"] == level) & (rows["layer"] == name)].mean()
            for level in levels
        ]
        for name in names
    ]
    return levels, names, np.array(found)


def sparsity_rows(table: Columns, method: str) -> Table:
    """Sparsity asked and achieved, layer by layer, and what became of the units; seeds' means."""
    rows = {name: column[table["method"] == method] for name, column in table.items()}
    levels, names, shares = layers(table, method)
    counts = ("dead", "constant", "disconnected_obs", "compact")

    def of(level: float, layer: str, column: str) -> np.ndarray:
        return rows[column][(rows["sparsity"] == level) & (rows["layer"] == layer)]

    header = ["asked", "achieved", "of all parameters", *map(short, names)]
    header += ["at floor", "condition", *(name.replace("_", " ") for name in counts)]
    lines = []
    for level, share in zip(levels, shares.T, strict=True):
        everything = of(level, "all", "layer_sparsity").mean()
        floor = sum(of(level, x, "at_floor").mean() for x in names)
        worst = np.max([of(level, x, "condition") for x in names])
        line = [f"{level:.3g}", f"{of(level, 'actor', 'sparsity_achieved').mean():.4f}"]
        line += [f"{x:.3f}" for x in (everything, *share)] + [f"{floor:.3g}", f"{worst:.3g}"]
        lines.append(line + [f"{of(level, 'actor', name).mean():.4g}" for name in counts])
    return header, lines


def short(path: str) -> str:
    """actor/layer_0/kernel -> layer 0."""
    return path.split("/")[1].replace("_", " ")


def _by_sparsity(sparsity: np.ndarray, intervals: Sequence[Interval]) -> list[list[str]]:
    return [
        [f"{level:.3g}", *(at(interval, i) for interval in intervals)]
        for i, level in enumerate(sparsity)
    ]


def _bound(value: float) -> str:
    return "0" if value < ROUNDING else f"{value:.3g}"
