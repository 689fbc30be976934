"""How far an attack moves a policy at given observations: the lower bound beside a certificate."""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike

from jaxprune.attacks import MADConfig
from jaxprune.attacks.gradient import mad
from jaxprune.policy import action_distribution, normalise
from jaxprune.states import at_states, over_states
from jaxprune.types import Array, Key, Masks, Policy


class Reached(NamedTuple):
    """What a perturbation in the ball was found to do; nothing smaller can be certified."""

    value: np.ndarray  # of D, `[..., n]`
    total_variation: np.ndarray  # exact TV of that perturbation, `[..., n]`


def reached(
    policy: Policy,
    masks: Masks | None,
    eps: float,
    obs: ArrayLike,
    key: Key,
    config: MADConfig | None = None,
) -> Reached:
    """D and TV at the perturbation that the MAD attack finds at each observation, in float32.

    Args:
        policy: leading axes `[...]` are agents.
        masks: leading axes are those of the policy, then any number more; None for no pruning.
        eps: radius of the l_inf ball in normalised observation units.
        obs: raw observations `[n, obs_size]`, or `[..., n, obs_size]` with the axes of the masks.
        key: consumed.
        config: of the attack.
    """
    return Reached(*at_states(_program(config or MADConfig()), policy, masks, eps, obs, key))


@lru_cache(maxsize=16)
def _program(config: MADConfig) -> Callable:
    """(D, TV) at every observation."""
    attack = mad(config)

    def ask(key: Key, victim: Policy, obs: Array, eps: Array, source: Policy | None):
        del source  # the attack is on the victim itself
        here = normalise(victim, obs)
        seen, _ = attack.perturb((), (), key, victim, here, eps)
        before, after = (action_distribution(victim, x) for x in (here, seen))
        return before.distance(after), before.total_variation(after)

    return over_states(ask)
