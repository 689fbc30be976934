"""Adversaries that do not look at the policy."""

import jax

from jaxprune.attacks.base import Attack, memoryless
from jaxprune.types import Array, Key, Policy


def uniform() -> Attack:
    """x' ~ U(x - eps, x + eps), independently at every step."""

    def perturb(key: Key, victim: Policy, obs_norm: Array, eps: Array) -> Array:
        del victim  # noise does not aim
        noise = jax.random.uniform(key, obs_norm.shape, obs_norm.dtype, -1.0, 1.0)
        return obs_norm + eps * noise

    return memoryless(perturb)
