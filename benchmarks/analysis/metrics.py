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
    replicated_interval,
)
from benchmarks.analysis.versus_dense import differences, improvement, sweet_spots
from benchmarks.analysis.worst_case import halves, sweep, worst_of
from jaxprune.statistics import Interval, bootstrap, iqm


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
    for eps in results.radii:
        for method in results.pruned_methods():
            for spot in sweet_spots(results, method, eps):
                key = f"sweet_spot/{method}@{eps:g}/{spot.objective}"
                level = Interval(np.array(spot.sparsity), np.array(np.nan), np.array(np.nan))
                add(f"{key}/sparsity", level, "none", "fraction")
                add(f"{key}/clean", spot.clean, "higher")
                add(f"{key}/attacked", spot.attacked, "higher")
            for bound in bound_curves(certificates, method, eps):
                level = replicated_interval(bound.values.mean(1)[:, None, None])
                key = f"bound/{bound.bound}/{method}@{eps:g}/mean"
                add(key, Interval(*(x[0] for x in level)), "lower", bound.unit)
    return rows


def _curves_of_metrics(results: Results) -> Iterator[tuple[str, np.ndarray, Interval, str]]:
    """Key, sparsity `[S]`, `Interval [S]` and unit of everything that is better when higher."""
    for (method, attack, eps), curve in results.by_key.items():
        yield _key(method, attack, eps), curve.sparsity, curve.interval(), "return"
    judge = halves(results).judge
    for method in dict.fromkeys(method for method, _, _ in results.by_key):
        for eps in results.radii:
            worst = worst_of(results, method, eps).curve
            yield _key(method, WORST_OF, eps), worst.sparsity, worst.interval(judge), "return"
        if len(results.radii) > 1:
            _, sparsity, _, area = sweep(results, method)
            yield f"area/{method}/{WORST_OF}", sparsity, area, "return"
    for method in results.methods:
        for eps in results.radii:
            where = f"{method}/{WORST_OF}@{eps:g}"
            sparsity, band = results.clean(method).sparsity, differences(results, method, eps).band
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
