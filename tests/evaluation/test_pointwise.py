"""`reached`: axes, agreement with the definition, and what it is bounded by."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.attacks import MADConfig
from jaxprune.certify import BOUNDS, certify
from jaxprune.evaluation.pointwise import reached
from jaxprune.policy import action_distribution, init_policy, normalise
from jaxprune.pruning import prune

OBS = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
CONFIG = MADConfig(steps=20, restarts=3)


def policies(discrete: bool, *shape: int):
    make = lambda key: init_policy(key, 4, 3, hidden=(8, 8), discrete=discrete)  # noqa: E731
    for _ in shape:
        make = jax.vmap(make)
    policy = jax.jit(make)(jax.random.split(jax.random.key(0), shape))
    policy.params.actor["layer_2"]["kernel"] = 100 * policy.params.actor["layer_2"]["kernel"]
    return policy


@pytest.mark.parametrize("discrete", [False, True])
def test_axes_and_certificates_above(discrete):
    """[2 agents, 3 masks, 5 observations], and every bound of D and TV is above at each."""
    policy = policies(discrete, 2)
    masks = prune(policy, "magnitude", [0.0, 0.3, 0.6])
    found = reached(policy, masks, 0.1, OBS, jax.random.key(1), CONFIG)
    assert found.value.shape == found.total_variation.shape == (2, 3, 5)
    assert np.all(found.value > 0) and np.all(found.total_variation <= 1)
    names = [name for name, bound in BOUNDS.items() if not bound.slow]
    for name, bound in certify(policy, masks, 0.1, OBS, names).items():
        assert np.all(found.value <= bound.value * (1 + 1e-5)), name
        assert np.all(found.total_variation <= bound.total_variation + 1e-6), name


def test_observations_of_every_cell():
    """Leading axes of obs are those of the masks: the same as one cell at a time."""
    policy = policies(False, 2)
    masks = prune(policy, "magnitude", [0.0, 0.5])
    obs = np.random.default_rng(1).standard_normal((2, 2, 5, 4)).astype(np.float32)
    key = jax.random.key(2)
    batch = reached(policy, masks, 0.1, obs, key, CONFIG)
    for i, j in np.ndindex(2, 2):
        one = jax.tree.map(lambda x, i=i: x[i], policy)
        mask = jax.tree.map(lambda x, i=i, j=j: x[i, j], masks)
        alone = reached(one, mask, 0.1, obs[i, j], key, CONFIG)
        np.testing.assert_allclose(batch.value[i, j], alone.value, rtol=1e-5)


def test_no_corner_of_a_linear_policy_beats_it():
    """mu = W x: the worst corner is found, and D and TV are those of that corner."""
    policy = init_policy(jax.random.key(3), 4, 2, hidden=())
    corners = np.array(np.meshgrid(*[[-0.1, 0.1]] * 4), np.float32).reshape(4, -1).T

    @jax.jit
    @jax.vmap
    def moved(corner):
        here = normalise(policy, jnp.asarray(OBS[0]))
        clean, other = (action_distribution(policy, x) for x in (here, here + corner))
        return clean.distance(other), clean.total_variation(other)

    distance, total_variation = (float(np.asarray(x).max()) for x in moved(corners))
    found = reached(policy, None, 0.1, OBS[:1], jax.random.key(4), CONFIG)
    assert found.value[0] == pytest.approx(distance, rel=1e-4)
    assert found.total_variation[0] == pytest.approx(total_variation, rel=1e-4)


def test_no_ball_no_reach():
    found = reached(policies(True), None, 0.0, OBS, jax.random.key(0))
    assert not found.value.any() and np.all(found.total_variation < 1e-7)
