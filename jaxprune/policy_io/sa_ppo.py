"""Checkpoints of SA-PPO's code and of what was built on it: ATLA, RADIAL, WocaR, CAR, S-PPO.

    {"policy_model": state dict, "val_model": state dict, "envs": [Env], ...}  by torch.save

The names do not say how layers are activated; in all releases it is tanh. Observations are
normalised by the filter of the first environment, which is pickled with its code: classes are
remembered by name, and nothing of them is executed. Actions are not clipped.

Agents with memory keep an untrained network without one beside it, and are refused. Of a smoothed
policy (S-PPO's `sppo_*`) this reads the network, without the noise; of an attack, its victim.

Source: `get_best_pickle.py`, `models.py` and `torch_utils.py` of
github.com/huanzhang12/ATLA_robust_RL.
"""

from pathlib import Path
from typing import Any

import numpy as np

from jaxprune.policy_io.files import read_bytes
from jaxprune.policy_io.inert import Inert, array
from jaxprune.policy_io.obs_stats import NO_CLIP, Normaliser, normalised, raw_observations
from jaxprune.policy_io.obs_stats import stats as obs_stats
from jaxprune.policy_io.state_dict import Layout, Tensors, actor_critic
from jaxprune.policy_io.torch_file import read_checkpoint
from jaxprune.types import Policy
from jaxprune.validation import InputError

ACTIVATION = "tanh"
ACTOR, CRITIC = "policy_model", "val_model"
STD_OFFSET = 1e-8
# Of CtsPolicyLarger and CtsPolicySAC, whose mean goes through tanh.
SQUASHED = ((400, 300), (256, 256))


def is_checkpoint(pickled: bytes) -> bool:
    """Whether a pickle of torch.save names the parts of such a checkpoint."""
    return ACTOR.encode() in pickled and b"affine_layers.0" in pickled


def read_policy(path: Path) -> Policy:
    """The policy of a checkpoint, not yet checked; a broken one raises anything.

    Raises:
        InputError: it has memory, squashes its actions, or sees more than its observation.
    """
    parts, rest = read_checkpoint(read_bytes(path), (ACTOR, CRITIC), path)
    _check_kind(parts[ACTOR], path)
    hidden = sum(name.startswith("affine_layers.") for name in parts[ACTOR]) // 2
    tensors = {f"{part}.{name}": x for part, named in parts.items() for name, x in named.items()}
    continuous = "final_mean.weight" in parts[ACTOR]
    layers = [f"affine_layers.{i}" for i in range(hidden)]
    last = "final_mean" if continuous else "final"
    layout = Layout(
        tuple(f"{ACTOR}.{name}" for name in (*layers, last)),
        tuple(f"{CRITIC}.{name}" for name in (*layers, "final")),
        f"{ACTOR}.log_stdev" if continuous else None,
    )
    policy = actor_critic(tensors, layout, ACTIVATION, None, path)
    return normalised(policy, _normaliser(rest, policy.obs_stats.mean.size, path))


def _check_kind(actor: Tensors, path: Path) -> None:
    """Raises `InputError` for a network that is no plain one."""
    memory = sorted(name for name in actor if name.startswith("lstm"))
    if memory:
        raise InputError(
            f"policy file {path} is a recurrent policy ({memory[0]!r}), and only policies without "
            "memory are read: give an MLP of the same release"
        )
    widths = tuple(
        len(x) for name, x in actor.items() if name.endswith("bias") and "final" not in name
    )
    if widths in SQUASHED:
        raise InputError(
            f"policy file {path} has hidden widths {widths} as CtsPolicyLarger and CtsPolicySAC, "
            "which squash their actions: give a CtsPolicy"
        )


def _normaliser(checkpoint: dict[str, Any], size: int, path: Path) -> Normaliser:
    """x = clip((obs - M) / (sqrt(S / (n - 1)) + 1e-8), -clip, clip), of the first environment."""
    envs = checkpoint.get("envs")
    if not (isinstance(envs, list) and envs and isinstance(envs[0], Inert)):
        raise InputError(
            f"policy file {path} holds no 'envs', whose statistics normalise its observations: "
            "save them beside 'policy_model', as get_best_pickle.py does"
        )
    found = envs[0].state["state_filter"]
    kind = found.asked.rpartition(".")[2]
    if kind == "Identity":
        return raw_observations(size)
    if kind != "ZFilter" or not (found.state["center"] and found.state["scale"]):
        raise InputError(
            f"policy file {path} filters its observations by {kind}, and only a ZFilter that "
            "centres and scales is read"
        )
    rs, clip = found.state["rs"].state, found.state["clip"]
    count = int(array(rs["_n"]))
    if count < 2:
        raise InputError(f"policy file {path} has statistics of {count} observations: train it")
    std = np.sqrt(array(rs["_S"]) / (count - 1))
    clip = float(array(clip)) if clip else NO_CLIP
    return Normaliser(obs_stats(array(rs["_M"]), std, count), clip, STD_OFFSET)
