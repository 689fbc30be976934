"""What every bound is asked: how far can the outputs of a network move over an l_inf ball?

    Gaussian     D = ||Sigma^(-1/2) (mu(s) - mu(s'))||_2
    categorical  D = max_i |z_i(s) - z_i(s')|

for observations at most eps_j apart in coordinate j. 1 / sigma is folded into the last layer, so
that both heads are the change of a plain network, in l_2 or in l_inf.
"""

from collections.abc import Sequence
from dataclasses import replace

import jax.numpy as jnp
from flax import struct

from jaxprune.policy import Affine
from jaxprune.types import Array


@struct.dataclass
class Query:
    """One network, one ball."""

    layers: tuple[Affine, ...]  # 1 / sigma in the rows of the last
    eps: Array  # [obs_size], radius per normalised coordinate
    centre: Array  # [obs_size], normalised observation; only local bounds read it
    activation: str = struct.field(pytree_node=False)  # between the layers
    norm: str = struct.field(pytree_node=False)  # of the change: "l2" or "linf"


def make_query(
    layers: Sequence[Affine],
    eps: Array,
    inv_std: Array | None,
    activation: str = "tanh",
    centre: Array | None = None,
) -> Query:
    """The query about a Gaussian policy, or about logits if `inv_std` is None.

    Args:
        layers: the actor's, `Affine.weight [out, in]`.
        eps: radius per normalised coordinate, `[obs_size]`.
        inv_std: `[action_size]`; None for logits.
        activation: a key of `jaxprune.policy.ACTIVATIONS`.
        centre: normalised observation `[obs_size]`; None for a query that holds everywhere.
    """
    centre = jnp.zeros_like(eps) if centre is None else centre
    if inv_std is None:
        return Query(tuple(layers), eps, centre, activation, "linf")
    *hidden, last = layers
    scaled = Affine(last.weight * inv_std[:, None], last.bias * inv_std)
    return Query((*hidden, scaled), eps, centre, activation, "l2")


def with_rows(query: Query, rows: Array) -> Query:
    """The query about `rows @ outputs`, `rows [m, outputs]`, merged into the last layer.

    Differences of outputs are bounded better together than one by one.
    """
    *hidden, last = query.layers
    merged = Affine(rows @ last.weight, rows @ last.bias)
    return replace(query, layers=(*hidden, merged))


def unit_ball_weights(query: Query) -> list[Array]:
    """The kernels with eps folded into the first: the ball is then the unit l_inf ball."""
    weights = [layer.weight for layer in query.layers]
    return [weights[0] * query.eps, *weights[1:]]


def length(query: Query, change: Array) -> Array:
    """D of a change of the outputs, `[outputs] -> []`."""
    change = jnp.abs(change)
    return jnp.sqrt(jnp.sum(change * change)) if query.norm == "l2" else jnp.max(change)
