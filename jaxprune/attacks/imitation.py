"""Networks that learn to do what they saw done: minibatch regression."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax

from jaxprune.types import Array, Key, PyTree

ROWS, RATE = 256, 1e-3  # of a minibatch, and of Adam


def fit(
    key: Key, first: PyTree, loss: Callable[[PyTree, PyTree], Array], rows: PyTree, epochs: int
) -> PyTree:
    """The parameters after so many shuffled passes of Adam over the rows. Pure.

    Args:
        key: consumed; of the order of the rows.
        first: parameters before anything was learned.
        loss: (parameters, one row) -> what is to be small, `[]`.
        rows: what was seen, a pytree of `[rows, ...]`.
        epochs: passes. What does not fill a last minibatch of 256 is left to the next pass.
    """
    adam = optax.adam(RATE)
    count = len(jax.tree.leaves(rows)[0])
    batches = max(count // ROWS, 1)

    def minibatch(carry, index: Array):
        params, state = carry
        batch = jax.tree.map(lambda x: x[index], rows)
        grads = jax.grad(lambda p: jax.vmap(partial(loss, p))(batch).mean())(params)
        updates, state = adam.update(grads, state)
        return (optax.apply_updates(params, updates), state), None

    def epoch(carry, key: Key):
        order = jax.random.permutation(key, count)
        index = jnp.resize(order, (batches, min(ROWS, count)))
        return jax.lax.scan(minibatch, carry, index)

    (params, _), _ = jax.lax.scan(epoch, (first, adam.init(first)), jax.random.split(key, epochs))
    return params
