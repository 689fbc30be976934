"""The smoothing certificate: golden values, the game that attains it, coverage."""

import math

import numpy as np
import pytest
from scipy import stats
from scipy.special import ndtr

from jaxprune.certify.smoothing import certified_quantile, shifted_quantile
from jaxprune.statistics.concentration import dkw_width, quantile_lower
from jaxprune.validation import InputError

PUBLISHED = {"sigma": 0.2, "horizon": 1000, "obs_size": 11, "norm": "l2"}


def test_golden_value():
    """certificates.md 5, S-PPO: eps .002 in l_2, sigma .2, 1000 steps, 1000 rollouts: p = .340.

    That takes the width .0387 off before the shift.
    """
    published = shifted_quantile(0.5 - dkw_width(1000, 0.05), 0.002, **PUBLISHED)
    assert published == pytest.approx(0.340, rel=0, abs=5e-4)
    # Phi(-.002 sqrt(1000) / .2) = Phi(-.31623)
    assert shifted_quantile(0.5, 0.002, **PUBLISHED) == pytest.approx(0.375915, abs=1e-6)


def test_ours_against_the_published_level():
    """Of returns 1 ... 1000: the published level is the 340th; DKW gives less, the exact more."""
    returns = np.random.default_rng(0).permutation(1000) + 1.0
    exact = int(certified_quantile(returns, 0.002, **PUBLISHED))
    band = int(certified_quantile(returns, 0.002, method="dkw", **PUBLISHED))
    assert band == math.floor(1000 * (0.375915 - 0.038702)) + 1 == 338
    assert (
        stats.binom.cdf(exact - 1, 1000, 0.375915) <= 0.05 < stats.binom.cdf(exact, 1000, 0.375915)
    )
    assert exact > 340 > band


def test_the_published_order_of_operations_fails_too_often():
    """At eps .01, the largest published, in the game below that attains the certificate.

    With 1000 rollouts its bound is above the attacked median in 8 % of the cases, not 5 %.
    """
    level = shifted_quantile(0.5 - dkw_width(1000, 0.05), 0.01, **PUBLISHED)
    truth = shifted_quantile(0.5, 0.01, **PUBLISHED)
    # The sample of this rank is above the attacked median if fewer are at or below it.
    rank = math.floor(1000 * level) + 1
    failing = stats.binom.cdf(rank - 1, 1000, truth)
    assert 0.07 < failing < 0.1


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("method", ["binomial", "dkw"])
def test_the_game_that_attains_it(norm, method):
    """The return is the sum of all noisy observations: pushing each down is the worst attack.

    It is normal, its quantiles are known, and shifting all by the full budget moves each by exactly
    what the certificate allows for. 4000 certificates of 400 episodes: 5 % may fail.
    """
    size, horizon, sigma, eps, quantile = 3, 8, 0.5, 0.05, 0.3
    rng = np.random.default_rng(0)
    spread = sigma * math.sqrt(horizon * size)
    returns = spread * rng.standard_normal((4000, 400))
    lost = horizon * size * (eps / math.sqrt(size) if norm == "l2" else eps)
    attacked = stats.norm.ppf(quantile, -lost, spread)
    certified = certified_quantile(
        returns, eps, sigma, horizon, size, norm=norm, quantile=quantile, method=method
    )
    failed = np.mean(certified > attacked)
    assert failed < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 4000)
    assert np.median(certified) > attacked - 0.4 * spread  # and it is tight
    if method == "binomial":
        assert failed > 0.02


@pytest.mark.parametrize("steps", [1, 2, 10, 200])
def test_an_adaptive_adversary(steps):
    """The return is lost once any noisy observation is above c: a game with memory, solved exactly.

    The adversary, who sees the past, shifts each by eps until it has won: success keeps
    Phi(c - eps)^T of Phi(c)^T, and the certificate must not promise more.
    """
    c = np.linspace(-2, 6, 161)[:, None]
    eps = np.array([0.01, 0.1, 0.5, 2.0])
    before, after = ndtr(c) ** steps, ndtr(c - eps) ** steps
    for i, j in np.ndindex(after.shape):
        lost, attacked = 1 - before[i, 0], 1 - after[i, j]
        if lost > 1e-8 and attacked < 1:
            assert shifted_quantile(attacked, eps[j], 1.0, steps, 1) <= lost * (1 + 1e-7)


def test_no_adversary_is_the_plain_quantile():
    returns = np.random.default_rng(0).standard_normal((2, 3, 500))
    certified = certified_quantile(returns, 0.0, 0.1, 100, 5)
    np.testing.assert_array_equal(certified, quantile_lower(returns, 0.5))
    assert certified.shape == (2, 3)


def test_it_falls_with_the_budget_and_rises_with_the_noise():
    returns = np.random.default_rng(0).standard_normal(2000)
    by_eps = [certified_quantile(returns, eps, 0.2, 100, 4) for eps in (0, 1e-3, 1e-2, 2e-2, 1.0)]
    assert np.all(np.diff(by_eps[:4]) < 0) and by_eps[4] == -np.inf
    by_sigma = [certified_quantile(returns, 0.01, sigma, 100, 4) for sigma in (0.1, 0.2, 0.4)]
    assert np.all(np.diff(by_sigma) > 0)
    one, many = (certified_quantile(returns, 0.01, 0.2, 100, 4, comparisons=k) for k in (1, 100))
    assert many < one


def test_linf_costs_the_root_of_the_dimension():
    both = [
        shifted_quantile(0.5, eps, 0.2, 50, 9, norm=norm)
        for eps, norm in ((0.01, "linf"), (0.03, "l2"))
    ]
    assert both[0] == pytest.approx(both[1], rel=1e-12)


def test_a_budget_beyond_all_floating_point_numbers():
    assert shifted_quantile(0.5, 1.0, 1e-3, 1000, 10) == 0
    assert certified_quantile(np.zeros((4, 10)), 1.0, 1e-3, 1000, 10).tolist() == [-np.inf] * 4


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"sigma": 0.0}, "sigma 0.0 is no standard deviation"),
        ({"sigma": -1.0}, "sigma"),
        ({"sigma": math.nan}, "sigma"),
        ({"eps": -0.1}, "eps -0.1 is no radius"),
        ({"eps": math.inf}, "eps"),
        ({"horizon": 0}, "horizon 0"),
        ({"obs_size": 0}, "obs_size 0"),
        ({"norm": "l1"}, "unknown norm 'l1'"),
        ({"quantile": 0.0}, "quantile"),
        ({"quantile": 1.0}, "quantile"),
        ({"level": 1.0}, "level"),
        ({"method": "exact"}, "unknown method"),
        ({"returns": np.zeros(1)}, "at least two"),
    ],
)
def test_bad_input(setting, message):
    sound = {"returns": np.zeros(10), "eps": 0.1, "sigma": 1.0, "horizon": 5, "obs_size": 3}
    with pytest.raises(InputError, match=message):
        certified_quantile(**(sound | setting))
