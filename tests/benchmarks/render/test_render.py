"""The film of a run's policies."""

import io
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from benchmarks.analysis.curves import collect
from benchmarks.experiment import PRESETS
from benchmarks.render import __main__ as render
from benchmarks.render.frames import simulator
from benchmarks.report.contents import GIF
from benchmarks.runtime.run_folder import RunFolder
from jaxprune.attacks import MADConfig, make_attack
from jaxprune.envs import Drawable, make_env
from jaxprune.envs.base import conclude
from jaxprune.policy_io import save_agents
from jaxprune.ppo import PPOConfig, initial_policy
from jaxprune.pruning import dense, prune
from jaxprune.types import Array, EnvState, Key, TimeStep
from tests.benchmarks.made_up import LEVELS, write_run
from tests.probes import probe_spec

POLE = """<mujoco><worldbody>
  <light pos="0 0 3"/>
  <geom type="plane" size="3 3 .1" rgba=".8 .8 .8 1"/>
  <body pos="0 0 .5"><joint type="hinge" axis="0 1 0"/>
    <geom type="capsule" fromto="0 0 0 0 0 1" size=".1" rgba=".8 .2 .2 1"/></body>
</worldbody></mujoco>"""


class Pole:
    """A pole that falls unless the action balances it; the episode ends at 0.6 rad."""

    spec = probe_spec("pole", horizon=1000, obs_size=2)
    dt = 0.05

    def __init__(self):
        self.mj_model = simulator.MjModel.from_xml_string(POLE)

    def reset(self, key: Key) -> tuple[EnvState, Array]:
        angle = jax.random.uniform(key, (), minval=0.1, maxval=0.2)
        obs = jnp.stack([angle, 0.0])
        return EnvState(obs, jnp.int32(0)), obs

    def step(self, state: EnvState, action: Array) -> tuple[EnvState, TimeStep]:
        angle, speed = state.physics
        speed = speed + self.dt * (3.0 * jnp.sin(angle) + 0.01 * action[0])
        obs = jnp.stack([angle + self.dt * speed, speed])
        time = state.time + 1
        return EnvState(obs, time), conclude(
            self.spec, time, obs, jnp.float32(1.0), jnp.abs(obs[0]) > 0.6
        )

    def qpos(self, state: EnvState) -> Array:
        return state.physics[:1]


