"""`prune`: masks for a policy that is already trained."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.pruning.masks import check_arrays, dense
from jaxprune.pruning.methods import Method, Target, find_method, make_target
from jaxprune.pruning.removal import masks_at, next_masks, rank_units
from jaxprune.pruning.scope import Scope
from jaxprune.pruning.scores import Batch
from jaxprune.types import AnyArray, Array, Key, Masks, Policy
from jaxprune.validation import SPARSITY, InputError, check_arguments


def prune(
    policy: Policy,
    method: str | Method = "magnitude",
    sparsity: Annotated[float | Sequence[float], SPARSITY] = 0.5,
    allocation: str = "global",
    key: Key | None = None,
    batch: Batch | None = None,
    scope: Scope | None = None,
) -> Masks:
    """One-shot masks of a trained policy.

    Exactly `round(sparsity * n)` units are removed (globally, or of each leaf), lowest scores
    first. The masks of one call are nested unless the method scores in rounds: a higher sparsity
    removes a superset.

    Args:
        policy: leading axes `[...]` are agents.
        method: a method that prunes after training, e.g. "magnitude", "random", "lamp", "wanda",
            or SCORE/after/STRUCTURE, or a `Method`; "none" ignores the sparsity.
        sparsity: fraction of the prunable weights to remove, in [0, 1); a sequence of S adds an
            axis after those of the policy.
        allocation: "global", "uniform" or "erk".
        key: draws the random scores and breaks ties; default `jax.random.key(0)`. Agent i uses
            `fold_in(key, i)`, i counted in row-major order.
        batch: on-policy data for the scores that need it, with the axes of the policy in front
            (`jaxprune.collect_batch`).
        scope: which weights may go; default: the kernels of the actor.

    Returns:
        Boolean trees of the shapes of the parameters, `[..., S, *shape]` or `[..., *shape]`.

    Raises:
        InputError: unknown method or allocation, sparsity outside [0, 1) or one that empties a
            layer, a method that prunes during training, or one that needs data and got none.
    """
    check_arguments(prune, locals())
    check_arrays(policy, None)
    chosen, scope = find_method(method), scope or Scope()
    if chosen.schedule is not None:
        raise InputError(
            f"pruning method {method!r} removes weights during training: train with it "
            "(see jaxprune.ppo), or use 'magnitude' on a trained policy"
        )
    if chosen.needs_data and batch is None:
        raise InputError(
            f"pruning method {method!r} looks at data: pass batch=jaxprune.collect_batch(env, "
            "policy), or use 'magnitude'"
        )
    scope.check()
    levels = list(np.atleast_1d(np.asarray(sparsity, object)))  # Fractions stay exact
    if not levels:
        raise InputError("sparsity is an empty sequence: give at least one value in [0, 1)")
    targets = [make_target(chosen, policy.params, scope, allocation, level) for level in levels]
    counts = np.asarray([target.counts for target in targets])  # [S, leaves]

    shape = policy.params.log_std.shape[:-1]
    agents = math.prod(shape)
    key = jax.random.key(0) if key is None else key
    flat = jax.tree.map(
        lambda x: jnp.reshape(x, (agents, *jnp.shape(x)[len(shape) :])),
        (policy, batch if chosen.needs_data else None),
    )
    masks = _masks(*flat, key, counts, targets[0].groups, method=chosen, scope=scope)
    shape = shape if np.ndim(sparsity) == 0 else (*shape, len(levels))
    return jax.tree.map(lambda m: m.reshape(*shape, *m.shape[2:]), masks)


@partial(jax.jit, static_argnames=("method", "scope"))
def _masks(
    policy: Policy,
    batch: Batch | None,
    key: Key,
    counts: AnyArray,
    groups: Array,
    *,
    method: Method,
    scope: Scope,
) -> Masks:
    """`[agents]` policies and batches, a key, `[S, leaves]` counts -> masks `[agents, S]`."""
    agents = jnp.arange(len(policy.params.log_std))
    keys = jax.vmap(partial(jax.random.fold_in, key))(agents)

    def of_agent(policy: Policy, batch: Batch | None, key: Key) -> Masks:
        start = dense(policy.params)
        if method.rounds > 1:
            at = lambda c: next_masks(  # noqa: E731
                method, scope, policy, start, batch, Target(groups, c), key
            )
        else:  # rank once, compare with every count
            rank = rank_units(method, scope, policy, start, batch, groups, key)
            at = lambda c: masks_at(method, scope, policy.params, rank, Target(groups, c))  # noqa: E731
        return jax.vmap(at)(counts)

    return jax.vmap(of_agent)(policy, batch, keys)
