"""The constraint solver against its optimality conditions and against an active-set solver.

Problems are drawn at random over the range of MuJoCo's own and beyond: there a row's weight,
times the compliance J M^-1 J' of the robot along it, was seen between 5e-4 and 120.
"""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls

from jaxprune.envs import newton
from jaxprune.envs.elimination import solve_positive
from jaxprune.envs.newton import Problem

# (degrees of freedom, rows): every shape compiles once.
SHAPES = ((1, 0), (1, 1), (1, 4), (2, 3), (3, 12), (5, 8), (8, 24), (8, 40))
# Powers of ten, of accelerations and of weight times compliance.
SCALES = st.floats(-2, 3)
MUJOCO, WIDE, STIFF = (-4, 2), (-4, 4), (2, 4)


@st.composite
def problems(draw, shapes=SHAPES, stiffness=None) -> Problem:
    """A constrained step, some of its rows zero, equal or opposite, some of its weights zero."""
    nv, n = draw(st.sampled_from(shapes))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    stiffness = stiffness or draw(st.sampled_from([MUJOCO, WIDE, STIFF]))

    factor = rng.normal(size=(nv, nv + 2))
    size = np.diag(10 ** rng.uniform(-1, 1, nv))  # light and heavy parts
    mass = size @ (factor @ factor.T / (nv + 2) + 0.01 * np.eye(nv)) @ size
    jacobian = rng.normal(size=(n, nv)) * 10 ** rng.uniform(-1, 1, (n, 1))
    smooth = rng.normal(size=nv) * 10 ** draw(SCALES)
    reference = rng.normal(size=n) * 10 ** draw(SCALES)

    jacobian[rng.random(n) < draw(st.sampled_from([0, 0.1]))] = 0
    compliance = np.einsum("ni,ij,nj->n", jacobian, np.linalg.inv(mass), jacobian)
    moving = compliance > 0
    weight = 10 ** rng.uniform(*stiffness, n) / np.where(moving, compliance, 1.0)
    weight[rng.random(n) < draw(st.sampled_from([0, 0.1, 1]))] = 0

    if draw(st.sampled_from([False, False, True])):  # the motion without constraints is the limit
        reference = jacobian @ smooth
    if n > 1 and draw(st.booleans()):
        jacobian[1] = jacobian[0] * draw(st.sampled_from([1, -1]))
        weight[1] = weight[0]
        reference[1] = reference[0] * draw(st.sampled_from([1, -1, 0]))
    return Problem(mass, smooth, jacobian, weight, reference)


def guess_for(problem: Problem, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=problem.smooth.shape) * 10


jitted = jax.jit(newton.solve)
jitted_lanes = jax.jit(jax.vmap(newton.solve))
jitted_force = jax.jit(newton.force)


def solved(problem: Problem, guess: np.ndarray, dtype=np.float64):
    """(x, J' f, f) in that precision."""
    with jax.enable_x64(dtype == np.float64):
        problem, guess = jax.tree.map(lambda x: x.astype(dtype), (problem, guess))
        x, pushed = jitted(problem, guess)
        assert x.dtype == pushed.dtype == dtype
        return jax.device_get((x, pushed, jitted_force(problem, x)))


def cost(problem: Problem, x: np.ndarray) -> float:
    """The function of the module's docstring, written again."""
    away = x - problem.smooth
    missing = np.maximum(problem.reference - problem.jacobian @ x, 0)
    return 0.5 * away @ problem.mass @ away + 0.5 * problem.weight @ missing**2


def gradient(problem: Problem, x: np.ndarray) -> np.ndarray:
    missing = np.maximum(problem.reference - problem.jacobian @ x, 0)
    return problem.mass @ (x - problem.smooth) - problem.jacobian.T @ (problem.weight * missing)


def rounding(problem: Problem, *starts: np.ndarray) -> float:
    """The sizes of the terms that cancel in the gradient: what one ulp of it would be, over eps."""
    jacobian = np.abs(problem.jacobian)
    x = np.sum([np.abs(start) for start in (problem.smooth, *starts)], axis=0)
    rows = problem.weight * (jacobian @ x + np.abs(problem.reference))
    return np.max(np.abs(problem.mass) @ x + jacobian.T @ rows)


