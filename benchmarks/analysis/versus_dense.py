"""Compares pruned policies with the dense ones: differences, improvement, regret."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.analysis.curves import (
    CONFIDENCE,
    SEED,
    Results,
    as_numpy,
    reference,
    replicated_interval,
)
from benchmarks.analysis.worst_case import worst_of
from jaxprune.statistics import (
    Interval,
    probability_of_improvement,
    simultaneous_band,
    student_mean,
)
from jaxprune.statistics.choice import of_differences, replicates
from jaxprune.statistics.regret import decompose


def differences(results: Results, method: str, eps: float) -> Interval:
    """Returns what pruning changes where both policies meet their strongest adversary, `[S]`.

    J(pruned, attacked) - J(dense, attacked) of the same episodes, in a band that holds for every
    sparsity, method and radius of the run at once (max-t over the curve, Bonferroni over curves).
    """
    band = _band(results, *_with_dense(results, method, eps))
    wide = _of_halves(results, method, eps, band)
    return wide.clipped(of_differences(results.limits()))


def clean_differences(results: Results, method: str) -> Interval:
    """Returns what pruning changes without an attack, `[S]`, in a band as of `differences`."""
    pruned, dense = results.clean(method).returns, results.dense(method).returns
    return _band(results, pruned, dense).clipped(of_differences(results.limits()))


def _band(results: Results, pruned: np.ndarray, dense: np.ndarray) -> Interval:
    """A simultaneous band of differences of returns `[seeds, S, episodes]`, for all panels."""
    a, b = replicates(*np.broadcast_arrays(pruned, dense))
    panels = max(len(results.methods), 1) * len(results.radii)
    level, samples = 1 - (1 - CONFIDENCE) / panels, jnp.asarray(a - b)
    return as_numpy(simultaneous_band(jax.random.key(SEED), samples, level=level))


def single_agent(results: Results, method: str) -> bool:
    """Whether there is one agent, so that episodes are the replicates."""
    return max(len(results.clean(x).returns) for x in (method, results.dense_of[method])) == 1


def _of_halves(results: Results, method: str, eps: float, change: Interval) -> Interval:
    """Widens an interval over the episodes of one agent, under the strongest of several attacks.

    Its halves err alike where they chose the same attack: in 88 % of simulations only did the 95 %
    band hold (4 attacks that are alike, 64 episodes). The mean of two numbers that err alike has at
    most the error of one.
    """
    if not single_agent(results, method) or len(results.attacked(method, eps)) == 1:
        return change
    low, high = (change.mean + 2**0.5 * (end - change.mean) for end in change[1:])
    return Interval(change.mean, low, high)


def improvement(results: Results, method: str, eps: float) -> Interval:
    """P(J(pruned, attacked) > J(dense, attacked)) against sparsity, `[S]`, ties by half.

    Of any two agents, or episodes of a single seed: not of pairs.
    """
    x, y = map(jnp.asarray, replicates(*_with_dense(results, method, eps)))
    of_sparsity = partial(probability_of_improvement, jax.random.key(SEED), level=CONFIDENCE)
    return as_numpy(jax.vmap(of_sparsity, in_axes=(1, None))(x, y))


def _with_dense(results: Results, method: str, eps: float) -> list[np.ndarray]:
    """Worst-of returns `[seeds, S, episodes]` of a method, and those of no pruning."""
    return [
        worst_of(results, name, eps).curve.returns for name in (method, results.dense_of[method])
    ]


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

    The terms are differences of the same episodes; J_ref is a number, without an error of its own.

    Args:
        results: of a run.
        method: of pruning.
        eps: radius of the adversaries.
        quantity: of a `Curve`: "returns" or "discounted".
    """
    worst, best = worst_of(results, method, eps), reference(results, method, quantity)
    terms = decompose(
        np.asarray(best),
        getattr(results.dense(method), quantity),  # [seeds, 1, episodes]
        getattr(results.clean(method), quantity),
        getattr(worst.curve, quantity),
    )
    clean, pruning, robustness, total = np.broadcast_arrays(*terms, terms.total)
    low, high = results.limits(quantity)
    to_best, paired = (best - high, best - low), of_differences((low, high))
    change = _of_halves(results, method, eps, _paired(robustness))
    return RegretCurve(
        worst.label,
        replicated_interval(clean, to_best),
        _paired(pruning).clipped(paired),
        change.clipped(paired),
        replicated_interval(total, to_best),
        agents=total.mean(-1),
    )


def _paired(part: np.ndarray) -> Interval:
    """`[seeds, S, episodes]` -> interval of the mean of paired differences, `[S]`."""
    (samples,) = replicates(part)
    return student_mean(samples, level=CONFIDENCE)
