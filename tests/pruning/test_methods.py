"""`prune`: axes, keys, exact counts, and the contracts of the score and method registries."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.families import InputError
from jaxprune.policy import init_policy
from jaxprune.pruning import methods
from jaxprune.pruning.allocation import ALLOCATIONS
from jaxprune.pruning.masks import dense, masks_from_ranks, ranks, sparsity_of
from jaxprune.pruning.methods import METHODS, allocate, prune
from jaxprune.pruning.schedules import SCHEDULES
from jaxprune.pruning.scores import SCORES

SIZES = (40, 48, 18)
N = sum(SIZES)
LEVELS = (0.0, 0.1, 0.5, 0.9)
AFTER_TRAINING = [name for name, method in METHODS.items() if method.schedule is None]


@cache
def agents(*shape: int):
    """Different policies with leading axes `shape`."""
    keys = jax.random.split(jax.random.key(0), shape)
    make = lambda key: init_policy(key, 5, 3, hidden=(8, 6))  # noqa: E731
    for _ in shape:
        make = jax.vmap(make)
    return make(keys)


def clones(count: int):
    """The same policy `count` times."""
    return jax.tree.map(lambda x: jnp.stack([x] * count), agents())


def kernels(masks) -> np.ndarray:
    """The actor's kernels, flat, `[..., N]`."""
    leaves = [np.asarray(masks.actor[f"layer_{i}"]["kernel"]) for i in range(3)]
    return np.concatenate([x.reshape(*x.shape[:-2], -1) for x in leaves], axis=-1)


def assert_same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert np.array_equal(x, y)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
@pytest.mark.parametrize("sparsity", [0.5, LEVELS])
def test_axes(shape, sparsity):
    policy = agents(*shape)
    masks = prune(policy, sparsity=sparsity)
    assert jax.tree.structure(masks) == jax.tree.structure(policy.params)
    levels = () if isinstance(sparsity, float) else (len(sparsity),)
    for mask, leaf in zip(jax.tree.leaves(masks), jax.tree.leaves(policy.params), strict=True):
        assert mask.shape == (*shape, *levels, *leaf.shape[len(shape) :])
        assert mask.dtype == bool


@pytest.mark.parametrize("sparsity", [0, 0.5, np.float64(0.5), np.array(LEVELS), list(LEVELS)])
def test_sparsity_is_a_number_or_a_sequence(sparsity):
    scalar = np.ndim(sparsity) == 0
    expected = jax.vmap(sparsity_of)(prune(agents(), sparsity=np.atleast_1d(sparsity)))
    masks = prune(agents(), sparsity=sparsity)
    achieved = sparsity_of(masks)[None] if scalar else jax.vmap(sparsity_of)(masks)
    assert np.array_equal(achieved, expected)


def test_magnitude_in_a_batch_is_plain_numpy_per_agent():
    policy = agents(2, 3)
    weights = [np.asarray(policy.params.actor[f"layer_{i}"]["kernel"]) for i in range(3)]
    for allocation in ALLOCATIONS:
        masks = prune(policy, "magnitude", LEVELS, allocation)
        for agent in np.ndindex(2, 3):
            size = [np.abs(w[agent]) for w in weights]
            for s, level in enumerate(LEVELS):
                groups = [size] if allocation == "global" else [[x] for x in size]
                expected = []
                for group in groups:
                    flat = np.concatenate([x.ravel() for x in group])
                    # No ties in Gaussian weights: keep what is above the k-th smallest.
                    k = round(level * flat.size)
                    expected.append(flat > np.sort(flat)[k - 1] if k else flat >= 0)
                assert np.array_equal(kernels(masks)[(*agent, s)], np.concatenate(expected))


def test_global_and_uniform_differ():
    """The last kernel of a fresh policy is 100 times smaller: global removes it first."""
    policy = agents()
    last = {a: prune(policy, "magnitude", 0.1, a).actor["layer_2"]["kernel"] for a in ALLOCATIONS}
    assert np.sum(~last["global"]) == 11  # round(10.6), all of them here
    assert np.sum(~last["uniform"]) == 2  # round(1.8)


