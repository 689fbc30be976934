"""How far an attack moves a policy at given observations: the lower bound beside a certificate."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike

from jaxprune.attacks import MADConfig, mad
from jaxprune.policy import action_distribution, normalise
from jaxprune.population import layout, over_population, take
from jaxprune.pruning.cells import Cell, as_cells, masked_policy
from jaxprune.types import Array, Key, Masks, Policy

# Observations of one mask that a device attacks in one vectorised call.
ROWS = 256


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
    shape, policies, cells = as_cells(*jax.device_get((policy, masks)))
    rows, size = np.shape(obs)[-2], len(cells.agent)
    obs = np.broadcast_to(obs, (*shape, *np.shape(obs)[-2:])).reshape(size, rows, -1)
    order, place = layout(size, 1)
    program = _program(config or MADConfig())
    shared = (policies, np.float32(eps), key)
    found = jax.device_get(program(shared, take((cells, np.asarray(obs, np.float32)), order)))
    return Reached(*(x.reshape(*shape, rows) for x in take(found, place)))


@lru_cache(maxsize=16)
def _program(config: MADConfig) -> Callable[[Any, Any], tuple[Array, Array]]:
    """(D, TV) of every cell at each of its observations, `[N, n]` each."""
    attack = mad(config)

    def of_cell(shared: tuple[Policy, Array, Key], item: tuple[Cell, Array]):
        policies, eps, key = shared
        cell, obs = item
        victim = masked_policy(policies, cell)

        def at(obs: Array) -> tuple[Array, Array]:
            here = normalise(victim, obs)
            seen, _ = attack.perturb((), (), key, victim, here, eps)
            before, after = (action_distribution(victim, x) for x in (here, seen))
            return before.distance(after), before.total_variation(after)

        return jax.lax.map(at, obs, batch_size=min(ROWS, len(obs)))

    return over_population(of_cell, width=1)
