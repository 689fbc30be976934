"""Total variation from D: exact for Gaussians, tight for categorical heads."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from jaxprune.certify.certificates import UNITS
from jaxprune.certify.divergence import TOTAL_VARIATION, categorical_tv, gaussian_tv
from jaxprune.policy import HEADS, Categorical, Gaussian


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


@pytest.mark.parametrize("head", TOTAL_VARIATION)
def test_contract(head):
    """0 at 0, increasing bit for bit in float64, at most 1, element-wise, differentiable."""
    assert head in HEADS and head in UNITS
    with jax.enable_x64(True):
        tv = np.asarray(TOTAL_VARIATION[head](jnp.linspace(0, 40, 400_001)))
    assert tv.shape == (400_001,) and tv[0] == 0
    assert np.all(np.diff(tv) >= 0) and np.all(np.diff(tv[:100_000]) > 0)
    assert tv[-1] == pytest.approx(1) and np.all(tv <= 1)
    slope = float(jax.grad(TOTAL_VARIATION[head])(0.0))
    # 1 / sqrt(2 pi) for the Gaussian, 1/2 for two actions.
    assert slope == pytest.approx({"normal": (2 * math.pi) ** -0.5, "categorical": 0.5}[head])


def test_every_head_has_a_bound():
    assert set(TOTAL_VARIATION) == set(HEADS) == set(UNITS)
