"""PPO against hand computations, analytic probes, and the promises that pruning makes."""

import dataclasses
import itertools
from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune.envs import make_env
from jaxprune.losses import Hyper, Sample, ppo_loss
from jaxprune.policy import action_distribution, init_policy, normalise, state_value
from jaxprune.ppo import (
    REGIMES,
    Additions,
    PPOConfig,
    dense_directives,
    gae,
    keep_masks,
    make_batch,
    make_learner,
    make_train,
    summarise,
    update,
    update_stats,
)
from jaxprune.pruning import METHODS, Scope, Timing, dense, make_directives, mask_policy
from jaxprune.rollout import Transition, Worker, rollout
from jaxprune.types import ObsStats
from jaxprune.validation import InputError
from tests.probes import (
    WHERE,
    Breakdown,
    ConstantReward,
    ContinuousAction,
    DelayedReward,
    DiscreteAction,
    Drift,
    ObservationReward,
    Treadmill,
)

KEY = jax.random.key(0)
TINY = PPOConfig(
    steps=160, num_envs=4, unroll=10, epochs=2, minibatches=2, hidden=(8, 8)
)  # 4 iterations


MICRO = (METHODS["micro"],)


@cache
def program(env, config: PPOConfig, methods=MICRO, regime="ppo"):
    """`(key, hyper, directives) -> (TrainState, Metrics)`, compiled once."""
    return jax.jit(make_train(config, env, methods, regime=regime))


def shapes(env, config: PPOConfig):
    return jax.eval_shape(make_learner(config, env).fresh, KEY).params


def at_once(env, config: PPOConfig, count: int):
    """Orders to remove `count` weights of all layers together before the first rollout."""
    orders = dense_directives(config, MICRO, shapes(env, config))
    return orders._replace(counts=orders.counts.at[..., 0].set(count))


def train(env, config: PPOConfig, hyper=None, key=KEY, count: int = 0, regime="ppo"):
    """A run that starts with `count` weights removed."""
    run = program(env, config, regime=regime)
    return run(key, hyper or Hyper(), at_once(env, config, count))


# --- generalised advantage estimation


def gae_by_loop(reward, value, next_value, terminated, done, gamma, gae_lambda) -> np.ndarray:
    """The recursion of the docstring, one worker and one step at a time, in float64."""
    advantage = np.zeros(reward.shape)
    for n in range(reward.shape[1]):
        following = 0.0
        for t in reversed(range(reward.shape[0])):
            bootstrap = 0.0 if terminated[t, n] else gamma * next_value[t, n]
            delta = reward[t, n] + bootstrap - value[t, n]
            following = delta + (0.0 if done[t, n] else gamma * gae_lambda * following)
            advantage[t, n] = following
    return advantage


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 2**31),
    gamma=st.floats(0.0, 1.0),
    gae_lambda=st.floats(0.0, 1.0),
    ends=st.floats(0.0, 1.0),
)
def test_gae_is_the_loop(seed, gamma, gae_lambda, ends):
    rng = np.random.default_rng(seed)
    reward, value, next_value = rng.normal(size=(3, 7, 3)).astype(np.float32)
    terminated = rng.random((7, 3)) < ends / 2
    done = terminated | (rng.random((7, 3)) < ends / 2)
    arguments = (reward, value, next_value, terminated, done, gamma, gae_lambda)
    np.testing.assert_allclose(
        jax.jit(gae)(*arguments), gae_by_loop(*arguments), rtol=1e-4, atol=1e-5
    )


def test_gae_by_hand():
    """gamma = lambda = 1/2, four steps; the second is cut off, the last terminates.

    delta = 1 + 1/2 * 4 - 2 = 1,  2 + 1/2 * 6 - 4 = 1,  3 + 1/2 * 2 - 1 = 3,  4 - 2 = 2
    A_3 = 2,  A_2 = 3 + 1/4 * 2 = 3.5,  A_1 = 1 (cut),  A_0 = 1 + 1/4 * 1 = 1.25
    """
    advantage = gae(
        reward=jnp.array([1.0, 2.0, 3.0, 4.0]),
        value=jnp.array([2.0, 4.0, 1.0, 2.0]),
        next_value=jnp.array([4.0, 6.0, 2.0, 100.0]),
        terminated=jnp.array([False, False, False, True]),
        done=jnp.array([False, True, False, True]),
        gamma=0.5,
        gae_lambda=0.5,
    )
    assert np.array_equal(advantage, [1.25, 1.0, 3.5, 2.0])


def test_gae_bootstraps_through_truncation_only():
    """One step, reward 1, V(s) = 0, V(s') = 10, gamma = 0.9: 1 + 9 if cut, 1 if over."""
    step = (jnp.ones(1), jnp.zeros(1), jnp.full(1, 10.0))
    over, done = jnp.array([True]), jnp.array([True])
    assert float(gae(*step, ~over, done, 0.9, 0.95)[0]) == 10.0
    assert float(gae(*step, over, done, 0.9, 0.95)[0]) == 1.0


# --- running statistics


@settings(deadline=None, max_examples=20)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    seed=st.integers(0, 2**31),
    offset=st.floats(-20, 20),
)
def test_update_stats_is_the_mean_and_std_of_everything_so_far(lengths, seed, offset):
    rng = np.random.default_rng(seed)
    batches = [
        (offset * i + rng.normal(size=(n, 2, 3))).astype(np.float32) for i, n in enumerate(lengths)
    ]
    stats = ObsStats(jnp.zeros(3), jnp.ones(3), jnp.zeros(()))
    for batch in batches:
        stats = jax.jit(update_stats)(stats, batch)
    rows = np.concatenate(batches).reshape(-1, 3).astype(np.float64)
    scale = 1 + np.abs(rows).max()
    np.testing.assert_allclose(stats.mean, rows.mean(0), rtol=1e-5, atol=1e-6 * scale)
    np.testing.assert_allclose(stats.std, rows.std(0), rtol=1e-5, atol=1e-6 * scale)
    assert float(stats.count) == len(rows)


# --- the critic reaches the analytic values

LEARN = PPOConfig(
    steps=6400,
    num_envs=16,
    unroll=4,
    epochs=4,
    minibatches=1,
    hidden=(16,),
    normalise_reward=False,
)


