"""From a bound on the total variation at every state to a bound on the discounted return.

For the *stochastic* policy: two different deterministic actions have total variation 1.
"""

from typing import TypeVar

import numpy as np

from jaxprune.families import InputError
from jaxprune.types import Array

Numeric = TypeVar("Numeric", float, Array, np.ndarray)


def value_gap(delta: Numeric, gamma: float, reward_range: tuple[float, float]) -> Numeric:
    """V^pi(s) - V^{pi o nu}(s) <= (r_hi - r_lo) delta / ((1 - gamma) (1 - gamma (1 - delta))).

    For every adversary nu, also one that remembers and randomises, if TV(pi(.|s), pi(.|s')) <=
    delta over the ball at every s. Couple the two processes: rewards agree at t unless some action
    up to t differed, which has probability at most 1 - (1 - delta)^(t + 1). Attained by a two-state
    MDP; the constant published with SA-MDP (Zhang et al. 2020, Theorem 5) is not always enough.

    Args:
        delta: bound on the total variation, in [0, 1].
        gamma: discount in [0, 1).
        reward_range: a-priori (r_lo, r_hi), 0 included if episodes can terminate.

    Raises:
        InputError: gamma outside [0, 1), or an empty or infinite reward range.
    """
    low, high = reward_range
    _check_gamma(gamma)
    if not float("-inf") < low <= high < float("inf"):
        raise InputError(
            f"reward range ({low}, {high}) is not a finite interval: a value certificate needs "
            "a-priori reward bounds low <= high"
        )
    return (high - low) / (1 - gamma) * vacuity(delta, gamma)


def vacuity(delta: Numeric, gamma: float) -> Numeric:
    """The bound of `value_gap` over the trivial one, (r_hi - r_lo) / (1 - gamma): in [0, 1].

        delta / (1 - gamma (1 - delta))

    Near 1 the certificate says nothing; it says something only if delta << 1 - gamma.
    """
    _check_gamma(gamma)
    return delta / (1 - gamma * (1 - delta))


def _check_gamma(gamma: float) -> None:
    if not 0 <= gamma < 1:
        raise InputError(f"gamma {gamma} is outside [0, 1): the discounted bound needs gamma < 1")
