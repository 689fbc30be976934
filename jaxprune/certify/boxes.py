"""Boxes: element-wise bounds on the values of a layer."""

from typing import NamedTuple

import jax.numpy as jnp

from jaxprune.types import Array


class Box(NamedTuple):
    """Element-wise bounds."""

    low: Array  # [n]
    high: Array  # [n]


def enclosing(box: Box) -> Box:
    """The box, without an end that is not known: NaN, or an overflow to beyond all numbers."""
    low_known, high_known = box.low < jnp.inf, box.high > -jnp.inf  # False for NaN
    return Box(jnp.where(low_known, box.low, -jnp.inf), jnp.where(high_known, box.high, jnp.inf))