@jax.jit
def value(policy, obs):
    return state_value(policy, normalise(policy, obs))


def value_at(policy, obs: float) -> float:
    return float(value(policy, np.full(1, obs, np.float32)))


@pytest.mark.parametrize(
    ("env", "gae_lambda", "values"),
    [
        (ConstantReward(), 0.95, {0.0: 1.0}),
        (ObservationReward(), 0.95, {-1.0: -1.0, 1.0: 1.0}),
        (DelayedReward(), 0.95, {0.0: 0.8, 1.0: 1.0}),
        # Cut after 4 steps: 1 / (1 - 0.8), not the 1 + 0.8 + 0.64 + 0.512 that were seen.
        (Treadmill(terminates=False), 0.95, {1.0: 5.0}),
        # Over after 4 steps, observations alike, lambda = 1: the mean of 1, 1.8, 2.44, 2.952.
        (Treadmill(terminates=True), 1.0, {1.0: 2.048}),
        # The same by one-step bootstrapping, lambda = 0: V = 1 + 0.8 * 3/4 V.
        (Treadmill(terminates=True), 0.0, {1.0: 2.5}),
    ],
    ids=["constant", "observation", "delayed", "truncates", "terminates", "terminates-td0"],
)
def test_the_critic_reaches_the_analytic_value(env, gae_lambda, values):
    hyper = Hyper(learning_rate=1e-2, gamma=0.8, gae_lambda=gae_lambda)
    state, _ = train(env, LEARN, hyper)
    for obs, expected in values.items():
        assert value_at(state.policy, obs) == pytest.approx(expected, abs=0.01)


def test_normalised_rewards_are_in_units_of_the_std_of_the_discounted_return():
    """Discounted returns so far are 1, 1.8, 2.44, 2.952 in turn: V = 5 / their std = 5 / 0.730."""
    std = np.std([1, 1.8, 2.44, 2.952])
    config = replace(LEARN, normalise_reward=True)
    hyper = Hyper(learning_rate=1e-2, gamma=0.8)
    state, _ = train(Treadmill(terminates=False), config, hyper)
    assert float(state.return_stats.std) == pytest.approx(std, rel=1e-5)
    assert value_at(state.policy, 1.0) == pytest.approx(5 / std, abs=0.01)


# --- the policy gradient finds the rewarded action


def test_the_gaussian_policy_finds_the_rewarded_action():
    """x / 2 at x = -1 and 1, and less noise than at the start, for noise costs reward."""
    config = replace(LEARN, steps=12800)
    policy = train(ContinuousAction(), config, Hyper(learning_rate=1e-2))[0].policy
    for obs in (-1.0, 1.0):
        head = action_distribution(policy, normalise(policy, jnp.full(1, obs)))
        assert float(head.mode()[0]) == pytest.approx(obs / 2, abs=0.05)
        assert float(head.log_std[0]) < -1.5


def test_the_categorical_policy_finds_the_rewarded_action():
    """Action 2 at 1, action 0 at -1, and never action 1."""
    policy = train(DiscreteAction(), LEARN, Hyper(learning_rate=1e-2))[0].policy
    for obs, action in ((-1.0, 0), (1.0, 2)):
        head = action_distribution(policy, normalise(policy, jnp.full(1, obs)))
        assert float(head.log_prob(jnp.int32(action))) > np.log(0.98)


# --- rollout


def start_workers(env, count: int) -> Worker:
    state, obs = jax.jit(jax.vmap(env.reset))(jax.random.split(KEY, count))
    return Worker(state, obs, jnp.zeros(count), jnp.zeros(count))


def fresh_policy(env, **changes):
    spec = env.spec
    return init_policy(
        KEY, spec.obs_size, spec.action_size, discrete=spec.discrete, hidden=(8,), **changes
    )


def test_rollout_counts_returns_by_hand():
    """Treadmill of 4 steps, reward 1, gamma = 1/2; a second rollout goes on where the first ended.

    Returns so far 1 2 3 4 | 1 2 and 3 4 | 1 2 3 4; discounted 1, 1.5, 1.75, 1.875.
    """
    env = Treadmill(terminates=False)
    policy = fresh_policy(env)
    collect = jax.jit(lambda key, workers: rollout(key, env, policy, 0.5, workers, 6))
    workers, first = collect(jax.random.key(1), start_workers(env, 2))
    assert np.array_equal(workers.episode_return, [2.0, 2.0])
    assert np.array_equal(workers.env_state.time, [2, 2])
    workers, second = collect(jax.random.key(2), workers)
    assert np.array_equal(workers.episode_return, [0.0, 0.0])  # just reset
    for n in range(2):
        assert first.episode_return[:, n].tolist() == [1, 2, 3, 4, 1, 2]
        assert second.episode_return[:, n].tolist() == [3, 4, 1, 2, 3, 4]
        assert first.discounted_return[:, n].tolist() == [1, 1.5, 1.75, 1.875, 1, 1.5]
        assert second.discounted_return[:, n].tolist() == [1.75, 1.875, 1, 1.5, 1.75, 1.875]
        assert first.truncated[:, n].tolist() == [False, False, False, True, False, False]
    assert not np.any(first.terminated)


def test_rollout_keeps_the_observation_before_the_reset():
    """Observations 0, 1 and, after the end, 2: the next step starts from 0 again."""
    env = DelayedReward()
    _, steps = jax.jit(
        lambda key: rollout(key, env, fresh_policy(env), 0.9, start_workers(env, 3), 4)
    )(KEY)
    for n in range(3):
        assert steps.obs[:, n, 0].tolist() == [0, 1, 0, 1]
        assert steps.next_obs[:, n, 0].tolist() == [1, 2, 1, 2]
        assert steps.reward[:, n].tolist() == [0, 1, 0, 1]
        assert steps.terminated[:, n].tolist() == [False, True, False, True]


