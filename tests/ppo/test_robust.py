"""SA-PPO's regularisers: analytic maxima, order of attacks and bounds, gradients, limits."""

from dataclasses import replace
from functools import partial
from itertools import pairwise, product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.certify.activations import ACTIVATIONS
from jaxprune.certify.crown import crown
from jaxprune.certify.crown_ibp import output_changes
from jaxprune.certify.interval import ibp
from jaxprune.certify.query import make_query
from jaxprune.losses import Hyper
from jaxprune.policy import affine_layers, inverse_std
from jaxprune.ppo.regimes import ball_at
from jaxprune.ppo.robust import BETA, REGULARISERS, STEPS, langevin, perturbed
from jaxprune.types import ObsStats, Params, Policy
from jaxprune.validation import InputError

HEADS = ("normal", "categorical")
SIGMA = {"tanh": np.tanh, "relu": lambda x: np.maximum(x, 0)}
# Heads and activations are independent code, and every pair takes seconds to compile.
PAIRED = pytest.mark.parametrize(("head", "activation"), list(zip(HEADS, SIGMA, strict=True)))
NAMES = list(REGULARISERS)
# One shape for most tests, so that each regulariser compiles once per head and activation.
RATE = 0.1
SIZES, STATES = (5, 8, 7, 3), 16
KEYS = jax.random.split(jax.random.key(0), STATES)


def policy(seed, head="normal", activation="tanh", sizes=SIZES, gain=1.5, dtype="float32"):
    """A policy whose actor has weights of any size, also without hidden layers."""
    rng = np.random.default_rng(seed)
    actor = {
        f"layer_{i}": {
            "kernel": jnp.asarray(gain * rng.standard_normal((n, m)) / n**0.5, dtype),
            "bias": jnp.asarray(0.3 * rng.standard_normal(m), dtype),
        }
        for i, (n, m) in enumerate(pairwise(sizes))
    }
    log_std = jnp.asarray(rng.uniform(-0.7, 0.2, sizes[-1] if head == "normal" else 0), dtype)
    stats = ObsStats(jnp.zeros(sizes[0], dtype), jnp.ones(sizes[0], dtype), jnp.zeros((), dtype))
    return Policy(Params(actor, {}, log_std), stats, activation, head)


def states(seed, size=SIZES[0], count=STATES, dtype="float32"):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((count, size)), dtype)


@partial(jax.jit, static_argnums=0)
def values(name, made, obs, eps, mix=1.0, keys=KEYS):
    """Of many states, `[n]`."""
    return jax.vmap(lambda key, x: REGULARISERS[name](key, made, x, eps, mix))(keys, obs)


@partial(jax.jit, static_argnums=0)
def found_by(attack, made, obs, eps):
    """The points, `[n, obs_size]`."""
    return jax.vmap(attack, (0, None, 0, None))(KEYS, made, obs, eps)


@partial(jax.jit, static_argnums=0)
def mean_and_gradient(name, made, obs, eps, mix=1.0, keys=KEYS) -> tuple[jax.Array, Params]:
    """Of the mean over many states."""

    def total(params):
        return jnp.mean(values(name, replace(made, params=params), obs, eps, mix, keys))

    return jax.value_and_grad(total)(made.params)


def gradient(*arguments) -> Params:
    return mean_and_gradient(*arguments)[1]


def outputs(made: Policy, x) -> np.ndarray:
    """The actor in float64 numpy, `[..., obs_size] -> [..., outputs]`."""
    *hidden, last = [(np.float64(w), np.float64(b)) for w, b in affine_layers(made)]
    for weight, bias in hidden:
        x = SIGMA[made.activation](x @ weight.T + bias)
    return x @ last[0].T + last[1]


