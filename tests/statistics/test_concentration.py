"""Confidence bounds: by hand, against SciPy, and with their coverage computed exactly."""

import math

import numpy as np
import pytest
from scipy import stats

from jaxprune.statistics.concentration import (
    RANKS,
    WIDTHS,
    bernstein_width,
    dkw_width,
    hoeffding_width,
    mean_lower,
    mean_upper,
    quantile_lower,
    tail_probability,
)
from jaxprune.validation import InputError

UNIT = (0.0, 1.0)

# --- means ----------------------------------------------------------------------------------------


def test_widths_by_hand():
    """Samples 0, 0, 1, 1 of a range of 2 at 5 %: mean 1/2, variance 1/3, n = 4."""
    samples = np.array([0.0, 0.0, 1.0, 1.0])
    assert hoeffding_width(samples, 2.0, 0.05) == pytest.approx(2 * math.sqrt(math.log(20) / 8))
    expected = math.sqrt(2 / 3 * math.log(40) / 4) + 7 * 2 * math.log(40) / (3 * 3)
    assert bernstein_width(samples, 2.0, 0.05) == pytest.approx(expected)


@pytest.mark.parametrize(("comparisons", "printed"), [(100, 1.59), (5000, 1.96)])
def test_price_of_many_comparisons(comparisons, printed):
    """certificates.md 6: the Hoeffding width grows x1.59 for 100 masks, x1.96 for 5000."""
    tails = (tail_probability(0.95, comparisons), tail_probability(0.95))
    many, one = (hoeffding_width(np.zeros(50), 1.0, tail) for tail in tails)
    assert many / one == pytest.approx(printed, rel=0, abs=0.005)


@pytest.mark.parametrize("level", [0.6, 0.95, 0.999])
@pytest.mark.parametrize("n", [2, 5, 30, 400])
@pytest.mark.parametrize("method", WIDTHS)
def test_coverage_of_coins(method, n, level):
    """Exact: every number of successes, weighted by the binomial law, for many probabilities."""
    heads = np.arange(n + 1)
    samples = (np.arange(n) < heads[:, None]).astype(float)  # every outcome up to order
    low = mean_lower(samples, UNIT, level, method=method)
    high = mean_upper(samples, UNIT, level, method=method)
    for p in [0.0, 1e-3, 0.02, 0.1, 0.3, 0.5, 0.8, 0.97, 1.0]:
        chance = stats.binom.pmf(heads, n, p)
        assert chance @ (low <= p) >= level - 1e-12
        assert chance @ (high >= p) >= level - 1e-12


@pytest.mark.parametrize("method", WIDTHS)
def test_coverage_of_beta_samples(method):
    """5000 data sets of 100: a one-sided 80 % bound fails less than 20 % of the time."""
    samples = np.random.default_rng(0).beta(0.5, 2.0, (5000, 100))
    assert np.mean(mean_upper(samples, UNIT, 0.8, method=method) < 0.2) < 0.2
    low, high = (bound(samples, UNIT, 0.9, method=method) for bound in (mean_lower, mean_upper))
    assert np.mean((low <= 0.2) & (high >= 0.2)) > 0.8
    assert np.median(high - low) < 0.5  # and say something


def test_bernstein_is_for_small_variances():
    rng = np.random.default_rng(0)
    quiet, loud = 0.01 * rng.random(1000), rng.integers(0, 2, 1000).astype(float)
    upper = {
        name: [mean_upper(x, UNIT, method=name) - x.mean() for x in (quiet, loud)]
        for name in WIDTHS
    }
    assert upper["bernstein"][0] < 0.3 * upper["hoeffding"][0]
    assert upper["bernstein"][1] > upper["hoeffding"][1]


def test_units_of_the_range():
    """Everything scales and shifts with the samples."""
    samples = np.random.default_rng(0).random((3, 200))
    for method in WIDTHS:
        for bound in (mean_lower, mean_upper):
            moved = bound(10 * samples - 4, (-4.0, 6.0), method=method)
            np.testing.assert_allclose(10 * bound(samples, UNIT, method=method) - 4, moved)


def test_bounds_stay_in_the_range():
    for bound, end in ((mean_lower, 0), (mean_upper, 1)):
        assert bound(np.array([0.1, 0.2]), UNIT) == end
        np.testing.assert_array_equal(bound(np.full((2, 5), 3.0), (3.0, 3.0)), 3.0)


def test_leading_axes_and_float32():
    samples = np.random.default_rng(0).random((2, 3, 50)).astype(np.float32)
    for bound in (mean_lower, mean_upper):
        together = bound(samples, UNIT)
        assert together.shape == (2, 3) and together.dtype == np.float64
        for index in np.ndindex(2, 3):
            assert together[index] == pytest.approx(bound(samples[index], UNIT), rel=1e-12)
    # A float32 figure just beyond its end is no reason to stop.
    beyond = np.full(5, np.float32(0.1))
    assert float(beyond[0]) > 0.1
    assert mean_upper(beyond, (0.0, 0.1)) == 0.1


# --- quantiles ------------------------------------------------------------------------------------


def test_dkw_golden_value():
    """certificates.md 5: 0.0387 for 1000 rollouts at 95 %, one-sided."""
    assert dkw_width(1000, 0.05) == pytest.approx(0.0387, rel=0, abs=5e-5)


@pytest.mark.parametrize("tail", [0.001, 0.05, 0.3, 0.5])
@pytest.mark.parametrize("n", [2, 10, 100, 1000])
def test_dkw_against_the_exact_law(n, tail):
    """SciPy's law of the one-sided Kolmogorov-Smirnov statistic."""
    exact = stats.ksone.sf(dkw_width(n, tail), n)
    assert exact <= tail * (1 + 1e-9)
    if n == 1000:
        assert exact > 0.85 * tail  # tight