def dual_solution(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """(x, f) from the dual problem, by the active-set method of Lawson and Hanson.

    f >= 0 minimises 1/2 f' (J M^-1 J' + 1/D) f + f' (J a - r), which is |B f - c|^2 / 2 up to a
    constant for B = [L^-1 J'; D^-1/2], c = [0; -D^1/2 (J a - r)], M = L L'; x = a + M^-1 J' f.
    """
    rows = problem.weight > 0
    jacobian, root = problem.jacobian[rows], np.sqrt(problem.weight[rows])
    f = np.zeros(len(rows))
    if rows.any():
        lower = np.linalg.cholesky(problem.mass)
        b = np.vstack([np.linalg.solve(lower, jacobian.T), np.diag(1 / root)])
        without = jacobian @ problem.smooth - problem.reference[rows]
        c = np.concatenate([np.zeros(len(lower)), -root * without])
        f[rows], _ = nnls(b, c)
    return problem.smooth + np.linalg.solve(problem.mass, problem.jacobian.T @ f), f


@settings(max_examples=300)
@given(problems())
def test_it_is_the_minimum(problem):
    x, pushed, f = solved(problem, guess_for(problem))
    assert np.max(np.abs(gradient(problem, x))) <= 1e-13 * rounding(problem)
    best, best_f = dual_solution(problem)
    rounded = 1e-24 * rounding(problem) * np.max(np.abs(x))  # the cost of 12 exact digits of x
    assert cost(problem, x) <= (1 + 1e-9) * cost(problem, best) + rounded
    np.testing.assert_allclose(x, best, rtol=0, atol=1e-9 * np.max(np.abs([x, best])))
    # A force is a weight times a small difference of accelerations.
    terms = problem.weight * (np.abs(problem.jacobian) @ np.abs(x) + np.abs(problem.reference))
    assert np.all(np.abs(f - best_f) <= 1e-9 * terms + 1e-12 * np.max(best_f, initial=0))
    assert np.all(np.abs(pushed - problem.jacobian.T @ f) <= 1e-12 * rounding(problem))


@settings(max_examples=100)
@given(problems())
def test_rows_only_push_and_only_where_the_motion_falls_short(problem):
    """At the solution and anywhere else."""
    for x in (solved(problem, guess_for(problem))[0], guess_for(problem, 1)):
        with jax.enable_x64(True):
            f = np.asarray(jitted_force(problem, x))
        terms = np.abs(problem.jacobian) @ np.abs(x) + np.abs(problem.reference)
        missing = problem.reference - problem.jacobian @ x
        assert np.all(f >= 0)
        assert np.all(f[(missing < -1e-12 * terms) | (problem.weight == 0)] == 0)
        expected = problem.weight * np.maximum(missing, 0)
        assert np.all(np.abs(f - expected) <= 1e-12 * problem.weight * terms)


@settings(max_examples=100)
@given(problems(), st.integers(0, 99), st.sampled_from([0.0, 1.0, 1e3, np.nan]))
def test_where_it_starts_does_not_matter(problem, seed, size):
    guess = guess_for(problem, seed) * size
    x, _, _ = solved(problem, problem.smooth)
    atol = 1e-9 * np.max(np.abs([x, problem.smooth, np.nan_to_num(guess)]))
    for start in (guess, x):
        np.testing.assert_allclose(solved(problem, start)[0], x, rtol=0, atol=atol)


@settings(max_examples=200)
@given(problems())
def test_no_problem_meets_the_limit_of_steps(problem):
    """Ten times the limit finds the same numbers, to the bit."""
    guess = guess_for(problem)
    x, pushed, _ = solved(problem, guess)
    with pytest.MonkeyPatch.context() as patch, jax.enable_x64(True):
        patch.setattr(newton, "MAX_STEPS", 10 * newton.MAX_STEPS)
        longer = patient(problem, guess)
    np.testing.assert_array_equal((x, pushed), longer)


@jax.jit
def patient(problem: Problem, guess: np.ndarray):
    """`solve`, first called and therefore traced under the higher limit."""
    return newton.solve(problem, guess)


def test_the_limit_of_steps_is_read():
    """Or the test above would compare a program with itself."""
    problem = Problem(
        mass=np.eye(2),
        smooth=np.array([-1.0, -2.0]),
        jacobian=np.array([[1.0, 0.3], [0.2, 1.0], [-0.5, 1.0]]),
        weight=np.array([50.0, 80.0, 20.0]),
        reference=np.array([0.5, 0.1, 1.0]),
    )
    x, _, _ = solved(problem, np.zeros(2))
    with pytest.MonkeyPatch.context() as patch, jax.enable_x64(True):
        patch.setattr(newton, "MAX_STEPS", 0)
        stuck = np.asarray(jax.jit(lambda *given: newton.solve(*given)[0])(problem, np.zeros(2)))
    assert np.max(np.abs(x - stuck)) > 0.1


@settings(max_examples=300)
@given(problems(stiffness=MUJOCO))
def test_single_precision_finds_it_to_single_precision(problem):
    guess = guess_for(problem)
    x, _, _ = solved(problem, guess)
    single, _, _ = solved(problem, guess, np.float32)
    assert np.max(np.abs(gradient(problem, np.float64(single)))) <= 1e-5 * rounding(problem)
    scale = np.max(np.abs([x, problem.smooth]))
    np.testing.assert_allclose(single, x, rtol=0, atol=1e-4 * scale)


@given(
    mass=st.floats(0.1, 10),
    smooth=st.floats(-100, 100),
    weight=st.floats(0, 1e4),
    reference=st.floats(-100, 100),
    side=st.sampled_from([1.0, -1.0]),
)
def test_one_row_on_one_mass_is_a_weighted_mean(mass, smooth, weight, reference, side):
    """x = (m a + D r) / (m + D) where the row pushes, x = a where it does not."""
    problem = Problem(*map(np.array, ([[mass]], [smooth], [[side]], [weight], [side * reference])))
    pushes = side * smooth < side * reference
    expected = (mass * smooth + weight * reference) / (mass + weight) if pushes else smooth
    x, pushed, f = solved(problem, np.array([3.0]))
    np.testing.assert_allclose(x, [expected], rtol=1e-12, atol=1e-10)
    np.testing.assert_allclose(pushed, mass * (x - smooth), rtol=1e-9, atol=1e-8)
    np.testing.assert_allclose(f, side * pushed, rtol=1e-12, atol=0)


@given(problems(shapes=[(8, 24)]), st.sampled_from(["no rows", "no weights", "zero rows"]))
def test_without_anything_that_pushes_the_motion_is_free(problem, lacks):
    if lacks == "no rows":
        problem = problem._replace(
            jacobian=np.zeros((0, 8)), weight=np.zeros(0), reference=np.zeros(0)
        )
    elif lacks == "no weights":
        problem = problem._replace(weight=np.zeros(24))
    else:
        problem = problem._replace(jacobian=np.zeros((24, 8)))
    x, pushed, _ = solved(problem, guess_for(problem))
    np.testing.assert_allclose(
        x, problem.smooth, rtol=0, atol=1e-10 * np.max(np.abs(problem.smooth))
    )
    assert np.all(pushed == 0)


@given(problems(shapes=[(5, 8)]), st.permutations(range(16)))
def test_two_halves_of_a_row_in_any_place_are_that_row(problem, order):
    halves = Problem(
        problem.mass,
        problem.smooth,
        np.concatenate([problem.jacobian] * 2)[order],
        np.concatenate([problem.weight / 2] * 2)[order],
        np.concatenate([problem.reference] * 2)[order],
    )
    guess = guess_for(problem)
    x, _, _ = solved(problem, guess)
    other, _, _ = solved(halves, guess)
    np.testing.assert_allclose(other, x, rtol=0, atol=1e-9 * np.max(np.abs([x, problem.smooth])))


@given(st.lists(problems(shapes=[(8, 24)]), min_size=5, max_size=5))
def test_vmap_is_a_loop(drawn):
    """Lanes that end early do not move while others go on."""
    guesses = np.stack([guess_for(problem) for problem in drawn])
    with jax.enable_x64(True):
        lanes, _ = jitted_lanes(jax.tree.map(lambda *x: np.stack(x), *drawn), guesses)
        lanes = np.asarray(lanes)
    for lane, problem, guess in zip(lanes, drawn, guesses, strict=True):
        x, _, _ = solved(problem, guess)
        scale = np.max(np.abs([x, problem.smooth]))
        np.testing.assert_allclose(lane, x, rtol=0, atol=1e-9 * scale)


# --- its linear systems


@settings(max_examples=300)
@given(
    st.sampled_from([1, 2, 5, 14, 23]),
    st.integers(0, 2**32 - 1),
    st.floats(-4, 0),
    st.floats(0, 3),
    st.sampled_from([np.float32, np.float64]),
)
def test_a_positive_system_is_solved_to_the_rounding(n, seed, smallest, grading, dtype):
    """Backward stable: x is the solution of a matrix that is off by rounding."""
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.normal(size=(n, n)))
    size = 10 ** rng.uniform(-grading, grading, n)  # light and heavy parts
    matrix = size[:, None] * (basis * 10 ** rng.uniform(smallest, 0, n)) @ basis.T * size
    matrix = (0.5 * (matrix + matrix.T)).astype(dtype)
    right = rng.normal(size=n).astype(dtype)
    with jax.enable_x64(dtype == np.float64):
        x = np.asarray(jitted_solve(matrix, right))
    assert x.dtype == dtype and x.shape == (n,)
    residual = np.abs(np.float64(matrix) @ np.float64(x) - right)
    # Rounding is of the size of |L| D |L'|, which is <= (A_ii A_jj)^1/2 by Cauchy and Schwarz.
    root = np.sqrt(np.float64(np.diag(matrix)))
    assert np.all(residual <= 4 * n * np.finfo(dtype).eps * root * (root @ np.abs(x)))


jitted_solve = jax.jit(solve_positive)


def test_a_system_of_numbers_that_are_exact():
    matrix = np.array([[4.0, 2.0, -2.0], [2.0, 5.0, 1.0], [-2.0, 1.0, 3.0]])
    x = jitted_solve(np.float32(matrix), np.float32(matrix @ [1.0, -2.0, 3.0]))
    np.testing.assert_array_equal(x, [1.0, -2.0, 3.0])
