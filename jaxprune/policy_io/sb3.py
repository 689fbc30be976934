"""Stable-Baselines3's .zip of a PPO, A2C, TRPO, SAC, TQC, TD3 or DDPG agent with an MlpPolicy.

Of SAC and TQC, whose deviation depends on the state, and of TD3 and DDPG only the action that they
take without noise is read: tanh of the actor's output, scaled to the action space. Their critics
are of actions, not of states, and are left out.

`policy.pth` is a state dict, `data` a JSON object of settings. Settings that JSON cannot express
are there twice: pickled under ":serialized:", which is never looked at, and as readable strings.
"""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxprune.policy_io.files import Archive, read_bytes
from jaxprune.policy_io.state_dict import Layout, actor_critic, unwrapped
from jaxprune.policy_io.torch_file import read_state_dict
from jaxprune.types import ActionBox, Policy
from jaxprune.validation import InputError

# Before version 1.8 the first layers could be shared: they are part of both networks then.
SHARED = "mlp_extractor.shared_net.*"
ACTOR = (SHARED, "mlp_extractor.policy_net.*", "action_net")
CRITIC = (SHARED, "mlp_extractor.value_net.*", "value_net")
ACTIVATIONS = {
    "torch.nn.modules.activation.Tanh": "tanh",
    "torch.nn.modules.activation.ReLU": "relu",
    "torch.nn.modules.activation.SiLU": "swish",
}


class Family(NamedTuple):
    """How agents of one policy class are read."""

    layouts: dict[str, Layout]  # by action space
    activation: str  # unless the file says another
    squashed: bool = False  # tanh of the actor's output, and no deviation


TANH, RELU, _ = ACTIVATIONS
ON_POLICY = {"Box": Layout(ACTOR, CRITIC, "log_std"), "Discrete": Layout(ACTOR, CRITIC, None)}
SAC = {"Box": Layout(("actor.latent_pi.*", "actor.mu"), ("critic.*",), None)}
TD3 = {"Box": Layout(("actor.mu.*",), ("critic.*",), None)}
# By the module of the policy class.
FAMILIES = {
    "stable_baselines3.common.policies": Family(ON_POLICY, TANH),
    "stable_baselines3.sac.policies": Family(SAC, RELU, squashed=True),
    "sb3_contrib.tqc.policies": Family(SAC, RELU, squashed=True),
    "stable_baselines3.td3.policies": Family(TD3, RELU, squashed=True),
}
# What such agents hold beside the action that they take without noise.
BESIDE = ("actor.log_std.", "actor_target.", "critic.", "critic_target.")
PLAIN_FEATURES = "stable_baselines3.common.torch_layers.FlattenExtractor"
REMEDY = "write it again with the agent's save method"


def read_policy(path: Path) -> Policy:
    """The policy of a .zip, on raw observations, not yet checked; a broken file raises anything.

    Its actions are clipped or squashed to the Box that it was trained with, as
    Stable-Baselines3 does.

    Raises:
        InputError: the agent is one that cannot be expressed here, or a setting is missing.
    """
    with Archive(read_bytes(path), path) as archive:
        if "data" not in archive.names:
            raise InputError(f"policy file {path} lacks its settings, the entry 'data': {REMEDY}")
        settings = Settings(json.loads(archive.read("data")), path)
        family = _family(settings)
        weights = archive.read("policy.pth")
    actions, activation = _described(settings, family)
    tensors = unwrapped(read_state_dict(weights, path), path)
    box = _box(settings) if actions == "Box" else None
    if not family.squashed:
        return actor_critic(tensors, family.layouts[actions], activation, box, path)
    acting = {name: x for name, x in tensors.items() if not name.startswith(BESIDE)}
    return _squashed(actor_critic(acting, family.layouts[actions], activation, box, path))


