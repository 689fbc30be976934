"""Smaller policies with equal outputs: units that masks cut off are taken out of the arrays.

Shapes change, so that this runs in numpy on the host, one agent at a time.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import jax
import numpy as np

from jaxprune.policy import ACTIVATIONS
from jaxprune.pruning.accounting import Network, check_one_agent, find_paths, in_order
from jaxprune.pruning.masks import masked_on_host
from jaxprune.pruning.scope import NETWORKS
from jaxprune.types import AnyArray, Masks, Policy
from jaxprune.validation import lookup

Layers = list[dict[str, AnyArray]]
Activation = Callable[[AnyArray], AnyArray]


def compact(policy: Policy, masks: Masks | None = None) -> Policy:
    """A policy without the hidden units that do nothing; its outputs agree to rounding.

    Hidden units of actor and critic stay if some input reaches them and they reach some output.
    Those that reach no output are dropped. Those that no input reaches have a constant activation
    c = activation(bias), which moves into the biases of the next layer, b' = b + W c, layer by
    layer. Where no input reaches any output nothing is left but the output biases; every hidden
    layer then keeps one unit, with zero weights and bias. Inputs and outputs all stay.

    Args:
        policy: one agent.
        masks: True = keep, folded into the result; what goes is decided by them alone. None: by
            the weights of `policy` that are exactly 0.

    Returns:
        The policy, with numpy leaves.

    Raises:
        InputError: several agents at once, masks of other shapes, or an unknown activation.
    """
    check_one_agent(policy, masks)
    activation = lookup(ACTIVATIONS, policy.activation, "activation")
    kept = policy.params if masks is None else masks
    policy, kept = masked_on_host(policy, masks), jax.device_get(kept)
    params = policy.params._replace(
        actor=_compact(policy.params.actor, kept.actor, activation),
        critic=_compact(policy.params.critic, kept.critic, activation),
    )
    return replace(policy, params=params)


def parameter_count(policy: Policy, networks: str = "both") -> int:
    """Kernel and bias entries of one agent's "actor", "critic" or "both"."""
    return sum(math.prod(leaf.shape) for leaf in _leaves(policy, networks))


def _leaves(policy: Policy, networks: str) -> list[AnyArray]:
    names = lookup(NETWORKS, networks, "networks to count")
    return jax.tree.leaves([getattr(policy.params, name) for name in names])


def _compact(network: Network, kept: Network, activation: Activation) -> Network:
    paths = find_paths([layer["kernel"] != 0 for layer in in_order(kept)])
    # On a path from an input to an output; of the first and last level everything stays.
    used = [a & b for a, b in zip(paths.from_input, paths.to_output, strict=True)]
    layers = _folded(in_order(network), paths.from_input, activation)
    if not all(level.any() for level in used):  # one level is cut, and with it all of them
        used = [np.arange(len(level)) == 0 for level in used]
        output = layers[-1]["bias"]
        layers = jax.tree.map(np.zeros_like, layers)
        layers[-1]["bias"] = output
    used[0], used[-1] = np.ones_like(used[0]), np.ones_like(used[-1])
    return {
        f"layer_{i}": {
            "kernel": layer["kernel"][np.ix_(used[i], used[i + 1])],
            "bias": layer["bias"][used[i + 1]],
        }
        for i, layer in enumerate(layers)
    }


def _folded(layers: Layers, from_input: list[np.ndarray], activation: Activation) -> Layers:
    """The layers with the activations of constant units in the biases after them."""
    constants = np.zeros(len(from_input[0]))  # activations that no input reaches, else 0
    folded: Layers = []
    for layer, reached in zip(layers, from_input[:-1], strict=True):
        if folded:
            # All inputs of a constant unit are constant, so that its bias is all of its sum.
            before = np.asarray(activation(folded[-1]["bias"]), np.float64)
            constants = np.where(reached, 0, before)
        kernel, bias = layer["kernel"], layer["bias"]
        bias = (bias + constants @ kernel.astype(np.float64)).astype(bias.dtype)
        folded.append({"kernel": kernel, "bias": bias})
    return folded
