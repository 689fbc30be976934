"""Masks from ranks: exact, nested, and nothing but the prunable leaves is touched."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune.policy import init_policy
from jaxprune.pruning.allocation import global_, uniform
from jaxprune.pruning.masks import (
    actor_kernels,
    all_kernels,
    apply_masks,
    dense,
    mask_policy,
    masks_from_ranks,
    prunable_sizes,
    ranks,
    sparsity_of,
)
from jaxprune.types import Params

POLICY = init_policy(jax.random.key(0), 5, 3, hidden=(8, 6))
PARAMS = POLICY.params
SIZES = (40, 48, 18)  # 5 x 8, 8 x 6 and 6 x 3
N = sum(SIZES)
GLOBAL = (0, 0, 0)
hypothesis_settings = settings(deadline=None, derandomize=True, max_examples=40)


def random_scores(seed: int, levels: int) -> Params:
    """Scores with only `levels` different values, negative ones included: many ties."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda w: jnp.asarray(rng.integers(-levels, levels, w.shape), jnp.float32), PARAMS
    )


@jax.jit
def global_ranks(scores: Params, key, old: Params) -> Params:
    return ranks(scores, GLOBAL, key, old=old)


@jax.jit
def global_masks(rank: Params, counts) -> Params:
    """`[C]` counts of one group -> masks `[C]`."""
    return jax.vmap(lambda c: masks_from_ranks(rank, GLOBAL, c[None]))(counts)


def kernels(tree: Params) -> np.ndarray:
    """The actor's kernels, flat, `[..., N]` with the leading axes of the tree."""
    leaves = [tree.actor[f"layer_{i}"]["kernel"] for i in range(3)]
    return np.concatenate([np.asarray(x).reshape(*x.shape[:-2], -1) for x in leaves], axis=-1)


def others(tree: Params) -> list:
    """Every leaf that is not a kernel of the actor."""
    biases = [layer["bias"] for layer in tree.actor.values()]
    return [*biases, *jax.tree.leaves(tree.critic), tree.log_std]


