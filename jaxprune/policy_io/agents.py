"""Populations of agents with their masks, as Orbax checkpoints."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from jaxprune.policy_io.addresses import as_path, copy_folder, is_address, remove_folder
from jaxprune.policy_io.files import refusing
from jaxprune.policy_io.npz import STATIC
from jaxprune.types import ActionBox, Masks, ObsStats, Params, Policy
from jaxprune.validation import InputError


def save_agents(path: str | Path, policy: Policy, masks: Mapping[str, Masks]) -> None:
    """A population `[agents]` and its masks by method, as an Orbax checkpoint.

    Orbax writes to a temporary folder and renames it; an existing checkpoint is replaced. Under
    `jax.distributed` all processes have to save the same; what is of one alone goes through
    `agents_state`.

    Args:
        path: of a folder; an address gets a copy of one, since Orbax itself writes no s3://.
        policy: `[agents]`.
        masks: by method.
    """
    state, static = agents_state(policy, masks)
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / "agents" if is_address(path) else Path(path).absolute()
        ocp.save(str(folder), state, overwrite=True, custom_metadata=static)
        if is_address(path):
            remove_folder(as_path(path))
            copy_folder(folder, as_path(path))


def load_agents(path: str | Path) -> tuple[Policy, dict[str, Masks]]:
    """What `save_agents` wrote: (policy `[agents]`, masks by method).

    Raises:
        InputError: no checkpoint there, or a damaged one.
    """
    if is_address(path):
        with TemporaryDirectory() as temporary:
            copy_folder(as_path(path), Path(temporary))
            return _load(Path(temporary), path)
    return _load(Path(path).absolute(), path)


def _load(place: Path, path: str | Path) -> tuple[Policy, dict[str, Masks]]:
    folder = str(place)
    missing = (
        f"no checkpoint of agents at {path}, or no whole one: give the `agents` folder of a run"
    )
    if not ocp.is_orbax_checkpoint(folder):
        raise InputError(missing)
    with refusing(missing):  # InvalidLayoutError: an empty folder; or a damaged one
        state: Any = ocp.load(folder)
        static: Any = ocp.metadata(folder).custom_metadata
        return agents_of(state, static)


def agents_state(
    policy: Policy, masks: Mapping[str, Masks]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Nested dictionaries of host arrays, and what is no array, as JSON values."""
    state = {
        "params": _named(policy.params),
        "obs_stats": policy.obs_stats._asdict(),
        "masks": {name: _named(mask) for name, mask in masks.items()},
    }
    static = {name: getattr(policy, name) for name in STATIC}
    if policy.action_box is not None:
        static["action_box"] = policy.action_box
    if policy.squash:
        static["squash"] = True
    return _to_host(state), static


def agents_of(
    state: Mapping[str, Any], static: Mapping[str, Any]
) -> tuple[Policy, dict[str, Masks]]:
    """(policy `[agents]`, masks by method), of what `agents_state` made."""
    box = static.get("action_box")
    if box is not None and not isinstance(box, str):  # JSON has made lists of it
        box = ActionBox(*map(tuple, box))
    policy = Policy(
        _params(state["params"]),
        ObsStats(**state["obs_stats"]),
        **{**static, "action_box": box},
    )
    return policy, {name: _params(mask) for name, mask in state["masks"].items()}


def _named(params: Params) -> dict[str, Any]:
    """The parts by name, without the empty log_std of a categorical policy: Orbax saves no 0 B."""
    return {name: part for name, part in params._asdict().items() if name != "log_std" or part.size}


def _params(named: dict[str, Any]) -> Params:
    bias = named["actor"]["layer_0"]["bias"]
    return Params(**{"log_std": np.zeros((*bias.shape[:-1], 0), bias.dtype), **named})


def _to_host(tree: Any) -> Any:
    return jax.tree.map(np.asarray, tree)
