"""Pictures of a MuJoCo model, in a process of its own: it has to know its GL before it starts.

MUJOCO_GL=egl python -m benchmarks.render.frames FOLDER

FOLDER holds `model.mjb` and `motion.npz` (qpos `[scenes, frames, nq]`, width, height); `frames.npy`
is added: uint8 `[scenes, frames, height, width, 3]`.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

simulator: Any = mujoco  # its type stubs lack what is compiled
# A robot whose root moves farther than this, in metres, is followed.
FAR = 0.5
# How the camera looks at it: degrees, and multiples of its size.
AZIMUTH, ELEVATION, DISTANCE = 90.0, -12.0, 2.2


def draw(model: Any, qpos: np.ndarray, width: int, height: int) -> np.ndarray:
    """`[scenes, frames, nq]` -> uint8 `[scenes, frames, height, width, 3]`."""
    data = simulator.MjData(model)
    with simulator.Renderer(model, height, width) as renderer:
        return np.stack([_scene(model, data, renderer, motion) for motion in qpos])


def _scene(model: Any, data: Any, renderer: Any, motion: np.ndarray) -> np.ndarray:
    camera = _camera(model, _places(model, data, motion))
    frames = []
    for qpos in motion:
        data.qpos[:] = qpos
        simulator.mj_forward(model, data)
        renderer.update_scene(data, camera)
        frames.append(renderer.render().copy())
    return np.stack(frames)


def _places(model: Any, data: Any, motion: np.ndarray) -> np.ndarray:
    """Where the bodies are, without the world, `[frames, bodies, 3]`."""
    places = []
    for qpos in motion:
        data.qpos[:] = qpos
        simulator.mj_kinematics(model, data)
        places.append(data.xpos[1:].copy())
    return np.array(places)


def _camera(model: Any, places: np.ndarray) -> Any:
    """One that follows the first body, or shows everything where that stays where it is."""
    camera = simulator.MjvCamera()
    simulator.mjv_defaultFreeCamera(model, camera)
    root = places[:, 0]
    if np.ptp(root, axis=0).max() > FAR:
        camera.type = simulator.mjtCamera.mjCAMERA_TRACKING
        camera.trackbodyid = 1
        camera.azimuth, camera.elevation = AZIMUTH, ELEVATION
        limbs = np.linalg.norm(places - root[:, None], axis=-1).max()
        camera.distance = DISTANCE * (limbs + FAR)
    return camera


def main(argv: Sequence[str]) -> int:
    """Draw what the folder holds."""
    folder = Path(argv[0])
    model = simulator.MjModel.from_binary_path(str(folder / "model.mjb"))
    motion = np.load(folder / "motion.npz")
    size = int(motion["width"]), int(motion["height"])
    np.save(folder / "frames.npy", draw(model, motion["qpos"], *size))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
