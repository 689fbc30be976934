"""Bounds of policies at the ends of the number range: at least the truth, or infinite."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.certify import BOUNDS, certify
from jaxprune.certify.boxes import Box, enclosing
from jaxprune.certify.norms import nonnegative_norm, spectral_norm
from jaxprune.certify.rounding import known, product
from jaxprune.policy_io import load_policy
from jaxprune.pruning import prune
from tests.certify.networks import network, policy_of
from tests.policies import stacked

SHAPE, EPS = (4, 6, 5, 3), 0.1
# Factors of the kernels, layer by layer, and log standard deviations.
EXTREMES = [
    ((1, 1, 1), 0.0),
    ((1, 1, 1), -100.0),  # e^100 is infinite in float32
    ((1, 1, 1), 100.0),  # e^-100 is 0
    ((1e30, 1e30, 1e30), 0.0),
    ((1e30, 1e30, 1e30), -100.0),
    ((1e-30, 1e-30, 1e-30), 0.0),  # every product of two is 0
    ((1e-30, 1e-30, 1e-30), -100.0),
    ((1e-30, 1, 1e30), 0.0),
    ((1e30, 1e-30, 1e-30), 0.0),
    ((1e30, 1e-20, 1e-20), 10.0),
    ((1, 0, 1), -100.0),  # constant, and 0 times infinity
    ((1, 1, 0), 0.0),
]
FAST = [name for name, bound in BOUNDS.items() if not bound.slow]


@cache
def policies(distribution: str, activation: str):
    """The extremes as agents, and masks that keep everything and a half of the weights."""
    policy = policy_of(network(7, SHAPE), distribution, activation)
    every = stacked(*[policy] * len(EXTREMES))
    for i in range(len(SHAPE) - 1):
        scale = np.asarray([factors[i] for factors, _ in EXTREMES], np.float32)
        kernel = every.params.actor[f"layer_{i}"]["kernel"]
        every.params.actor[f"layer_{i}"]["kernel"] = kernel * scale[:, None, None]
    if distribution == "normal":
        log_std = np.tile(np.asarray([[x] for _, x in EXTREMES], np.float32), SHAPE[-1])
        every = every.replace(params=every.params._replace(log_std=log_std))
    return every, jax.device_get(prune(every, "random", [0.0, 0.5]))


def reached(policy, masks, obs: np.ndarray) -> np.ndarray:
    """The largest D in float64 among 200 corners of the ball of each observation, `[A, S, n]`."""
    actor, keep = policy.params.actor, masks.actor
    activation = {"tanh": np.tanh, "relu": lambda x: np.maximum(x, 0)}[policy.activation]

    def outputs(x: np.ndarray) -> np.ndarray:
        for i in range(len(SHAPE) - 1):
            layer, mask = actor[f"layer_{i}"], keep[f"layer_{i}"]["kernel"]
            kernel = np.where(mask, np.float64(layer["kernel"])[:, None], 0)
            x = np.einsum("asni,asio->asno", x, kernel) + np.float64(layer["bias"])[:, None, None]
            x = activation(x) if i < len(SHAPE) - 2 else x
        return x

    signs = np.random.default_rng(1).choice([-1.0, 1.0], (200, SHAPE[0]))
    shape = (*masks.log_std.shape[:2], *obs.shape)
    clean, found = outputs(np.broadcast_to(obs, shape)), np.zeros(shape[:3])
    std = np.exp(np.float64(policy.params.log_std))[:, None, None]
    for sign in signs:
        change = outputs(np.broadcast_to(obs + EPS * sign, shape)) - clean
        if policy.distribution == "normal":
            found = np.maximum(found, np.linalg.norm(change / std, axis=-1))
        else:
            found = np.maximum(found, np.abs(change).max(-1))
    return found


CASES = [
    ("normal", "tanh", "float32", False),
    ("categorical", "relu", "float32", False),
    ("normal", "relu", "float32", True),
    ("normal", "tanh", "float64", True),
    ("normal", "relu", "float64", True),
    ("categorical", "relu", "float64", True),
]


@pytest.mark.parametrize(
    ("distribution", "activation", "precision"),
    [pytest.param(*case, marks=[pytest.mark.slow] * slow) for *case, slow in CASES],
)
def test_every_bound_is_at_least_what_is_reached(distribution, activation, precision):
    """NaN, and 0 of products that vanish, stood for "nothing can move" (and for sound)."""
    policy, masks = policies(distribution, activation)
    obs = np.random.default_rng(2).standard_normal((2, SHAPE[0])).astype(np.float32)
    truth = reached(policy, masks, obs)
    constant = [i for i, (factors, _) in enumerate(EXTREMES) if 0 in factors]
    assert not truth[constant].any() and truth[:3].max() > 0.01
    for name, bound in certify(policy, masks, EPS, obs, FAST, precision).items():
        assert not np.isnan(bound.value).any() and np.all(bound.value >= truth), name
        assert not np.isnan(bound.total_variation).any(), name
        assert np.all((bound.total_variation > 0) | (truth == 0)), name
        if distribution == "normal":
            assert np.all(bound.total_variation[truth > 10] > 0.99), name
        assert np.isfinite(bound.value[0]).all(), name  # an ordinary policy has ordinary bounds
        if bound.low is not None:
            assert np.all(bound.low <= bound.high), name
        if precision == "float64" and bound.scope == "global":
            assert np.all(bound.value[constant] == 0), name  # of which all is known


def test_a_published_policy_with_a_deviation_of_e_to_the_minus_100(published):
    """`path_22` said D = 0 and TV = 0 of the masked one in float32; the truth is above 1e42."""
    policy = load_policy(published / "ppo-hopper-median.npz")
    log_std = jnp.full_like(policy.params.log_std, -100.0)
    policy = policy.replace(params=policy.params._replace(log_std=log_std))
    masks = prune(policy, "magnitude", 0.5)
    names = [name for name in FAST if BOUNDS[name].scope == "global"]
    for name, bound in certify(policy, masks, 0.075, None, names, "float32").items():
        assert bound.value >= 1e38 and bound.total_variation == 1, name


@pytest.mark.parametrize("norm", [spectral_norm, nonnegative_norm])
def test_the_norm_of_what_is_not_a_number_is_not_0(norm):
    jitted = jax.jit(norm)
    assert np.isnan(jitted(np.array([[0.0, np.nan], [0.0, 0.0]], "float32")))
    assert jitted(np.zeros((2, 2), "float32")) == 0


def test_products_are_rounded_away_from_0():
    tiny = float(jnp.finfo("float32").tiny)
    a, b = jnp.array([2.0, -1e-30, 0.0, 1e-30, -3.0]), jnp.array([3.0, 1e-30, jnp.inf, 0.0, 2e-38])
    np.testing.assert_array_equal(product(a, b), np.float32([6.0, -tiny, 0.0, 0.0, -6e-38]))
    assert known(jnp.nan) == jnp.inf and known(-jnp.inf) == -jnp.inf and known(2.0) == 2


def test_an_end_of_a_box_that_is_not_known_is_infinite():
    low, high = enclosing(
        Box(jnp.array([jnp.nan, jnp.inf, 1.0]), jnp.array([2.0, jnp.nan, -jnp.inf]))
    )
    np.testing.assert_array_equal(low, [-jnp.inf, -jnp.inf, 1.0])
    np.testing.assert_array_equal(high, [2.0, jnp.inf, jnp.inf])
