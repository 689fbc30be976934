"""The tables of a report about one method and radius, from the contents to header and rows."""

from collections.abc import Sequence

import numpy as np

from benchmarks.report.charts import ROUNDING, TERMS, short
from benchmarks.report.contents import (
    SECONDS,
    Bracket,
    Check,
    Cost,
    Judged,
    Line,
    Panel,
    Proved,
    RegretCurve,
    Remains,
    Stage,
    Sweep,
)
from benchmarks.runtime.tables import interval_text
from jaxprune.devices import take
from jaxprune.statistics import Interval

Table = tuple[list[str], list[list[str]]]  # header, rows

# Where a bound holds, by its scope.
WHERE = {"global": "everywhere", "local": "at visited states"}


def cell(line: Line, i: int) -> str:
    """Returns a mean with its interval, or with the range of few seeds."""
    low, high = (edge[i] for edge in line.edges)
    if line.few:
        return f"{line.interval.mean[i]:.0f} ({low:.0f} to {high:.0f})"
    return interval_text(Interval(line.interval.mean[i], low, high))


def main_rows(panel: Panel, wide: bool = True) -> Table:
    """Returns sparsity, clean, MAD, worst of all, and its change: five columns at most.

    Without the intervals of the first three where it is not `wide`, for a terminal.
    """
    missing = len(panel.levels) - len(panel.sparsity)  # of the change: that of the dense agents
    rows = [
        [f"{level:.3g}"]
        + [cell(x, i) if wide else f"{x.interval.mean[i]:.0f}" for x in panel.main.values()]
        + ["" if i < missing else cell(panel.change, i - missing)] * panel.pruned
        for i, level in enumerate(panel.levels)
    ]
    return ["sparsity", *panel.main, *["change"] * panel.pruned], rows


def return_rows(panel: Panel) -> Table:
    """Returns sparsity, CVaR under the worst attacks, and the return under the leading ones."""
    shown = panel.attacks[: panel.shown]
    rows = [
        [f"{level:.3g}", interval_text(take(panel.cvar, i)), *(cell(line, i) for line in shown)]
        for i, level in enumerate(panel.sparsity)
    ]
    return ["sparsity", "CVaR 10 % of the worst", *(line.name for line in shown)], rows


def judged_rows(judged: Judged) -> Table:
    """Sparsity, clean, worst of, and the adversaries that are shown: mean with interval."""
    header = ["sparsity", "clean", "worst of", *(line.name for line in judged.lines[2:])]
    rows = [
        [f"{level:.3g}", *(cell(line, i) for line in judged.lines)]
        for i, level in enumerate(judged.sparsity)
    ]
    return header, rows


def change_rows(panels: Sequence[Panel]) -> Table:
    """By sparsity, the worst-of return less that of the unpruned agents, a column per method.

    With the probability that a pruned agent does better than a dense one.
    """
    grid = sorted({float(s) for panel in panels for s in panel.sparsity})
    places = [{float(s): i for i, s in enumerate(panel.sparsity)} for panel in panels]
    rows = [
        [f"{level:.3g}"]
        + [
            f"{cell(panel.change, i)}, P {panel.better.mean[i]:.0%}" if i is not None else ""
            for panel, place in zip(panels, places, strict=True)
            for i in [place.get(level)]
        ]
        for level in grid
    ]
    return ["sparsity", *(panel.method for panel in panels)], rows


def bound_rows(proved: Proved) -> Table:
    """Every bound on D, means over the seeds, and the best bounds on TV of either scope."""
    header = ["sparsity", *(f"{b.bound} D" for b in proved.bounds)]
    header += [f"TV {WHERE[scope]}" for scope in proved.tv]
    rows = [
        [f"{sparsity:.3g}"]
        + [_bound(bound.values[:, i].mean()) for bound in proved.bounds]
        + [f"{tv[i]:.3f}" for tv in proved.tv.values()]
        for i, sparsity in enumerate(proved.bounds[0].sparsity if proved.bounds else [])
    ]
    return header, rows


