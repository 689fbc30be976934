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
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from orbax import checkpoint as ocp

from jaxprune.policy import no_critic
from jaxprune.policy_io import inert
from jaxprune.policy_io.files import MAX_BYTES, read_bytes, too_large
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
    return _policy(held, Config(path))


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
    """What Orbax wrote to a folder, in numpy arrays, if it is no more than a file may hold."""
    checkpointer, path = ocp.PyTreeCheckpointer(), path.absolute()
    with _silently():
        metadata: Any = checkpointer.metadata(path).item_metadata
        if 8 * sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(metadata.tree)) > MAX_BYTES:
            raise InputError(too_large(path))
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), metadata.tree)
        return checkpointer.restore(path, ocp.args.PyTreeRestore(restore_args=as_numpy))


@contextmanager
def _silently() -> Iterator[None]:
    """Without what Orbax logs about a damaged checkpoint: one line of ours says it."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _named(held: Any) -> dict[str, Any]:
    """The parts of a dictionary, of a pickled dataclass or of a pickled FrozenDict by name.

    Of one level: a pickle may hold the same part many times over.
    """
    if isinstance(held, Inert):
        held = held.args[0] if held.asked.endswith(".FrozenDict") else held.state
    if not isinstance(held, dict):
        raise TypeError("no parts by name")
    return held


def _numbers(held: Any) -> np.ndarray:
    """The array that a pickle describes, or that Orbax read."""
    return inert.array(held) if isinstance(held, Inert) else np.asarray(held)


def _policy(parts: Sequence[Any], config: Config) -> Policy:
    """Of (statistics, policy, value or not)."""
    stats, policy, *value = parts
    actor, log_std, squash = _actor(_named(_named(policy)["params"]), config)
    obs_size, outputs = len(actor["layer_0"]["kernel"]), actor[f"layer_{len(actor) - 1}"]["bias"]
    normaliser = raw_observations(obs_size)
    if config.normalised:
        normaliser = _normaliser(stats, config)
    critic = no_critic(obs_size)
    if value:
        critic = _critic(_named(_named(value[0])["params"]), config, obs_size)
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


def _actor(params: dict[str, Any], config: Config) -> tuple[Network, Array | None, bool]:
    """(network of the mean, log_std or None if it depends on the state, whether tanh follows)."""
    if "MLP_0" not in params:  # tanh_normal
        network = _network(params, config)
        last = network[f"layer_{len(network) - 1}"]
        half, odd = divmod(last["bias"].size, 2)
        if odd:
            raise InputError(
                f"policy file {config.path} has {last['bias'].size} outputs, which are no means "
                "and deviations: only the distributions tanh_normal and normal are read"
            )
        last["kernel"], last["bias"] = last["kernel"][:, :half], last["bias"][:half]
        return network, None, True
    network = _network(_named(params["MLP_0"]), config)
    network[f"layer_{len(network)}"] = _layer(params["Dense_0"])
    if "std_logparam" in params:
        log_std = _numbers(_named(params["std_logparam"])["log_value"])
        return network, jnp.asarray(log_std, float), False
    if "std_param" in params:
        std = _numbers(_named(params["std_param"])["value"])
        return network, jnp.log(jnp.asarray(std, float)), False
    return network, None, False


def _critic(params: dict[str, Any], config: Config, obs_size: int) -> Network:
    """The value network; none where it sees other observations or gives quantiles."""
    if config.observations != config.of_value or "hidden_0" not in params:
        return no_critic(obs_size)
    network = _network(params, config)
    fits = len(network["layer_0"]["kernel"]) == obs_size
    return network if fits else no_critic(obs_size)


def _network(params: dict[str, Any], config: Config) -> Network:
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
    held = _named(params)
    return {leaf: jnp.asarray(_numbers(held[leaf]), float) for leaf in ("kernel", "bias")}


def _normaliser(stats: Any, config: Config) -> Normaliser:
    """x = (obs - mean) / std, without a clip."""
    mean, std, count = (_named(stats)[name] for name in ("mean", "std", "count"))
    if isinstance(mean, dict):
        if config.observations not in mean:
            raise InputError(
                f"policy file {config.path} is about observations {', '.join(sorted(mean))}: only "
                f"policies that see {config.observations!r} are read"
            )
        mean, std = mean[config.observations], std[config.observations]
    if isinstance(count, dict) or (isinstance(count, Inert) and isinstance(count.state, dict)):
        halves = _named(count)  # of an integer of 64 bits
        count = 2.0**32 * float(_numbers(halves["hi"])) + float(_numbers(halves["lo"]))
    else:
        count = float(_numbers(count))
    mean, std, count = (jnp.asarray(x, float) for x in (_numbers(mean), _numbers(std), count))
    return Normaliser(ObsStats(mean, std, count), NO_CLIP, 0.0)
