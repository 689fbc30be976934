"""Bootstrap intervals: against SciPy, paired, and with the coverage they promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxprune.statistics import Interval, bootstrap_mean, cvar

KEY = jax.random.key(0)


@pytest.mark.parametrize("level", [0.8, 0.95])
@pytest.mark.parametrize("n", [8, 40])
def test_against_scipy(n, level):
    """The percentile method on the same skewed data; ends agree to 4 % of the width.

    Both are Monte-Carlo quantiles of 20 000 draws: their standard error is about 1 % of the width.
    """
    samples = np.random.default_rng(n).gamma(2.0, size=n)
    mine = bootstrap_mean(KEY, jnp.asarray(samples), resamples=20_000, level=level)
    theirs = stats.bootstrap(
        (samples,),
        np.mean,
        n_resamples=20_000,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    width = theirs.high - theirs.low
    assert mine.mean == pytest.approx(samples.mean(), rel=1e-6)
    assert mine.low == pytest.approx(theirs.low, abs=0.04 * width)
    assert mine.high == pytest.approx(theirs.high, abs=0.04 * width)


def test_coverage_on_gaussian_data():
    """1000 data sets of 50: the percentile interval covers 94 % in theory (t against z, n - 1).

    A binomial proportion of 1000 has a standard error of 0.7 %; the margin is 2.5 %.
    """
    samples = 3 + 2 * np.random.default_rng(0).standard_normal((50, 1000))
    interval = bootstrap_mean(KEY, jnp.asarray(samples, jnp.float32), resamples=1000)
    covered = np.mean((interval.low <= 3) & (interval.high >= 3))
    assert abs(covered - 0.95) < 0.025


def test_a_wider_level_gives_a_wider_interval():
    samples = jnp.asarray(np.random.default_rng(0).standard_normal(30), jnp.float32)
    widths = []
    for level in (0.5, 0.8, 0.95, 0.99):
        interval = bootstrap_mean(KEY, samples, level=level)
        assert interval.low < interval.mean < interval.high
        widths.append(float(interval.high - interval.low))
    assert np.all(np.diff(widths) > 0)


def test_columns_are_resampled_together():
    """Two noisy columns one apart: their difference is certain, and its interval a point."""
    noise = np.random.default_rng(0).integers(-1000, 1000, 20)
    pair = jnp.asarray(np.stack([noise + 1, noise], axis=1), jnp.float32)
    interval = bootstrap_mean(KEY, pair)
    assert float(interval.high[0] - interval.low[0]) > 100
    np.testing.assert_allclose(interval.low[0] - interval.low[1], 1, atol=1e-3)
    np.testing.assert_allclose(interval.high[0] - interval.high[1], 1, atol=1e-3)
    difference = bootstrap_mean(KEY, pair[:, 0] - pair[:, 1])
    assert difference == Interval(1.0, 1.0, 1.0)


def test_a_column_does_not_depend_on_its_neighbours():
    samples = jnp.asarray(np.random.default_rng(0).standard_normal((12, 2, 3)), jnp.float32)
    together = bootstrap_mean(KEY, samples)
    assert together.mean.shape == together.low.shape == together.high.shape == (2, 3)
    for index in np.ndindex(2, 3):
        alone = bootstrap_mean(KEY, samples[(slice(None), *index)])
        for a, b in zip(together, alone, strict=True):
            np.testing.assert_allclose(a[index], b, rtol=1e-5, atol=1e-6)


def test_one_sample_has_a_mean_and_no_interval():
    interval = bootstrap_mean(KEY, jnp.array([[4.0, 5.0]]))
    assert interval.mean.tolist() == [4.0, 5.0]
    assert np.all(np.isnan(interval.low)) and np.all(np.isnan(interval.high))


def test_two_samples_by_hand():
    """Means of resamples of (0, 1) are 0, 1/2, 1 with 1/4, 1/2, 1/4: the range, then the middle."""
    samples = jnp.array([0.0, 1.0])
    assert bootstrap_mean(KEY, samples, level=0.95) == Interval(0.5, 0.0, 1.0)
    assert bootstrap_mean(KEY, samples, level=0.4) == Interval(0.5, 0.5, 0.5)


def test_equal_samples_have_no_spread():
    assert bootstrap_mean(KEY, jnp.full(5, 7.0)) == Interval(7.0, 7.0, 7.0)


def test_nan_is_not_dropped():
    samples = jnp.array([[1.0, 1.0], [jnp.nan, 2.0], [3.0, 3.0]])
    interval = bootstrap_mean(KEY, samples)
    assert np.isnan(interval.mean[0]) and np.isnan(interval.low[0]) and np.isnan(interval.high[0])
    assert interval.mean[1] == 2.0 and np.isfinite(interval.low[1])


def test_the_key_decides():
    samples = jnp.asarray(np.random.default_rng(0).standard_normal(15), jnp.float32)
    one, again = bootstrap_mean(KEY, samples), bootstrap_mean(KEY, samples)
    other = bootstrap_mean(jax.random.key(1), samples)
    assert one == again
    assert other.mean == one.mean and other.low != one.low


@pytest.mark.parametrize(
    ("n", "share", "count"), [(30, 0.1, 3), (25, 0.1, 3), (4, 0.1, 1), (5, 1, 5)]
)
def test_cvar_is_the_mean_of_the_lowest(n, share, count):
    samples = np.random.default_rng(n).normal(size=(3, n))
    expected = np.sort(samples, axis=-1)[:, :count].mean(-1)
    np.testing.assert_allclose(cvar(samples, share), expected, rtol=1e-5)
