"""What pruning changes beside the dense agents: differences, regret, sweet spots."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import numpy as np

from benchmarks.analysis.curves import (
    CONFIDENCE,
    SEED,
    Curve,
    Results,
    Sampling,
    as_numpy,
    reference,
    replicated_interval,
    replicates,
)
from benchmarks.analysis.worst_case import halves, worst_of
from jaxprune.statistics import (
    Interval,
    paired_difference,
    probability_of_improvement,
    simultaneous_band,
)
from jaxprune.statistics.regret import decompose

# A sweet spot by the smallest gap may cost this share of the dense clean return.
TOLERATED_LOSS = 0.05


class Differences(NamedTuple):
    """J(pruned, attacked) - J(dense, attacked) against sparsity, of the same fresh episodes."""

    interval: Interval  # [S], at each sparsity by itself
    band: Interval  # [S], of the whole curve at once


def differences(
    results: Results, method: str, eps: float, sampling: Sampling = replicates
) -> Differences:
    """Returns what pruning changes where both policies meet their strongest adversary."""
    pruned, dense = _with_dense(results, method, eps)
    a, b = sampling(*np.broadcast_arrays(pruned, dense))
    band = simultaneous_band(jax.random.key(SEED), a - b, level=CONFIDENCE)
    interval = paired_difference(jax.random.key(SEED), a, b, level=CONFIDENCE)
    return Differences(as_numpy(interval), as_numpy(band))


def improvement(results: Results, method: str, eps: float) -> Interval:
    """P(J(pruned, attacked) > J(dense, attacked)) against sparsity, `[S]`, ties by half.

    Of any two agents, or episodes of a single seed, on fresh episodes: not of pairs.
    """
    pruned, dense = _with_dense(results, method, eps)
    of_sparsity = partial(probability_of_improvement, jax.random.key(SEED), level=CONFIDENCE)
    x, y = replicates(pruned, dense)
    return as_numpy(jax.vmap(of_sparsity, in_axes=(1, None))(x, y))


def _with_dense(results: Results, method: str, eps: float) -> list[np.ndarray]:
    """Worst-of returns `[seeds, S, episodes]` of a method, and those of no pruning."""
    worst = [worst_of(results, m, eps).curve for m in (method, results.dense_of[method])]
    return [curve.returns[..., halves(results).judge] for curve in worst]


class RegretCurve(NamedTuple):
    """The three terms against sparsity, `Interval [S]` each."""

    attack: str
    clean: Interval
    pruning: Interval
    robustness: Interval
    total: Interval
    agents: np.ndarray  # [seeds, S], the total of each


def regret_curve(
    results: Results, method: str, eps: float, quantity: str = "returns"
) -> RegretCurve:
    """The regret of one method, under the strongest adversary of radius eps.

    The terms are differences of the same episodes, fresh ones.

    Args:
        results: of a run.
        method: of pruning.
        eps: radius of the adversaries.
        quantity: of a `Curve`: "returns" or "discounted".
    """
    worst, judge = worst_of(results, method, eps), halves(results).judge
    terms = decompose(
        np.asarray(reference(results, method, quantity)),
        getattr(results.dense(method), quantity)[..., judge],  # [seeds, 1, episodes]
        getattr(results.clean(method), quantity)[..., judge],
        getattr(worst.curve, quantity)[..., judge],
    )
    parts = np.broadcast_arrays(*terms, terms.total)
    intervals = (replicated_interval(part) for part in parts)
    return RegretCurve(worst.label, *intervals, agents=parts[-1].mean(-1))


class SweetSpot(NamedTuple):
    """The sparsity that an objective picks, chosen on one half of the episodes."""

    objective: str
    sparsity: float
    clean: Interval  # [], of the other half of the episodes
    attacked: Interval  # [], likewise, under the strongest adversary
    dense_clean: Interval  # [], of the unpruned agents on that half
    dense_attacked: Interval


def sweet_spots(
    results: Results, method: str, eps: float, sampling: Sampling = replicates
) -> list[SweetSpot]:
    """The best sparsity by three objectives; sparsity 0 competes.

    Chosen on the first half of the episodes and reported on the second, because a maximum over
    noisy means is too good on the episodes that picked it. A single episode serves for both.
    """
    clean, worst = results.clean(method), worst_of(results, method, eps).curve
    choose, judge = halves(results)

    def mean(curve: Curve, part: slice) -> np.ndarray:
        return curve.returns[:, :, part].mean((0, 2))

    c, a = mean(clean, choose), mean(worst, choose)
    dense = results.dense(method).returns[:, :, choose].mean()
    affordable = c >= dense - TOLERATED_LOSS * abs(dense)
    objectives: dict[str, np.ndarray] = {
        "highest mean of clean and attacked": (c + a) / 2,
        "highest minimum of clean and attacked": np.minimum(c, a),
        f"smallest gap at no more than {TOLERATED_LOSS:.0%} clean loss": np.where(
            affordable, -(c - a), -np.inf
        ),
    }
    dense_worst = worst_of(results, results.dense_of[method], eps).curve
    clean_interval, attacked_interval, dense_clean, dense_attacked = (
        replicated_interval(curve.returns[:, :, judge], sampling)
        for curve in (clean, worst, results.dense(method), dense_worst)
    )
    pick: Callable[[Interval, int], Interval] = lambda x, i: Interval(*(v[i] for v in x))  # noqa: E731
    return [
        SweetSpot(
            objective,
            float(clean.sparsity[best]),
            pick(clean_interval, best),
            pick(attacked_interval, best),
            pick(dense_clean, 0),
            pick(dense_attacked, 0),
        )
        for objective, score in objectives.items()
        if np.isfinite(score).any()
        for best in [int(np.argmax(np.where(np.isfinite(score), score, -np.inf)))]
    ]
