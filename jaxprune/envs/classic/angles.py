"""Angles in radians."""

import jax.numpy as jnp

from jaxprune.types import Array


def wrap(angle: Array) -> Array:
    """The same direction within +-pi, any shape."""
    return angle - 2 * jnp.pi * jnp.round(angle / (2 * jnp.pi))
