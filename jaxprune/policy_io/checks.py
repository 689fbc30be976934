"""What has to hold of a policy before it goes through a file."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.policy import ACTIVATIONS, HEADS
from jaxprune.pruning.masks import mask_policy
from jaxprune.types import ActionBox, Masks, Policy
from jaxprune.validation import InputError, lookup


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


def numbers(array: np.ndarray, name: str, path: str | Path) -> np.ndarray:
    """The array, which has to hold integers or floats: another type would lose what it says.

    Raises:
        InputError: it holds truth values, complex numbers, text, dates or objects.
    """
    if array.dtype.kind not in "fiu" and not jnp.issubdtype(array.dtype, jnp.floating):
        raise InputError(
            f"file {path} is inconsistent: {name!r} holds {array.dtype.name}, but weights and "
            "statistics are real numbers; write them as float32"
        )
    return array


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
            if 0 in kernel.shape:
                problem = f"{prefix}/{i}/kernel {kernel.shape} has no entry"
            width = bias.shape[-1] if bias.shape else 0
    outputs = policy.params.actor[f"layer_{len(policy.params.actor) - 1}"]["bias"].shape
    discrete = HEADS[policy.distribution].discrete
    if not discrete and policy.params.log_std.shape != outputs:
        problem = f"log_std {policy.params.log_std.shape} differs from the outputs {outputs}"
    if stats.count.shape != ():
        problem = f"obs_count {stats.count.shape} is not one number"
    elif stats.count < 0:
        problem = f"obs_count {stats.count:g} is negative"
    values = policy.params.critic[f"layer_{len(policy.params.critic) - 1}"]["bias"].shape
    if values != (1,) or len(outputs) != 1:
        problem = f"the networks end in {outputs} and {values}, not in [actions] and [1]"
    if not (policy.obs_clip > 0 and bool(jnp.all(stats.std + policy.obs_std_offset > 0))):
        problem = "obs_clip or obs_std + obs_std_offset is not positive"
    if discrete and policy.action_box is not None:
        problem = "it clips actions that are choices"
    elif policy.squash and policy.action_box is None:
        problem = "it squashes actions, but into no box"
    elif isinstance(policy.action_box, ActionBox):
        problem = _problem_of_box(policy.action_box, outputs) or problem
    every = (*jax.tree.leaves(policy), policy.obs_clip, policy.obs_std_offset)
    if not all(bool(jnp.all(jnp.isfinite(x))) for x in every):
        problem = "it holds numbers that are not finite"
    if problem:
        raise InputError(f"policy file {path} is inconsistent: {problem}")


def _problem_of_box(box: ActionBox, outputs: tuple[int, ...]) -> str | None:
    """What is wrong with the box that actions are clipped to."""
    sizes = (len(box.low), len(box.high))
    if any((size,) != outputs for size in sizes):
        return f"action_low {sizes[0]} and action_high {sizes[1]} differ from the outputs {outputs}"
    if not all(low <= high for low, high in zip(*box, strict=True)):  # a NaN is neither
        return "action_low is not below action_high"
    return None
