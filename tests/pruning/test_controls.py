"""Controls: equal norms with nothing removed, and dense networks with as few weights."""

import itertools
from dataclasses import replace
from fractions import Fraction

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune.policy import action_distribution, state_value
from jaxprune.pruning.accounting import account, in_order
from jaxprune.pruning.controls import narrow_policy, narrow_width, quantised, rescaled
from jaxprune.pruning.masks import apply_masks, dense, mask_policy
from jaxprune.pruning.posthoc import prune
from jaxprune.pruning.scope import Scope, named_leaves
from jaxprune.types import Policy
from jaxprune.validation import InputError
from tests.policies import drawn_policy, stacked

OBS, ACTIONS, HIDDEN = 5, 3, (8, 6)


def make_policy(hidden=HIDDEN, seed=0, **options) -> Policy:
    """Random numbers everywhere: biases, log_std and statistics too."""
    policy = drawn_policy(OBS, ACTIONS, hidden, **options)
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda w: rng.uniform(0.1, 1, w.shape).astype(np.float32), policy)


def random_masks(policy: Policy, shape: tuple[int, ...], seed: int = 0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda w: rng.random((*shape, *w.shape)) < 0.4, policy.params)


# --- rescaled -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (4,), (2, 3)])
def test_norms_are_those_that_masks_leave(shape):
    policy = make_policy()
    masks = random_masks(policy, shape)
    scaled = rescaled(policy, masks)
    assert jax.tree.structure(scaled) == jax.tree.structure(policy)
    for name, layer in policy.params.actor.items():
        kernels = scaled.params.actor[name]["kernel"]
        assert kernels.dtype == np.float32 and np.all(kernels != 0)
        left = np.where(masks.actor[name]["kernel"], layer["kernel"], 0)
        norms = np.linalg.norm(left, axis=(-2, -1))
        np.testing.assert_allclose(np.linalg.norm(kernels, axis=(-2, -1)), norms, rtol=1e-6)
        ratio = kernels / layer["kernel"]  # one factor
        np.testing.assert_allclose(ratio, ratio[..., :1, :1] + 0 * ratio, rtol=1e-6)


def test_everything_else_is_repeated():
    policy = make_policy()
    scaled = rescaled(policy, random_masks(policy, (2, 3)))
    leaves = [
        (path, a, b)
        for (path, a), b in zip(
            jax.tree_util.tree_leaves_with_path(scaled), jax.tree.leaves(policy), strict=True
        )
        if not ("actor" in str(path) and "kernel" in str(path))
    ]
    assert len(leaves) == 3 + 6 + 1 + 3  # biases, critic, log_std, statistics
    for _, a, b in leaves:
        assert a.shape == (2, 3, *b.shape)
        assert np.array_equal(a, np.broadcast_to(b, a.shape))


def test_leading_axes_are_the_loop():
    policy = make_policy()
    masks = random_masks(policy, (3,))
    together = rescaled(policy, masks)
    for i in range(3):
        alone = rescaled(policy, jax.tree.map(lambda m, i=i: m[i], masks))
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            assert np.array_equal(a[i], b)


def test_extremes():
    """Nothing removed keeps the bits, everything removed is 0, and a kernel of zeros stays."""
    policy = make_policy(seed=3)
    keep = jax.device_get(dense(policy.params))
    masks = stacked(keep, jax.tree.map(np.zeros_like, keep))
    scaled = rescaled(policy, masks)
    for name, layer in policy.params.actor.items():
        kernels = scaled.params.actor[name]["kernel"]
        assert np.array_equal(kernels[0], layer["kernel"])
        assert not np.any(kernels[1])
    zero = replace(policy, params=jax.tree.map(np.zeros_like, policy.params))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(rescaled(zero, masks).params))


def test_only_prunable_kernels_are_scaled():
    policy = make_policy()
    masks = random_masks(policy, ())
    scope = Scope(networks="both", first_layer=False, biases=True)
    scaled = rescaled(policy, masks, scope.prunable(policy.params)).params
    changed = [
        jax.tree_util.keystr(path)
        for (path, a), b in zip(
            jax.tree_util.tree_leaves_with_path(scaled), jax.tree.leaves(policy.params), strict=True
        )
        if not np.array_equal(a, b)
    ]
    kernels = [f".{n}['layer_{i}']['kernel']" for n in ("actor", "critic") for i in (1, 2)]
    assert changed == kernels


