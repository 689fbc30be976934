"""One question asked at given observations of every masked policy, on all devices."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike

from jaxprune.evaluation import spread
from jaxprune.families import InputError
from jaxprune.population import layout, over_population, take
from jaxprune.pruning.cells import Cell, as_cells, masked_policy
from jaxprune.types import Array, Key, Masks, Policy

# Observations of one mask that a device looks at in one vectorised call.
ROWS = 256


def over_states(ask: Callable[[Key, Policy, Array, Array, Policy | None], Any]) -> Callable:
    """The program for `at_states` that asks (key, victim, obs, eps, source) at every observation.

    Args:
        ask: raw observation `[obs_size]` and eps `[]` -> scalars, a pytree. The key is the same at
            every observation.
    """

    def of_cell(shared: tuple[Policy, Array, Key], item: tuple[Cell, Array, Policy | None]):
        policies, eps, key = shared
        cell, obs, source = item
        victim = masked_policy(policies, cell)
        at = lambda x: ask(key, victim, x, eps, source)  # noqa: E731
        return jax.lax.map(at, obs, batch_size=min(ROWS, len(obs)))

    return over_population(of_cell, width=1)


def at_states(
    program: Callable,
    policy: Policy,
    masks: Masks | None,
    eps: float,
    obs: ArrayLike,
    key: Key,
    source: Policy | None = None,
) -> Any:
    """What a program of `over_states` finds: leaves `[..., n]`, on the host.

    Args:
        program: from `over_states`.
        policy: leading axes `[...]` are agents.
        masks: leading axes are those of the policy, then any number more; None for no pruning.
        eps: radius of the l_inf ball in normalised observation units.
        obs: raw observations `[n, obs_size]`, or `[..., n, obs_size]` with the axes of the masks.
        key: consumed.
        source: a second policy beside each, masked; leading axes are those of the result without
            n, or none.

    Raises:
        InputError: the source has other leading axes.
    """
    shape, policies, cells = as_cells(*jax.device_get((policy, masks)))
    rows, size = np.shape(obs)[-2], len(cells.agent)
    obs = np.broadcast_to(obs, (*shape, *np.shape(obs)[-2:])).reshape(size, rows, -1)
    if source is not None:
        axes = source.params.log_std.shape[:-1]
        if axes not in ((), shape):
            raise InputError(
                f"the source has leading axes {axes}: give it none, or {shape} as the masks have"
            )
        source = spread(source, shape)
    order, place = layout(size, 1)
    items = take((cells, np.asarray(obs, np.float32), source), order)
    found = jax.device_get(program((policies, np.float32(eps), key), items))
    return jax.tree.map(lambda x: x.reshape(*shape, rows), take(found, place))
