"""Compact policies are smaller and act the same."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune.policy import action_distribution, state_value
from jaxprune.pruning.accounting import account, in_order
from jaxprune.pruning.compact import compact, parameter_count
from jaxprune.pruning.masks import dense, mask_policy
from jaxprune.types import Policy
from jaxprune.validation import InputError
from tests.policies import drawn_policy

KINDS = [("tanh", False), ("relu", False), ("tanh", True), ("relu", True)]


def make_policy(activation="tanh", discrete=False, hidden=(4, 3), seed=0) -> Policy:
    """Random numbers everywhere, biases and log_std too."""
    rng = np.random.default_rng(seed)
    policy = drawn_policy(3, 2, hidden, discrete=discrete, activation=activation)
    noise = jax.tree.map(
        lambda w: 0.7 * rng.standard_normal(w.shape, dtype=np.float32), policy.params
    )
    return replace(policy, params=noise)


def random_masks(policy: Policy, density: float, seed: int):
    rng = np.random.default_rng(seed)
    keep = jax.tree.map(lambda w: rng.random(w.shape) < density, policy.params)
    return keep._replace(log_std=np.ones(policy.params.log_std.shape, bool))


def widths(network) -> list[int]:
    return [layer["bias"].size for layer in in_order(network)[:-1]]


@jax.jit
def outputs(policy: Policy, obs):
    heads = jax.vmap(lambda x: action_distribution(policy, x))(obs)
    return (
        heads,
        jax.vmap(lambda p: p.mode())(heads),
        jax.vmap(lambda x: state_value(policy, x))(obs),
    )


def check_equal(small: Policy, large: Policy, seed: int = 0):
    """Both heads, the mode (argmax for a categorical policy) and the value at random states."""
    obs = np.random.default_rng(seed).standard_normal((64, 3), dtype=np.float32)
    (head, mode, value), (head_0, mode_0, value_0) = outputs(small, obs), outputs(large, obs)
    for a, b in zip(head, head_0, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6, rtol=1e-6)
    np.testing.assert_allclose(value, value_0, atol=1e-6, rtol=1e-6)
    if large.distribution == "categorical":
        assert np.array_equal(mode, mode_0)


@given(
    st.sampled_from(KINDS),
    st.sampled_from([(1,), (5,), (4, 3), (3, 4, 2)]),
    st.floats(0, 1),
    st.integers(0, 2**31 - 1),
)
@settings(max_examples=30)
def test_outputs_are_equal_and_no_idle_unit_is_left(kind, hidden, density, seed):
    policy = make_policy(*kind, hidden=hidden, seed=seed)
    masks = random_masks(policy, density, seed + 1)
    small, large = compact(policy, masks), mask_policy(policy, masks)
    check_equal(small, large)
    # The masks are in the weights now.
    for a, b in zip(jax.tree.leaves(compact(large)), jax.tree.leaves(small), strict=True):
        assert np.array_equal(a, b)
    for a, b in zip(jax.tree.leaves(compact(small)), jax.tree.leaves(small), strict=True):
        assert np.array_equal(a, b)
    structure = jax.tree.map(lambda w: w != 0, small.params)
    for network in account(small, structure).networks:
        # One unit per layer stays where nothing is connected, and only there.
        assert network.dead == network.constant
        assert network.dead in (0, len(hidden))


def test_dead_and_constant_units_by_hand():
    """Unit 0 of the first layer is dead, unit 3 constant; so are units 2 and 1 after them."""
    policy = make_policy(seed=1)
    masks = jax.tree.map(np.array, dense(policy.params))
    first, second, third = (layer["kernel"] for layer in in_order(masks.actor))
    third[2] = False  # unit 2 of the second layer is dead
    second[0, :2] = False  # and unit 0 of the first one feeds no other
    first[:, 3] = False  # unit 3 of the first layer hears nothing
    second[:3, 1] = False  # and unit 1 of the second one hears only that
    small = compact(policy, masks)
    assert widths(small.params.actor) == [2, 1]
    assert widths(small.params.critic) == [4, 3]

    w, b = zip(*((x["kernel"], x["bias"]) for x in in_order(policy.params.actor)), strict=True)
    constant = np.tanh(b[0][3])
    folded = np.tanh(b[1][1] + constant * w[1][3, 1])
    layers = in_order(small.params.actor)
    np.testing.assert_array_equal(layers[0]["kernel"], w[0][:, 1:3])
    np.testing.assert_allclose(layers[1]["bias"], [b[1][0] + constant * w[1][3, 0]], rtol=1e-6)
    np.testing.assert_allclose(layers[2]["bias"], b[2] + folded * w[2][1], rtol=1e-6)
    check_equal(small, mask_policy(policy, masks))


def test_nothing_to_remove_leaves_every_bit():
    policy = make_policy()
    for small in (compact(policy), compact(policy, dense(policy.params))):
        assert jax.tree.structure(small) == jax.tree.structure(policy)
        for a, b in zip(jax.tree.leaves(small), jax.tree.leaves(policy), strict=True):
            assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", [0, 1, 2, None])
def test_without_any_path_one_unit_stays_per_layer(kind, layer):
    policy = make_policy(*kind)
    masks = jax.tree.map(np.array, dense(policy.params))
    for network in (masks.actor, masks.critic):
        for i, leaf in enumerate(in_order(network)):
            leaf["kernel"][...] = layer is not None and i != layer
    small = compact(policy, masks)
    for network in (small.params.actor, small.params.critic):
        assert widths(network) == [1, 1]
        assert not any(np.any(leaf["kernel"]) for leaf in in_order(network))
    assert small.params.actor["layer_0"]["kernel"].shape == (3, 1)
    check_equal(small, mask_policy(policy, masks))


@pytest.mark.parametrize("discrete", [False, True])
def test_one_hidden_unit_and_none_at_all(discrete):
    single = make_policy("relu", discrete, hidden=(1,))
    check_equal(compact(single), single)
    masks = jax.tree.map(np.array, dense(single.params))
    masks.actor["layer_0"]["kernel"][...] = False
    check_equal(compact(single, masks), mask_policy(single, masks))

    linear = make_policy("tanh", discrete, hidden=())
    removed = jax.tree.map(np.zeros_like, dense(linear.params))
    removed.actor["layer_0"]["kernel"][1] = True
    small = compact(linear, removed._replace(log_std=np.ones_like(removed.log_std)))
    assert small.params.actor["layer_0"]["kernel"].shape == (3, 2)
    check_equal(small, mask_policy(linear, removed._replace(log_std=removed.log_std | True)))


def test_masks_decide_when_there_are_any():
    """Zeros that nobody removed could grow again: with masks, their units stay."""
    policy = make_policy()
    policy.params.actor["layer_2"]["kernel"][1] = 0
    assert widths(compact(policy, dense(policy.params)).params.actor) == [4, 3]
    assert widths(compact(policy).params.actor) == [4, 2]


def test_removed_weights_that_are_not_finite_are_gone():
    policy = make_policy()
    policy.params.actor["layer_1"]["kernel"][0, 0] = np.nan
    masks = jax.tree.map(np.array, dense(policy.params))
    masks.actor["layer_1"]["kernel"][0] = False
    small = compact(policy, masks)
    assert widths(small.params.actor) == [3, 3]
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(small))


def test_the_size_is_counted():
    policy = make_policy()
    actor, critic = (12 + 4) + (12 + 3) + (6 + 2), (12 + 4) + (12 + 3) + (3 + 1)
    assert parameter_count(policy, "actor") == actor
    assert parameter_count(policy, "critic") == critic
    assert parameter_count(policy) == actor + critic
    masks = jax.tree.map(np.array, dense(policy.params))
    masks.actor["layer_2"]["kernel"][:2] = False
    small = compact(policy, masks)
    assert parameter_count(small, "actor") == (12 + 4) + (4 + 1) + (2 + 2)


def test_what_is_wrong_is_said():
    policy = make_policy()
    stack = jax.tree.map(lambda x: jnp.stack([x, x]), policy)
    with pytest.raises(InputError, match="one agent"):
        compact(stack)
    with pytest.raises(InputError, match="masks differ in shape"):
        compact(policy, dense(stack.params))
    with pytest.raises(InputError, match="unknown activation 'elu'"):
        compact(replace(policy, activation="elu"))
    with pytest.raises(InputError, match="unknown networks to count 'value'"):
        parameter_count(policy, "value")