def test_rollout_resets_to_fresh_states_of_its_own():
    """Episodes of 2: steps 2 and 4 start from one reset per worker, new in every rollout."""
    env = Drift(length=2)
    collect = jax.jit(lambda key, workers: rollout(key, env, fresh_policy(env), 0.9, workers, 6))
    workers = start_workers(env, 3)
    seen = list(map(tuple, np.asarray(workers.obs)))
    for seed in range(2):
        workers, steps = collect(jax.random.key(seed), workers)
        assert np.array_equal(steps.obs[2], steps.obs[4])
        assert np.array_equal(steps.obs[2], workers.obs)
        seen.extend(map(tuple, np.asarray(workers.obs)))
    assert len(set(seen)) == 9


def test_rollout_log_probs_are_those_of_the_policy_that_acted():
    for env in (Drift(), DiscreteAction()):
        policy = replace(
            fresh_policy(env),
            obs_stats=ObsStats(
                jnp.full(env.spec.obs_size, 0.3), jnp.full(env.spec.obs_size, 2.0), jnp.ones(())
            ),
        )
        collect = lambda workers, env=env, policy=policy: rollout(  # noqa: E731
            KEY, env, policy, 0.9, workers, 3
        )
        _, steps = jax.jit(collect)(start_workers(env, 2))

        def log_prob(obs, action, policy=policy):
            return action_distribution(policy, normalise(policy, obs)).log_prob(action)

        expected = jax.jit(jax.vmap(jax.vmap(log_prob)))(steps.obs, steps.action)
        np.testing.assert_allclose(steps.log_prob, expected, rtol=1e-5, atol=1e-6)
        assert len(np.unique(np.asarray(steps.action).reshape(6, -1), axis=0)) > 1


def test_metrics_report_raw_returns():
    """Every episode returns 4, whatever the learner's rewards are scaled to; 16 an iteration."""
    for hyper in (Hyper(), Hyper(reward_scale=7.0)):
        _, metrics = train(Treadmill(terminates=False), LEARN, hyper)
        assert metrics.episodes.tolist() == [16] * 100
        assert metrics.episode_return.tolist() == [4.0] * 100


def test_an_iteration_without_an_ending_has_no_return():
    """Episodes of 15 steps, 10 steps an iteration: none ends in the first; NaN, not 0."""
    env = Treadmill(terminates=True, length=15)
    policy = fresh_policy(env)
    losses = (jnp.zeros(()),) * 5
    workers = start_workers(env, 2)
    collect = jax.jit(lambda key, workers: rollout(key, env, policy, 0.9, workers, 10))
    seen = []
    for seed in range(3):
        workers, steps = collect(jax.random.key(seed), workers)
        metrics = jax.jit(summarise)(steps, losses, jnp.zeros(()))
        seen.append((int(metrics.episodes), float(metrics.episode_return)))
    assert seen == [(0, pytest.approx(np.nan, nan_ok=True)), (2, 15.0), (2, 15.0)]


def test_rollout_shows_no_broken_number_and_starts_afresh():
    """Workers at -1 break at step 3 and go on from their fresh state; the others have 5 steps."""
    env = Breakdown()
    workers, steps = jax.jit(
        lambda key: rollout(key, env, fresh_policy(env), 0.5, start_workers(env, 8), 4)
    )(KEY)
    broken = np.asarray(steps.obs[0, :, 0]) < 0
    assert 0 < broken.sum() < 8
    for n in range(8):
        ends = [False, False, bool(broken[n]), False]
        assert steps.diverged[:, n].tolist() == steps.terminated[:, n].tolist() == ends
        assert steps.reward[:, n].tolist() == ([1, 1, 0, 1] if broken[n] else [1] * 4)
        assert steps.episode_return[:, n].tolist() == ([1, 2, 2, 1] if broken[n] else [1, 2, 3, 4])
        assert float(steps.next_obs[2, n, 0]) == (0.0 if broken[n] else 1.0)
    assert np.array_equal(workers.env_state.time, np.where(broken, 1, 4))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((workers, steps)))


@pytest.mark.parametrize("where", WHERE)
def test_training_survives_a_simulator_that_breaks_and_counts_it(where):
    """Episodes return 2 if they broke and 5 if not, so the mean return follows from the counts."""
    state, metrics = train(Breakdown(where), replace(TINY, steps=1600))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((state._replace(key=0), metrics)))
    episodes, diverged = np.asarray(metrics.episodes), np.asarray(metrics.diverged)
    assert 0 < diverged.sum() < episodes.sum()
    expected = (2 * diverged + 5 * (episodes - diverged)) / episodes
    np.testing.assert_allclose(metrics.episode_return, expected, rtol=1e-6)


def test_no_episode_of_a_sound_simulator_is_counted_as_diverged():
    _, metrics = train(DelayedReward(), TINY)
    assert metrics.episodes.sum() > 0
    assert metrics.diverged.tolist() == [0] * 4


# --- one update


def transition(reward, terminated, truncated, obs=0.0, next_obs=0.0) -> Transition:
    """One worker, `[T, 1]`; what make_batch does not read is zero."""
    T = len(reward)
    zeros = jnp.zeros((T, 1))
    column = lambda x: jnp.asarray(x).reshape(T, 1)  # noqa: E731
    return Transition(
        obs=jnp.full((T, 1, 1), obs),
        next_obs=jnp.full((T, 1, 1), next_obs),
        seen=jnp.full((T, 1, 1), 0.5),
        action=jnp.zeros((T, 1, 1)),
        log_prob=zeros,
        reward=column(reward),
        terminated=column(terminated),
        truncated=column(truncated),
        diverged=column([False] * T),
        episode_return=zeros,
        discounted_return=zeros,
    )


def test_make_batch_scales_and_clips_rewards():
    """Terminated single steps: the value target is the learner's reward.

    std 1/2: 1 -> 2, -3 -> -6, 80 -> 160, clipped to 10; then times reward_scale = 3.
    """
    ends = [True] * 3
    steps = transition([1.0, -3.0, 80.0], ends, [False] * 3)
    policy = fresh_policy(ConstantReward())
    stats = ObsStats(jnp.zeros(()), jnp.float32(0.5), jnp.ones(()))
    batch = make_batch(policy, steps, Hyper(reward_scale=3.0), stats)
    np.testing.assert_allclose(batch.value_target, [6.0, -18.0, 30.0], rtol=1e-6)
    raw = make_batch(policy, steps, Hyper(reward_scale=3.0), None)
    np.testing.assert_allclose(raw.value_target, [3.0, -9.0, 240.0], rtol=1e-6)
    assert batch.obs_norm.shape == (3, 1)
    assert np.all(batch.seen == 0.5)  # the critic sees the truth, the actor what was shown to it


