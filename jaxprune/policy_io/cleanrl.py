"""State dicts with the names of CleanRL's ppo_continuous_action.py and ppo.py.

The names are those of an agent whose networks are the sequences `actor_mean` (or `actor`, for
discrete actions) and `critic`, with a parameter `actor_logstd` `[1, act]`. They do not say how
layers are activated, and not that actions are clipped to the box of the task, as CleanRL's
environments do (`gym.wrappers.ClipAction`): both are taken to be as in CleanRL.
"""

from pathlib import Path

from safetensors.numpy import load

from jaxprune.policy_io.files import read_bytes
from jaxprune.policy_io.state_dict import Layout, Tensors, actor_critic, unwrapped
from jaxprune.policy_io.torch_file import read_state_dict
from jaxprune.types import TASK_BOX, Policy
from jaxprune.validation import InputError

CONTINUOUS = Layout(("actor_mean.*",), ("critic.*",), "actor_logstd")
DISCRETE = Layout(("actor.*",), ("critic.*",), None)
MAX_HEADER = 2**20  # bytes of JSON, which take many times their size in memory
ACTIVATION = "tanh"


def read_torch(path: Path) -> Policy:
    """The policy of a file by torch.save, not yet checked; a broken one raises anything."""
    return _policy(read_state_dict(read_bytes(path), path), path)


def read_safetensors(path: Path) -> Policy:
    """The policy of a .safetensors file, not yet checked; a broken one raises anything."""
    data = read_bytes(path)
    if int.from_bytes(data[:8], "little") > MAX_HEADER:
        raise ValueError("a header of too many tensors")
    return _policy(load(data), path)


def _policy(tensors: Tensors, path: Path) -> Policy:
    tensors = unwrapped(tensors, path)
    if "action_net.weight" in tensors:
        raise InputError(
            f"policy file {path} is a state dict of Stable-Baselines3, which does not say how its "
            "layers are activated and its actions clipped: give the whole .zip"
        )
    if "actor.0.weight" in tensors:
        return actor_critic(tensors, DISCRETE, ACTIVATION, None, path)
    return actor_critic(tensors, CONTINUOUS, ACTIVATION, TASK_BOX, path)
