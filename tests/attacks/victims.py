"""Victims for tests of attacks."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

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


def tanh_policy(head="normal", seed=0, obs_size=4) -> Policy:
    """A network whose 3 outputs are of the order of 1."""
    policy = init_policy(
        jax.random.key(seed), obs_size, 3, discrete=head == "categorical", hidden=(16, 16)
    )
    last = policy.params.actor["layer_2"]
    last["kernel"] = 100 * last["kernel"]  # from gain 0.01 to 1
    return policy


def attacked(attack, policy, states, eps, keys):
    """One step of an unprepared attack without parameters on many states, `[n, obs_size]`."""

    def run(policy, key, x, eps):  # the policy is data, as in a rollout
        return attack.perturb((), (), key, policy, x, eps)[0]

    return np.asarray(jax.jit(jax.vmap(run, (None, 0, 0, None)))(policy, keys, states, eps))
