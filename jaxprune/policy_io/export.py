"""Policies for other programs: a StableHLO artefact, and a plain numpy function.

Both take raw observations and give the deterministic action, the mean or the likeliest choice;
normalisation, masks and the clipping of actions are part of them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from numpy.typing import ArrayLike

from jaxprune.policy import action_box as box_of
from jaxprune.policy import action_distribution, clip_action, normalise
from jaxprune.policy_io.checks import one_policy
from jaxprune.policy_io.files import read_bytes, refusing, whole_file
from jaxprune.types import ActionBox, Array, Masks, Policy
from jaxprune.validation import InputError

PLATFORMS = ("cpu", "cuda", "tpu")


def export_policy(
    path: str | Path,
    policy: Policy,
    masks: Masks | None = None,
    action_box: tuple[ArrayLike, ArrayLike] | None = None,
) -> None:
    """The deterministic policy as a serialized `jax.export` artefact (StableHLO).

    It maps float32 `[b, obs]`, raw, to actions `[b, act]` or int32 choices `[b]`, for any batch
    size b, on CPU, CUDA and TPU, in full float32 precision. `load_exported` or
    `jax.export.deserialize` read it. The file appears whole or not at all.

    Args:
        path: of the file; an old one is replaced.
        policy: a single one.
        masks: folded in; None keeps everything.
        action_box: of the task, as for `numpy_policy`.

    Raises:
        InputError: policy or masks have leading axes, or the box is needed.
    """
    policy = _boxed(one_policy(policy, masks), action_box)
    policy = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), policy)
    (batch,) = export.symbolic_shape("b")
    obs = jax.ShapeDtypeStruct((batch, *policy.obs_stats.mean.shape), jnp.float32)
    act = jax.jit(jax.vmap(partial(_act, policy)))
    # Precision becomes part of the program; the paths of this machine must not.
    with jax.default_matmul_precision("highest"), _without_source_locations():
        artefact = export.export(act, platforms=PLATFORMS)(obs)
    with whole_file(path) as file:
        file.write(artefact.serialize())


def load_exported(path: str | Path) -> Callable[[np.ndarray | Array], Array]:
    """What `export_policy` wrote, as a function of raw observations `[b, obs]`.

    The file is a program: it is compiled here, and runs when the function is called.

    Raises:
        InputError: the file is missing or no such artefact; from the function, other shapes.
    """
    if not Path(path).exists():
        raise InputError(f"no exported policy at {path}: give what jaxprune.export_policy wrote")
    complaint = f"exported policy {path} is truncated or none: write it with jaxprune.export_policy"
    with refusing(complaint):
        artefact = export.deserialize(bytearray(read_bytes(path)))
        (expected,) = artefact.in_avals
        (_, size) = expected.shape
        act = jax.jit(artefact.call)
        act.lower(jax.ShapeDtypeStruct((1, size), jnp.float32))  # parses the program

    def policy(obs: np.ndarray | Array) -> Array:
        if np.ndim(obs) != 2 or np.shape(obs)[1] != size:
            raise InputError(f"observations {np.shape(obs)} do not fit {path}: give [b, {size}]")
        return act(jnp.asarray(obs, jnp.float32))

    return policy


def numpy_policy(
    policy: Policy,
    masks: Masks | None = None,
    action_box: tuple[ArrayLike, ArrayLike] | None = None,
) -> Callable[[np.ndarray], np.ndarray | np.generic]:
    """The deterministic policy as a function on numpy arrays, e.g. for a Gymnasium loop.

        act = jaxprune.numpy_policy(policy, masks)
        obs, _ = env.reset(seed=0)
        done = False
        while not done:
            obs, reward, terminated, truncated, _ = env.step(act(obs))
            done = terminated or truncated

    It takes raw observations `[obs]` or `[n, obs]` and gives actions `[act]` or `[n, act]`, or
    int32 choices `[]` or `[n]`. Means are clipped as the policy's library clips them: those of our
    own learner are not, those of Stable-Baselines3 to the box that the file holds, those of CleanRL
    to `action_box`. One program is compiled per n.

    Args:
        policy: a single one.
        masks: folded in; None keeps everything.
        action_box: (low, high) of the task, `[act]` or one number each, for a policy that clips to
            it; others do not look at it. `(space.low, space.high)` of a Gymnasium Box, or
            `env.spec.action_box`.

    Raises:
        InputError: policy or masks have leading axes, or the policy clips to the box of a task that
            is not given; from the function, other shapes.
    """
    policy = jax.tree.map(jnp.asarray, _boxed(one_policy(policy, masks), action_box))
    mean = policy.obs_stats.mean

    def act(obs: np.ndarray) -> np.ndarray | np.generic:
        if np.ndim(obs) not in (1, 2) or np.shape(obs)[-1:] != mean.shape:
            raise InputError(
                f"observations {np.shape(obs)} do not fit the policy: give [{mean.size}] or "
                f"[n, {mean.size}]"
            )
        program = _ACT_ONE if np.ndim(obs) == 1 else _ACT_MANY
        return np.asarray(program(policy, np.asarray(obs, mean.dtype)))[()]

    return act


def _act(policy: Policy, obs: Array) -> Array:
    """The deterministic action at a raw observation `[obs]`, of a policy whose box is its own."""
    action = action_distribution(policy, normalise(policy, obs)).mode()
    return clip_action(policy, action, None)


def _boxed(policy: Policy, task: tuple[ArrayLike, ArrayLike] | None) -> Policy:
    """The policy with the box that it clips to as its own; `task` is (low, high) of the task.

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


@contextmanager
def _without_source_locations() -> Iterator[None]:
    """Programs lowered here do not say which lines of which files they come from."""
    name = "jax_traceback_in_locations_limit"
    limit = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, limit)


_ACT_ONE = jax.jit(_act)
_ACT_MANY = jax.jit(jax.vmap(_act, in_axes=(None, 0)))