def _family(settings: "Settings") -> Family:
    """How the agent's policy class is read.

    Raises:
        InputError: it cannot be.
    """
    module = settings.need("policy_class", "__module__")
    if str(module).startswith("sbx."):
        raise InputError(
            f"policy file {settings.path} is of SBX, which pickles its parameters inside of code, "
            "and nothing is executed here: write them as .safetensors with CleanRL's names, or "
            "train with Stable-Baselines3"
        )
    settings.require("a policy class of", module, tuple(FAMILIES))
    return FAMILIES[module]


def _squashed(policy: Policy) -> Policy:
    """The policy of an actor whose output passes through tanh, without a deviation."""
    outputs = policy.params.actor[f"layer_{len(policy.params.actor) - 1}"]["bias"].shape
    params = policy.params._replace(log_std=jnp.zeros(outputs))
    return replace(policy, params=params, distribution="deterministic", squash=True)


class Settings:
    """The settings of an agent by name, below one another; asking for a missing one names it."""

    def __init__(self, values: Any, path: Path):
        self.values, self.path = values, path

    def need(self, *names: str) -> Any:
        """The value below these names. Attributes of spaces have a leading underscore or none:
        `shape` became `_shape` in gym 0.20.

        Raises:
            InputError: there is none.
        """
        found = self.values
        for depth, name in enumerate(names, start=1):
            here = found if isinstance(found, dict) else {}
            spelled = [spelling for spelling in (name, f"_{name}") if spelling in here]
            if not spelled:
                missing = ".".join(names[:depth])
                raise InputError(f"policy file {self.path} lacks the setting {missing!r}: {REMEDY}")
            found = here[spelled[0]]
        return found

    def require(self, what: str, found: object, allowed: tuple[Any, ...]) -> None:
        """Raises `InputError` unless a setting has one of these values."""
        if found not in allowed:
            raise InputError(
                f"policy file {self.path}: {what} {found!r} cannot be expressed here, only "
                f"{' or '.join(map(repr, allowed))}: give an agent trained with that"
            )


def _described(settings: Settings, family: Family) -> tuple[str, str]:
    """Action space and activation of a plain policy.

    Raises:
        InputError: a setting that makes it another function than its tensors say.
    """
    need, require = settings.need, settings.require
    kwargs = need("policy_kwargs") or {}  # null is nothing, too
    features = _class(kwargs.get("features_extractor_class", PLAIN_FEATURES))
    activation = _class(kwargs.get("activation_fn", family.activation))
    actions = _kind(need("action_space", ":type:"))

    require("use_sde", need("use_sde"), (False,))
    require("squash_output", kwargs.get("squash_output", False), (False,))
    require("a features extractor", features, (PLAIN_FEATURES,))
    require("an observation space", _kind(need("observation_space", ":type:")), ("Box",))
    require("a number of observation axes", _axes(need("observation_space", "shape")), (1,))
    require("an action space", actions, tuple(family.layouts))
    require("an activation", activation, tuple(ACTIVATIONS))
    return actions, ACTIVATIONS[activation]


def _box(settings: Settings) -> ActionBox:
    """The Box of the actions, whose ends are there as numpy prints them: "[-1. -1.]"."""
    axes = _axes(settings.need("action_space", "shape"))
    settings.require("a number of action axes", axes, (1,))
    low, high = (settings.need("action_space", end) for end in ("low", "high"))
    return ActionBox(*(tuple(float(x) for x in end.strip("[]").split()) for end in (low, high)))


def _axes(shape: object) -> int:
    """Of a shape, which is a list, or text such as "(3,)"."""
    return len(re.findall(r"\b\d+\b", str(shape)))


def _kind(text: str) -> str:
    """ "<class 'module.Name'>" -> "Name"."""
    return _class(text).rpartition(".")[2]


def _class(text: str) -> str:
    """ "<class 'module.Name'>" -> "module.Name"; other text as it is."""
    return re.sub(r"^<class '(.*)'>$", r"\1", text)
