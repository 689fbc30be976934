"""One event of pruning: from a masked policy to its next masks. Pure, for one agent."""

import jax
import jax.numpy as jnp

from jaxprune.pruning.masks import mask_policy
from jaxprune.pruning.methods import Method, Target
from jaxprune.pruning.ranking import Units, joint_ranks, kept, row_ranks
from jaxprune.pruning.scope import Scope
from jaxprune.pruning.scores import SCORES, Batch, dense_gradient
from jaxprune.pruning.structures import STRUCTURES
from jaxprune.types import AnyArray, Array, Key, Masks, Params, Policy


def next_masks(
    method: Method,
    scope: Scope,
    policy: Policy,
    masks: Masks,
    batch: Batch | None,
    target: Target,
    key: Key,
    drop: Array | float = 0.0,
) -> Masks:
    """The masks after an event.

    Without regrowth they are a subset of `masks`, and what their target says is gone, exactly.

    Args:
        method: of pruning.
        scope: which weights may go.
        policy: with `masks` applied.
        masks: so far.
        batch: what data-driven scores look at.
        target: may be traced.
        key: draws random scores and breaks ties; consumed.
        drop: fraction of the kept weights to exchange, if the method regrows.
    """
    if method.regrow is not None:
        return _exchanged(method, scope, policy, masks, batch, target, key, drop)
    if method.rounds == 1:
        rank = rank_units(method, scope, policy, masks, batch, target.groups, key)
        return masks_at(method, scope, policy.params, rank, target)

    def step(masks: Masks, number: Array) -> tuple[Masks, None]:
        counts = _on_the_way(method, scope, policy.params, target, number)
        rank = rank_units(
            method,
            scope,
            mask_policy(policy, masks),
            masks,
            batch,
            target.groups,
            jax.random.fold_in(key, number),
        )
        return masks_at(method, scope, policy.params, rank, target._replace(counts=counts)), None

    return jax.lax.scan(step, masks, jnp.arange(1, method.rounds + 1))[0]


def rank_units(
    method: Method,
    scope: Scope,
    policy: Policy,
    masks: Masks,
    batch: Batch | None,
    groups: AnyArray,
    key: Key,
) -> Units:
    """The order in which the units of a masked policy go; what is gone comes first.

    Args are those of `next_masks`; `groups` as in `Target`.
    """
    structure, prunable = STRUCTURES[method.structure], scope.prunable(policy.params)
    key_score, key_rank = jax.random.split(key)
    scores = structure.scores(SCORES[method.score].score(policy, batch, key_score), prunable)
    keep = structure.keep(masks, prunable)
    if not structure.joint:
        return row_ranks(scores, keep, key_rank)
    floor = scope.min_weights
    return joint_ranks(scores, keep, groups, key_rank, floor=floor, subset=method.subset)


def masks_at(method: Method, scope: Scope, params: Params, rank: Units, target: Target) -> Masks:
    """The masks that a ranking gives for a target, which may be traced."""
    units = kept(rank, jnp.asarray(target.groups), target.counts)
    return STRUCTURES[method.structure].masks(units, params, scope.prunable(params))


def _exchanged(
    method: Method,
    scope: Scope,
    policy: Policy,
    masks: Masks,
    batch: Batch | None,
    target: Target,
    key: Key,
    drop: Array | float,
) -> Masks:
    """The smallest `drop` of the kept weights for as many others, which start at 0.

    SET grows at random, RigL where the gradient of the dense loss is largest. What was dropped may
    come back, with its value. Which weights are kept at first is decided by the method's score.

    Source: Mocanu et al. 2018 (SET, arXiv 1707.04780), Evci et al. 2020 (RigL, arXiv 1911.11134).
    """
    structure, prunable = STRUCTURES[method.structure], scope.prunable(policy.params)
    key_drop, key_grow, key_tie = jax.random.split(key, 3)
    rank = rank_units(method, scope, policy, masks, batch, target.groups, key_drop)
    groups, counts = jnp.asarray(target.groups), jnp.asarray(target.counts)
    size = jax.ops.segment_sum(jnp.asarray([x.size for x in rank.values()]), groups, len(rank))
    dropped = jnp.round(drop * (size - counts)).astype(jnp.int32)
    staying = kept(rank, groups, counts + dropped)

    if method.regrow == "random":
        growth = SCORES["random"].score(policy, batch, key_grow)
    else:
        assert batch is not None  # Method.needs_data
        growth = jax.tree.map(jnp.abs, dense_gradient(policy, batch))
    growth = structure.scores(growth, prunable)
    growth = {name: jnp.where(staying[name], jnp.inf, x) for name, x in growth.items()}
    everything = {name: jnp.ones_like(x) for name, x in staying.items()}
    rank = joint_ranks(growth, everything, groups, key_tie, floor=scope.min_weights)
    return masks_at(method, scope, policy.params, rank, target)


def _on_the_way(
    method: Method, scope: Scope, params: Params, target: Target, number: Array
) -> Array:
    """Counts after round k of K, when every round removes the same fraction of what is left."""
    structure, prunable = STRUCTURES[method.structure], scope.prunable(params)
    units = structure.scores(params, prunable)
    counts, groups = jnp.asarray(target.counts), jnp.asarray(target.groups)
    sizes = [x.size if structure.joint else x.shape[-1] for x in units.values()]
    size = jax.ops.segment_sum(jnp.asarray(sizes), groups, len(sizes))
    sparsity = counts / jnp.maximum(size, 1)
    part = (1 - (1 - sparsity) ** (number / method.rounds)) / jnp.maximum(sparsity, 1e-9)
    return jnp.where(number == method.rounds, counts, jnp.round(part * counts).astype(jnp.int32))
