"""The value bound against exact worst-case adversaries of small tabular problems."""

import itertools
from typing import NamedTuple

import numpy as np
import pytest

from jaxprune.certify.value import vacuity, value_gap
from jaxprune.families import InputError


class Tabular(NamedTuple):
    """A state-adversarial MDP with a stochastic policy, all of it finite."""

    transition: np.ndarray  # [S, A, S]
    reward: np.ndarray  # [S, A, S]
    policy: np.ndarray  # [S, A], pi(. | observed state)
    ball: np.ndarray  # bool [S, S], ball[s, o]: the adversary may show o at s
    gamma: float


def state_values(mdp: Tabular, shown: np.ndarray) -> np.ndarray:
    """V of the policy that sees `shown[s]` at s, by a linear solve, `[S]`."""
    acting = mdp.policy[shown]  # [S, A]
    transition = np.einsum("sa,sat->st", acting, mdp.transition)
    reward = np.einsum("sa,sat,sat->s", acting, mdp.transition, mdp.reward)
    return np.linalg.solve(np.eye(len(shown)) - mdp.gamma * transition, reward)


def worst_case(mdp: Tabular) -> np.ndarray:
    """V under the strongest adversary, by policy iteration over what it shows, `[S]`."""
    shown = np.arange(len(mdp.policy))
    while True:
        values = state_values(mdp, shown)
        q = np.einsum("sat,sat->sa", mdp.transition, mdp.reward + mdp.gamma * values)
        attacked = np.where(mdp.ball, q @ mdp.policy.T, np.inf)  # [S, shown]
        current = attacked[np.arange(len(shown)), shown]
        better = attacked.min(axis=1) < current - 1e-12
        if not better.any():
            return values
        shown = np.where(better, attacked.argmin(axis=1), shown)


def largest_tv(mdp: Tabular) -> float:
    gap = 0.5 * np.abs(mdp.policy[:, None] - mdp.policy[None]).sum(axis=-1)
    return float(np.max(np.where(mdp.ball, gap, 0)))


def random_mdp(rng: np.random.Generator) -> Tabular:
    """2 to 6 states, 2 to 4 actions; policies from nearly constant to nearly deterministic."""
    states, actions = int(rng.integers(2, 7)), int(rng.integers(2, 5))
    base = rng.dirichlet(np.ones(actions))
    mix = 10 ** rng.uniform(-3, 0)
    policy = (1 - mix) * base + mix * rng.dirichlet(np.full(actions, 0.3), states)
    return Tabular(
        transition=rng.dirichlet(np.full(states, 0.3), (states, actions)),
        reward=rng.uniform(-1, 1, (states, actions, states)),
        policy=policy,
        ball=(rng.random((states, states)) < 0.5) | np.eye(states, dtype=bool),
        gamma=float(rng.choice([0.5, 0.9, 0.99])),
    )


def gap_and_bound(mdp: Tabular) -> tuple[float, float]:
    clean = state_values(mdp, np.arange(len(mdp.policy)))
    gap = float(np.max(clean - worst_case(mdp)))
    rewards = (float(mdp.reward.min()), float(mdp.reward.max()))
    return gap, float(value_gap(largest_tv(mdp), mdp.gamma, rewards))


