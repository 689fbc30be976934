"""A short film of a run's policies: dense, dense under attack, and the sweet spot under attack.

python -m benchmarks.render results/RUN      # writes policies.gif, and the report with it

For MuJoCo's bodies: Brax's tasks on any backend, and the gym/ tasks. All three start from the same
state, and the attack is the strongest of the run that needs no preparation.
"""

import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console

from benchmarks.analysis.curves import Results, collect, labelled
from benchmarks.analysis.worst_case import worst_of
from benchmarks.experiment.config import Experiment
from benchmarks.experiment.design import RESCALED
from benchmarks.render.frames import simulator
from benchmarks.report.contents import GIF
from benchmarks.report.write import write_report
from benchmarks.runtime.atomic import write_whole
from benchmarks.runtime.command_line import read_options
from benchmarks.runtime.console import make_console
from benchmarks.runtime.guard import guarded
from benchmarks.runtime.run_folder import RunFolder, read_json, read_table
from jaxprune import devices
from jaxprune.attacks import ATTACKS, Attack, make_attack
from jaxprune.devices import take
from jaxprune.envs import Drawable, Moment, make_env
from jaxprune.policy_io import load_agents
from jaxprune.policy_io.labels import Labels
from jaxprune.pruning import mask_policy
from jaxprune.rollout import DETERMINISTIC, act
from jaxprune.types import Array, Key, Policy, PyTree
from jaxprune.validation import InputError

SECONDS = 5.0
FRAME_SECONDS = 0.05  # at least, between two frames
WIDTH, HEIGHT, CAPTION = 200, 150, 18  # pixels
MEGABYTES = 1.5
COLOURS = 64
# What MuJoCo can draw with; no screen is needed for the first two.
GLS = ("egl", "osmesa", "glfw")
PATIENCE = 300  # seconds, for one of them
REMEDY = "install libegl1 or libosmesa6, or name another with MUJOCO_GL"


class NoGLError(Exception):
    """Nothing on this machine can draw."""


class Scene(NamedTuple):
    """Who plays, and under what."""

    caption: str
    policy: Policy  # masked
    attack: str
    eps: float


class Motion(NamedTuple):
    """What was played."""

    qpos: np.ndarray  # [steps + 1, nq]; where the episode ended, it stays
    ended: np.ndarray  # bool [steps + 1]


def film(folder: RunFolder, console: Console) -> None:
    """Write policies.gif and the report that shows it.

    Raises:
        InputError: no run, no agents, or a task that MuJoCo has no model of.
        NoGLError: nothing can draw here.
    """
    task, backend = folder.settings["env"], folder.settings["backend"]
    env = make_env(task, backend)
    if not isinstance(env, Drawable):
        raise InputError(
            f"env {task!r} has no MuJoCo model to draw: give a run on a task of Brax's "
            "(hopper, ant, ...) or on a gym/ task"
        )
    config = Experiment.from_settings(folder.settings).attack
    scenes = choose_scenes(folder.path, env.spec.eps)
    steps = round(SECONDS / env.dt)
    # One attack, and so one program, for all scenes under it.
    attacks = {name: make_attack(name, config) for name in {s.attack for s in scenes}}
    motions = [play(env, scene, attacks[scene.attack], steps) for scene in scenes]
    stride = max(1, round(FRAME_SECONDS / env.dt))
    pictures = drawn(env.mj_model, np.stack([motion.qpos[::stride] for motion in motions]))
    captions = [scene.caption for scene in scenes]
    frames = _side_by_side(pictures, captions, [motion.ended[::stride] for motion in motions])
    content = encoded(frames, stride * env.dt)
    write_whole(folder.path / GIF, lambda partial: partial.write_bytes(content))
    write_report(folder, Console(quiet=True))
    console.print(f"wrote {folder.path / GIF} ({len(content) / 1e6:.2f} MB) and the report again")


# --- who ------------------------------------------------------------------------------------------