ENV = Pole()
SMALL = replace(
    PRESETS["smoke"],
    env="hopper",
    methods=("magnitude",),
    attacks=("mad", "random"),
    sparsity_grid=LEVELS,
    seeds=2,
    attack=replace(PRESETS["smoke"].attack, mad=MADConfig(steps=2, restarts=1)),
    ppo=PPOConfig(steps=320, num_envs=8, unroll=10, hidden=(8,)),
).resolved(ENV)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run with its agents: two, pruned by magnitude. The second is the better one."""
    folder = write_run(
        tmp_path_factory.mktemp("render") / "run",
        attacks=("mad", "random"),
        seeds=2,
        settings=SMALL.settings(),
    )
    policies = jax.vmap(partial(initial_policy, SMALL.ppo, ENV.spec))(
        jax.random.split(jax.random.key(0))
    )
    masks = prune(policies, "magnitude", LEVELS, "global", jax.random.key(1), None, SMALL.ppo.scope)
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), masks)
    save_agents(
        folder.path / "agents", policies, {"none": dense(policies.params), "magnitude": flat}
    )
    return folder


@pytest.fixture(autouse=True)
def pole(monkeypatch: pytest.MonkeyPatch):
    """Runs on hopper are played on the pole."""
    monkeypatch.setattr(render, "make_env", lambda task, backend: ENV)


def scene(eps: float = 0.1) -> render.Scene:
    policy = initial_policy(SMALL.ppo, ENV.spec, jax.random.key(0))
    return render.Scene("dense", policy, "mad", eps)


@pytest.mark.parametrize(
    ("task", "backend"),
    [
        ("inverted_pendulum", "spring"),
        pytest.param("inverted_pendulum", "positional", marks=pytest.mark.slow),
        pytest.param("inverted_pendulum", "generalized", marks=pytest.mark.slow),
        pytest.param("inverted_pendulum", "mjx", marks=pytest.mark.slow),
        pytest.param("gym/InvertedPendulum-v4", "mjx", marks=pytest.mark.slow),
    ],
)
def test_qpos_is_where_the_bodies_are(task: str, backend: str):
    """The pendulum observes its positions, then its velocities."""
    env = make_env(task, backend)
    assert isinstance(env, Drawable)
    state, obs = env.reset(jax.random.key(0))
    assert env.qpos(state).shape == (env.mj_model.nq,) == (2,)
    np.testing.assert_allclose(env.qpos(state), obs[:2], atol=1e-6)
    state, step = jax.jit(env.step)(state, np.ones(1, np.float32))
    np.testing.assert_allclose(env.qpos(state), step.obs[:2], atol=1e-6)


def test_a_task_without_bodies_cannot_be_drawn():
    assert not isinstance(make_env("cartpole"), Drawable)


def test_scenes_are_those_of_the_best_seed(folder: RunFolder):
    """Returns fall with sparsity, so that the least pruned agent is the best pruned one."""
    clean, attacked, pruned = render.choose_scenes(folder.path, 0.1)
    assert [s.eps for s in (clean, attacked, pruned)] == [0.0, 0.1, 0.1]
    assert clean.caption == "dense, clean"
    assert attacked.caption == f"dense, {attacked.attack}"
    assert pruned.caption == f"magnitude 0.3, {attacked.attack}"
    policies, _ = render.load_agents(folder.path / "agents")
    second = render.take(policies, 1)

    def kernels(policy) -> np.ndarray:
        return np.concatenate([x["kernel"].ravel() for x in policy.params.actor.values()])

    for policy in (clean.policy, attacked.policy):
        np.testing.assert_array_equal(kernels(policy), kernels(second))
    kept = kernels(pruned.policy) != 0
    assert kept.sum() == 24 - 7  # 0.3 of 2 * 8 + 8 weights
    np.testing.assert_array_equal(kernels(pruned.policy)[kept], kernels(second)[kept])
    assert np.abs(kernels(second)[~kept]).max() <= np.abs(kernels(second)[kept]).min()


def test_without_an_attack_that_is_ready_it_is_mad(folder: RunFolder):
    results = collect(render.read_table(folder.path, "returns"))
    eps = results.radii[0]
    assert render.strongest(results, "none", eps) in ("mad", "random")
    learned = replace(results, adversaries=[("rs", eps)])
    learned.by_key["none", "rs", eps] = replace(results.clean("none"), attack="rs")
    assert render.strongest(learned, "none", eps) == "mad"


def test_a_motion_stays_where_the_episode_ended():
    """The pole falls; all scenes start from one state."""
    attack = make_attack("mad", SMALL.attack)
    motions = [render.play(ENV, scene(eps), attack, 200) for eps in (0.0, 0.5)]
    np.testing.assert_array_equal(motions[0].qpos[0], motions[1].qpos[0])
    for motion in motions:
        assert motion.qpos.shape == (201, ENV.mj_model.nq)
        end = int(motion.ended.argmax())
        assert 0 < end < 200
        assert (motion.qpos[end:] == motion.qpos[end]).all()
        assert (motion.qpos[end - 1] != motion.qpos[end]).any()


def test_the_film_is_written_and_shown(folder: RunFolder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(render, "SECONDS", 1.0)
    console = Console(width=500, highlight=False)
    with console.capture() as printed:
        try:
            render.film(folder, console)
        except render.NoGLError as reason:
            pytest.skip(str(reason))
    assert "policies.gif (0." in printed.get()
    with Image.open(folder.path / GIF) as film:
        assert film.size == (3 * render.WIDTH, render.HEIGHT + render.CAPTION)
        assert film.n_frames > 1  # type: ignore[attr-defined]
        first = np.asarray(film.convert("RGB"), int)[: render.HEIGHT, : render.WIDTH]
        film.seek(film.n_frames - 1)  # type: ignore[attr-defined]
        last = np.asarray(film.convert("RGB"), int)[: render.HEIGHT, : render.WIDTH]
    red = (first[..., 0] > 2 * first[..., 1]) & (first[..., 0] > 60)
    assert red.sum() > 50  # the pole is to be seen
    assert (np.abs(first - last).sum(-1) > 60).sum() > 50  # and falls
    assert "![Dense and pruned policies](policies.gif)" in (folder.path / "report.md").read_text()
    assert 'src="data:image/gif;base64,' in (folder.path / "report.html").read_text()


def test_without_gl_it_is_skipped_with_reason_and_remedy(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setenv("MUJOCO_GL", "nonsense")
    monkeypatch.setattr(render, "SECONDS", 1.0)
    before = sorted(os.listdir(folder.path))
    assert render.main([str(folder.path)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.startswith("skipped: MuJoCo cannot draw here (nonsense: RuntimeError")
    assert render.REMEDY in printed
    assert sorted(os.listdir(folder.path)) == before


def test_a_film_that_is_too_large_loses_frames(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (16, 60, 60, 3), dtype=np.uint8)
    frames = [Image.fromarray(x) for x in noise]
    whole = render.encoded(frames, 0.1)
    monkeypatch.setattr(render, "MEGABYTES", len(whole) / 1e6 / 3)
    small = render.encoded(frames, 0.1)
    assert len(small) <= len(whole) / 3
    with Image.open(io.BytesIO(small)) as film:
        assert film.n_frames == 4  # type: ignore[attr-defined]
        assert film.info["duration"] == 400


@pytest.mark.parametrize("arguments", [[], ["a", "b"], ["nowhere"]])
def test_bad_input_is_refused(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture):
    assert render.main([str(tmp_path / name) for name in arguments]) == 2
    assert "error: " in capsys.readouterr().err
