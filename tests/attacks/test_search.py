"""Search without gradients, against brute force and where gradients see nothing."""

from dataclasses import replace
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.attacks.config import MADConfig, SearchConfig
from jaxprune.attacks.gradient import mad
from jaxprune.attacks.search import FIRST_DEVIATION, corner_search, evolution
from jaxprune.validation import InputError
from tests.attacks import victims
from tests.attacks.victims import attacked, layer, linear_policy, tanh_policy

RNG = np.random.default_rng(0)
STATES = jnp.asarray(RNG.standard_normal((32, 6)), jnp.float32)
KEYS = jax.random.split(jax.random.key(1), len(STATES))
HEADS = ["normal", "categorical"]
BOTH = pytest.mark.parametrize("make", [corner_search, evolution])


def divergences(policy, points, states=STATES) -> np.ndarray:
    return np.asarray(victims.divergences(policy, states, points))


@pytest.mark.parametrize("head", HEADS)
def test_corners_of_the_square_are_brute_force(head):
    """64 draws miss one of 4 corners with probability 4e-8."""
    policy, states = tanh_policy(head, obs_size=2), STATES[:, :2]
    points = attacked(corner_search(SearchConfig(queries=64)), policy, states, 0.2, KEYS)
    every = [states + 0.2 * np.float32(corner) for corner in product((-1, 1), repeat=2)]
    best = np.max([divergences(policy, x, states) for x in every], axis=0)
    np.testing.assert_allclose(divergences(policy, points, states), best, rtol=1e-5)
    np.testing.assert_allclose(np.abs(points - states), 0.2, atol=1e-6)


@pytest.mark.parametrize("head", HEADS)
@BOTH
def test_queries_help(make, head):
    policy = tanh_policy(head, obs_size=6)
    found = [
        np.mean(divergences(policy, attacked(make(config), policy, STATES, 0.2, KEYS)))
        for config in (SearchConfig(4, 2), SearchConfig(32, 4), SearchConfig(256, 8))
    ]
    assert found[0] < 0.9 * found[1] < found[1] < found[2]


@BOTH
def test_close_to_the_best_corner_of_all(make):
    policy = tanh_policy(obs_size=6)
    points = attacked(make(SearchConfig(512, 8)), policy, STATES, 0.2, KEYS)
    every = [STATES + 0.2 * np.float32(corner) for corner in product((-1, 1), repeat=6)]
    best = np.max([divergences(policy, x) for x in every], axis=0)
    reached = divergences(policy, points) / best
    assert np.mean(reached) > 0.97 and np.all(reached > 0.6)


def test_evolution_is_the_better_search_in_many_dimensions():
    states = jnp.asarray(RNG.standard_normal((32, 30)), jnp.float32)
    policy = tanh_policy(obs_size=30)
    corner, evolved = (
        np.mean(
            divergences(policy, attacked(make(SearchConfig()), policy, states, 0.1, KEYS), states)
        )
        for make in (corner_search, evolution)
    )
    assert evolved > 1.1 * corner


def test_evolution_is_the_loop():
    """In numpy with the same draws, on a linear policy."""
    generations, offspring, parents, eps = 4, 12, 3, 0.3
    weight = RNG.standard_normal((2, 6))
    with jax.enable_x64(True):
        policy = linear_policy(weight, -0.5, dtype="float64")
        obs = jnp.asarray(STATES[:8], "float64")
        config = SearchConfig(queries=50, generations=generations)
        points = attacked(evolution(config), policy, obs, eps, KEYS[:8])
        draw = lambda key: jax.random.normal(key, (offspring, 6), "float64")  # noqa: E731
        every = lambda key: jax.vmap(draw)(jax.random.split(key, generations))  # noqa: E731
        draws = jax.jit(jax.vmap(every))(KEYS[:8])
        draws, obs = np.asarray(draws), np.asarray(obs)
    for centre, point, noise in zip(obs, points, draws, strict=True):
        mean, deviation, best, best_value = centre, FIRST_DEVIATION * eps, centre, 0.0
        for z in noise:
            individuals = mean + deviation * z
            asked = np.clip(individuals, centre - eps, centre + eps)
            values = np.sum(((asked - centre) @ weight.T) ** 2, axis=1)
            if np.max(values) > best_value * (1 + 1e-12):
                best, best_value = asked[np.argmax(values)], np.max(values)
            chosen = individuals[np.argsort(-values, kind="stable")[:parents]]
            deviation = np.sqrt(np.mean((chosen - mean) ** 2, axis=0))
            mean = np.mean(chosen, axis=0)
        np.testing.assert_allclose(point, best, atol=1e-9)


def hidden_cliff():
    """relu(sum x - 0.9 * 6 * 0.1), zero around x = 0 but in the last corner of the ball of 0.1."""
    policy = replace(linear_policy(np.ones((1, 6))), activation="relu")
    first = layer(np.ones((1, 6)))["layer_0"] | {"bias": jnp.array([-0.54])}
    actor = {"layer_0": first, "layer_1": layer(np.ones((1, 1)))["layer_0"]}
    return replace(policy, params=policy.params._replace(actor=actor))


def test_it_finds_what_no_gradient_shows():
    """The one of 64 corners where a dead unit wakes up: mu = 0.6 - 0.54."""
    policy, states = hidden_cliff(), jnp.zeros((32, 6))
    blind = attacked(mad(MADConfig(steps=10, restarts=4)), policy, states, 0.1, KEYS)
    np.testing.assert_array_equal(blind, states)
    seen = attacked(corner_search(SearchConfig(queries=1024)), policy, states, 0.1, KEYS)
    np.testing.assert_allclose(seen, 0.1, rtol=1e-6)
    np.testing.assert_allclose(divergences(policy, seen, states), 0.06**2 / 2, rtol=1e-4)


@BOTH
def test_the_centre_is_kept_where_nothing_is_better(make):
    policy = linear_policy(np.zeros((2, 6)))
    points = attacked(make(SearchConfig(16, 2)), policy, STATES, 0.2, KEYS)
    assert points.tobytes() == np.asarray(STATES).tobytes()


@BOTH
def test_nan_is_never_the_best(make):
    """mu is NaN where x_0 overflows: only points on the other side are kept."""
    policy = linear_policy(np.array([[1e38, 0, 0, 0, 0, 0]]))
    states = STATES.at[:, 0].set(3.4)  # 3.4e38 is the largest number
    points = attacked(make(SearchConfig(16, 2)), policy, states, 0.2, KEYS)
    assert np.all(np.isfinite(points))


@BOTH
def test_settings_that_cannot_be(make):
    with pytest.raises(InputError, match="search queries 3 are too few"):
        make(SearchConfig(queries=3, generations=2))
