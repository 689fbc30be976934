"""The order in which units go: rank once, compare with a count, so that sparsity is data.

Units are whatever a structure removes as one (see `structures`): weights, neurons. Their scores
come as a dict, leaf by leaf. Ranks are nested by construction: what was removed before ranks below
everything else, so a larger count always removes a superset, whatever the scores have become.
"""

from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.types import Array, Key

Units: TypeAlias = dict[str, Array]


def joint_ranks(
    scores: Units, keep: Units, groups: Array, key: Key, *, floor: int = 0, subset: float = 0.0
) -> Units:
    """Position of every unit in the order of removal, within its group, from 0.

    The leaves of a group compete. The `floor` best units of every leaf come last of their group:
    a count that leaves `floor` units to every leaf cannot touch them.

    Args:
        scores: `[n_leaf]` each; higher = keep; any real numbers.
        keep: bool; what is False was removed before and comes first.
        groups: int `[leaves]` below the number of leaves, may be traced.
        key: breaks ties at random, so that equal scores do not empty a row; consumed.
        floor: units of every leaf that come last.
        subset: the lowest fraction of what is left goes in random order (micro-pruning M3).

    Returns:
        int32 `[n_leaf]` each.
    """
    sizes = [x.size for x in scores.values()]
    leaf = jnp.asarray(np.repeat(np.arange(len(sizes)), sizes))
    group = jnp.asarray(groups)[leaf]
    score, kept = (jnp.concatenate(list(x.values())) for x in (scores, keep))
    key_tie, key_subset = jax.random.split(key)
    tie = jax.random.uniform(key_tie, score.shape)
    order = jnp.lexsort((tie, score, kept, group))  # the last key decides first

    size = jax.ops.segment_sum(jnp.asarray(sizes), jnp.asarray(groups), len(sizes))
    start = jnp.cumsum(size) - size  # of every group in the order
    if subset:
        order = _shuffle_lowest(order, group, kept, size, start, subset, key_subset)

    group, leaf = group[order], leaf[order]
    position = jnp.arange(score.size) - start[group]
    if floor:
        of_leaf = leaf[:, None] == jnp.arange(len(sizes))
        from_the_end = jnp.cumsum(of_leaf[::-1], axis=0)[::-1]  # units of each leaf from here on
        last = jnp.take_along_axis(from_the_end, leaf[:, None], axis=1)[:, 0] <= floor
        so_far = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(last, dtype=jnp.int32)])
        before = so_far[:-1] - so_far[start[group]]
        in_group = so_far[start + size] - so_far[start]
        position = jnp.where(last, (size - in_group)[group] + before, position - before)
    rank = jnp.zeros(score.size, jnp.int32).at[order].set(position.astype(jnp.int32))
    parts = jnp.split(rank, np.cumsum(sizes)[:-1])
    return dict(zip(scores, parts, strict=True))


def row_ranks(scores: Units, keep: Units, key: Key) -> Units:
    """Position of every unit within its row, `[..., k]` each: rows do not compete."""
    ranks = {}
    for i, (name, score) in enumerate(scores.items()):
        tie = jax.random.uniform(jax.random.fold_in(key, i), score.shape)
        order = jnp.lexsort((tie, score, keep[name]), axis=-1)
        ranks[name] = jnp.argsort(order, axis=-1).astype(jnp.int32)
    return ranks


def kept(ranks: Units, groups: Array, counts: Array) -> Units:
    """Whether every unit stays when the first `counts[g]` of each group g go, `counts` traced.

    Args:
        ranks: of the units; within a row the count is per row.
        groups: int `[leaves]`.
        counts: int `[leaves]`, by group.
    """
    counts = jnp.asarray(counts)
    return {name: rank >= counts[groups[i]] for i, (name, rank) in enumerate(ranks.items())}


def _shuffle_lowest(order, group, keep, size, start, subset: float, key: Key) -> Array:
    """The order with the lowest `subset` of what is left of every group in random order."""
    removed = jax.ops.segment_sum((~keep).astype(jnp.int32), group, len(size))
    group = group[order]
    position = jnp.arange(order.size) - start[group]
    width = jnp.ceil(subset * (size - removed)).astype(jnp.int32)
    inside = (position >= removed[group]) & (position < (removed + width)[group])
    draw = jax.random.uniform(key, order.shape)
    bucket = jnp.where(inside, removed[group], position)
    return order[jnp.lexsort((jnp.where(inside, draw, 0.0), bucket, group))]
