"""The tables of a report about one method and radius, from the evidence to header and rows."""

from collections.abc import Sequence

import numpy as np

from benchmarks.analysis.bounds import Bracket
from benchmarks.analysis.curves import WORST_OF, Columns, Results, of_victim
from benchmarks.analysis.versus_dense import RegretCurve
from benchmarks.analysis.worst_case import halves, sweep, worst_of
from benchmarks.report.contents import Judged, Panel
from benchmarks.report.png_figures import ROUNDING, TERMS
from benchmarks.runtime.tables import interval_text
from jaxprune.attacks import ATTACKS
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


# Columns of the table of attacks with the seconds of all cells together.
SECONDS = ("prepare", "choose", "play")


def adversary_rows(results: Results, method: str, eps: float) -> tuple[list[str], list[list[str]]]:
    """Mean return by adversary and sparsity, the strongest adversary on average first."""
    judge = halves(results).judge
    worst = worst_of(results, method, eps)
    curves = sorted(results.attacked(method, eps), key=lambda c: c.returns.mean())
    names = ["clean", *(c.attack for c in curves), WORST_OF]
    shown = [results.clean(method), *curves, worst.curve]
    lines = [
        [name, *(f"{value:.0f}" for value in curve.returns[:, :, judge].mean((0, 2)))]
        for name, curve in zip(names, shown, strict=True)
    ]
    chosen = ["chosen", *(", ".join(dict.fromkeys(column)) for column in worst.chosen.T)]
    header = ["adversary", *(f"{sparsity:.3g}" for sparsity in worst.curve.sparsity)]
    return header, [*lines, chosen]


def sweep_rows(results: Results, method: str) -> tuple[list[str], list[list[str]]]:
    """The worst-of return at every radius, and the area under it, by sparsity."""
    radii, returns, area = sweep(results, method)
    at = lambda interval, *index: interval_text(Interval(*(x[index] for x in interval)))  # noqa: E731
    rows = [
        [f"{sparsity:.3g}", *(at(returns, r, i) for r in range(len(radii))), at(area, i)]
        for i, sparsity in enumerate(results.clean(method).sparsity)
    ]
    return ["sparsity", *(f"eps {eps:g}" for eps in radii), "area"], rows


def budget_rows(
    results: Results, attacks: Columns, seconds: Columns
) -> tuple[list[str], list[list[str]]]:
    """Every adversary and radius with its mean return over all cells and what it spent.

    Against the victim of `results`.
    """
    attacks, seconds = (of_victim(table, results.victim) for table in (attacks, seconds))
    header = ["adversary", "eps", "what", "mean return", "worst for", "members", "queries"]
    header += ["gradients", "simulated", "env steps", "prepare s", "choose s", "play s"]
    labels = {method for method, _, _ in results.by_key}
    rows = []
    for name, eps in [("none", 0.0), *results.adversaries]:
        rows_of = (attacks["attack"] == name) & (attacks["eps"] == eps)
        if not rows_of.any():
            continue
        first = int(np.argmax(rows_of))
        returns = [results.by_key[label, name, eps].returns for label in labels]
        mean = np.concatenate([r.mean(-1).ravel() for r in returns]).mean()
        share = "" if name == "none" else f"{_chosen_share(results, labels, name, eps):.0%}"
        told = ("members", "queries", "gradients", "simulated", "env_steps")
        about = ATTACKS[name].about if name in ATTACKS else ""
        if attacks["warm_start"][first]:
            about += "; each sparsity started from the one below"
        rows.append(
            [name, f"{eps:g}", about, f"{mean:.0f}", share]
            + [f"{attacks[column][first]:,}" for column in told]
            + _per_cell(seconds, name, eps, int(rows_of.sum()))
        )
    return header, rows


def _per_cell(seconds: Columns, name: str, eps: float, cells: int) -> list[str]:
    """Seconds per cell to prepare, to choose and to play one adversary of one radius."""
    if not seconds:  # of an older version
        return [""] * len(SECONDS)
    rows = (seconds["attack"] == name) & (seconds["eps"] == eps)
    return [f"{seconds[column][rows].sum() / cells:.3g}" for column in SECONDS]


def _chosen_share(results: Results, labels: set[str], name: str, eps: float) -> float:
    chosen = [worst_of(results, label, eps).chosen.ravel() for label in labels]
    return float((np.concatenate(chosen) == name).mean())
