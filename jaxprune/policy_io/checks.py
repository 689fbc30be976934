"""What has to hold of a policy before it goes through a file."""

from pathlib import Path

import jax
import jax.numpy as jnp

from jaxprune.families import InputError, lookup
from jaxprune.policy import ACTIVATIONS, HEADS
from jaxprune.pruning.masks import mask_policy
from jaxprune.types import Masks, Policy


def one_policy(policy: Policy, masks: Masks | None) -> Policy:
    """The policy with its masks folded in, which has to be a single one.

    Raises:
        InputError: policy or masks have leading axes.
    """
    masked = mask_policy(policy, masks)
    axes = masked.params.actor["layer_0"]["kernel"].shape[:-2]
    if axes:
        raise InputError(
            f"policy and masks hold a population {axes}: only one policy can be written; take it "
            "first, e.g. jax.tree.map(lambda x: x[0], policy)"
        )
    return masked


def check_policy(policy: Policy, path: str | Path) -> None:
    """Raises `InputError` unless the parts of the policy fit each other."""
    lookup(ACTIVATIONS, policy.activation, f"activation in {path}")
    lookup(HEADS, policy.distribution, f"distribution in {path}")
    stats, size = policy.obs_stats, policy.obs_stats.mean.shape
    problem = None
    if len(size) != 1 or stats.std.shape != size:
        problem = f"obs_mean {size} and obs_std {stats.std.shape} differ"
    for prefix, layers in (("policy", policy.params.actor), ("value", policy.params.critic)):
        width = size[0] if size else 0
        for i in range(len(layers)):
            kernel, bias = layers[f"layer_{i}"]["kernel"], layers[f"layer_{i}"]["bias"]
            if kernel.shape != (width, *bias.shape):
                problem = f"{prefix}/{i}/kernel {kernel.shape} does not map {width} to {bias.shape}"
            width = bias.shape[-1] if bias.shape else 0
    outputs = policy.params.actor[f"layer_{len(policy.params.actor) - 1}"]["bias"].shape
    if policy.distribution == "normal" and policy.params.log_std.shape != outputs:
        problem = f"log_std {policy.params.log_std.shape} differs from the outputs {outputs}"
    if stats.count.shape != ():
        problem = f"obs_count {stats.count.shape} is not one number"
    values = policy.params.critic[f"layer_{len(policy.params.critic) - 1}"]["bias"].shape
    if values != (1,) or len(outputs) != 1:
        problem = f"the networks end in {outputs} and {values}, not in [actions] and [1]"
    if not (policy.obs_clip > 0 and bool(jnp.all(stats.std + policy.obs_std_offset > 0))):
        problem = "obs_clip or obs_std + obs_std_offset is not positive"
    numbers = (*jax.tree.leaves(policy), policy.obs_clip, policy.obs_std_offset)
    if not all(bool(jnp.all(jnp.isfinite(x))) for x in numbers):
        problem = "it holds numbers that are not finite"
    if problem:
        raise InputError(f"policy file {path} is inconsistent: {problem}")
