"""`prune`: axes, keys, exact counts; names of methods, and what they refuse."""

from functools import cache, partial

import jax
import numpy as np
import pytest

from jaxprune.pruning import (
    ALLOCATIONS,
    METHODS,
    SCHEDULES,
    SCORES,
    STRUCTURES,
    Method,
    Scope,
    find_method,
    honoured,
    make_target,
    posthoc,
    prune,
    sparsity_of,
)
from jaxprune.pruning.scope import named_leaves
from jaxprune.validation import InputError
from tests.batches import random_batch
from tests.policies import drawn_agents, drawn_policy, stacked

SIZES = (40, 48, 18)
N = sum(SIZES)
LEVELS = (0.0, 0.1, 0.5, 0.9)
AFTER_TRAINING = [name for name, method in METHODS.items() if method.schedule is None]


@cache
def agents(*shape: int):
    """Different policies with leading axes `shape`, their last kernels small, in numpy."""
    policies = drawn_agents(shape, 5, 3, (8, 6))
    policies.params.actor["layer_2"]["kernel"][:] *= 1e-3
    return policies


def clones(count: int):
    """The same policy `count` times."""
    return stacked(*[agents()] * count)


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
    masks = jax.eval_shape(partial(prune, sparsity=sparsity), policy)
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
    for allocation in ("global", "uniform"):
        masks = prune(policy, "magnitude", LEVELS, allocation, scope=Scope(min_weights=0))
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


def test_a_method_may_be_an_object():
    policy = agents(2)
    own = prune(policy, Method("magnitude", structure="neurons"), 0.5)
    jax.tree.map(np.testing.assert_array_equal, own, prune(policy, "neurons", 0.5))
    with pytest.raises(InputError, match="unknown pruning score 'magnitud'"):
        prune(policy, Method("magnitud"), 0.5)


@pytest.mark.parametrize(
    ("method", "before", "during"),
    [
        ("magnitude", False, False),
        ("none", False, False),
        ("static", True, False),
        ("snip", True, False),
        ("set", True, True),
        ("rigl", True, True),
        ("micro", False, True),
        ("lottery", False, True),
    ],
)
def test_when_a_method_fires(method, before, during):
    fires = METHODS[method].fires
    assert (fires(before_training=True), fires(before_training=False)) == (before, during)


def test_global_and_uniform_differ():
    """The last kernel of these policies is 1000 times smaller: global removes it first."""
    policy = agents()
    last = {a: prune(policy, "magnitude", 0.1, a).actor["layer_2"]["kernel"] for a in ALLOCATIONS}
    assert np.sum(~last["global"]) == 11  # round(10.6), all of them here
    assert np.sum(~last["uniform"]) == 2  # round(1.8)
    assert np.sum(~last["erk"]) == 0  # the smallest layer stays dense


def test_the_last_weights_of_a_layer_stay():
    """At 0.9 the last, small kernel would be gone; min_weights says how much stays."""
    for least in (0, 1, 3):
        masks = prune(agents(), "magnitude", 0.9, scope=Scope(min_weights=least))
        assert np.sum(~kernels(masks)) == round(0.9 * N)
        assert np.sum(masks.actor["layer_2"]["kernel"]) == least


def test_equal_agents_of_a_batch_have_keys_of_their_own():
    """Agent i of a batch uses fold_in(key, i), so the same agent elsewhere draws differently."""
    policy, key = clones(6), jax.random.key(7)
    batch = jax.tree.map(lambda x: x.reshape(2, 3, *x.shape[1:]), policy)
    flat, square = jax.device_get([prune(x, "random", LEVELS, key=key) for x in (policy, batch)])
    assert_same(flat, jax.tree.map(lambda x: x.reshape(6, *x.shape[2:]), square))
    first = prune(jax.tree.map(lambda x: x[:1], policy), "random", LEVELS, key=key)
    assert_same(first, jax.tree.map(lambda x: x[:1], flat))


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
    before = posthoc._masks._cache_size()
    for start in range(10):
        prune(policy, sparsity=[start / 100, 0.5, 0.9], key=jax.random.key(start))
    assert posthoc._masks._cache_size() == before


