"""The DM Control tasks against MuJoCo Playground's own, and what is said where it is missing.

`test_envs.py` holds some of them to the contract of all environments.
"""

import sys
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.envs import EnvSpec, make_env
from jaxprune.envs.registry import PLAYGROUND
from jaxprune.types import EnvState
from jaxprune.validation import InputError

# One task of each: the others share its physics, but finger's second has a target besides.
DOMAINS = (
    "AcrobotSwingup",
    "BallInCup",
    "CartpoleSwingup",
    "CheetahRun",
    "FingerSpin",
    "FingerTurnEasy",
    "FishSwim",
    "HopperHop",
    "HumanoidWalk",
    "PendulumSwingup",
    "PointMass",
    "ReacherEasy",
    "SwimmerSwimmer6",
    "WalkerWalk",
)


@pytest.fixture(scope="module")
def suite():
    reason = "needs the extra dmc: pip install 'jaxprune[dmc]'"
    return pytest.importorskip("mujoco_playground", reason=reason).dm_control_suite


@cache
def environment(name: str):
    """(env, its compiled reset, its compiled step)"""
    env = make_env(name)
    return env, jax.jit(env.reset), jax.jit(env.step)


def draw_actions(spec: EnvSpec, *shape: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.uniform(-1.5, 1.5, (*shape, spec.action_size)).astype(np.float32)  # some clipped


# --- without the extra


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mujoco_playground", None)
    with pytest.raises(InputError) as error:
        make_env("dmc/HopperHop")
    message = str(error.value)
    assert message.startswith("env 'dmc/HopperHop' needs MuJoCo Playground")
    assert 'pip install "jaxprune[dmc]"' in message and "\n" not in message


def test_an_unknown_task_of_the_suite_is_answered_with_the_nearest():
    with pytest.raises(
        InputError, match=r"unknown env 'dmc/HoperHop': did you mean 'dmc/HopperHop'"
    ):
        make_env("dmc/HoperHop")


def test_the_only_backend_is_mjx():
    with pytest.raises(InputError, match="does not run on backend 'warp': choose from mjx, or"):
        make_env("dmc/HopperHop", "warp")


# --- with it


def test_the_names_are_those_of_the_suite(suite):
    assert sorted(PLAYGROUND) == sorted(suite.ALL_ENVS)


def test_the_spec_of_a_task(suite):
    assert environment("dmc/CartpoleBalance")[0].spec == EnvSpec(
        name="dmc/CartpoleBalance",
        backend="mjx",
        obs_size=5,
        action_size=1,
        discrete=False,
        horizon=1000,
        eps=0.1,
        reward_range=(0.0, 1.0),
        reward_clip=(0.0, 1.0),
    )


def steps_from_what_is_carried(env, steps: int):
    """What we carry determines Playground's next result.

    Bit for bit in one program, theirs, from the whole state and from ours with zeros for the rest.
    Yields (what we carry, the action, the whole next state) of every step.
    """
    their_step = jax.jit(env._env.step)
    whole = reduced = jax.jit(env._env.reset)(jax.random.key(0))
    for action in draw_actions(env.spec, steps):
        carried = env._carry.pack(whole)
        whole = their_step(whole, np.clip(action, -1.0, 1.0))
        reduced = env._carry.unpack(env._carry.pack(reduced))
        reduced = their_step(reduced, np.clip(action, -1.0, 1.0))
        for field in ("obs", "reward", "done"):
            assert np.array_equal(getattr(reduced, field), getattr(whole, field)), field
        assert not whole.done
        yield carried, action, whole


def test_cartpole_is_the_one_of_playground(suite):
    """To 1e-6 between its program and ours, which XLA fuses differently."""
    env, reset, step = environment("dmc/CartpoleBalance")
    theirs = jax.jit(env._env.reset)(jax.random.key(0))
    np.testing.assert_allclose(reset(jax.random.key(0))[1], theirs.obs, rtol=1e-6, atol=1e-6)
    for carried, action, whole in steps_from_what_is_carried(env, steps=20):
        _, ours = step(EnvState(carried, jnp.int32(0)), action)
        np.testing.assert_allclose(ours.obs, whole.obs, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(ours.reward, whole.reward, rtol=1e-6, atol=1e-6)
        assert not ours.terminated and not ours.diverged


@pytest.mark.slow
@pytest.mark.parametrize("name", DOMAINS)
def test_enough_is_carried_in_every_domain(suite, name):
    for _, _, whole in steps_from_what_is_carried(make_env(f"dmc/{name}"), steps=10):
        assert -1e-6 <= float(whole.reward) <= 1.0 + 1e-6


def test_jit_changes_nothing(suite):
    """Of a step; a reset without it compiles hundreds of small programs."""
    env, reset, step = environment("dmc/PendulumSwingup")
    state, _ = reset(jax.random.key(1))
    action = jnp.asarray(draw_actions(env.spec))
    jitted, eager = step(state, action), env.step(state, action)
    for ours, theirs in zip(jax.tree.leaves(jitted), jax.tree.leaves(eager), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


def test_vmap_is_a_loop(suite):
    env, reset, step = environment("dmc/PendulumSwingup")
    actions = jnp.asarray(draw_actions(env.spec, 3))
    lanes = [reset(key)[0] for key in jax.random.split(jax.random.key(2), 3)]
    together = jax.jit(jax.vmap(env.step))(jax.tree.map(lambda *x: jnp.stack(x), *lanes), actions)
    alone = [step(lane, action) for lane, action in zip(lanes, actions, strict=True)]
    expected = jax.tree.map(lambda *x: np.stack(x), *alone)
    for ours, theirs in zip(jax.tree.leaves(together), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_an_episode_is_truncated_at_the_horizon_and_never_ends_before(suite):
    env, reset, step = environment("dmc/PendulumSwingup")
    state, _ = reset(jax.random.key(3))
    for time, truncated in (
        (0, False),
        (env.spec.horizon - 2, False),
        (env.spec.horizon - 1, True),
    ):
        after, result = step(EnvState(state.physics, jnp.int32(time)), jnp.ones(1))
        assert int(after.time) == time + 1
        assert bool(result.truncated) is truncated
        assert not result.terminated


def test_a_state_that_is_not_a_number_ends_the_episode(suite):
    _, reset, step = environment("dmc/PendulumSwingup")
    state, _ = reset(jax.random.key(4))
    lost = jax.tree.map(lambda x: x * jnp.nan, state.physics)
    _, result = step(EnvState(lost, state.time), jnp.ones(1))
    assert result.terminated and result.diverged and not result.truncated
    assert float(result.reward) == 0.0
    assert np.array_equal(result.obs, np.zeros(3))


def test_rewards_keep_to_their_range(suite, monkeypatch):
    """Where a rotation matrix rounds to more than one, as one in a hundred of walker's does."""
    env, reset, _ = environment("dmc/PendulumSwingup")
    state, obs = reset(jax.random.key(5))
    for theirs, ours in ((1.0 + 5e-7, 1.0), (-5e-7, 0.0)):
        outputs = (obs, jnp.float32(theirs), jnp.float32(0.0))
        monkeypatch.setattr(env, "_step", lambda state, action, outputs=outputs: (state, outputs))
        assert float(env.step(state, jnp.ones(1))[1].reward) == ours


@pytest.mark.slow
@pytest.mark.parametrize("name", PLAYGROUND)
def test_what_the_adaptor_takes_for_granted(suite, name):
    """Of Playground's task: a flat observation, actions in [-1, 1], none of them repeated."""
    env = make_env(f"dmc/{name}")
    model, config = env._env.mj_model, suite.get_default_config(name)
    assert env._env.mjx_model.impl.value == "jax"
    assert config.action_repeat == 1
    assert config.episode_length == env.spec.horizon == 1000
    assert np.all(model.actuator_ctrlrange == [-1.0, 1.0]) and np.all(model.actuator_ctrllimited)
    assert env._env.observation_size == env.spec.obs_size
    state, _ = jax.eval_shape(env.reset, jax.random.key(0))
    whole = jax.eval_shape(env._env.reset, jax.random.key(0))
    count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))  # noqa: E731
    assert count(state) < 0.2 * count(whole)
