"""Advantages, value targets and running statistics of what a rollout saw.

Source: Schulman et al. 2017 (arXiv 1707.06347) with the details of Huang et al. 2022, except that
truncation is not termination: advantages bootstrap from the state that the time limit cut off.
"""

import chex
import jax
import jax.numpy as jnp

from jaxprune.losses import Hyper, Sample
from jaxprune.policy import normalise, state_value
from jaxprune.rollout import Transition
from jaxprune.types import Array, ObsStats, Policy


def make_batch(
    policy: Policy, steps: Transition, hyper: Hyper, return_stats: ObsStats | None
) -> Sample:
    """Advantages and value targets of a rollout, rows flattened: `Sample [unroll * N]`.

    Args:
        policy: the one that acted; its critic is evaluated at obs and at the pre-reset next_obs.
        steps: `[unroll, N]`.
        hyper: gamma, gae_lambda, reward_scale.
        return_stats: see `earned`.
    """
    per_step = jax.vmap(jax.vmap(lambda obs: normalise(policy, obs)))
    values_of = jax.vmap(jax.vmap(lambda x: state_value(policy, x)))
    obs_norm = per_step(steps.obs)
    values = values_of(obs_norm)
    next_values = values_of(per_step(steps.next_obs))

    advantage = gae(
        earned(steps, hyper, return_stats),
        values,
        next_values,
        steps.terminated,
        steps.terminated | steps.truncated,
        hyper.gamma,
        hyper.gae_lambda,
    )
    targets = advantage + values
    sample = Sample(obs_norm, steps.seen, steps.action, steps.log_prob, advantage, targets)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), sample)


def earned(steps: Transition, hyper: Hyper, return_stats: ObsStats | None) -> Array:
    """The rewards that critics learn from, `[unroll, N]`.

    Args:
        steps: `[unroll, N]`.
        hyper: reward_scale.
        return_stats: rewards are divided by its std and clipped at +-10; None: raw rewards.
    """
    reward = steps.reward
    if return_stats is not None:
        reward = jnp.clip(reward / (return_stats.std + 1e-8), -10.0, 10.0)
    return hyper.reward_scale * reward


def gae(
    reward: Array,
    value: Array,
    next_value: Array,
    terminated: Array,
    done: Array,
    gamma: Array | float,
    gae_lambda: Array | float,
) -> Array:
    """Generalised advantage estimation, `[T, ...]`.

        delta_t = r_t + gamma (1 - terminated_t) V(s'_t) - V(s_t)
        A_t = delta_t + gamma lambda (1 - done_t) A_{t+1}

    A truncated step still earns V(s'_t), the value of the state the time limit cut off; only the
    recursion stops there.

    Args:
        reward: `[T, ...]`, as are all arrays.
        value: V(s_t).
        next_value: V(s'_t) of the state that followed, before any reset.
        terminated: bool, the task ended at t.
        done: bool, the episode ended at t, by the task or by the time limit.
        gamma: discount.
        gae_lambda: trade-off between bias (0) and variance (1).

    Source: Schulman et al. 2016 (arXiv 1506.02438), equation 16.
    """
    chex.assert_equal_shape([reward, value, next_value, terminated, done])
    delta = reward + gamma * jnp.where(terminated, 0.0, next_value) - value

    def backward(advantage, xs):
        delta_t, done_t = xs
        advantage = delta_t + gamma * gae_lambda * jnp.where(done_t, 0.0, advantage)
        return advantage, advantage

    return jax.lax.scan(backward, jnp.zeros_like(delta[0]), (delta, done), reverse=True)[1]


def update_stats(stats: ObsStats, batch: Array) -> ObsStats:
    """Running mean and std with a batch `[T, N, ...]` merged in.

    Source: Chan, Golub and LeVeque 1979, the pairwise update of sums of squares.
    """
    count = batch.shape[0] * batch.shape[1]
    mean, var = jnp.mean(batch, axis=(0, 1)), jnp.var(batch, axis=(0, 1))
    total = stats.count + count
    delta = mean - stats.mean
    squares = stats.std**2 * stats.count + var * count + delta**2 * stats.count * count / total
    return ObsStats(stats.mean + delta * count / total, jnp.sqrt(squares / total), total)


def no_returns() -> ObsStats:
    """Statistics of the discounted returns before there are any."""
    return ObsStats(jnp.zeros(()), jnp.ones(()), jnp.zeros(()))
