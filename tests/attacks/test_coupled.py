"""Perturbations that may only change slowly, whatever the attack inside."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.attacks.base import Attack, Cost
from jaxprune.attacks.config import MADConfig
from jaxprune.attacks.coupled import coupled
from jaxprune.attacks.gradient import mad
from jaxprune.attacks.noise import corners, fixed
from jaxprune.validation import InputError
from tests.attacks.victims import tanh_policy
from tests.probes import probe_spec

SIZE, EPS, STEPS = 4, 0.2, 40
SPEC = probe_spec("any", STEPS, obs_size=SIZE)
STATES = jnp.asarray(np.random.default_rng(0).standard_normal((STEPS, SIZE)), jnp.float32)
KEYS = jax.random.split(jax.random.key(1), STEPS)


def played(attack, head="normal", eps=EPS):
    """The perturbations of an episode, `[STEPS, SIZE]`, and the memory at its end."""
    policy = tanh_policy(head)

    def run(policy, eps):
        params = attack.blank(policy, SPEC)

        def step(memory, key_and_x):
            key, x = key_and_x
            moved, memory = attack.perturb(params, memory, key, policy, x, eps)
            return memory, moved - x

        return jax.lax.scan(step, attack.init(params, jax.random.key(2)), (KEYS, STATES))

    memory, moves = jax.jit(run)(policy, eps)
    return np.asarray(moves), memory


@pytest.mark.parametrize("head", ["normal", "categorical"])
@pytest.mark.parametrize("attack", [corners(), mad(MADConfig()), fixed()])
def test_no_step_is_larger_than_its_rate(attack, head):
    moves, _ = played(coupled(attack, 0.3), head)
    steps = np.abs(np.diff(moves, axis=0, prepend=0.0))
    assert np.max(np.abs(moves)) <= EPS + 1e-6
    assert np.max(steps) <= 0.3 * EPS + 1e-6
    assert np.max(steps) > 0.29 * EPS


def test_it_is_the_projection_of_the_attack_inside():
    wanted, _ = played(corners())
    delta = np.zeros(SIZE)
    moves, memory = played(coupled(corners(), 0.7))
    for want, move in zip(wanted, moves, strict=True):
        delta = np.clip(delta + np.clip(want - delta, -0.7 * EPS, 0.7 * EPS), -EPS, EPS)
        np.testing.assert_allclose(move, delta, atol=1e-6)
    np.testing.assert_allclose(memory.delta, delta, atol=1e-6)


def test_a_constant_attack_is_reached_in_five_steps():
    moves, _ = played(coupled(fixed(), 0.2))
    expected = EPS * np.minimum(0.2 * np.arange(1, STEPS + 1), 1.0)
    np.testing.assert_allclose(np.abs(moves), np.tile(expected[:, None], SIZE), atol=1e-6)


@pytest.mark.parametrize("attack", [corners(), mad(MADConfig())])
def test_a_rate_of_two_lets_everything_through(attack):
    np.testing.assert_allclose(played(coupled(attack, 2.0))[0], played(attack)[0], atol=1e-6)


def test_no_ball_no_change():
    assert not np.any(played(coupled(corners()), eps=0.0)[0])


def test_parameters_memory_and_preparation_of_the_attack_inside():
    """It counts its steps from its parameter, and was prepared twice for each of three victims."""

    def perturb(params, memory, key, victim, obs_norm, eps, moment=None):
        return obs_norm + eps, memory + params

    inner = Attack(
        perturb,
        init=lambda params, key: 10 * params,
        blank=lambda victim, spec: jnp.int32(1),
        prepare=lambda victims: np.arange(6, dtype=np.int32).reshape(3, 2),
        members=lambda spec: 2,
        per_eps=False,
        cost=Cost(7, 5, 3, 1),
    )
    attack = coupled(inner, 0.5)
    moves, memory = played(attack)
    assert int(memory.inner) == 10 + STEPS
    np.testing.assert_allclose(moves[:, 0] / EPS, [0.5, *[1.0] * (STEPS - 1)], atol=1e-5)
    assert (attack.members(SPEC), attack.per_eps, attack.cost) == (2, False, inner.cost)
    victims = SimpleNamespace(
        cells=SimpleNamespace(agent=np.zeros(3, np.int32)), env=SimpleNamespace(spec=SPEC)
    )
    params = attack.prepare(victims)
    shapes = jax.eval_shape(lambda policy: attack.blank(policy, SPEC), tanh_policy())
    assert params.inner.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert params.start.shape == (3, 2, *shapes.start.shape) and not np.any(params.start)
    assert params.start.dtype == shapes.start.dtype
    assert isinstance(params.start, np.ndarray)
    assert coupled(corners()).prepare is None


def test_a_rate_that_cannot_be():
    with pytest.raises(InputError, match=r"coupled rate 0\.0 is not positive"):
        coupled(corners(), 0.0)
