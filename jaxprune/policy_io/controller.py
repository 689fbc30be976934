"""The deterministic policy as plain numpy arrays, from which files for devices are written.

A raw observation o becomes x_0 = clip((o - mean) / std, -c, c), a layer x_(l+1) = f(W_l x_l + b_l),
the last one without f. The action is the last x, clipped to a box or squashed into it if the policy
has one, or the first of its largest entries. All numbers are float32.
"""

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxprune.policy import HEADS, affine_layers
from jaxprune.policy import action_box as box_of
from jaxprune.policy_io.checks import one_policy
from jaxprune.types import ActionBox, Masks, Policy
from jaxprune.validation import InputError


class Spelling(NamedTuple):
    """An activation f in the languages that policies leave in."""

    numpy: Callable[[np.ndarray], np.ndarray]
    onnx: str  # operator
    c: str  # expression of the float x
    gated: bool = False  # whether x is multiplied by what the operator of ONNX gives


ACTIVATIONS = {
    "tanh": Spelling(np.tanh, "Tanh", "tanhf(x)"),
    "relu": Spelling(lambda x: np.maximum(x, 0), "Relu", "x < 0.0f ? 0.0f : x"),
    "swish": Spelling(
        lambda x: x / (1 + np.exp(np.minimum(-x, 80))),  # which does not overflow
        "Sigmoid",
        "x / (1.0f + expf(-x))",
        gated=True,
    ),
}


class Controller(NamedTuple):
    """A policy on its way to a device; all that acting needs."""

    mean: np.ndarray  # [obs]
    std: np.ndarray  # [obs], the policy's offset added
    obs_clip: np.float32
    layers: tuple[tuple[np.ndarray, np.ndarray], ...]  # (W [out, in], b [out]) of each
    activation: Spelling
    discrete: bool
    box: tuple[np.ndarray, ...] | None  # (low, high), [act] each
    squash: bool  # into the box, instead of clipping to it


def controller_of(
    policy: Policy, masks: Masks | None, action_box: tuple[ArrayLike, ArrayLike] | None
) -> Controller:
    """Returns a policy with its masks folded in.

    Args:
        policy: a single one.
        masks: of it; None keeps everything.
        action_box: (low, high) of the task, as for `numpy_policy`.

    Raises:
        InputError: policy or masks have leading axes, the box is needed, numbers are not finite,
            or the head or the activation cannot be expressed.
    """
    for kind, name, known in (
        ("head", policy.distribution, HEADS),
        ("activation", policy.activation, ACTIVATIONS),
    ):
        if name not in known:
            raise InputError(
                f"the {kind} {name!r} cannot be exported: {', '.join(known)} can; "
                "jaxprune.save_policy keeps every policy"
            )
    policy = boxed(one_policy(policy, masks), action_box)
    layers = tuple((_float32(w), _float32(b)) for w, b in affine_layers(policy))
    mean, std = map(_float32, policy.obs_stats[:2])
    if not all(np.isfinite(x).all() for x in (mean, std, *itertools.chain(*layers))):
        raise InputError("the policy holds numbers that are not finite: export another one")
    return Controller(
        mean,
        std + np.float32(policy.obs_std_offset),
        np.float32(policy.obs_clip),
        layers,
        ACTIVATIONS[policy.activation],
        HEADS[policy.distribution].discrete,
        None if policy.action_box is None else tuple(map(_float32, policy.action_box)),
        policy.squash,
    )


def numpy_policy(
    policy: Policy,
    masks: Masks | None = None,
    action_box: tuple[ArrayLike, ArrayLike] | None = None,
) -> Callable[[ArrayLike], np.ndarray | np.generic]:
    """Returns the deterministic policy as a function of numpy alone, e.g. for a Gymnasium loop.

        act = jaxprune.numpy_policy(policy, masks)
        obs, _ = env.reset(seed=0)
        done = False
        while not done:
            obs, reward, terminated, truncated, _ = env.step(act(obs))
            done = terminated or truncated

    It takes raw observations `[obs]` or `[n, obs]` and gives float32 actions `[act]` or `[n, act]`,
    or int32 choices `[]` or `[n]`. Means are clipped as the policy's library clips them: those of
    our own learner are not, those of Stable-Baselines3 to the box that the file holds, those of
    CleanRL to `action_box`.

    Args:
        policy: a single one.
        masks: folded in; None keeps everything.
        action_box: (low, high) of the task, `[act]` or one number each, for a policy that clips to
            it; others do not look at it. `(space.low, space.high)` of a Gymnasium Box, or
            `env.spec.action_box`.

    Raises:
        InputError: policy or masks have leading axes, hold numbers that are not finite, or the
            policy clips to the box of a task that is not given; from the function, other shapes.
    """
    controller = controller_of(policy, masks, action_box)
    mean, std, clip, layers, activation, discrete, box, squash = controller
    *hidden, (last, last_bias) = [(weight.T, bias) for weight, bias in layers]
    activate, low, high = activation.numpy, np.full_like(mean, -clip), np.full_like(mean, clip)

    def act(obs: ArrayLike) -> np.ndarray | np.generic:
        x = np.asarray(obs, np.float32)
        if x.ndim not in (1, 2) or x.shape[-1:] != mean.shape:
            raise InputError(
                f"observations {x.shape} do not fit the policy: give [{mean.size}] or "
                f"[n, {mean.size}]"
            )
        # For vectors this short `dot` takes half the time of `@`, and these two that of `np.clip`.
        x = np.minimum(np.maximum((x - mean) / std, low), high)
        for kernel, bias in hidden:
            x = activate(x.dot(kernel) + bias)
        x = x.dot(last) + last_bias
        if discrete:
            return np.argmax(x, axis=-1).astype(np.int32)
        if box is None:
            return x
        if squash:
            return box[0] + (box[1] - box[0]) * (np.tanh(x) + 1) / 2
        return np.minimum(np.maximum(x, box[0]), box[1])

    return act


def boxed(policy: Policy, task: tuple[ArrayLike, ArrayLike] | None) -> Policy:
    """Returns the policy with the box that it clips to as its own; `task` is that of the task.

    Raises:
        InputError: the policy needs the box of the task, which is None or of another size.
    """
    box = None
    if task is not None:
        shape = policy.params.log_std.shape
        try:
            low, high = (np.broadcast_to(np.asarray(end, float), shape).tolist() for end in task)
        except (TypeError, ValueError):
            raise InputError(
                f"action_box {task!r} does not fit actions {shape}: give (low, high)"
            ) from None
        box = ActionBox(tuple(low), tuple(high))
    return replace(policy, action_box=box_of(policy, box))


def _float32(array: ArrayLike) -> np.ndarray:
    return np.ascontiguousarray(array, np.float32)
