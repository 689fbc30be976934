"""Gradient attacks against closed forms and against loops in numpy with the same draws."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.attacks.config import MADConfig
from jaxprune.attacks.gradient import (
    FGSM_OFFSET,
    POWER_SCALE,
    divergence,
    fgsm,
    mad,
    mad_momentum,
    mad_power,
    mad_sgld,
)
from jaxprune.attacks.noise import corners
from jaxprune.policy import action_distribution
from jaxprune.validation import InputError
from tests.attacks import victims
from tests.attacks.victims import attacked, linear_policy, tanh_policy

RNG = np.random.default_rng(0)
SIZE, EPS = 5, 0.1
STATES = jnp.asarray(RNG.standard_normal((24, SIZE)), jnp.float32)
KEYS = jax.random.split(jax.random.key(1), len(STATES))
WEIGHT = RNG.standard_normal((3, SIZE))
LOG_STD = np.array([-1.0, 0.0, 0.5])
HEADS = ["normal", "categorical"]
MEMBERS = {
    "fgsm": fgsm(),
    "mad": mad(MADConfig()),
    "mad_momentum": mad_momentum(MADConfig()),
    "mad_power": mad_power(),
    "mad_sgld": mad_sgld(),
}


def divergences(policy, points, states=STATES) -> np.ndarray:
    return np.asarray(victims.divergences(policy, states, points))


def softmax(z):
    return np.exp(z) / np.sum(np.exp(z))


def slope(head, weight, inverse_variance, centre, x):
    """The gradient of the KL divergence of a linear policy."""
    if head == "normal":
        return weight.T @ (inverse_variance * (weight @ (x - centre)))
    return weight.T @ (softmax(weight @ x) - softmax(weight @ centre))


# --- linear policies


@pytest.mark.parametrize("name", MEMBERS)
def test_one_action_of_a_linear_policy(name):
    """The worst corners are +-sign(w): D = |w|_1 eps / sigma."""
    policy = linear_policy(WEIGHT[:1], -1.0)
    points = attacked(MEMBERS[name], policy, STATES, EPS, KEYS)
    found = np.abs((points - STATES) @ WEIGHT[0]) / np.exp(-1.0)
    worst = EPS * np.sum(np.abs(WEIGHT[0])) / np.exp(-1.0)
    if name == "mad_sgld":  # noise turns some of its steps, and all are short
        assert np.all(found < worst * (1 - 1e-3)) and np.mean(found) > 0.8 * worst
    else:
        np.testing.assert_allclose(found, worst, rtol=1e-4)


@pytest.mark.parametrize("name", ["fgsm", "mad_power"])
def test_one_gradient_follows_the_curvature(name):
    """eps sign(H z) for the Gaussian, H = W' Sigma^-1 W, z what is drawn."""
    points = attacked(MEMBERS[name], linear_policy(WEIGHT, LOG_STD), STATES, EPS, KEYS)
    if name == "fgsm":
        draw = lambda key: jax.random.uniform(key, (SIZE,), minval=-1, maxval=1)  # noqa: E731
        scale = FGSM_OFFSET * EPS
    else:
        draw, scale = lambda key: jax.random.normal(key, (SIZE,)), POWER_SCALE
    drawn = scale * np.asarray(jax.jit(jax.vmap(draw))(KEYS))
    curvature = WEIGHT.T @ np.diag(np.exp(-2 * LOG_STD)) @ WEIGHT
    grad = drawn @ curvature
    clear = np.abs(grad) > 1e-2 * np.abs(grad).max()  # the rest may round to either sign
    expected = STATES + EPS * np.sign(grad)
    np.testing.assert_allclose(points[clear], expected[clear], atol=1e-6)
    assert np.mean(clear) > 0.8


def test_power_iteration_finds_the_top_direction():
    """One action a hundred times as certain as the others: its worst corner, up or down."""
    states = jnp.tile(STATES, (20, 1))
    keys = jax.random.split(jax.random.key(2), len(states))
    policy = linear_policy(WEIGHT, np.array([-4.6, 0.0, 0.0]))
    moved = np.sign(attacked(mad_power(), policy, states, EPS, keys) - np.asarray(states))
    top = np.abs(moved @ np.sign(WEIGHT[0])) == SIZE
    assert np.mean(top) > 0.95