def choose_scenes(path: Path, eps: float) -> list[Scene]:
    """The three scenes of a run, with the agents of the seed whose dense agent is best.

    Args:
        path: of the run.
        eps: of its radii, the nearest to this one is taken.
    """
    table, cells = read_table(path, "returns"), read_table(path, "cells")
    results, labels = collect(table), Labels(table)
    cells = labelled(cells, labels)
    radius = min(results.radii, key=lambda x: abs(x - eps))
    method, sparsity = sweet_spot(results, radius)
    unpruned = results.dense_of[method]
    seed = np.unique(cells["seed"])[results.clean(unpruned).returns.mean((1, 2)).argmax()]
    agents, masks = load_agents(path / "agents")

    def policy(label: str, level: float) -> Policy:
        here = (cells["method"] == label) & (cells["seed"] == seed) & (cells["sparsity"] == level)
        (row,) = np.flatnonzero(here)
        of_curve = masks[cells["curve"][row]]
        return mask_policy(take(agents, cells["agent"][row]), take(of_curve, cells["index"][row]))

    attack = strongest(results, unpruned, radius)
    dense, pruned = policy(unpruned, 0.0), policy(method, sparsity)
    return [
        Scene("dense, clean", dense, "none", 0.0),
        Scene(f"dense, {attack}", dense, attack, radius),
        Scene(f"{method} {sparsity:g}, {attack}", pruned, attack, radius),
    ]


def sweet_spot(results: Results, eps: float) -> tuple[str, float]:
    """(method, sparsity) of the pruned agents with the highest mean of clean and attacked return.

    For a picture, not a claim: nothing is tested, and sparsity 0 does not compete.

    Raises:
        InputError: nothing was pruned.
    """
    found = []
    for method in results.methods:
        clean, worst = results.clean(method), worst_of(results, method, eps).curve
        both = np.stack([clean.returns, worst.returns])
        scores = zip(both.mean((0, 1, 3)), clean.sparsity, strict=True)
        pruned = method.split()[-1] != RESCALED  # a control without weights removed
        found += [(float(score), method, float(s)) for score, s in scores if s > 0 and pruned]
    if not found:
        raise InputError("nothing was pruned in this run: there is no sweet spot to show")
    _, method, sparsity = max(found)
    return method, sparsity


def strongest(results: Results, method: str, eps: float) -> str:
    """The adversary that leaves least of the return of those that need no preparation."""
    ready = {
        curve.attack: curve.returns.mean()
        for curve in results.attacked(method, eps)
        if curve.attack in ATTACKS and make_attack(curve.attack).prepare is None
    }
    return min(ready, key=ready.__getitem__) if ready else "mad"


# --- play -----------------------------------------------------------------------------------------


def play(env: Drawable, scene: Scene, attack: Attack, steps: int) -> Motion:
    """One episode of at most so many steps; every scene starts from the same state."""
    params = attack.blank(scene.policy, env.spec)
    qpos, ended = trajectory(
        env, attack, steps, jax.random.key(0), scene.policy, params, jnp.float32(scene.eps)
    )
    return Motion(np.asarray(qpos), np.asarray(ended))


@partial(jax.jit, static_argnames=("env", "attack", "steps"))
def trajectory(
    env: Drawable, attack: Attack, steps: int, key: Key, victim: Policy, params: PyTree, eps: Array
) -> tuple[Array, Array]:
    """qpos `[steps + 1, nq]` and whether the episode had ended, bool `[steps + 1]`.

    Args:
        env: the task.
        attack: its preparation is in `params`.
        steps: of control.
        key: consumed; the first state depends on it alone.
        victim: the policy, already masked.
        params: of the attack.
        eps: radius, `[]`.
    """
    key_reset, key_memory, key_act = jax.random.split(key, 3)
    state, obs = env.reset(key_reset)
    start = (state, obs, attack.init(params, key_memory), jnp.bool_(False))
    perturb = partial(attack.perturb, params)

    def step(carry, t):
        state, obs, memory, done = carry
        key_t = jax.random.fold_in(key_act, t)
        moment = Moment(env, state)
        action, memory, _ = act(
            key_t, env.spec, victim, perturb, memory, obs, eps, DETERMINISTIC, moment
        )
        after, seen = env.step(state, action)
        state, obs = jax.tree.map(
            lambda new, old: jnp.where(done, old, new), (after, seen.obs), (state, obs)
        )
        done = done | seen.terminated | seen.truncated
        return (state, obs, memory, done), (env.qpos(state), done)

    _, (qpos, ended) = jax.lax.scan(step, start, jnp.arange(steps))
    first = env.qpos(state)[None]
    return jnp.concatenate([first, qpos]), jnp.concatenate([jnp.zeros(1, bool), ended])


