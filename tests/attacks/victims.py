"""Victims for tests of attacks."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.attacks.gradient import divergence
from jaxprune.policy import init_policy
from jaxprune.types import Policy


def linear_policy(weight, log_std=0.0, head="normal", critic=None, dtype="float32") -> Policy:
    """Means or logits `weight @ x`, weight `[outputs, obs_size]`; V(x) = critic @ x, if any."""
    weight = np.asarray(weight, dtype)
    outputs, size = weight.shape
    policy = init_policy(jax.random.key(0), size, outputs, discrete=head == "categorical")
    log_std = np.zeros(0) if head == "categorical" else np.broadcast_to(log_std, outputs)
    critic = np.zeros(size) if critic is None else np.asarray(critic)
    stats = jax.tree.map(lambda x: x.astype(dtype), policy.obs_stats)
    params = policy.params._replace(
        actor=layer(weight, dtype),
        critic=layer(critic[None], dtype),
        log_std=jnp.asarray(log_std, dtype),
    )
    return replace(policy, params=params, obs_stats=stats)


def layer(weight, dtype="float32"):
    """A network of one layer without bias."""
    bias = jnp.zeros(len(weight), dtype)
    return {"layer_0": {"kernel": jnp.asarray(np.transpose(weight), dtype), "bias": bias}}


@cache
def tanh_policy(head="normal", seed=0, obs_size=4) -> Policy:
    """A network whose 3 outputs are of the order of 1."""
    policy = _drawn(jax.random.key(seed), obs_size, head == "categorical")
    actor = policy.params.actor
    last = {**actor["layer_2"], "kernel": 100 * actor["layer_2"]["kernel"]}  # from gain 0.01 to 1
    return replace(policy, params=policy.params._replace(actor={**actor, "layer_2": last}))


@partial(jax.jit, static_argnums=(1, 2))
def _drawn(key, obs_size: int, discrete: bool) -> Policy:
    return init_policy(key, obs_size, 3, discrete=discrete, hidden=(16, 16))


def attacked(attack, policy, states, eps, keys):
    """One step of an unprepared attack without parameters on many states, `[n, obs_size]`."""
    return np.asarray(_step(attack.perturb)(policy, keys, states, eps))


@cache
def _step(perturb):
    def run(policy, key, x, eps):  # the policy is data, as in a rollout
        return perturb((), (), key, policy, x, eps)[0]

    return jax.jit(jax.vmap(run, (None, 0, 0, None)))


@jax.jit
def divergences(policy, states, points):
    """KL from every state to its point, `[n]`."""
    return jax.vmap(lambda x, y: divergence(policy, x)(y))(states, points)
