"""What masks did to a network, against hand counts, path enumeration and perturbed inputs."""

import itertools
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune.pruning.accounting import account, condition_number, find_paths, in_order
from jaxprune.pruning.masks import dense
from jaxprune.pruning.scope import Scope, actor_kernels
from jaxprune.types import Params
from jaxprune.validation import InputError
from tests.policies import drawn_policy

POLICY = drawn_policy(3, 2, (4, 3))
ACTOR = 3 * 4 + 4 * 3 + 3 * 2
CRITIC = 3 * 4 + 4 * 3 + 3 * 1
BIASES = (4 + 3 + 2) + (4 + 3 + 1)
TOTAL = ACTOR + CRITIC + BIASES + 2  # log_std


def masks_with(policy=POLICY, network="actor", **removed):
    """Everything but the entries named: layer_0=[(0, 1), (slice(None), 2)]."""
    masks = jax.tree.map(np.array, dense(policy.params))
    for layer, entries in removed.items():
        for entry in entries:
            getattr(masks, network)[layer]["kernel"][entry] = False
    return masks


def test_nothing_removed():
    found = account(POLICY, None)
    assert found == account(POLICY, dense(POLICY.params))
    assert (found.prunable_sparsity, found.actor_sparsity, found.total_sparsity) == (0, 0, 0)
    actor, critic = found.networks
    assert (actor.network, actor.size, actor.kept, actor.hidden) == ("actor", ACTOR, ACTOR, 7)
    assert (critic.network, critic.size, critic.kept) == ("critic", CRITIC, CRITIC)
    for network in found.networks:
        cut = (network.dead, network.constant)
        assert (*cut, network.disconnected_obs, network.disconnected_outputs) == (0, 0, 0, 0)
    paths = [f"{n}/layer_{i}/kernel" for n in ("actor", "critic") for i in range(3)]
    assert [layer.path for layer in found.layers] == paths
    assert [layer.size for layer in found.layers] == [12, 12, 6, 12, 12, 3]


def test_units_cut_off_by_hand():
    """Unit 2 of the last hidden layer has no outgoing weight, which kills unit 0 before it.

    Unit 3 of the first hidden layer has no incoming weight. Unit 1 of the last hidden layer hears
    it alone and is constant with it. Observation 1 feeds unit 0 only.
    """
    every = slice(None)
    masks = masks_with(
        layer_0=[(every, 3), (1, [1, 2])],
        layer_1=[(0, [0, 1]), ([0, 1, 2], 1)],
        layer_2=[(2, every)],
    )
    found = account(POLICY, masks)
    actor, critic = found.networks
    assert (actor.dead, actor.constant) == (2, 2)
    assert (actor.disconnected_obs, actor.disconnected_outputs) == (1, 0)
    assert [(x.dead, x.constant) for x in found.layers[:3]] == [(1, 1), (1, 1), (0, 0)]
    assert [x.kept for x in found.layers[:3]] == [7, 8, 4]
    assert actor.kept == 19
    assert found.actor_sparsity == actor.sparsity == found.prunable_sparsity == 11 / ACTOR
    assert found.total_sparsity == 11 / TOTAL
    assert (critic.dead, critic.constant, critic.sparsity) == (0, 0, 0)


def test_an_output_without_inputs_is_a_constant_and_kills_nothing():
    masks = masks_with(layer_2=[(slice(None), 0)])
    actor, _ = account(POLICY, masks).networks
    assert (actor.dead, actor.constant, actor.disconnected_outputs) == (0, 0, 1)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_one_layer_emptied(layer):
    """All units before it are dead, all after it constant."""
    masks = masks_with(POLICY, "actor", **{f"layer_{layer}": [...]})
    actor, _ = account(POLICY, masks).networks
    assert actor.dead == (0, 4, 7)[layer]
    assert actor.constant == (7, 3, 0)[layer]
    assert (actor.disconnected_obs, actor.disconnected_outputs) == (3, 2)
    assert account(POLICY, masks).layers[layer].condition == math.inf


