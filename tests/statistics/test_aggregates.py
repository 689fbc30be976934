"""Estimates, intervals and bands: against SciPy and rliable, and with the coverage they promise."""

import importlib.util
import sys
from functools import partial
from types import ModuleType

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from rliable import metrics
from scipy import stats

from jaxprune.statistics import (
    Interval,
    area,
    bootstrap,
    cvar,
    iqm,
    probability_of_improvement,
    simultaneous_band,
    student_mean,
    widening,
)
from jaxprune.validation import InputError

KEY = jax.random.key(0)
MEAN = partial(jnp.mean, axis=0)
bootstrap_mean = partial(bootstrap, KEY, statistic=MEAN)


@pytest.fixture(scope="module")
def rliable():
    """rliable's bootstrap: it needs arch.bootstrap, and pandas 3 breaks the rest of arch 7."""
    arch = ModuleType("arch")
    arch.__path__ = importlib.util.find_spec("arch").submodule_search_locations
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "arch", arch)
        yield importlib.import_module("rliable.library")


def percentiles(interval: Interval, n: int, level: float = 0.95) -> tuple[float, float]:
    """The plain percentile interval: half widths about the estimate without their widening."""
    ends = (interval.low, interval.high)
    return tuple(float(interval.mean + (x - interval.mean) / widening(n, level)) for x in ends)


