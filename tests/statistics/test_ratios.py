"""Means over clusters: against closed forms, and their coverage on simulated episodes."""

import numpy as np
import pytest

from jaxprune.statistics import pseudo_values, student_mean

MEANS = {60: 0.2, 1000: 0.6}  # an episode that ends early sees other states


def episodes(rng, shape, states=8):
    """Lengths of two kinds, and what is seen at `states` steps of each, alike within one."""
    length = np.where(rng.random(shape) < 0.4, 60, 1000)
    mean = np.where(length == 60, MEANS[60], MEANS[1000]) + 0.2 * rng.standard_normal(shape)
    return length, mean[..., None] + 0.1 * rng.standard_normal((*shape, states))


def test_their_mean_is_the_ratio_of_the_sums():
    total, weight = np.array([1.0, 4.0, 3.0]), np.array([1.0, 2.0, 5.0])
    assert pseudo_values(total, weight).mean() == pytest.approx(1.0)
    np.testing.assert_allclose(pseudo_values(total, weight), [1.0, 1.75, 0.25])
    # Clusters of one size: plain means.
    np.testing.assert_allclose(pseudo_values(2 * total, 2.0), total)
    assert np.isnan(pseudo_values(total, 0.0)).all()


def test_intervals_cover_the_mean_over_steps_and_those_over_states_do_not():
    n = 32
    share = np.array([0.4 * 60, 0.6 * 1000])
    truth = share @ list(MEANS.values()) / share.sum()
    length, values = episodes(np.random.default_rng(n), (4000, n))
    found = student_mean(pseudo_values(length * values.mean(-1), length).T)
    assert np.mean((found.low <= truth) & (truth <= found.high)) > 0.93
    alone = length[..., None] / length.mean(-1)[:, None, None] * (values - truth) + truth
    naive = student_mean(alone.reshape(4000, -1).T)
    assert np.mean((naive.low <= truth) & (truth <= naive.high)) < 0.7


def test_a_change_of_nothing_is_seldom_beyond_its_interval():
    """Pairs of episodes that start alike: one side in 40."""
    rng = np.random.default_rng(0)
    length, values = episodes(rng, (4000, 32))
    again = values + 0.1 * rng.standard_normal(values.shape)
    pairs = [pseudo_values(length * x.mean(-1), length) for x in (values, again)]
    low = student_mean((pairs[1] - pairs[0]).T).low
    assert 0.015 < np.mean(low > 0) < 0.035
