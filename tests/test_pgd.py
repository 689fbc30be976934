"""Projected ascent on functions whose maximum over the box is known."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.pgd import ascend, best_of, noisy_ascend, projected, usable

CENTRE = jnp.array([0.3, -1.2, 2.0])
KEYS = jax.random.split(jax.random.key(0), 64)


def run(objective, centre=CENTRE, eps=0.5, *, key=KEYS[0], steps=10, step_size=0.125, restarts=1):
    return ascend(key, objective, centre, eps, steps=steps, step_size=step_size, restarts=restarts)


def many(objective, **settings):
    """The results of 64 keys, `[64, d]`."""
    return np.asarray(jax.jit(jax.vmap(lambda key: run(objective, key=key, **settings)))(KEYS))


@pytest.mark.parametrize("slope", [(1.0, -2.0, 0.5), (-1e-6, 1e-3, 2e-6)])
def test_linear_objective_ends_in_the_corner(slope):
    """A step is an eighth of the box: 10 reach the corner from any start, whatever the slopes."""
    slope = jnp.array(slope)
    points = many(lambda x: (x - CENTRE) @ slope)  # centred: float32 resolves the small slopes
    expected = np.clip(CENTRE + jnp.sign(slope), CENTRE - 0.5, CENTRE + 0.5)
    np.testing.assert_array_equal(points, np.tile(expected, (64, 1)))


def test_quadratic_with_its_maximum_outside_ends_on_the_nearest_face():
    """-|x - t|^2 over the box: every coordinate is clipped on its own."""
    target = jnp.array([5.0, -1.3, -5.0])
    points = many(lambda x: -jnp.sum((x - target) ** 2), steps=100, step_size=0.02)
    expected = np.clip(target, CENTRE - 0.5, CENTRE + 0.5)
    np.testing.assert_array_equal(points[:, [0, 2]], np.tile(expected[[0, 2]], (64, 1)))
    # Inside, sign steps of 0.02 straddle the maximum: no further than one step from it.
    assert np.all(np.abs(points[:, 1] - expected[1]) <= 0.02 + 1e-6)


def test_convex_quadratic_escapes_its_flat_centre():
    """|x - c|^2 has no gradient at the centre and is largest in every corner."""
    points = many(lambda x: jnp.sum((x - CENTRE) ** 2))
    np.testing.assert_allclose(np.abs(points - CENTRE), 0.5, atol=1e-6)
    assert len(np.unique(np.sign(points - CENTRE), axis=0)) == 8  # random starts: all corners


def test_the_centre_is_kept_when_nothing_is_better():
    points = many(lambda x: -jnp.sum((x - CENTRE) ** 2))
    np.testing.assert_array_equal(points, np.tile(CENTRE, (64, 1)))


def test_the_best_iterate_is_kept_not_the_last():
    """One dimension, maximum at 0.1, steps of 0.8 in [-1, 1]: the iterates bounce over it.

    More steps from the same start see a superset of the iterates, so they never do worse.
    """

    def objective(x):
        return -jnp.sum((x - 0.1) ** 2)

    values = []
    for steps in range(8):
        points = many(objective, centre=jnp.array([-0.5]), eps=1.0, steps=steps, step_size=0.8)
        values.append(-np.sum((points - 0.1) ** 2, axis=-1))
    values = np.array(values)
    assert np.all(np.diff(values, axis=0) >= -1e-12)
    assert np.all(values >= -0.36 - 1e-6)  # the centre's
    # By hand from one start: x, then sign steps clipped to [-1.5, 0.5].
    start = many(lambda x: jnp.sum(x), centre=jnp.array([-0.5]), eps=1.0, steps=0)
    for first, reached in zip(start[:, 0], values[5], strict=True):
        iterates, x = [-0.5, first], first
        for _ in range(5):
            x = np.clip(x + 0.8 * np.sign(0.1 - x), -1.5, 0.5)
            iterates.append(x)
        # Where the start lost to the centre under sum(x), it is not known from outside.
        if first > -0.5:
            assert reached == pytest.approx(-min((v - 0.1) ** 2 for v in iterates), abs=1e-5)


def test_restarts_help_on_many_hills():
    """sin(8 x) + x / 2 per coordinate, 5 hills each: a single start climbs the one it is on.

    The best of 25 hills is hit by 1 start in 25: by 64 of them with probability 93 %.
    """

    def objective(x):
        return jnp.sum(jnp.sin(8 * x) + x / 2)

    settings = {"centre": jnp.zeros(2), "eps": 2.0, "steps": 40, "step_size": 0.02}
    values = [
        np.array([objective(x) for x in many(objective, restarts=n, **settings)])
        for n in (1, 8, 64)
    ]
    grid = np.linspace(-2, 2, 100_001)
    optimum = 2 * np.max(np.sin(8 * grid) + grid / 2)
    mean = [value.mean() for value in values]
    assert mean[0] < mean[1] < mean[2] <= optimum + 1e-4
    assert np.mean(values[2] > 0.99 * optimum) > 0.8
    assert np.mean(values[0] > 0.99 * optimum) < 0.2


def test_every_point_is_in_the_box_and_never_worse_than_its_centre():
    """Random bumpy objectives, dimensions, radii and settings."""
    rng = np.random.default_rng(0)
    for _ in range(10):
        d, eps = int(rng.integers(1, 6)), float(rng.uniform(0, 2))
        waves, phase = rng.standard_normal((d, 8)) * 3, rng.standard_normal(8)
        centre = jnp.asarray(rng.standard_normal(d), jnp.float32)
        objective = partial(lambda w, b, x: jnp.sum(jnp.sin(x @ w + b)), waves, phase)
        points = many(objective, centre=centre, eps=eps, step_size=float(rng.uniform(0, eps)))
        assert np.max(np.abs(points - centre)) <= eps + 1e-6
        assert min(float(objective(x)) for x in points) >= float(objective(centre)) - 1e-6


def test_no_radius_is_the_centre_bit_for_bit():
    point = jax.jit(lambda eps: run(lambda x: jnp.sum(x), eps=eps))(0.0)
    assert np.asarray(point).tobytes() == np.asarray(CENTRE).tobytes()


def test_nan_beyond_a_cliff_does_not_poison():
    """NaN where x_0 > 0.4: what was found before it is kept, and restarts go on."""

    def objective(x):
        return jnp.where(x[0] > 0.4, jnp.nan, 1.0) * jnp.sum(x)

    points = many(objective, restarts=4)
    values = np.array([objective(x) for x in points])
    assert np.all(np.isfinite(points)) and np.all(np.isfinite(values))
    assert np.all(values >= float(jnp.sum(CENTRE)))
    assert np.mean(values > float(jnp.sum(CENTRE))) > 0.9
    assert np.max(np.abs(points - CENTRE)) <= 0.5 + 1e-6


@pytest.mark.parametrize("bad", [jnp.nan, -jnp.inf])
def test_an_objective_that_is_nowhere_a_number_returns_the_centre(bad):
    points = many(lambda x: bad * jnp.sum(jnp.abs(x)), restarts=3)
    np.testing.assert_array_equal(points, np.tile(CENTRE, (64, 1)))


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
def test_what_is_not_finite_is_worse_than_all_numbers(bad):
    """The centre and all beyond 0.4 have no value: the best of the rest is found all the same."""

    def objective(x):
        known = jnp.any(x != CENTRE) & (x[0] < 0.4)
        return jnp.where(known, -100.0 + x[1] + x[2], bad)

    points = many(objective, restarts=4)
    assert np.all(points[:, 0] < 0.4)
    # 60 % of the starts have a value, and from there the corner of the others is reached.
    found = points[points[:, 1] != CENTRE[1], 1:]
    assert len(found) > 50
    np.testing.assert_allclose(found, np.tile([-0.7, 2.5], (len(found), 1)))


def test_a_gradient_that_overflows_still_has_signs():
    """Of 1e30 |x| |w|, w of 1e20: infinite in every coordinate, and the corner is known."""
    slope = jnp.array([1e20, -1e20, 1e20])
    found = usable(jnp.array([jnp.inf, -jnp.inf, jnp.nan]))
    np.testing.assert_array_equal(found, [1.0, -1.0, 0.0])
    np.testing.assert_array_equal(usable(jnp.array([3e38, -3e38, 1.0])), [1.0, -1.0, 1.0])
    np.testing.assert_array_equal(usable(slope), slope)
    points = np.asarray(
        noisy_ascend(
            KEYS[0],
            lambda x: jnp.log(jnp.sum(x * slope)) * 1e38 * 1e38,
            CENTRE,
            jnp.float32(0.5),
            steps=4,
            temperature=0.0,
        )
    )
    assert np.all(np.isfinite(points)) and np.max(np.abs(points - CENTRE)) <= 0.5


def test_the_best_of_points_is_a_finite_one():
    points = jnp.arange(4.0)[:, None]
    for values, expected in (
        ([jnp.nan, 1.0, jnp.inf, 0.0], (1.0, 1.0)),
        ([jnp.nan, jnp.nan, -jnp.inf, -5.0], (3.0, -5.0)),
        ([jnp.nan] * 4, (0.0, -jnp.inf)),
    ):
        point, value = best_of(points, jnp.array(values))
        assert (float(point[0]), float(value)) == expected


def test_a_projection_leaves_what_is_inside_and_the_centre_for_what_is_no_number():
    x = jnp.array([jnp.nan, 5.0, -jnp.inf])
    np.testing.assert_array_equal(
        projected(x, CENTRE, 0.5), [CENTRE[0], CENTRE[1] + 0.5, CENTRE[2] - 0.5]
    )
    inside = CENTRE + jnp.array([0.5, -0.5, 0.1])
    assert np.asarray(projected(inside, CENTRE, 0.5)).tobytes() == np.asarray(inside).tobytes()
    zeros = jnp.array([-0.0, 0.0])
    assert np.asarray(projected(zeros, zeros, 0.0)).tobytes() == np.asarray(zeros).tobytes()


def test_the_key_decides():
    def objective(x):
        return jnp.sum(jnp.sin(20 * x))

    one, again, other = (run(objective, key=k, steps=3) for k in (KEYS[0], KEYS[0], KEYS[1]))
    assert np.array_equal(one, again) and not np.array_equal(one, other)


def test_starts_are_uniform_in_the_ball():
    """No step, an objective that likes every start better than the centre: the starts show."""
    points = many(lambda x: jnp.sum((x - CENTRE) ** 2), eps=0.5, steps=0, restarts=1)
    move = (points - np.asarray(CENTRE)) / 0.5
    assert np.all(np.abs(move) <= 1 + 1e-6)
    # 192 draws of U(-1, 1): mean 0 and variance 1/3, within 5 standard errors.
    assert abs(move.mean()) < 5 * (1 / 3 / move.size) ** 0.5
    assert abs((move**2).mean() - 1 / 3) < 5 * (4 / 45 / move.size) ** 0.5
