"""Value bounds against exact worst-case adversaries of small tabular problems."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.certify.value import (
    attacked_return,
    certified_return,
    differing,
    expected_value_gap,
    finite_vacuity,
    finite_value_gap,
    on_policy_value_gap,
    sa_mdp_published,
    sampled_value_gap,
    vacuity,
    value_gap,
)
from jaxprune.validation import InputError
from tests.certify.tabular import (
    Tabular,
    attacked_values,
    crossroads,
    discounted_values,
    finite_values,
    local_tv,
    many_random_mdps,
    neighbours,
    play,
    random_mdps,
    three_states,
    visits,
    worst_adversary,
)

ROUNDING = 1e-9  # of the linear solves
RANGE = (-1.0, 1.0)
GAMMAS = (0.5, 0.9, 0.99)
HORIZON = 12


def tightness(gap: np.ndarray, limit: np.ndarray) -> float:
    """How close the strongest adversary comes to the bound."""
    return float(np.max(gap[limit > 0] / limit[limit > 0]))


# --- the oracle -----------------------------------------------------------------------------------


def test_policy_iteration_finds_the_worst_adversary():
    """Against all stationary adversaries, one by one."""
    mdps = random_mdps(np.random.default_rng(0), 20, 4, 3)
    worst, _ = worst_adversary(mdps, 0.9)
    for i, ball in enumerate(mdps.ball):
        mdp = Tabular(*(x[i] for x in mdps))
        choices = [np.flatnonzero(row) for row in ball]
        values = [discounted_values(mdp, 0.9, np.array(s)) for s in itertools.product(*choices)]
        np.testing.assert_allclose(worst[i], np.min(values, axis=0), atol=1e-9)


def test_worst_values_solve_the_bellman_equation():
    for mdps in many_random_mdps(1, 1000):
        for gamma in GAMMAS:
            values, _ = worst_adversary(mdps, gamma)
            again = attacked_values(mdps, gamma * values).min(axis=-1)
            np.testing.assert_allclose(again, values, atol=1e-9)


def test_finite_values_against_all_adversaries_of_two_steps():
    """What is shown may depend on the time left: 2 x 3 choices at each of 3 states."""
    mdp = Tabular(*(x[0] for x in random_mdps(np.random.default_rng(2), 1, 3, 2)))
    mdp = mdp._replace(ball=np.ones((3, 3), bool))
    everything = list(itertools.product(range(3), repeat=3))
    one_step = [discounted_values(mdp, 0.0, np.array(s)) for s in everything]
    # With gamma 0 the value of one step; the second step sees the values of the first.
    later = [
        discounted_values(mdp._replace(reward=mdp.reward + after), 0.0, np.array(s))
        for s in everything
        for after in one_step
    ]
    np.testing.assert_allclose(finite_values(mdp, 2, attacked=True), np.min(later, axis=0))


def test_finite_values_tend_to_the_discounted_ones():
    """A discount is a chance 1 - gamma of ending: undiscounted with that chance built in."""
    gamma, mdps = 0.9, random_mdps(np.random.default_rng(3), 50, 4, 2)
    ended = np.zeros((50, 5, 2, 5))
    ended[:, :4, :, :4] = gamma * mdps.transition
    ended[:, :4, :, 4] = 1 - gamma
    ended[:, 4, :, 4] = 1
    reward = np.zeros((50, 5, 2, 5))
    # Paid whether the episode ends or not.
    expected = np.einsum("nsat,nsat->nsa", mdps.transition, mdps.reward)
    reward[:, :4] = expected[..., None]
    ball = np.zeros((50, 5, 5), bool)
    ball[:, :4, :4], ball[:, 4, 4] = mdps.ball, True
    policy = np.concatenate([mdps.policy, mdps.policy[:, :1]], axis=1)
    ending = Tabular(ended, reward, policy, ball)
    limit = finite_values(ending, 400, attacked=True)[:, :4]
    np.testing.assert_allclose(limit, worst_adversary(mdps, gamma)[0], atol=1e-12)


def test_visits_and_play_agree_with_the_values():
    """Expected rewards by occupancy, by the solve and by 40 000 episodes."""
    mdp = Tabular(*(x[0] for x in random_mdps(np.random.default_rng(4), 1, 5, 3)))
    reward = np.einsum("sa,sat,sat->s", mdp.policy, mdp.transition, mdp.reward)
    discount = 0.5 ** np.arange(60)
    by_visits = discount @ visits(mdp, 2, 60) @ reward
    assert by_visits == pytest.approx(discounted_values(mdp, 0.5)[2], abs=1e-12)
    worst, shown = worst_adversary(mdp, 0.5)
    for values, adversary in [(discounted_values(mdp, 0.5), None), (worst, shown)]:
        played = play(mdp, 2, 40_000, 30, np.random.default_rng(0), adversary)
        returns = played.rewards @ discount[:30]
        error = returns.std() / 200
        assert returns.mean() == pytest.approx(values[2], abs=4 * error)


# --- V1: a bound at every state -------------------------------------------------------------------


@pytest.mark.parametrize("gamma", GAMMAS)
def test_no_adversary_exceeds_the_bound(gamma):
    results = []
    for mdps in many_random_mdps(5, 1000):
        gap = discounted_values(mdps, gamma) - worst_adversary(mdps, gamma)[0]
        delta = local_tv(mdps).max(axis=-1)
        results.append((gap.max(axis=-1), value_gap(delta, gamma, RANGE)))
    gap, limit = np.concatenate(results, axis=1)
    assert gap.size == 1000 and np.all(gap <= limit + ROUNDING)
    assert np.mean(gap > 1e-3) > 0.7  # the adversaries do harm
    assert tightness(gap, limit) > 0.2  # and come within a factor of five


@pytest.mark.parametrize("horizon", [1, 3, HORIZON])
def test_no_adversary_exceeds_the_finite_bound(horizon):
    results = []
    for mdps in many_random_mdps(6, 1000):
        values = [finite_values(mdps, horizon, attacked=attacked) for attacked in (False, True)]
        gap = (values[0] - values[1]).max(axis=-1)
        results.append((gap, finite_value_gap(local_tv(mdps).max(axis=-1), horizon, RANGE)))
    gap, limit = np.concatenate(results, axis=1)
    assert np.all(gap <= limit + ROUNDING) and tightness(gap, limit) > 0.2


@pytest.mark.parametrize(
    ("gamma", "delta", "golden"),
    [(0.5, 0.01, "0.079208"), (0.9, 1e-4, "0.019982"), (0.99, 1e-4, "1.980394")],
)
def test_the_counter_example_breaks_the_published_constant_and_attains_ours(gamma, delta, golden):
    mdp = three_states(delta)
    gap = np.max(discounted_values(mdp, gamma) - worst_adversary(mdp, gamma)[0])
    digits = len(golden.split(".")[1])
    assert gap == pytest.approx(float(golden), rel=0, abs=0.5 * 10.0**-digits)
    assert local_tv(mdp).max() == pytest.approx(delta)
    assert value_gap(delta, gamma, RANGE) == pytest.approx(gap, rel=1e-9)  # attained
    assert gap > sa_mdp_published(delta, gamma, 1.0)


def test_the_counter_example_attains_the_finite_bound():
    for horizon in (1, 2, 7, 50):
        mdp = three_states(0.03)
        clean, worst = (finite_values(mdp, horizon, attacked=a)[0] for a in (False, True))
        assert clean - worst == pytest.approx(finite_value_gap(0.03, horizon, RANGE), rel=1e-12)


def test_published_constant():
    """certificates.md 1.1: alpha is 19 802 max|R| at gamma 0.99; 0.06 and 0.0182 in the example."""
    assert sa_mdp_published(1.0, 0.99, 1.0) == pytest.approx(19_802)
    assert sa_mdp_published(1.0, 0.99, 3.0) == pytest.approx(3 * 19_802)
    assert sa_mdp_published(0.01, 0.5, 1.0) == pytest.approx(0.06)
    assert sa_mdp_published(1e-4, 0.9, 1.0) == pytest.approx(0.0182)


def test_golden_value():
    """gamma 0.5, delta 0.01, rewards in [-1, 1]: 2 * 0.01 / (0.5 * 0.505) = 0.0792079."""
    assert value_gap(0.01, 0.5, RANGE) == pytest.approx(0.079208, rel=0, abs=5e-7)


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


@pytest.mark.parametrize(
    ("delta", "horizon", "printed"),
    [
        (1e-4, 200, ".010"),
        (1e-4, 1000, ".048"),
        (1e-3, 200, ".094"),
        (1e-3, 1000, ".368"),
        (1e-2, 200, ".57"),
        (1e-2, 1000, ".90"),
        (5e-2, 200, ".91"),
        (5e-2, 1000, ".98"),
    ],
)
def test_finite_vacuity_table(delta, horizon, printed):
    tolerance = 0.5 * 10.0 ** -(len(printed) - 1)
    assert finite_vacuity(delta, horizon) == pytest.approx(float(printed), rel=0, abs=tolerance)


def test_between_nothing_and_the_trivial_bound():
    delta = np.linspace(0, 1, 101)
    for gamma in (0.0, 0.5, 0.9, 0.999):
        index = vacuity(delta, gamma)
        assert index[0] == 0 and index[-1] == pytest.approx(1) and np.all(np.diff(index) > 0)
        gap = value_gap(delta, gamma, (-2.0, 3.0))
        np.testing.assert_allclose(gap, 5 / (1 - gamma) * index, rtol=1e-14)
        assert np.all(gap <= 5 / (1 - gamma) * (1 + 1e-12))
        assert np.all(gap <= 5 * delta / (1 - gamma) ** 2 * (1 + 1e-12))
    for horizon in (1, 10, 300):
        index = finite_vacuity(delta, horizon)
        assert index[0] == 0 and index[-1] == pytest.approx(1) and np.all(np.diff(index) >= 0)
        gap = finite_value_gap(delta, horizon, (-2.0, 3.0))
        np.testing.assert_allclose(gap, 5 * horizon * index, rtol=1e-14)


def test_they_are_the_series_of_the_coupling():
    """sum_t gamma^t (1 - (1 - delta)^(t + 1)), by hand, and through `expected_value_gap`."""
    t = np.arange(2000)
    differed = 1 - (1 - 0.03) ** (t + 1)
    series = np.sum(0.97**t * differed)
    assert value_gap(0.03, 0.97, (0.0, 1.0)) == pytest.approx(series, rel=1e-12)
    assert expected_value_gap(differed, 0.97, (0.0, 1.0)) == pytest.approx(series, rel=1e-12)
    finite = finite_value_gap(0.03, 2000, (0.0, 1.0))
    assert finite == pytest.approx(differed.sum(), rel=1e-12)
    assert expected_value_gap(differed, None, (0.0, 1.0)) == pytest.approx(finite, rel=1e-12)


def test_small_delta_does_not_cancel():
    """delta H (H + 1) / 2 to first order: 5.005e-12 at delta 1e-17, where 1 - delta is 1."""
    assert finite_value_gap(1e-17, 1000, (0.0, 1.0)) == pytest.approx(5.005e-12, rel=1e-9)


def test_equal_rewards_cannot_be_lost():
    assert value_gap(0.5, 0.9, (1.0, 1.0)) == 0
    assert finite_value_gap(0.5, 9, (1.0, 1.0)) == 0
    assert on_policy_value_gap(0.5, 0.9, (1.0, 1.0)) == 0


def test_nan_stays_nan_and_jax_arrays_are_welcome():
    delta = jnp.array([0.1, jnp.nan])
    for bound in (value_gap(delta, 0.9, RANGE), finite_value_gap(delta, 5, RANGE)):
        assert isinstance(bound, np.ndarray)
        assert np.isnan(bound).tolist() == [False, True]
    assert value_gap(delta, 0.9, RANGE)[0] == pytest.approx(value_gap(0.1, 0.9, RANGE), rel=1e-6)


# --- V2: the states of clean episodes -------------------------------------------------------------


def mean_delta(mdps: Tabular, start: int, steps: int) -> np.ndarray:
    """E[delta(s_t)], `[..., steps]`."""
    return np.einsum("...ts,...s->...t", visits(mdps, start, steps), local_tv(mdps))


@pytest.mark.parametrize("gamma", GAMMAS)
def test_no_adversary_exceeds_the_on_policy_bound(gamma):
    """With exact expectations; the tight form is below the other one, and often below V1."""
    results, steps = [], {0.5: 20, 0.9: 120, 0.99: 1200}[gamma]
    for mdps in many_random_mdps(7, 1000):
        gap = (discounted_values(mdps, gamma) - worst_adversary(mdps, gamma)[0])[:, 0]
        mean = mean_delta(mdps, 0, steps)
        tight = expected_value_gap(np.cumsum(mean, axis=-1), gamma, RANGE)
        visited = (1 - gamma) * mean @ gamma ** np.arange(steps) + gamma**steps
        loose = on_policy_value_gap(visited, gamma, RANGE)
        everywhere = value_gap(local_tv(mdps).max(axis=-1), gamma, RANGE)
        results.append((gap, tight, loose, everywhere))
    gap, tight, loose, everywhere = np.concatenate(results, axis=1)
    assert np.all(gap <= tight + ROUNDING) and np.all(tight <= loose + 1e-3)
    assert tightness(gap, tight) > 0.2
    assert np.mean(tight < everywhere) > 0.3


def test_no_adversary_exceeds_the_finite_on_policy_bound():
    results = []
    for mdps in many_random_mdps(8, 1000):
        values = [finite_values(mdps, HORIZON, attacked=attacked) for attacked in (False, True)]
        differed = np.cumsum(mean_delta(mdps, 0, HORIZON), axis=-1)
        results.append(((values[0] - values[1])[:, 0], expected_value_gap(differed, None, RANGE)))
    gap, limit = np.concatenate(results, axis=1)
    assert np.all(gap <= limit + ROUNDING) and tightness(gap, limit) > 0.2


def test_the_minimum_stays_outside_the_expectation():
    """By hand: 3/2 without an adversary, 0 with it, so that 3/2 is lost.

    delta is (1/2, 0) or (1/2, 1), each way half the time. The bound is 1/2 + (1/2 + 1/2) = 3/2,
    attained; with the minimum inside it would be 1/2 + (min(1, 1/2) + min(1, 3/2)) / 2 = 5/4.
    """
    mdp = crossroads()
    clean, worst = (finite_values(mdp, 2, attacked=a)[0] for a in (False, True))
    assert (clean, worst) == (1.5, 0.0)
    assert local_tv(mdp).tolist() == [0.5, 0, 1, 0]
    delta = np.array([[0.5, 0.0], [0.5, 1.0]])
    np.testing.assert_array_equal(differing(delta), [[0.5, 0.5], [0.5, 1.5]])
    for differed in (np.cumsum(mean_delta(mdp, 0, 2)), differing(delta).mean(axis=0)):
        assert expected_value_gap(differed, None, (0.0, 1.0)) == 1.5
    assert np.minimum(np.cumsum(delta, axis=-1), 1).mean(axis=0).sum() == 1.25
    assert sampled_value_gap(delta, gamma=None, reward_range=(0.0, 1.0)).estimate == 1.5


def stopped_expectation(mdps: Tabular, start: int, steps: int) -> np.ndarray:
    """E[differing] by enumeration of all paths, `[..., steps]`; `steps` must be few."""
    states = mdps.ball.shape[-1]
    delta, transition = local_tv(mdps), np.einsum("nsa,nsat->nst", mdps.policy, mdps.transition)
    total = 0.0
    for path in itertools.product(range(states), repeat=steps - 1):
        at = np.array([start, *path])
        probability = np.prod(transition[:, at[:-1], at[1:]], axis=-1)
        total = total + probability[:, None] * differing(delta[:, at])
    return np.asarray(total)


@pytest.mark.parametrize("horizon", [1, 2, 5])
def test_bounds_hold_where_they_are_nearly_attained(horizon):
    """1000 neighbours of each of the two examples that attain a bound."""
    rng = np.random.default_rng(horizon)
    for example in (three_states(0.2), crossroads()):
        mdps = neighbours(example, rng, 1000)
        clean, worst = (finite_values(mdps, horizon, attacked=a)[:, 0] for a in (False, True))
        rewards = (float(example.reward.min()), float(example.reward.max()))
        limits = {
            "V1": finite_value_gap(local_tv(mdps).max(axis=-1), horizon, rewards),
            "V2": expected_value_gap(
                np.cumsum(mean_delta(mdps, 0, horizon), axis=-1), None, rewards
            ),
            "stopped": expected_value_gap(stopped_expectation(mdps, 0, horizon), None, rewards),
        }
        for limit in limits.values():
            assert np.all(clean - worst <= limit + ROUNDING)
        if horizon <= 2:
            assert tightness(clean - worst, np.min(list(limits.values()), axis=0)) > 0.98


def test_differing_by_hand():
    """C = (.4, .8, 1.2, ...): stopped at the third step, .8 + 1 from there on."""
    np.testing.assert_allclose(differing(np.full(5, 0.4)), [0.4, 0.8, 1.8, 1.8, 1.8])
    np.testing.assert_allclose(differing(np.array([0.0, 1.0, 1.0])), [0, 1, 1])
    small = np.full(9, 0.1)
    np.testing.assert_array_equal(differing(small), np.cumsum(small))


def test_no_adversary_exceeds_the_stopped_bound():
    """With exact expectations over all paths of four steps; policies far from each other."""
    rng, results = np.random.default_rng(9), []
    for mdps in [random_mdps(rng, 500, 4, actions) for actions in (2, 3)]:
        mdps = mdps._replace(policy=rng.dirichlet(np.full(mdps.policy.shape[-1], 0.2), (500, 4)))
        clean, worst = (finite_values(mdps, 4, attacked=a)[:, 0] for a in (False, True))
        limit = expected_value_gap(stopped_expectation(mdps, 0, 4), None, RANGE)
        results.append((clean - worst, limit))
    gap, limit = np.concatenate(results, axis=1)
    assert np.all(gap <= limit + ROUNDING) and tightness(gap, limit) > 0.2


def lengths_of(states: np.ndarray, last: int, steps: int) -> np.ndarray:
    """Steps before the absorbing `last` state, at least one."""
    return np.clip(np.sum(states != last, axis=-1), 1, steps)


@pytest.mark.parametrize("gamma", [0.5, 0.9, None])
@pytest.mark.parametrize("ends", [False, True])
def test_sampled_bounds_hold(gamma, ends):
    """1000 problems, 60 episodes of each: one in twenty may fail, and none does.

    Few adversaries are near the worst that V2 allows for, so that chance has little to spoil.
    """
    steps = HORIZON if gamma is None else 25
    rng, results = np.random.default_rng(10), []
    for mdps in many_random_mdps(11, 1000, ends=ends):
        if gamma is None:
            clean, worst = (finite_values(mdps, steps, attacked=a)[:, 0] for a in (False, True))
        else:
            clean = discounted_values(mdps, gamma)[:, 0]
            worst = worst_adversary(mdps, gamma)[0][:, 0]
        states = play(mdps, 0, 60, steps, rng).states
        delta = np.take_along_axis(local_tv(mdps)[:, None], states, axis=-1)
        lengths = lengths_of(states, mdps.ball.shape[-1] - 1, steps) if ends else None
        found = sampled_value_gap(delta, lengths, gamma=gamma, reward_range=RANGE)
        assert np.all(found.estimate <= found.bound + ROUNDING)
        results.append((clean - worst, found.bound, found.vacuity, found.estimate))
    gap, bound, empty, estimate = np.concatenate(results, axis=1)
    assert np.mean(gap > bound) == 0
    assert np.mean(gap > estimate) < 0.02  # what chance does without the allowance for it
    assert np.all((empty >= 0) & (empty <= 1)) and np.min(empty) < 0.5
    trivial = 2 * (steps if gamma is None else 1 / (1 - gamma))
    np.testing.assert_allclose(bound, trivial * empty)


def test_sampled_gap_by_hand():
    """Two episodes, delta .1 then nothing and .3 then over; gamma 1/2, rewards in [0, 2].

    Weights 1, 1/2 and 1/2 beyond. Of the first episode differing is .1, .1, then 1.1 (unfinished);
    of the second .3, .3, .3. Means .2, .2, .7: 2 (.2 + .1 + .35) = 1.3 of 4.
    """
    delta = np.array([[0.1, 0.0], [0.3, np.nan]])
    found = sampled_value_gap(delta, np.array([2, 1]), gamma=0.5, reward_range=(0.0, 2.0))
    assert found.estimate == pytest.approx(1.3)
    assert (found.bound, found.vacuity) == (4, 1)  # two episodes say nothing
    unfinished = sampled_value_gap(
        np.array([[0.1, 0.0], [0.3, 0.0]]), gamma=0.5, reward_range=(0.0, 2.0)
    )
    assert unfinished.estimate == pytest.approx(2 * (0.2 + 0.1 + 0.5))
    finite = sampled_value_gap(delta, np.array([2, 1]), gamma=None, reward_range=(0.0, 2.0))
    assert finite.estimate == pytest.approx(0.8)


def test_sampled_gap_tends_to_its_estimate():
    """delta 0.001 throughout: no variance, and Bernstein adds 7 range ln(2 / .05) / (3 (n - 1)).

    The range is 1 for the first step and 2 for the other 199.
    """
    delta = np.full((20_000, 200), 0.001)
    found = sampled_value_gap(delta, gamma=None, reward_range=(0.0, 1.0))
    assert found.estimate == pytest.approx(0.001 * 200 * 201 / 2)
    width = 7 * 399 * np.log(40) / (3 * 19_999)
    assert found.bound - found.estimate == pytest.approx(width, rel=1e-6)


def test_on_policy_gap_by_hand():
    """0.001 / (1 - 0.9)^2 = 0.1 of rewards in [0, 1]; never above the trivial 10."""
    assert on_policy_value_gap(0.001, 0.9, (0.0, 1.0)) == pytest.approx(0.1)
    assert on_policy_value_gap(0.5, 0.9, (0.0, 1.0)) == pytest.approx(10)


def test_a_cut_tightens_what_is_nearly_empty():
    """delta 0.02: the mean of C_t passes 1 at step 50 of 200, and grows no more from there on."""
    rng = np.random.default_rng(0)
    delta = 0.04 * (rng.random((2000, 200)) < 0.5)
    settings = {"gamma": None, "reward_range": (0.0, 1.0)}
    whole = sampled_value_gap(delta, **settings)
    cut = sampled_value_gap(delta, cut=50, **settings)
    assert whole.estimate == cut.estimate <= cut.bound < 200
    assert cut.vacuity < whole.vacuity == 1
    nothing = sampled_value_gap(delta, cut=0, **settings)
    assert nothing.bound == 200


def test_leading_axes_of_sampled_bounds():
    rng = np.random.default_rng(0)
    delta, rewards = rng.uniform(0, 0.01, (2, 3, 40, 7)), rng.uniform(0, 1, (2, 3, 40, 7))
    fixed, lengths = rng.random((2, 3, 40, 7)) < 0.9, rng.integers(1, 8, (3, 40))
    settings = {"gamma": 0.9, "reward_range": (0.0, 1.0)}
    gaps = sampled_value_gap(delta, lengths, **settings)
    returns = certified_return(rewards, fixed, lengths, **settings)
    for index in np.ndindex(2, 3):
        alone = sampled_value_gap(delta[index], lengths[index[1]], **settings)
        np.testing.assert_allclose([x[index] for x in gaps], alone, rtol=1e-12)
        alone = certified_return(rewards[index], fixed[index], lengths[index[1]], **settings)
        np.testing.assert_allclose([x[index] for x in returns], alone, rtol=1e-12)


def test_more_comparisons_cost_more():
    delta = np.random.default_rng(0).uniform(0, 0.01, (500, 20))
    bounds = [
        sampled_value_gap(delta, gamma=0.9, reward_range=RANGE, comparisons=k).bound
        for k in (1, 10, 1000)
    ]
    assert bounds[0] < bounds[1] < bounds[2]


# --- V3: the first uncertified visit --------------------------------------------------------------


def fixed_actions(mdps: Tabular) -> np.ndarray:
    """Where no shown state changes the action of a deterministic policy, bool `[..., S]`."""
    return local_tv(mdps) == 0


@pytest.mark.parametrize("gamma", [0.5, 0.9, None])
@pytest.mark.parametrize("ends", [False, True])
def test_no_adversary_falls_below_the_certified_return(gamma, ends):
    """Deterministic problems: one episode is the expectation, and `estimate` must hold as it is."""
    steps = HORIZON if gamma is None else 40
    rng, results = np.random.default_rng(12), []
    for mdps in many_random_mdps(13, 1000, deterministic=True, ends=ends):
        if gamma is None:
            worst = finite_values(mdps, steps, attacked=True)[:, 0]
        else:
            worst = worst_adversary(mdps, gamma)[0][:, 0]
        states, rewards = play(mdps, 0, 2, steps, rng)
        fixed = np.take_along_axis(fixed_actions(mdps)[:, None], states, axis=-1)
        lengths = lengths_of(states, mdps.ball.shape[-1] - 1, steps) if ends else None
        found = certified_return(rewards, fixed, lengths, gamma=gamma, reward_range=RANGE)
        results.append((worst, found.estimate, found.bound, fixed.all(axis=(1, 2))))
    worst, lower, bound, always = np.concatenate(results, axis=1)
    assert np.all(lower <= worst + ROUNDING) and np.all(bound <= lower + ROUNDING)
    # Exact where every visited state is certified (to what the cut-off episode leaves open).
    left = 0 if gamma is None else 2 * gamma**steps / (1 - gamma)
    assert 0.05 < np.mean(always) < 0.95
    assert np.all((worst - lower)[always == 1] <= left + ROUNDING)


def test_certified_returns_of_noisy_problems_hold():
    """Deterministic policies in random transitions, 80 episodes: one in twenty may fail."""
    rng, results = np.random.default_rng(14), []
    for mdps in many_random_mdps(15, 1000, deterministic=True):
        shape = mdps.transition.shape
        mdps = mdps._replace(transition=rng.dirichlet(np.full(shape[-1], 0.3), shape[:-1]))
        worst = worst_adversary(mdps, 0.8)[0][:, 0]
        states, rewards = play(mdps, 0, 80, 30, rng)
        fixed = np.take_along_axis(fixed_actions(mdps)[:, None], states, axis=-1)
        for method in ("bernstein", "hoeffding"):
            found = certified_return(rewards, fixed, gamma=0.8, reward_range=RANGE, method=method)
            results.append((worst, found.bound))
    worst, bound = np.concatenate(results, axis=1)
    assert np.mean(bound > worst) < 0.01
    assert np.mean(bound > -4.9) > 0.3  # the trivial bound is -5


def test_certified_return_by_hand():
    """gamma 1/2, rewards in [-1, 2]; four steps each of 1.

    The first episode is certified for two steps: 1 + 1/2 and then -1 (1/4 + 1/8 + 1/8) = 1. The
    second is certified throughout and ends after three: 1 + 1/2 + 1/4. The third is not certified
    at all: -2.
    """
    fixed = np.array([[1, 1, 0, 1], [1, 1, 1, 0], [0, 1, 1, 1]], bool)
    lengths = np.array([4, 3, 4])
    settings = {"gamma": 0.5, "reward_range": (-1.0, 2.0)}
    found = certified_return(np.ones((3, 4)), fixed, lengths, **settings)
    assert found.estimate == pytest.approx((1 + 1.75 - 2) / 3)
    assert (found.bound, found.vacuity) == (-2, 1)  # three episodes say nothing
    finite = certified_return(np.ones((3, 4)), fixed, lengths, gamma=None, reward_range=(-1.0, 2.0))
    assert finite.estimate == pytest.approx((0 + 3 - 4) / 3)


def test_certified_return_of_certain_rewards():
    found = certified_return(np.ones((5, 3)), np.zeros((5, 3)), gamma=0.5, reward_range=(1.0, 1.0))
    assert (found.bound, found.estimate, found.vacuity) == (2, 2, 0)


def test_float32_rewards_at_the_end_of_the_range():
    """Pendulum's lowest reward is -16.2736044, in float32 a little less."""
    lowest = np.float32(-16.2736044)
    assert float(lowest) != -16.2736044
    rewards = np.full((10, 3), lowest - np.float32(2e-6))
    found = certified_return(
        rewards, np.ones((10, 3), bool), gamma=None, reward_range=(-16.2736044, 0.0)
    )
    assert found.estimate == pytest.approx(-48.8208, rel=1e-5)


