"""Policies as StableHLO artefacts, programs that JAX alone runs.

They take raw observations and give the deterministic action, the mean or the likeliest choice;
normalisation, masks and the clipping of actions are part of them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from numpy.typing import ArrayLike

from jaxprune.policy import action_distribution, clip_action, normalise
from jaxprune.policy_io.checks import one_policy
from jaxprune.policy_io.controller import boxed
from jaxprune.policy_io.files import read_bytes, refusing, whole_file
from jaxprune.types import Array, Masks, Policy
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
    policy = boxed(one_policy(policy, masks), action_box)
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


def _act(policy: Policy, obs: Array) -> Array:
    """The deterministic action at a raw observation `[obs]`, of a policy whose box is its own."""
    action = action_distribution(policy, normalise(policy, obs)).mode()
    return clip_action(policy, action, None)


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
