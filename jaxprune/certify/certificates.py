"""The bounds by name, with what each of them proves, and `certify`."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import numpy as np

from jaxprune.certify import norms
from jaxprune.certify.divergence import TOTAL_VARIATION
from jaxprune.families import InputError, lookup
from jaxprune.policy import affine_layers, inverse_std
from jaxprune.pruning.cells import Cell, as_cells, masked_policy
from jaxprune.types import Array, Masks, Policy

# Masks certified in one vectorised call; bounds the memory of a large grid.
CHUNK = 256


class Bound(NamedTuple):
    """A bound on D and what is known of it."""

    bound: Callable[..., Array]
    """(layers, eps [obs_size], inv_std) -> [], an upper bound on D."""
    monotone: bool
    """Removing weights can never raise it, bit for bit."""
    scope: str
    """Where it holds: "global" at every state, "local" at a given one."""
    norm: str
    """The norm it works in between layers."""


BOUNDS = {
    "frobenius": Bound(norms.frobenius, monotone=True, scope="global", norm="l2"),
    "path": Bound(norms.path, monotone=True, scope="global", norm="linf"),
    "spectral": Bound(norms.spectral, monotone=False, scope="global", norm="l2"),
}


# Of D, by `Policy.distribution`.
UNITS = {"normal": "standard deviations", "categorical": "logits"}


class Certificate(NamedTuple):
    """An upper bound on what any perturbation in the ball can do to the action distribution."""

    value: np.ndarray  # of D, `[...]` or `[..., rows of obs]`
    total_variation: np.ndarray  # the bound on TV that follows, same shape, in [0, 1]
    monotone: bool
    scope: str
    unit: str
    sound: str  # in which arithmetic the statement holds


def certify(
    policy: Policy,
    masks: Masks | None = None,
    eps: float | Array = 0.0,
    obs: Array | None = None,
    bounds: Sequence[str] = tuple(BOUNDS),
) -> dict[str, Certificate]:
    """Certificates of masked policies, in float64 with outward rounding.

    Args:
        policy: leading axes `[...]` are agents.
        masks: leading axes are those of the policy, then any number more; None for no pruning.
        eps: radius of the l_inf ball in normalised observation units, or one per coordinate.
        obs: raw observations `[n, obs_size]`; a global bound is the same at each of them, and its
            value is repeated along a last axis. None: no such axis.
        bounds: keys of `BOUNDS`.

    Returns:
        Name -> `Certificate`. All values bound the same D: standard deviations of the action
        (Gaussian) or logits (categorical).

    Raises:
        InputError: unknown bound, negative eps, weights not finite, or axes that do not fit.
    """
    chosen = {name: lookup(BOUNDS, name, "bound") for name in bounds}
    size = policy.obs_stats.mean.shape[-1]
    if np.shape(eps) not in ((), (size,)):
        raise InputError(f"eps has shape {np.shape(eps)}: give one radius, or {size}, one each")
    if obs is not None and np.shape(obs)[1:] != (size,):
        raise InputError(f"obs has shape {np.shape(obs)}: give rows of {size} raw observations")
    if not np.all(np.asarray(eps) >= 0):
        raise InputError(f"eps {eps} is negative: give a radius >= 0 in normalised units")
    numbers = (policy.params.actor, policy.params.log_std)
    if not all(np.all(np.isfinite(x)) for x in jax.tree.leaves(numbers)):
        raise InputError("the policy has weights that are not finite: nothing can be certified")

    shape, policies, cells = as_cells(policy, masks)
    rows = () if obs is None else (len(obs),)
    with jax.enable_x64(True):
        policies = jax.tree.map(lambda x: np.asarray(x, np.float64), policies)
        radius = np.broadcast_to(np.asarray(eps, np.float64), policies.obs_stats.mean.shape[-1:])
        values = jax.device_get(_values(policies, cells, radius, bounds=tuple(chosen)))
    values = jax.tree.map(lambda v: v.reshape(shape + (1,) * len(rows)), values)
    values = jax.tree.map(lambda v: np.broadcast_to(v, shape + rows), values)
    return {
        name: Certificate(
            *values[name],
            monotone=bound.monotone,
            scope=bound.scope,
            unit=UNITS[policy.distribution],
            sound="float64, rounded outward",
        )
        for name, bound in chosen.items()
    }


@partial(jax.jit, static_argnames="bounds")
def _values(
    policies: Policy, cells: Cell, eps: Array, *, bounds: tuple[str, ...]
) -> dict[str, tuple[Array, Array]]:
    """Name -> (D, TV) of every cell, `[N]` each."""

    def of_cell(cell: Cell) -> dict[str, tuple[Array, Array]]:
        policy = masked_policy(policies, cell)
        layers, inv_std = affine_layers(policy), inverse_std(policy)
        distances = {name: BOUNDS[name].bound(layers, eps, inv_std) for name in bounds}
        to_tv = TOTAL_VARIATION[policy.distribution]
        return {name: (distance, to_tv(distance)) for name, distance in distances.items()}

    # Whole chunks only: a program for the remainder could add up in another order, and bounds
    # that are monotone bit for bit would no longer be.
    size = cells.agent.size
    chunk = max(1, min(size, CHUNK))
    fill = np.minimum(np.arange(-(-size // chunk) * chunk), size - 1)
    cells = jax.tree.map(lambda x: x[fill], cells)
    return jax.tree.map(lambda v: v[:size], jax.lax.map(of_cell, cells, batch_size=chunk))