# --- bad input ------------------------------------------------------------------------------------

DELTA = np.full((4, 3), 0.1)
GAPS = {
    "value_gap": lambda delta, gamma, rewards: value_gap(delta, gamma, rewards),
    "on_policy": lambda delta, gamma, rewards: on_policy_value_gap(delta, gamma, rewards),
    "sampled": lambda delta, gamma, rewards: sampled_value_gap(
        delta + 0 * DELTA, gamma=gamma, reward_range=rewards
    ),
}


@pytest.mark.parametrize("gamma", [1.0, 1.5, -0.1, float("nan")])
def test_gamma_errors(gamma):
    calls = [
        lambda: vacuity(0.1, gamma),
        lambda: sa_mdp_published(0.1, gamma, 1.0),
        lambda: expected_value_gap(DELTA, gamma, RANGE),
        lambda: certified_return(DELTA, DELTA > 0, gamma=gamma, reward_range=RANGE),
        *(lambda gap=gap: gap(0.1, gamma, RANGE) for gap in GAPS.values()),
    ]
    for call in calls:
        with pytest.raises(InputError, match=r"outside \[0, 1\)"):
            call()


@pytest.mark.parametrize(
    "rewards",
    [(1.0, 0.0), (0.0, float("inf")), (float("-inf"), 0.0), (float("nan"), 1.0), None],
)
def test_reward_range_errors(rewards):
    calls = [
        lambda: finite_value_gap(0.1, 3, rewards),
        lambda: expected_value_gap(DELTA, 0.9, rewards),
        lambda: certified_return(DELTA, DELTA > 0, gamma=0.9, reward_range=rewards),
        *(lambda gap=gap: gap(0.1, 0.9, rewards) for gap in GAPS.values()),
    ]
    for call in calls:
        with pytest.raises(InputError, match="not a finite interval"):
            call()


