"""Policies from and to files: one policy as .npz (format version 1), populations with Orbax.

The .npz format is raw arrays only, nothing pickled: `obs_mean`, `obs_std` `[obs]`, `obs_count`,
`obs_clip`, `obs_std_offset`, `activation`, `distribution`, `log_std` `[act]` (normal only), and
`policy/i/kernel` `[in, out]`, `policy/i/bias` `[out]`, `value/i/...` per layer.
"""

import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

from jaxprune.families import InputError, lookup
from jaxprune.policy import ACTIVATIONS, HEADS
from jaxprune.types import Masks, ObsStats, Params, Policy

STATIC = ("activation", "distribution", "obs_clip", "obs_std_offset")


def load_policy(path: str | Path) -> Policy:
    """One policy from a .npz file; arrays in JAX's default float type.

    Raises:
        InputError: the file is missing, truncated, pickled, incomplete or inconsistent.
    """
    raw = _read_npz(Path(path))

    def need(name: str) -> np.ndarray:
        if name not in raw:
            raise InputError(
                f"policy file {path} lacks {name!r}: save it with jaxprune.save_policy"
            )
        return raw[name]

    def network(prefix: str) -> dict[str, dict[str, jax.Array]]:
        count = len({name.split("/")[1] for name in raw if name.startswith(f"{prefix}/")})
        names = {leaf: f"{prefix}/{{}}/{leaf}" for leaf in ("kernel", "bias")}
        return {
            f"layer_{i}": {leaf: jnp.asarray(need(n.format(i)), float) for leaf, n in names.items()}
            for i in range(count)
        }

    def scalar(name: str) -> float:
        value = need(name)
        if value.shape or value.dtype.kind not in "fiu":
            raise InputError(f"policy file {path} is inconsistent: {name} is not one number")
        return float(value)

    distribution = str(need("distribution"))
    log_std = need("log_std") if distribution == "normal" else np.zeros(0)
    policy = Policy(
        params=Params(network("policy"), network("value"), jnp.asarray(log_std, float)),
        obs_stats=ObsStats(*(jnp.asarray(need(f"obs_{x}"), float) for x in ObsStats._fields)),
        activation=str(need("activation")),
        distribution=distribution,
        obs_clip=scalar("obs_clip"),
        obs_std_offset=scalar("obs_std_offset"),
    )
    _check(policy, path)
    return policy


def save_policy(path: str | Path, policy: Policy) -> None:
    """One policy to a .npz file, which appears whole or not at all.

    Mask it first (`jaxprune.mask_policy`) to fold the masks in.
    """
    arrays: dict[str, Any] = {f"obs_{k}": v for k, v in policy.obs_stats._asdict().items()}
    arrays |= {name: getattr(policy, name) for name in STATIC}
    if policy.distribution == "normal":
        arrays["log_std"] = policy.params.log_std
    for prefix, layers in (("policy", policy.params.actor), ("value", policy.params.critic)):
        for i in range(len(layers)):
            for leaf, array in layers[f"layer_{i}"].items():
                arrays[f"{prefix}/{i}/{leaf}"] = array
    partial = Path(path).with_name(Path(path).name + ".partial")
    try:
        with open(partial, "wb") as file:
            np.savez(file, allow_pickle=False, **{k: np.asarray(v) for k, v in arrays.items()})
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def save_agents(path: str | Path, policy: Policy, masks: Mapping[str, Masks]) -> None:
    """A population `[agents]` and its masks by method, as an Orbax checkpoint.

    Orbax writes to a temporary folder and renames it; an existing checkpoint is replaced.
    """
    state = {
        "params": _named(policy.params),
        "obs_stats": policy.obs_stats._asdict(),
        "masks": {name: _named(mask) for name, mask in masks.items()},
    }
    static = {name: getattr(policy, name) for name in STATIC}
    ocp.save(str(Path(path).absolute()), _to_host(state), overwrite=True, custom_metadata=static)


def load_agents(path: str | Path) -> tuple[Policy, dict[str, Masks]]:
    """What `save_agents` wrote: (policy `[agents]`, masks by method).

    Raises:
        InputError: no checkpoint there.
    """
    folder = str(Path(path).absolute())
    missing = f"no checkpoint of agents at {path}: give the `agents` folder of a run"
    if not ocp.is_orbax_checkpoint(folder):
        raise InputError(missing)
    try:
        state: Any = ocp.load(folder)
    except ValueError:  # InvalidLayoutError: an empty folder
        raise InputError(missing) from None
    static: Any = ocp.metadata(folder).custom_metadata
    policy = Policy(_params(state["params"]), ObsStats(**state["obs_stats"]), **static)
    return policy, {name: _params(mask) for name, mask in state["masks"].items()}


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    """Every array of the file; nothing in it is executed."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise InputError(f"no policy file at {path}: give the path of a .npz file") from None
    # RuntimeError: "encrypted", and NotImplementedError for odd compression; TypeError: a .npy.
    except (OSError, EOFError, ValueError, TypeError, RuntimeError, zipfile.BadZipFile, zlib.error):
        raise InputError(
            f"policy file {path} is truncated, pickled or no .npz at all: only raw arrays are "
            "read; save it again with jaxprune.save_policy"
        ) from None


def _check(policy: Policy, path: str | Path) -> None:
    """Raises `InputError` unless the parts of the policy fit each other."""
    lookup(ACTIVATIONS, policy.activation, f"activation in {path}")
    lookup(HEADS, policy.distribution, f"distribution in {path}")
    size = policy.obs_stats.mean.shape
    problem = None
    if len(size) != 1 or policy.obs_stats.std.shape != size:
        problem = f"obs_mean {size} and obs_std {policy.obs_stats.std.shape} differ"
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
    if policy.obs_stats.count.shape != ():
        problem = f"obs_count {policy.obs_stats.count.shape} is not one number"
    values = policy.params.critic[f"layer_{len(policy.params.critic) - 1}"]["bias"].shape
    if values != (1,) or len(outputs) != 1:
        problem = f"the networks end in {outputs} and {values}, not in [actions] and [1]"
    numbers = (*jax.tree.leaves(policy), policy.obs_clip, policy.obs_std_offset)
    if not all(bool(jnp.all(jnp.isfinite(x))) for x in numbers):
        problem = "it holds numbers that are not finite"
    if problem:
        raise InputError(f"policy file {path} is inconsistent: {problem}")


def _named(params: Params) -> dict[str, Any]:
    """The parts by name, without the empty log_std of a categorical policy: Orbax saves no 0 B."""
    return {name: part for name, part in params._asdict().items() if name != "log_std" or part.size}


def _params(named: dict[str, Any]) -> Params:
    bias = named["actor"]["layer_0"]["bias"]
    return Params(**{"log_std": np.zeros((*bias.shape[:-1], 0), bias.dtype), **named})


def _to_host(tree: Any) -> Any:
    return jax.tree.map(np.asarray, tree)
