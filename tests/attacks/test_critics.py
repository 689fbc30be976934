"""Attacks by the victim's critic: closed forms, and every candidate simulated by hand."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.attacks.base import Victims
from jaxprune.attacks.config import MADConfig, SearchConfig
from jaxprune.attacks.critics import _units, candidates, lookahead, reward_unit, value_attack
from jaxprune.cells import as_cells
from jaxprune.envs import Moment
from jaxprune.envs.base import conclude
from jaxprune.types import EnvState
from jaxprune.validation import InputError
from tests.attacks.victims import attacked, layer, linear_policy, tanh_policy
from tests.probes import ContinuousAction, Drift, Treadmill, probe_spec

RNG = np.random.default_rng(0)
STATES = jnp.asarray(RNG.standard_normal((24, 5)), jnp.float32)
KEYS = jax.random.split(jax.random.key(1), len(STATES))
EPS = 0.2

# --- the value attack


def test_value_of_a_linear_critic():
    """The lowest corner is -sign(w)."""
    critic = RNG.standard_normal(5)
    policy = linear_policy(RNG.standard_normal((2, 5)), critic=critic)
    points = attacked(value_attack(MADConfig()), policy, STATES, EPS, KEYS)
    np.testing.assert_allclose(points, STATES - EPS * np.sign(critic), atol=1e-6)


def test_value_settings_that_cannot_be():
    with pytest.raises(InputError, match="mad steps 0 is below 1"):
        value_attack(MADConfig(steps=0))


# --- lookahead: where it looks


@pytest.mark.parametrize("head", ["normal", "categorical"])
@pytest.mark.parametrize("outputs", [1, 3, 9])
def test_candidates_push_every_output_up_and_down(outputs, head):
    weight = RNG.standard_normal((outputs, 5))
    policy = linear_policy(weight, head=head)
    points = candidates(KEYS[0], policy, STATES[0], EPS, 16)
    assert points.shape == (16, 5)
    assert np.array_equal(points[-1], STATES[0])
    signs = (np.asarray(points[:-1]) - np.asarray(STATES[0])) / EPS
    np.testing.assert_allclose(np.abs(signs), 1.0, atol=1e-5)
    aimed = np.repeat(np.sign(weight), 2, axis=0) * np.tile([1, -1], outputs)[:, None]
    count = min(2 * outputs, 15)
    np.testing.assert_allclose(signs[:count], aimed[:count], atol=1e-5)
    others = np.asarray(candidates(KEYS[1], policy, STATES[0], EPS, 16))
    assert np.array_equal(others[:count], points[:count])
    if count < 15:
        assert not np.array_equal(others, points)


# --- lookahead: what it chooses


def chosen(env, policy, key, physics, unit=1.0, eps=EPS):
    """The point that is used at a state which is its own observation."""
    attack, state = lookahead(SearchConfig()), EnvState(physics, jnp.int32(0))
    run = jax.jit(
        lambda policy, key, state, unit, eps: attack.perturb(
            unit, (), key, policy, state.physics, eps, Moment(env, state)
        )[0]
    )
    return np.asarray(run(policy, key, state, unit, eps))


@pytest.mark.parametrize("unit", [0.0, 0.5, 20.0])
def test_drift_against_every_candidate(unit):
    """obs' = obs + 0.1 clip(W x), r = -|obs'|^2, V = w obs', in numpy."""
    weight, critic = np.array([[2.0, -1.0], [0.5, 1.5]]), np.array([0.7, -0.4])
    policy = linear_policy(weight, critic=critic)
    for key, obs in zip(KEYS[:6], STATES[:6, :2] / 2, strict=True):
        tried = np.asarray(candidates(key, policy, obs, EPS, 16))
        after = np.asarray(obs) + 0.1 * np.clip(tried @ weight.T, -1, 1)
        scores = -unit * np.sum(after**2, axis=1) + 0.99 * after @ critic
        found = chosen(Drift(), policy, key, obs, unit)
        used = np.argmin(np.max(np.abs(tried - found), axis=1))
        np.testing.assert_allclose(found, tried[used], atol=1e-6)
        assert scores[used] <= np.min(scores) + 1e-5
        assert scores[used] < scores[-1] - 1e-3


