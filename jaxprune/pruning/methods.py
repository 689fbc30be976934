"""Pruning methods by name, and `prune`: masks for a policy that is already trained."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.families import InputError, lookup
from jaxprune.pruning.allocation import ALLOCATIONS, Allocation
from jaxprune.pruning.masks import dense, masks_from_ranks, prunable_sizes, ranks
from jaxprune.pruning.scores import SCORES
from jaxprune.types import Array, Key, Masks, Params, Policy


@dataclass(frozen=True)
class Method:
    """What decides which weights go, and when."""

    score: str
    """A key of `SCORES`; the learner, which prunes during training, ranks by magnitude."""
    schedule: str | None
    """A key of `SCHEDULES` for pruning during training; None prunes once, after it."""


METHODS = {
    "none": Method("constant", None),
    "magnitude": Method("magnitude", None),
    "random": Method("random", None),
    "micro": Method("magnitude", "linear"),
}


def prune(
    policy: Policy,
    method: str = "magnitude",
    sparsity: float | Sequence[float] = 0.5,
    allocation: str = "global",
    key: Key | None = None,
) -> Masks:
    """One-shot masks for the actor's kernels.

    Exactly `round(sparsity * n)` weights are removed (globally, or of each kernel for "uniform"),
    lowest scores first. The masks of one call are nested: a higher sparsity removes a superset.

    Args:
        policy: leading axes `[...]` are agents.
        method: "none", "magnitude" or "random"; "none" ignores the sparsity.
        sparsity: fraction of the prunable weights to remove, in [0, 1); a sequence of S adds an
            axis after those of the policy.
        allocation: "global" or "uniform".
        key: draws the random scores and breaks ties; default `jax.random.key(0)`. Agent i uses
            `fold_in(key, i)`, i counted in row-major order.

    Returns:
        Boolean trees of the shapes of the parameters, `[..., S, *shape]` or `[..., *shape]`.

    Raises:
        InputError: unknown method or allocation, sparsity outside [0, 1), or a method that prunes
            during training.
    """
    chosen = lookup(METHODS, method, "pruning method")
    if chosen.schedule is not None:
        raise InputError(
            f"pruning method {method!r} removes weights during training: pass prune_counts to "
            "the learner (see jaxprune.ppo), or use 'magnitude' on a trained policy"
        )
    levels = list(np.atleast_1d(np.asarray(sparsity, object)))  # Fractions stay exact
    scalar = np.ndim(sparsity) == 0
    if not levels:
        raise InputError("sparsity is an empty sequence: give at least one value in [0, 1)")
    plans = allocate(policy.params, allocation, [0.0] * len(levels) if method == "none" else levels)
    counts = jnp.asarray([plan.counts for plan in plans], jnp.int32)  # [S, groups]

    batch = policy.params.log_std.shape[:-1]
    agents = math.prod(batch)
    keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(0) if key is None else key))(
        jnp.arange(agents)
    )
    params = jax.tree.map(lambda w: w.reshape(agents, *w.shape[len(batch) :]), policy.params)
    masks = _masks(params, keys, counts, score=chosen.score, groups=plans[0].groups)
    shape = batch if scalar else (*batch, len(levels))
    return jax.tree.map(lambda m: m.reshape(*shape, *m.shape[2:]), masks)


def allocate(params: Params, allocation: str, levels: Sequence[float]) -> list[Allocation]:
    """The exact counts of every sparsity in `levels` for the prunable leaves of one agent.

    Args:
        params: arrays or shapes; leading axes are agents.
        allocation: a key of `ALLOCATIONS`.
        levels: sparsities.

    Raises:
        InputError: unknown allocation, or a sparsity outside [0, 1).
    """
    rule = lookup(ALLOCATIONS, allocation, "allocation")
    agents = math.prod(params.log_std.shape[:-1])
    sizes = [size // agents for size in prunable_sizes(params).values()]
    return [rule(sizes, level) for level in levels]


@partial(jax.jit, static_argnames=("score", "groups"))
def _masks(params: Params, keys: Array, counts: Array, *, score: str, groups: tuple[int, ...]):
    """`[agents]` parameters and keys, `[S, groups]` counts -> masks `[agents, S]`."""

    def of_agent(params: Params, key: Key) -> Masks:
        key_score, key_tie = jax.random.split(key)
        scores = SCORES[score](params, None, key_score)
        rank = ranks(scores, groups, key_tie, old=dense(params))
        return jax.vmap(lambda c: masks_from_ranks(rank, groups, c))(counts)

    return jax.vmap(of_agent)(params, keys)