def behaviour_rows(proved: Proved) -> Table:
    """D in action units, by every bound and as found, beside what the policy does; and F."""
    found = proved.behaviour
    assert found is not None
    header = ["sparsity", *(f"{b.bound} D" for b in proved.action_bounds), "D found, mean"]
    header += ["SD of the action", "D / SD", "F at least", "F at most"]
    bounds = [b.values.mean(0) for b in proved.action_bounds]
    columns = [*bounds, found.moved, found.spread, found.sensitivity]
    rows = [
        [f"{sparsity:.3g}", *(f"{x[i]:.3g}" for x in columns), *(f"{x[i]:.3f}" for x in found.f)]
        for i, sparsity in enumerate(found.sparsity)
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


def sparsity_rows(found: Remains) -> Table:
    """Sparsity asked and achieved, layer by layer, and what became of the units; seeds' means."""
    header = ["asked", "achieved", "of all parameters", *map(short, found.layers)]
    header += ["at floor", "condition", *(name.replace("_", " ") for name in found.counts)]
    lines = []
    for i, level in enumerate(found.sparsity):
        line = [f"{level:.3g}", f"{found.achieved[i]:.4f}", f"{found.everything[i]:.3f}"]
        line += [f"{x:.3f}" for x in found.shares[:, i]]
        line += [f"{found.floor[i]:.3g}", f"{found.condition[i]:.3g}"]
        lines.append(line + [f"{count[i]:.4g}" for count in found.counts.values()])
    return header, lines


def _by_sparsity(sparsity: np.ndarray, intervals: Sequence[Interval]) -> list[list[str]]:
    return [
        [f"{level:.3g}", *(interval_text(take(interval, i)) for interval in intervals)]
        for i, level in enumerate(sparsity)
    ]


def _bound(value: float) -> str:
    return "0" if value < ROUNDING else f"{value:.3g}"


def adversary_rows(panel: Panel) -> Table:
    """Mean return by adversary and sparsity, the strongest adversary on average first."""
    rows = [[name, *(f"{x:.0f}" for x in means)] for name, means in panel.every.items()]
    chosen = ["chosen", *(", ".join(dict.fromkeys(column)) for column in panel.chosen.T)]
    return ["adversary", *(f"{sparsity:.3g}" for sparsity in panel.sparsity)], [*rows, chosen]


def sweep_rows(found: Sweep) -> Table:
    """The worst-of return at every radius, and the area under it, by sparsity."""
    each = [take(found.returns, r) for r in range(len(found.radii))]
    header = ["sparsity", *(f"eps {eps:g}" for eps in found.radii), "area"]
    return header, _by_sparsity(found.sparsity, [*each, found.area])


def cost_rows(found: Sequence[Cost]) -> Table:
    """Every adversary and radius with its mean return over all cells and what it spent."""
    header = ["adversary", "eps", "what", "mean return", "worst for", "members", "queries"]
    header += ["gradients", "simulated", "env steps", *(f"{name} s" for name in SECONDS)]
    rows = [
        [c.attack, f"{c.eps:g}", c.about, f"{c.mean:.0f}"]
        + ["" if c.attack == "none" else f"{c.share:.0%}"]
        + [f"{x:,}" for x in c.spent]
        + ([f"{x:.3g}" for x in c.seconds] or [""] * len(SECONDS))
        for c in found
    ]
    return header, rows


def check_rows(found: Sequence[Check]) -> Table:
    """Every check with its worst case."""
    header = ["check", "passed", "value", "limit", "where"]
    rows = [
        [c.name, "yes" if c.passed else "NO", f"{c.value:.3g}", f"{c.limit:.3g}", c.where]
        for c in found
    ]
    return header, rows


def compute_rows(stages: Sequence[Stage]) -> Table:
    """Returns the rows of the table of costs, a stage each."""
    rows = [
        [s.name, f"{s.env_steps:,.0f}", "not known" if np.isnan(s.flops) else f"{s.flops:.2g}"]
        for s in stages
    ]
    return ["stage", "env steps", "network FLOPs"], rows
