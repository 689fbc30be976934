"""The pytrees that the stages hand to each other, with their shapes.

Every type describes one agent, one episode, one step; a leading axis is always a `vmap`.
"""

from typing import Any, NamedTuple, TypeAlias

import jax
from flax import struct

Array: TypeAlias = jax.Array
Key: TypeAlias = jax.Array  # a typed PRNG key, `jax.random.key`
# An array of NumPy on the host and of JAX inside a program; numbers count as `[]`.
AnyArray: TypeAlias = Any
# Nested tuples, dictionaries and dataclasses of arrays.
PyTree: TypeAlias = Any

# What normalised observations are clipped to unless a policy says otherwise.
OBS_CLIP = 10.0


# An `action_box` that is the task's own, whichever task that is.
TASK_BOX = "task"


class ActionBox(NamedTuple):
    """Ends of the interval of every action, `[action_size]` each; infinite where there is none."""

    low: tuple[float, ...]
    high: tuple[float, ...]


class Params(NamedTuple):
    """The trained numbers of an actor-critic policy."""

    actor: dict[str, dict[str, Array]]  # {"layer_i": {"kernel": [in, out], "bias": [out]}}
    critic: dict[str, dict[str, Array]]  # the same, one output
    log_std: Array  # [action_size]; [0] for a categorical policy, zeros for a deterministic one


# A boolean per parameter, True = keep: full shape on every leaf, also where nothing is prunable,
# so that masks stack, vmap and count like the parameters they belong to.
Masks: TypeAlias = Params


class ObsStats(NamedTuple):
    """Running statistics of the raw observations; frozen outside training."""

    mean: Array  # [obs_size]
    std: Array  # [obs_size], population standard deviation
    count: Array  # [], float: observations seen


@struct.dataclass
class Policy:
    """A policy with all that acting needs; the static fields select the program."""

    params: Params
    obs_stats: ObsStats
    activation: str = struct.field(pytree_node=False, default="tanh")
    distribution: str = struct.field(pytree_node=False, default="normal")
    obs_clip: float = struct.field(pytree_node=False, default=OBS_CLIP)  # normalised units
    obs_std_offset: float = struct.field(pytree_node=False, default=1e-8)  # added to the std
    # What actions are clipped to on their way to the simulator: a box, TASK_BOX, or None for
    # nothing. Distributions, and so log-probabilities and certificates, are of the action before.
    action_box: ActionBox | str | None = struct.field(pytree_node=False, default=None)
    # Actions are not clipped to the box but pass through tanh, which is scaled to it.
    squash: bool = struct.field(pytree_node=False, default=False)


class EnvState(NamedTuple):
    """The state of one environment."""

    physics: PyTree  # what the simulator itself needs
    time: Array  # int32 [], steps taken in this episode


class TimeStep(NamedTuple):
    """What one environment step returns. Terminated is not truncated."""

    obs: Array  # [obs_size], the observation *before* any reset
    reward: Array  # []
    terminated: Array  # bool [], the task ended: nothing can be earned after this step
    truncated: Array  # bool [], the time limit cut the episode: the state still has value
    diverged: Array | bool = False  # bool [], the simulator left the finite numbers: terminated
