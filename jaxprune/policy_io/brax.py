"""Parameters of Brax's PPO and SAC, which MuJoCo Playground trains with, too.

`brax.io.model.save_params` pickles a tuple (statistics, policy, value or not); a checkpoint is a
folder in which Orbax wrote the same and `ppo_network_config.json` says how the networks are made.
Two kinds of policy are in use:

    tanh_normal  one network whose outputs are the mean and the deviation, action tanh(mean)
    normal       the mean and, beside it, a deviation that does not depend on the state

Of a deviation that depends on the state only the mean is read, as a deterministic policy. Actions
of `normal` are passed on as they are, those of `tanh_normal` are in [-1, 1].
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from orbax import checkpoint as ocp

from jaxprune.policy import no_critic
from jaxprune.policy_io import inert
from jaxprune.policy_io.files import read_bytes
from jaxprune.policy_io.inert import Inert
from jaxprune.policy_io.obs_stats import NO_CLIP, Normaliser, raw_observations
from jaxprune.types import ActionBox, Array, ObsStats, Params, Policy
from jaxprune.validation import InputError

CONFIGS = ("ppo_network_config.json", "sac_network_config.json")
ORBAX = ("_METADATA", "_CHECKPOINT_METADATA", "manifest.ocdbt")
ACTIVATIONS = {"tanh": "tanh", "relu": "relu", "swish": "swish", "silu": "swish"}
# Unless a configuration says otherwise: of PPO, which keeps a value network, and of SAC.
PPO_ACTIVATION, SAC_ACTIVATION = "swish", "relu"
ONLY = (
    "only fully connected networks hidden_0, hidden_1, ... of observations in one vector are read"
)

Network = dict[str, dict[str, Array]]


class Config(NamedTuple):
    """What a file or its defaults say about the networks."""

    path: Path
    activation: str | None = None
    """None for that of the algorithm."""
    observations: str = "state"
    """Which of several observations the policy sees."""
    of_value: str = "state"
    """Which the value network sees."""
    normalised: bool = True


def read_pickle(path: Path) -> Policy:
    """The policy that `save_params` wrote, not yet checked; a broken file raises anything."""
    held = inert.load(read_bytes(path))
    if not isinstance(held, tuple):
        raise ValueError("no tuple of parameters")
    return _policy(_plain(held), Config(path))


def read_folder(path: Path) -> Policy:
    """The policy of a checkpoint without a configuration, not yet checked."""
    return _policy(_restored(path), Config(path))


def read_checkpoint(path: Path) -> Policy:
    """The policy of a checkpoint with its configuration, not yet checked.

    Raises:
        InputError: the configuration is of networks that cannot be expressed here.
    """
    (file,) = (path / name for name in CONFIGS if (path / name).exists())
    said = json.loads(read_bytes(file))
    kwargs = said["network_factory_kwargs"]
    for name in ("mean_clip_scale", "layer_norm", "policy_network_layer_norm"):
        if kwargs.get(name):
            raise InputError(f"policy file {path} says {name} {kwargs[name]!r}: {ONLY}")
    config = Config(
        path,
        _known(kwargs.get("activation"), path),
        kwargs.get("policy_obs_key", "state"),
        kwargs.get("value_obs_key", "state"),
        bool(said["normalize_observations"]),
    )
    return _policy(_restored(path), config)


def _known(activation: str | None, path: Path) -> str | None:
    if activation is None:
        return None
    if activation not in ACTIVATIONS:
        raise InputError(
            f"policy file {path} says activation {activation!r}: only {', '.join(ACTIVATIONS)} can "
            "be expressed here, train with one of these"
        )
    return ACTIVATIONS[activation]


def _restored(path: Path) -> list[Any]:
    """What Orbax wrote to a folder, in numpy arrays."""
    checkpointer = ocp.PyTreeCheckpointer()
    tree = checkpointer.metadata(path).item_metadata.tree
    as_numpy = _mapped(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
    return checkpointer.restore(path, ocp.args.PyTreeRestore(restore_args=as_numpy))


def _mapped(function: Callable[[Any], Any], tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {name: _mapped(function, part) for name, part in tree.items()}
    if isinstance(tree, list | tuple):
        return [_mapped(function, part) for part in tree]
    return function(tree)


def _plain(held: Any) -> Any:
    """Dictionaries and lists in place of the dataclasses and tuples that a pickle names."""
    if isinstance(held, Inert) and isinstance(held.state, dict):
        return {name: _plain(part) for name, part in held.state.items()}
    if isinstance(held, dict):
        return {name: _plain(part) for name, part in held.items()}
    if isinstance(held, tuple):
        return [_plain(part) for part in held]
    return held


def _numbers(held: Any) -> np.ndarray:
    """The array that a pickle describes, or that Orbax read."""
    return inert.array(held) if isinstance(held, Inert) else np.asarray(held)


def _policy(parts: list[Any], config: Config) -> Policy:
    """Of (statistics, policy, value or not)."""
    stats, policy, *value = parts
    actor, log_std, squash = _actor(policy["params"], config)
    obs_size, outputs = len(actor["layer_0"]["kernel"]), actor[f"layer_{len(actor) - 1}"]["bias"]
    normaliser = raw_observations(obs_size)
    if config.normalised:
        normaliser = _normaliser(stats, config)
    critic = _critic(value[0]["params"], config, obs_size) if value else no_critic(obs_size)
    ends = ((-1.0,) * outputs.size, (1.0,) * outputs.size)
    return Policy(
        Params(actor, critic, jnp.zeros(outputs.shape) if log_std is None else log_std),
        normaliser.stats,
        config.activation or (PPO_ACTIVATION if value else SAC_ACTIVATION),
        "deterministic" if log_std is None else "normal",
        normaliser.clip,
        normaliser.std_offset,
        ActionBox(*ends) if squash else None,
        squash,
    )


def _actor(params: Any, config: Config) -> tuple[Network, Array | None, bool]:
    """(network of the mean, log_std or None if it depends on the state, whether tanh follows)."""
    if "MLP_0" not in params:  # tanh_normal
        network = _network(params, config)
        last = network[f"layer_{len(network) - 1}"]
        half = last["bias"].size // 2
        last["kernel"], last["bias"] = last["kernel"][:, :half], last["bias"][:half]
        return network, None, True
    network = _network(params["MLP_0"], config)
    network[f"layer_{len(network)}"] = _layer(params["Dense_0"])
    if "std_logparam" in params:
        return network, jnp.asarray(_numbers(params["std_logparam"]["log_value"]), float), False
    if "std_param" in params:
        return network, jnp.log(jnp.asarray(_numbers(params["std_param"]["value"]), float)), False
    return network, None, False


def _critic(params: Any, config: Config, obs_size: int) -> Network:
    """The value network; none where it sees other observations or gives quantiles."""
    if config.observations != config.of_value or "hidden_0" not in params:
        return no_critic(obs_size)
    network = _network(params, config)
    fits = len(network["layer_0"]["kernel"]) == obs_size
    return network if fits else no_critic(obs_size)


def _network(params: Any, config: Config) -> Network:
    """Of `{"hidden_i": {"kernel" [in, out], "bias" [out]}}`.

    Raises:
        InputError: there is something else.
    """
    names = [f"hidden_{i}" for i in range(len(params))]
    strangers = params.keys() - set(names)
    if strangers:
        raise InputError(f"policy file {config.path} holds {min(strangers)!r}: {ONLY}")
    return {f"layer_{i}": _layer(params[name]) for i, name in enumerate(names)}


def _layer(params: Any) -> dict[str, Array]:
    return {leaf: jnp.asarray(_numbers(params[leaf]), float) for leaf in ("kernel", "bias")}


def _normaliser(stats: Any, config: Config) -> Normaliser:
    """x = (obs - mean) / std, without a clip."""
    mean, std, count = stats["mean"], stats["std"], stats["count"]
    if isinstance(mean, dict):
        if config.observations not in mean:
            raise InputError(
                f"policy file {config.path} is about observations {', '.join(sorted(mean))}: only "
                f"policies that see {config.observations!r} are read"
            )
        mean, std = mean[config.observations], std[config.observations]
    if isinstance(count, dict):  # halves of an integer of 64 bits
        count = 2.0**32 * float(_numbers(count["hi"])) + float(_numbers(count["lo"]))
    else:
        count = float(_numbers(count))
    found = (jnp.asarray(_numbers(x), float) for x in (mean, std))
    return Normaliser(ObsStats(*found, jnp.asarray(count, float)), NO_CLIP, 0.0)
