"""Proximal policy optimisation with micro-pruning, as one pure function of a key.

    train = make_train(config, env)          # everything static is resolved here
    agent = train(key, hyper)                # everything traced goes in here
    agents = jax.vmap(train)(keys, hypers)   # many agents, many hyper-parameters, many targets

Reading order is the order of the algorithm: prune, collect, estimate advantages, update.

Source: Schulman et al. 2017 (arXiv 1707.06347) with the details of Huang et al. 2022 ("The 37
implementation details of PPO"), except that truncation is not termination: advantages bootstrap
from the state that the time limit cut off.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from jaxprune.envs import Environment, EnvSpec
from jaxprune.families import InputError, lookup
from jaxprune.policy import ACTIVATIONS, action_distribution, init_policy, normalise, state_value
from jaxprune.pruning import apply_masks, dense, sparsity_of
from jaxprune.pruning.allocation import ALLOCATIONS
from jaxprune.pruning.masks import masks_from_ranks, prunable_sizes, ranks
from jaxprune.pruning.scores import magnitude
from jaxprune.types import Array, EnvState, Key, Masks, ObsStats, Params, Policy

ADAM = optax.scale_by_adam(eps=1e-5)


@struct.dataclass
class Hyper:
    """Traced settings: a pytree of scalars, so every agent of a population may have its own."""

    learning_rate: float = 3e-4
    """Of Adam, at the first iteration."""
    final_learning_rate: float = 0.0
    """At the last iteration, as a fraction of `learning_rate`; linear in between."""
    clip: float = 0.2
    """Range of the probability ratio that still earns its advantage."""
    entropy_weight: float = 0.0
    """Of the entropy bonus."""
    value_weight: float = 0.5
    """Of the critic's squared error."""
    gamma: float = 0.99
    """Discount per step."""
    gae_lambda: float = 0.95
    """Of generalised advantage estimation."""
    max_grad_norm: float = 0.5
    """Gradients are scaled down to this global norm, after masking."""
    reward_scale: float = 1.0
    """Factor on the rewards that the learner sees, after their normalisation."""