def delta(made: Policy, clean: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """From outputs to outputs, `[..., outputs] -> [...]`."""
    if made.distribution == "normal":
        return np.sum(((moved - clean) / np.exp(np.float64(made.params.log_std))) ** 2, -1)
    log_p, log_q = (z - np.log(np.sum(np.exp(z), -1, keepdims=True)) for z in (clean, moved))
    return np.sum(np.exp(log_p) * (log_p - log_q), -1)


def corners(made: Policy, obs, eps) -> np.ndarray:
    """Delta at all corners of the ball, `[n, 2^obs_size]`."""
    signs = np.array(list(product([-1.0, 1.0], repeat=obs.shape[-1])))
    obs = np.float64(obs)
    moved = outputs(made, obs[:, None] + eps * signs)
    return delta(made, outputs(made, obs)[:, None], moved)


# --- attacks


@pytest.mark.parametrize(("attack", "name"), [(perturbed, "pgd"), (langevin, "sgld")])
@PAIRED
def test_attacks_find_bad_points_in_the_ball(attack, name, head, activation):
    made, obs, eps = policy(1, head, activation), states(2), 0.1
    points = np.asarray(found_by(attack, made, obs, eps))
    assert np.max(np.abs(points - obs)) <= eps + 1e-6
    found = np.asarray(values(name, made, obs, eps))
    expected = delta(made, outputs(made, np.float64(obs)), outputs(made, np.float64(points)))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)
    reached = corners(made, obs, eps)
    assert np.all(found > 0)  # what the centre has
    assert np.mean(found) > 2 * np.mean(reached)
    assert np.mean(found) > 0.7 * np.mean(np.max(reached, axis=1))


def test_no_gradient_passes_through_the_point():
    made, obs = policy(3), states(4)[0]
    total = lambda policy, x: jnp.sum(perturbed(KEYS[0], policy, x, 0.1))  # noqa: E731
    found = jax.jit(jax.grad(total, argnums=(0, 1)))(made, obs)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(found))


def test_sgld_is_the_formula_of_the_reference():
    """A loop in numpy with the same draws; the noise is large enough to turn signs."""
    eps, beta = 0.2, BETA
    with jax.enable_x64(True):
        made = policy(5, gain=0.05, dtype="float64")
        obs = states(6, dtype="float64")
        points = found_by(langevin, made, obs, eps)
        draws = jax.vmap(lambda key: jax.random.normal(key, (STEPS + 1, 5), "float64"))(KEYS)
        points, draws, obs = (np.asarray(x) for x in (points, draws, obs))
    weights = [np.float64(layer.weight) for layer in affine_layers(made)]
    biases = [np.float64(layer.bias) for layer in affine_layers(made)]
    variance = np.exp(2 * np.float64(made.params.log_std))

    def slope(x, clean):
        first = np.tanh(weights[0] @ x + biases[0])
        second = np.tanh(weights[1] @ first + biases[1])
        back = 2 * (weights[2] @ second + biases[2] - clean) / variance
        back = (back @ weights[2]) * (1 - second**2)
        return ((back @ weights[1]) * (1 - first**2)) @ weights[0]

    turned = 0
    for centre, point, noise in zip(obs, points, draws, strict=True):
        clean, step = outputs(made, centre), eps / STEPS
        x = centre + step * np.sign(noise[0])
        for k in range(STEPS):
            drift = np.sqrt(2 * step * beta) / (k + 2) * noise[k + 1]
            turned += np.sum(np.sign(slope(x, clean) + drift) != np.sign(slope(x, clean)))
            x = x + step * np.sign(slope(x, clean) + drift)
            x = np.clip(x, centre - eps, centre + eps)
        np.testing.assert_allclose(point, x, atol=1e-12)
    assert turned > 50


# --- linear policies, whose maximum is known


