"""Networks whose outputs are linear or monotone in one direction: attacks on them are known."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.attacks.action_value import blank_critic
from jaxprune.envs import EnvSpec
from jaxprune.policy import init_policy
from jaxprune.types import Array, Policy

SMALL = 1e-3  # where tanh is the identity, to 1e-6


def linear_critic(spec: EnvSpec, slope: Array):
    """Q(s, a) = slope @ (s, phi(a)), as long as that is of the order of 1."""
    critic = jax.tree.map(np.array, blank_critic(spec))
    critic["layer_0"]["kernel"][:, 0] = SMALL * np.asarray(slope)
    critic["layer_1"]["kernel"][0, 0] = 1.0
    critic["layer_2"]["kernel"][0, 0] = 1 / SMALL
    return jax.tree.map(jnp.asarray, critic)


def monotone_policy(direction: Array, outputs: Array, discrete: bool = False) -> Policy:
    """Means or logits `outputs * tanh(direction @ s)`."""
    policy = init_policy(
        jax.random.key(0), len(direction), len(outputs), discrete=discrete, hidden=(8,)
    )
    actor = jax.tree.map(lambda x: np.zeros_like(x), policy.params.actor)
    actor["layer_0"]["kernel"][:, 0] = direction
    actor["layer_1"]["kernel"][0] = outputs
    return replace(policy, params=policy.params._replace(actor=jax.tree.map(jnp.asarray, actor)))
