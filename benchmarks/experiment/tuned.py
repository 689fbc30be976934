"""Tuned settings of the learner by task: data files beside this module, one for each task.

A file names its tasks (Brax's and Gymnasium's versions share what they can), the static and the
traced settings of the learner that differ from the defaults, under the name of a preset those that
it has besides, and the returns that were reached: by which command, in how many steps, on what.
"""

import tomllib
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from jaxprune.ppo import PPOConfig

FOLDER = Path(__file__).parent / "tuned"


@cache
def files() -> dict[str, dict[str, Any]]:
    """Task -> what its file holds."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(FOLDER.glob("*.toml")):
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        found |= dict.fromkeys(content["tasks"], content)
    return found


def tuned(task: str, config: PPOConfig, preset: str = "") -> PPOConfig:
    """The learner with the settings of a task, and with those that a preset has besides.

    It is as it was where the task has no file.
    """
    content = files().get(task, {})
    names = {field.name for field in fields(PPOConfig)}
    for part in (content, content.get(preset, {})):
        static = {name: value for name, value in part.get("learner", {}).items() if name in names}
        hyper = replace(config.hyper, **part.get("hyper", {}))
        config = replace(config, hyper=hyper, **static)
    return config