def test_policy_iteration_finds_the_worst_adversary():
    """The oracle itself, against all stationary adversaries one by one."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        mdp = random_mdp(rng)
        choices = [np.flatnonzero(row) for row in mdp.ball]
        values = [state_values(mdp, np.array(shown)) for shown in itertools.product(*choices)]
        np.testing.assert_allclose(worst_case(mdp), np.min(values, axis=0), atol=1e-9)


def test_no_adversary_exceeds_the_bound():
    rng = np.random.default_rng(1)
    results = np.array([gap_and_bound(random_mdp(rng)) for _ in range(300)])
    gap, limit = results.T
    assert np.all(gap <= limit + 1e-9)  # 1e-9 for the linear solves
    assert np.sum(gap > 1e-3) > 200  # the adversaries do harm
    assert np.any(gap > 0.2 * limit)  # and come within a factor of five


def three_states(delta: float, gamma: float) -> Tabular:
    """certificates.md 1.1: good g, absorbing bad b, and an unreachable s^ that g can be taken for.

    At g "good" stays and pays 1, "bad" leads to b; everything about b pays -1. The policy is
    certain at g and takes "bad" with probability delta at s^.
    """
    transition = np.zeros((3, 2, 3))
    transition[0, 0, 0] = transition[0, 1, 1] = 1
    transition[1, :, 1] = transition[2, :, 1] = 1
    reward = np.full((3, 2, 3), -1.0)
    reward[0, 0, 0] = 1
    policy = np.array([[1, 0], [1, 0], [1 - delta, delta]])
    ball = np.eye(3, dtype=bool)
    ball[0, 2] = True
    return Tabular(transition, reward, policy, ball, gamma)


@pytest.mark.parametrize(
    ("gamma", "delta", "golden"),
    [(0.5, 0.01, "0.079208"), (0.9, 1e-4, "0.019982"), (0.99, 1e-4, "1.980394")],
)
def test_the_counter_example_breaks_the_published_constant_and_attains_ours(gamma, delta, golden):
    gap, limit = gap_and_bound(three_states(delta, gamma))
    digits = len(golden.split(".")[1])
    assert gap == pytest.approx(float(golden), rel=0, abs=0.5 * 10.0**-digits)
    assert limit == pytest.approx(gap, rel=1e-9)  # attained
    published = 2 * (1 + gamma / (1 - gamma) ** 2) * delta  # max |R| = 1
    assert gap > published


def test_golden_value():
    """gamma 0.5, delta 0.01, rewards in [-1, 1]: 2 * 0.01 / (0.5 * 0.505) = 0.0792079."""
    assert value_gap(0.01, 0.5, (-1.0, 1.0)) == pytest.approx(0.079208, rel=0, abs=5e-7)


@pytest.mark.parametrize(
    ("delta", "gamma", "printed"),
    [
        (1e-4, 0.9, ".001"),
        (1e-4, 0.99, ".0099"),
        (1e-4, 0.995, ".0196"),
        (1e-3, 0.9, ".0099"),
        (1e-3, 0.99, ".091"),
        (1e-3, 0.995, ".167"),
        (1e-2, 0.9, ".092"),
        (1e-2, 0.99, ".50"),
        (1e-2, 0.995, ".67"),
        (5e-2, 0.9, ".34"),
        (5e-2, 0.99, ".84"),
        (5e-2, 0.995, ".91"),
    ],
)
def test_vacuity_table(delta, gamma, printed):
    """certificates.md 1.1, to the printed digits."""
    tolerance = 0.5 * 10.0 ** -(len(printed) - 1)
    assert vacuity(delta, gamma) == pytest.approx(float(printed), rel=0, abs=tolerance)


def test_between_nothing_and_the_trivial_bound():
    delta = np.linspace(0, 1, 101)
    for gamma in (0.0, 0.5, 0.9, 0.999):
        index = vacuity(delta, gamma)
        assert index[0] == 0 and index[-1] == pytest.approx(1) and np.all(np.diff(index) > 0)
        gap = value_gap(delta, gamma, (-2.0, 3.0))
        np.testing.assert_allclose(gap, 5 / (1 - gamma) * index, rtol=1e-14)
        assert np.all(gap <= 5 / (1 - gamma) * (1 + 1e-12))
        assert np.all(gap <= 5 * delta / (1 - gamma) ** 2 * (1 + 1e-12))


def test_it_is_the_series_of_the_coupling():
    """sum_t gamma^t (1 - (1 - delta)^(t + 1)), summed by hand to t = 2000."""
    t = np.arange(2000)
    series = np.sum(0.97**t * (1 - (1 - 0.03) ** (t + 1)))
    assert value_gap(0.03, 0.97, (0.0, 1.0)) == pytest.approx(series, rel=1e-12)


def test_equal_rewards_cannot_be_lost():
    assert value_gap(0.5, 0.9, (1.0, 1.0)) == 0


@pytest.mark.parametrize("gamma", [1.0, 1.5, -0.1, float("nan")])
def test_gamma_errors(gamma):
    for call in (lambda: vacuity(0.1, gamma), lambda: value_gap(0.1, gamma, (0.0, 1.0))):
        with pytest.raises(InputError, match=r"outside \[0, 1\)"):
            call()


@pytest.mark.parametrize(
    "rewards", [(1.0, 0.0), (0.0, float("inf")), (float("-inf"), 0.0), (float("nan"), 1.0)]
)
def test_reward_range_errors(rewards):
    with pytest.raises(InputError, match="not a finite interval"):
        value_gap(0.1, 0.9, rewards)
