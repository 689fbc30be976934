"""Branch and bound: closed forms of one layer, a fine grid, both ends, axes."""

from itertools import product

import jax
import numpy as np
import pytest

from jaxprune.certify import certify, exact_distance
from jaxprune.policy import Affine
from jaxprune.pruning import prune
from jaxprune.validation import InputError
from tests.certify.networks import network, policy_of

OBS = np.random.default_rng(0).standard_normal((3, 4))
STD = 0.5
HEADS = ("normal", "categorical")


def outputs(layers, x, activation):
    *hidden, last = [Affine(*(np.float64(np.float32(a)) for a in layer)) for layer in layers]
    for weight, bias in hidden:
        x = activation(x @ weight.T + bias)
    return x @ last.weight.T + last.bias


def distance(head, change):
    return (
        np.linalg.norm(change, axis=-1) / STD if head == "normal" else np.abs(change).max(axis=-1)
    )


@pytest.mark.parametrize("head", HEADS)
def test_one_layer_is_furthest_at_a_corner(head):
    layers = network(1, (4, 3))
    corners = 0.3 * np.array(list(product((-1, 1), repeat=4)))
    here, there = (outputs(layers, x, np.tanh) for x in (OBS[:, None], OBS[:, None] + corners))
    expected = distance(head, there - here).max(axis=-1)
    found = exact_distance(policy_of(layers, head, std=STD), None, 0.3, OBS)
    small = 1 + 1e-6  # observations are normalised
    assert (found.lower <= expected * small).all() and (expected <= found.upper * small).all()
    assert (found.upper <= 1.0101 * found.lower).all()


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_a_fine_grid_stays_between_the_ends(head, activation):
    """Two inputs, where a grid of 201 x 201 nearly finds the maximum."""
    layers = [Affine(3 * w, b) for w, b in network(2, (2, 8, 8, 3))]
    policy = policy_of(layers, head, std=STD, activation=activation)
    obs, side = OBS[:, :2], np.linspace(-0.4, 0.4, 201)
    offsets = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    unit = {"tanh": np.tanh, "relu": lambda x: np.maximum(x, 0)}[activation]
    change = outputs(layers, obs[:, None] + offsets, unit) - outputs(layers, obs[:, None], unit)
    grid = distance(head, change).max(axis=-1)
    found = exact_distance(policy, None, 0.4, obs, gap=0.005)
    assert (grid <= found.upper * (1 + 1e-6)).all() and (found.upper <= grid * 1.02).all()
    assert (found.upper <= 1.0051 * found.lower).all() and (found.boxes > 1).all()
    crown = certify(policy, None, 0.4, obs, ["crown"])["crown"].value
    assert (found.upper <= crown * (1 + 1e-9)).all() and (found.upper < 0.9 * crown).any()


def test_axes_masks_and_what_cannot_move():
    policy = policy_of(network(3, (4, 8, 3)), "normal", std=STD)
    masks = jax.device_get(prune(policy, "magnitude", [0.0, 0.5, 0.8]))
    half = jax.tree.map(lambda m: m[1], masks)
    found = exact_distance(policy, masks, 0.1, OBS)
    assert found.lower.shape == found.upper.shape == found.boxes.shape == (3, 3)
    alone = exact_distance(policy, half, 0.1, OBS)
    np.testing.assert_array_equal(alone.upper, found.upper[1])
    none_left = exact_distance(policy, jax.tree.map(np.zeros_like, half), 0.1, OBS)
    assert (none_left.upper <= 1e-9).all() and (none_left.lower == 0).all()


def test_too_few_boxes_leave_both_ends_true_and_apart():
    layers = [Affine(3 * w, b) for w, b in network(2, (4, 8, 8, 3))]
    policy = policy_of(layers, "normal", std=STD)
    rough, fine = (exact_distance(policy, None, 0.4, OBS, most_boxes=n) for n in (1, 100_000))
    assert (rough.boxes == 1).all() and (rough.upper > 1.01 * rough.lower).all()
    assert (rough.lower <= fine.lower).all() and (fine.upper <= rough.upper).all()
    assert (fine.upper <= 1.0101 * fine.lower).all()


def test_bad_input_is_refused():
    policy = policy_of(network(1, (4, 3)), "normal")
    for settings, words in (({"eps": -1.0}, "eps"), ({"gap": 0.0}, "gap"), ({"eps": 99}, "eps 99")):
        with pytest.raises(InputError, match=words):
            exact_distance(policy, None, **{"eps": 0.1, "obs": OBS, **settings})
    with pytest.raises(InputError, match="obs has shape"):
        exact_distance(policy, None, 0.1, OBS[0])
