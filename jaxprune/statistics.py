"""Means with bootstrap intervals; the unit of replication is the caller's first axis."""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprune.types import Array, Key


class Interval(NamedTuple):
    """An estimate with its percentile interval."""

    mean: Any  # [...], as the samples
    low: Any
    high: Any


def cvar(samples: Any, share: float) -> Any:
    """Conditional value at risk: the mean of the lowest `share` of the last axis, at least one.

    Args:
        samples: `[..., n]`.
        share: of the samples, in (0, 1]; ceil(share * n) of them count.

    Returns:
        `[...]`.
    """
    count = max(1, math.ceil(share * samples.shape[-1] - 1e-9))  # 0.1 * 30 is more than 3
    return jnp.sort(samples, axis=-1)[..., :count].mean(-1)


@partial(jax.jit, static_argnames=("resamples", "level"))
def bootstrap_mean(
    key: Key, samples: Array, *, resamples: int = 2000, level: float = 0.95
) -> Interval:
    """The mean over the first axis and its percentile-bootstrap interval.

    Every column is resampled with the *same* indices, so that differences between columns stay
    paired. With one sample there is no spread to learn from: low and high are NaN. With two or
    three the interval is the range of the samples at best, and covers less than it says.

    Args:
        key: consumed.
        samples: `[n, ...]`; n independent replicates (training seeds, or episodes of one policy).
        resamples: bootstrap draws.
        level: nominal coverage.

    Returns:
        `Interval` of `[...]`.

    Source: Efron 1979; resampling runs, not episodes: Agarwal et al. 2021 (arXiv 2108.13264).
    """
    n = samples.shape[0]
    mean = jnp.mean(samples, axis=0)
    if n < 2:
        unknown = jnp.full_like(mean, jnp.nan)
        return Interval(mean, unknown, unknown)
    tail = (1 - level) / 2

    def draw(key: Key) -> Array:
        return jnp.mean(samples[jax.random.randint(key, (n,), 0, n)], axis=0)

    means = jax.lax.map(draw, jax.random.split(key, resamples), batch_size=256)
    low, high = jnp.quantile(means, jnp.array([tail, 1 - tail]), axis=0)
    return Interval(mean, low, high)
