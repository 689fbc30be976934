"""Bootstrap intervals of any statistic, honest about few replicates.

The unit of replication is the caller's first axis.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import ndtri, stdtrit

from jaxprune.types import AnyArray, Array, Key

# Resamples at a time: what they hold is copied.
BATCH = 256


# Of fewer replicates there is no interval: too few tell how far apart others would be.
FEWEST = 5


class Interval(NamedTuple):
    """An estimate (the mean where nothing else is said) with its interval."""

    mean: AnyArray  # [...], as the samples
    low: AnyArray  # NaN where there is no interval
    high: AnyArray

    @property
    def available(self) -> AnyArray:
        """Whether there is an interval, `[...]`: replicates enough, and no NaN among them."""
        return ~np.isnan(self.low)

    def clipped(self, limits: tuple[float, float]) -> "Interval":
        """Returns the interval without what cannot be."""
        low, high = (np.clip(end, *limits) for end in (self.low, self.high))
        return Interval(self.mean, low, high)


def widening(n: int, level: float) -> float:
    """By what the half widths of a percentile interval are multiplied, for n replicates.

        sqrt(n / (n - 1)) * t / z    the quantiles of Student's t (n - 1) and of the normal

    The plain interval is the one of a normal distribution with the biased variance. Of means of
    Gaussian samples 94 % to 96 % of the 95 % intervals then hold the truth for every n (84 % plain
    at n = 5), of exponential ones 88 %, 91 % and 93 % at n = 5, 10 and 30: few replicates do not
    tell how skewed they are. `means` has intervals of the mean that know.

    Source: Hesterberg 2015 (arXiv 1411.5279).
    """
    upper = (1 + level) / 2
    return float(math.sqrt(n / (n - 1)) * stdtrit(n - 1, upper) / ndtri(upper))


def bootstrap(
    key: Key,
    samples: Array | tuple[Array, ...],
    statistic: Callable[..., Array],
    *,
    resamples: int = 2000,
    level: float = 0.95,
    stratified: bool = False,
) -> Interval:
    """Any statistic with its percentile-bootstrap interval, widened for few replicates.

    Every column is resampled with the *same* indices, so that differences between columns stay
    paired; stratified, every entry of the second axis with its own. Then the widening still goes
    by the replicates of one stratum, as if one had all the spread, and is cautious. Of fewer
    replicates than `FEWEST`, low and high are NaN.

    Args:
        key: consumed.
        samples: `[n, ...]`; n independent replicates (training seeds, or episodes of one policy).
            A tuple holds groups of replicates that are independent of each other; the smallest
            decides the widening.
        statistic: of one resample per group; it reduces the first axis (`jnp.median`, `iqm`, ...).
        resamples: bootstrap draws.
        level: nominal coverage.
        stratified: the second axis holds strata (tasks, curves), each with its own replicates.

    Returns:
        `Interval` of what the statistic returns.

    Source: Efron 1979; runs resampled within strata: Agarwal et al. 2021 (arXiv 2108.13264).
    """
    groups = samples if isinstance(samples, tuple) else (samples,)
    keys = jax.random.split(key, len(groups))
    axes = 2 if stratified else 1
    indices = tuple(
        resampled(key, resamples, group.shape[:axes])
        for key, group in zip(keys, groups, strict=True)
    )
    return _interval(indices, groups, statistic, level)


@partial(jax.jit, static_argnames=("resamples", "shape"))
def resampled(key: Key, resamples: int, shape: tuple[int, ...]) -> Array:
    """Which of `n` replicates the resamples hold, `[resamples, *shape]`; shape is `[n, ...]`.

    A program of its own: random numbers take most of the compilation, whatever they are for.
    """
    return jax.random.randint(key, (resamples, *shape), 0, shape[0])


@partial(jax.jit, static_argnames=("statistic", "level"))
def _interval(
    indices: tuple[Array, ...],
    groups: tuple[Array, ...],
    statistic: Callable[..., Array],
    level: float,
) -> Interval:
    n = min(group.shape[0] for group in groups)
    estimate = statistic(*groups)
    if n < FEWEST:
        return unknown(estimate)

    def draw(indices: tuple[Array, ...]) -> Array:
        return statistic(*(_take(*pair) for pair in zip(groups, indices, strict=True)))

    draws = jax.lax.map(draw, indices, batch_size=BATCH)
    low, high = jnp.quantile(draws, jnp.array([1 - level, 1 + level]) / 2, axis=0)
    factor = widening(n, level)
    below, above = jnp.maximum(estimate - low, 0), jnp.maximum(high - estimate, 0)
    return Interval(estimate, estimate - factor * below, estimate + factor * above)


def _take(samples: Array, index: Array) -> Array:
    """A resample: whole replicates of an index `[n]`, those of each stratum of `[n, strata]`."""
    return samples[index] if index.ndim == 1 else samples[index, jnp.arange(index.shape[1])]


def unknown(estimate: Array) -> Interval:
    """What is known from too few replicates."""
    nan = jnp.full_like(estimate, jnp.nan)
    return Interval(estimate, nan, nan)
