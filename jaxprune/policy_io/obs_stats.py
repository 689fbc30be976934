"""The statistics by which another library normalised observations, from files of their own.

- .npz: `obs_mean` `[obs]`; `obs_std` `[obs]`, by which to divide (plus `obs_std_offset`, 0), or
  `obs_var` `[obs]`, to which 1e-8 is added under the root, as the wrappers of Gymnasium (so
  CleanRL's) and Stable-Baselines3 do; `obs_clip` (10, as in both); `obs_count` (0).
- the pickle that Stable-Baselines3's VecNormalize saves;
- a pickled `RunningMeanStd`, which Gymnasium's (and gym's) `NormalizeObservation` keeps as
  `obs_rms`, or that wrapper itself: 1e-8, or its own epsilon, is added under the root, and the clip
  is 10, as CleanRL's, since the wrapper has none.
"""

import io
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxprune.policy_io import inert
from jaxprune.policy_io.checks import numbers
from jaxprune.policy_io.files import read_bytes, refusing
from jaxprune.policy_io.inert import Inert
from jaxprune.policy_io.npz import read_arrays
from jaxprune.types import OBS_CLIP, ObsStats, Policy
from jaxprune.validation import InputError

# Clipping here changes no float32 but the infinite ones, and unlike inf it is a number that files,
# checks and interval arithmetic take.
NO_CLIP = float(np.finfo(np.float32).max)
VARIANCE_OFFSET = 1e-8
# The arrays of a .npz, beside which it may hold others.
NAMES = ("obs_mean", "obs_std", "obs_var", "obs_count", "obs_clip", "obs_std_offset")


class Normaliser(NamedTuple):
    """x = clip((obs - mean) / (std + std_offset), -clip, clip)."""

    stats: ObsStats
    clip: float
    std_offset: float


def normalised(policy: Policy, normaliser: Normaliser) -> Policy:
    """The policy with the statistics that go with it."""
    return replace(
        policy,
        obs_stats=normaliser.stats,
        obs_clip=normaliser.clip,
        obs_std_offset=normaliser.std_offset,
    )


def raw_observations(size: int) -> Normaliser:
    """The one that changes nothing, for a policy that acts on raw observations `[size]`."""
    stats = ObsStats(jnp.zeros(size), jnp.ones(size), jnp.zeros(()))
    return Normaliser(stats, NO_CLIP, 0.0)


def read_normaliser(path: Path) -> Normaliser:
    """The normaliser in a .npz or in a pickle of a wrapper or of its statistics.

    Raises:
        InputError: the file is missing, broken, or about something else.
    """
    if not path.exists():
        raise InputError(
            f"no statistics file at {path}: give a .npz or what VecNormalize.save wrote"
        )
    complaint = (
        f"statistics file {path} is truncated or of no kind that is read: give a .npz with "
        "obs_mean and obs_var or obs_std, what VecNormalize.save wrote, or a pickled RunningMeanStd"
    )
    with refusing(complaint):
        data = read_bytes(path)
        if zipfile.is_zipfile(io.BytesIO(data)):
            return _from_arrays(read_arrays(path), path)
        return _from_pickle(inert.load(data), path)


def _from_arrays(arrays: dict[str, np.ndarray], path: Path) -> Normaliser:
    known = {name: numbers(x, name, path) for name, x in arrays.items() if name in NAMES}

    def number(name: str, default: float) -> float:
        return float(known.get(name, default))

    for names in (("obs_mean",), ("obs_std", "obs_var")):
        if len(arrays.keys() & set(names)) != 1:
            raise InputError(
                f"statistics file {path} holds {', '.join(sorted(arrays)) or 'nothing'}: it needs "
                f"exactly one of {', '.join(names)}"
            )
    count, clip = number("obs_count", 0.0), number("obs_clip", OBS_CLIP)
    if "obs_std" in known:
        std, offset = known["obs_std"], number("obs_std_offset", 0.0)
    else:
        std, offset = _std(known["obs_var"], VARIANCE_OFFSET), 0.0
    return Normaliser(stats(known["obs_mean"], std, count), clip, offset)


def _from_pickle(pickled: Any, path: Path) -> Normaliser:
    """x = clip((obs - mean) / sqrt(var + epsilon), -clip, clip), of whatever holds these."""
    held = pickled.state if isinstance(pickled, Inert) else None
    state = held if isinstance(held, dict) else {}
    if {"norm_obs", "clip_obs", "epsilon"} <= state.keys():
        return _from_vec_normalize(state, path)
    if {"obs_rms", "epsilon"} <= state.keys():  # NormalizeObservation
        return _from_moments(state["obs_rms"], state["epsilon"], OBS_CLIP, path)
    if {"mean", "var", "count"} <= state.keys():  # RunningMeanStd
        return _from_moments(pickled, VARIANCE_OFFSET, OBS_CLIP, path)
    found = pickled.asked if isinstance(pickled, Inert) else type(pickled).__name__
    raise InputError(
        f"statistics file {path} is a pickle of {found}: only those of VecNormalize (save it with "
        "VecNormalize.save), of Gymnasium's NormalizeObservation and of its RunningMeanStd are read"
    )


def _from_vec_normalize(state: dict[str, Any], path: Path) -> Normaliser:
    if state["norm_obs"] is not True:
        raise InputError(
            f"statistics file {path} normalises no observations: give one saved with "
            "norm_obs=True, or none, and the policy acts on raw observations"
        )
    clip = min(float(inert.array(state["clip_obs"])), NO_CLIP)
    return _from_moments(state.get("obs_rms"), state["epsilon"], clip, path)


def _from_moments(rms: Any, epsilon: Any, clip: float, path: Path) -> Normaliser:
    """Of the statistics `rms` themselves."""
    if not isinstance(rms, Inert):
        raise InputError(
            f"statistics file {path} is about observations in a dictionary, or about none: only "
            "flat ones are read"
        )
    mean, var, count = (inert.array(rms.state[name]) for name in ("mean", "var", "count"))
    std = _std(var, float(inert.array(epsilon)))
    return Normaliser(stats(mean, std, float(count)), clip, 0.0)


def _std(var: np.ndarray, offset: float) -> np.ndarray:
    """In double precision, and with the offset inside: the policy's own offset is then 0."""
    return np.sqrt(var.astype(np.float64) + offset)


def stats(mean: np.ndarray, std: np.ndarray, count: float) -> ObsStats:
    """Statistics in JAX's default float type."""
    return ObsStats(jnp.asarray(mean, float), jnp.asarray(std, float), jnp.asarray(count, float))