def test_micro_is_a_training_method_and_says_what_to_do():
    with pytest.raises(InputError, match="during training") as error:
        prune(agents(), "micro", 0.5)
    assert "train with it" in str(error.value) and "'magnitude'" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "magnitud"}, "did you mean 'magnitude'"),
        ({"allocation": "globl"}, "did you mean 'global'"),
        ({"sparsity": 1.0}, r"outside \[0, 1\)"),
        ({"sparsity": [0.5, -0.1]}, r"outside \[0, 1\)"),
        ({"sparsity": [0.5, float("nan")]}, r"outside \[0, 1\)"),
        ({"sparsity": []}, "empty sequence"),
        ({"method": "fisher"}, "looks at data.*collect_batch"),
        ({"method": "n_of_4"}, "N:4 does not divide the 5 inputs of actor/layer_0/kernel"),
        (
            {
                "method": "magnitude/after/neurons",
                "scope": Scope(last_layer=False, first_layer=False),
            },
            "neurons need",
        ),
        ({"sparsity": 0.99}, "empties a layer.*min_weights"),
        ({"sparsity": 0.98, "allocation": "uniform"}, "empties a layer: it takes 104 of 106"),
        ({"method": "magnitude/after/outputs", "sparsity": 0.95}, "5 of 5 weights of a row"),
        ({"scope": Scope(networks="value")}, "actor, critic, both"),
        ({"scope": Scope(min_weights=-1)}, "min_weights -1"),
        ({"scope": Scope(layer_sparsity=(("actor/layer_9/kernel", 0.5),))}, "layer_9"),
        ({"scope": Scope(layer_sparsity=(("actor/layer_0/kernel", 1.0),))}, r"outside \[0, 1\)"),
    ],
)
def test_input_errors(arguments, message):
    with pytest.raises(InputError, match=message):
        prune(agents(), **arguments)


def test_targets_count_one_agent_whatever_the_batch():
    for shape in ((), (3,), (2, 3)):
        params = agents(*shape).params
        counts = [
            make_target(METHODS["magnitude"], params, Scope(), "uniform", s).counts.tolist()
            for s in (0.5, 0.9)
        ]
        assert counts == [[20, 24, 9], [36, 43, 16]]


def test_the_neutral_members_come_first():
    assert next(iter(SCORES)) == "constant"
    assert next(iter(METHODS)) == "none"
    assert next(iter(STRUCTURES)) == "weights"


@pytest.mark.parametrize("name", METHODS)
def test_methods_are_made_of_registered_parts(name):
    method = find_method(name)
    assert method.score in SCORES and method.structure in STRUCTURES
    assert method.schedule is None or method.schedule in SCHEDULES
    assert method.regrow in (None, "random", "gradient")
    # Monotone bounds promise something about masks of the same weights only.
    assert not (method.nested and (method.schedule or method.regrow or method.rewind))


def test_scores_schedules_and_structures_combine_by_name():
    assert find_method("lamp/cubic") == Method("lamp", "cubic")
    assert find_method("fisher/after/neurons") == Method("fisher", None, "neurons")
    assert find_method("magnitude/linear") == METHODS["micro"]
    assert find_method("synflow/at_start") == METHODS["synflow"]
    assert find_method("synflow/after").rounds == 100 and not find_method("synflow/after").nested
    assert find_method("synflow/linear").rounds == 1
    for score in SCORES:
        for schedule in SCHEDULES:
            if not (score == "movement" and schedule == "at_start"):
                assert find_method(f"{score}/{schedule}").schedule == schedule


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("magnitud", "did you mean 'magnitude'"),
        ("magnitud/linear", "unknown pruning score 'magnitud'"),
        ("magnitude/linera", "unknown pruning schedule 'linera'"),
        ("magnitude/linear/neuron", "unknown structure 'neuron'"),
        ("magnitude/linear/neurons/4", "4 parts: give SCORE/SCHEDULE/STRUCTURE"),
        ("movement/after", "accumulated during training"),
        ("movement/at_start", "accumulated during training"),
    ],
)
def test_a_name_that_is_none_says_what_is(name, message):
    with pytest.raises(InputError, match=message) as error:
        find_method(name)
    assert "\n" not in str(error.value)


