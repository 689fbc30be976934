"""Total variation from D and from boxes: exact for Gaussians, tight for categorical heads."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special, stats

from jaxprune.certify.boxes import Box
from jaxprune.certify.divergence import (
    TOTAL_VARIATION,
    categorical_tv,
    categorical_tv_of_box,
    clipped_gaussian_tv,
    gaussian_tv,
    tv_of_oscillation,
)
from jaxprune.policy import HEADS, Categorical, Gaussian
from jaxprune.validation import InputError


def value(fn, distance) -> float:
    with jax.enable_x64(True):
        return float(fn(jnp.asarray(distance, "float64")))


@pytest.mark.parametrize(
    ("distance", "printed"),
    [(0.01, 0.003989), (0.1, 0.039878), (0.5, 0.197413), (1, 0.382925), (2, 0.682689), (4, 0.9545)],
)
def test_gaussian_values(distance, printed):
    """certificates.md 1.3, to the printed digits."""
    assert value(gaussian_tv, distance) == pytest.approx(printed, rel=0, abs=5e-7)


@pytest.mark.parametrize("distance", [0.0, 1e-3, 0.01, 0.1, 0.5, 1.0, 2.0, 4.0, 8.0])
def test_gaussian_tv_is_the_integral(distance):
    """TV = 1/2 int |p - q|, the sign change at D / 2 given to the quadrature."""

    def density_gap(x):
        return 0.5 * abs(stats.norm.pdf(x) - stats.norm.pdf(x - distance))

    middle = distance / 2
    left, _ = integrate.quad(density_gap, -40, middle, points=[0.0], epsabs=1e-13)
    right, _ = integrate.quad(density_gap, middle, 40, points=[distance], epsabs=1e-13)
    assert value(gaussian_tv, distance) == pytest.approx(left + right, abs=1e-10)


def test_gaussian_tv_of_two_action_dimensions():
    """By a grid: the means differ by (0.6, -0.8), sigma is (0.5, 2): D = hypot(1.2, 0.4)."""
    log_std = jnp.log(jnp.array([0.5, 2.0]))
    p = Gaussian(jnp.zeros(2), log_std)
    q = Gaussian(jnp.array([0.6, -0.8]), log_std)
    distance = float(p.distance(q))
    assert distance == pytest.approx(math.hypot(1.2, 0.4), rel=1e-6)
    z = np.linspace(-9, 10, 1901)  # whitened coordinates, step 0.01
    gap = np.abs(
        np.outer(stats.norm.pdf(z), stats.norm.pdf(z))
        - np.outer(stats.norm.pdf(z - 1.2), stats.norm.pdf(z + 0.4))
    )
    assert value(gaussian_tv, distance) == pytest.approx(0.5 * gap.sum() * 0.01**2, abs=1e-5)


def total_variation(p_logits, q_logits) -> np.ndarray:
    def softmax(z):
        z = np.exp(z - z.max(axis=-1, keepdims=True))
        return z / z.sum(axis=-1, keepdims=True)

    return 0.5 * np.abs(softmax(p_logits) - softmax(q_logits)).sum(axis=-1)


@pytest.mark.parametrize("actions", [2, 3, 6, 18])
def test_categorical_bound_is_never_exceeded(actions):
    """20 000 random logits and moves, half of them to corners of the ball."""
    rng = np.random.default_rng(actions)
    distance = rng.uniform(0.001, 6, 20_000)
    logits = rng.uniform(0, 4, (20_000, 1)) * rng.standard_normal((20_000, actions))
    move = rng.uniform(-1, 1, (20_000, actions))
    move[::2] = np.sign(move[::2])
    tv = total_variation(logits, logits + distance[:, None] * move)
    with jax.enable_x64(True):
        limit = np.asarray(categorical_tv(jnp.asarray(distance)))
    assert np.all(tv <= limit)
    assert np.max(tv / limit) > 0.98  # the search comes close


@pytest.mark.parametrize("distance", [0.01, 0.3, 1.0, 5.0])
def test_categorical_bound_is_attained_by_two_actions(distance):
    """Logits (-D/2, D/2) become (D/2, -D/2): every logit moves by D, TV = tanh(D / 2)."""
    z = np.array([-distance / 2, distance / 2])
    moved = float(Categorical(jnp.asarray(z)).distance(Categorical(jnp.asarray(-z))))
    assert moved == pytest.approx(distance, rel=1e-6)
    assert value(categorical_tv, distance) == pytest.approx(total_variation(z, -z), rel=1e-12)


@pytest.mark.parametrize("actions", [2, 3, 8, 18])
def test_oscillation_bound_is_never_exceeded(actions):
    """Logits that all move up lose nothing: only the oscillation of the moves counts."""
    rng = np.random.default_rng(actions)
    move = rng.uniform(0, 5, (20_000, 1)) * rng.uniform(-1, 1, (20_000, actions))
    move[::2] = np.where(move[::2] > 0, 3, 1)
    logits = rng.uniform(0, 4, (20_000, 1)) * rng.standard_normal((20_000, actions))
    oscillation = move.max(axis=-1) - move.min(axis=-1)
    tv = total_variation(logits, logits + move)
    with jax.enable_x64(True):
        limit = np.asarray(tv_of_oscillation(jnp.asarray(oscillation)))
    assert np.all(tv <= limit + 1e-15)  # of the softmax
    assert np.max(tv[limit > 0] / limit[limit > 0]) > 0.98


def box_tv(logits, low, high, spread=0.0) -> float:
    with jax.enable_x64(True):
        at = Box(jnp.asarray(logits - spread), jnp.asarray(logits + spread))
        return float(categorical_tv_of_box(at, Box(jnp.asarray(low), jnp.asarray(high))))


@pytest.mark.parametrize("actions", [2, 3, 5, 8])
def test_box_bound_is_exact(actions):
    """The best of all corners and of random points; TV is convex, so that a corner is the best."""
    rng = np.random.default_rng(actions)
    corners = np.array(np.meshgrid(*[[0.0, 1.0]] * actions)).reshape(actions, -1).T
    for scale in (0.01, 0.3, 3.0):
        logits = 2 * rng.standard_normal(actions)
        low, high = logits - scale * rng.random(actions), logits + scale * rng.random(actions)
        found = box_tv(logits, low, high)
        best = total_variation(logits, low + corners * (high - low)).max()
        assert found == pytest.approx(best, rel=1e-9, abs=1e-13) and found >= best
        points = low + rng.random((5000, actions)) * (high - low)
        assert np.all(total_variation(logits, points) <= found)


def test_box_bound_by_hand():
    """Two equal logits, the first 2 up: P from 1/2 to e^2 / (1 + e^2) = 0.880797."""
    found = box_tv(np.zeros(2), np.array([0.0, 0.0]), np.array([2.0, 0.0]))
    assert found == pytest.approx(0.380797, rel=0, abs=5e-7)
    # All logits up by one: the same distribution.
    shifted = box_tv(np.zeros(2), np.ones(2), np.ones(2))
    assert shifted == pytest.approx(0, abs=1e-13)


def test_box_bound_of_one_action_and_of_large_logits():
    assert box_tv(np.zeros(1), -np.ones(1), np.ones(1)) == pytest.approx(0, abs=1e-13)
    sure = np.array([800.0, 0.0, -800.0])
    assert box_tv(sure, sure - 1, sure + 1) == pytest.approx(0, abs=1e-13)
    assert box_tv(sure, sure - 900, sure + 900) == 1


def test_box_bound_of_an_enclosed_centre():
    """Wherever the centre is in its own box."""
    rng = np.random.default_rng(0)
    logits, spread = rng.standard_normal(4), 0.2
    low, high = logits - 0.5, logits + 0.5
    found = box_tv(logits, low, high, spread)
    for _ in range(200):
        inside = logits + spread * rng.uniform(-1, 1, 4)
        assert box_tv(inside, low, high) <= found


def test_box_bound_is_below_the_others():
    """A box of half-width c has D = c and oscillation 2 c."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        logits, c = 2 * rng.standard_normal(5), rng.uniform(0.01, 3)
        found = box_tv(logits, logits - c, logits + c)
        assert found <= value(categorical_tv, c) + 1e-12
        assert value(categorical_tv, c) == pytest.approx(value(tv_of_oscillation, 2 * c), rel=1e-14)