@pytest.mark.parametrize("head", HEADS)
def test_sgld_is_the_published_loop(head):
    """With the same draws, and without sigma."""
    eps, turned = 0.3, 0
    with jax.enable_x64(True):
        policy = linear_policy(WEIGHT, LOG_STD, head, dtype="float64")
        obs = jnp.asarray(STATES, "float64")
        points = attacked(mad_sgld(), policy, obs, eps, KEYS)
        draw = lambda key: jax.random.normal(key, (11, SIZE), "float64")  # noqa: E731
        draws = jax.jit(jax.vmap(draw))(KEYS)
        draws, obs = np.asarray(draws), np.asarray(obs)
    for centre, point, noise in zip(obs, points, draws, strict=True):
        step = eps / 10
        x = centre + step * np.sign(noise[0])
        for k in range(10):
            # sum of squares: twice the KL divergence of unit sigma
            grad = (2 if head == "normal" else 1) * slope(head, WEIGHT, np.ones(3), centre, x)
            noisy = grad + np.sqrt(2 * step) / (k + 2) * noise[k + 1]
            turned += np.sum(np.sign(noisy) != np.sign(grad))
            x = np.clip(x + step * np.sign(noisy), centre - eps, centre + eps)
        np.testing.assert_allclose(point, x, atol=1e-12)
    assert turned > 20


@pytest.mark.parametrize("head", HEADS)
def test_momentum_is_the_loop_of_mi_fgsm(head):
    """The best iterate, with the same start."""
    config = MADConfig(steps=6, restarts=1, step_scale=4.0)
    variance = np.exp(-2 * LOG_STD)
    with jax.enable_x64(True):
        policy = linear_policy(WEIGHT, LOG_STD, head, dtype="float64")
        obs = jnp.asarray(STATES, "float64")
        points = attacked(mad_momentum(config), policy, obs, 0.3, KEYS)
        plain = attacked(mad(config), policy, obs, 0.3, KEYS)
        draw = lambda key: jax.random.uniform(key, (SIZE,), "float64", -1, 1)  # noqa: E731
        starts = jax.jit(jax.vmap(lambda key: draw(jax.random.split(key, 1)[0])))(KEYS)
        starts, obs = np.asarray(starts), np.asarray(obs)
        distance = jax.jit(lambda centre, x: divergence(policy, centre)(x))

        for centre, point, start in zip(obs, points, starts, strict=True):
            best, best_value, x, velocity = centre, 0.0, centre + 0.3 * start, 0.0
            for k in range(7):
                value = float(distance(centre, x))
                if value > best_value * (1 + 1e-12):
                    best, best_value = x, value
                if k < 6:
                    grad = slope(head, WEIGHT, variance, centre, x)
                    velocity = velocity + grad / np.sum(np.abs(grad))
                    x = x + 4.0 * 0.3 / 6 * np.sign(velocity)
                    x = np.clip(x, centre - 0.3, centre + 0.3)
            np.testing.assert_allclose(point, best, atol=1e-9)
    assert np.any(points != plain)


# --- networks


@pytest.mark.parametrize("head", HEADS)
def test_gradients_beat_noise_and_restarts_beat_every_gradient(head):
    """But for the published attack: its noise outweighs gradients as small as these."""
    policy = tanh_policy(head, obs_size=SIZE)
    members = MEMBERS | {"noise": corners(), "best": mad(MADConfig(steps=20, restarts=8))}
    found = {
        name: np.mean(divergences(policy, attacked(attack, policy, STATES, EPS, KEYS)))
        for name, attack in members.items()
    }
    assert all(value <= found["best"] * (1 + 1e-5) for value in found.values())
    for name in ("fgsm", "mad", "mad_momentum", "mad_power"):
        assert found[name] > 1.5 * found["noise"]


def test_only_the_published_attack_ignores_sigma():
    """One action is a hundred times as certain as the others: MAD turns to it."""
    policy = tanh_policy(obs_size=SIZE)
    log_std = jnp.array([-4.6, 0.0, 0.0])
    uneven = replace(policy, params=policy.params._replace(log_std=log_std))
    for name, same in (("mad_sgld", True), ("mad", False), ("mad_momentum", False)):
        points = [attacked(MEMBERS[name], p, STATES, EPS, KEYS) for p in (policy, uneven)]
        assert np.array_equal(*points) == same


def test_divergence_is_zero_at_its_centre_and_the_kl_elsewhere():
    policy = tanh_policy(obs_size=SIZE)
    here, there = (action_distribution(policy, x) for x in STATES[:2])
    assert float(divergence(policy, STATES[0])(STATES[0])) == 0.0
    expected = 0.5 * np.sum((np.asarray(here.mode()) - np.asarray(there.mode())) ** 2)
    assert float(divergence(policy, STATES[0])(STATES[1])) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("make", [mad, mad_momentum])
def test_settings_that_cannot_be(make):
    with pytest.raises(InputError, match="mad restarts 0 is below 1"):
        make(MADConfig(restarts=0))