def test_one_agent_is_rescaled():
    policy = make_policy()
    stack = jax.tree.map(lambda x: np.stack([x, x]), policy)
    with pytest.raises(InputError, match="one agent"):
        rescaled(stack, random_masks(policy, ()))


# --- int8 -----------------------------------------------------------------------------------------


def test_int8_kernels_are_on_levels_and_removed_weights_stay_removed():
    policy = make_policy()
    masks = random_masks(policy, ())
    found = quantised(policy, masks)
    masked = mask_policy(policy, masks)
    for name, layer in found.params.actor.items():
        kernel, given = layer["kernel"], np.asarray(masked.params.actor[name]["kernel"])
        largest = np.abs(given).max(0)
        assert kernel.dtype == np.float32 and not kernel[given == 0].any()
        levels = 127 * kernel / np.where(largest > 0, largest, 1)
        np.testing.assert_allclose(levels, np.rint(levels), atol=1e-4)
        assert (np.abs(kernel - given) <= 0.501 * largest / 127).all()
        assert (kernel != given).any()
    kept = [x for x in named_leaves(found.params) if "actor" not in x[0] or "bias" in x[0]]
    given = dict(named_leaves(masked.params))
    for name, leaf in kept:
        np.testing.assert_array_equal(leaf, given[name])


def test_int8_agents_are_the_loop():
    policies = jax.tree.map(lambda a, b: np.stack([a, b]), make_policy(), make_policy(seed=1))
    together = quantised(policies)
    for i in range(2):
        alone = quantised(jax.tree.map(lambda x, i=i: x[i], policies))
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            assert np.array_equal(a[i], b)


def test_magnitude_masks_and_rounding_commute():
    """The largest weight of an output, which gives the scale, is the last to go."""
    policy = make_policy()
    for sparsity in (0.3, 0.6, 0.9):
        masks = prune(policy, "magnitude", sparsity)
        one, other = quantised(policy, masks), mask_policy(quantised(policy), masks)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
            np.testing.assert_array_equal(a, b)


def test_diverged_weights_have_no_value_in_int8():
    policy = make_policy()
    kernel = policy.params.actor["layer_1"]["kernel"]
    kernel[0, 0], kernel[1, 1] = np.nan, np.inf
    found = quantised(policy).params.actor["layer_1"]["kernel"]
    assert np.isnan(found[:, :2]).any(0).all() and np.isfinite(found[:, 2:]).all()


# --- narrow networks ------------------------------------------------------------------------------


def entries(sizes) -> int:
    return sum(a * b for a, b in itertools.pairwise(sizes))


def shapes_of(inputs: int, hidden: tuple[int, ...], outputs: int):
    return drawn_policy(inputs, outputs, hidden).params


