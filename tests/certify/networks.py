"""Networks that several certificate tests share, in numpy: making one compiles no program."""

import itertools
import math

import jax
import numpy as np

from jaxprune.certify.query import make_query
from jaxprune.policy import Affine
from jaxprune.types import Masks, ObsStats, Params, Policy


def network(seed: int, sizes: tuple[int, ...], hidden_gain: float = 1.0) -> list[Affine]:
    """The reference networks of certificates.md 4.2, drawn layer by layer in float64."""
    rng, layers = np.random.default_rng(seed), []
    for k, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        gain = hidden_gain if k < len(sizes) - 2 else 1.0
        weight = gain * rng.standard_normal((fan_out, fan_in)) / math.sqrt(fan_in)
        layers.append(Affine(weight, 0.1 * rng.standard_normal(fan_out)))
    return layers


def policy_of(layers: list[Affine], distribution="normal", activation="tanh", std=1.0) -> Policy:
    """A float32 policy with these actor layers, and a critic that says 0."""
    size, actions = layers[0].weight.shape[1], layers[-1].bias.size
    actor = {f"layer_{i}": {"kernel": w.T, "bias": b} for i, (w, b) in enumerate(layers)}
    critic = {"layer_0": {"kernel": np.zeros((size, 1)), "bias": np.zeros(1)}}
    log_std = np.full(0 if distribution == "categorical" else actions, math.log(std))
    stats = ObsStats(np.zeros(size), np.ones(size), np.zeros(()))
    policy = Policy(Params(actor, critic, log_std), stats, activation, distribution)
    return jax.tree.map(lambda x: np.asarray(x, "float32"), policy)


def full_masks(policy: Policy, *shape: int) -> Masks:
    """Masks that keep everything, with leading axes `shape`; the caller may alter them."""
    return jax.tree.map(lambda x: np.ones((*shape, *x.shape), bool), policy.params)


def bound(fn, layers, eps=1.0, inv_std=1.0, activation="tanh") -> float:
    """A global bound in float64; `inv_std` None for logits."""
    return float(answer(fn, layers, eps, inv_std, activation))


def answer(fn, layers, eps=1.0, inv_std=1.0, activation="tanh"):
    """Returns what a function of a query says in float64."""
    layers = [Affine(*(np.asarray(x, "float64") for x in layer)) for layer in layers]
    size, actions = layers[0].weight.shape[1], layers[-1].weight.shape[0]
    eps = np.broadcast_to(np.asarray(eps, "float64"), (size,))
    inv_std = None if inv_std is None else np.full(actions, inv_std)
    query = make_query(layers, eps, inv_std, activation, centre=np.zeros(size))
    with jax.enable_x64(True):
        return jax.device_get(jax.jit(fn)(query))
