"""The sections of a report about its adversaries: who did what, at what price, and can it be so?"""

from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks import analysis
from benchmarks.analysis import Columns, Results
from benchmarks.checks import Check, check_rows
from benchmarks.tables import interval_text, markdown_table
from jaxprune.attacks import ATTACKS
from jaxprune.statistics import Interval

INTRODUCTION = """\
What an adversary may spend decides what it finds. *Queries* are forward passes of a policy or a
critic, *gradients* those of one, *simulated* steps of the simulator, all per attacked step; *env
steps* are what the preparation of all *members* takes per victim. Seconds are of this run, per
cell, those of the preparation with what was not compiled ahead. The member that a cell meets was
chosen on other episodes. *Worst for* is the share of cells for which it alone was the strongest on
the first half of the episodes."""
CHECKS = """\
An attack that is too weak, or a policy whose gradients tell nothing, looks like robustness. What
follows would tell; a NO is repeated among the warnings with its meaning."""
# Columns of the table of attacks with the seconds of all cells together.
SECONDS = ("prepare", "choose", "play")


def sections(
    results: Results, attacks: Columns, seconds: Columns, checks: Sequence[Check]
) -> Iterator[str]:
    """Lines of Markdown. `attacks` is empty for runs of older versions."""
    if len(results.radii) > 1:
        yield from ("## Against eps", "")
        yield from (f"Worst-of return on fresh episodes; the area is {analysis.AREA}.", "")
        yield from ("![Worst-of return against eps](sweep.png)", "")
        for method in results.pruned_methods():
            yield from (f"{method}:", "", *markdown_table(*sweep_rows(results, method)), "")
    if checks:
        yield from ("## Sanity checks", "", CHECKS, "", *markdown_table(*check_rows(checks)), "")
    for method in results.pruned_methods():
        for eps in results.radii:
            if len(results.attacked(method, eps)) > analysis.SHOWN:
                yield from (f"## Every adversary of {method}, eps = {eps:g}", "")
                yield from (*markdown_table(*adversary_rows(results, method, eps)), "")
    if attacks:
        yield from ("## What the adversaries cost", "", INTRODUCTION, "")
        yield from (*markdown_table(*budget_rows(results, attacks, seconds)), "")


def adversary_rows(results: Results, method: str, eps: float) -> tuple[list[str], list[list[str]]]:
    """Mean return by adversary and sparsity, the strongest adversary on average first."""
    judge = analysis.halves(results).judge
    worst = analysis.worst_of(results, method, eps)
    curves = sorted(results.attacked(method, eps), key=lambda c: c.returns.mean())
    names = ["clean", *(c.attack for c in curves), analysis.WORST_OF]
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
    radii, returns, area = analysis.sweep(results, method)
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
    attacks, seconds = (analysis.of_victim(table, results.victim) for table in (attacks, seconds))
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
    chosen = [analysis.worst_of(results, label, eps).chosen.ravel() for label in labels]
    return float((np.concatenate(chosen) == name).mean())