# --- draw -----------------------------------------------------------------------------------------


def drawn(model: Any, qpos: np.ndarray, gls: Sequence[str] = GLS) -> np.ndarray:
    """qpos `[scenes, frames, nq]` -> uint8 `[scenes, frames, HEIGHT, WIDTH, 3]`.

    Raises:
        NoGLError: none of them works, with the reason of each.
    """
    asked = os.environ.get("MUJOCO_GL")
    reasons = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        simulator.mj_saveModel(model, str(folder / "model.mjb"))
        np.savez(folder / "motion.npz", qpos=qpos, width=WIDTH, height=HEIGHT)
        for gl in [asked] if asked else gls:
            reason = _draw_with(gl, folder)
            if reason is None:
                return np.load(folder / "frames.npy")
            reasons.append(f"{gl}: {reason}")
    raise NoGLError(f"MuJoCo cannot draw here ({'; '.join(reasons)}): {REMEDY}")


def _draw_with(gl: str, folder: Path) -> str | None:
    """None, or why it does not work."""
    environment = os.environ | {"MUJOCO_GL": gl, "PYOPENGL_PLATFORM": gl}
    if gl == "glfw":
        del environment["PYOPENGL_PLATFORM"]
    command = [sys.executable, str(Path(__file__).with_name("frames.py")), str(folder)]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no frames after {PATIENCE} s"
    if done.returncode == 0:
        return None
    return ([*done.stderr.strip().splitlines(), f"ended with status {done.returncode}"])[-2:][0]


def _side_by_side(
    pictures: np.ndarray, captions: Sequence[str], ended: Sequence[np.ndarray]
) -> list[Image.Image]:
    """One picture per frame: the scenes in a row, each with its caption below."""
    font = ImageFont.load_default(size=12)
    frames = []
    for i in range(pictures.shape[1]):
        frame = Image.new("RGB", (WIDTH * len(captions), HEIGHT + CAPTION), "white")
        text = ImageDraw.Draw(frame)
        for place, (scene, caption) in enumerate(zip(pictures, captions, strict=True)):
            frame.paste(Image.fromarray(scene[i]), (place * WIDTH, 0))
            words = f"{caption}: ended" if ended[place][i] else caption
            where = (place * WIDTH + WIDTH // 2, HEIGHT + CAPTION // 2)
            text.text(where, words, "black", font, anchor="mm")
        frames.append(frame)
    return frames


def encoded(frames: Sequence[Image.Image], seconds: float) -> bytes:
    """A GIF of at most `MEGABYTES`, with every second frame left out until it fits.

    Args:
        frames: at least one.
        seconds: between two of them.
    """
    palette = frames[len(frames) // 2].quantize(COLOURS)
    kept = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    while True:
        file = io.BytesIO()
        milliseconds = 10 * round(100 * seconds)  # a GIF counts in hundredths
        kept[0].save(
            file, "GIF", save_all=True, append_images=kept[1:], duration=milliseconds, loop=0
        )
        if file.tell() <= MEGABYTES * 1e6 or len(kept) == 1:
            return file.getvalue()
        kept, seconds = kept[::2], 2 * seconds


@dataclass(frozen=True)
class Options:
    """Film the policies of a run."""

    run: tyro.conf.Positional[Path]
    """Its folder, e.g. results/RUN."""


@guarded("the tables are as they were")
def main(argv: Sequence[str]) -> int:
    """The command; returns its exit status."""
    console = make_console()
    path = read_options(Options, argv, "benchmarks.render").run
    folder = RunFolder(path, read_json(path / "experiment.json").get("settings") or {})
    devices.configure()
    try:
        film(folder, console)
    except NoGLError as reason:
        console.print(f"skipped: {reason}", markup=False)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