def test_a_small_unit_and_a_large_one_choose_otherwise():
    policy = linear_policy(np.eye(2), critic=[5.0, 0.0])
    obs = jnp.array([-0.5, 0.5])  # V falls to the left, and that is where rewards fall too ...
    low = chosen(Drift(), policy, KEYS[0], -obs, 0.0)
    high = chosen(Drift(), policy, KEYS[0], -obs, 100.0)
    assert low[0] < high[0]  # ... but on the other side of the origin


def test_of_equals_a_corner_is_used():
    policy = linear_policy(np.eye(2))
    found = chosen(Drift(), policy, KEYS[0], STATES[0, :2], unit=0.0)
    np.testing.assert_allclose(found, STATES[0, :2] + EPS * np.array([1, 0]), atol=1e-6)


def test_nothing_follows_termination():
    """Reward -(a - x / 2)^2 and the end: a critic that is huge does not matter."""
    policy = linear_policy([[1.0]], critic=[-1e6])
    for sign in (-1.0, 1.0):
        obs = jnp.array([sign])
        np.testing.assert_allclose(chosen(ContinuousAction(), policy, KEYS[0], obs), 1.2 * obs)


@dataclass(frozen=True)
class Fragile:
    """Reward a; a simulator that breaks, or only says NaN, below a = 0."""

    guarded: bool
    spec = probe_spec("fragile", horizon=5)

    def reset(self, key):
        del key
        return EnvState(jnp.zeros(1), jnp.int32(0)), jnp.zeros(1)

    def step(self, state, action):
        reward = jnp.where(action[0] < 0, jnp.nan, action[0])
        after = conclude(self.spec, state.time + 1, jnp.zeros(1), reward, False)
        return state, after if self.guarded else after._replace(reward=reward, diverged=False)


@pytest.mark.parametrize("guarded", [True, False])
def test_a_candidate_that_breaks_the_simulator_is_not_used(guarded):
    """At 0.1, actions of 0.3 and -0.1 are within reach: 0.1 remains, the lowest that works."""
    obs = jnp.array([0.1])
    found = chosen(Fragile(guarded), linear_policy([[1.0]]), KEYS[0], obs)
    np.testing.assert_array_equal(found, obs)


def test_no_ball_no_change():
    policy = linear_policy(np.eye(2), critic=[5.0, 0.0])
    found = chosen(Drift(), policy, KEYS[0], STATES[0, :2], eps=0.0)
    assert found.tobytes() == np.asarray(STATES[0, :2]).tobytes()


# --- lookahead: the unit of the critic


def test_reward_unit_is_least_squares():
    reward, noise = RNG.standard_normal((2, 50)) + 1
    earned = 0.3 * reward + 0.1 * noise
    expected = np.linalg.lstsq(reward[:, None], earned)[0][0]
    assert float(reward_unit(jnp.asarray(reward), jnp.asarray(earned))) == pytest.approx(expected)
    assert float(reward_unit(jnp.asarray(reward), jnp.asarray(-earned))) == 0.0
    assert float(reward_unit(jnp.zeros(5), jnp.ones(5))) == 0.0


def prepared(policy, units, env):
    """Of agents whose critics say V = unit / (1 - gamma), which is right for rewards of 1."""

    def of_unit(unit):
        critic = layer(np.zeros((1, 1)))
        critic["layer_0"]["bias"] = jnp.array([unit / 0.01])
        return replace(policy, params=policy.params._replace(critic=critic))

    policies = jax.tree.map(lambda *x: jnp.stack(x), *map(of_unit, units))
    _, policies, cells = as_cells(*jax.device_get((policies, None)))
    return lookahead(SearchConfig()).prepare(Victims(env, policies, cells, EPS, jax.random.key(3)))


def test_prepare_finds_the_units_and_compiles_once():
    env, policy = Treadmill(terminates=False), linear_policy([[1.0]])
    _units.cache_clear()
    for units in ([0.2, 1.0, 7.0], [3.0, 0.0, 0.5]):
        found = prepared(policy, units, env)
        assert isinstance(found, np.ndarray) and found.shape == (3, 1)
        np.testing.assert_allclose(found[:, 0], units, rtol=1e-3)
        assert _units.cache_info().currsize == 1
        assert _units(env).compilations == 1
    blank = lookahead(SearchConfig()).blank(tanh_policy(), env.spec)
    assert blank.shape == found.shape[2:] and blank.dtype == found.dtype
