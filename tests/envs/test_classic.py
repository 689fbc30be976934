"""The classic-control tasks against Gymnasium's, step by step (CartPole: `test_envs.py`)."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxprune.envs import make_env
from jaxprune.envs.classic.angles import wrap
from jaxprune.types import EnvState

gymnasium = pytest.importorskip("gymnasium")

ORIGINALS = {
    "acrobot": "Acrobot-v1",
    "mountain_car": "MountainCar-v0",
    "mountain_car_continuous": "MountainCarContinuous-v0",
    "pendulum": "Pendulum-v1",
}
ROAD = ([-1.2, -0.07], [0.6, 0.07])
STATES = {  # lowest and highest physics
    "acrobot": ([-np.pi, -np.pi, -4 * np.pi, -9 * np.pi], [np.pi, np.pi, 4 * np.pi, 9 * np.pi]),
    "mountain_car": ROAD,
    "mountain_car_continuous": ROAD,
    "pendulum": ([-np.pi, -8.0], [np.pi, 8.0]),
}
FIRST_STATES = {
    "acrobot": ([-0.1] * 4, [0.1] * 4),
    "mountain_car": ([-0.6, 0.0], [-0.4, 0.0]),
    "mountain_car_continuous": ([-0.6, 0.0], [-0.4, 0.0]),
    "pendulum": ([-np.pi, -1.0], [np.pi, 1.0]),
}
ACTIONS = {"mountain_car_continuous": 1.0, "pendulum": 2.0}  # the largest that is not clipped
SEEDS, STEPS = 6, 200

every_task = pytest.mark.parametrize("name", ORIGINALS)


@cache
def played(name: str) -> dict[str, np.ndarray]:
    """Episodes of Gymnasium's task, continued after their ends: arrays `[SEEDS, STEPS, ...]`.

    Even seeds act at random, odd ones push along with the motion until they arrive and then back:
    the goals and the limits are reached and left. Half of the continuous actions are out of range.
    They are float64 like the states (with values that float32 holds), or Gymnasium would round to
    float32 in the middle of its equations.
    """
    original = gymnasium.make(ORIGINALS[name]).unwrapped
    rows = []
    for seed in range(SEEDS):
        original.reset(seed=seed)
        rng = np.random.default_rng(seed)
        arrived = False
        for _ in range(STEPS):
            before = np.array(original.state, np.float64)
            along = np.sign(before[-1])
            back = -along if name == "acrobot" else -1
            direction = rng.choice([-1, 0, 1]) if seed % 2 == 0 else back if arrived else along
            if name in ACTIONS:
                action = direction * np.float64(np.float32(rng.uniform(0, 2 * ACTIONS[name], 1)))
            else:
                action = int(direction) + 1
            obs, reward, terminated, truncated, _ = original.step(action)
            assert not truncated
            arrived |= terminated
            rows.append((before, action, obs, reward, terminated))
    columns = (np.array(column) for column in zip(*rows, strict=True))
    names = ("physics", "action", "obs", "reward", "terminated")
    shaped = (x.reshape(SEEDS, STEPS, *x.shape[1:]) for x in columns)
    return dict(zip(names, shaped, strict=True))


def anywhere(name: str, count: int) -> np.ndarray:
    """States `[count, ...]` all over the state space, half of the coordinates at their limits."""
    rng = np.random.default_rng(0)
    low, high = STATES[name]
    inside = rng.uniform(low, high, (count, len(low)))
    corner = np.where(rng.random(inside.shape) < 0.5, low, high)
    return np.where(rng.random(inside.shape) < 0.5, inside, corner)


def observed(name: str, physics: np.ndarray) -> np.ndarray:
    """What is shown of `[N, ...]` states."""
    joints = {"acrobot": 2, "pendulum": 1}.get(name, 0)
    angles, others = physics.T[:joints], physics.T[joints:]
    return np.stack([*(f(x) for x in angles for f in (np.cos, np.sin)), *others], axis=1)


@every_task
def test_trajectories_are_those_of_gymnasium(name):
    """200 open-loop steps from the same states, in the float64 that Gymnasium computes with.

    Gymnasium rounds observations to float32, and the state of the continuous mountain car as well:
    there ours is rounded after every step too, or the ridge at its goal would amplify the rounding.
    """
    expected = played(name)
    with jax.enable_x64(True):
        env = make_env(name)

        def step(state, action):
            after, result = env.step(state, action)
            if name == "mountain_car_continuous":
                after = EnvState(jnp.float64(jnp.float32(after.physics)), after.time)
            return after, result

        @jax.jit
        @jax.vmap
        def roll(physics, actions):
            return jax.lax.scan(step, EnvState(physics, jnp.int32(0)), actions)

        last, ours = roll(jnp.array(expected["physics"][:, 0]), expected["action"])
        assert ours.obs.dtype == ours.reward.dtype == last.physics.dtype == jnp.float64
        np.testing.assert_allclose(ours.obs, expected["obs"], rtol=0, atol=1e-5)
        np.testing.assert_allclose(ours.reward, expected["reward"], rtol=0, atol=1e-5)
        np.testing.assert_array_equal(ours.terminated, expected["terminated"])
        assert not np.any(ours.diverged)


@every_task
def test_single_steps_in_float32_are_those_of_gymnasium(name):
    """From every state that the episodes visited: nothing has time to amplify the last bit.

    The pendulum starts from the angle without the turns, before it is rounded to float32.
    """
    expected = played(name)
    env = make_env(name)
    physics = expected["physics"]
    if name == "pendulum":
        theta, speed = np.moveaxis(physics, -1, 0)
        physics = np.stack([np.arctan2(np.sin(theta), np.cos(theta)), speed], axis=-1)

    @jax.jit
    @jax.vmap
    @jax.vmap
    def step(physics, action):
        return env.step(EnvState(physics, jnp.int32(0)), action)[1]

    action = expected["action"] if env.spec.discrete else np.float32(expected["action"])
    ours = step(np.float32(physics), action)
    assert ours.obs.dtype == ours.reward.dtype == jnp.float32
    np.testing.assert_allclose(ours.obs, expected["obs"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(ours.reward, expected["reward"], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(ours.terminated, expected["terminated"])


@every_task
def test_the_compared_episodes_visit_all_there_is(name):
    """Goals and the steps after them, the ends of the track, actions out of range."""
    steps = played(name)
    if name in ACTIONS:
        assert np.mean(np.abs(steps["action"]) > ACTIONS[name]) > 0.3
    if name == "pendulum":
        assert not np.any(steps["terminated"])
        assert np.max(np.abs(steps["physics"][..., 0])) > 3 * np.pi
        assert np.max(np.abs(steps["obs"][..., 2])) == 8.0
        return
    assert 0 < np.sum(np.any(steps["terminated"], axis=1)) < SEEDS
    assert np.any(steps["terminated"][:, :-1] & ~steps["terminated"][:, 1:])
    if name == "acrobot":
        assert np.any(np.abs(np.diff(steps["physics"][..., :2], axis=1)) > np.pi)  # wrapped
        return
    position, velocity = np.moveaxis(steps["obs"], -1, 0)
    assert np.min(position) == np.float32(-1.2)
    assert np.all(velocity[position == np.float32(-1.2)] == 0)  # the wall
    assert np.max(position) == np.float32(0.6)


@every_task
def test_single_steps_from_everywhere_are_those_of_gymnasium(name):
    """At full speed too, where acrobot's second joint may turn by more than a circle in a step."""
    physics = anywhere(name, 500)
    rng = np.random.default_rng(1)
    if name in ACTIONS:
        actions = rng.uniform(-2 * ACTIONS[name], 2 * ACTIONS[name], (500, 1))
    else:
        actions = rng.integers(0, 3, 500)
    original = gymnasium.make(ORIGINALS[name]).unwrapped
    original.reset(seed=0)
    theirs = []
    for original.state, action in zip(physics, actions, strict=True):
        theirs.append(original.step(action)[:3])
    with jax.enable_x64(True):
        env = make_env(name)
        step = jax.jit(jax.vmap(lambda x, a: env.step(EnvState(x, jnp.int32(0)), a)[1]))
        ours = step(physics, actions)
        for column, expected in zip(ours[:3], zip(*theirs, strict=True), strict=True):
            np.testing.assert_allclose(column, np.array(expected), rtol=0, atol=1e-5)