@dataclass(frozen=True)
class PPOConfig:
    """Static settings: each selects a program. `hyper` holds the defaults of the traced ones."""

    steps: int = 1_000_000
    """Environment steps per agent, rounded up to whole iterations."""
    num_envs: int = 32
    """Environments per agent."""
    unroll: int = 64
    """Steps per environment and iteration."""
    epochs: int = 10
    """Passes over the data of an iteration."""
    minibatches: int = 32
    """Gradient steps per pass."""
    hidden: tuple[int, ...] = (64, 64)
    """Hidden widths of actor and critic."""
    activation: str = "tanh"
    """Between layers: tanh or relu."""
    init_log_std: float = 0.0
    """Initial log standard deviation of a Gaussian policy."""
    normalise_reward: bool = True
    """Divide rewards by the running std of the discounted return, clip at +-10."""
    allocation: str = "global"
    """Which weights compete when pruning during training: global or uniform."""
    hyper: Hyper = field(default_factory=Hyper)
    """Traced settings."""

    @property
    def batch(self) -> int:
        """Env steps of one iteration."""
        return self.num_envs * self.unroll

    @property
    def iterations(self) -> int:
        """Iterations of one training run."""
        return -(-self.steps // self.batch)

    def check(self) -> None:
        """Raises `InputError` if the settings contradict each other or allow no step."""
        for name in ("steps", "num_envs", "unroll", "epochs", "minibatches"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} {getattr(self, name)} is below 1: give at least 1")
        if not self.hidden or min(self.hidden) < 1:
            raise InputError(f"hidden {self.hidden} needs one or more widths of at least 1")
        if self.batch % self.minibatches:
            raise InputError(
                f"num_envs * unroll = {self.batch} is not a multiple of minibatches "
                f"{self.minibatches}: choose a divisor of {self.batch}"
            )
        lookup(ACTIVATIONS, self.activation, "activation")
        lookup(ALLOCATIONS, self.allocation, "allocation")


class Transition(NamedTuple):
    """One step as the learner needs it; `[unroll, num_envs]` after a rollout."""

    obs: Array  # [obs_size], raw
    next_obs: Array  # [obs_size], raw, before any reset
    action: Array
    log_prob: Array  # [], under the policy that acted
    reward: Array  # [], raw
    terminated: Array  # bool []
    truncated: Array  # bool []
    diverged: Array  # bool []
    episode_return: Array  # [], raw return of the episode so far, this step included
    discounted_return: Array  # [], the same with older rewards discounted


class Sample(NamedTuple):
    """One row of a minibatch."""

    obs_norm: Array  # [obs_size]
    action: Array
    log_prob: Array  # []
    advantage: Array  # []
    value_target: Array  # []


class Worker(NamedTuple):
    """One environment of an agent and its running sums."""

    env_state: EnvState
    obs: Array  # [obs_size], raw
    episode_return: Array  # []
    discounted_return: Array  # []


class TrainState(NamedTuple):
    """The learner between two iterations; everything but the key changes in each."""

    policy: Policy
    masks: Masks
    opt_state: optax.OptState
    return_stats: ObsStats  # of the discounted returns, scalars
    workers: Worker  # [num_envs]
    iteration: Array  # int32 []
    key: Key


class Metrics(NamedTuple):
    """Scalars of one iteration."""

    episode_return: Array  # mean raw return of the episodes that ended; NaN if none did
    episodes: Array  # how many ended
    diverged: Array  # how many of these because the simulator left the finite numbers
    policy_loss: Array
    value_loss: Array
    entropy: Array
    kl: Array  # estimate of KL(old || new), mean of (ratio - 1) - log(ratio)
    sparsity: Array  # fraction of the prunable weights removed


class Learner(NamedTuple):
    """Training in two pure functions, for callers that want to look in between."""

    init: Callable[[Key], TrainState]
    iterate: Callable[[TrainState, Hyper, Array], tuple[TrainState, Metrics]]
    """(state, hyper, prune_counts [groups]) -> (state, metrics); one iteration."""
    groups: int
    """Groups of weights that `prune_counts` counts."""


def make_train(config: PPOConfig, env: Environment) -> Callable[..., tuple[TrainState, Metrics]]:
    """The training function of one agent: pure, so `jit`, `vmap` and shard it as you like.

    Args:
        config: static settings.
        env: the task.

    Returns:
        `train(key, hyper, prune_counts=0) -> (TrainState, Metrics [iterations])`. `prune_counts`,
        int `[iterations, groups]` or broadcastable, says how many weights each group has lost when
        an iteration starts (see `jaxprune.pruning.counts_per_iteration`); 0 trains a dense agent
        by the same program. The key is consumed.

    Raises:
        InputError: settings that contradict each other.
    """
    learner = make_learner(config, env)

    def train(key: Key, hyper: Hyper, prune_counts: Array | int = 0):
        counts = jnp.broadcast_to(prune_counts, (config.iterations, learner.groups))
        return jax.lax.scan(
            lambda state, count: learner.iterate(state, hyper, count), learner.init(key), counts
        )

    return train


def make_learner(config: PPOConfig, env: Environment) -> Learner:
    """The two halves of `make_train`. Raises `InputError` for settings that contradict."""
    config.check()

    # One agent at a time: orthogonal initialisation is a QR factorisation, and XLA:CPU's batched
    # one waits for threads of the pool it runs on, which hangs where every thread drives a device.
    @jax.custom_batching.sequential_vmap
    def fresh_policy(key: Key) -> Policy:
        return initial_policy(config, env.spec, key)

    sizes = prunable_sizes(jax.eval_shape(fresh_policy, jax.random.key(0)).params)
    groups = ALLOCATIONS[config.allocation](list(sizes.values()), 0.0).groups

    def init(key: Key) -> TrainState:
        key_policy, key_reset, key = jax.random.split(key, 3)
        policy = fresh_policy(key_policy)
        env_state, obs = jax.vmap(env.reset)(jax.random.split(key_reset, config.num_envs))
        zeros = jnp.zeros(config.num_envs)
        return TrainState(
            policy=policy,
            masks=dense(policy.params),
            opt_state=ADAM.init(policy.params),
            return_stats=ObsStats(jnp.zeros(()), jnp.ones(()), jnp.zeros(())),
            workers=Worker(env_state, obs, zeros, zeros),
            iteration=jnp.int32(0),
            key=key,
        )

    def iterate(state: TrainState, hyper: Hyper, prune_counts: Array):
        keys = jax.random.split(jax.random.fold_in(state.key, state.iteration), 3)

        # The rollout already uses the masked weights, so no stored log-probability is stale.
        rank = ranks(
            magnitude(state.policy.params, None, keys[0]), groups, keys[0], old=state.masks
        )
        masks = masks_from_ranks(rank, groups, prune_counts)
        policy = replace(state.policy, params=apply_masks(state.policy.params, masks))

        workers, steps = rollout(keys[1], env, policy, hyper.gamma, state.workers, config.unroll)
        return_stats = update_stats(state.return_stats, steps.discounted_return)
        batch = make_batch(policy, steps, hyper, return_stats if config.normalise_reward else None)

        decay = 1 - (1 - hyper.final_learning_rate) * state.iteration / config.iterations
        rate = hyper.learning_rate * decay
        params, opt_state, losses = update(
            keys[2], config, policy, masks, state.opt_state, hyper, rate, batch
        )
        policy = replace(policy, params=params, obs_stats=update_stats(policy.obs_stats, steps.obs))
        after = TrainState(
            policy, masks, opt_state, return_stats, workers, state.iteration + 1, state.key
        )
        return after, summarise(steps, losses, masks)

    return Learner(init, iterate, max(groups) + 1)


def initial_policy(config: PPOConfig, spec: EnvSpec, key: Key) -> Policy:
    """What an agent starts from; the key is consumed."""
    return init_policy(
        key,
        spec.obs_size,
        spec.action_size,
        discrete=spec.discrete,
        hidden=config.hidden,
        activation=config.activation,
        init_log_std=config.init_log_std,
    )


def rollout(
    key: Key, env: Environment, policy: Policy, gamma: Array | float, workers: Worker, length: int
) -> tuple[Worker, Transition]:
    """`length` steps of every worker under the stochastic policy: `Transition [length, N]`.

    An episode that ends continues from a fresh state drawn once per rollout and worker: resetting
    inside the loop would double the cost of a step. Workers that finish twice in one rollout start
    from that state twice, with different action noise.
    """
    count = workers.obs.shape[0]
    key_reset, key_act = jax.random.split(key)
    fresh = Worker(
        *jax.vmap(env.reset)(jax.random.split(key_reset, count)),
        episode_return=jnp.zeros(count),
        discounted_return=jnp.zeros(count),
    )

    def one(key: Key, worker: Worker, fresh: Worker) -> tuple[Worker, Transition]:
        obs = worker.obs
        distribution = action_distribution(policy, normalise(policy, obs))
        action = distribution.sample(key)
        env_state, after = env.step(worker.env_state, action)
        worker = Worker(
            env_state,
            after.obs,
            worker.episode_return + after.reward,
            worker.discounted_return * gamma + after.reward,
        )
        step = Transition(
            obs=obs,
            next_obs=after.obs,
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
    sample = Sample(obs_norm, steps.action, steps.log_prob, advantage, advantage + values)
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


def update(
    key: Key,
    config: PPOConfig,
    policy: Policy,
    masks: Masks,
    opt_state: optax.OptState,
    hyper: Hyper,
    learning_rate: Array,
    batch: Sample,
) -> tuple[Params, optax.OptState, "Losses"]:
    """`epochs` passes of `minibatches` Adam steps over the batch; removed weights stay +0.

    Gradients are masked *before* the norm is clipped (dead entries must not shrink live steps) and
    updates *after* Adam (its momentum must not revive an entry).
    """
    rows = batch.advantage.shape[0]

    def minibatch(carry, indices: Array):
        params, opt_state = carry
        sample = jax.tree.map(lambda x: x[indices], batch)
        grads, losses = jax.grad(ppo_loss, has_aux=True)(params, policy, hyper, sample)
        grads = apply_masks(grads, masks)
        shrink = jnp.minimum(1.0, hyper.max_grad_norm / (optax.tree.norm(grads) + 1e-8))
        direction, opt_state = ADAM.update(jax.tree.map(lambda g: shrink * g, grads), opt_state)
        params = jax.tree.map(lambda w, d: w - learning_rate * d, params, direction)
        return (apply_masks(params, masks), opt_state), losses

    def epoch(carry, key: Key):
        order = jax.random.permutation(key, rows).reshape(config.minibatches, -1)
        return jax.lax.scan(minibatch, carry, order)

    carry = (policy.params, opt_state)
    (params, opt_state), losses = jax.lax.scan(epoch, carry, jax.random.split(key, config.epochs))
    return params, opt_state, jax.tree.map(jnp.mean, losses)


class Losses(NamedTuple):
    """The parts of the loss, means over a minibatch."""

    policy: Array
    value: Array
    entropy: Array
    kl: Array


def ppo_loss(params: Params, policy: Policy, hyper: Hyper, sample: Sample) -> tuple[Array, Losses]:
    """The clipped surrogate, the critic's error and the entropy bonus of a minibatch `[B]`.

        L = -E[min(rho A, clip(rho, 1 - c, 1 + c) A)] + w_v E[(V - V_target)^2] / 2 - w_e E[H]

    with rho = pi(a|s) / pi_old(a|s) and advantages normalised within the minibatch.

    Source: Schulman et al. 2017, equations 7 and 9.
    """
    policy = replace(policy, params=params)

    def terms(row: Sample):
        distribution = action_distribution(policy, row.obs_norm)
        log_ratio = distribution.log_prob(row.action) - row.log_prob
        error = state_value(policy, row.obs_norm) - row.value_target
        return log_ratio, 0.5 * error**2, distribution.entropy()

    log_ratio, value_loss, entropy = jax.vmap(terms)(sample)
    ratio = jnp.exp(log_ratio)
    advantage = sample.advantage
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    clipped = jnp.clip(ratio, 1 - hyper.clip, 1 + hyper.clip)
    policy_loss = -jnp.minimum(ratio * advantage, clipped * advantage)

    losses = Losses(
        policy_loss.mean(), value_loss.mean(), entropy.mean(), (ratio - 1 - log_ratio).mean()
    )
    total = (
        losses.policy + hyper.value_weight * losses.value - hyper.entropy_weight * losses.entropy
    )
    return total, losses


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


def summarise(steps: Transition, losses: Losses, masks: Masks) -> Metrics:
    """One iteration's scalars."""
    done = steps.terminated | steps.truncated
    episodes = jnp.sum(done)
    mean_return = jnp.sum(jnp.where(done, steps.episode_return, 0.0)) / episodes  # NaN if none
    diverged = jnp.sum(steps.diverged)
    return Metrics(mean_return, episodes, diverged, *losses, sparsity_of(masks))