@pytest.mark.parametrize("head", [head for head in TOTAL_VARIATION if HEADS[head].stochastic])
def test_contract(head):
    """0 at 0, increasing bit for bit in float64, at most 1, element-wise, differentiable."""
    with jax.enable_x64(True):
        tv = np.asarray(TOTAL_VARIATION[head](jnp.linspace(0, 40, 400_001)))
    assert tv.shape == (400_001,) and tv[0] == 0
    assert np.all(np.diff(tv) >= 0) and np.all(np.diff(tv[:100_000]) > 0)
    assert tv[-1] == pytest.approx(1) and np.all(tv <= 1)
    slope = float(jax.grad(TOTAL_VARIATION[head])(0.0))
    # 1 / sqrt(2 pi) for the Gaussian, 1/2 for two actions; rounded outward in float32.
    expected = {"normal": (2 * math.pi) ** -0.5, "categorical": 0.5}[head]
    assert slope == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("head", TOTAL_VARIATION)
def test_rounded_outward(head, dtype):
    """Never below the exact value, also near 1, where inflating D would not help."""
    exact = {
        "normal": lambda d: special.erf(d / 8**0.5),
        "categorical": lambda d: np.tanh(d / 2),
        "deterministic": lambda d: np.where(d > 0, 1.0, 0.0),
    }
    with jax.enable_x64(True):
        distance = np.linspace(0, 12, 100_001).astype(dtype)
        tv = np.asarray(TOTAL_VARIATION[head](jnp.asarray(distance)))
    assert tv.dtype == dtype
    truth = exact[head](distance.astype(float))
    assert np.all(tv.astype(float) >= truth)
    np.testing.assert_allclose(tv, truth, rtol=100 * np.finfo(dtype).eps)


