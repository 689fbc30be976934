"""`diagnose`: agreement with definitions, exact cases, and a policy that hides its gradients."""

from functools import lru_cache
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.attacks import MADConfig
from jaxprune.attacks.gradient import mad
from jaxprune.evaluation.gradient_masking import _program, diagnose
from jaxprune.evaluation.pointwise import reached
from jaxprune.policy import action_distribution, init_policy, normalise
from jaxprune.pruning import prune
from jaxprune.pruning.masks import mask_policy
from jaxprune.validation import InputError

OBS = np.random.default_rng(0).standard_normal((5, 2)).astype(np.float32)
CONFIG = MADConfig(steps=10, restarts=4)
EPS = 0.2
REACHED = ("gradient", "doubled", "corners", "transferred")


@lru_cache
def policies(shape: tuple[int, ...] = (), discrete: bool = False, seed: int = 0, hidden=(8,)):
    """Of two observations and three actions, with outputs of size 1."""
    make = lambda key: init_policy(key, 2, 3, hidden=hidden, discrete=discrete)  # noqa: E731
    for _ in shape:
        make = jax.vmap(make)
    key = jax.random.key(seed)
    policy = jax.jit(make)(jax.random.split(key, shape) if shape else key)
    return changed(policy, f"layer_{len(hidden)}", kernel=lambda x: 100 * x)


def changed(policy, layer: str, **change):
    """With other numbers in one layer of the actor."""
    actor = policy.params.actor
    new = actor[layer] | {name: f(actor[layer][name]) for name, f in change.items()}
    return policy.replace(params=policy.params._replace(actor=actor | {layer: new}))


@jax.jit
def distances(policy, obs, points):
    """D = sqrt(2 KL) at here + points `[m, 2]`."""
    here = normalise(policy, obs)
    clean = action_distribution(policy, here)
    move = lambda p: clean.kl(action_distribution(policy, here + p))  # noqa: E731
    return jnp.sqrt(2 * jnp.maximum(jax.vmap(move)(points), 0))


def grid(points) -> np.ndarray:
    return np.array(list(product(points, repeat=2)), np.float32)


@pytest.mark.parametrize("discrete", [False, True])
def test_against_brute_force(discrete):
    """In two dimensions, for two agents with two masks: every corner, and a grid of the ball."""
    policy = policies((2,), discrete)
    masks = prune(policy, "magnitude", [0.0, 0.4])
    found = diagnose(policy, masks, EPS, OBS, jax.random.key(1), CONFIG)
    assert all(x.shape == (2, 2, len(OBS)) and x.dtype == np.float32 for x in found)
    for i, j, k in np.ndindex(found.gradient.shape):
        mask = jax.tree.map(lambda x, i=i, j=j: x[i, j], masks)
        one = mask_policy(jax.tree.map(lambda x, i=i: x[i], policy), mask)
        corners = float(distances(one, OBS[k], grid([-EPS, EPS])).max())
        assert found.corners[i, j, k] == pytest.approx(corners, rel=1e-4)
        largest = float(distances(one, OBS[k], grid(np.linspace(-EPS, EPS, 41))).max())
        assert largest * 0.99 <= found.doubled[i, j, k] <= largest * 1.005
        assert found.gradient[i, j, k] <= largest * 1.005
    assert np.all(found.zero_gradient == 0) and np.all(np.isnan(found.transferred))


def test_the_gradient_is_what_reached_finds():
    """The D of a Gaussian is that of the certificates."""
    key = jax.random.key(2)
    expected = reached(policies(), None, EPS, OBS, jax.random.split(key, 5)[0], CONFIG).value
    found = diagnose(policies(), None, EPS, OBS, key, CONFIG)
    np.testing.assert_allclose(found.gradient, expected, rtol=1e-5)


def test_a_line_has_two_corners():
    """mu = 2 x, sigma 1: D = 2 eps at both, exactly, and the attack is there."""
    policy = init_policy(jax.random.key(0), 1, 1, hidden=())
    policy = changed(policy, "layer_0", kernel=lambda x: jnp.full_like(x, 2.0))
    found = diagnose(policy, None, 0.125, np.ones((1, 1)), jax.random.key(0), CONFIG, policy)
    for name in REACHED:
        assert getattr(found, name) == 0.25, name
    assert found.zero_gradient == 0


