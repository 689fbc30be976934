"""Masks: boolean trees of the shapes of the parameters, True = keep."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.pruning.scope import Prunable, actor_kernels, named_leaves
from jaxprune.types import Array, Masks, Params, Policy
from jaxprune.validation import InputError


def check_arrays(policy: Policy, masks: Masks | None) -> None:
    """Raises `InputError` unless parameters are floating-point numbers, and masks booleans."""
    for what, tree, kind, wanted in (
        ("policy", policy.params, jnp.floating, "floating-point numbers"),
        ("masks", masks, jnp.bool_, "booleans, True = keep"),
    ):
        for path, leaf in [] if tree is None else named_leaves(tree):
            dtype = getattr(leaf, "dtype", np.dtype(object))
            if not jnp.issubdtype(dtype, kind):
                raise InputError(f"{what} {path} is an array of {dtype}: give {wanted}")


# One program for a tree outside of a trace, and no call inside of one.
_as_one = partial(jax.jit, inline=True)


@_as_one
def dense(params: Params) -> Masks:
    """The mask that keeps everything: the neutral member."""
    return jax.tree.map(lambda w: jnp.ones(w.shape, bool), params)


@_as_one
def apply_masks(params: Params, masks: Masks) -> Params:
    """`params` with the removed entries set to +0, also where they are NaN or negative."""
    return jax.tree.map(lambda w, keep: jnp.where(keep, w, jnp.zeros_like(w)), params, masks)


def mask_policy(policy: Policy, masks: Masks | None) -> Policy:
    """The pruned policy; None keeps everything."""
    return policy if masks is None else replace(policy, params=apply_masks(policy.params, masks))


def sparsity_of(masks: Masks, prunable: Prunable = actor_kernels) -> Array:
    """Fraction of the prunable weights that one agent's masks remove, `[]`."""
    return _removed([leaf for name, leaf in named_leaves(masks) if prunable(name)])


@_as_one
def _removed(masks: list[Array]) -> Array:
    """Fraction of the entries that are False, `[]`."""
    return jnp.sum(jnp.stack([jnp.sum(~x) for x in masks])) / sum(x.size for x in masks)
