"""Masks from scores: rank once, compare with a count, so that sparsity is data, not program.

Masks are nested by construction: what an old mask removed ranks below everything else, so a larger
count always removes a superset, whatever the scores have become.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.types import Array, Key, Masks, Params, Policy

# Chosen by path, never by rank: a stack of biases is two-dimensional too.
Prunable = Callable[[str], bool]


def actor_kernels(path: str) -> bool:
    """The default: the actor's kernels; biases, log_std and the critic are left alone."""
    return path.startswith("actor/") and path.endswith("/kernel")


def all_kernels(path: str) -> bool:
    """The kernels of actor and critic."""
    return path.endswith("/kernel")


def dense(params: Params) -> Masks:
    """The mask that keeps everything: the neutral member."""
    return jax.tree.map(lambda w: jnp.ones(w.shape, bool), params)


def apply_masks(params: Params, masks: Masks) -> Params:
    """`params` with the removed entries set to +0, also where they are NaN or negative."""
    return jax.tree.map(lambda w, keep: jnp.where(keep, w, jnp.zeros_like(w)), params, masks)


def mask_policy(policy: Policy, masks: Masks | None) -> Policy:
    """The pruned policy; None keeps everything."""
    return policy if masks is None else replace(policy, params=apply_masks(policy.params, masks))


def prunable_sizes(params: Params, prunable: Prunable = actor_kernels) -> dict[str, int]:
    """Path -> entries of every prunable leaf of one agent, in leaf order."""
    return {name: leaf.size for name, leaf in _named_leaves(params) if prunable(name)}


def ranks(
    scores: Params,
    groups: Sequence[int],
    key: Key,
    *,
    old: Masks,
    prunable: Prunable = actor_kernels,
) -> Params:
    """Position of every prunable weight in the order of removal, within its group, from 0.

    Args:
        scores: higher = keep; any real numbers.
        groups: group of every prunable leaf (`Allocation.groups`).
        key: breaks ties at random, so that equal scores do not empty a row; consumed.
        old: what it removed already comes first.
        prunable: path -> whether the leaf may be pruned.

    Returns:
        int32 trees of the shapes of `scores`; -1 where nothing is prunable.
    """
    named = _named_leaves(scores)
    leaves, keeps = [leaf for _, leaf in named], jax.tree.leaves(old)
    result = [jnp.full(leaf.shape, -1, jnp.int32) for leaf in leaves]
    positions = [i for i, (name, _) in enumerate(named) if prunable(name)]

    for group in sorted(set(groups)):
        members = [i for i, g in zip(positions, groups, strict=True) if g == group]
        score = jnp.concatenate([leaves[i].ravel() for i in members])
        keep = jnp.concatenate([keeps[i].ravel() for i in members])
        tie = jax.random.uniform(jax.random.fold_in(key, group), score.shape)
        order = jnp.lexsort((tie, score, keep))  # the last key decides first
        places = jnp.arange(order.size, dtype=jnp.int32)
        rank = jnp.zeros_like(places).at[order].set(places)
        ends = np.cumsum([leaves[i].size for i in members])[:-1]
        for i, part in zip(members, jnp.split(rank, ends), strict=True):
            result[i] = part.reshape(leaves[i].shape)
    return jax.tree.unflatten(jax.tree.structure(scores), result)


def masks_from_ranks(
    rank: Params, groups: Sequence[int], counts: Array, prunable: Prunable = actor_kernels
) -> Masks:
    """Remove the first `counts[g]` weights of every group g: exactly that many, `counts` traced.

    Args:
        rank: from `ranks`.
        groups: as given to `ranks`.
        counts: int `[groups]`.
        prunable: as given to `ranks`.
    """
    group_of = iter(groups)
    leaves = [
        leaf >= counts[next(group_of)] if prunable(name) else jnp.ones(leaf.shape, bool)
        for name, leaf in _named_leaves(rank)
    ]
    return jax.tree.unflatten(jax.tree.structure(rank), leaves)


def sparsity_of(masks: Masks, prunable: Prunable = actor_kernels) -> Array:
    """Fraction of the prunable weights that one agent's masks remove, `[]`."""
    leaves = [leaf for name, leaf in _named_leaves(masks) if prunable(name)]
    return jnp.sum(jnp.stack([jnp.sum(~x) for x in leaves])) / sum(x.size for x in leaves)


def _named_leaves(tree: Params) -> list[tuple[str, Any]]:
    """("actor/layer_0/kernel", leaf) for every leaf, in leaf order."""
    return [
        ("/".join(str(getattr(k, "name", getattr(k, "key", k))) for k in path), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]
