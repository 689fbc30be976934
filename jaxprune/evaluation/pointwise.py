"""Questions asked at given observations of every masked policy, on all devices.

`reached` asks one: how far an attack moves the policy at each observation.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxprune.attacks import MADConfig
from jaxprune.attacks.gradient import mad
from jaxprune.cells import Cell, as_cells, masked_policy
from jaxprune.devices import Mapped, map_evenly, map_population
from jaxprune.evaluation.evaluate import spread
from jaxprune.policy import action_distribution, actor_output, normalise
from jaxprune.types import Array, Key, Masks, Policy
from jaxprune.validation import InputError

# Observations of one mask that a device looks at in one vectorised call.
ROWS = 256


def over_states(ask: Callable[[Key, Policy, Array, Array, Policy | None], Any]) -> Mapped:
    """The program for `at_states` that asks (key, victim, obs, eps, source) at every observation.

    Args:
        ask: raw observation `[obs_size]` and eps `[]` -> a pytree. The key is the same at
            every observation.
    """

    def of_cell(shared: tuple[Policy, Array, Key], item: tuple[Cell, Array, Policy | None]):
        policies, eps, key = shared
        cell, obs, source = item
        victim = masked_policy(policies, cell)
        at = lambda x: ask(key, victim, x, eps, source)  # noqa: E731
        return map_evenly(at, obs, ROWS)

    return Mapped(of_cell)


def at_states(
    program: Mapped,
    policy: Policy,
    masks: Masks | None,
    eps: float,
    obs: ArrayLike,
    key: Key,
    source: Policy | None = None,
) -> Any:
    """What a program of `over_states` finds: leaves `[..., n, ...]`, on the host.

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
    shared, items = (policies, np.float32(eps), key), (cells, np.asarray(obs, np.float32), source)
    found = map_population(program, shared, items, lanes_per_item=1, lanes=1)
    return jax.tree.map(lambda x: x.reshape(*shape, rows, *x.shape[2:]), found)


class Reached(NamedTuple):
    """What a perturbation in the ball was found to do; nothing smaller can be certified."""

    value: np.ndarray  # of D, `[..., n]`
    total_variation: np.ndarray  # exact TV of that perturbation, `[..., n]`
    action_distance: np.ndarray  # and ||mu(s) - mu(s')||_2, `[..., n]`; NaN of logits
    outputs: np.ndarray  # without it: the mean action or the logits, `[..., n, outputs]`


def reached(
    policy: Policy,
    masks: Masks | None,
    eps: float,
    obs: ArrayLike,
    key: Key,
    config: MADConfig | None = None,
) -> Reached:
    """Returns how far the perturbation that MAD finds moves the policy, in float32.

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
def _program(config: MADConfig) -> Mapped:
    """The fields of `Reached` at every observation."""
    attack = mad(config)

    def ask(key: Key, victim: Policy, obs: Array, eps: Array, source: Policy | None):
        del source  # the attack is on the victim itself
        here = normalise(victim, obs)
        seen, _ = attack.perturb((), (), key, victim, here, eps)
        before, after = (action_distribution(victim, x) for x in (here, seen))
        outputs = actor_output(victim, here)
        moved = jnp.linalg.norm(actor_output(victim, seen) - outputs)
        if before.discrete:
            moved = jnp.full_like(moved, jnp.nan)
        return before.distance(after), before.total_variation(after), moved, outputs

    return over_states(ask)
