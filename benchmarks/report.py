"""The report of a run, from its tables alone.

python -m benchmarks.report results/RUN      # draw an existing run again
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import analysis, figures, report_attacks
from benchmarks.analysis import Columns, Results
from benchmarks.checks import checks, warnings_of
from benchmarks.display import complain, make_console
from benchmarks.labels import Labels
from benchmarks.store import RunFolder, read_json, read_table
from benchmarks.tables import interval_text, markdown_table
from jaxprune.families import InputError
from jaxprune.statistics import Interval

FOOTNOTES = """\
- **Return**: undiscounted sum of the task's raw rewards; the policy acts with {victim}. Episode
  *i* starts from the same state in every cell, under every adversary.
- **Sparsity**: the fraction of the prunable weights removed, as it was asked for; counts are exact
  integers, and the tables hold what was achieved (whole neurons and N:M blocks only come near).
  By default the actor's kernels are prunable; biases, log_std and critic stay. With `global`
  allocation all kernels are ranked together, and every layer keeps `min_weights` (*at floor*: the
  layers where that was all).
- **What is left of the network**: *dead* hidden units reach no output, *constant* ones are reached
  by no input, a *disconnected* observation moves nothing. *Condition* is the largest ratio of
  singular values of a layer over the seeds (inf: rank deficient). *Compact* counts the parameters
  of a dense actor with equal outputs and without such units. Unstructured masks simulate sparsity:
  only structure (neurons, N:M) makes a policy smaller or faster.
- **eps**: radius of the l_inf ball around the *normalised* observation; the simulator sees the
  truth.
