"""Confidence bounds that hold at every sample size, for means and for quantiles.

They ask that samples be independent and, for a mean, in a range that was known *before* they were
seen. A one-sided bound fails with probability at most 1 - level. Samples lie along the last axis;
NaN stays NaN.
"""

import math
from collections.abc import Callable

import numpy as np
from scipy import special

from jaxprune.validation import InputError, lookup

# Of the range: samples beyond it by less are float32 figures at its ends.
ROUNDING = 1e-6


# --- means ----------------------------------------------------------------------------------------


def hoeffding_width(samples: np.ndarray, span: float, tail: float) -> np.ndarray:
    """span sqrt(ln(1 / tail) / (2 n)): the same for all samples.

    Source: Hoeffding 1963, Theorem 2.
    """
    n = samples.shape[-1]
    return np.full(samples.shape[:-1], span * math.sqrt(math.log(1 / tail) / (2 * n)))


def bernstein_width(samples: np.ndarray, span: float, tail: float) -> np.ndarray:
    """sqrt(2 V ln(2 / tail) / n) + 7 span ln(2 / tail) / (3 (n - 1)), V the sample variance.

    Shorter than Hoeffding's if V << span^2 and there are hundreds of samples.

    Source: Maurer and Pontil 2009 (arXiv 0907.3740), Theorem 4.
    """
    n, log = samples.shape[-1], math.log(2 / tail)
    variance = samples.var(axis=-1, ddof=1)
    return np.sqrt(2 * variance * log / n) + 7 * span * log / (3 * (n - 1))


# (samples [..., n], length of the range, probability of failing) -> [...]
WIDTHS: dict[str, Callable[[np.ndarray, float, float], np.ndarray]] = {
    "bernstein": bernstein_width,
    "hoeffding": hoeffding_width,
}


def mean_lower(
    samples: np.ndarray,
    limits: tuple[float, float],
    level: float = 0.95,
    *,
    method: str = "bernstein",
    comparisons: int = 1,
) -> np.ndarray:
    """A number that the expectation is at least, with probability >= level, `[..., n] -> [...]`.

    Args:
        samples: independent, along the last axis.
        limits: the range (low, high) that every sample lies in for certain.
        level: of the statement; of all of them together if there are `comparisons`.
        method: a key of `WIDTHS`; choose it before seeing the samples.
        comparisons: how many such statements are to hold at once (union bound).

    Raises:
        InputError: fewer than two samples, samples outside the limits, limits that are no finite
            interval, level outside (0, 1), comparisons < 1, or an unknown method.
    """
    low, _ = _check_samples(samples, limits)
    width = _width(samples, limits, level, method, comparisons)
    return np.maximum(np.mean(samples, axis=-1, dtype=float) - width, low)


def mean_upper(
    samples: np.ndarray,
    limits: tuple[float, float],
    level: float = 0.95,
    *,
    method: str = "bernstein",
    comparisons: int = 1,
) -> np.ndarray:
    """A number that the expectation is at most; all else as in `mean_lower`."""
    _, high = _check_samples(samples, limits)
    width = _width(samples, limits, level, method, comparisons)
    return np.minimum(np.mean(samples, axis=-1, dtype=float) + width, high)


def _width(
    samples: np.ndarray, limits: tuple[float, float], level: float, method: str, comparisons: int
) -> np.ndarray:
    width = lookup(WIDTHS, method, "method")
    tail = tail_probability(level, comparisons)
    return width(np.asarray(samples, float), limits[1] - limits[0], tail)


def _check_samples(samples: np.ndarray, limits: tuple[float, float]) -> tuple[float, float]:
    low, high = limits
    if not -math.inf < low <= high < math.inf:
        raise InputError(
            f"limits ({low}, {high}) are no finite interval: a confidence bound for a mean needs "
            "a range low <= high that all samples are known to lie in"
        )
    _check_count(samples)
    margin = ROUNDING * (high - low)
    if np.any(np.less(samples, low - margin) | np.greater(samples, high + margin)):
        raise InputError(
            f"samples from {np.min(samples):g} to {np.max(samples):g} leave their limits "
            f"({low:g}, {high:g}): give the range that they are known to lie in beforehand"
        )
    return low, high


