"""What a learner learns from: steps of a policy in its environments, advantages, statistics.

Source: Schulman et al. 2017 (arXiv 1707.06347) with the details of Huang et al. 2022, except that
truncation is not termination: advantages bootstrap from the state that the time limit cut off.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxprune.envs import Environment
from jaxprune.losses import Hyper, Sample
from jaxprune.policy import action_distribution, clip_action, normalise, state_value
from jaxprune.types import Array, EnvState, Key, ObsStats, Policy


class Transition(NamedTuple):
    """One step as the learner needs it; `[unroll, num_envs]` after a rollout."""

    obs: Array  # [obs_size], raw
    next_obs: Array  # [obs_size], raw, before any reset
    seen: Array  # [obs_size], normalised, what the policy acted on
    action: Array  # as the policy chose it, before it is clipped for the simulator
    log_prob: Array  # [], under the policy that acted
    reward: Array  # [], raw
    terminated: Array  # bool []
    truncated: Array  # bool []
    diverged: Array  # bool []
    episode_return: Array  # [], raw return of the episode so far, this step included
    discounted_return: Array  # [], the same with older rewards discounted


class Worker(NamedTuple):
    """One environment of an agent and its running sums."""

    env_state: EnvState
    obs: Array  # [obs_size], raw
    episode_return: Array  # []
    discounted_return: Array  # []


def fresh_workers(key: Key, env: Environment, count: int) -> Worker:
    """So many environments at the start of an episode: `Worker [count]`. The key is consumed."""
    env_state, obs = jax.vmap(env.reset)(jax.random.split(key, count))
    return Worker(env_state, obs, jnp.zeros(count), jnp.zeros(count))


def rollout(
    key: Key,
    env: Environment,
    policy: Policy,
    gamma: Array | float,
    workers: Worker,
    length: int,
    perturb: Callable[[Key, Policy, Array], Array] | None = None,
    stochastic: bool = True,
) -> tuple[Worker, Transition]:
    """`length` steps of every worker under the policy: `Transition [length, N]`.

    With `perturb`, the policy acts on what that makes of the normalised observation. It draws its
    actions, unless it is not `stochastic`: then it takes the mean or the likeliest.

    An episode that ends continues from a fresh state drawn once per rollout and worker: resetting
    inside the loop would double the cost of a step. Workers that finish twice in one rollout start
    from that state twice, with different action noise.
    """
    count = workers.obs.shape[0]
    key_reset, key_act = jax.random.split(key)
    fresh = fresh_workers(key_reset, env, count)

    def one(key: Key, worker: Worker, fresh: Worker) -> tuple[Worker, Transition]:
        obs = worker.obs
        seen = normalise(policy, obs)
        if perturb is not None:
            seen = perturb(jax.random.fold_in(key, 1), policy, seen)
        distribution = action_distribution(policy, seen)
        action = distribution.sample(key) if stochastic else distribution.mode()
        taken = clip_action(policy, action, env.spec.action_box)
        env_state, after = env.step(worker.env_state, taken)
        worker = Worker(
            env_state,
            after.obs,
            worker.episode_return + after.reward,
            worker.discounted_return * gamma + after.reward,
        )
        step = Transition(
            obs=obs,
            next_obs=after.obs,
            seen=seen,
            action=action,
            log_prob=distribution.log_prob(action),
            reward=after.reward,
            terminated=after.terminated,
            truncated=after.truncated,
            diverged=jnp.asarray(after.diverged),
            episode_return=worker.episode_return,
            discounted_return=worker.discounted_return,
        )
        done = after.terminated | after.truncated
        return jax.tree.map(lambda new, old: jnp.where(done, new, old), fresh, worker), step

    def step(workers: Worker, key: Key):
        return jax.vmap(one)(jax.random.split(key, count), workers, fresh)

    return jax.lax.scan(step, workers, jax.random.split(key_act, length))


def make_batch(
    policy: Policy, steps: Transition, hyper: Hyper, return_stats: ObsStats | None
) -> Sample:
    """Advantages and value targets of a rollout, rows flattened: `Sample [unroll * N]`.

    Args:
        policy: the one that acted; its critic is evaluated at obs and at the pre-reset next_obs.
        steps: `[unroll, N]`.
        hyper: gamma, gae_lambda, reward_scale.
        return_stats: rewards are divided by its std and clipped at +-10; None: raw rewards.
    """
    per_step = jax.vmap(jax.vmap(lambda obs: normalise(policy, obs)))
    values_of = jax.vmap(jax.vmap(lambda x: state_value(policy, x)))
    obs_norm = per_step(steps.obs)
    values = values_of(obs_norm)
    next_values = values_of(per_step(steps.next_obs))

    reward = steps.reward
    if return_stats is not None:
        reward = jnp.clip(reward / (return_stats.std + 1e-8), -10.0, 10.0)
    advantage = gae(
        hyper.reward_scale * reward,
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