- **Intervals**: 95 % percentile bootstrap over {unit}.{warning}
- **D**: how far the action distribution moves, in {distance}. Attacks give lower bounds,
  certificates upper bounds. *Monotone* bounds can never rise when weights are removed; the others
  can and do. That is about nested masks of the *same* weights: where weights were trained after
  pruning, as by every method of training, or where masks are not nested, it promises nothing along
  the curve, and the tables say so (`nested`). Global bounds hold everywhere; for local ones the
  largest value over the visited states is shown, and the tables hold the mean under the discounted
  visitation too (`D_mean`, `TV_mean`: the paper's F) and what an attack reached at the same states
  (bound `attack`).
- **TV**: the bound on the total variation of the action distribution that follows from D. The
  *vacuity* in the tables is the value bound over the trivial one: at 1 the certificate says
  nothing about the return. Both hold for the stochastic policy.{value}
- **Attacked return, at least**: for drawn actions the clean return less the certified value gap
  (of the largest TV, or of F from the visited states); for the likeliest of discrete actions what
  was earned before the first state at which the action could change. The first figure is the
  estimate, the second holds with 95 % confidence over the episodes of each policy. Two different
  deterministic continuous actions have total variation 1, so that there is no such certificate.
- **Regret**: J_ref - J(attacked, pruned) in three terms. J_ref = {reference} is the best
  unpruned agent of the regime in this run, a reference and not the optimum.
- **Worst of**: every agent at every sparsity under the adversary that did most harm on the first
  half of the episodes, reported on the second half; *CVaR 10 %* is the mean of the worst tenth of
  these episodes. Sweet spots are chosen and reported likewise, and regret is of the second half.
"""
VICTIM_NOTES = {
    "deterministic": "its mean (or likeliest action)",
    "stochastic": "actions drawn from its distribution",
}
# By the quantity in the table of certificates.
VALUE_NOTES = {
    "value_gap": "The tables hold the value gap too.",
    "value_gap_clipped": (
        "The rewards of this task have no a-priori bounds, so the value gap in the tables is that "
        "of the {unit}."
    ),
}
# Where a bound holds, by its scope.
WHERE = {"global": "everywhere", "local": "at visited states"}
# What the terms of the regret are differences of, by the quantity of a curve.
REGRETS = {"returns": "Regret terms", "discounted": "Regret terms of the discounted return"}
# What every count of diverged episodes is followed by.
DIVERGED = (
    "the simulator left the finite numbers and the episode ended there, with the return until then"
)


def write_report(folder: RunFolder, console: Console) -> None:
    """Write metrics.json, figures and report.md beside the tables; print what a person wants."""
    names = ("returns", "certificates", "sparsity")
    returns, certificates, sparsity = (read_table(folder.path, name) for name in names)
    training, attacks, seconds, diagnosis = (
        read_table(folder.path, name) if (folder.path / f"{name}.parquet").exists() else {}
        for name in ("training", "attacks", "seconds", "diagnosis")
    )
    results, labels = analysis.collect(returns), Labels(returns)
    regime = str(returns["regime"][0])
    returns, training, certificates, sparsity, diagnosis = (
        analysis.labelled(table, labels)
        for table in (returns, training, certificates, sparsity, diagnosis)
    )
    checked = checks(results, diagnosis)
    described = read_json(folder.path / "experiment.json")
    title = f"{returns['env'][0]} ({returns['backend'][0]})"

    folder.write_json("metrics.json", analysis.metrics(results, certificates))
    drawn = figures.draw(results, certificates, training, title, folder.path)
    problems = [*warnings(results, returns, training, certificates), *warnings_of(checked)]
    about = list(report_attacks.sections(results, attacks, seconds, checked))
    text = markdown(results, certificates, sparsity, described, title, drawn, problems, about)
    folder.write_text("report.md", text)

    for method in results.pruned_methods():
        for eps in results.radii:
            for table in terminal_tables(results, certificates, method, eps):
                console.print(table)
    note = _seed_warning(results, regime)
    for line in [*problems, *([note] if note else [])]:
        console.print(f"warning: {line}", style="yellow", markup=False)


def markdown(
    results: Results,
    certificates: Columns,
    sparsity: Columns,
    described: dict[str, Any],
    title: str,
    drawn: Any,
    problems: Sequence[str],
    adversaries: Sequence[str],
) -> str:
    """The whole report; `adversaries` are the lines about these."""
    regime = str(certificates["regime"][0])
    unpruned = dict.fromkeys(results.dense_of.values())
    lines = [f"# What pruning does to the robustness of {title}", ""]
    for name in unpruned:
        called = "Dense" if len(unpruned) == 1 else f"Dense ({name.removesuffix(' none')})"
        lines += [f"{called}, clean: {_interval(results.clean(name).interval(), 0)}.", ""]
    if problems:
        lines += ["## Warnings", "", *(f"- {line}" for line in problems), ""]
    lines += ["## Findings", "", *(f"- {line}" for line in findings(results)), ""]
    for name, file in drawn.items():
        lines += [f"![{name} against sparsity]({file})", ""]
    for eps in results.radii:
        for method in results.pruned_methods():
            lines += [f"## {method}, eps = {eps:g}", ""]
            lines += [*markdown_table(*table_rows(results, method, eps)), ""]
            lines += ["Certificates:", ""]
            lines += [*markdown_table(*bound_rows(certificates, method, eps)), ""]
            for quantity, title in REGRETS.items():
                lines += [f"{title}:", ""]
                lines += [*markdown_table(*regret_rows(results, method, eps, quantity)), ""]
            lines += [*_bracket(results, certificates, method, eps), ""]
    lines += adversaries
    for method in results.pruned_methods():
        lines += [f"## What {method} leaves of the network", ""]
        lines += [*markdown_table(*sparsity_rows(sparsity, method)), ""]
    lines += ["## How to read this", ""]
    lines += [
        FOOTNOTES.format(
            unit="training seeds" if _seeds(results) > 1 else "episodes of the one policy",
            warning=f" {note}" if (note := _seed_warning(results, regime)) else "",
            distance=str(certificates["unit"][certificates["quantity"] == "D"][0]),
            victim=VICTIM_NOTES[results.victim],
            reference=", ".join(f"{analysis.reference(results, x):.1f}" for x in unpruned),
            value=_value_note(certificates),
        )
    ]
    lines += ["## Provenance", ""]
    kept = ("command", "device", "cores", "python", "git", "versions", "programs", "stages")
    lines += [f"- {name}: {described[name]}" for name in kept if name in described]
    return "\n".join(lines) + "\n"


def findings(results: Results) -> Iterator[str]:
    """The sweet spots in words."""
    for eps in results.radii:
        for method in results.pruned_methods():
            for spot in analysis.sweet_spots(results, method, eps):
                clean, attacked, *unpruned = map(interval_text, spot[2:])
                yield (
                    f"{method}, eps {eps:g}, {spot.objective}: sparsity {spot.sparsity:g} with "
                    f"clean {clean}, attacked {attacked} (dense: {', '.join(unpruned)})"
                )


def warnings(
    results: Results, returns: Columns, training: Columns, certificates: Columns
) -> Iterator[str]:
    """What a reader has to know before believing the numbers; `training` may be empty."""
    broken = int((~np.isfinite(returns["return"])).sum())
    if broken:
        yield f"{broken} of {len(returns['return'])} episodes have a return that is not finite"
    attacked = analysis.divergences(returns, ("method", "attack", "eps"))
    if attacked:
        yield _divergence_warning(attacked, len(returns["return"]), "episodes")
    trained = analysis.divergences(training, ("method",))
    if trained:
        yield _divergence_warning(trained, int(training["episodes"].sum()), "training episodes")
    for problem in analysis.violations(results, certificates):
        yield f"{problem}: a bound or an attack is wrong, please report this"


def table_rows(
    results: Results, method: str, eps: float, wide: bool = True
) -> tuple[list[str], list[list[str]]]:
    """Sparsity, clean, every agent's worst adversary, and the leading ones: mean with interval.

    On a terminal, which is not `wide`, a choice among many adversaries is left out.
    """
    judge, clean = analysis.halves(results).judge, results.clean(method)
    worst = analysis.worst_of(results, method, eps)
    shown = analysis.leading(results, method, eps)
    if not wide and len(results.attacked(method, eps)) > len(shown):
        shown = []
    header = ["sparsity", "clean", "worst of", "its CVaR 10 %", *(c.attack for c in shown)]
    intervals = [
        clean.interval(),
        worst.curve.interval(judge),
        analysis.cvar_interval(worst.curve.returns[:, :, judge]),
        *(curve.interval() for curve in shown),
    ]
    rows = [
        [f"{sparsity:.3g}", *(_interval(interval, i) for interval in intervals)]
        for i, sparsity in enumerate(clean.sparsity)
    ]
    return header, rows


def bound_rows(certificates: Columns, method: str, eps: float) -> tuple[list[str], list[list[str]]]:
    """Every bound on D, means over the seeds, and the best bounds on TV of either scope."""
    bounds = analysis.bound_curves(certificates, method, eps)
    best = {
        f"TV {WHERE[scope]}": np.min([c.values.mean(0) for c in curves], axis=0)
        for scope in WHERE
        if (curves := analysis.bound_curves(certificates, method, eps, "TV", scope))
    }
    header = ["sparsity", *(f"{b.bound} D" for b in bounds), *best]
    rows = [
        [f"{sparsity:.3g}"]
        + [_bound(bound.values[:, i].mean()) for bound in bounds]
        + [f"{tv[i]:.3f}" for tv in best.values()]
        for i, sparsity in enumerate(bounds[0].sparsity if bounds else [])
    ]
    return header, rows


def sparsity_rows(table: Columns, method: str) -> tuple[list[str], list[list[str]]]:
    """Sparsity asked and achieved, layer by layer, and what became of the units; seeds' means."""
    rows = {name: column[table["method"] == method] for name, column in table.items()}
    layers = [x for x in dict.fromkeys(rows["layer"]) if str(x).startswith("actor/")]
    counts = ("dead", "constant", "disconnected_obs", "compact")

    def at(level: float, layer: str, column: str) -> np.ndarray:
        return rows[column][(rows["sparsity"] == level) & (rows["layer"] == layer)]

    header = ["asked", "achieved", "of all parameters", *map(_short, layers)]
    header += ["at floor", "condition", *(name.replace("_", " ") for name in counts)]
    lines = []
    for level in np.unique(rows["sparsity"]):
        shares = [at(level, x, "layer_sparsity").mean() for x in ("all", *layers)]
        floor = sum(at(level, x, "at_floor").mean() for x in layers)
        worst = np.max([at(level, x, "condition") for x in layers])
        line = [f"{level:.3g}", f"{at(level, 'actor', 'sparsity_achieved').mean():.4f}"]
        line += [f"{share:.3f}" for share in shares] + [f"{floor:.3g}", f"{worst:.3g}"]
        lines.append(line + [f"{at(level, 'actor', name).mean():.4g}" for name in counts])
    return header, lines


def _short(path: str) -> str:
    """actor/layer_0/kernel -> layer 0."""
    return path.split("/")[1].replace("_", " ")


def bracket_rows(found: analysis.Bracket) -> tuple[list[str], list[list[str]]]:
    """What the attacked return is at most and at least."""
    header = ["sparsity", f"clean {found.unit}", "attacked: at most", "at least", "at least (95 %)"]
    columns = (found.clean, found.reached, found.estimate, found.floor)
    rows = [
        [f"{sparsity:.3g}", *(f"{column[i]:.1f}" for column in columns)]
        for i, sparsity in enumerate(found.sparsity)
    ]
    return header, rows


def regret_rows(
    results: Results, method: str, eps: float, quantity: str
) -> tuple[list[str], list[list[str]]]:
    """The three terms and their sum at every sparsity."""
    curve = analysis.regret_curve(results, method, eps, quantity)
    header = ["sparsity", *figures.TERMS, f"total ({curve.attack})"]
    parts = (curve.clean, curve.pruning, curve.robustness, curve.total)
    rows = [
        [f"{sparsity:.3g}", *(_interval(part, i) for part in parts)]
        for i, sparsity in enumerate(results.clean(method).sparsity)
    ]
    return header, rows


def terminal_tables(
    results: Results, certificates: Columns, method: str, eps: float
) -> Iterator[Table]:
    """What a person wants at the end of a run: the curve and its sweet spots."""
    header, rows = table_rows(results, method, eps, wide=False)
    bounds, certified = bound_rows(certificates, method, eps)
    tv = [i for i, name in enumerate(bounds) if name.startswith("TV ")]
    curve = Table(title=f"{method}, eps = {eps:g}", title_justify="left")
    for name in [*header, *(bounds[i] for i in tv)]:
        curve.add_column(name, justify="right", no_wrap=True)
    for row, bound in zip(rows, certified, strict=True):
        curve.add_row(*row, *(bound[i] for i in tv))
    yield curve

    spots = Table(title=f"sweet spots of {method}, eps = {eps:g}", title_justify="left")
    spots.add_column("objective")
    for name in ("sparsity", "clean", "attacked"):
        spots.add_column(name, justify="right", no_wrap=True)
    for spot in analysis.sweet_spots(results, method, eps):
        clean, attacked = interval_text(spot.clean), interval_text(spot.attacked)
        spots.add_row(spot.objective, f"{spot.sparsity:.3g}", clean, attacked)
    yield spots


def _bracket(results: Results, certificates: Columns, method: str, eps: float) -> list[str]:
    found = analysis.bracket(results, certificates, method, eps)
    if found is None:
        return ["No certificate bounds the return of this policy as it acted (see below)."]
    title = f"Where the attacked return is, by attack and certificate ({found.bound} at first):"
    return [title, "", *markdown_table(*bracket_rows(found))]


def _seeds(results: Results) -> int:
    """Of the curve that has the most."""
    return max(len(curve.returns) for curve in results.by_key.values())


def _seed_warning(results: Results, regime: str) -> str:
    seeds = _seeds(results)
    if seeds >= 5 or (regime == "file" and seeds == 1):
        return ""
    return (
        f"With {seeds} seed{'s' if seeds > 1 else ''} the intervals are no more than a hint; "
        "use --seeds 10 for a claim about a method."
    )


def _divergence_warning(found: dict[tuple[Any, ...], dict[float, int]], of: int, what: str) -> str:
    """How many, what it means, and where: (method) or (method, attack, eps), and sparsities."""
    places = []
    for (method, *adversary), counts in found.items():
        dense = str(method).split()[-1] == "none"
        words = [str(method).replace("none", "dense") if dense else str(method)]
        if adversary:
            attack, eps = adversary
            words.append("clean" if attack == "none" else f"{attack} at eps {eps:g}")
        at = [str(n) if dense else f"{n} at sparsity {s:g}" for s, n in counts.items()]
        places.append(f"{', '.join(words)}: {', '.join(at)}")
    total = sum(sum(counts.values()) for counts in found.values())
    return f"{total} of {of} {what} diverged: {DIVERGED} ({'; '.join(places)})"


def _value_note(certificates: Columns) -> str:
    """For which rewards the value gap holds; nothing where an old run has none."""
    units = dict(zip(certificates["quantity"], certificates["unit"], strict=True))
    found = [f" {n.format(unit=units[name])}" for name, n in VALUE_NOTES.items() if name in units]
    return "".join(found)


def _bound(value: float) -> str:
    return "0" if value < figures.ROUNDING else f"{value:.3g}"


def _interval(interval: Interval, i: int) -> str:
    return interval_text(Interval(*(x[i] for x in interval)))


def main(argv: Sequence[str]) -> int:
    """Draw the report of an existing run again."""
    try:
        if len(argv) != 1:
            raise InputError("give one folder of a run: python -m benchmarks.report results/RUN")
        path = Path(argv[0])
        folder = RunFolder(path, read_json(path / "experiment.json").get("settings", {}))
        write_report(folder, make_console())
    except InputError as error:
        complain(error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
