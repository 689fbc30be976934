"""Outward rounding: what a computed bound needs on top to hold in real arithmetic."""

import jax.numpy as jnp

from jaxprune.types import Array

# Operations that every bound is granted on top of those counted: roots, products, conversions.
SPARE = 16


def slack(operations: float, dtype: jnp.dtype) -> float:
    """Twice the relative error of a sum of non-negative terms after so many roundings.

    n additions and products in a row lose at most n u / (1 - n u) of such a sum, u the unit
    roundoff (Higham 2002, section 3.1).
    """
    unit_roundoff = float(jnp.finfo(dtype).eps) / 2
    return 2 * (operations + SPARE) * unit_roundoff


def outward(bound: Array, operations: float) -> Array:
    """A non-negative `bound` plus the rounding that `operations` can have lost."""
    return bound * (1 + slack(operations, bound.dtype))