def test_make_batch_bootstraps_from_the_observation_before_the_reset():
    """A cut step: target = r + gamma V(next_obs), not gamma V of whatever obs followed."""
    policy = fresh_policy(ConstantReward())
    hyper = Hyper(gamma=0.5, gae_lambda=0.9)
    steps = transition([1.0, 1.0], [False] * 2, [True] * 2, obs=-1.0, next_obs=2.0)
    expected = 1.0 + 0.5 * value_at(policy, 2.0)
    batch = make_batch(policy, steps, hyper, None)
    np.testing.assert_allclose(batch.value_target, [expected] * 2, rtol=1e-5)
    np.testing.assert_allclose(batch.advantage, expected - value_at(policy, -1.0), rtol=1e-5)


def random_batch(policy, rows: int, seed: int = 0) -> Sample:
    """Off-policy enough that some probability ratios are clipped on either side."""
    rng = np.random.default_rng(seed)
    obs, action = rng.normal(size=(2, rows, 2)).astype(np.float32)
    chances = jax.vmap(lambda x, a: action_distribution(policy, x).log_prob(a))
    log_prob = np.asarray(jax.jit(chances)(obs, action))
    shift, advantage, target = rng.normal(size=(3, rows)).astype(np.float32)
    return Sample(obs, obs, action, log_prob + np.float32(0.3) * shift, advantage, target)


def test_ppo_loss_is_the_formula():
    policy = fresh_policy(Drift(), init_log_std=-0.3)
    hyper = Hyper(clip=0.1, value_weight=0.7, entropy_weight=0.2)
    sample = random_batch(policy, 32)
    total, losses = jax.jit(ppo_loss)(policy.params, policy, hyper, sample)

    heads = [action_distribution(policy, x) for x in sample.obs_norm]
    new = np.array([h.log_prob(a) for h, a in zip(heads, sample.action, strict=True)], np.float64)
    rho = np.exp(new - sample.log_prob)
    a = np.float64(sample.advantage)
    a = (a - a.mean()) / a.std()
    surrogate = np.minimum(rho * a, np.clip(rho, 0.9, 1.1) * a)
    assert np.any(surrogate != rho * a)
    error = np.array([state_value(policy, x) for x in sample.obs_norm]) - sample.value_target
    entropy = 2 * (-0.3 + 0.5 * np.log(2 * np.pi * np.e))
    np.testing.assert_allclose(losses.policy, -surrogate.mean(), rtol=1e-4)
    np.testing.assert_allclose(losses.value, (error**2).mean() / 2, rtol=1e-5)
    np.testing.assert_allclose(losses.entropy, entropy, rtol=1e-5)
    np.testing.assert_allclose(losses.kl, (rho - 1 - np.log(rho)).mean(), rtol=1e-3)
    by_hand = losses.policy + 0.7 * losses.value - 0.2 * losses.entropy
    np.testing.assert_allclose(total, by_hand, rtol=1e-5)


def half_masks(params):
    """Every second entry of every actor kernel removed; everything else kept."""
    masks = dense(params)
    for layer in masks.actor.values():
        layer["kernel"] = jnp.arange(layer["kernel"].size).reshape(layer["kernel"].shape) % 2 == 0
    return masks


@pytest.mark.parametrize("max_grad_norm", [0.05, 1e6], ids=["clipped", "free"])
def test_update_is_optax_on_the_masked_gradient(max_grad_norm):
    """One row order, three steps: mask, clip the global norm, AdamW, mask again.

    The gradient of a removed weight is not zero, so masking after the norm would show.
    """
    env = Drift()
    config = replace(TINY, epochs=3, minibatches=1, num_envs=4, unroll=4)
    hyper = Hyper(
        learning_rate=1e-2, max_grad_norm=max_grad_norm, entropy_weight=0.01, weight_decay=0.1
    )
    learner = make_learner(config, env)
    policy = jax.jit(learner.fresh)(KEY)
    orders = jax.tree.map(lambda x: x[0], dense_directives(config, MICRO, policy.params))
    masks, everything = half_masks(policy.params), dense(policy.params)
    fresh, policy = policy, mask_policy(policy, masks)
    batch = random_batch(policy, 16)

    @jax.jit
    def run(hyper, batch):
        state = keep_masks(learner.init(KEY, hyper, orders, fresh, everything), masks)
        return update(KEY, config, Additions(), state, hyper, orders, batch, lambda *_: masks)

    ours = run(hyper, batch)[0].policy.params

    kernels = jax.tree.map(lambda w: False, policy.params)
    kernels = kernels._replace(actor=jax.tree.map(lambda w: w.ndim == 2, policy.params.actor))
    optimiser = optax.chain(
        optax.clip_by_global_norm(max_grad_norm),
        optax.adamw(1e-2, eps=1e-5, weight_decay=0.1, mask=kernels),
    )
    params = policy.params
    adam = optimiser.init(params)

    @jax.jit
    def step(params, adam):
        grads = jax.grad(lambda p: ppo_loss(p, policy, hyper, batch)[0])(params)
        removed = jax.tree.map(lambda g, keep: jnp.where(keep, 0.0, g), grads, masks)
        grads = jax.tree.map(lambda g, keep: g * keep, grads, masks)
        updates, adam = optimiser.update(grads, adam, params)
        return optax.apply_updates(params, updates), adam, optax.tree.norm(removed)

    for _ in range(3):
        params, adam, removed = step(params, adam)
        assert removed > 1e-4
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), ours, params)


# --- pruning during training

ITERATIONS = 10
PRUNE = replace(TINY, steps=40 * ITERATIONS)
# AdamW with a decay that would be seen, and gradients that are clipped.
STRICT = Hyper(learning_rate=1e-2, weight_decay=0.5, max_grad_norm=0.05)
TRAINED = [name for name, method in METHODS.items() if method.schedule]
LEVELS, RULES = (0.0, 0.5, 0.9), ("global", "erk")