@every_task
def test_first_states_are_distributed_like_gymnasiums(name):
    keys = jax.random.split(jax.random.key(0), 2000)
    state, obs = jax.jit(jax.vmap(make_env(name).reset))(keys)
    original = gymnasium.make(ORIGINALS[name]).unwrapped
    theirs = [
        (original.reset(seed=0 if i == 0 else None)[0], np.array(original.state))
        for i in range(2000)
    ]
    first, physics = (np.array(column) for column in zip(*theirs, strict=True))
    low, high = np.asarray(FIRST_STATES[name], np.float32)
    (varying,) = np.nonzero(low < high)
    for sample in (np.asarray(state.physics), np.asarray(physics, np.float32)):
        assert np.all((low <= sample) & (sample <= high))
        for i in varying:
            uniform = scipy.stats.uniform(low[i], high[i] - low[i])
            assert scipy.stats.kstest(sample[:, i], uniform.cdf).pvalue > 0.01
        correlation = np.atleast_2d(np.corrcoef(sample[:, varying].T))
        assert np.all(np.abs(correlation - np.eye(len(varying))) < 4 / np.sqrt(2000))
    assert np.array_equal(state.time, np.zeros(2000))
    np.testing.assert_allclose(obs, observed(name, np.asarray(state.physics)), rtol=0, atol=1e-6)
    np.testing.assert_allclose(first, observed(name, physics), rtol=0, atol=1e-6)