def test_dense_keeps_every_number():
    masks = dense(PARAMS)
    assert jax.tree.structure(masks) == jax.tree.structure(PARAMS)
    for mask, leaf in zip(jax.tree.leaves(masks), jax.tree.leaves(PARAMS), strict=True):
        assert mask.shape == leaf.shape and mask.dtype == bool and mask.all()
    assert mask_policy(POLICY, None) is POLICY
    same = mask_policy(POLICY, masks)
    for a, b in zip(jax.tree.leaves(same), jax.tree.leaves(POLICY), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_prunable_is_chosen_by_path():
    actor = [f"actor/layer_{i}/kernel" for i in range(3)]
    critic = [f"critic/layer_{i}/kernel" for i in range(3)]
    assert list(prunable_sizes(PARAMS)) == actor
    assert tuple(prunable_sizes(PARAMS).values()) == SIZES
    assert list(prunable_sizes(PARAMS, all_kernels)) == actor + critic


@given(st.integers(0, 2**31 - 1), st.integers(1, 50))
@hypothesis_settings
def test_every_count_is_met_exactly_and_the_masks_are_nested(seed, levels):
    rank = global_ranks(random_scores(seed, levels), jax.random.key(seed), dense(PARAMS))
    assert sorted(kernels(rank)) == list(range(N))  # a permutation
    keep = kernels(global_masks(rank, jnp.arange(N + 1)))
    assert np.array_equal(np.sum(~keep, axis=-1), np.arange(N + 1))
    assert np.all(keep[1:] <= keep[:-1])  # what is gone stays gone


@given(st.integers(0, 2**31 - 1), st.integers(1, 50), st.integers(0, N), st.integers(0, N))
@hypothesis_settings
def test_masks_stay_nested_when_the_scores_change(seed, levels, first, second):
    first, second = sorted((first, second))
    rank = global_ranks(random_scores(seed, levels), jax.random.key(1), dense(PARAMS))
    old = jax.tree.map(lambda m: m[0], global_masks(rank, jnp.array([first])))
    rank = global_ranks(random_scores(seed + 1, levels), jax.random.key(2), old)
    again, new = kernels(global_masks(rank, jnp.array([first, second])))
    assert np.array_equal(again, kernels(old))
    assert np.all(new <= kernels(old))
    assert np.sum(~new) == second


def test_what_is_removed_comes_first_whatever_its_score():
    """By hand: the removed weight has the best score, a kept one -inf; both must go before 0."""
    scores = jax.tree.map(jnp.zeros_like, PARAMS)
    scores.actor["layer_0"]["kernel"] = scores.actor["layer_0"]["kernel"].at[0, 0].set(jnp.inf)
    scores.actor["layer_1"]["kernel"] = scores.actor["layer_1"]["kernel"].at[0, 0].set(-jnp.inf)
    old = dense(PARAMS)
    old.actor["layer_0"]["kernel"] = old.actor["layer_0"]["kernel"].at[0, 0].set(False)
    rank = ranks(scores, GLOBAL, jax.random.key(0), old=old)
    assert rank.actor["layer_0"]["kernel"][0, 0] == 0
    assert rank.actor["layer_1"]["kernel"][0, 0] == 1


def test_lowest_scores_go_first():
    """Scores 0 .. N - 1 in a random order are their own ranks; signs and scale do not matter."""
    order = np.random.default_rng(0).permutation(N)
    parts = iter(np.split(order, np.cumsum(SIZES)[:-1]))
    scores = jax.tree.map(jnp.zeros_like, PARAMS)
    for i in range(3):
        shape = scores.actor[f"layer_{i}"]["kernel"].shape
        part = next(parts).reshape(shape)
        scores.actor[f"layer_{i}"]["kernel"] = jnp.asarray(part, jnp.float32)
    for transform in (lambda s: s, lambda s: s - 70, lambda s: 1e-30 * s):
        rank = ranks(jax.tree.map(transform, scores), GLOBAL, jax.random.key(0), old=dense(PARAMS))
        assert np.array_equal(kernels(rank), order)


def test_ties_are_broken_at_random():
    scores = jax.tree.map(jnp.zeros_like, PARAMS)
    keys = jax.random.split(jax.random.key(0), 200)
    rank = jax.vmap(lambda k: ranks(scores, GLOBAL, k, old=dense(PARAMS)))(keys)
    gone = kernels(rank) < N // 2
    assert np.all(gone.sum(axis=-1) == N // 2)
    assert len(np.unique(gone, axis=0)) == len(keys)
    # Each weight goes in half of the draws: binomial(200, 1/2) has a deviation of 7.1, and the
    # largest of 106 is within 5 of them.
    assert np.all(np.abs(gone.sum(axis=0) - 100) < 36)
    # An index tie-break would empty the first rows of the first kernel.
    first_kernel = gone[:, :40].reshape(-1, 5, 8)
    assert not np.any(first_kernel.all(axis=(0, 2)))


@pytest.mark.parametrize(
    ("prunable", "groups"), [(actor_kernels, (0, 0, 0)), (all_kernels, (0,) * 6)]
)
def test_only_prunable_leaves_are_touched(prunable, groups):
    scores = random_scores(0, 1000)
    total = sum(prunable_sizes(PARAMS, prunable).values())
    rank = ranks(scores, groups, jax.random.key(0), old=dense(PARAMS), prunable=prunable)
    masks = masks_from_ranks(rank, groups, jnp.array([total]), prunable)
    assert not kernels(masks).any()
    for mask, leaf, place in zip(others(masks), others(PARAMS), others(rank), strict=True):
        assert mask.shape == leaf.shape and mask.dtype == bool
        pruned = prunable is all_kernels and mask.ndim == 2  # the critic's kernels
        assert np.all(mask != pruned)
        assert pruned or np.all(place == -1)


def test_removed_entries_become_plus_zero_and_kept_ones_keep_their_bits():
    odd = jnp.array([-0.0, jnp.nan, jnp.inf, -jnp.inf, -1.5, 1e-42, 0.0, 2.0])
    params = replace(POLICY).params._replace(log_std=odd)
    masks = dense(params)._replace(log_std=jnp.zeros(8, bool))
    removed = np.asarray(apply_masks(params, masks).log_std)
    assert removed.tobytes() == np.zeros(8, np.float32).tobytes()
    kept = np.asarray(apply_masks(params, dense(params)).log_std)
    assert kept.tobytes() == np.asarray(odd).tobytes()


def magnitude_reference(leaves: list[np.ndarray], counts: list[int]) -> list[np.ndarray]:
    """Plain numpy: of each group of leaves, drop the `count` smallest |w|."""
    flat = np.concatenate([np.abs(leaf).ravel() for leaf in leaves])
    keep = np.ones(flat.size, bool)
    keep[np.argsort(flat, kind="stable")[: counts[0]]] = False
    ends = np.cumsum([leaf.size for leaf in leaves])[:-1]
    return [k.reshape(leaf.shape) for k, leaf in zip(np.split(keep, ends), leaves, strict=True)]


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_against_a_plain_numpy_reference(sparsity):
    weights = [np.asarray(PARAMS.actor[f"layer_{i}"]["kernel"]) for i in range(3)]
    scores = jax.tree.map(jnp.abs, PARAMS)
    for rule in (global_, uniform):
        plan = rule(SIZES, sparsity)
        rank = ranks(scores, plan.groups, jax.random.key(0), old=dense(PARAMS))
        masks = masks_from_ranks(rank, plan.groups, jnp.asarray(plan.counts))
        if rule is global_:
            expected = magnitude_reference(weights, [round(sparsity * N)])
        else:
            expected = [magnitude_reference([w], [round(sparsity * w.size)])[0] for w in weights]
        for i, reference in enumerate(expected):
            assert np.array_equal(masks.actor[f"layer_{i}"]["kernel"], reference)


def test_groups_are_ranked_apart():
    """Uniform: the last kernel (all tiny) loses its share only, and each group ranks from 0."""
    scores = jax.tree.map(jnp.abs, PARAMS)
    plan = uniform(SIZES, 0.5)
    rank = ranks(scores, plan.groups, jax.random.key(0), old=dense(PARAMS))
    for i, size in enumerate(SIZES):
        assert sorted(np.ravel(rank.actor[f"layer_{i}"]["kernel"])) == list(range(size))


def test_counts_are_data_one_trace_serves_every_sparsity():
    traces = []

    @jax.jit
    def masked(rank, counts):
        traces.append(1)
        return masks_from_ranks(rank, GLOBAL, counts)

    rank = global_ranks(jax.tree.map(jnp.abs, PARAMS), jax.random.key(0), dense(PARAMS))
    for count in range(N + 1):
        assert np.sum(~kernels(masked(rank, jnp.array([count])))) == count
    assert len(traces) == 1


def test_vmap_over_agents_is_the_loop():
    agents = [random_scores(seed, 3) for seed in range(4)]
    keys = jax.random.split(jax.random.key(0), 4)
    counts = jnp.array([[3], [50], [0], [N]])
    one = partial(ranks, groups=GLOBAL, old=dense(PARAMS))

    def masks_of(scores, key, count):
        return masks_from_ranks(one(scores, key=key), GLOBAL, count)

    stacked = jax.tree.map(lambda *x: jnp.stack(x), *agents)
    batch = kernels(jax.vmap(masks_of)(stacked, keys, counts))
    for i, scores in enumerate(agents):
        assert np.array_equal(batch[i], kernels(masks_of(scores, keys[i], counts[i])))


def test_sparsity_of_counts_prunable_weights_only():
    rank = global_ranks(jax.tree.map(jnp.abs, PARAMS), jax.random.key(0), dense(PARAMS))
    masks = global_masks(rank, jnp.arange(N + 1))
    achieved = jax.vmap(sparsity_of)(masks)
    np.testing.assert_allclose(achieved, np.arange(N + 1) / N, atol=1e-7)
    # The critic has 40 + 48 + 6 kernel entries more, none removed.
    with_critic = sparsity_of(jax.tree.map(lambda m: m[N], masks), all_kernels)
    np.testing.assert_allclose(with_critic, N / (N + 94), atol=1e-7)
