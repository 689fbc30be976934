"""A certificate for the return that needs no bound on the network: Gaussian noise on what it sees.

A *smoothed* policy adds fresh N(0, sigma^2) to every coordinate of every observation, after the
adversary. An adversary whose shifts have l_2 length at most eps each moves T such observations by
at most sqrt(T) eps / sigma standard deviations, however it adapts, and by Neyman and Pearson an
event of probability p keeps at least Phi(Phi^-1(p) - sqrt(T) eps / sigma).

The certificate is of the noisy policy: report what the noise costs it beside.

Source: Kumar et al. 2022 (arXiv 2106.11420), adaptive adversaries; S-PPO (Sun et al. 2024).
"""

import math

import numpy as np
from scipy.special import ndtr, ndtri

from jaxprune.statistics.concentration import quantile_lower
from jaxprune.validation import InputError, lookup

# The l_2 radius of the unit ball by norm, from the size of the observation.
L2_RADIUS = {"l2": lambda obs_size: 1.0, "linf": math.sqrt}


def certified_quantile(
    returns: np.ndarray,
    eps: float,
    sigma: float,
    horizon: int,
    obs_size: int,
    *,
    norm: str = "linf",
    level: float = 0.95,
    quantile: float = 0.5,
    method: str = "binomial",
    comparisons: int = 1,
) -> np.ndarray:
    """A lower bound on a quantile of the return of the smoothed policy under attack.

    From unattacked episodes of the same smoothed policy: the lower confidence bound of their
    quantile at the level `shifted_quantile`. S-PPO takes the confidence width off *before* the
    shift, Phi(Phi^-1(quantile - width) - shift), which shrinks it: at shifts beyond about 1.5
    its bound fails more often than it says.

    Args:
        returns: `[..., n]`, of independent episodes with noise, of a stochastic policy or not.
        eps: what the adversary may do to each observation, in the units of sigma.
        sigma: standard deviation of the noise.
        horizon: most steps of an episode.
        obs_size: length of the observation.
        norm: of the adversary's ball: "linf" costs a factor sqrt(obs_size), "l2" none.
        level: of the statement; of all of them together if there are `comparisons`.
        quantile: of the attacked return, in (0, 1).
        method: "binomial" for one radius; "dkw" for all radii and quantiles at once.
        comparisons: how many such statements are to hold at once.

    Returns:
        `[...]`: at most the share `quantile` of attacked episodes earns less than this; -inf if
        there are too few episodes to say.

    Raises:
        InputError: sigma <= 0, eps < 0, horizon or obs_size < 1, unknown norm, or what
            `jaxprune.statistics.concentration.quantile_lower` refuses.
    """
    at = shifted_quantile(quantile, eps, sigma, horizon, obs_size, norm=norm)
    if at == 0:  # underflow: no number of episodes is enough
        return np.full(np.shape(returns)[:-1], -np.inf)
    return quantile_lower(returns, at, level, method=method, comparisons=comparisons)


def shifted_quantile(
    quantile: float, eps: float, sigma: float, horizon: int, obs_size: int, *, norm: str = "linf"
) -> float:
    """Phi(Phi^-1(quantile) - sqrt(horizon) eps_2 / sigma), eps_2 = eps or sqrt(obs_size) eps.

    The clean quantile that an attacked one can sink to; arguments as in `certified_quantile`.
    """
    radius = lookup(L2_RADIUS, norm, "norm")
    if not 0 < quantile < 1:
        raise InputError(f"quantile {quantile} is outside (0, 1): 0.5 is the median")
    if not 0 < sigma < math.inf:
        raise InputError(f"sigma {sigma} is no standard deviation: give a number > 0")
    if not 0 <= eps < math.inf:
        raise InputError(f"eps {eps} is no radius: give a number >= 0 in the units of sigma")
    if horizon < 1 or obs_size < 1:
        raise InputError(
            f"horizon {horizon} and obs_size {obs_size}: give at least one step and one coordinate"
        )
    shift = math.sqrt(horizon) * eps * radius(obs_size) / sigma
    return float(ndtr(ndtri(quantile) - shift))