# --- the action as the environment clips it -------------------------------------------------------

UNIT = (-1.0, 1.0)


def clipped(mean, other, std=0.5, limits=UNIT) -> float:
    """TV of two policies, their means known exactly."""
    at, box = (np.atleast_1d(np.asarray(x, float)) for x in (mean, other))
    return float(clipped_gaussian_tv((at, at), (box, box), std, limits))


@pytest.mark.parametrize(
    ("mean", "other", "golden"), [(0.8, 1.3, "0.38117"), (1.5, 2.0, "0.13591"), (-9, 9, "1.00000")]
)
def test_clipped_golden_values(mean, other, golden):
    """certificates.md 1.7, sigma 1/2 and limits +-1; 0.38292 without clipping."""
    tolerance = 5e-6
    assert clipped(mean, other) == pytest.approx(float(golden), rel=0, abs=tolerance)
    assert clipped(other, mean) == pytest.approx(float(golden), rel=0, abs=tolerance)
    assert clipped(-mean, -other) == pytest.approx(float(golden), rel=0, abs=tolerance)


def test_clipping_that_never_happens():
    assert clipped(0.8, 1.3, limits=(-50.0, 50.0)) == pytest.approx(0.38292, rel=0, abs=5e-6)
    assert clipped(0.8, 1.3, limits=(-np.inf, np.inf)) == pytest.approx(0.38292, abs=5e-6)
    # Several actions: exact in D, not a product.
    mean, other, std = np.zeros(3), np.array([0.2, 0.5, -0.3]), np.array([0.5, 1, 2])
    distance = np.linalg.norm(other / std)
    assert clipped(mean, other, std, (-np.inf, np.inf)) == pytest.approx(
        special.erf(distance / 8**0.5), rel=1e-12
    )


