"""Scalars of a run, for machines that compare runs."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.analysis.bounds import bound_curves
from benchmarks.analysis.curves import (
    CONFIDENCE,
    SEED,
    WORST_OF,
    Columns,
    Results,
)
from benchmarks.analysis.verdict import Verdict, verdicts
from benchmarks.analysis.versus_dense import differences, improvement
from benchmarks.analysis.worst_case import sweep, worst_of
from jaxprune.statistics import Interval, bootstrap, iqm, student_mean


def divergences(table: Columns, by: Sequence[str]) -> dict[tuple[Any, ...], dict[float, int]]:
    """Diverged episodes of every group of rows that has any, by sparsity.

    Args:
        table: of returns (a flag per episode) or of training (a count per iteration).
        by: the columns whose values name a group.
    """
    found: dict[tuple[Any, ...], dict[float, int]] = {}
    counts = table.get("diverged", np.zeros(0, int))  # nothing was trained
    for row in np.flatnonzero(counts):
        group = found.setdefault(tuple(table[name][row] for name in by), {})
        sparsity = float(table["sparsity"][row])
        group[sparsity] = group.get(sparsity, 0) + int(counts[row])
    return {group: dict(sorted(at.items())) for group, at in found.items()}


def metrics(
    results: Results, certificates: Columns, others: Sequence[Results] = ()
) -> list[dict[str, Any]]:
    """Returns the scalars of metrics.json: key, value, unit, direction, interval.

    Programs outside of this suite may read them; the gate compares tables.

    The keys of other victims, of whom there are curves only, begin with their names.
    """
    rows: list[dict[str, Any]] = []

    def add(key: str, value: Interval, direction: str, unit: str = "return") -> None:
        mean, low, high = (float(x) for x in value)
        rows.append(
            {"key": key, "value": mean, "unit": unit, "direction": direction}
            | {"low": low, "high": high}
        )

    for prefix, held in [("", results), *((f"{other.victim}/", other) for other in others)]:
        for key, sparsity, curve, unit in _curves_of_metrics(held):
            for i, level in enumerate(sparsity):
                at = Interval(*(x[i] for x in curve))
                add(f"{prefix}{key}/sparsity={level:g}", at, "higher", unit)
    for key, value in _aggregates(results):
        add(key, value, "higher")
    for verdict in verdicts(results).values():
        for key, value, direction, unit in _of_verdict(verdict):
            add(f"{key}/{verdict.method}@{verdict.eps:g}", value, direction, unit)
    for eps in results.radii:
        for method in results.pruned_methods():
            for bound in bound_curves(certificates, method, eps):
                level = student_mean(bound.values.mean(1), level=CONFIDENCE)
                add(f"bound/{bound.bound}/{method}@{eps:g}/mean", level, "lower", bound.unit)
    return rows


def _of_verdict(verdict: Verdict) -> Iterator[tuple[str, Interval, str, str]]:
    """Key, value, direction and unit of what is said of one method at one radius."""
    clean, spot = verdict.within_clean, verdict.sweet_spot
    yield "within_clean/sparsity", _number(clean.sparsity), "higher", "fraction"
    yield "within_clean/clean_change", clean.clean_change.interval, "higher", "return"
    yield "within_clean/attacked_change", clean.attacked_change.interval, "higher", "return"
    yield (
        "within_attacked/sparsity",
        _number(verdict.within_attacked.sparsity),
        "higher",
        "fraction",
    )
    yield "sweet_spot/found", _number(spot.found), "none", "boolean"
    yield "sweet_spot/gain", spot.gain.interval, "higher", "return"
    yield "sweet_spot/p_value", _number(spot.p_value), "none", "probability"
    yield "sweet_spot/detectable", _number(spot.detectable), "lower", "return"


def _number(value: float) -> Interval:
    """A number without an interval."""
    return Interval(value, np.nan, np.nan)


def _curves_of_metrics(results: Results) -> Iterator[tuple[str, np.ndarray, Interval, str]]:
    """Key, sparsity `[S]`, `Interval [S]` and unit of everything that is better when higher."""
    for (method, attack, eps), curve in results.by_key.items():
        yield _key(method, attack, eps), curve.sparsity, results.interval(curve), "return"
    for method in dict.fromkeys(method for method, _, _ in results.by_key):
        for eps in results.radii:
            worst = worst_of(results, method, eps).curve
            yield _key(method, WORST_OF, eps), worst.sparsity, results.interval(worst), "return"
        if len(results.radii) > 1:
            _, sparsity, _, area = sweep(results, method)
            yield f"area/{method}/{WORST_OF}", sparsity, area, "return"
    for method in results.methods:
        for eps in results.radii:
            where = f"{method}/{WORST_OF}@{eps:g}"
            sparsity, band = results.clean(method).sparsity, differences(results, method, eps)
            yield f"difference_to_dense/{where}", sparsity, band, "return"
            probability = improvement(results, method, eps)
            yield f"improvement_over_dense/{where}", sparsity, probability, "probability"


def _aggregates(results: Results) -> Iterator[tuple[str, Interval]]:
    """Every curve's mean over the sparsity grid, over seeds and episodes in three ways."""
    for (method, attack, eps), curve in results.by_key.items():
        of_grid = curve.returns.mean(1)  # [seeds, episodes]
        samples = of_grid if len(of_grid) > 1 else of_grid[0]
        for name, statistic in (("mean", jnp.mean), ("iqm", iqm), ("median", jnp.median)):
            value = bootstrap(
                jax.random.key(SEED), jnp.asarray(samples), statistic, level=CONFIDENCE
            )
            yield f"{_key(method, attack, eps)}/{name}", value


def _key(method: str, attack: str, eps: float) -> str:
    return f"return/{method}/{attack}" + (f"@{eps:g}" if attack != "none" else "")
