"""Projected gradient ascent in an l_inf ball: the one loop behind every gradient attack."""

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
) -> Array:
    """The best point found by sign-gradient ascent from random starts.

        x_0 ~ U(centre - eps, centre + eps)
        x_{k+1} = clip(x_k + step_size * sign(grad objective(x_k)), centre - eps, centre + eps)

    The best of *all* iterates of all restarts is kept, the centre included: the result is never
    worse than no attack. Starts are random because a divergence has gradient zero at its centre.

    Args:
        key: consumed.
        objective: point `[d]` -> scalar to maximise, differentiable.
        centre: `[d]`.
        eps: radius, `[]`, may be traced; 0 returns the centre.
        steps: gradient evaluations per restart.
        step_size: length of a step in every coordinate, in the units of `centre`.
        restarts: number of independent starts.

    Returns:
        `[d]`, inside the ball.

    Source: Madry et al. 2018; keeping the best iterate: Croce and Hein 2020.
    """
    low, high = centre - eps, centre + eps
    value_and_grad = jax.value_and_grad(objective)

    def step(carry, _):
        x, best, best_value = carry
        value, grad = value_and_grad(x)
        best, best_value = _better(best, best_value, x, value)
        x = jnp.clip(x + step_size * jnp.sign(grad), low, high)
        return (x, best, best_value), None

    def restart(key: Key) -> tuple[Array, Array]:
        start = jax.random.uniform(key, centre.shape, centre.dtype, -1.0, 1.0)
        start = jnp.clip(centre + eps * start, low, high)
        init = (start, centre, objective(centre))
        (x, best, best_value), _ = jax.lax.scan(step, init, length=steps)
        return _better(best, best_value, x, objective(x))

    points, values = jax.vmap(restart)(jax.random.split(key, restarts))
    return points[jnp.argmax(values)]


def _better(best: Array, best_value: Array, x: Array, value: Array) -> tuple[Array, Array]:
    improved = value > best_value  # False for NaN
    return jnp.where(improved, x, best), jnp.maximum(
        best_value, jnp.where(improved, value, -jnp.inf)
    )