def test_agent_i_alone_is_agent_i_of_the_batch():
    policy, key = clones(6), jax.random.key(7)
    batch = jax.tree.map(lambda x: x.reshape(2, 3, *x.shape[1:]), policy)
    for method in ("random", "magnitude"):
        masks = prune(batch, method, LEVELS, key=key)
        for i in range(6):
            params = jax.tree.map(lambda x, i=i: x[i], policy.params)
            key_score, key_tie = jax.random.split(jax.random.fold_in(key, i))
            scores = SCORES[METHODS[method].score](params, None, key_score)
            rank = ranks(scores, (0, 0, 0), key_tie, old=dense(params))
            for s, level in enumerate(LEVELS):
                alone = masks_from_ranks(rank, (0, 0, 0), jnp.array([round(level * N)]))
                assert_same(alone, jax.tree.map(lambda m, i=i, s=s: m[i // 3, i % 3, s], masks))


def test_random_differs_between_agents_and_keys():
    masks = kernels(prune(clones(8), "random", 0.5, key=jax.random.key(1)))
    assert len(np.unique(masks, axis=0)) == 8
    other = kernels(prune(clones(8), "random", 0.5, key=jax.random.key(2)))
    assert not np.array_equal(masks, other)
    assert_same(
        prune(clones(2), "random", 0.5), prune(clones(2), "random", 0.5, key=jax.random.key(0))
    )


def test_random_does_not_look_at_the_weights():
    policy = agents()
    scaled = jax.tree.map(lambda x: -3 * x, policy)
    assert_same(prune(policy, "random", LEVELS), prune(scaled, "random", LEVELS))


def test_none_keeps_everything_and_ignores_the_sparsity():
    masks = prune(agents(2), "none", LEVELS)
    assert all(m.all() for m in jax.tree.leaves(masks))
    assert kernels(masks).shape == (2, len(LEVELS), N)
    assert kernels(prune(agents(), "none", 0.9)).all()


def test_a_grid_of_the_same_length_compiles_nothing():
    policy = agents(2)
    prune(policy, sparsity=[0.1, 0.2, 0.3])
    before = methods._masks._cache_size()
    for start in range(10):
        prune(policy, sparsity=[start / 100, 0.5, 0.9], key=jax.random.key(start))
    assert methods._masks._cache_size() == before


def test_micro_is_a_training_method_and_says_what_to_do():
    with pytest.raises(InputError, match="during training") as error:
        prune(agents(), "micro", 0.5)
    assert "prune_counts" in str(error.value) and "'magnitude'" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "magnitud"}, "did you mean 'magnitude'"),
        ({"allocation": "globl"}, "did you mean 'global'"),
        ({"sparsity": 1.0}, r"outside \[0, 1\)"),
        ({"sparsity": [0.5, -0.1]}, r"outside \[0, 1\)"),
        ({"sparsity": [0.5, float("nan")]}, r"outside \[0, 1\)"),
    ],
)
def test_input_errors(arguments, message):
    with pytest.raises(InputError, match=message):
        prune(agents(), **arguments)


def test_allocate_counts_one_agent_whatever_the_batch():
    for shape in ((), (3,), (2, 3)):
        plans = allocate(agents(*shape).params, "uniform", [0.5, 0.9])
        assert [plan.counts for plan in plans] == [(20, 24, 9), (36, 43, 16)]


@pytest.mark.parametrize("name", SCORES)
def test_score_contract(name):
    """Real numbers, one per parameter; a function of its arguments; `vmap` is the loop."""
    params, key = agents(3).params, jax.random.key(0)
    one = jax.tree.map(lambda x: x[1], params)
    scores = SCORES[name](one, None, key)
    assert jax.tree.structure(scores) == jax.tree.structure(one)
    for score, leaf in zip(jax.tree.leaves(scores), jax.tree.leaves(one), strict=True):
        assert score.shape == leaf.shape and jnp.issubdtype(score.dtype, jnp.floating)
        assert np.all(np.isfinite(score))
    assert_same(scores, SCORES[name](one, None, key))
    keys = jax.random.split(key, 3)
    batch = jax.vmap(lambda p, k: SCORES[name](p, None, k))(params, keys)
    alone = SCORES[name](one, None, keys[1])
    assert_same(alone, jax.tree.map(lambda x: x[1], batch))


def test_score_values():
    params = agents().params
    constant = SCORES["constant"](params, None, jax.random.key(0))
    assert all(np.all(x == 0) for x in jax.tree.leaves(constant))
    assert_same(SCORES["magnitude"](params, None, jax.random.key(0)), jax.tree.map(abs, params))
    draws = SCORES["random"](params, None, jax.random.key(0))
    flat = np.concatenate([np.ravel(x) for x in jax.tree.leaves(draws)])
    assert np.all((flat >= 0) & (flat < 1))
    assert len(np.unique(flat)) > 0.99 * flat.size  # no leaf repeats another


def test_the_neutral_members_come_first():
    assert next(iter(SCORES)) == "constant"
    assert next(iter(METHODS)) == "none"


@pytest.mark.parametrize("name", METHODS)
def test_methods_are_made_of_registered_parts(name):
    assert METHODS[name].score in SCORES
    assert METHODS[name].schedule is None or METHODS[name].schedule in SCHEDULES


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@pytest.mark.parametrize("name", AFTER_TRAINING)
def test_method_contract(name, allocation):
    """Exact counts, nested, a function of the key, and only the actor's kernels are touched."""
    policy, key = agents(3), jax.random.key(5)
    masks = prune(policy, name, LEVELS, allocation, key)
    assert_same(masks, prune(policy, name, LEVELS, allocation, key))
    plans = allocate(policy.params, allocation, LEVELS)
    removed = [0 if name == "none" else sum(plan.counts) for plan in plans]
    keep = kernels(masks)
    assert np.array_equal(np.sum(~keep, axis=-1), [removed] * 3)
    assert np.all(keep[:, 1:] <= keep[:, :-1])
    for layer in masks.actor.values():
        assert layer["bias"].all()
    assert all(m.all() for m in jax.tree.leaves((masks.critic, masks.log_std)))
    # The same masks one level at a time: nothing depends on the rest of the grid.
    for s, level in enumerate(LEVELS):
        alone = prune(policy, name, level, allocation, key)
        assert_same(alone, jax.tree.map(lambda m, s=s: m[:, s], masks))


def test_a_categorical_policy_has_no_log_std_and_prunes_all_the_same():
    policy = init_policy(jax.random.key(0), 5, 3, discrete=True, hidden=(8, 6))
    masks = prune(policy, sparsity=[0.5])
    assert masks.log_std.shape == (1, 0)
    assert np.sum(~kernels(masks)) == N // 2
