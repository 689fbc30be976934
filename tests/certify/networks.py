"""Networks that several certificate tests share."""

import itertools
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.certify.query import make_query
from jaxprune.policy import Affine, init_policy
from jaxprune.types import Policy


def network(seed: int, sizes: tuple[int, ...], hidden_gain: float = 1.0) -> list[Affine]:
    """The reference networks of certificates.md 4.2, drawn layer by layer in float64."""
    rng, layers = np.random.default_rng(seed), []
    for k, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        gain = hidden_gain if k < len(sizes) - 2 else 1.0
        weight = gain * rng.standard_normal((fan_out, fan_in)) / math.sqrt(fan_in)
        layers.append(Affine(weight, 0.1 * rng.standard_normal(fan_out)))
    return layers


def policy_of(layers: list[Affine], distribution="normal", activation="tanh", std=1.0) -> Policy:
    """A float32 policy with these actor layers."""
    fan_in, fan_out = layers[0].weight.shape[1], layers[-1].weight.shape[0]
    discrete = distribution == "categorical"
    hidden = [layer.weight.shape[0] for layer in layers[:-1]]
    policy = init_policy(
        jax.random.key(0),
        fan_in,
        fan_out,
        discrete=discrete,
        hidden=hidden,
        activation=activation,
        init_log_std=math.log(std),
    )
    actor = {
        f"layer_{i}": {"kernel": jnp.asarray(w.T, "float32"), "bias": jnp.asarray(b, "float32")}
        for i, (w, b) in enumerate(layers)
    }
    return replace(policy, params=policy.params._replace(actor=actor))


def bound(fn, layers, eps=1.0, inv_std=1.0, activation="tanh") -> float:
    """A global bound in float64; `inv_std` None for logits."""
    with jax.enable_x64(True):
        layers = [Affine(*(jnp.asarray(x, "float64") for x in layer)) for layer in layers]
        size, actions = layers[0].weight.shape[1], layers[-1].weight.shape[0]
        eps = jnp.broadcast_to(jnp.asarray(eps, "float64"), (size,))
        inv_std = None if inv_std is None else jnp.full(actions, inv_std)
        return float(jax.jit(fn)(make_query(layers, eps, inv_std, activation)))
