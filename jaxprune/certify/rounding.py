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


def vanished(operations: int, dtype: jnp.dtype) -> float:
    """More than a sum of so many products loses because they are too small to be numbers."""
    return 2 * (operations + SPARE) * float(jnp.finfo(dtype).tiny)


def product(a: Array, b: Array) -> Array:
    """a b of a finite or infinite a and b >= 0, rounded away from 0 where it would vanish.

    0 if either is 0, also 0 times infinity: what is 0 was removed, and adds nothing. Nondecreasing
    in |a| and in b.
    """
    size = jnp.maximum(jnp.abs(a) * b, jnp.finfo(b.dtype).tiny)
    return jnp.where((a == 0) | (b == 0), 0.0, jnp.sign(a) * size)


def known(bound: Array) -> Array:
    """An upper bound, infinite where it is not known, which is where it is NaN."""
    return jnp.where(jnp.isnan(bound), jnp.inf, bound)


def outward(bound: Array, operations: float) -> Array:
    """A non-negative `bound` plus the rounding that `operations` can have lost."""
    return bound * (1 + slack(operations, bound.dtype))