def test_everything_removed():
    masks = jax.tree.map(lambda w: np.zeros(w.shape, bool), POLICY.params)
    found = account(POLICY, masks)
    assert (found.prunable_sparsity, found.actor_sparsity, found.total_sparsity) == (1, 1, 1)
    for network in found.networks:
        assert network.dead == network.constant == network.hidden == 7
        assert network.kept == 0 and network.disconnected_obs == 3
    assert all(layer.condition == math.inf and layer.sparsity == 1 for layer in found.layers)


def test_weights_that_are_naturally_zero_are_kept():
    """Counted from masks: all-zero parameters with nothing removed have sparsity 0."""
    zero = replace(POLICY, params=jax.tree.map(jnp.zeros_like, POLICY.params))
    found = account(zero, None)
    assert found.total_sparsity == 0 and found.networks[0].dead == 0
    assert found.layers[0].condition == math.inf  # of the values


def test_sparsity_is_over_what_could_go():
    masks = masks_with(layer_1=[(0, 0), (1, 0), (2, 2)])
    scope = Scope(networks="both", first_layer=False, last_layer=False)
    found = account(POLICY, masks, scope.prunable(POLICY.params))
    assert found.prunable_sparsity == 3 / (12 + 12)
    assert found.actor_sparsity == 3 / ACTOR
    biases = account(POLICY, masks, lambda path: path.endswith("bias"))
    assert biases.prunable_sparsity == 0


def test_the_critic_has_an_account_of_its_own():
    masks = masks_with(network="critic", layer_0=[(2, ...)], layer_2=[(0, 0)])
    found = account(POLICY, masks)
    actor, critic = found.networks
    assert actor.sparsity == found.prunable_sparsity == 0
    assert (critic.dead, critic.disconnected_obs, critic.kept) == (1, 1, CRITIC - 5)
    assert found.total_sparsity == 5 / TOTAL


def test_condition_number_of_the_masked_kernel():
    assert condition_number(np.diag([3.0, 2.0, 0.5])) == pytest.approx(6)
    assert condition_number(np.diag([3.0, 2.0, 0.0])) == math.inf
    assert condition_number(np.outer([1.0, 2.0, 3.0], [0.1, 0.7])) == math.inf
    assert condition_number(np.ones((4, 1))) == 1
    assert math.isnan(condition_number(np.array([[1.0, np.nan]])))
    # [[1, 1], [1, -1]] is orthogonal up to scale; without the -1 the singular values are the golden
    # ratio and its inverse.
    kernel = np.array([[1.0, 1.0], [1.0, -1.0]], np.float32)
    policy = drawn_policy(2, 2, ())
    actor = {"layer_0": {"kernel": kernel, "bias": np.zeros(2, np.float32)}}
    policy = replace(policy, params=policy.params._replace(actor=actor))
    assert account(policy, None).layers[0].condition == pytest.approx(1)
    pruned = account(policy, masks_with(policy, layer_0=[(1, 1)])).layers[0]
    assert pruned.condition == pytest.approx(((1 + 5**0.5) / 2) ** 2)


def test_removed_weights_that_are_not_finite_do_not_count():
    params = jax.tree.map(np.array, POLICY.params)
    params.actor["layer_0"]["kernel"][1, 1] = np.nan
    broken = replace(POLICY, params=params)
    assert math.isnan(account(broken, None).layers[0].condition)
    assert math.isfinite(account(broken, masks_with(layer_0=[(1, 1)])).layers[0].condition)


def test_layers_are_taken_in_the_order_of_evaluation():
    """Sorted names put layer_10 before layer_2."""
    sizes = [2, *range(1, 12), 2]
    policy = drawn_policy(2, 2, sizes[1:-1])
    found = account(policy, None)
    assert [x.size for x in found.layers[:12]] == [a * b for a, b in itertools.pairwise(sizes)]
    layers = in_order(dict(sorted(policy.params.actor.items())))
    assert [x["bias"].size for x in layers] == sizes[1:]


