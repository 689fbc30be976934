"""Masks: boolean trees of the shapes of the parameters, True = keep."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.pruning.scope import Prunable, actor_kernels, named_leaves
from jaxprune.types import AnyArray, Masks, Params, Policy
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


def dense(params: Params) -> Masks:
    """The mask that keeps everything: the neutral member; in numpy, on the host."""
    return jax.tree.map(lambda w: np.ones(w.shape, bool), params)


@partial(jax.jit, inline=True)  # one program for a tree outside of a trace
def apply_masks(params: Params, masks: Masks) -> Params:
    """`params` with the removed entries set to +0, also where they are NaN or negative."""
    return jax.tree.map(lambda w, keep: jnp.where(keep, w, jnp.zeros_like(w)), params, masks)


def mask_policy(policy: Policy, masks: Masks | None) -> Policy:
    """The pruned policy; None keeps everything."""
    return policy if masks is None else replace(policy, params=apply_masks(policy.params, masks))


def masked_on_host(policy: Policy, masks: Masks | None) -> Policy:
    """The pruned policy in numpy: as `mask_policy`, and no program of XLA."""
    policy, masks = jax.device_get((policy, masks))
    if masks is None:
        return policy
    params = jax.tree.map(lambda w, keep: np.where(keep, w, np.zeros_like(w)), policy.params, masks)
    return replace(policy, params=params)


def sparsity_of(masks: Masks, prunable: Prunable = actor_kernels) -> AnyArray:
    """Fraction of the prunable weights that one agent's masks remove, `[]`."""
    leaves = [leaf for name, leaf in named_leaves(masks) if prunable(name)]
    return sum((~leaf).sum() for leaf in leaves) / sum(leaf.size for leaf in leaves)