@cache
def contract():
    """Every training method at every level and allocation, iteration by iteration.

    Returns (cases, directives `[cases, iterations]`, states `[cases]` before the first and after
    every iteration, metrics).
    """
    env = make_env("cartpole")
    methods = [METHODS[name] for name in TRAINED]
    learner = make_learner(PRUNE, env, methods)
    params = shapes(env, PRUNE)
    cases = list(itertools.product(range(len(TRAINED)), RULES, LEVELS))
    timing = Timing(ITERATIONS, (0.2, 0.8))
    orders = [
        make_directives(methods, i, params, PRUNE.scope, rule, [level], timing)
        for i, rule, level in cases
    ]
    directives = jax.tree.map(lambda *x: np.stack(x), *orders)

    def start(directive):
        policy = learner.fresh(KEY)
        return learner.init(KEY, STRICT, directive, policy, dense(policy.params))

    state = jax.jit(jax.vmap(start))(jax.tree.map(lambda x: x[:, 0], directives))
    iterate = jax.jit(jax.vmap(lambda s, d: learner.iterate(s, STRICT, d)))
    states, metrics = [jax.device_get(state._replace(key=0))], []
    for i in range(ITERATIONS):
        state, metric = iterate(state, jax.tree.map(lambda x, i=i: x[:, i], directives))
        states.append(jax.device_get(state._replace(key=0)))
        metrics.append(jax.device_get(metric))
    return cases, jax.device_get(directives), states, metrics


def kernels(tree) -> list[np.ndarray]:
    """The actor's kernels `[cases, weights]`."""
    return [np.asarray(x["kernel"]).reshape(len(x["kernel"]), -1) for x in tree.actor.values()]


@pytest.mark.parametrize("name", TRAINED)
def test_every_training_method_keeps_its_promises(name):
    """At every iteration: exact counts, +0 where removed, no momentum; nested, unless it regrows.

    With AdamW and clipped gradients, and whatever the others of the population do.
    """
    cases, directives, states, metrics = contract()
    method = METHODS[name]
    assert [x.shape[1] for x in kernels(states[0].masks)] == [4 * 8, 8 * 8, 8 * 2]
    for case, (i, rule, level) in enumerate(cases):
        if TRAINED[i] != name:
            continue
        before = [np.ones(x.shape[1], bool) for x in kernels(states[0].masks)]
        for number, state in enumerate(states[1:]):
            masks, weights, mu, nu = (
                [x[case] for x in kernels(tree)]
                for tree in (
                    state.masks,
                    state.policy.params,
                    state.opt_state.mu,
                    state.opt_state.nu,
                )
            )
            removed = [int((~mask).sum()) for mask in masks]
            counts = directives.counts[case, number, 0]
            assert (removed if rule == "erk" else [sum(removed), 0, 0]) == counts.tolist()
            sparsity = sum(removed) / (4 * 8 + 8 * 8 + 8 * 2)
            assert metrics[number].sparsity[case] == pytest.approx(sparsity, abs=1e-6)
            for mask, old, w, *moments in zip(masks, before, weights, mu, nu, strict=True):
                gone = w[~mask]
                assert np.all(gone == 0) and not np.signbit(gone).any()
                assert all(np.all(m[~mask] == 0) for m in moments)
                assert method.regrow or not np.any(mask & ~old)
                assert method.regrow or np.all(w[mask] != 0)
            before = masks
        assert sum(removed) == pytest.approx(level * 112, abs=2)
        biases = [x["bias"][case] for x in states[-1].masks.actor.values()]
        rest = [x[case] for x in jax.tree.leaves(states[-1].masks.critic)]
        assert all(np.all(mask) for mask in biases + rest)
        assert np.all(np.isfinite(weights[1]))


def test_without_a_sparsity_every_method_trains_the_same_dense_agent():
    """The control at 0 goes through the same code: it equals the others bit for bit."""
    cases, _, states, _ = contract()
    dense_cases = [
        case
        for case, (i, _, level) in enumerate(cases)
        if level == 0 and not METHODS[TRAINED[i]].regrow
    ]
    for leaf in jax.tree.leaves(states[-1].policy):
        for case in dense_cases[1:]:
            assert np.array_equal(leaf[dense_cases[0]], leaf[case])


def test_methods_remove_different_weights():
    """No two methods have the same masks all along, or one is not what its name says."""
    cases, _, states, _ = contract()
    ends = {
        TRAINED[i]: np.concatenate([x[case] for state in states for x in kernels(state.masks)])
        for case, (i, rule, level) in enumerate(cases)
        if rule == "global" and level == 0.5
    }
    for a, b in itertools.combinations(TRAINED, 2):
        assert not np.array_equal(ends[a], ends[b]), (a, b)


def test_set_and_rigl_exchange_weights_and_less_and_less():
    cases, directives, states, _ = contract()
    for name in ("set", "rigl"):
        case = cases.index((TRAINED.index(name), "erk", 0.5))
        grown = []
        for old, new in itertools.pairwise(states[1:]):
            pairs = zip(kernels(old.masks), kernels(new.masks), strict=True)
            grown.append(sum(int((b[case] & ~a[case]).sum()) for a, b in pairs))
        drop = directives.drop[case]
        assert drop[0] == pytest.approx(0.3) and np.all(np.diff(drop) <= 0) and drop[-1] == 0
        assert sum(grown[:4]) > 0 and sum(grown[-2:]) == 0


def test_lottery_tickets_start_again_from_their_first_weights():
    """At a removal: the first weights under the new masks, and everything else forgotten.

    After one iteration of at most 4 steps of rate 1e-2, weights are still near the first ones.
    """
    cases, directives, states, _ = contract()
    case = cases.index((TRAINED.index("lottery"), "global", 0.9))
    rewinds = np.flatnonzero(directives.rewind[case])
    assert len(rewinds) == 5 and directives.progress[case][rewinds].tolist() == [0] * 5
    first = [x[case] for x in kernels(states[0].policy.params)]
    for i in rewinds:
        state = states[i + 1]
        for w, w0, mask in zip(
            kernels(state.policy.params), first, kernels(state.masks), strict=True
        ):
            moved = np.abs(w[case] - w0)[mask[case]]
            assert moved.max(initial=0) <= 4 * 1.1e-2 + 0.02 * np.abs(w0).max()
        assert state.policy.obs_stats.count[case] == 40  # of this iteration alone
        assert state.opt_state.count[case] == 4
    other = states[-1].policy.obs_stats.count[0]
    assert other == 400 > states[-1].policy.obs_stats.count[case]


