"""MuJoCo C: random actions in one environment, ended episodes start again."""

from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
from serve import read_settings, turns

simulator: Any = mujoco  # its type stubs lack what is compiled
settings = read_settings()
assets = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"
model = simulator.MjModel.from_xml_path(str(assets / settings["model"]))
data = simulator.MjData(model)
rng = np.random.default_rng(0)
actions = rng.uniform(-1.0, 1.0, (settings["steps"], model.nu))
starts = rng.uniform(-settings["noise"], settings["noise"], (settings["steps"], model.nq))


def walk() -> None:
    """All steps, from a fresh start."""
    simulator.mj_resetData(model, data)
    for action, start in zip(actions, starts, strict=True):
        data.ctrl[:] = action
        simulator.mj_step(model, data, settings["frame_skip"])
        qpos = data.qpos
        if not all(low < qpos[i] < high for i, low, high in settings["healthy"]):
            simulator.mj_resetData(model, data)
            qpos += start


walk()
for _ in turns(settings["steps"], ("mujoco",)):
    walk()