@pytest.mark.parametrize("delta", [-0.1, 1.1, np.array([0.1, np.nan, -3.0])])
def test_delta_errors(delta):
    worst = np.min(delta) if np.ndim(delta) == 0 else -3
    calls = [
        lambda: vacuity(delta, 0.9),
        lambda: finite_value_gap(delta, 3, RANGE),
        lambda: sa_mdp_published(delta, 0.9, 1.0),
        lambda: value_gap(delta, 0.9, RANGE),
        lambda: on_policy_value_gap(delta, 0.9, RANGE),
        lambda: sampled_value_gap(np.full((4, 3), worst), gamma=0.9, reward_range=RANGE),
    ]
    for call in calls:
        with pytest.raises(InputError, match=rf"delta {worst:g} is outside \[0, 1\]"):
            call()


@pytest.mark.parametrize("horizon", [0, -1])
def test_horizon_errors(horizon):
    with pytest.raises(InputError, match="below 1"):
        finite_value_gap(0.1, horizon, RANGE)


@pytest.mark.parametrize("lengths", [[1, 2, 3], [[1], [2]], [0, 1, 2, 3], [1, 2, 3, 4]])
def test_lengths_that_do_not_fit(lengths):
    calls = [
        lambda: sampled_value_gap(DELTA, lengths, gamma=0.9, reward_range=RANGE),
        lambda: certified_return(DELTA, DELTA > 0, lengths, gamma=0.9, reward_range=RANGE),
    ]
    for call in calls:
        with pytest.raises(InputError, match="lengths"):
            call()


