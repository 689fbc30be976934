"""Stable-Baselines3's .zip of a PPO, A2C or TRPO agent with an MlpPolicy.

`policy.pth` is a state dict, `data` a JSON object of settings. Settings that JSON cannot express
are there twice: pickled under ":serialized:", which is never looked at, and as readable strings.
"""

import json
import re
from pathlib import Path
from typing import Any

from jaxprune.policy_io.files import Archive, read_bytes
from jaxprune.policy_io.state_dict import Layout, actor_critic, unwrapped
from jaxprune.policy_io.torch_file import read_state_dict
from jaxprune.types import ActionBox, Policy
from jaxprune.validation import InputError

# Before version 1.8 the first layers could be shared: they are part of both networks then.
SHARED = "mlp_extractor.shared_net.*"
ACTOR = (SHARED, "mlp_extractor.policy_net.*", "action_net")
CRITIC = (SHARED, "mlp_extractor.value_net.*", "value_net")
LAYOUTS = {"Box": Layout(ACTOR, CRITIC, "log_std"), "Discrete": Layout(ACTOR, CRITIC, None)}
ACTIVATIONS = {f"torch.nn.modules.activation.{k}": k.lower() for k in ("Tanh", "ReLU")}

PLAIN_POLICY = "stable_baselines3.common.policies"
PLAIN_FEATURES = "stable_baselines3.common.torch_layers.FlattenExtractor"
REMEDY = "write it again with the agent's save method"


def read_policy(path: Path) -> Policy:
    """The policy of a .zip, on raw observations, not yet checked; a broken file raises anything.

    Its actions are clipped to the Box that it was trained with, as Stable-Baselines3 does.

    Raises:
        InputError: the agent is one that cannot be expressed here, or a setting is missing.
    """
    with Archive(read_bytes(path), path) as archive:
        if "data" not in archive.names:
            raise InputError(f"policy file {path} lacks its settings, the entry 'data': {REMEDY}")
        settings = Settings(json.loads(archive.read("data")), path)
        weights = archive.read("policy.pth")
    layout, activation = _described(settings)
    tensors = unwrapped(read_state_dict(weights, path), path)
    box = None if layout.log_std is None else _box(settings)
    return actor_critic(tensors, layout, activation, box, path)


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
                f"{' or '.join(map(repr, allowed))}: give a PPO, A2C or TRPO agent trained with "
                "that"
            )


def _described(settings: Settings) -> tuple[Layout, str]:
    """Layout and activation of a plain policy.

    Raises:
        InputError: a setting that makes it another function than its tensors say.
    """
    need, require = settings.need, settings.require
    kwargs = need("policy_kwargs") or {}  # null is nothing, too
    features = _class(kwargs.get("features_extractor_class", PLAIN_FEATURES))
    activation = _class(kwargs.get("activation_fn", "torch.nn.modules.activation.Tanh"))
    actions = _kind(need("action_space", ":type:"))

    require("a policy class of", need("policy_class", "__module__"), (PLAIN_POLICY,))
    require("use_sde", need("use_sde"), (False,))
    require("squash_output", kwargs.get("squash_output", False), (False,))
    require("a features extractor", features, (PLAIN_FEATURES,))
    require("an observation space", _kind(need("observation_space", ":type:")), ("Box",))
    require("a number of observation axes", _axes(need("observation_space", "shape")), (1,))
    require("an action space", actions, tuple(LAYOUTS))
    require("an activation", activation, tuple(ACTIVATIONS))
    return LAYOUTS[actions], ACTIVATIONS[activation]


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
