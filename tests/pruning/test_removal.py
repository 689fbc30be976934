"""Every score, structure and allocation: exact counts at every event, nested, no more."""

from fractions import Fraction
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.pruning import (
    ALLOCATIONS,
    SCORES,
    Method,
    Scope,
    dense,
    find_method,
    make_target,
    mask_policy,
)
from jaxprune.pruning.allocation import exact
from jaxprune.pruning.removal import next_masks
from jaxprune.pruning.scope import named_leaves, prunable_shapes
from jaxprune.pruning.structures import unit_share
from tests.batches import random_batch
from tests.policies import drawn_policy, stacked

POLICY = drawn_policy(8, 3, (16, 8))
SHAPES = prunable_shapes(POLICY.params)
GRID = [round(0.05 * i, 2) for i in range(20)] + [0.99]
# With an empty leaf allowed every sparsity can be reached, however small the layers.
SCOPE = Scope(min_weights=0)
BATCH = random_batch(POLICY, minibatches=2, rows=8)
KEY = jax.random.key(3)


@cache
def program(method: Method):
    """`(policy, masks, target, key) -> masks`."""
    return jax.jit(lambda p, m, t, k: next_masks(method, SCOPE, p, m, BATCH, t, k, drop=0.0))


def kernels(masks) -> dict[str, np.ndarray]:
    return {name: np.asarray(leaf) for name, leaf in named_leaves(masks) if name in SHAPES}


def moved(policy, seed: int):
    """A policy whose weights a gradient step has changed: no score stays the same."""
    rng = np.random.default_rng(seed)
    step = lambda w: np.asarray(w) + 0.1 * rng.standard_normal(w.shape, "float32")  # noqa: E731
    return policy.replace(params=jax.tree.map(step, policy.params))


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@pytest.mark.parametrize("score", SCORES)
def test_counts_are_exact_and_masks_nest_whatever_the_score(score, allocation):
    method, policy, masks = Method(score, "linear"), POLICY, dense(POLICY.params)
    for event, sparsity in enumerate(GRID):
        target = make_target(method, policy.params, SCOPE, allocation, sparsity)
        if score == "constant":  # the neutral member removes nothing, whatever it is asked
            assert not target.counts.any()
        before = kernels(masks)
        policy = mask_policy(moved(policy, event), masks)
        masks = program(method)(policy, masks, target, jax.random.fold_in(KEY, event))
        gone = {name: int((~x).sum()) for name, x in kernels(masks).items()}
        by_group = np.zeros(len(SHAPES), int)
        np.add.at(by_group, target.groups, list(gone.values()))
        assert by_group.tolist() == target.counts.tolist()
        assert all(np.all(x <= before[name]) for name, x in kernels(masks).items())
        assert all(np.all(leaf) for name, leaf in named_leaves(masks) if name not in SHAPES)


@pytest.mark.parametrize("allocation", ["uniform", "erk"])
@pytest.mark.parametrize(("structure", "size"), [("outputs", None), ("n_of_4", 4), ("n_of_8", 8)])
def test_every_row_loses_the_same(structure, size, allocation):
    method, masks = Method("magnitude", "linear", structure), dense(POLICY.params)
    for sparsity in GRID:
        target = make_target(method, POLICY.params, SCOPE, allocation, sparsity)
        before, masks = kernels(masks), program(method)(POLICY, masks, target, KEY)
        for (name, mask), count in zip(kernels(masks).items(), target.counts, strict=True):
            rows = mask.T.reshape(-1, size or mask.shape[0])
            assert np.all((~rows).sum(1) == count)
            assert np.all(mask <= before[name])
    assert target.counts.tolist() == [round(exact(0.99) * (size or n)) for n in (8, 16, 8)] or (
        allocation == "erk"
    )


@pytest.mark.parametrize("allocation", ["global", "uniform"])
def test_neurons_go_with_all_their_weights(allocation):
    """What is left is a smaller dense network, as near to the sparsity as whole units allow."""
    method, masks = Method("magnitude", "linear", "neurons"), dense(POLICY.params)
    total = sum(x.size for x in kernels(masks).values())
    for sparsity in GRID:
        target = make_target(method, POLICY.params, SCOPE, allocation, sparsity)
        before, masks = kernels(masks), program(method)(POLICY, masks, target, KEY)
        first, second, last = kernels(masks).values()
        units = (first.any(0), second.any(0) | last.any(1))
        if all(x.any() for x in units):  # an empty layer leaves nothing to tell units by
            assert np.array_equal(first, np.broadcast_to(units[0], first.shape))
            assert np.array_equal(second, units[0][:, None] & units[1])
            assert np.array_equal(last, np.broadcast_to(units[1][:, None], last.shape))
            assert sum(int((~x).sum()) for x in units) == target.counts.sum()
        assert all(np.all(x <= before[name]) for name, x in kernels(masks).items())
        misses = []
        for share in [unit_share(SHAPES, exact(sparsity)), *(Fraction(u, 16) for u in range(16))]:
            a, b = (n - round(share * n) for n in (16, 8))
            misses.append(abs((8 * a + a * b + 3 * b) / total - (1 - sparsity)))
        assert misses[0] == min(misses)