def test_micro_pruning_removes_the_smallest_weights_of_the_moment():
    """Every iteration removes, of what is left, the least |w| that the last update produced."""
    cases, _, states, _ = contract()
    case = cases.index((TRAINED.index("micro"), "global", 0.9))
    for old, new in itertools.pairwise(states):
        weights, mask = (
            np.concatenate([x[case] for x in kernels(tree)])
            for tree in (old.policy.params, new.masks)
        )
        weights, mask = np.abs(weights), mask.astype(bool)
        # The floor keeps the last weight of a layer, however small.
        lasting = np.concatenate(
            [np.full(x[case].size, x[case].sum() == 1) for x in kernels(new.masks)]
        )
        assert weights[~mask].max(initial=0.0) <= weights[mask & ~lasting].min()


def test_a_weight_that_grows_anew_takes_a_first_step_of_at_most_3_2_rates():
    """Late in training Adam's bias correction is over: m / sqrt(v) = 0.1 g / sqrt(0.001 g^2)."""
    cases, directives, states, _ = contract()
    case = cases.index((TRAINED.index("set"), "global", 0.5))
    found = []
    for number, (old, new) in enumerate(itertools.pairwise(states[1:]), 1):
        decay = 1 - directives.progress[case, number]
        for a, b, w in zip(*map(kernels, (old.masks, new.masks, new.policy.params)), strict=True):
            found += (np.abs(w[case])[b[case] & ~a[case]] / (1e-2 * decay)).tolist()
    # Four steps an iteration: the first of at most 3.2 rates, the others shorter.
    assert found and max(found) <= 4 * 3.17


def test_a_trajectory_is_kept_at_every_level_on_its_way():
    """Three levels of one run: exact sparsities, nested masks, weights of those moments."""
    env, levels = make_env("cartpole"), (0.0, 0.3, 0.9)
    methods = [METHODS["none"], METHODS["micro"]]
    timing = Timing(ITERATIONS, (0.2, 0.8))
    orders = make_directives(methods, 1, shapes(env, PRUNE), PRUNE.scope, "erk", levels, timing)
    state, metrics = jax.jit(make_train(PRUNE, env, methods, len(levels)))(KEY, STRICT, orders)
    kept = state.snapshots
    targets = [
        make_directives(methods, 1, shapes(env, PRUNE), PRUNE.scope, "erk", [x], timing).counts[
            -1, 0
        ]
        for x in levels
    ]
    masks = kernels(kept.masks)
    assert [[int((~m[i]).sum()) for m in masks] for i in range(3)] == [t.tolist() for t in targets]
    assert all(np.all(m[i + 1] <= m[i]) for m in masks for i in range(2))
    for mask, w in zip(masks, kernels(kept.policy.params), strict=True):
        assert np.all(w[~mask] == 0) and np.all(w[mask] != 0)
    assert kept.policy.obs_stats.count.tolist() == sorted(set(kept.policy.obs_stats.count.tolist()))
    for a, b in zip(jax.tree.leaves(kept.policy), jax.tree.leaves(state.policy), strict=True):
        assert np.array_equal(a[-1], b)  # the last one is the agent at the end
    assert np.all(np.diff(metrics.sparsity) >= 0)


@pytest.mark.parametrize(
    ("method", "levels", "message"),
    [
        ("one_shot", (0.0, 0.5, 0.9), "cannot stop at 3 sparsities with 2"),
        ("micro", [i / 20 for i in range(20)], "cannot stop at 20 sparsities"),
    ],
)
def test_a_run_that_cannot_pass_every_level_says_so(method, levels, message):
    params = shapes(Drift(), PRUNE)
    with pytest.raises(InputError, match=message) as error:
        make_directives(
            [METHODS[method]], 0, params, Scope(), "global", levels, Timing(10, (0.2, 0.8))
        )
    assert "--sparsity-grid" in str(error.value)


def test_events_of_epochs_prune_between_the_passes_over_the_data():
    """Two events an iteration: the second removes before the second epoch, none is missed."""
    env, config = Drift(), replace(PRUNE, prune_unit="epoch")
    timing = Timing(ITERATIONS, (0.2, 0.8), config.events)
    orders = make_directives(MICRO, 0, shapes(env, config), Scope(), "global", [0.9], timing)
    assert orders.counts.shape == (ITERATIONS, 2, 3)
    _, metrics = program(env, config)(KEY, Hyper(), orders)
    total = sum(x.size for x in jax.tree.leaves(shapes(env, config).actor) if x.ndim == 2)
    np.testing.assert_allclose(metrics.sparsity, orders.counts[:, 1, 0] / total, atol=1e-6)
    by_iteration = make_directives(
        MICRO, 0, shapes(env, config), Scope(), "global", [0.9], Timing(ITERATIONS, (0.2, 0.8))
    )
    assert np.array_equal(by_iteration.counts[:, 0], orders.counts[:, 1])


@cache
def one_step_learner():
    """One gradient step per iteration."""
    config = replace(TINY, epochs=1, minibatches=1)
    learner = make_learner(config, Drift(), MICRO)
    policy = jax.jit(learner.fresh)(KEY)
    orders = dense_directives(config, MICRO, policy.params)
    first = jax.tree.map(lambda x: x[0], orders)
    state = jax.jit(learner.init)(KEY, Hyper(), first, policy, dense(policy.params))
    return jax.jit(learner.iterate), state, first


def test_the_rollout_already_uses_the_pruned_weights():
    """At the first gradient step the ratio is 1 and the KL 0, although weights were removed."""
    iterate, state, first = one_step_learner()
    _, metrics = iterate(state, Hyper(), first._replace(counts=first.counts.at[0, 0].set(60)))
    assert float(metrics.sparsity) > 0.5
    assert float(metrics.kl) == pytest.approx(0.0, abs=1e-6)