def test_a_saturated_policy_hides_its_gradients():
    """1 - tanh(1000 x)^2 is 0 in float32 nearly everywhere: corners find what MAD cannot climb."""
    policy = changed(policies(), "layer_0", kernel=lambda x: 1000 * x)
    found = diagnose(policy, None, EPS, OBS, jax.random.key(3), CONFIG)
    assert found.zero_gradient.mean() > 0.9
    assert np.mean(found.corners > 1.01 * found.gradient) > 0.5


def test_what_pruning_cuts_off_is_not_counted_and_what_is_broken_is():
    """A coordinate without weights is blind by design; behind saturated units it should see."""
    cut = changed(policies(), "layer_0", kernel=lambda x: x.at[1].set(0.0))
    found = diagnose(cut, None, EPS, OBS, jax.random.key(4), CONFIG)
    np.testing.assert_array_equal(found.zero_gradient, 0.0)
    saturated = changed(policies(), "layer_0", bias=lambda x: x + 1e3)
    found = diagnose(saturated, None, EPS, OBS, jax.random.key(4), CONFIG)
    np.testing.assert_array_equal(found.zero_gradient, 1.0)
    policy = changed(policies(), "layer_1", bias=lambda x: jnp.nan * x)
    found = diagnose(policy, None, EPS, OBS, jax.random.key(4), CONFIG)
    np.testing.assert_array_equal(found.zero_gradient, 1.0)
    np.testing.assert_array_equal(found.undefined, 1.0)


def test_where_the_policy_overflows_is_counted():
    """A ReLU unit of 1e38 (x_0 - here), once more times 10: infinite on one side of the state."""
    policy = changed(policies(), "layer_0", kernel=lambda x: 0 * x, bias=lambda x: 0 * x)
    obs = np.zeros((1, 2), np.float32)
    policy = changed(policy, "layer_0", kernel=lambda x: x.at[0, 0].set(2e38))
    policy = changed(policy, "layer_1", kernel=lambda x: (0 * x).at[0, 0].set(1e2))
    found = diagnose(policy.replace(activation="relu"), None, EPS, obs, jax.random.key(5), CONFIG)
    assert 0.4 < found.undefined[0] < 0.6
    ordinary = diagnose(policies(), None, EPS, OBS, jax.random.key(5), CONFIG)
    np.testing.assert_array_equal(ordinary.undefined, 0.0)


def test_more_steps_help_an_attack_that_has_too_few():
    """One step of a quarter of the ball from a random start ends far from the corner."""
    few = MADConfig(steps=1, step_scale=0.25, restarts=1)
    found = diagnose(policies(), None, EPS, OBS, jax.random.key(5), few)
    assert found.doubled.mean() > 1.1 * found.gradient.mean()


@pytest.mark.parametrize("axes", [(), (2,)])
def test_the_perturbation_of_the_source(axes):
    """Of one source for all cells, or one each, and not at all with eps 0."""
    victim, source = policies((2,)), policies(axes, seed=7, hidden=(4, 4))
    key = jax.random.key(6)
    found = diagnose(victim, None, EPS, OBS, key, CONFIG, source)
    perturb = jax.jit(mad(CONFIG).perturb)
    for i in range(2):
        one = jax.tree.map(lambda x, i=i: x[i], victim)
        other = jax.tree.map(lambda x, i=i: x[i], source) if axes else source
        here = normalise(one, jnp.asarray(OBS[0]))
        seen, _ = perturb((), (), jax.random.split(key, 5)[4], other, here, EPS)
        expected = float(distances(one, OBS[0], (seen - here)[None])[0])
        assert found.transferred[i, 0] == pytest.approx(expected, rel=1e-4)

    still = diagnose(victim, None, 0.0, OBS, key, CONFIG, source)
    for name in REACHED:
        np.testing.assert_allclose(getattr(still, name), 0, atol=1e-6, err_msg=name)
    assert np.all(still.zero_gradient == 1)


def test_a_source_with_other_axes():
    with pytest.raises(InputError, match=r"source has leading axes \(3,\): give it none, or \(\)"):
        diagnose(policies(), None, EPS, OBS, jax.random.key(0), CONFIG, policies((3,)))


def test_other_policies_radii_and_keys_compile_nothing():
    diagnose(policies(), None, EPS, OBS, jax.random.key(0), CONFIG)
    before = _program(CONFIG).compilations
    other = diagnose(policies(seed=3), None, 0.3, OBS + 1, jax.random.key(1), CONFIG)
    assert np.all(other.corners > 0) and _program(CONFIG).compilations == before