@pytest.mark.parametrize("discrete", [False, True])
def test_one_hidden_unit_and_no_log_std(discrete):
    policy = drawn_policy(2, 3, (1,), discrete=discrete)
    masks = masks_with(policy, layer_0=[...])
    found = account(policy, masks)
    assert found.networks[0].constant == 1 and found.networks[0].dead == 0
    total = (2 + 3) + (1 + 3) + (2 + 1) + (1 + 1) + (0 if discrete else 3)
    assert found.total_sparsity == 2 / total


def test_what_is_wrong_is_said():
    stack = jax.tree.map(lambda x: jnp.stack([x, x]), POLICY)
    with pytest.raises(InputError, match="one agent"):
        account(stack, None)
    with pytest.raises(InputError, match="masks differ in shape"):
        account(POLICY, jax.tree.map(lambda x: jnp.stack([x, x]), dense(POLICY.params)))
    with pytest.raises(InputError, match="accepts none of actor/layer_0/bias"):
        account(POLICY, None, lambda path: False)


# --- against brute force --------------------------------------------------------------------------

sizes_of_networks = st.lists(st.integers(1, 4), min_size=2, max_size=5)


def random_kernels(sizes, density: float, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.random(shape) < density for shape in itertools.pairwise(sizes)]


@given(sizes_of_networks, st.floats(0, 1), st.integers(0, 2**31 - 1))
@settings(max_examples=60)
def test_paths_against_their_enumeration(sizes, density, seed):
    """Every chain of units from the input to a unit, and from it to the output, is tried."""
    kernels = random_kernels(sizes, density, seed)
    from_input = [np.zeros(n, bool) for n in sizes]
    to_output = [np.zeros(n, bool) for n in sizes]
    for chain in itertools.product(*(range(n) for n in sizes)):
        kept = [k[a, b] for k, (a, b) in zip(kernels, itertools.pairwise(chain), strict=True)]
        for level, unit in enumerate(chain):
            from_input[level][unit] |= all(kept[:level])
            to_output[level][unit] |= all(kept[level:])
    found = find_paths(kernels)
    for level in range(len(sizes)):
        assert np.array_equal(found.from_input[level], from_input[level])
        assert np.array_equal(found.to_output[level], to_output[level])


def positive_policy(sizes, kernels, seed):
    """Positive weights and biases: with ReLU whatever is connected reacts."""
    rng = np.random.default_rng(seed)
    policy = drawn_policy(sizes[0], sizes[-1], sizes[1:-1])
    params = jax.tree.map(lambda w: rng.uniform(0.5, 1.5, w.shape), policy.params)
    masks: Params = jax.tree.map(np.array, dense(policy.params))
    for i, kernel in enumerate(kernels):
        masks.actor[f"layer_{i}"]["kernel"] = kernel
    return replace(policy, params=params, activation="relu"), masks


@given(sizes_of_networks, st.floats(0, 1), st.integers(0, 2**31 - 1))
@settings(max_examples=15)
def test_disconnected_is_what_does_not_react(sizes, density, seed):
    policy, masks = positive_policy(sizes, random_kernels(sizes, density, seed), seed)
    layers = zip(in_order(policy.params.actor), in_order(masks.actor), strict=True)

    x = np.vstack([np.ones(sizes[0]), np.ones(sizes[0]) + np.eye(sizes[0])])
    constant = 0
    for i, (layer, mask) in enumerate(layers):
        x = np.maximum(x @ (layer["kernel"] * mask["kernel"]) + layer["bias"], 0)
        if i < len(sizes) - 2:
            constant += np.sum(np.all(x == x[0], axis=0))
    reacts = x[1:] != x[0]  # [obs, outputs]

    actor, _ = account(policy, masks, actor_kernels).networks
    assert actor.constant == constant
    assert actor.disconnected_obs == np.sum(~reacts.any(axis=1))
    assert actor.disconnected_outputs == np.sum(~reacts.any(axis=0))