def test_a_dense_agent_is_the_same_program_with_no_count():
    """One compilation serves dense and pruned agents; no directives at all remove nothing."""
    (agent, metrics), (pruned, _) = (train(Drift(), TINY, count=n) for n in (0, 50))
    assert program(Drift(), TINY, regime="ppo")._cache_size() == 1
    assert all(np.all(mask) for mask in jax.tree.leaves(agent.masks))
    assert metrics.sparsity.tolist() == [0.0] * 4
    assert sum(int(jnp.sum(~mask)) for mask in jax.tree.leaves(pruned.masks)) == 50
    default, _ = jax.jit(make_train(TINY, Drift(), MICRO))(KEY, Hyper())
    assert_trees_close(default.policy, agent.policy)


# --- SA-PPO


@pytest.mark.parametrize("regulariser", ["pgd", "sgld", "convex"])
def test_the_regulariser_makes_the_policy_move_less(regulariser):
    """The same program with and without weight: D in the ball falls, and the metrics say so."""
    config = replace(LEARN, regulariser=regulariser)
    base = Hyper(learning_rate=1e-2, sa_eps=0.5, sa_ramp=0.0)
    train = make_train(config, ContinuousAction(), regime="sa_ppo")
    run = jax.jit(jax.vmap(train, (None, 0)))
    stacked = jax.tree.map(lambda *x: np.stack(x), *(replace(base, kappa=k) for k in (0.0, 1.0)))
    state, metrics = run(KEY, stacked)
    plain, robust = (
        [float(x) for x in metrics.robust[:, -20:].mean(1)],
        [jax.tree.map(lambda x, i=i: x[i], state.policy) for i in range(2)],
    )
    assert plain[1] < 0.5 * plain[0]
    moved = [
        abs(
            float(
                action_distribution(p, jnp.ones(1)).mode()[0]
                - action_distribution(p, jnp.full(1, 0.5)).mode()[0]
            )
        )
        for p in robust
    ]
    assert moved[1] < moved[0]


def test_of_plain_ppo_nothing_of_the_regulariser_is_computed():
    _, metrics = train(Drift(), TINY, Hyper(kappa=5.0, sa_eps=1.0))
    assert metrics.robust.tolist() == [0.0] * 4
    plain, _ = train(Drift(), TINY)
    other, _ = train(Drift(), TINY, Hyper(kappa=5.0, sa_eps=1.0))
    assert_trees_close(plain.policy, other.policy)


def test_perturbed_collection_shows_the_actor_something_else():
    """Actions are drawn, and log-probabilities taken, at what was seen: inside the ball, not s."""
    env = Drift()
    policy = fresh_policy(env, init_log_std=-1.0)
    policy = replace(policy, params=jax.tree.map(lambda w: w + 0.3, policy.params))
    shift = lambda key, policy, x: x + 0.1  # noqa: E731
    collect = jax.jit(lambda *more: rollout(KEY, env, policy, 0.9, *more), static_argnums=(1, 2))
    _, steps = collect(start_workers(env, 2), 3, shift)
    _, plain = collect(start_workers(env, 2), 3)
    truth = jax.jit(jax.vmap(jax.vmap(lambda x: normalise(policy, x))))(steps.obs)
    np.testing.assert_allclose(steps.seen, truth + 0.1, rtol=1e-6)
    at = lambda x, a: action_distribution(policy, x).log_prob(a)  # noqa: E731
    expected = jax.jit(jax.vmap(jax.vmap(at)))(steps.seen, steps.action)
    np.testing.assert_allclose(steps.log_prob, expected, rtol=1e-5, atol=1e-6)
    assert np.array_equal(plain.seen[0], truth[0])


# --- populations and settings


def assert_trees_close(ours, theirs):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


HYPERS = {
    "learning_rate": 3e-3,
    "final_learning_rate": 1.0,
    "clip": 0.01,
    "entropy_weight": 0.1,
    "value_weight": 5.0,
    "gamma": 0.5,
    "gae_lambda": 0.2,
    "max_grad_norm": 0.01,
    "reward_scale": 3.0,
    "weight_decay": 3.0,
    "kappa": 3.0,
    "sa_eps": 0.5,
    "sa_ramp": 0.1,
}
# Every traced setting is used by this program.
BASE = Hyper(kappa=0.5, sa_eps=0.2)


@cache
def population():
    """Agents 0 and 1 alike, agents 2 and 3 of other seeds, then one per field of Hyper."""
    hypers = [BASE] * 4 + [replace(BASE, **{name: value}) for name, value in HYPERS.items()]
    keys = jnp.stack([KEY, KEY, jax.random.key(1), jax.random.key(2)] + [KEY] * len(HYPERS))
    stacked = jax.tree.map(lambda *x: np.stack(x), *hypers)
    run = jax.vmap(make_train(TINY, Drift(), regime="sa_ppo"))
    return jax.jit(run)(keys, stacked)[0].policy.params


def test_the_tests_of_settings_know_every_field():
    of_regimes = {name for regime in REGIMES.values() for name in regime.own}
    assert set(HYPERS) | of_regimes == {field.name for field in dataclasses.fields(Hyper)}
    assert set(CONFIGS) == {field.name for field in dataclasses.fields(PPOConfig)}


def test_equal_agents_of_a_population_are_equal():
    """The control of the next tests: what differs there differs because of its setting."""
    for leaf in jax.tree.leaves(population()):
        assert np.array_equal(leaf[0], leaf[1])


def differ(agent: int) -> bool:
    return any(not np.array_equal(x[0], x[agent]) for x in jax.tree.leaves(population()))


@pytest.mark.parametrize("seed", [1, 2])
def test_vmap_over_seeds_is_a_loop(seed):
    alone, _ = train(Drift(), TINY, BASE, key=jax.random.key(seed), regime="sa_ppo")
    assert differ(seed + 1)
    assert_trees_close(jax.tree.map(lambda x: x[seed + 1], population()), alone.policy.params)