def test_an_allocation_that_makes_no_sense_is_another_one():
    rows, neurons = METHODS["wanda"], METHODS["neurons"]
    assert [honoured(rows, a) for a in ALLOCATIONS] == ["uniform", "uniform", "erk"]
    assert [honoured(neurons, a) for a in ALLOCATIONS] == ["global", "uniform", "uniform"]
    assert [honoured(METHODS["magnitude"], a) for a in ALLOCATIONS] == list(ALLOCATIONS)


@pytest.mark.parametrize("name", AFTER_TRAINING)
def test_method_contract(name, allocation="global"):
    """Nested, a function of the key, one level at a time the same, and nothing else is touched."""
    policy, key, levels = agents(3), jax.random.key(5), (0.0, 0.25, 0.5)
    if name == "n_of_4":  # whose blocks have to divide the inputs
        policy = drawn_agents((3,), 4, 3, (8, 8))
    batch = jax.jit(jax.vmap(random_batch))(policy)
    masks = jax.device_get(prune(policy, name, levels, allocation, key, batch))
    assert_same(masks, prune(policy, name, levels, allocation, key, batch))
    keep = kernels(masks)
    assert np.all(keep[:, 1:] <= keep[:, :-1])
    assert keep[:, 0].all() and (name == "none") == keep.all()
    for layer in masks.actor.values():
        assert layer["bias"].all()
    assert all(m.all() for m in jax.tree.leaves((masks.critic, masks.log_std)))
    alone = jax.device_get(prune(policy, name, [levels[1]] * 3, allocation, key, batch))
    for i in range(3):
        assert_same(
            *(jax.tree.map(lambda m, at=at: m[:, at], x) for x, at in ((alone, i), (masks, 1)))
        )


@pytest.mark.parametrize(
    ("scope", "paths"),
    [
        (Scope(), ["actor/layer_0/kernel", "actor/layer_1/kernel", "actor/layer_2/kernel"]),
        (Scope(first_layer=False), ["actor/layer_1/kernel", "actor/layer_2/kernel"]),
        (Scope(last_layer=False), ["actor/layer_0/kernel", "actor/layer_1/kernel"]),
        (
            Scope(networks="critic", first_layer=False),
            ["critic/layer_1/kernel", "critic/layer_2/kernel"],
        ),
        (
            Scope(networks="both", first_layer=False, last_layer=False, biases=True),
            [f"{net}/layer_1/{leaf}" for net in ("actor", "critic") for leaf in ("bias", "kernel")],
        ),
    ],
)
def test_a_scope_is_all_that_is_touched(scope, paths):
    policy = agents()
    masks = prune(policy, "random", 0.5, "uniform", scope=scope)
    for name, leaf in named_leaves(masks):
        removed = int((~leaf).sum())
        assert removed == (round(leaf.size / 2) if name in paths else 0)


def test_a_layer_may_have_a_sparsity_of_its_own():
    scope = Scope(layer_sparsity=(("actor/layer_0/kernel", 0.8),))
    masks = prune(agents(), "magnitude", (0.0, 0.1, 0.5), "global", scope=scope)
    gone = [(~masks.actor[f"layer_{i}"]["kernel"]).sum((1, 2)) for i in range(3)]
    assert gone[0].tolist() == [0, 32, 32]  # nothing anywhere at 0
    assert (gone[1] + gone[2]).tolist() == [0, 7, 33]  # of 48 + 18


def test_a_categorical_policy_has_no_log_std_and_prunes_all_the_same():
    policy = drawn_policy(5, 3, (8, 6), discrete=True)
    masks = prune(policy, sparsity=[0.5])
    assert masks.log_std.shape == (1, 0)
    assert np.sum(~kernels(masks)) == N // 2