def test_rounds_remove_exactly_what_is_asked_and_score_again():
    """SynFlow in 100 rounds: exact, and not what a single round removes."""
    often, once = find_method("synflow"), Method("synflow", "at_start")
    masks = dense(POLICY.params)
    target = make_target(often, POLICY.params, SCOPE, "global", 0.8)
    many, one = (program(m)(POLICY, masks, target, KEY) for m in (often, once))
    assert sum((~x).sum() for x in kernels(many).values()) == target.counts[0]
    assert sum((~x).sum() for x in kernels(one).values()) == target.counts[0]
    assert any(np.any(x != kernels(one)[name]) for name, x in kernels(many).items())
    # Layer collapse is what the rounds are for: every layer keeps a path.
    assert all(x.any() for x in kernels(many).values())


@pytest.mark.parametrize("regrow", ["random", "gradient"])
def test_regrowth_exchanges_the_smallest_weights_for_others(regrow):
    method = Method("magnitude", "at_start", regrow=regrow)
    target = make_target(method, POLICY.params, SCOPE, "erk", 0.8)
    step = jax.jit(lambda p, m, d: next_masks(method, SCOPE, p, m, BATCH, target, KEY, drop=d))
    masks = step(POLICY, dense(POLICY.params), 0.0)
    policy = mask_policy(POLICY, masks)
    same = step(policy, masks, 0.0)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), masks, same))
    new = step(policy, masks, 0.3)
    for (name, old), count in zip(kernels(masks).items(), target.counts, strict=True):
        now, weights = kernels(new)[name], np.abs(kernels(policy.params)[name])
        assert (~now).sum() == (~old).sum() == count  # none more, none fewer
        left, kept = old & ~now, old & now
        exchanged = round(0.3 * int(old.sum()))
        assert 0 < (now & ~old).sum() == left.sum() <= exchanged
        if left.any():
            assert weights[left].max() <= np.sort(weights[kept])[exchanged - left.sum()]


def test_the_gradient_decides_where_rigl_grows():
    """Of what it may grow, RigL takes the largest gradients."""
    from jaxprune.pruning.scores import dense_gradient

    method = Method("magnitude", "at_start", regrow="gradient")
    target = make_target(method, POLICY.params, SCOPE, "uniform", 0.8)
    step = jax.jit(lambda p, m, d: next_masks(method, SCOPE, p, m, BATCH, target, KEY, drop=d))
    masks = step(POLICY, dense(POLICY.params), 0.0)
    policy = mask_policy(POLICY, masks)
    new = step(policy, masks, 0.5)
    gradient = kernels(jax.jit(dense_gradient)(policy, BATCH))
    for name, old in kernels(masks).items():
        grown, passed = kernels(new)[name] & ~old, ~kernels(new)[name]
        if grown.any():
            sizes = np.abs(gradient[name])
            assert sizes[grown].min() >= sizes[passed].max()


def test_random_masks_are_a_matter_of_the_key():
    """Seeds have keys of their own: a random arm must not have one mask in every seed."""
    method = Method("random", "at_start")
    target = make_target(method, POLICY.params, SCOPE, "global", 0.5)
    masks = [
        program(method)(POLICY, dense(POLICY.params), target, jax.random.key(i)) for i in (0, 0, 1)
    ]
    first, again, other = (np.concatenate([x.ravel() for x in kernels(m).values()]) for m in masks)
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_vmap_over_sparsities_is_the_loop():
    method = Method("saliency", "linear")
    targets = [make_target(method, POLICY.params, SCOPE, "uniform", s) for s in GRID]
    step = partial(program(method), POLICY, dense(POLICY.params))
    together = jax.vmap(lambda t: step(t, KEY))(stacked(*targets))
    for i, target in enumerate(targets):
        one = kernels(step(target, KEY))
        assert all(np.array_equal(x[i], one[name]) for name, x in kernels(together).items())


def test_removed_weights_become_plus_zero_and_kept_ones_keep_their_bits():
    odd = jnp.array([-0.0, jnp.nan, jnp.inf, -jnp.inf, -1.5, 1e-42, 0.0, 2.0])
    policy = POLICY.replace(params=POLICY.params._replace(log_std=odd))
    nothing = dense(policy.params)._replace(log_std=jnp.zeros(8, bool))
    removed = np.asarray(mask_policy(policy, nothing).params.log_std)
    assert removed.tobytes() == np.zeros(8, np.float32).tobytes()
    kept = np.asarray(mask_policy(policy, dense(policy.params)).params.log_std)
    assert kept.tobytes() == np.asarray(odd).tobytes()
    assert mask_policy(policy, None) is policy