@pytest.mark.parametrize("seed", range(20))
def test_clipped_tv_is_the_integral(seed):
    """Two atoms at the limits and a density in between."""
    rng = np.random.default_rng(seed)
    mean, other, std = rng.uniform(-2, 2), rng.uniform(-2, 2), rng.uniform(0.1, 2)
    p, q = stats.norm(mean, std), stats.norm(other, std)
    middle = np.clip((mean + other) / 2, *UNIT)
    atoms = abs(p.cdf(-1) - q.cdf(-1)) + abs(p.sf(1) - q.sf(1))

    def gap(x):
        return abs(p.pdf(x) - q.pdf(x))

    inside = sum(
        integrate.quad(gap, *ends, epsabs=1e-12)[0] for ends in ((-1, middle), (middle, 1))
    )
    assert clipped(mean, other, std) == pytest.approx((atoms + inside) / 2, abs=1e-9)


def test_clipped_tv_of_two_actions_by_samples():
    """A histogram of 4 million draws, each action in 40 bins with the limits for themselves."""
    rng = np.random.default_rng(0)
    mean, other, std = np.array([0.9, -0.2]), np.array([1.4, 0.1]), np.array([0.5, 0.6])
    edges = np.concatenate([[-1.1], np.linspace(-1 + 1e-9, 1 - 1e-9, 41), [1.1]])
    tables = []
    for centre in (mean, other):
        draws = np.clip(centre + std * rng.standard_normal((2_000_000, 2)), *UNIT)
        tables.append(np.histogram2d(*draws.T, bins=(edges, edges))[0] / len(draws))
    sampled = 0.5 * np.abs(tables[0] - tables[1]).sum()
    found = clipped(mean, other, std)
    assert sampled < found + 0.01 < sampled + 0.15
    distance = np.linalg.norm((mean - other) / std)
    assert found <= special.erf(distance / 8**0.5) + 1e-12


def test_clipped_tv_of_boxes():
    """No pair of means in the boxes is further apart."""
    rng = np.random.default_rng(1)
    at = (np.array([0.5, -1.2]), np.array([0.6, -1.1]))
    box = (np.array([0.2, -1.5]), np.array([1.3, -0.9]))
    found = float(clipped_gaussian_tv(at, box, 0.4, UNIT))
    pairs = [[low + rng.random(2) * (high - low) for low, high in (at, box)] for _ in range(500)]
    values = [clipped(mean, other, 0.4) for mean, other in pairs]
    assert max(values) <= found < 1.3 * max(values)


def test_clipped_tv_of_saturated_policies():
    """Far beyond the limits the adversary changes nothing; axes as those of a certificate."""
    at = np.full((4, 5, 2), 6.0)
    found = clipped_gaussian_tv((at, at), (at - 1, at + 1), np.array([0.5, 0.6]), UNIT)
    assert found.shape == (4, 5) and np.all(found < 1e-8)
    free = clipped_gaussian_tv((at, at), (at - 1, at + 1), np.array([0.5, 0.6]), (-np.inf, np.inf))
    assert np.all(free > 0.8)


def test_bad_input():
    mean = np.zeros(2)
    for std in (0.0, np.array([0.5, -1.0]), float("nan")):
        with pytest.raises(InputError, match="is not positive"):
            clipped_gaussian_tv((mean, mean), (mean, mean), std, UNIT)
    for name in ("at", "box", "limits"):
        arguments = {"at": (mean, mean), "box": (mean, mean), "limits": UNIT}
        arguments[name] = (mean + 1, mean)
        with pytest.raises(InputError, match=f"{name} has a low end above"):
            clipped_gaussian_tv(std=1.0, **arguments)


def test_every_head_has_a_bound():
    assert set(TOTAL_VARIATION) == set(HEADS)