def test_steps_that_do_not_fit():
    for shape in ((3,), (4, 0)):
        with pytest.raises(InputError, match="episodes, T"):
            sampled_value_gap(np.zeros(shape), gamma=0.9, reward_range=RANGE)
    with pytest.raises(InputError, match="one flag per step"):
        certified_return(DELTA, np.ones((4, 2), bool), gamma=0.9, reward_range=RANGE)


def test_one_episode_is_not_enough():
    with pytest.raises(InputError, match="at least two"):
        sampled_value_gap(DELTA[:1], gamma=0.9, reward_range=RANGE)


def test_termination_needs_zero_in_the_range():
    """An adversary may end an episode that pays 1 a step, and the rest is worth 0, not 1."""
    lengths = np.array([3, 3, 2, 3])
    for call in (
        lambda rewards: sampled_value_gap(DELTA, lengths, gamma=0.9, reward_range=rewards),
        lambda rewards: certified_return(
            np.ones((4, 3)), DELTA > 0, lengths, gamma=0.9, reward_range=rewards
        ),
    ):
        with pytest.raises(InputError, match="extend it to 0"):
            call((0.5, 1.0))
        assert np.isfinite(call((0.0, 1.0)).bound)


def test_rewards_outside_their_range():
    rewards = np.array([[0.0, 1.5], [0.0, 7.0]])
    fixed = np.ones((2, 2), bool)
    with pytest.raises(InputError, match=r"a reward of 1\.5 is outside"):
        certified_return(rewards, fixed, gamma=0.9, reward_range=(0.0, 1.0))
    # What lies beyond the end of an episode is not read.
    certified_return(rewards, fixed, np.array([1, 1]), gamma=0.9, reward_range=(0.0, 1.0))