@every_task
def test_the_time_limit_is_that_of_gymnasium_make(name):
    """Nobody acts, so nothing terminates, and both truncate on the same last step."""
    env = make_env(name)
    horizon = env.spec.horizon
    idle = np.zeros(1, np.float32) if not env.spec.discrete else 1
    original = gymnasium.make(ORIGINALS[name])
    assert original.spec.max_episode_steps == horizon
    original.reset(seed=0)
    theirs = [original.step(idle)[2:4] for _ in range(horizon)]
    original.close()
    state, _ = jax.jit(env.reset)(jax.random.key(0))
    _, ours = jax.lax.scan(
        lambda state, _: env.step(state, jnp.asarray(idle)), state, None, horizon
    )
    np.testing.assert_array_equal(np.stack([ours.terminated, ours.truncated], axis=1), theirs)
    assert np.flatnonzero(ours.truncated).tolist() == [horizon - 1]


@every_task
def test_rewards_keep_their_bounds(name):
    """Anywhere in the state space, its corners included, for actions within their range."""
    env = make_env(name)
    spec = env.spec
    rng = np.random.default_rng(1)
    physics = np.float32(anywhere(name, 4096))
    if spec.discrete:
        action = rng.integers(0, spec.action_size, 4096)
    else:
        action = np.float32(ACTIONS[name] * np.clip(rng.uniform(-2, 2, (4096, 1)), -1, 1))
    step = jax.jit(jax.vmap(lambda x, a: env.step(EnvState(x, jnp.int32(0)), a)[1]))
    reward = np.asarray(step(physics, action).reward)
    low, high = np.asarray(spec.reward_clip, np.float32)
    assert np.all((low <= reward) & (reward <= high))
    assert np.min(reward) == pytest.approx(low, abs=1e-6)
    unbounded = name == "mountain_car_continuous"
    assert spec.reward_range == (None if unbounded else spec.reward_clip)


@pytest.mark.parametrize(("name", "limit"), ACTIONS.items())
def test_actions_out_of_range_move_no_more_than_those_at_the_edge(name, limit):
    """The pendulum pays for the clipped action, the car for the one it asked for."""
    env = make_env(name)
    step = jax.jit(env.step)
    state, _ = jax.jit(env.reset)(jax.random.key(0))
    for sign in (1.0, -1.0):
        far, edge = (step(state, np.float32([sign * x]))[1] for x in (7.0, limit))
        assert np.array_equal(far.obs, edge.obs)
        difference = 0.0 if name == "pendulum" else -0.1 * (7.0**2 - 1.0)
        assert float(far.reward - edge.reward) == pytest.approx(difference, abs=1e-6)
    inside, edge = (step(state, np.float32([x * limit]))[1] for x in (0.9, 1.0))
    assert not np.array_equal(inside.obs, edge.obs)


def test_a_car_that_rolls_back_over_the_goal_has_not_arrived():
    for name, goal in (("mountain_car", 0.5), ("mountain_car_continuous", 0.45)):
        env = make_env(name)
        step = jax.jit(env.step)
        action = np.int32(1) if env.spec.discrete else np.zeros(1, np.float32)
        for velocity, arrived in ((0.02, True), (-0.02, False)):
            state = EnvState(np.float32([goal + 0.05, velocity]), np.int32(0))
            _, result = step(state, action)
            assert float(result.obs[0]) > goal
            assert bool(result.terminated) is arrived


@pytest.mark.parametrize("turns", [0, 1, -1, 2, -7])
def test_wrapping_takes_out_whole_turns(turns):
    angles = np.linspace(-3.1, 3.1, 11, dtype=np.float32)
    np.testing.assert_allclose(wrap(jnp.float32(angles + 2 * np.pi * turns)), angles, atol=1e-5)


def test_a_spinning_pendulum_keeps_its_digits():
    """50 s at 8 rad/s: the carried angle stays within a turn, where float32 is good to 1e-6."""
    env = make_env("pendulum")
    state, _ = jax.jit(env.reset)(jax.random.key(0))
    last, _ = jax.lax.scan(lambda s, _: env.step(s, jnp.array([2.0])), state, None, 1000)
    assert abs(float(last.physics[0])) < np.pi + 8 * 0.05


@pytest.mark.parametrize("name", ["cartpole", *ORIGINALS])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_step_keeps_the_dtype_of_its_state(name, dtype):
    with jax.enable_x64(True):
        env = make_env(name)
        state, _ = jax.eval_shape(env.reset, jax.random.key(0))
        at = EnvState(jax.ShapeDtypeStruct(state.physics.shape, dtype), state.time)
        action = np.int32(1) if env.spec.discrete else np.ones(1, dtype)
        after, result = jax.eval_shape(env.step, at, action)
        assert after.physics.dtype == result.obs.dtype == result.reward.dtype == dtype