@given(
    st.integers(1, 20),
    st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple),
    st.integers(1, 5),
    st.integers(0, 99),
)
@settings(max_examples=40)
def test_widths_are_the_nearest_of_a_brute_force_search(inputs, hidden, outputs, percent):
    """The factor runs over a grid fine enough to meet every rounding: widths are below 10."""
    sparsity = Fraction(percent, 100)
    found = narrow_width(shapes_of(inputs, hidden, outputs), sparsity)
    target = round((1 - sparsity) * entries([inputs, *hidden, outputs]))
    grid = 2 * 2520  # 2 lcm(1 .. 9)
    tried = {
        tuple(max(1, (2 * k * w + grid) // (2 * grid)) for w in hidden) for k in range(grid + 1)
    }
    errors = {w: abs(entries([inputs, *w, outputs]) - target) for w in tried}
    assert found in tried
    assert errors[found] == min(errors.values())


@given(st.lists(st.integers(1, 300), min_size=0, max_size=3).map(tuple))
@settings(max_examples=20)
def test_sparsity_zero_gives_the_same_widths(hidden):
    assert narrow_width(shapes_of(7, hidden, 2), 0.0) == hidden


def test_widths_by_hand():
    """5568 entries; two layers of h units have h (23 + h). Half of them is 2784, a tenth 557."""
    shapes = shapes_of(17, (64, 64), 6)
    assert narrow_width(shapes, 0.5) == (42, 42)  # 2730; 43 units have 2838, as near: the narrower
    assert narrow_width(shapes, 0.9) == (15, 15)  # 570; 14 units have 518
    assert narrow_width(shapes, 0.999) == (1, 1)
    assert narrow_width(shapes_of(4, (8, 4), 2), 0.5) == (5, 2)  # 34 of 36; (5, 3) has 41
    stacked = jax.tree.map(lambda x: jax.ShapeDtypeStruct((3, *x.shape), x.dtype), shapes)
    assert narrow_width(stacked, 0.5) == (42, 42)


@pytest.mark.parametrize("sparsity", [-0.1, 1.0])
def test_sparsities_that_make_no_sense(sparsity):
    with pytest.raises(InputError, match="sparsity"):
        narrow_width(make_policy().params, sparsity)


@jax.jit
def answers(policy, obs):
    """(action distributions, values) at observations."""
    of = lambda x: (action_distribution(policy, x), state_value(policy, x))  # noqa: E731
    return jax.vmap(of)(obs)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("hidden", [(3, 2), (1, 1), HIDDEN])
def test_an_embedded_network_acts_like_the_narrow_one(activation, discrete, hidden):
    options = {"activation": activation, "discrete": discrete}
    wide = make_policy(**options)
    narrow = make_policy(hidden, seed=1, **options)
    policy, masks = narrow_policy(wide, narrow)
    for a, b, keep in zip(
        jax.tree.leaves(policy.params),
        jax.tree.leaves(wide.params),
        jax.tree.leaves(masks),
        strict=True,
    ):
        assert a.shape == b.shape == keep.shape and a.dtype == b.dtype and keep.dtype == bool
    for a, b in zip(
        jax.tree.leaves(apply_masks(policy.params, masks)),
        jax.tree.leaves(policy.params),
        strict=True,
    ):
        assert np.array_equal(a, b)

    obs = np.random.default_rng(0).standard_normal((16, OBS), dtype=np.float32)
    heads, values = answers(policy, obs)
    for a, b in zip(jax.tree.leaves(heads), jax.tree.leaves(answers(narrow, obs)[0]), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6, rtol=1e-6)
    np.testing.assert_array_equal(values, answers(wide, obs)[1])


def test_masks_keep_what_is_present_and_nothing_else():
    wide, narrow = make_policy(), make_policy((3, 2), seed=1)
    policy, masks = narrow_policy(wide, narrow)
    kept = [(x["kernel"].sum(), x["bias"].sum()) for x in in_order(masks.actor)]
    assert kept == [(15, 3), (6, 2), (6, 3)]
    first = in_order(masks.actor)[0]
    assert first["kernel"][:, :3].all() and first["bias"][:3].all()
    assert all(np.all(x) for x in jax.tree.leaves((masks.critic, masks.log_std)))
    actor, critic = account(policy, masks).networks
    assert (actor.kept, critic.sparsity) == (27, 0)
    assert actor.dead == actor.constant == (8 - 3) + (6 - 2)
    assert np.array_equal(policy.obs_stats.mean, wide.obs_stats.mean)


@pytest.mark.parametrize("discrete", [False, True])
def test_absent_units_have_no_gradient_that_masks_do_not_remove(discrete):
    """Masked gradient steps are those of the narrow network alone."""
    wide = make_policy(discrete=discrete)
    narrow = make_policy((3, 2), seed=1, discrete=discrete)
    policy, masks = narrow_policy(wide, narrow)
    obs, action = np.ones(OBS), 1 if discrete else np.ones(ACTIONS)

    def loss(params, like):
        return action_distribution(replace(like, params=params), obs).log_prob(action)

    slope = jax.jit(jax.grad(loss))
    step = jax.device_get(apply_masks(slope(policy.params, policy), masks))
    expected = jax.device_get(slope(narrow.params, narrow))
    for small, large in zip(in_order(expected.actor), in_order(step.actor), strict=True):
        inputs, outputs = small["kernel"].shape
        corner = large["kernel"][:inputs, :outputs]
        np.testing.assert_allclose(corner, small["kernel"], rtol=1e-5)
        assert np.sum(large["kernel"] != 0) == np.sum(corner != 0)
        assert not np.any(large["bias"][outputs:])


@pytest.mark.parametrize(
    ("narrow", "message"),
    [
        (make_policy((9, 2)), r"\[5, 9, 2, 3\] does not fit into \[5, 8, 6, 3\]"),
        (make_policy((3,)), "does not fit"),
        (make_policy((3, 2), activation="relu"), "activation 'relu', the wide one 'tanh'"),
        (make_policy((3, 2), discrete=True), "distribution 'categorical'"),
        (drawn_policy(4, ACTIONS, (3, 2)), "does not fit"),
        (drawn_policy(OBS, 2, (3, 2)), "does not fit"),
    ],
)
def test_networks_that_do_not_fit(narrow, message):
    with pytest.raises(InputError, match=message):
        narrow_policy(make_policy(), narrow)