@pytest.mark.parametrize("name", NAMES)
def test_one_action_of_a_linear_policy(name):
    """max D^2 = (sum_k |w_k| eps)^2 / sigma^2."""
    made, obs = policy(7, sizes=(5, 1)), states(8)
    weight = np.float64(affine_layers(made)[0].weight)[0]
    expected = (0.1 * np.abs(weight).sum() / np.exp(np.float64(made.params.log_std[0]))) ** 2
    found = np.asarray(values(name, made, obs, 0.1))
    if name == "sgld":  # a coordinate that starts on the wrong side ends at 0.9 eps
        assert np.all(found < expected * (1 + 1e-4)) and np.all(found > 0.8 * expected)
    else:
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_convex_of_a_linear_policy():
    """Every action on its own: sum_j (sum_k |w_jk| eps / sigma_j)^2, whatever the mixture."""
    made, obs = policy(9, sizes=(5, 3)), states(10)
    reach = 0.1 * np.abs(np.float64(affine_layers(made)[0].weight)).sum(1)
    expected = np.sum((reach / np.exp(np.float64(made.params.log_std))) ** 2)
    for mix in (0.0, 0.3, 1.0):
        np.testing.assert_allclose(values("convex", made, obs, 0.1, mix), expected, rtol=1e-5)


def test_convex_of_two_choices_by_hand():
    """KL(p || q) for the worse of the two ends of the logits' difference."""
    made, obs = policy(11, "categorical", sizes=(5, 2)), states(12)
    weight = np.float64(affine_layers(made)[0].weight)
    reach, clean = 0.1 * np.abs(weight).sum(1), outputs(made, np.float64(obs))
    ends = [delta(made, clean, clean + sign * reach * [1, -1]) for sign in (-1, 1)]
    np.testing.assert_allclose(values("convex", made, obs, 0.1), np.max(ends, 0), rtol=1e-3)


# --- bounds


@pytest.mark.parametrize("eps", [0.01, 0.1, 0.6])
@PAIRED
def test_convex_bounds_what_can_be_found_in_the_ball(head, activation, eps):
    for seed in range(3):
        made, obs = policy(seed, head, activation), states(100 + seed)
        tight, middle, loose = (
            np.float64(values("convex", made, obs, eps, m)) for m in (0.0, 0.5, 1.0)
        )
        assert np.all(tight <= middle * (1 + 1e-5)) and np.all(middle <= loose * (1 + 1e-5))
        rng = np.random.default_rng(seed)
        inside = np.float64(obs)[:, None] + eps * rng.uniform(-1, 1, (STATES, 200, SIZES[0]))
        clean = outputs(made, np.float64(obs))[:, None]
        sampled = np.max(delta(made, clean, outputs(made, inside)), axis=1)
        for found in (sampled, np.max(corners(made, obs, eps), 1), values("pgd", made, obs, eps)):
            assert np.all(found <= tight * (1 + 1e-4) + 1e-6)


def boxes(made, obs, eps):
    """(changes by IBP, by CROWN-IBP, certified IBP, certified CROWN) of many states."""

    def each(x):
        layers, radius = affine_layers(made), jnp.full_like(x, eps)
        query = make_query(layers, radius, inverse_std(made), made.activation, x)
        value, interval, linear = output_changes(query)
        certified = [jax.tree.map(lambda e: e - value, bound(query)) for bound in (ibp, crown)]
        return interval, linear, *certified

    return jax.tree.map(np.asarray, jax.jit(jax.vmap(each))(obs))


@PAIRED
def test_boxes_agree_with_those_of_the_certificates(head, activation):
    """IBP is the same; CROWN, with its own boxes inside, is tighter than with those of IBP."""
    found = boxes(policy(20, head, activation), states(21), 0.1)
    interval, linear, certified_ibp, certified_crown = found
    np.testing.assert_allclose(interval, certified_ibp, rtol=1e-3)
    width = [np.sum(box.high - box.low, axis=1) for box in (certified_crown, linear, interval)]
    assert np.all(width[0] < width[1] * 1.001) and np.all(width[1] <= width[2])
    assert np.mean(width[1] / width[2]) < 0.8


