"""Stable-Baselines3's .zip of a PPO (or A2C) agent with an MlpPolicy.

`policy.pth` is a state dict, `data` a JSON object of settings. Settings that JSON cannot express
are there twice: pickled under ":serialized:", which is never looked at, and as readable strings.
"""

import json
import re
from pathlib import Path
from typing import Any

from jaxprune.families import InputError
from jaxprune.policy_io.files import Archive, read_bytes
from jaxprune.policy_io.state_dict import Layout, actor_critic
from jaxprune.policy_io.torch_file import read_state_dict
from jaxprune.types import Policy

ACTOR = ("mlp_extractor.policy_net.*", "action_net")
CRITIC = ("mlp_extractor.value_net.*", "value_net")
LAYOUTS = {"Box": Layout(ACTOR, CRITIC, "log_std"), "Discrete": Layout(ACTOR, CRITIC, None)}
ACTIVATIONS = {f"torch.nn.modules.activation.{k}": k.lower() for k in ("Tanh", "ReLU")}

PLAIN_POLICY = "stable_baselines3.common.policies"
PLAIN_FEATURES = "stable_baselines3.common.torch_layers.FlattenExtractor"


def read_policy(path: Path) -> Policy:
    """The policy of a .zip, on raw observations, not yet checked; a broken file raises anything.

    Raises:
        InputError: the agent is one that cannot be expressed here.
    """
    with Archive(read_bytes(path), path) as archive:
        settings = json.loads(archive.read("data"))
        weights = archive.read("policy.pth")
    layout, activation = _described(settings, path)
    return actor_critic(read_state_dict(weights, path), layout, activation, path)


def _described(settings: dict[str, Any], path: Path) -> tuple[Layout, str]:
    """Layout and activation of a plain policy.

    Raises:
        InputError: a setting that makes it another function than its tensors say.
    """

    def require(what: str, found: Any, allowed: tuple[Any, ...]) -> None:
        if found not in allowed:
            raise InputError(
                f"policy file {path}: {what} {found!r} cannot be expressed here, only "
                f"{' or '.join(map(repr, allowed))}: give a PPO or A2C agent trained with that"
            )

    policy, kwargs = settings["policy_class"], settings["policy_kwargs"]
    seen, acted = settings["observation_space"], settings["action_space"]
    features = _class(kwargs.get("features_extractor_class", PLAIN_FEATURES))
    activation = _class(kwargs.get("activation_fn", "torch.nn.modules.activation.Tanh"))
    actions = _class(acted[":type:"]).rpartition(".")[2]

    require("a policy class of", policy["__module__"], (PLAIN_POLICY,))
    require("use_sde", settings["use_sde"], (False,))
    require("squash_output", kwargs.get("squash_output", False), (False,))
    require("a features extractor", features, (PLAIN_FEATURES,))
    require("an observation space", _class(seen[":type:"]).rpartition(".")[2], ("Box",))
    require("a number of observation axes", len(seen["_shape"]), (1,))
    require("an action space", actions, tuple(LAYOUTS))
    require("an activation", activation, tuple(ACTIVATIONS))
    return LAYOUTS[actions], ACTIVATIONS[activation]


def _class(text: str) -> str:
    """ "<class 'module.Name'>" -> "module.Name"; other text as it is."""
    return re.sub(r"^<class '(.*)'>$", r"\1", text)
