"""From the named tensors of another library's actor-critic to a policy."""

from itertools import count, takewhile
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxprune.policy import no_critic
from jaxprune.policy_io.checks import numbers
from jaxprune.policy_io.obs_stats import raw_observations
from jaxprune.types import ActionBox, Array, Params, Policy
from jaxprune.validation import InputError

Tensors = dict[str, np.ndarray]

# What torch.compile and DataParallel put in front of the names of what they wrap.
WRAPPERS = ("_orig_mod", "module")


class Layout(NamedTuple):
    """How a library names its tensors.

    A network is a list of modules with a `.weight` `[out, in]` and a `.bias` `[out]`; "x.*" are
    the linear layers x.0, x.2, ... of a sequence in which activations have the odd places.
    """

    actor: tuple[str, ...]
    critic: tuple[str, ...]
    log_std: str | None  # [act] or rows of it; None for a categorical policy


def unwrapped(tensors: Tensors, path: Path) -> Tensors:
    """The tensors by the names that they have in a module that nothing wraps.

    Raises:
        InputError: two of them have the same name then.
    """
    found: Tensors = {}
    for name, tensor in tensors.items():
        bare = ".".join(part for part in name.split(".") if part not in WRAPPERS)
        if bare in found:
            raise InputError(
                f"policy file {path} holds {bare!r} more than once, with and without "
                f"{' or '.join(WRAPPERS)} in its name: save one agent alone"
            )
        found[bare] = tensor
    return found


def actor_critic(
    tensors: Tensors,
    layout: Layout,
    activation: str,
    action_box: ActionBox | str | None,
    path: Path,
) -> Policy:
    """The policy that the tensors of a plain actor-critic are, on raw observations.

    A file without any tensor of the critic is an actor alone: its critic is zero everywhere.

    Raises:
        InputError: a tensor is missing or holds no real numbers, or there is one that such a policy
            does not have.
    """
    actor, critic = _modules(tensors, layout.actor), _modules(tensors, layout.critic)
    own = tuple(part.removesuffix("*") for part in layout.critic if part not in layout.actor)
    if not any(name.startswith(own) for name in tensors):
        critic = []
    wanted = {f"{name}.{leaf}" for name in actor + critic for leaf in ("weight", "bias")}
    if layout.log_std is not None:
        wanted.add(layout.log_std)
    for what, names in (("holds", tensors.keys() - wanted), ("lacks", wanted - tensors.keys())):
        if names:
            raise InputError(
                f"policy file {path} {what} {min(names)!r}: only the fully connected actor and "
                "critic of PPO are read, with separate layers "
                f"{', '.join(layout.actor)} and {', '.join(layout.critic)}, biases, and for "
                "continuous actions a deviation that does not depend on the state: train one of "
                "these (MlpPolicy, or CleanRL's ppo.py and ppo_continuous_action.py)"
            )
    tensors = {name: numbers(tensor, name, path) for name, tensor in tensors.items()}
    log_std = np.zeros(0) if layout.log_std is None else _row(tensors[layout.log_std], path)
    network = _network(tensors, actor)
    obs_size = network["layer_0"]["kernel"].shape[0]
    values = _network(tensors, critic) if critic else no_critic(obs_size)
    normaliser = raw_observations(obs_size)
    return Policy(
        params=Params(network, values, jnp.asarray(log_std, float)),
        obs_stats=normaliser.stats,
        activation=activation,
        distribution="categorical" if layout.log_std is None else "normal",
        obs_clip=normaliser.clip,
        obs_std_offset=normaliser.std_offset,
        action_box=action_box,
    )


def _modules(tensors: Tensors, parts: tuple[str, ...]) -> list[str]:
    """The modules of a network in their order; at least one, though it may be missing."""
    names = []
    for part in parts:
        if not part.endswith(".*"):
            names.append(part)
            continue
        sequence = (part.replace("*", str(2 * i)) for i in count())
        names += takewhile(lambda name: f"{name}.weight" in tensors, sequence)
    return names or [parts[0].replace("*", "0")]


def _network(tensors: Tensors, modules: list[str]) -> dict[str, dict[str, Array]]:
    return {
        f"layer_{i}": {
            "kernel": jnp.asarray(tensors[f"{name}.weight"].T, float),
            "bias": jnp.asarray(tensors[f"{name}.bias"], float),
        }
        for i, name in enumerate(modules)
    }


def _row(log_std: np.ndarray, path: Path) -> np.ndarray:
    """`[act]` of one row, or of several that agree."""
    rows = np.atleast_2d(log_std)
    if not (rows[1:] == rows[0]).all():
        raise InputError(
            f"policy file {path} has a log_std {log_std.shape} whose rows differ: only a "
            "deviation that does not depend on the state is read, one row of it"
        )
    return rows[0]
