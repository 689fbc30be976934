"""Constraint forces of one simulator step: a small convex problem, solved to its exact minimum.

MuJoCo's acceleration is the minimiser of (MuJoCo documentation, "Computation", primal problem)

    1/2 (x - a)' M (x - a)  +  1/2 sum_i D_i min(0, J_i x - r_i)^2

which is quadratic as long as no row changes between active (J_i x < r_i) and inactive. Newton's
method with a line search therefore ends after finitely many steps: when a full step leaves every
row as it was, it has reached the minimum of the right quadratic, up to rounding.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxprune.envs.elimination import solve_positive
from jaxprune.types import Array

# Never reached on the states of the parity tables (3 are typical, 9 the most); a guard only.
MAX_STEPS = 20
# Newton steps of the line search. A search left early costs one more step of the outer loop.
SEARCH_STEPS = 4


class Problem(NamedTuple):
    """One constrained step: nv degrees of freedom, n unilateral constraint rows."""

    mass: Array  # M [nv, nv], symmetric positive definite
    smooth: Array  # a [nv], the acceleration without constraints
    jacobian: Array  # J [n, nv]
    weight: Array  # D [n], inverse regularisation, >= 0
    reference: Array  # r [n], the acceleration that the row wants at least


class _Iterate(NamedTuple):
    x: Array  # [nv]
    slack: Array  # [n], J x - r
    steps: Array  # int []
    solved: Array  # bool []


def solve(problem: Problem, guess: Array) -> tuple[Array, Array]:
    """The minimiser x `[nv]` and the constraint force J' f `[nv]`, f_i = -D_i min(0, J_i x - r_i).

    Args:
        problem: one step's constraints.
        guess: where to start if it costs less than `smooth`, `[nv]`: the last step's solution.
    """
    costs = [_cost(problem, x) for x in (guess, problem.smooth)]
    x = jnp.where(costs[0] < costs[1], guess, problem.smooth)
    start = _Iterate(x, problem.jacobian @ x - problem.reference, jnp.int32(0), jnp.bool_(False))
    end = jax.lax.while_loop(
        lambda at: ~at.solved & (at.steps < MAX_STEPS), lambda at: _newton_step(problem, at), start
    )
    return end.x, problem.jacobian.T @ force(problem, end.x)


def force(problem: Problem, x: Array) -> Array:
    """f_i = -D_i min(0, J_i x - r_i): what each row pushes with at acceleration x, `[n]`."""
    return -problem.weight * jnp.minimum(problem.jacobian @ x - problem.reference, 0.0)


def _cost(problem: Problem, x: Array) -> Array:
    away = x - problem.smooth
    slack = jnp.minimum(problem.jacobian @ x - problem.reference, 0.0)
    return 0.5 * away @ (problem.mass @ away) + 0.5 * jnp.sum(problem.weight * slack**2)


def _newton_step(problem: Problem, at: _Iterate) -> _Iterate:
    mass, jacobian = problem.mass, problem.jacobian
    active = at.slack < 0
    weight = jnp.where(active, problem.weight, 0.0)
    inertial = mass @ (at.x - problem.smooth)
    gradient = inertial + jacobian.T @ (weight * at.slack)
    hessian = mass + (jacobian.T * weight) @ jacobian
    direction = -solve_positive(hessian, gradient)

    change = jacobian @ direction
    unchanged = jnp.all((at.slack + change < 0) == active)
    length = _line_search(
        problem.weight, at.slack, change, direction @ inertial, direction @ (mass @ direction)
    )
    length = jnp.where(unchanged, 1.0, length)
    return _Iterate(at.x + length * direction, at.slack + length * change, at.steps + 1, unchanged)


def _line_search(
    weight: Array, slack: Array, change: Array, slope: Array, curvature: Array
) -> Array:
    """The step length at which the cost along the line is least: Newton's method in a bracket.

    Its derivative, slope + t curvature + sum_i D_i c_i min(0, s_i + t c_i), increases with t and is
    linear between the points where rows change sides; it is negative at t = 0.
    """

    def halve_or_newton(bracket, _):
        low, high, t = bracket
        residual = jnp.minimum(slack + t * change, 0.0)
        first = slope + t * curvature + jnp.sum(weight * change * residual)
        second = curvature + jnp.sum(jnp.where(residual < 0, weight * change**2, 0.0))
        low, high = jnp.where(first < 0, t, low), jnp.where(first < 0, high, t)
        middle = jnp.where(jnp.isinf(high), 2.0 * t, 0.5 * (low + high))
        newton = t - first / second
        return (low, high, jnp.where((low < newton) & (newton < high), newton, middle)), None

    bracket = (jnp.zeros_like(slope), jnp.full_like(slope, jnp.inf), jnp.ones_like(slope))
    (_, _, t), _ = jax.lax.scan(halve_or_newton, bracket, length=SEARCH_STEPS, unroll=True)
    return t