def gaussian(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def covered(interval: Interval, truth: float) -> float:
    return float(np.mean(holds(interval, truth)))


def holds(interval: Interval, truth: float) -> np.ndarray:
    return (np.asarray(interval.low) <= truth) & (np.asarray(interval.high) >= truth)


@pytest.mark.parametrize("level", [0.8, 0.95])
@pytest.mark.parametrize("n", [8, 40])
@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        (partial(jnp.mean, axis=0), np.mean),
        (iqm, partial(stats.trim_mean, proportiontocut=0.25)),
    ],
)
def test_against_scipy(mine, theirs, n, level):
    """The percentile method on the same skewed data; ends agree to 4 % of the width.

    Both are Monte-Carlo quantiles of 20 000 draws: their standard error is about 1 % of the width.
    The widening for few replicates, which SciPy has not, is taken back first.
    """
    samples = np.random.default_rng(n).gamma(2.0, size=n)
    interval = bootstrap(KEY, jnp.asarray(samples), mine, resamples=20_000, level=level)
    expected = stats.bootstrap(
        (samples,),
        theirs,
        n_resamples=20_000,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    width = expected.high - expected.low
    assert interval.mean == pytest.approx(theirs(samples), rel=1e-6)
    assert percentiles(interval, n, level) == pytest.approx(expected, abs=0.04 * width)


@pytest.mark.parametrize(
    ("mine", "theirs"), [(iqm, metrics.aggregate_iqm), (jnp.mean, metrics.aggregate_mean)]
)
def test_strata_against_rliable(rliable, mine, theirs):
    """Runs resampled within each task, `[runs, tasks]`; tasks of different spread, 10 000 draws.

    rliable draws from NumPy's global generator whatever its `random_state` says.
    """
    samples = np.random.default_rng(1).gamma(2.0, size=(10, 4)) * np.arange(1, 5)
    interval = bootstrap(KEY, jnp.asarray(samples), mine, resamples=10_000, stratified=True)
    points, ends = rliable.get_interval_estimates(
        {"it": samples}, lambda x: np.array([theirs(x)]), reps=10_000
    )
    assert interval.mean == pytest.approx(points["it"][0], rel=1e-5)
    low, high = ends["it"][:, 0]
    assert percentiles(interval, 10) == pytest.approx((low, high), abs=0.04 * (high - low))


def test_strata_are_resampled_on_their_own():
    """Runs of two tasks that cancel: together their mean is certain, on their own it is not."""
    runs = np.arange(9, dtype=np.float32)
    pair = np.stack([runs, -runs], axis=1)
    assert bootstrap(KEY, pair, jnp.mean) == Interval(0.0, 0.0, 0.0)
    apart = bootstrap(KEY, pair, jnp.mean, stratified=True)
    assert apart.low < -1
    assert apart.high > 1


def test_strata_keep_the_axes_behind_them():
    """`[runs, tasks, metrics]`: a run of a task is resampled with all that was measured of it."""
    samples = gaussian(6, 3, 2)
    samples[..., 1] = samples[..., 0] + 1
    interval = bootstrap(KEY, samples, partial(jnp.mean, axis=(0, 1)), stratified=True)
    for end in interval:
        np.testing.assert_allclose(end[1] - end[0], 1, rtol=1e-5)


# Shares of the 95 % intervals that hold the mean: plain ones of Gaussian samples, and widened ones
# of exponential samples, as `widening` says.
PLAIN = {5: 0.84, 10: 0.905, 30: 0.935}
EXPONENTIAL = {5: 0.88, 10: 0.91, 30: 0.93}


@pytest.mark.parametrize("n", PLAIN)
def test_coverage_with_few_replicates(n):
    """2000 data sets of each: a binomial proportion has a standard error of 0.5 % to 1.1 %.

    They share their 3000 resamples, whose quantiles are off by 0.3 % (binomial, one tail) alike.
    """
    draws = partial(bootstrap_mean, resamples=3000)
    interval = jax.device_get(draws(3 + 2 * gaussian(n, 2000)))
    assert covered(interval, 3) == pytest.approx(0.95, abs=0.0125)
    plain = Interval(*(interval.mean + (x - interval.mean) / widening(n, 0.95) for x in interval))
    assert covered(plain, 3) == pytest.approx(PLAIN[n], abs=0.02)
    skewed = np.random.default_rng(n).exponential(size=(n, 2000)).astype(np.float32)
    assert covered(draws(skewed), 1) == pytest.approx(EXPONENTIAL[n], abs=0.0175)


def test_the_widening_vanishes_with_many_replicates():
    factors = [widening(n, 0.95) for n in (5, 10, 30, 1000)]
    assert factors[0] == pytest.approx(np.sqrt(5 / 4) * stats.t.ppf(0.975, 4) / 1.959964)
    assert np.all(np.diff(factors) < 0)
    assert factors[-1] == pytest.approx(1, abs=0.002)


def test_a_wider_level_gives_a_wider_interval():
    samples = gaussian(30)
    widths = []
    for level in (0.5, 0.8, 0.95, 0.99):
        interval = bootstrap_mean(samples, level=level)
        assert interval.low < interval.mean < interval.high
        widths.append(float(interval.high - interval.low))
    assert np.all(np.diff(widths) > 0)


def test_columns_are_resampled_together():
    """Two noisy columns one apart: their difference is certain, and its interval a point."""
    noise = np.random.default_rng(0).integers(-1000, 1000, 20)
    pair = np.stack([noise + 1, noise], axis=1).astype(np.float32)
    interval = bootstrap_mean(pair)
    assert float(interval.high[0] - interval.low[0]) > 100
    np.testing.assert_allclose(interval.low[0] - interval.low[1], 1, atol=1e-3)
    np.testing.assert_allclose(interval.high[0] - interval.high[1], 1, atol=1e-3)
    difference = bootstrap_mean(pair[:, 0] - pair[:, 1])
    assert difference == Interval(1.0, 1.0, 1.0)


def test_a_column_does_not_depend_on_its_neighbours():
    samples = gaussian(12, 2, 3)
    together = jax.device_get(bootstrap_mean(samples))
    assert together.mean.shape == together.low.shape == together.high.shape == (2, 3)
    for index in np.ndindex(2, 3):
        alone = bootstrap_mean(samples[(slice(None), *index)])
        for a, b in zip(together, alone, strict=True):
            np.testing.assert_allclose(a[index], b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("n", [1, 4])
def test_few_samples_have_a_mean_and_no_interval(n):
    interval = bootstrap_mean(np.tile(np.float32([4, 5]), (n, 1)))
    assert interval.mean.tolist() == [4.0, 5.0]
    assert not interval.available.any()
    assert bootstrap_mean(np.ones((5, 2), np.float32)).available.all()


def test_an_interval_holds_its_estimate():
    """No resample has a larger maximum than the sample, and no interval ends below it."""
    interval = bootstrap(KEY, np.arange(20, dtype=np.float32), jnp.max)
    assert interval.mean == interval.high == 19
    assert interval.low < 19


def test_equal_samples_have_no_spread():
    assert bootstrap_mean(np.full(5, 7, np.float32)) == Interval(7.0, 7.0, 7.0)


def test_nan_is_not_dropped():
    samples = np.float32([[1, 1], [np.nan, 2], [3, 3], [4, 1], [5, 3]])
    interval = bootstrap_mean(samples)
    assert np.isnan(interval.mean[0]) and np.isnan(interval.low[0]) and np.isnan(interval.high[0])
    assert interval.mean[1] == 2.0 and np.isfinite(interval.low[1])


def test_the_key_decides():
    samples = gaussian(15)
    one, again = bootstrap_mean(samples), bootstrap_mean(samples)
    other = bootstrap(jax.random.key(1), samples, MEAN)
    assert one == again
    assert other.mean == one.mean and other.low != one.low


@pytest.mark.parametrize(
    ("n", "share", "count"), [(30, 0.1, 3), (25, 0.1, 3), (4, 0.1, 1), (5, 1, 5)]
)
def test_cvar_is_the_mean_of_the_lowest(n, share, count):
    samples = np.random.default_rng(n).normal(size=(3, n))
    expected = np.sort(samples, axis=-1)[:, :count].mean(-1)
    np.testing.assert_allclose(cvar(samples, share), expected, rtol=1e-5)


@given(hnp.arrays(np.float32, (7, 13), elements=st.floats(-100, 100, width=32)), st.integers(1, 13))
def test_iqm_is_the_trimmed_mean(samples, n):
    """SciPy cuts floor(n / 4) at either end; along an axis, and of all as rliable does."""
    samples = samples[:, :n]
    expected = stats.trim_mean(samples.astype(float), 0.25, axis=1)
    np.testing.assert_allclose(iqm(samples, axis=1), expected, rtol=1e-5, atol=1e-4)
    expected = metrics.aggregate_iqm(samples.astype(float))
    np.testing.assert_allclose(iqm(samples), expected, rtol=1e-5, atol=1e-4)


def test_iqm_of_nan_is_nan():
    """Sorting puts NaN among the highest, which are cut off: it must not vanish there."""
    samples = np.float32([[1, 2, 3, np.nan], [1, 2, 3, 1000]])
    np.testing.assert_array_equal(iqm(samples, axis=1), [np.nan, 2.5])
    assert np.isnan(iqm(samples))


def test_paired_differences_are_sharper_than_unpaired_ones():
    """Seeds that differ by 100, the methods by 1 +- 0.1: only pairs can tell."""
    seeds, noise = 100 * gaussian(10), 0.1 * gaussian(2, 10, seed=1)
    a, b = seeds + 1 + noise[0], seeds + noise[1]
    paired = student_mean(a - b)
    np.testing.assert_allclose(paired.mean, 1, atol=0.15)
    assert 0.8 < paired.low < paired.high < 1.2
    unpaired = bootstrap(KEY, (a, b), lambda a, b: a.mean() - b.mean())
    assert unpaired.low < -20
    assert unpaired.high > 20


@pytest.mark.parametrize(("n", "m"), [(5, 9), (30, 30)])
def test_the_probability_of_improvement_against_rliable_and_mann_whitney(n, m):
    """Whole numbers, so that there are ties."""
    rng = np.random.default_rng(n)
    x, y = rng.integers(0, 6, (n, 4)).astype(float), rng.integers(0, 5, (m, 4)).astype(float)
    alone = jax.jit(jax.vmap(partial(probability_of_improvement, KEY), in_axes=1))
    mine = alone(x, y).mean
    u = stats.mannwhitneyu(x, y, axis=0).statistic
    np.testing.assert_allclose(mine, u / (n * m), rtol=1e-6)
    found = probability_of_improvement(KEY, x, y)
    assert found.mean == pytest.approx(metrics.probability_of_improvement(x, y), rel=1e-6)
    assert 0 <= found.low <= found.mean <= found.high <= 1


def test_the_interval_of_the_probability_of_improvement_against_rliable(rliable):
    """Its 2000 draws, each with SciPy's test, have ends with errors of 1.5 % of the width."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(0.3, size=(20, 2)), rng.normal(size=(15, 2))
    found = probability_of_improvement(KEY, x, y, resamples=10_000)
    _, ends = rliable.get_interval_estimates(
        {"it": (x, y)}, lambda x, y: np.array([metrics.probability_of_improvement(x, y)]), reps=2000
    )
    low, high = ends["it"][:, 0]
    assert percentiles(found, 15) == pytest.approx((low, high), abs=0.05 * (high - low))


def test_five_seeds_that_always_win_prove_little():
    """Clopper and Pearson's limit of five pairs."""
    x, y = np.float32([5, 6, 7, 8, 9]), np.float32([0, 1, 2, 3, 4])
    certain = stats.beta.ppf(0.025, 5, 1)
    for found, expected in (
        (probability_of_improvement(KEY, x, y), (1, certain, 1)),
        (probability_of_improvement(KEY, y, x), (0, 0, 1 - certain)),
    ):
        assert tuple(map(float, found)) == pytest.approx(expected, rel=1e-5)
    assert probability_of_improvement(KEY, x, x).mean == 0.5


@pytest.mark.parametrize(("n", "shift"), [(5, 1.0), (10, 2.0), (30, 0.0)])
def test_coverage_of_the_probability_of_improvement(n, shift):
    """1000 pairs of Gaussian samples: never much less than it says (standard error 0.7 %)."""
    x, y = gaussian(1000, n) + shift, gaussian(1000, n, seed=1)
    found = jax.jit(jax.vmap(partial(probability_of_improvement, KEY, resamples=400)))(x, y)
    assert covered(found, stats.norm.cdf(shift / np.sqrt(2))) > 0.92


def test_the_probability_of_improvement_without_replicates_or_with_nan():
    nine, five = np.arange(9, dtype=np.float32), np.zeros(5, np.float32)
    found = probability_of_improvement(KEY, np.float32([2]), nine)
    assert found.mean == pytest.approx(2.5 / 9)
    assert not found.available
    won = probability_of_improvement(KEY, np.float32([9] * 4), nine)
    assert won.mean > 0.9 and not won.available and np.isnan(won.high)
    lost = np.float32([0, np.nan, 0, 0, 0])
    for pair in ((lost, five), (five, lost[::-1])):
        assert np.isnan(probability_of_improvement(KEY, *pair).mean)


def test_improvement_over_other_strata_is_refused():
    with pytest.raises(InputError, match="2 and 3 strata"):
        probability_of_improvement(KEY, np.ones((5, 2)), np.ones((5, 3)))


def test_the_area_is_a_return():
    """10 at 0, 6 at 0.1, 2 at 0.4: (8 * 0.1 + 4 * 0.3) / 0.4 = 5; a constant is itself."""
    returns = jnp.array([[10.0, 7.0], [6.0, 7.0], [2.0, 7.0]])
    np.testing.assert_allclose(area([0.0, 0.1, 0.4], returns), [5, 7], rtol=1e-6)


@pytest.mark.parametrize("eps", [[0.1, 0.2], [0.0], [0.0, 0.2, 0.1], [0.0, 0.0, 0.1], []])
def test_radii_that_do_not_rise_from_0_are_refused(eps):
    with pytest.raises(InputError, match="must rise from 0"):
        area(eps, jnp.ones(len(eps)))


def curves(n: int, count: int, correlation: float = 0.8, points: int = 12) -> np.ndarray:
    """Gaussian curves around 0, `[count, n, S]`; neighbours are alike, spreads differ."""
    noise = np.random.default_rng(n).standard_normal((points, count, n))
    rows = [noise[0]]
    for fresh in noise[1:]:
        rows.append(correlation * rows[-1] + np.sqrt(1 - correlation**2) * fresh)
    return (np.stack(rows, -1) * np.linspace(1, 5, points)).astype(np.float32)


def whole(interval: Interval, truth: float) -> float:
    """The share of curves that are inside everywhere."""
    return float(np.mean(holds(interval, truth).all(-1)))


@pytest.mark.parametrize("n", [5, 10, 30])
def test_a_band_holds_whole_curves_and_intervals_do_not(n):
    """400 sets of n curves, 12 points: a binomial proportion has a standard error of 1.1 %."""
    samples = curves(n, 400)
    band = jax.jit(jax.vmap(partial(simultaneous_band, KEY, resamples=400)))(samples)
    assert whole(band, 0) > 0.93
    pointwise = bootstrap_mean(np.moveaxis(samples, 1, 0), resamples=2000)
    assert covered(pointwise, 0) == pytest.approx(0.95, abs=0.015)
    assert whole(pointwise, 0) < 0.8
    if n == 30:  # where it can know better it is no wider than it must be
        assert whole(band, 0) < 0.98


def test_a_band_holds_skewed_curves():
    """Exponential returns, 10 curves: Bonferroni's Student band covers far less."""
    uniform = stats.norm.cdf(curves(10, 400) / np.linspace(1, 5, 12))
    samples = -np.log1p(-uniform).astype(np.float32)
    band = jax.jit(jax.vmap(partial(simultaneous_band, KEY, resamples=400)))(samples)
    assert whole(band, 1) > 0.92
    half = stats.t.ppf(1 - 0.025 / 12, 9) * samples.std(1, ddof=1) / np.sqrt(10)
    mean = samples.mean(1)
    assert whole(Interval(mean, mean - half, mean + half), 1) < 0.87


def test_a_few_curves_have_bonferronis_band():
    samples = gaussian(5, 6)
    band = jax.device_get(simultaneous_band(KEY, samples, level=0.9))
    half = stats.t.ppf(1 - 0.05 / 6, 4) * stats.sem(samples, axis=0)
    np.testing.assert_allclose(band.high - band.mean, half, rtol=1e-4)
    np.testing.assert_allclose(band.mean - band.low, half, rtol=1e-4)


@pytest.mark.parametrize("n", [5, 12])
def test_a_constant_column_has_no_width(n):
    samples = gaussian(n, 3)
    with_constant = samples.copy()
    with_constant[:, 1] = 0.1
    band = jax.device_get(simultaneous_band(KEY, with_constant))
    np.testing.assert_allclose([x[1] for x in band], 0.1, rtol=1e-6)
    assert band.low[1] == band.mean[1] == band.high[1]
    if n >= 8:  # the bootstrap, in which such a column has no say; Bonferroni counts it
        others = simultaneous_band(KEY, samples[:, [0, 2]])
        for mine, alone in zip(band, others, strict=True):
            np.testing.assert_allclose(mine[[0, 2]], alone, rtol=1e-5)


def test_one_odd_curve_among_equal_ones_leaves_the_band_finite():
    """A third of the resamples lacks it, has no spread there, and is infinitely far."""
    samples = gaussian(10, 2)
    samples[:, 1] = [500.0] * 9 + [300.0]
    band = jax.device_get(simultaneous_band(KEY, samples))
    most = 2 * stats.t.ppf(1 - 0.025 / 2, 9) * stats.sem(samples, axis=0)
    np.testing.assert_allclose(band.high - band.mean, most, rtol=1e-4)


def test_nan_stays_in_its_column_of_a_band():
    samples = gaussian(10, 3)
    samples[4, 1] = np.nan
    band = simultaneous_band(KEY, samples)
    for part in band:
        np.testing.assert_array_equal(np.isnan(part), [False, True, False])


@pytest.mark.parametrize("n", [1, 4])
def test_few_curves_have_no_band(n):
    band = simultaneous_band(KEY, np.tile(np.float32([4, 5]), (n, 1)))
    assert band.mean.tolist() == [4.0, 5.0]
    assert np.all(np.isnan(band.low)) and np.all(np.isnan(band.high))


def test_intervals_and_bands_are_functions_to_transform():
    """jit and vmap over data sets give what each gives alone."""
    samples = gaussian(3, 10, 4)
    estimates = (
        lambda x: bootstrap(KEY, x, iqm, stratified=True),
        lambda x: probability_of_improvement(KEY, x[:5], x[5:]),
        partial(simultaneous_band, KEY),
    )
    for estimate in estimates:
        together = jax.device_get(jax.jit(jax.vmap(estimate))(samples))
        for i, one in enumerate(samples):
            for part, alone in zip(together, estimate(one), strict=True):
                np.testing.assert_allclose(part[i], alone, rtol=1e-5, atol=1e-6)
