"""How much each weight deserves to stay: `score(params, batch, key) -> tree like params`.

Higher means keep. `batch` holds what data-driven scores look at; the ones here look at none.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxprune.types import Key, Params


def constant(params: Params, batch: Any, key: Key) -> Params:
    """Every weight deserves the same; the neutral member, ties are broken at random."""
    del batch, key  # the score of nothing depends on nothing
    return jax.tree.map(jnp.zeros_like, params)


def magnitude(params: Params, batch: Any, key: Key) -> Params:
    """|w| (Han et al. 2015)."""
    del batch, key  # the weights themselves are the score
    return jax.tree.map(jnp.abs, params)


def random(params: Params, batch: Any, key: Key) -> Params:
    """U(0, 1) per weight: the control that any other score has to beat."""
    del batch  # no data
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    draws = [jax.random.uniform(k, w.shape) for k, w in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(treedef, draws)


SCORES = {"constant": constant, "magnitude": magnitude, "random": random}
