"""One contract for every task and backend, and each simulator against its original."""

import warnings
from functools import cache
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxprune.envs import TASKS, default_backend, make_env
from jaxprune.envs.carry import Carry
from jaxprune.types import EnvState
from jaxprune.validation import InputError
from tests.probes import PROBES

# Brax reads MJX's contacts by their old names, at every trace.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Accessing `.*` directly from `Data` is deprecated:DeprecationWarning"
)

STEPS, LANES = 20, 3

ANALYTIC = [(name, "analytic") for name, task in TASKS.items() if "analytic" in task.backends]
QUICK = {
    *ANALYTIC,
    ("hopper", "mjx"),
    ("inverted_pendulum", "generalized"),
    ("gym/Hopper-v4", "mjx"),
    ("gym/InvertedPendulum-v5", "mjx"),
}
PAIRS = [
    (name, backend)
    for name, task in TASKS.items()
    for backend in task.backends
    if not name.startswith("dmc/")
]
BRAX = [pair for pair in PAIRS if pair not in ANALYTIC and not pair[0].startswith("gym/")]
# One adaptor makes all of Playground's tasks: here those with contacts, a target, a fluid.
DMC = [(f"dmc/{name}", "mjx") for name in ("HopperHop", "FingerTurnEasy", "SwimmerSwimmer6")]
needs_playground = pytest.mark.skipif(
    not find_spec("mujoco_playground"), reason="needs the extra dmc: pip install 'jaxprune[dmc]'"
)
# Every simulated task compiles for 5 to 60 seconds.
CONTRACT = [
    pytest.param(pair, id="-".join(pair), marks=() if pair in QUICK else pytest.mark.slow)
    for pair in PAIRS
]
CONTRACT += [
    pytest.param(pair, id="-".join(pair), marks=(pytest.mark.slow, needs_playground))
    for pair in DMC
]
CONTRACT += [
    pytest.param(probe, id=f"probe-{i}-{probe.spec.name}") for i, probe in enumerate(PROBES)
]

contract = pytest.mark.parametrize("which", CONTRACT)


@cache
def environment(which):
    return make_env(*which) if isinstance(which, tuple) else which


@cache
def programs(which):
    """(reset, step) of one lane, compiled once for all the tests."""
    env = environment(which)
    return jax.jit(env.reset), jax.jit(env.step)