@pytest.mark.parametrize("field", HYPERS)
def test_every_traced_setting_has_its_own_value_per_agent(field):
    """It changes the agent, and the agent is the one that it makes alone."""
    agent = 4 + list(HYPERS).index(field)
    alone, _ = train(Drift(), TINY, replace(BASE, **{field: HYPERS[field]}), regime="sa_ppo")
    assert differ(agent)
    assert_trees_close(jax.tree.map(lambda x: x[agent], population()), alone.policy.params)


def removed_per_layer(state, metrics) -> list[int]:
    return [int(jnp.sum(~layer["kernel"])) for layer in state.masks.actor.values()]


# Field -> (other value, what to look at, its value in TINY, its value then), by hand. None: there
# is nothing to see but other numbers; `normalise_reward` and Hyper have tests of their own above.
CONFIGS = {
    "steps": (200, lambda s, m: m.kl.shape[0], 4, 5),
    "num_envs": (8, lambda s, m: (s.workers.obs.shape[0], m.kl.shape[0]), (4, 4), (8, 2)),
    "unroll": (20, lambda s, m: m.kl.shape[0], 4, 2),
    "epochs": (3, lambda s, m: int(s.opt_state.count), 4 * 2 * 2, 4 * 3 * 2),
    "minibatches": (4, lambda s, m: int(s.opt_state.count), 4 * 2 * 2, 4 * 2 * 4),
    "hidden": (
        (6,),
        lambda s, m: [x["bias"].shape[0] for x in s.policy.params.actor.values()],
        [8, 8, 2],
        [6, 2],
    ),
    "activation": ("relu", lambda s, m: s.policy.activation, "tanh", "relu"),
    "init_log_std": (-1.0, lambda s, m: round(float(s.policy.params.log_std[0])), 0, -1),
    "normalise_reward": (False, lambda s, m: None, None, None),
    "scope": (Scope(last_layer=False), lambda s, m: removed_per_layer(s, m)[2] > 0, True, False),
    "prune_unit": ("epoch", lambda s, m: None, None, None),
    "regulariser": ("convex", lambda s, m: None, None, None),
    "hyper": (Hyper(learning_rate=3e-3), lambda s, m: None, None, None),
}


def outcome(config, regime: str):
    """A run with the traced settings of its config, in which half of the weights go."""
    env, timing = Drift(), Timing(config.iterations, (0, 1), config.events)
    orders = make_directives(MICRO, 0, shapes(env, config), config.scope, "global", [0.5], timing)
    hyper = replace(config.hyper, kappa=0.5, sa_eps=0.3, sa_ramp=0.0)
    return program(env, config, regime=regime)(KEY, hyper, orders)


@pytest.mark.parametrize("field", CONFIGS)
def test_every_static_setting_changes_the_outcome(field):
    value, look, before, after = CONFIGS[field]
    assert getattr(TINY, field) != value
    regime = "sa_ppo" if field == "regulariser" else "ppo"  # others need no regulariser
    reference = outcome(TINY, regime)
    changed = outcome(replace(TINY, **{field: value}), regime)
    if before is not None:
        assert look(*reference) == before
    assert look(*changed) == after
    assert float(reference[1].value_loss[-1]) != float(changed[1].value_loss[-1])


def test_steps_are_rounded_up_to_iterations():
    assert replace(TINY, steps=1).iterations == 1
    assert replace(TINY, steps=40).iterations == 1
    assert replace(TINY, steps=41).iterations == 2
    assert PPOConfig().iterations == 489  # 1 000 000 / 2048 = 488.3


def test_the_learning_rate_falls_linearly_to_its_final_fraction():
    """Adam with one gradient step per iteration moves a weight by about its rate.

    The first move of Adam is rate * g / (|g| + 1e-5 / shrink), so the largest is nearly the rate.
    """
    iterate, start, first = one_step_learner()
    for final, fractions in ((0.0, [1, 0.75, 0.5, 0.25]), (0.4, [1, 0.85, 0.7, 0.55])):
        hyper = Hyper(learning_rate=1e-3, final_learning_rate=final)
        for i, fraction in enumerate(fractions):
            state, _ = iterate(start, hyper, first._replace(progress=i / 4))
            moved = [
                np.abs(np.asarray(a - b)).max()
                for a, b in zip(
                    jax.tree.leaves(state.policy.params),
                    jax.tree.leaves(start.policy.params),
                    strict=True,
                )
            ]
            assert max(moved) == pytest.approx(1e-3 * fraction, rel=0.01)


def test_training_is_deterministic():
    first, second = (train(Drift(), TINY) for _ in range(2))
    for a, b in zip(jax.tree.leaves(first[1]), jax.tree.leaves(second[1]), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *(
            ({name: 0}, rf"{name} 0 is below 1: give one in 1 ")
            for name in ("steps", "num_envs", "unroll", "epochs", "minibatches")
        ),
        ({"steps": -5}, r"steps -5 is below 1"),
        ({"hidden": ()}, r"hidden is empty: give one or more"),
        ({"hidden": (8, 0)}, r"hidden 0 is below 1"),
        ({"init_log_std": float("nan")}, r"init_log_std nan is outside \[-10, 5\]"),
        ({"hyper": Hyper(gamma=1.0)}, r"gamma 1.0 is outside \[0, 1\)"),
        (
            {"minibatches": 7},
            r"num_envs \* unroll = 40 is not a multiple of minibatches 7: choose a divisor of 40",
        ),
        ({"activation": "rellu"}, r"unknown activation 'rellu': did you mean 'relu'"),
        ({"prune_unit": "step"}, r"unknown prune_unit 'step': choose from iteration, epoch"),
        ({"regulariser": "sgdl"}, r"unknown regulariser 'sgdl'.*did you mean 'sgld'"),
        ({"scope": Scope(min_weights=-2)}, r"min_weights -2 is below 0"),
    ],
    ids=lambda x: "-".join(map(str, x)) if isinstance(x, dict) else "",
)
def test_a_bad_setting_is_named_with_its_remedy(change, message):
    config = replace(TINY, **change)
    for call in (config.check, lambda: make_learner(config, Drift())):
        with pytest.raises(InputError, match=message):
            call()


def test_good_settings_pass():
    PPOConfig().check()
    TINY.check()