@pytest.mark.parametrize("activation", SIGMA)
def test_with_one_hidden_layer_it_is_the_certified_crown(activation):
    """Whose inner boxes are then those of IBP."""
    made = policy(22, activation=activation, sizes=(5, 8, 3))
    _, linear, _, certified = boxes(made, states(23), 0.1)
    np.testing.assert_allclose(
        linear.high - linear.low, certified.high - certified.low, rtol=0.01, atol=1e-4
    )


@pytest.mark.parametrize("activation", SIGMA)
def test_lines_hold_over_any_box(activation):
    rng = np.random.default_rng(24)
    ends = rng.standard_normal((2, 3000)) * 10.0 ** rng.uniform(-3, 1.5, (2, 3000))
    low, high = np.min(ends, 0), np.max(ends, 0)
    with jax.enable_x64(True):
        rules = ACTIVATIONS[activation]
        rays = rules.rays(rules.point(jnp.asarray(low)), rules.point(jnp.asarray(high)))
        above, below = jax.tree.map(np.asarray, rays)
    for t in np.linspace(0, 1, 101):
        x = low + t * (high - low)
        for sign, (slope, (at, value, _)) in ((1, above), (-1, below)):
            gap = value + slope * (x - at) - SIGMA[activation](x)
            assert np.all(sign * gap >= -1e-12 * (1 + np.abs(x)))


def test_unknown_activation():
    with pytest.raises(InputError, match="unknown activation with rules for bounds 'gelu'"):
        values("convex", policy(0, activation="gelu"), states(0), 0.1)


# --- gradients


def numeric(total, params: Params, direction: Params, h=1e-6) -> float:
    """The derivative of `total(params)` along a direction."""
    ahead, behind = (
        jax.tree.map(lambda p, d, h=h: np.asarray(p) + h * d, params, direction) for h in (h, -h)
    )
    return float(total(ahead) - total(behind)) / (2 * h)


def directions(params: Params, seed: int) -> Params:
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: rng.standard_normal(p.shape), params)


def along(found: Params, direction: Params) -> float:
    products = jax.tree.map(lambda g, d: np.sum(np.asarray(g) * d), found, direction)
    return sum(jax.tree.leaves(products))


@PAIRED
def test_gradient_of_the_bound(head, activation):
    """All of it, the clean output included, against finite differences in float64."""
    with jax.enable_x64(True):
        made = policy(30, head, activation, dtype="float64")
        obs = states(31, dtype="float64")

        def at(params):
            return mean_and_gradient("convex", replace(made, params=params), obs, 0.1, 0.3)

        found = at(made.params)[1]
        for seed in range(3):
            step = directions(made.params, seed)
            expected = numeric(lambda params: at(params)[0], made.params, step)
            assert along(found, step) == pytest.approx(expected, rel=1e-5)


@PAIRED
def test_gradient_of_an_attack_is_that_at_a_fixed_point(head, activation):
    """The point and the clean output are constants; sigma is not."""
    with jax.enable_x64(True):
        made = policy(32, head, activation, dtype="float64")
        obs = states(33, dtype="float64")
        points = np.asarray(found_by(perturbed, made, obs, 0.1))
        clean = outputs(made, np.asarray(obs))

        def total(params):
            moved = replace(made, params=params)
            return np.mean(delta(moved, clean, outputs(moved, points)))

        found = gradient("pgd", made, obs, 0.1)
        for seed in range(3):
            step = directions(made.params, seed)
            expected = numeric(total, made.params, step)
            assert along(found, step) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
@PAIRED
def test_without_a_ball_all_is_zero(name, head, activation):
    made, obs = policy(34, head, activation), states(35)
    assert not np.any(values(name, made, obs, 0.0, 0.5))
    for leaf in jax.tree.leaves(gradient(name, made, obs, 0.0, 0.5)):
        assert not np.any(leaf) and np.all(np.isfinite(leaf))