@pytest.mark.parametrize("level", [0.55, 0.9, 0.99])
@pytest.mark.parametrize("quantile", [0.05, 0.34, 0.5, 0.9])
@pytest.mark.parametrize("n", [5, 60, 1000])
def test_binomial_ranks_against_scipy(n, quantile, level):
    samples = np.random.default_rng(n).standard_normal(n)
    result = stats.quantile_test(samples, p=quantile, alternative="greater")
    theirs = result.confidence_interval(level).low
    mine = quantile_lower(samples, quantile, level)
    assert mine == theirs or (np.isnan(theirs) and np.isinf(mine))


@pytest.mark.parametrize("method", RANKS)
@pytest.mark.parametrize("values", [None, 7])
def test_coverage_of_quantiles(method, values):
    """20 000 data sets of 80, continuous or of few values: failures within three standard errors.

    At most the share `quantile` lies below the bound, which for these samples is the bound itself.
    """
    samples, level = np.random.default_rng(0).random((20_000, 80)), 0.9
    if values:
        samples = np.floor(values * samples) / values
    for quantile in (0.1, 0.5, 0.85):
        failed = np.mean(quantile_lower(samples, quantile, level, method=method) > quantile)
        assert failed <= 0.1 + 3 * math.sqrt(0.09 / 20_000)
        if method == "binomial" and values is None:
            assert failed > 0.03  # not idle: ranks are coarse


def test_dkw_holds_for_all_quantiles_at_once():
    samples, level = np.random.default_rng(1).random((5000, 60)), 0.9
    failed = np.zeros(5000, bool)
    for quantile in np.linspace(0.01, 0.99, 99):
        failed |= quantile_lower(samples, quantile, level, method="dkw") > quantile
    assert 0.05 < np.mean(failed) < 0.1 + 0.0127


def test_quantiles_by_hand():
    """Ten samples, median: P(Binomial(10, 1/2) <= 1) = 0.0107, <= 2 is 0.0547: the second."""
    samples = np.array([5.0, 3, 9, 1, 7, 2, 8, 10, 4, 6])
    assert quantile_lower(samples, 0.5) == 2
    assert quantile_lower(samples, 0.5, 0.94) == 3
    # DKW: sqrt(ln 20 / 20) = 0.387, and floor(10 (0.5 - 0.387)) + 1 = 2.
    assert quantile_lower(samples, 0.5, method="dkw") == 2
    for method in RANKS:
        assert quantile_lower(samples, 0.01, method=method) == -np.inf
        assert quantile_lower(samples, 0.5, comparisons=10**9, method=method) == -np.inf


def test_leading_axes_of_quantiles():
    samples = np.random.default_rng(0).random((2, 3, 40))
    together = quantile_lower(samples, 0.5)
    assert together.shape == (2, 3)
    for index in np.ndindex(2, 3):
        assert together[index] == quantile_lower(samples[index], 0.5)


# --- bad input ------------------------------------------------------------------------------------


def test_nan_stays_nan():
    samples = np.full((2, 30), 0.5)
    samples[0, 3] = np.nan
    for bound in (mean_lower, mean_upper, lambda x, _: quantile_lower(x, 0.5)):
        assert np.isnan(bound(samples, UNIT)).tolist() == [True, False]


def calls(**settings):
    samples = settings.pop("samples", np.full(10, 0.5))
    limits = settings.pop("limits", UNIT)
    for bound in (mean_lower, mean_upper):
        yield lambda bound=bound: bound(samples, limits, **settings)


def quantile_calls(**settings):
    samples = settings.pop("samples", np.full(10, 0.5))
    quantile = settings.pop("quantile", 0.5)
    yield lambda: quantile_lower(samples, quantile, **settings)


@pytest.mark.parametrize("samples", [np.array([0.5]), np.zeros((3, 1)), np.zeros(0), 0.5])
def test_too_few_samples(samples):
    for call in (*calls(samples=samples), *quantile_calls(samples=samples)):
        with pytest.raises(InputError, match="at least two"):
            call()


@pytest.mark.parametrize("limits", [(1.0, 0.0), (0.0, math.inf), (-math.inf, 1.0), (math.nan, 1.0)])
def test_limits_that_are_none(limits):
    for call in calls(limits=limits):
        with pytest.raises(InputError, match="no finite interval"):
            call()


@pytest.mark.parametrize("outside", [-0.01, 1.01, 50.0, np.inf])
def test_samples_outside_their_limits(outside):
    for call in calls(samples=np.array([0.5, 0.2, outside])):
        with pytest.raises(InputError, match="leave their limits"):
            call()


@pytest.mark.parametrize("level", [0.0, 1.0, 95, -0.1, math.nan])
def test_level_errors(level):
    for call in (*calls(level=level), *quantile_calls(level=level)):
        with pytest.raises(InputError, match=r"level .* is outside \(0, 1\)"):
            call()


def test_other_errors():
    for call in (*calls(comparisons=0), *quantile_calls(comparisons=0)):
        with pytest.raises(InputError, match="comparisons 0 is below 1"):
            call()
    for call in calls(method="bernstien"):
        with pytest.raises(InputError, match="did you mean 'bernstein'"):
            call()
    for call in quantile_calls(method="dkv"):
        with pytest.raises(InputError, match="did you mean 'dkw'"):
            call()
    for quantile in (0.0, 1.0, math.nan):
        for call in quantile_calls(quantile=quantile):
            with pytest.raises(InputError, match=r"quantile .* is outside"):
                call()
    for call in quantile_calls(method="dkw", level=0.4):
        with pytest.raises(InputError, match="below 1/2"):
            call()
