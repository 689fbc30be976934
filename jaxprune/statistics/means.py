"""Intervals of a mean of few replicates; the unit of replication is the caller's first axis.

`bounded_mean` holds for every distribution, so that agents which fall or hop do not fool it, and
needs to know what a replicate can be. `student_mean` is for differences in pairs, which are nearly
symmetric, and needs to know nothing. NaN stays NaN.
"""

import math

import numpy as np
from jax.typing import ArrayLike
from scipy.special import stdtrit

from jaxprune.statistics.bootstrap import FEWEST, Interval
from jaxprune.validation import InputError

# Of the weights of `bounded_mean`: the tail of its interval is then 2.5 % with an error of 0.25 %.
DRAWS = 4000
# Of the range: samples beyond it by less are float32 figures at its ends.
ROUNDING = 1e-6


def bounded_mean(
    samples: ArrayLike, limits: tuple[float, float], *, level: float = 0.95, seed: int = 0
) -> Interval:
    """The mean of samples from a known range, with an interval for any distribution in it.

        low: the (1 - level) / 2 quantile of  w_0 limits[0] + sum_i w_i x_i,  w ~ Dirichlet(1, ...)

    and high likewise, with the other limit: a Bayesian bootstrap in which the worst that can be was
    seen once. Of agents that do one of two things it is Clopper and Pearson's interval, so that
    five that hop allow that half of all fall. At least 95 % of the 95 % intervals held the mean in
    every simulation so far (by other authors, and in the tests here); Student's held it in 68 % to
    94 % for n = 5 and agents of which a tenth to a half fall.

    Args:
        samples: `[n, ...]`, independent along the first axis.
        limits: (low, high), what a sample can be.
        level: nominal coverage.
        seed: of the `DRAWS` weights, which all columns share.

    Returns:
        `Interval` of `[...]`, inside the limits; low and high are NaN for n < `FEWEST`.

    Raises:
        InputError: samples outside the limits.

    Source: Gaffke 2005 (Mathematical Methods of Statistics 14); Learned-Miller and Thomas 2019
    (arXiv 1905.06208); Rubin 1981 for the Bayesian bootstrap.
    """
    samples = np.asarray(samples, float)
    n, shape = len(samples), samples.shape[1:]
    margin = ROUNDING * max(map(abs, limits))
    if (samples < limits[0] - margin).any() or (samples > limits[1] + margin).any():
        raise InputError(
            f"samples from {samples.min():g} to {samples.max():g} leave their limits "
            f"({limits[0]:g}, {limits[1]:g}): give the range that they are known to lie in"
        )
    mean = samples.mean(0)
    if n < FEWEST:
        return Interval(mean, np.full(shape, np.nan), np.full(shape, np.nan))
    weights = np.random.default_rng(seed).standard_exponential((DRAWS, n + 1))
    weights /= weights.sum(1, keepdims=True)
    seen = weights[:, 1:] @ samples.reshape(n, -1)  # [DRAWS, columns]
    tails = (1 - level) / 2, (1 + level) / 2
    ends = (
        np.quantile(seen + weights[:, :1] * limit, tail, axis=0).reshape(shape)
        for limit, tail in zip(limits, tails, strict=True)
    )
    return Interval(mean, *ends).clipped(limits)


def student_mean(samples: ArrayLike, *, level: float = 0.95) -> Interval:
    """The mean with Student's interval, `[n, ...]` -> `Interval` of `[...]`.

    For paired differences: exact where they are Gaussian, and of pairs from one bimodal
    distribution 94 % and more of the 95 % intervals hold the mean for n >= `FEWEST`. Where pruning
    makes one agent in three fall and changes nothing else, 83 % do at n = 5 and 94 % at 10: five
    pairs may not have seen it. Low and high are NaN for n < `FEWEST`.
    """
    samples = np.asarray(samples, float)
    n, mean = len(samples), samples.mean(0)
    if n < FEWEST:
        return Interval(mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan))
    half = stdtrit(n - 1, (1 + level) / 2) * (samples - samples[0]).std(0, ddof=1) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half)
