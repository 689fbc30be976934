"""Intervals of a mean: by hand, against Clopper and Pearson, and with the coverage they promise."""

import numpy as np
import pytest
from scipy import stats

from jaxprune.statistics import FEWEST, Interval, bounded_mean, student_mean
from jaxprune.validation import InputError

FEW = [5, 10, 24]


def covered(interval: Interval, truth: float) -> float:
    return float(np.mean((interval.low <= truth) & (interval.high >= truth)))


def falling(n: int, count: int, share: float) -> np.ndarray:
    """Agents that fall (300) or hop (2600), `[n, count]`, with a noise of 150."""
    rng = np.random.default_rng(n)
    returns = np.where(rng.random((n, count)) < share, 300, 2600) + rng.normal(0, 150, (n, count))
    return np.clip(returns, 0, 3200)


@pytest.mark.parametrize("n", FEW)
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_bounded_means_of_agents_that_fall_or_hop_are_covered(n, share):
    """2000 sets each: a standard error of 0.5 %."""
    interval = bounded_mean(falling(n, 2000, share), (0, 3200))
    assert covered(interval, 300 * share + 2600 * (1 - share)) >= 0.95


@pytest.mark.parametrize("n", FEW)
def test_bounded_means_of_gaussian_agents_are_covered(n):
    samples = np.random.default_rng(n).normal(1700, 300, (n, 2000))
    assert covered(bounded_mean(samples, (0, 3400)), 1700) >= 0.95


@pytest.mark.parametrize(("n", "ones"), [(5, 0), (5, 2), (5, 5), (24, 17)])
def test_of_two_values_it_is_clopper_and_pearsons_interval(n, ones):
    """Weights of the ones are a beta distribution; the tail has a Monte-Carlo error of 0.25 %."""
    interval = bounded_mean(np.arange(n) < ones, (0, 1), level=0.9)
    exact = stats.binomtest(ones, n).proportion_ci(0.9)
    assert (interval.low, interval.high) == pytest.approx(exact, abs=0.01)
    assert interval.mean == ones / n


@pytest.mark.parametrize("n", FEW)
def test_student_means_of_pairs_from_one_distribution_are_covered(n):
    differences = falling(n, 4000, 0.3)[:, ::2] - falling(n, 4000, 0.3)[:, 1::2]
    assert covered(student_mean(differences), 0) >= 0.935
    gaussian = np.random.default_rng(n).normal(3, 2, (n, 2000))
    assert covered(student_mean(gaussian), 3) == pytest.approx(0.95, abs=0.015)


def test_student_means_against_scipy():
    samples = np.random.default_rng(0).normal(size=(7, 3))
    interval = student_mean(samples, level=0.9)
    expected = stats.t.interval(0.9, 6, loc=samples.mean(0), scale=stats.sem(samples))
    np.testing.assert_allclose((interval.low, interval.high), expected)


@pytest.mark.parametrize("mean_of", [student_mean, lambda x: bounded_mean(x, (0, 1))])
def test_below_five_replicates_there_is_no_interval(mean_of):
    few = mean_of(np.full((FEWEST - 1, 2), 0.5))
    assert not few.available.any()
    np.testing.assert_array_equal(few.mean, [0.5, 0.5])
    assert mean_of(np.full((FEWEST, 2), 0.5)).available.all()


@pytest.mark.parametrize("mean_of", [student_mean, lambda x: bounded_mean(x, (0, 1))])
def test_nan_stays_in_its_column(mean_of):
    samples = np.random.default_rng(0).random((9, 3))
    samples[4, 1] = np.nan
    for part in mean_of(samples):
        np.testing.assert_array_equal(np.isnan(part), [False, True, False])


def test_a_column_does_not_depend_on_its_neighbours_and_stays_inside():
    samples = np.random.default_rng(0).random((6, 2, 3))
    together = bounded_mean(samples, (0, 1))
    alone = bounded_mean(samples[:, 1, 2], (0, 1))
    np.testing.assert_allclose([part[1, 2] for part in together], alone)
    assert (together.low >= 0).all() and (together.high <= 1).all()
    assert (together.low < together.mean).all() and (together.mean < together.high).all()
    assert bounded_mean(np.full(5, 7.0), (7, 7)) == Interval(7.0, 7.0, 7.0)


def test_samples_outside_of_their_limits_are_refused():
    with pytest.raises(InputError, match="samples from 1 to 3 leave their limits"):
        bounded_mean([1.0, 2.0, 3.0], (0, 2))


def test_an_interval_is_clipped_to_what_can_be():
    interval = Interval(np.array([1.0, 2.0]), np.array([-9.0, np.nan]), np.array([9.0, np.nan]))
    clipped = interval.clipped((0, 3))
    np.testing.assert_array_equal(clipped.low, [0, np.nan])
    np.testing.assert_array_equal(clipped.high, [3, np.nan])