@pytest.mark.parametrize("name", NAMES)
@PAIRED
def test_gradients_of_degenerate_networks_are_finite(name, head, activation):
    """Units without weights, saturated units, a whole layer pruned; a tiny and a huge ball."""
    made = policy(36, head, activation)
    actor = made.params.actor
    kernel = actor["layer_0"]["kernel"].at[:, :3].set(0.0)
    bias = actor["layer_0"]["bias"].at[:6].set(jnp.array([0, 1, -1, 40, -40, 0.0]))
    first = {"kernel": kernel, "bias": bias}
    pruned = jax.tree.map(jnp.zeros_like, actor["layer_1"])
    for layers in ({"layer_0": first}, {"layer_1": pruned}):
        broken = replace(made, params=made.params._replace(actor={**actor, **layers}))
        for eps in (1e-7, 0.1, 10.0):
            found = gradient(name, broken, states(37), eps, 0.5)
            assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(found))
            assert np.all(np.isfinite(values(name, broken, states(37), eps, 0.5)))


@pytest.mark.parametrize("name", NAMES)
@PAIRED
def test_gradients_of_policies_that_are_sure_of_themselves_are_finite(name, head, activation):
    """Logits of the order of 1e3, or a deviation of e^-50: the KL was NaN or infinite."""
    made = policy(38, head, activation)
    actor, params = made.params.actor, made.params
    if head == "normal":
        params = params._replace(log_std=jnp.full_like(params.log_std, -50.0))
    else:
        last = jax.tree.map(lambda x: 1e3 * x, actor["layer_2"])
        params = params._replace(actor={**actor, "layer_2": last})
    sure = replace(made, params=params)
    found = gradient(name, sure, states(39), 0.1, 0.5)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(found))
    value = values(name, sure, states(39), 0.1, 0.5)
    assert np.all(np.isfinite(value)) and np.any(value > 0)


@pytest.mark.parametrize("name", NAMES)
@PAIRED
def test_minimising_it_makes_the_policy_steady(name, head, activation):
    """The outputs themselves, sigma being held, have to move less, at states not trained on.

    New states every step: without the gradient of pi(s), descent of an attack at a few states that
    stay the same raises D^2 a hundredfold.
    """
    made = policy(38, head, activation)
    trained = made
    for seed in range(300):
        keys = jax.random.split(jax.random.key(seed), STATES)
        grad = gradient(name, trained, states(1000 + seed), 0.1, 0.5, keys)
        actor = jax.tree.map(
            lambda p, g: np.asarray(p) - RATE * np.asarray(g), trained.params.actor, grad.actor
        )
        trained = replace(trained, params=trained.params._replace(actor=actor))
    before, after = (np.mean(corners(p, states(40), 0.1).max(1)) for p in (made, trained))
    assert after < 0.5 * before


# --- the interface


def test_members():
    assert list(REGULARISERS) == ["pgd", "sgld", "convex"]


@pytest.mark.parametrize("name", NAMES)
def test_a_map_over_states_is_a_loop(name):
    made, obs = policy(41), states(42)
    mapped = values(name, made, obs, 0.1, 0.5)
    one = jax.jit(lambda key, x: REGULARISERS[name](key, made, x, jnp.float32(0.1), 0.5))
    looped = [one(key, x) for key, x in zip(KEYS, obs, strict=True)]
    np.testing.assert_allclose(mapped, looped, rtol=1e-3)


def test_ramp():
    def grown(progress, over):
        ball = ball_at(progress, Hyper(sa_eps=0.2, sa_ramp=over))
        assert float(ball.eps) == pytest.approx(0.2 * float(ball.grown))
        return ball.grown

    assert [float(grown(p, 0.75)) for p in (0.0, 0.375, 0.75, 1.0)] == [0.0, 0.5, 1.0, 1.0]
    assert [float(grown(p, 0.0)) for p in (0.0, 0.5)] == [1.0, 1.0]
    assert float(grown(0.3, 0.6)) == pytest.approx(0.5)
    slope = jax.grad(lambda over: ball_at(0.5, Hyper(sa_eps=0.2, sa_ramp=over)).grown)(0.0)
    assert np.isfinite(slope)