def draw_actions(spec, *shape: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    if spec.discrete:
        return rng.integers(0, spec.action_size, shape)
    return rng.uniform(-1.5, 1.5, (*shape, spec.action_size)).astype(np.float32)  # some clipped


@cache
def recorded(which):
    """20 random steps of 3 lanes under `vmap`, on after an ending: there is no auto-reset.

    Returns (states before [T, N], actions [T, N], states after, time steps), and the first
    observations [N].
    """
    env = environment(which)
    actions = draw_actions(env.spec, STEPS, LANES)

    @jax.jit
    def roll(keys, actions):
        state, obs = jax.vmap(env.reset)(keys)

        def step(state, action):
            after, time_step = jax.vmap(env.step)(state, action)
            return after, (state, action, after, time_step)

        return jax.lax.scan(step, state, actions)[1], obs

    return roll(jax.random.split(jax.random.key(0), LANES), actions)


@contract
def test_shapes_and_dtypes_are_those_of_the_spec(which):
    spec = environment(which).spec
    (before, _, after, steps), first = recorded(which)
    assert first.shape == (LANES, spec.obs_size)
    assert steps.obs.shape == (STEPS, LANES, spec.obs_size)
    for x in (steps.reward, steps.terminated, steps.truncated):
        assert x.shape == (STEPS, LANES)
    assert first.dtype == steps.obs.dtype == steps.reward.dtype == jnp.float32
    assert steps.terminated.dtype == steps.truncated.dtype == bool
    assert after.time.dtype == jnp.int32
    shapes = [jax.tree.map(lambda x: (x.shape, x.dtype), state) for state in (before, after)]
    assert shapes[0] == shapes[1]


@contract
def test_the_spec_says_what_the_task_is(which):
    env = environment(which)
    spec = env.spec
    if isinstance(which, tuple):
        assert (spec.name, spec.backend) == which
    assert spec.horizon >= 1
    assert spec.eps > 0
    assert spec.action_size >= 1
    if spec.reward_range is not None:
        low, high = spec.reward_range
        (_, _, _, steps), _ = recorded(which)
        assert np.all((low <= steps.reward) & (steps.reward <= high))


@contract
def test_everything_is_finite_and_time_counts_steps(which):
    (before, _, after, steps), first = recorded(which)
    for x in jax.tree.leaves((first, steps, after)):
        assert np.all(np.isfinite(x))
    assert np.array_equal(before.time[0], np.zeros(LANES))
    assert np.array_equal(after.time[-1], np.full(LANES, STEPS))


@contract
def test_terminated_and_truncated_exclude_each_other(which):
    (_, _, _, steps), _ = recorded(which)
    assert not np.any(steps.terminated & steps.truncated)


@contract
def test_truncation_comes_exactly_at_the_horizon(which):
    """Set the clock of a fresh episode; a step that terminates as well is not truncated."""
    env = environment(which)
    reset, step = programs(which)
    state, _ = reset(jax.random.key(0))
    action = jnp.zeros((), jnp.int32) if env.spec.discrete else jnp.zeros(env.spec.action_size)
    for steps_left in (2, 1):
        at = EnvState(state.physics, jnp.int32(env.spec.horizon - steps_left))
        after, result = step(at, action)
        terminated = bool(result.terminated)
        assert not (terminated and isinstance(which, tuple))  # only probes end at once
        assert int(after.time) == env.spec.horizon - steps_left + 1
        assert bool(result.truncated) is (steps_left == 1 and not terminated)


# Where two programs were seen to differ by more than 1e-5, as a share of the largest entry.
SOLVER_AGREEMENT = {
    ("walker2d", "mjx"): 1e-4,
    ("humanoid", "mjx"): 1e-4,
    ("dmc/SwimmerSwimmer6", "mjx"): 1e-4,
    ("humanoid", "generalized"): 1e-3,
    **{
        (f"gym/{robot}-{version}", "mjx"): 1e-4
        for robot in ("Walker2d", "HalfCheetah", "Humanoid")
        for version in ("v4", "v5")
    },
}


@contract
def test_vmap_is_a_loop(which):
    """Single steps from the recorded states: chaos cannot amplify the last bit.

    The positional backend's velocities are differences of positions over 0.005 s, so that one ulp
    of a position near 1, 1.2e-7, is already 2.4e-5 in a velocity. mjx and generalized carry the
    accelerations and forces that their solvers iterate on: mjx stops at a tolerance, so that two
    programs agree to 1e-4 of the largest entry; generalized stops unconverged after a few
    projected-gradient steps and leaves ten times that (2e-4 was seen on humanoid). Gymnasium's
    tasks carry the accelerations of stiff contacts, in which an ulp of a position is 1e-5.
    """
    backend = environment(which).spec.backend
    atol = 1e-4 if backend == "positional" else 1e-5
    solver = SOLVER_AGREEMENT.get(which, 0.0)
    _, step = programs(which)
    (before, actions, after, steps), _ = recorded(which)
    for t, n in ((0, 0), (1, 2), (STEPS // 2, 1), (STEPS - 1, 0)):
        state, action = jax.tree.map(lambda x, t=t, n=n: x[t, n], (before, actions))
        expected = jax.tree.map(lambda x, t=t, n=n: x[t, n], (after, steps))
        for ours, theirs in zip(
            jax.tree.leaves(step(state, action)), jax.tree.leaves(expected), strict=True
        ):
            scale = np.max(np.abs(theirs), initial=1.0)
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=max(atol, solver * scale))


@contract
def test_a_reset_depends_on_its_key_alone(which):
    reset, _ = programs(which)
    first, again = (reset(jax.random.key(3)) for _ in range(2))
    for ours, theirs in zip(jax.tree.leaves(first), jax.tree.leaves(again), strict=True):
        assert np.array_equal(ours, theirs)
    if isinstance(which, tuple):  # some probes have one initial state
        obs = [tuple(np.asarray(reset(jax.random.key(i))[1])) for i in range(4)]
        assert len(set(obs)) == 4


@pytest.mark.parametrize(
    "which", [p for p in CONTRACT if "-analytic" not in p.id and "probe" not in p.id]
)
def test_continuous_actions_are_clipped(which):
    """Gymnasium's tasks move no further for an action out of range, but charge it as it is."""
    env = environment(which)
    reset, step = programs(which)
    state, _ = reset(jax.random.key(0))
    ones = jnp.ones(env.spec.action_size)
    is_gym = env.spec.name.startswith("gym/")
    limit = env.physics.c_model.actuator_ctrlrange[:, 1] if is_gym else 1.0
    for sign in (1.0, -1.0):
        far, edge = step(state, sign * 7.0 * ones), step(state, sign * limit * ones)
        if is_gym:
            assert far[1].reward <= edge[1].reward
            far = (far[0], far[1]._replace(reward=edge[1].reward))
        for ours, theirs in zip(jax.tree.leaves(far), jax.tree.leaves(edge), strict=True):
            assert np.array_equal(ours, theirs)
    assert not np.array_equal(step(state, ones)[1].obs, step(state, -ones)[1].obs)


@pytest.mark.parametrize(
    "which", [*ANALYTIC, *PROBES], ids=lambda w: w[0] if isinstance(w, tuple) else w.spec.name
)
def test_jit_changes_nothing(which):
    env = environment(which)
    reset, step = programs(which)
    state, obs = env.reset(jax.random.key(1))
    action = jnp.asarray(draw_actions(env.spec))
    eager = (state, obs, env.step(state, action))
    jitted = (*reset(jax.random.key(1)), step(state, action))
    for ours, theirs in zip(jax.tree.leaves(jitted), jax.tree.leaves(eager), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


# --- CartPole against Gymnasium


@pytest.fixture
def gym_cartpole():
    gymnasium = pytest.importorskip("gymnasium")
    env = gymnasium.make("CartPole-v1")
    env.reset(seed=0)
    yield env.unwrapped
    env.close()


def balance(obs) -> int:
    """Push towards where the pole falls: survives for hundreds of steps."""
    x, x_dot, theta, theta_dot = obs
    return int(theta + 0.5 * theta_dot + 0.05 * x + 0.1 * x_dot > 0)


@pytest.mark.parametrize("start", [(0.01, -0.02, 0.03, 0.04), (-0.5, 0.3, -0.05, -0.1)], ids=str)
def test_cartpole_follows_gymnasium_for_200_steps(gym_cartpole, start):
    """The pole is unstable (e-fold 4 / s), so 4 s are compared in Gymnasium's float64."""
    gym_cartpole.state = np.array(start)
    with jax.enable_x64(True):
        env = make_env("cartpole")
        step = jax.jit(env.step)
        state = EnvState(jnp.array(start), jnp.int32(0))
        for _ in range(200):
            action = balance(gym_cartpole.state)
            _, reward, terminated, _, _ = gym_cartpole.step(action)
            state, result = step(state, jnp.int32(action))
            np.testing.assert_allclose(result.obs, gym_cartpole.state, rtol=0, atol=1e-5)
            assert float(result.reward) == reward == 1.0
            assert bool(result.terminated) is terminated is False
    assert int(state.time) == 200


@pytest.mark.parametrize("seed", range(8))
def test_cartpole_falls_when_gymnasiums_falls(gym_cartpole, seed):
    """Random actions, float32: the same states to 1e-5 and the same last step."""
    env = make_env("cartpole")
    step = jax.jit(env.step)
    state, obs = env.reset(jax.random.key(seed))
    gym_cartpole.state = np.float64(obs)
    rng = np.random.default_rng(seed)
    terminated = False
    while not terminated:
        action = int(rng.integers(2))
        _, reward, terminated, _, _ = gym_cartpole.step(action)
        state, result = step(state, jnp.int32(action))
        np.testing.assert_allclose(result.obs, gym_cartpole.state, rtol=0, atol=1e-5)
        assert bool(result.terminated) is terminated
        assert float(result.reward) == reward == 1.0  # the failing step included
    assert int(state.time) < 200


def test_cartpole_leaves_the_track_on_either_side(gym_cartpole):
    """x = 2.39 at 1 m/s is beyond 2.4 one step of 0.02 s later; at 0.4 m/s it is not."""
    step = make_env("cartpole").step
    for x, x_dot, terminated in ((2.39, 1.0, True), (-2.39, -1.0, True), (2.39, 0.4, False)):
        gym_cartpole.state = np.array([x, x_dot, 0.0, 0.0])
        gym_cartpole.steps_beyond_terminated = None
        assert gym_cartpole.step(1)[2] is terminated
        state = EnvState(jnp.array([x, x_dot, 0.0, 0.0]), jnp.int32(0))
        assert bool(step(state, jnp.int32(1))[1].terminated) is terminated


def test_a_fall_at_the_time_limit_is_a_fall():
    env = make_env("cartpole")
    last = jnp.int32(env.spec.horizon - 1)
    _, result = env.step(EnvState(jnp.array([2.39, 1.0, 0.0, 0.0]), last), jnp.int32(1))
    assert bool(result.terminated)
    assert not bool(result.truncated)


def test_cartpole_resets_like_gymnasium():
    """Uniform in +-0.05 in every coordinate."""
    obs = jax.vmap(lambda key: make_env("cartpole").reset(key)[1])(
        jax.random.split(jax.random.key(0), 2000)
    )
    assert np.all(np.abs(obs) <= 0.05)
    for coordinate in np.asarray(obs).T:
        uniform = scipy.stats.uniform(-0.05, 0.1)  # from -0.05, 0.1 wide
        assert scipy.stats.kstest(coordinate, uniform.cdf).pvalue > 0.01
    assert np.all(np.abs(np.corrcoef(obs.T)[np.triu_indices(4, 1)]) < 4 / np.sqrt(2000))


# --- Brax


@cache
def brax_original(name: str, backend: str):
    """Brax's task; on mjx, where Brax stops its solver after 4 iterations, with 30 of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Brax's own deprecation notice
        from brax import envs as brax_envs

        original = brax_envs.get_environment(name, backend=backend)
    if backend == "mjx" and original.sys.opt.iterations > 1:
        original.sys = original.sys.tree_replace({"opt.iterations": 30, "opt.tolerance": 0.0})
    return original


def assert_same_as_brax(name: str, backend: str, steps: int, tolerance: float):
    """The numbers we carry determine Brax's next result, and our step computes it.

    Bit for bit where one compiled program, Brax's own, steps from the whole state and from ours
    with zeros for the rest; to `tolerance` between that program and ours, which XLA fuses
    differently.
    """
    env, original = environment((name, backend)), brax_original(name, backend)
    reset, step = programs((name, backend))
    brax_reset, brax_step = jax.jit(original.reset), jax.jit(original.step)
    key = jax.random.key(0)
    np.testing.assert_allclose(reset(key)[1], brax_reset(key).obs, rtol=1e-6, atol=1e-6)

    whole = reduced = brax_reset(key)
    for action in np.clip(draw_actions(env.spec, steps), -1.0, 1.0):
        _, ours = step(EnvState(env._carry.pack(whole), jnp.int32(0)), action)
        whole = brax_step(whole, action)
        reduced = brax_step(env._carry.unpack(env._carry.pack(reduced)), action)
        for name in ("obs", "reward", "done"):
            assert np.array_equal(getattr(reduced, name), getattr(whole, name)), name
        np.testing.assert_allclose(ours.obs, whole.obs, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(ours.reward, whole.reward, rtol=tolerance, atol=tolerance)
        assert bool(ours.terminated) == bool(whole.done)


def assert_same_as_brax_in_float64(name: str, steps: int):
    """A trajectory by `jaxprune.envs.physics` is Brax's, whose solver goes to the minimum as ours.

    In single precision either is off by its own rounding (tests/envs/test_planar.py).
    """
    with jax.enable_x64(True):
        env, original = TASKS[name].make("mjx"), brax_original.__wrapped__(name, "mjx")
        step, brax_step = jax.jit(env.step), jax.jit(original.step)
        state, obs = jax.jit(env.reset)(jax.random.key(0))
        whole = jax.jit(original.reset)(jax.random.key(0))
        np.testing.assert_allclose(obs, whole.obs, rtol=1e-12, atol=1e-12)
        for action in np.float64(draw_actions(env.spec, steps)):
            state, ours = step(state, action)
            whole = brax_step(whole, np.clip(action, -1.0, 1.0))
            assert ours.obs.dtype == np.float64
            np.testing.assert_allclose(ours.obs, whole.obs, rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(ours.reward, whole.reward, rtol=1e-9, atol=1e-9)
            assert bool(ours.terminated) == bool(whole.done)


BY_OUR_PHYSICS = (
    "hopper",
    "walker2d",
    "halfcheetah",
    "inverted_pendulum",
    "inverted_double_pendulum",
    "reacher",
)
# Where Brax's solvers handle more contacts.
BRAX_AGREEMENT = {
    ("ant", "mjx"): 1e-5,
    ("ant", "generalized"): 1e-5,
    ("walker2d", "generalized"): 1e-5,
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name == "hopper" else pytest.mark.slow)
        for name in BY_OUR_PHYSICS
    ],
)
def test_our_physics_is_brax_with_an_exact_solver(name):
    assert_same_as_brax_in_float64(name, steps=20)


@pytest.mark.slow
@pytest.mark.parametrize(
    "pair",
    [pair for pair in BRAX if pair not in {(name, "mjx") for name in BY_OUR_PHYSICS}],
    ids="-".join,
)
def test_every_other_task_is_the_one_of_brax(pair):
    assert_same_as_brax(*pair, steps=10, tolerance=BRAX_AGREEMENT.get(pair, 1e-6))


def test_swimmer_runs_although_brax_calls_a_removed_argument():
    reset, step = programs(("swimmer", "generalized"))
    state, _ = reset(jax.random.key(0))
    _, result = step(state, jnp.ones(2))
    assert np.all(np.isfinite(result.obs))
    assert np.isfinite(result.reward)


def test_the_state_of_hopper_is_small():
    """Brax's own state has more than a thousand numbers; the next step reads fewer than a tenth."""
    env = environment(("hopper", "mjx"))
    state, _ = jax.eval_shape(env.reset, jax.random.key(0))
    whole = jax.eval_shape(brax_original("hopper", "mjx").reset, jax.random.key(0))
    count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))  # noqa: E731
    assert count(state) < 100 < 1000 < count(whole)


def test_what_no_later_step_reads_is_not_carried():
    """`slow` reaches the output two steps later; nothing reads `idle`, `echo` and `key`."""

    def step(state, action):
        idle = state["idle"] + state["fast"]
        echo = 2 * state["slow"]
        after = {"fast": state["slow"], "slow": action, "idle": idle, "echo": echo}
        return {**after, "key": state["key"]}, state["fast"] + action

    state = {"fast": 1.0, "slow": 2.0, "idle": 3.0, "echo": 4.0, "key": jax.random.key(5)}
    state = jax.tree.map(jnp.asarray, state)
    carry = Carry(step, jax.eval_shape(lambda: state), jnp.zeros(()))
    assert carry.pack(state) == [1.0, 2.0]
    again = carry.unpack(carry.pack(state))
    assert jax.tree.structure(again) == jax.tree.structure(state)
    assert jax.random.key_data(again.pop("key")).any() == jnp.bool_(False)
    assert again == {"fast": 1.0, "slow": 2.0, "idle": 0.0, "echo": 0.0}


# --- names


def test_the_default_backend_is_the_first():
    for name, task in TASKS.items():
        assert default_backend(name) == task.backends[0]
    assert make_env("cartpole").spec.backend == "analytic"
    assert environment(("hopper", "mjx")).spec == make_env("hopper").spec


@pytest.mark.parametrize("call", [make_env, default_backend])
def test_an_unknown_task_is_answered_with_the_nearest(call):
    with pytest.raises(InputError, match=r"unknown env 'hoper'.*did you mean 'hopper' or"):
        call("hoper")


def test_an_alias_is_the_task_of_gymnasium():
    assert make_env("Hopper-v4").spec == make_env("gym/Hopper-v4").spec


@pytest.mark.parametrize(
    ("name", "backend", "works"),
    [
        ("cartpole", "mjx", "analytic"),
        ("swimmer", "mjx", "generalized"),
        ("hopper", "bullet", "mjx, spring, positional, generalized"),
    ],
)
def test_an_unsupported_backend_is_answered_with_those_that_work(name, backend, works):
    message = f"env '{name}' does not run on backend '{backend}': choose from {works}, or leave"
    with pytest.raises(InputError, match=message):
        make_env(name, backend)


def test_programs_share_one_trace_of_a_simulator(monkeypatch):
    """Whatever they do with a step: call it, map it, repeat it."""
    env: Any = make_env("inverted_pendulum", "spring")
    state, _ = jax.eval_shape(env.reset, jax.random.key(0))
    walked, inner = [], env._env.step
    monkeypatch.setattr(env._env, "step", lambda *args: walked.append(1) or inner(*args))
    action = jnp.zeros(env.spec.action_size)
    jax.eval_shape(env.step, state, action)
    before = len(walked)
    many = jax.tree.map(lambda x: jnp.zeros((3, *x.shape), x.dtype), (state, action))
    jax.jit(jax.vmap(env.step)).lower(*many)
    jax.jit(lambda s, a: jax.lax.scan(lambda s, a: (env.step(s, a)[0], 0), s, a)).lower(
        state, many[1]
    )
    assert before > 0 and len(walked) == before
