"""Adversaries that do not look at the policy.

Source: the families of random attacks in github.com/AmineAndam04/advrl.
"""

import jax
import jax.numpy as jnp

from jaxprune.attacks.base import Attack, memoryless
from jaxprune.envs import EnvSpec
from jaxprune.types import Array, Key, Policy


def uniform() -> Attack:
    """x' ~ U(x - eps, x + eps), independently at every step."""

    def perturb(key: Key, victim: Policy, obs_norm: Array, eps: Array) -> Array:
        del victim  # noise does not aim
        noise = jax.random.uniform(key, obs_norm.shape, obs_norm.dtype, -1.0, 1.0)
        return obs_norm + eps * noise

    return memoryless(perturb)


def corners() -> Attack:
    """x' = x + eps s, s uniform on {-1, 1}^d, independently at every step."""

    def perturb(key: Key, victim: Policy, obs_norm: Array, eps: Array) -> Array:
        del victim  # noise does not aim
        return obs_norm + eps * jax.random.rademacher(key, obs_norm.shape, obs_norm.dtype)

    return memoryless(perturb)


def gaussian() -> Attack:
    """x' = x + clip(eps z, -eps, eps), z ~ N(0, I), independently at every step.

    A third of the coordinates end on the surface.
    """

    def perturb(key: Key, victim: Policy, obs_norm: Array, eps: Array) -> Array:
        del victim  # noise does not aim
        noise = jax.random.normal(key, obs_norm.shape, obs_norm.dtype)
        return obs_norm + eps * jnp.clip(noise, -1.0, 1.0)

    return memoryless(perturb)


def fixed() -> Attack:
    """x' = x + eps s at every step, s uniform on {-1, 1}^d, drawn once per episode.

    A bias of the sensors: unlike noise, it does not average out over an episode.
    """

    def init(params: Array, key: Key) -> Array:
        return jax.random.rademacher(key, params.shape, params.dtype)

    def blank(victim: Policy, spec: EnvSpec) -> Array:
        del victim  # noise does not aim
        return jnp.zeros(spec.obs_size)  # no parameters, but what an observation looks like

    def perturb(params, memory, key, victim, obs_norm, eps, moment=None):
        del params, key, victim, moment  # all was drawn before
        return obs_norm + eps * memory, memory

    return Attack(perturb, init, blank)