@pytest.mark.parametrize("method", ["hoeffding", "bernstein"])
@pytest.mark.parametrize("episodes", [20, 1000])
def test_a_floor_of_the_attacked_return_is_above_it_in_few_repetitions(method, episodes):
    """Of 20 episodes of SD 10 around 50 with a gap of 0.5, the mean less the gap was in 44 %.

    Returns of one step whose reward is known to be in [0, 100].
    """
    rng, repetitions, scale = np.random.default_rng(0), 4000, 100.0
    settings = {"gamma": 0.0, "horizon": 1, "reward_range": (0.0, scale), "method": method}
    # Two values around 50 with deviation 10, which is a normal one for the mean of 20.
    returns = 50 + 10 * rng.choice([-1.0, 1.0], (repetitions, episodes))
    truth = 50 - 0.5
    assert 0.4 < np.mean(returns.mean(-1) - 0.5 > truth) < 0.5
    floor = attacked_return(returns, lambda level: np.full(repetitions, 0.5), **settings)
    assert np.mean(floor > truth) <= 0.05
    if episodes == 1000:  # and says something
        assert np.mean(floor) > 40
    # The worst case of a range: nearly always 0, at times 100.
    rare = scale * (rng.random((repetitions, episodes)) < 0.02)
    floor = attacked_return(rare, lambda level: np.zeros(repetitions), **settings)
    assert np.mean(floor > 0.02 * scale) <= 0.05


def test_a_floor_of_the_attacked_return_splits_its_level():
    """Clean return and gap at 97.5 % each; of four statements at once at 99.375 %."""
    returns, asked = np.tile([0.0, 1.0], 10), []

    def gap(level: float) -> np.ndarray:
        asked.append(level)
        return np.array(0.1)

    settings = {"gamma": 0.5, "horizon": 1, "reward_range": (0.0, 1.0), "method": "hoeffding"}
    floors = [attacked_return(returns, gap, comparisons=n, **settings) for n in (1, 4)]
    assert asked == [pytest.approx(0.975), pytest.approx(0.99375)]
    widths = np.sqrt(np.log([40, 160]) / 40)
    np.testing.assert_allclose(floors, 0.5 - widths - 0.1)
    with pytest.raises(InputError, match="reward range"):
        attacked_return(returns, gap, **(settings | {"reward_range": (0.0, np.inf)}))