# --- quantiles ------------------------------------------------------------------------------------


def dkw_width(n: int, tail: float) -> float:
    """sqrt(ln(1 / tail) / (2 n)): how far below its estimate a distribution function can be.

    Everywhere at once; the same above. Needs tail <= 1/2.

    Source: Massart 1990 (the tight constant of Dvoretzky, Kiefer and Wolfowitz 1956).
    """
    return math.sqrt(math.log(1 / tail) / (2 * n))


def _dkw_rank(n: int, quantile: float, tail: float) -> int:
    """From the band around the whole distribution function: holds for all quantiles at once."""
    below = math.floor(n * (quantile - dkw_width(n, tail)))
    return max(below + 1, 0)


def _binomial_rank(n: int, quantile: float, tail: float) -> int:
    """The k with P(Binomial(n, quantile) < k) < tail <= P(... <= k): exact for one quantile.

    The k-th smallest sample is beyond the quantile only if fewer than k samples are at or below it.

    Source: David and Nagaraja 2003, Order Statistics, section 7.1.
    """
    return int(np.searchsorted(special.bdtr(np.arange(n + 1), n, quantile), tail))


# (n, quantile, probability of failing) -> which sample in ascending order, from 1; 0: none.
RANKS: dict[str, Callable[[int, float, float], int]] = {
    "binomial": _binomial_rank,
    "dkw": _dkw_rank,
}


def quantile_lower(
    samples: np.ndarray,
    quantile: float,
    level: float = 0.95,
    *,
    method: str = "binomial",
    comparisons: int = 1,
) -> np.ndarray:
    """A number below which lies at most the share `quantile`, with probability >= level.

    Args:
        samples: independent, along the last axis; any range.
        quantile: in (0, 1); 0.5 for the median.
        level: of the statement; of all of them together if there are `comparisons`.
        method: a key of `RANKS`: "binomial" for one quantile, "dkw" for all of them at once.
        comparisons: how many such statements are to hold at once (union bound).

    Returns:
        `[..., n] -> [...]`, one of the samples; -inf if there are too few of them.

    Raises:
        InputError: fewer than two samples, quantile or level outside (0, 1), level < 1/2 for
            "dkw", comparisons < 1, or an unknown method.
    """
    rank = lookup(RANKS, method, "method")
    _check_count(samples)
    if not 0 < quantile < 1:
        raise InputError(f"quantile {quantile} is outside (0, 1): 0.5 is the median")
    tail = tail_probability(level, comparisons)
    if method == "dkw" and tail > 0.5:
        raise InputError(f"level {level} is below 1/2, where the DKW band is not known to hold")
    ascending = np.sort(np.asarray(samples, float), axis=-1)  # NaN last
    k = rank(ascending.shape[-1], quantile, tail)
    found = ascending[..., k - 1] if k > 0 else -np.inf
    return np.where(np.isnan(ascending[..., -1]), np.nan, found)


# --- shared ---------------------------------------------------------------------------------------


def tail_probability(level: float, comparisons: int = 1) -> float:
    """(1 - level) / comparisons: what each of so many statements may fail with (union bound).

    Raises:
        InputError: level outside (0, 1), or comparisons < 1.
    """
    if not 0 < level < 1:
        raise InputError(f"level {level} is outside (0, 1): 0.95 fails one time in twenty")
    if comparisons < 1:
        raise InputError(f"comparisons {comparisons} is below 1: count the statements made")
    return (1 - level) / comparisons


def _check_count(samples: np.ndarray) -> None:
    if np.ndim(samples) < 1 or np.shape(samples)[-1] < 2:
        raise InputError(
            f"samples have shape {np.shape(samples)}: give at least two along the last axis"
        )
