"""The distributions of noise, and the one that lasts an episode."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.attacks.noise import corners, fixed, gaussian
from tests.attacks.victims import attacked, tanh_policy
from tests.probes import probe_spec

COUNT, SIZE, EPS = 10_000, 4, 0.5
STATES = jnp.zeros((COUNT, SIZE))
KEYS = jax.random.split(jax.random.key(1), COUNT)


def draws(attack) -> np.ndarray:
    """What is added, in units of eps, `[COUNT, SIZE]`."""
    return attacked(attack, tanh_policy(), STATES, EPS, KEYS) / EPS


def test_corners_are_all_as_likely():
    """16 corners: each frequency within 5 standard errors of 1/16."""
    signs = draws(corners())
    assert set(np.unique(signs)) == {-1.0, 1.0}
    frequencies = np.bincount((signs > 0) @ (1 << np.arange(SIZE)), minlength=16) / COUNT
    assert np.all(np.abs(frequencies - 1 / 16) < 5 * (15 / 256 / COUNT) ** 0.5)


def test_gaussian_is_a_clipped_normal():
    """P(|z| > 1) = 0.3173 ends on the surface, half on either side; inside, it is normal."""
    noise = draws(gaussian())
    outside = 0.31731
    assert np.max(np.abs(noise)) == 1.0
    assert abs(np.mean(np.abs(noise) == 1.0) - outside) < 5 * (outside / noise.size) ** 0.5
    assert abs(np.mean(noise)) < 5 / noise.size**0.5
    below = np.mean(noise < 0.5)
    assert abs(below - 0.69146) < 5 * (0.25 / noise.size) ** 0.5


def played(key, eps=EPS, steps=20):
    """The perturbations of an episode, `[steps, SIZE]`."""
    attack, policy = fixed(), tanh_policy()
    params = attack.blank(policy, probe_spec("any", 5, obs_size=SIZE))

    def step(memory, key):
        moved, memory = attack.perturb(params, memory, key, policy, STATES[0], eps)
        return memory, moved

    keys = jax.random.split(jax.random.key(2), steps)
    return jax.lax.scan(step, attack.init(params, key), keys)[1]


def test_fixed_lasts_an_episode_and_changes_with_the_next():
    episodes = np.asarray(jax.vmap(played)(KEYS[:32]))
    assert np.all(np.abs(episodes) == EPS)
    assert np.all(episodes == episodes[:, :1])
    assert 8 < len(np.unique(episodes[:, 0], axis=0)) <= 16
    assert not np.any(played(KEYS[0], eps=0.0, steps=2))
