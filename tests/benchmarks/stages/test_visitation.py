"""Which steps are kept, and that means over them are unbiased."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.experiment import PRESETS
from benchmarks.stages.visitation import collect, discounted, geometric_steps, summary, visit_times
from jaxprune.envs import make_env
from jaxprune.rollout import Episode

HOPPER = SimpleNamespace(discrete=False, horizon=1000, obs_size=2)
SMOKE = replace(PRESETS["smoke"], episodes=50, states=400)
GAMMA = float(SMOKE.ppo.hyper.gamma)


def episodes(length, terminated, k: int) -> Episode:
    """One cell; nothing but how long its episodes were."""
    length, terminated = np.array([length]), np.array([terminated])
    nothing = np.zeros(length.shape)
    visited, earned = np.zeros((*length.shape, k, 2)), np.zeros((*length.shape, k))
    return Episode(nothing, nothing, length, terminated, terminated, nothing, visited, earned)


def test_discrete_tasks_keep_every_step():
    spec = make_env("cartpole").spec
    times = visit_times(SMOKE, spec)
    assert times.shape == (50, spec.horizon)
    np.testing.assert_array_equal(times[7], np.arange(500))


def test_continuous_tasks_draw_one_step_of_every_stratum():
    times = visit_times(SMOKE, HOPPER)
    assert times.shape == (50, 8) and times.dtype == np.int32
    assert np.all(np.diff(times, axis=1) >= 0) and not times[:, 0].any()
    mass = 1 - GAMMA ** times[:, 1:]  # quantiles of the geometric distribution
    assert np.all(np.abs(mass - np.arange(7) / 7) <= 1 / 7 + (1 - GAMMA))
    assert len(np.unique(times[:, 3])) > 5
    other = visit_times(replace(SMOKE, seed=1), HOPPER)
    assert not np.array_equal(other, times)
    np.testing.assert_array_equal(visit_times(SMOKE, HOPPER), times)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.9])
def test_geometric_steps_have_their_probabilities(gamma):
    quantile = (np.arange(100_000) + 0.5) / 100_000
    steps = geometric_steps(quantile, gamma)
    for t in range(4):
        assert np.mean(steps == t) == pytest.approx((1 - gamma) * gamma**t, abs=2e-5)
    assert np.all(np.diff(steps) >= 0)


@pytest.mark.parametrize("discrete", [True, False])
def test_the_mean_is_that_of_the_discounted_visitation(discrete):
    """values_t = t / 100 over episodes of 30 and 100 steps: against the sum, absorbed after it."""
    spec = SimpleNamespace(discrete=discrete, horizon=100, obs_size=2)
    experiment = replace(SMOKE, episodes=2, states=20_000)
    times = visit_times(experiment, spec)
    clean = episodes([30, 100], [True, False], times.shape[1])
    visits = collect(times, GAMMA, spec, clean)
    values = times[None] / 100.0
    exact = [(1 - GAMMA) * sum(GAMMA**t * t / 100 for t in range(n)) for n in (30, 100)]
    exact[1] += GAMMA**100 * 1.0  # cut by the time limit: counted as the worst
    found = discounted(visits, values, past_the_limit=1.0)
    np.testing.assert_allclose(found, [exact], rtol=1e-3)


def test_episodes_that_end_at_once_are_seen_at_their_first_state():
    experiment = replace(SMOKE, episodes=2, states=4)
    times = visit_times(experiment, HOPPER)
    visits = collect(times, GAMMA, HOPPER, episodes([1, 1], [True, True], times.shape[1]))
    values = np.where(times[None] == 0, 0.25, 99.0)
    found = summary(visits, values)
    assert found["mean"] == found["max"] == 0.25


def test_nothing_counts_after_the_end_of_an_episode():
    spec = SimpleNamespace(discrete=True, horizon=10, obs_size=2)
    experiment = replace(SMOKE, episodes=2)
    visits = collect(visit_times(experiment, spec), GAMMA, spec, episodes([3, 5], [True, True], 10))
    values = np.where(visits.alive, 0.5, 99.0)
    found = summary(visits, values)
    np.testing.assert_allclose(found["mean"], [0.5])
    np.testing.assert_allclose(found["max"], [0.5])
    assert np.all(discounted(visits, values, 1.0) < 0.5)
