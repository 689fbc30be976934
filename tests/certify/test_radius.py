"""Certified radii: closed forms of one layer, soundness, axes."""

import numpy as np
import pytest
from scipy.special import erfinv

from jaxprune.certify import certified_radius, certify
from jaxprune.policy import Affine
from jaxprune.pruning import prune
from jaxprune.validation import InputError
from tests.certify.networks import network, policy_of

STEP = 1000 ** (1 / 40)  # of the default radii
OBS = np.random.default_rng(0).standard_normal((6, 4))


def policy(discrete: bool, hidden: tuple[int, ...] = (8,)):
    return policy_of(network(1, (4, *hidden, 3)), "categorical" if discrete else "normal", std=0.5)


def test_total_variation_of_one_layer():
    """Intervals are exact: D = eps || |W| 1 ||_2 / sigma, and TV = erf(D / (2 sqrt 2))."""
    (layer,) = network(1, (4, 3))
    per_radius = np.linalg.norm(np.abs(np.float32(layer.weight)).sum(axis=1)) / 0.5
    for tv in (0.01, 0.1, 0.5):
        expected = 8**0.5 * erfinv(tv) / per_radius
        radius = certified_radius(policy(False, ()), None, OBS, "ibp", tv=tv)
        assert radius.shape == (6,) and len(np.unique(radius)) == 1  # the same everywhere
        assert expected / STEP < radius[0] <= expected
        everywhere = certified_radius(policy(False, ()), None, OBS, "path", tv=tv)
        np.testing.assert_array_equal(everywhere, radius)


def test_likeliest_action_of_one_layer():
    """min_j (z_i - z_j) / ||w_i - w_j||_1 at every observation."""
    (layer,) = network(1, (4, 3))
    weight, bias = np.float32(layer.weight).astype(float), np.float32(layer.bias).astype(float)
    radius = certified_radius(policy(True, ()), None, OBS, "ibp", largest=3.0)
    for obs, found in zip(OBS, radius, strict=True):
        logits = weight @ obs + bias
        best = np.argmax(logits)
        others = [j for j in range(3) if j != best]
        expected = min(
            (logits[best] - logits[j]) / np.abs(weight[best] - weight[j]).sum() for j in others
        )
        assert expected / (3000 ** (1 / 40)) < found < expected
    assert len(np.unique(radius)) > 2


@pytest.mark.parametrize(("discrete", "tv"), [(False, 0.2), (True, 0.2), (True, None)])
def test_the_radius_is_certified_and_one_step_more_is_not(discrete, tv):
    settings = {"tv": tv, "largest": 2.0, "smallest": 0.01, "levels": 9}
    radius = certified_radius(policy(discrete), None, OBS, "ibp", **settings)
    levels = np.geomspace(0.01, 2.0, 9)
    for row, found in enumerate(radius):
        for eps in levels:
            certificate = certify(policy(discrete), None, eps, OBS, ["ibp"])["ibp"]
            kept = certificate.fixed_action if tv is None else certificate.total_variation <= tv
            assert kept[row] == (eps <= found)


def test_every_mask_at_every_observation():
    agent = policy(True)
    masks = prune(agent, "random", [0.0, 0.5, 0.9])
    settings = {"largest": 2.0, "smallest": 0.05, "levels": 5}
    together = certified_radius(agent, masks, OBS, "ibp", **settings)
    assert together.shape == (3, 6) and len(np.unique(together)) > 2
    dense = certified_radius(agent, None, OBS, "ibp", **settings)
    np.testing.assert_array_equal(together[0], dense)


def test_nothing_and_everything():
    """0 where not even the smallest radius is certified; the largest where the network is deaf."""
    loud = policy_of([Affine(1e6 * np.ones((2, 4)), np.zeros(2))])
    assert certified_radius(loud, None, OBS, "ibp", tv=0.1).tolist() == [0.0] * 6
    deaf = policy_of([Affine(np.zeros((2, 4)), np.zeros(2))])
    assert certified_radius(deaf, None, OBS, "ibp", tv=0.1).tolist() == [1.0] * 6


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"smallest": 0.0}, "radii from 0.0 to 1.0"),
        ({"smallest": 2.0}, "radii from 2.0 to 1.0"),
        ({"largest": float("nan")}, "largest nan is outside"),
        ({"levels": 1}, "levels 1 is below 2"),
        ({"tv": 1.0}, r"tv 1.0 is outside \[0, 1\)"),
        ({"tv": -0.1}, "tv -0.1"),
        ({"largest": 11.0}, "clipped"),
        ({"bound": "path", "tv": None}, "says nothing about the likeliest action"),
        ({"tv": None}, "says nothing about the likeliest action"),
        ({"bound": "ibq"}, "unknown bound"),
    ],
)
def test_bad_input(setting, message):
    sound = {"bound": "ibp", "tv": 0.1, "levels": 3}
    with pytest.raises(InputError, match=message):
        certified_radius(policy(False), None, OBS, **(sound | setting))
