"""Projected gradient ascent in an l_inf ball: the loops behind every gradient attack."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxprune.types import Array, Key


def ascend(
    key: Key,
    objective: Callable[[Array], Array],
    centre: Array,
    eps: Array,
    *,
    steps: int,
    step_size: Array,
    restarts: int,
    momentum: float = 0.0,
) -> Array:
    """The best point found by sign-gradient ascent from random starts.

        x_0 ~ U(centre - eps, centre + eps),  v_{-1} = 0
        v_k = momentum * v_{k-1} + g_k / ||g_k||_1,  g_k = grad objective(x_k)
        x_{k+1} = clip(x_k + step_size * sign(v_k), centre - eps, centre + eps)

    The best of *all* iterates of all restarts is kept, the centre included: the result is never
    worse than no attack. A value that is not finite is worse than all others. Starts are random
    because a divergence has gradient zero at its centre.

    Args:
        key: consumed.
        objective: point `[d]` -> scalar to maximise, differentiable.
        centre: `[d]`.
        eps: radius, `[]`, may be traced; 0 returns the centre.
        steps: gradient evaluations per restart.
        step_size: length of a step in every coordinate, in the units of `centre`.
        restarts: number of independent starts.
        momentum: weight of the gradients before; 0 follows each gradient's own signs.

    Returns:
        `[d]`, inside the ball.

    Source: Madry et al. 2018; momentum: Dong et al. 2018, algorithm 1; keeping the best iterate:
    Croce and Hein 2020.
    """
    low, high = centre - eps, centre + eps
    value_and_grad = jax.value_and_grad(objective)
    tiny = jnp.finfo(centre.dtype).tiny  # where there is no gradient, there is no direction

    def step(carry, _):
        x, velocity, best, best_value = carry
        value, grad = value_and_grad(x)
        best, best_value = _better(best, best_value, x, value)
        grad = usable(grad)
        velocity = momentum * velocity + grad / jnp.maximum(jnp.sum(jnp.abs(grad)), tiny)
        x = jnp.clip(x + step_size * jnp.sign(velocity), low, high)
        return (x, velocity, best, best_value), None

    def restart(key: Key) -> tuple[Array, Array]:
        start = jax.random.uniform(key, centre.shape, centre.dtype, -1.0, 1.0)
        start = jnp.clip(centre + eps * start, low, high)
        init = (start, jnp.zeros_like(centre), centre, finite_or(objective(centre), -jnp.inf))
        (x, _, best, best_value), _ = jax.lax.scan(step, init, length=steps)
        return _better(best, best_value, x, objective(x))

    points, values = jax.vmap(restart)(jax.random.split(key, restarts))
    return points[jnp.argmax(values)]


def ascend_from_corner(
    objective: Callable[[Array], Array],
    centre: Array,
    eps: Array,
    *,
    steps: int,
    step_size: Array,
) -> Array:
    """The best point found by sign-gradient ascent from the corner that the gradient points to.

        x_1 = centre + eps * sign(grad objective(centre))
        x_{k+1} = clip(x_k + step_size * sign(grad objective(x_k)), centre - eps, centre + eps)

    For objectives that have a gradient at the centre: x_1 is the summit of a linear one. Nothing is
    drawn. The best of x_0 = centre, x_1, ..., x_steps is kept.

    Args:
        objective: point `[d]` -> scalar to maximise, differentiable.
        centre: `[d]`.
        eps: radius, `[]`, may be traced; 0 returns the centre.
        steps: gradient evaluations, at least 1.
        step_size: length of a step in every coordinate, in the units of `centre`.

    Returns:
        `[d]`, inside the ball.
    """
    low, high = centre - eps, centre + eps
    value_and_grad = jax.value_and_grad(objective)

    def step(carry, length: Array):
        x, best, best_value = carry
        value, grad = value_and_grad(x)
        best, best_value = _better(best, best_value, x, value)
        x = jnp.clip(x + length * jnp.sign(usable(grad)), low, high)
        return (x, best, best_value), None

    lengths = jnp.full(steps, step_size, centre.dtype).at[0].set(eps)
    init = (centre, centre, jnp.full((), -jnp.inf, centre.dtype))
    (x, best, best_value), _ = jax.lax.scan(step, init, lengths)
    return _better(best, best_value, x, objective(x))[0]


def noisy_ascend(
    key: Key,
    objective: Callable[[Array], Array],
    centre: Array,
    eps: Array,
    *,
    steps: int,
    temperature: float,
) -> Array:
    """The last iterate of `steps` sign-gradient steps with decaying noise.

        x_0 = centre + t sign(xi),  t = eps / steps
        x_{k+1} = clip(x_k + t sign(grad objective(x_k) + c_k xi_k), centre - eps, centre + eps)
        c_k = sqrt(2 t temperature) / (k + 2)

    with standard normal xi. The noise is there because a divergence has no gradient at its centre.

    Args:
        key: consumed.
        objective: point `[d]` -> scalar to maximise, differentiable.
        centre: `[d]`.
        eps: radius, `[]`, may be traced; 0 returns the centre.
        steps: gradient evaluations.
        temperature: of the noise.

    Returns:
        `[d]`, inside the ball.

    Source: the Langevin attack of Zhang et al. 2020 (arXiv 2003.08938), appendix C, with the
    constants of github.com/huanzhang12/SA_PPO, which calls the temperature the inverse one.
    """
    low, high = centre - eps, centre + eps
    gradient = jax.grad(objective)
    step = eps / steps
    noise = jax.random.normal(key, (steps + 1, *centre.shape), centre.dtype)
    scale = jnp.sqrt(2 * step * temperature) / jnp.arange(2, steps + 2, dtype=centre.dtype)

    def move(x: Array, drift: Array) -> tuple[Array, None]:
        return jnp.clip(x + step * jnp.sign(usable(gradient(x)) + drift), low, high), None

    start = centre + step * jnp.sign(noise[0])
    last, _ = jax.lax.scan(move, start, scale[:, None] * noise[1:])
    return last


def projected(x: Array, centre: Array, eps: Array) -> Array:
    """The point of the ball next to x, `[d]`, coordinate by coordinate; the centre's for NaN.

    What is inside stays as it is, bit for bit.
    """
    low, high = centre - eps, centre + eps
    inside = jnp.where(x > high, high, jnp.where(x < low, low, x))
    return jnp.where(jnp.isnan(x), centre, inside)


def best_of(points: Array, values: Array) -> tuple[Array, Array]:
    """The point `[n, d]` of the largest finite value `[n]`, and that value; or the first, -inf."""
    values = finite_or(values, -jnp.inf)
    found = jnp.argmax(values)
    return points[found], values[found]


def usable(gradient: Array) -> Array:
    """The gradient, or its signs where it overflows, `[d]`; 0 in the coordinates that are NaN."""
    signs = jnp.sign(jnp.where(jnp.isnan(gradient), 0.0, gradient))
    return jnp.where(jnp.isfinite(jnp.sum(jnp.abs(gradient))), gradient, signs)


def finite_or(x: Array, other: float) -> Array:
    """x where it is finite, the other number elsewhere."""
    return jnp.where(jnp.isfinite(x), x, other)


def _better(best: Array, best_value: Array, x: Array, value: Array) -> tuple[Array, Array]:
    value = finite_or(value, -jnp.inf)
    return jnp.where(value > best_value, x, best), jnp.maximum(best_value, value)
