"""One policy as .npz, format version 1: raw arrays only, nothing pickled.

`obs_mean`, `obs_std` `[obs]`, `obs_count`, `obs_clip`, `obs_std_offset`, `activation`,
`distribution`, `log_std` `[act]` (not for a choice), and `policy/i/kernel` `[in, out]`,
`policy/i/bias` `[out]`, `value/i/...` per layer. Where actions are clipped: `action_low` and
`action_high` `[act]`, or `action_box` = "task" for the box of the task; `squash` where tanh maps
them into it.
"""

import io
import math
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.policy import no_critic
from jaxprune.policy_io.checks import numbers, one_policy
from jaxprune.policy_io.files import Archive, read_bytes, whole_file
from jaxprune.types import TASK_BOX, ActionBox, Masks, ObsStats, Params, Policy
from jaxprune.validation import InputError

# Policy's static fields, which are part of every format of our own; `action_box` is one more.
STATIC = ("activation", "distribution", "obs_clip", "obs_std_offset")
# Kinds of numpy's types that hold neither objects nor fields.
PLAIN = "biufcSUmM"
HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def save_policy(path: str | Path, policy: Policy, masks: Masks | None = None) -> None:
    """One policy to a .npz file, which appears whole or not at all.

    Args:
        path: of the file; an old one is replaced.
        policy: a single one.
        masks: folded in: what they remove is written as 0. None keeps everything.

    Raises:
        InputError: policy or masks have leading axes.
    """
    policy = one_policy(policy, masks)
    arrays: dict[str, object] = {f"obs_{k}": v for k, v in policy.obs_stats._asdict().items()}
    arrays |= {name: getattr(policy, name) for name in STATIC}
    if policy.squash:
        arrays["squash"] = True
    if policy.params.log_std.size:
        arrays["log_std"] = policy.params.log_std
    if isinstance(policy.action_box, ActionBox):
        arrays |= {f"action_{end}": ends for end, ends in policy.action_box._asdict().items()}
    elif policy.action_box is not None:
        arrays["action_box"] = policy.action_box
    for prefix, layers in (("policy", policy.params.actor), ("value", policy.params.critic)):
        for i in range(len(layers)):
            for leaf, array in layers[f"layer_{i}"].items():
                arrays[f"{prefix}/{i}/{leaf}"] = array
    with whole_file(path) as file:
        np.savez(file, allow_pickle=False, **{k: np.asarray(v) for k, v in arrays.items()})


def read_policy(path: Path) -> Policy:
    """What `save_policy` wrote; arrays in JAX's default float type, not yet checked.

    Raises:
        InputError: an array is missing or of the wrong type.
    """
    file = _Arrays(path, read_arrays(path))
    if any(name.startswith("value/") for name in file.raw):
        critic = file.network("value")
    else:  # a controller without one, see jaxprune.policy.has_critic
        critic = no_critic(len(file.numbers("policy/0/kernel")))
    distribution = file.text("distribution")
    log_std = jnp.zeros(0) if distribution == "categorical" else file.floats("log_std")
    return Policy(
        params=Params(file.network("policy"), critic, log_std),
        obs_stats=ObsStats(*(file.floats(f"obs_{name}") for name in ObsStats._fields)),
        activation=file.text("activation"),
        distribution=distribution,
        obs_clip=file.scalar("obs_clip"),
        obs_std_offset=file.scalar("obs_std_offset"),
        action_box=file.action_box(),
        squash=bool(file.raw.get("squash", False)),
    )


class _Arrays(NamedTuple):
    """The arrays of a file by name, which are asked for by kind."""

    path: Path
    raw: dict[str, np.ndarray]

    def need(self, name: str) -> np.ndarray:
        if name not in self.raw:
            raise InputError(
                f"policy file {self.path} lacks {name!r}: save it with jaxprune.save_policy"
            )
        return self.raw[name]

    def text(self, name: str) -> str:
        return str(self.need(name))

    def numbers(self, name: str) -> np.ndarray:
        return numbers(self.need(name), name, self.path)

    def floats(self, name: str) -> jax.Array:
        return jnp.asarray(self.numbers(name), float)

    def scalar(self, name: str) -> float:
        value = self.numbers(name)
        if value.shape:
            raise InputError(f"policy file {self.path} is inconsistent: {name} is not one number")
        return float(value)

    def network(self, prefix: str) -> dict[str, dict[str, jax.Array]]:
        count = len({name.split("/")[1] for name in self.raw if name.startswith(f"{prefix}/")})
        return {
            f"layer_{i}": {x: self.floats(f"{prefix}/{i}/{x}") for x in ("kernel", "bias")}
            for i in range(max(count, 1))
        }

    def action_box(self) -> ActionBox | str | None:
        if "action_box" in self.raw:
            if self.text("action_box") != TASK_BOX:
                raise InputError(
                    f"policy file {self.path} is inconsistent: action_box is not {TASK_BOX!r}; a "
                    "box of its own is action_low and action_high"
                )
            return TASK_BOX
        if not self.raw.keys() & {"action_low", "action_high"}:
            return None
        ends = (self.numbers(f"action_{end}") for end in ActionBox._fields)
        return ActionBox(*(tuple(np.ravel(end).tolist()) for end in ends))


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Every array of a .npz file; nothing in it is executed, and a broken one raises anything."""
    with Archive(read_bytes(path), path) as archive:
        names = (name for name in archive.names if name.endswith(".npy"))
        return {name.removesuffix(".npy"): _array(archive.read(name)) for name in names}


def _array(data: bytes) -> np.ndarray:
    """The array of a .npy file, which takes no more memory than the file.

    Raises:
        ValueError: it is damaged, of no plain type, or holds text that is no Unicode.
    """
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # about headers that numpy never writes
        shape, fortran, dtype = HEADERS[version](file)
    if dtype.kind not in PLAIN:
        raise ValueError(f"{dtype} is no plain type")
    flat = np.frombuffer(data, dtype, math.prod(shape), file.tell())
    if dtype.kind == "U" and (flat.view(dtype.byteorder + "u4") > sys.maxunicode).any():
        raise ValueError("no Unicode")
    return flat.reshape(shape, order="F" if fortran else "C")
