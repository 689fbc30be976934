"""Adversaries that only ask the policy: no gradient that saturated units could hide."""

import jax
import jax.numpy as jnp

from jaxprune.attacks.base import Attack, Cost, memoryless
from jaxprune.attacks.config import SearchConfig
from jaxprune.attacks.gradient import divergence
from jaxprune.pgd import best_of, finite_or
from jaxprune.types import Array, Key, Policy

# Of the evolution strategy, in units of eps: four coordinates in five start on the surface.
FIRST_DEVIATION = 4.0


def corner_search(config: SearchConfig) -> Attack:
    """The largest KL(pi(.|s) || pi(.|s')) among random corners of the ball.

        s' = s + eps s_i, s_i uniform on {-1, 1}^d, i = 1 ... queries

    The centre is kept if no corner is better.

    Raises:
        InputError: too few queries, or generations.

    Source: random search; corners, because a convex function is largest there.
    """
    config.check()

    def perturb(key: Key, victim: Policy, obs_norm: Array, eps: Array) -> Array:
        shape = (config.queries, *obs_norm.shape)
        points = obs_norm + eps * jax.random.rademacher(key, shape, obs_norm.dtype)
        values = jax.vmap(divergence(victim, obs_norm))(points)
        return _best(obs_norm, jnp.zeros((), values.dtype), points, values)[0]

    return memoryless(perturb, Cost(queries=1 + config.queries))


def evolution(config: SearchConfig) -> Attack:
    """The largest KL(pi(.|s) || pi(.|s')) that an evolution strategy finds in the ball.

    Per generation, lambda = queries / generations individuals around the mean m with deviations d
    per coordinate, of which the best mu = lambda / 4 are the parents of the next generation:

        y_i = m + d z_i,  z_i ~ N(0, I),  ranked by the KL at s_i = clip(y_i, s - eps, s + eps)
        m' = mean of parents y,  d'^2 = mean of (parents y - m)^2

    from m = s and d = 4 eps. Individuals are not clipped, only the points where the policy is
    asked: most of these are corners, and the mean of parents does not drift back inside. The
    variance is that around the old mean, so that it does not shrink while m still travels. The best
    point of all is kept, the centre included.

    Raises:
        InputError: too few queries, or generations.

    Source: the (mu/mu, lambda) strategy of Rechenberg 1973; the update of the variances, on a
    diagonal: Hansen 2016 (arXiv 1604.00772), section 3.1.
    """
    config.check()
    offspring = config.queries // config.generations
    parents = max(1, offspring // 4)

    def perturb(key: Key, victim: Policy, obs_norm: Array, eps: Array) -> Array:
        objective = divergence(victim, obs_norm)

        def generation(carry, key: Key):
            mean, deviation, best, best_value = carry
            noise = jax.random.normal(key, (offspring, *obs_norm.shape), obs_norm.dtype)
            individuals = mean + deviation * noise
            points = jnp.clip(individuals, obs_norm - eps, obs_norm + eps)
            values = jax.vmap(objective)(points)
            best, best_value = _best(best, best_value, points, values)
            chosen = individuals[jax.lax.top_k(finite_or(values, -jnp.inf), parents)[1]]
            deviation = jnp.sqrt(jnp.mean((chosen - mean) ** 2, axis=0))
            return (jnp.mean(chosen, axis=0), deviation, best, best_value), None

        wide = jnp.full_like(obs_norm, FIRST_DEVIATION * eps)
        start = (obs_norm, wide, obs_norm, jnp.zeros((), obs_norm.dtype))
        keys = jax.random.split(key, config.generations)
        (_, _, best, _), _ = jax.lax.scan(generation, start, keys)
        return best

    return memoryless(perturb, Cost(queries=1 + offspring * config.generations))


def _best(best: Array, best_value: Array, points: Array, values: Array) -> tuple[Array, Array]:
    """The better of what was known and the best of some points `[n, d]`."""
    found, value = best_of(points, values)
    return jnp.where(value > best_value, found, best), jnp.maximum(best_value, value)
