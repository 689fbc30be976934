"""One episode under an adversary: analytic returns, neutral attacks, shared initial states."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.attacks import make_attack
from jaxprune.envs import Environment, make_env
from jaxprune.policy import action_distribution, normalise
from jaxprune.rollout import Episode, Play, episode
from jaxprune.types import ObsStats, Policy
from tests.policies import drawn_policy
from tests.probes import (
    WHERE,
    Breakdown,
    ConstantReward,
    DelayedReward,
    Drift,
    ObservationReward,
    Treadmill,
)


def policy_for(env: Environment, seed: int = 0, scale: float = 100.0) -> Policy:
    """A policy whose last kernel is large enough that its actions depend on the observation."""
    spec = env.spec
    sizes = spec.obs_size, spec.action_size, (8, 8)
    policy = drawn_policy(*sizes, discrete=spec.discrete, seed=seed)
    policy.params.actor["layer_2"]["kernel"][:] *= scale / 100
    mean, std = np.full((2, spec.obs_size), [[0.02], [0.5]], "float32")
    return replace(policy, obs_stats=ObsStats(mean, std, np.asarray(100.0, "float32")))


def unperturbed(memory, key, victim, obs_norm, eps, moment):
    return obs_norm, memory


@cache
def program(env, perturb):
    """`(key, policy, memory, eps, options of Play) -> Episode`, compiled."""

    def one(key, policy, memory, eps, play):
        return episode(key, env, policy, perturb, memory, eps, Play(**play))

    return jax.jit(one)


def run(env, policy, perturb=unperturbed, memory=(), eps=0.0, seed=0, **play) -> Episode:
    return program(env, perturb)(jax.random.key(seed), policy, memory, jnp.float32(eps), play)


@cache
def attacked_program(env, attack: str):
    """`(seeds, policy, eps) -> Episode`, compiled."""
    member = make_attack(attack)

    def one(seed, policy, eps):
        key = jax.random.key(seed)
        memory = member.init((), key)
        return episode(key, env, policy, partial(member.perturb, ()), memory, eps)

    return jax.jit(jax.vmap(one, (0, None, None)))


def attacked(env, policy, attack: str, eps: float, seeds=range(4)) -> Episode:
    """Episodes `[seeds]` under a named attack."""
    return attacked_program(env, attack)(np.arange(len(seeds)), policy, jnp.float32(eps))


# --- analytic probes


@pytest.mark.parametrize(
    ("env", "return_", "length", "terminated"),
    [
        (ConstantReward(), 1.0, 1, True),
        (DelayedReward(), 1.0, 2, True),
        (Treadmill(terminates=True, length=7), 7.0, 7, True),
        (Treadmill(terminates=False, length=7), 7.0, 7, False),
    ],
    ids=["constant", "delayed", "terminates", "truncates"],
)
def test_return_length_and_ending_of_the_probes(env, return_, length, terminated):
    result = run(env, policy_for(env))
    assert float(result.return_) == return_
    assert int(result.length) == length
    assert bool(result.terminated) is terminated
    assert float(result.distance) == 0.0
    assert result.length.dtype == jnp.int32
    assert not bool(result.diverged)
    assert [x.shape for x in result[:6]] == [()] * 6
    assert result.visited.shape == (0, env.spec.obs_size) and result.earned.shape == (0,)


def test_the_discounted_return():
    """1 + g + ... + g^6 on the treadmill; 0 + g on the delayed reward; gamma 0 keeps the first."""
    env = Treadmill(terminates=True, length=7)
    for gamma in (0.0, 0.5, 1.0):
        walk = run(env, policy_for(env), gamma=gamma)
        assert float(walk.discounted) == pytest.approx(sum(gamma**t for t in range(7)))
        assert float(walk.return_) == 7.0
    env = DelayedReward()
    late = run(env, policy_for(env), gamma=0.5)
    assert float(late.discounted) == 0.5


def test_steps_that_are_kept():
    """Observations before the action and the rewards after it, at the steps asked for, in order."""
    env = Drift(length=6)
    policy = policy_for(env)
    every = run(env, policy, times=np.arange(8))
    assert np.all(np.asarray(every.visited[:6]).any(-1)) and not np.asarray(every.visited[6:]).any()
    assert float(every.earned[:6].sum()) == pytest.approx(float(every.return_), rel=1e-6)
    assert not np.asarray(every.earned[6:]).any()
    _, obs = env.reset(jax.random.split(jax.random.key(0))[0])
    np.testing.assert_array_equal(every.visited[0], obs)
    some = run(env, policy, times=np.array([4, 1, 1, 99]))
    np.testing.assert_array_equal(some.visited[:3], every.visited[jnp.array([4, 1, 1])])
    np.testing.assert_array_equal(some.earned[:3], every.earned[jnp.array([4, 1, 1])])
    assert not np.asarray(some.visited[3]).any()
    assert float(some.return_) == float(every.return_)


def test_the_stochastic_victim_draws_its_actions():
    env = Drift(length=6)
    quiet = policy_for(env)
    quiet = replace(quiet, params=quiet.params._replace(log_std=jnp.full(2, -20.0)))
    loud = replace(quiet, params=quiet.params._replace(log_std=jnp.full(2, 0.0)))
    mean = float(run(env, quiet).return_)
    assert float(run(env, quiet, stochastic=True).return_) == pytest.approx(mean, rel=1e-5)
    drawn = [float(run(env, loud, stochastic=True, seed=0).return_) for _ in range(2)]
    assert drawn[0] == drawn[1] != pytest.approx(mean, rel=1e-3)


def test_noise_smooths_what_the_victim_sees_and_not_what_is_measured():
    env = Drift(length=6)
    policy = policy_for(env)
    clean, still, noisy = (run(env, policy, noise=s) for s in (0.0, 1e-9, 0.5))
    assert float(still.return_) == pytest.approx(float(clean.return_), rel=1e-5)
    assert float(noisy.return_) != pytest.approx(float(clean.return_), rel=1e-3)
    assert float(noisy.distance) == 0.0
    draws = [float(run(env, policy, noise=0.5, seed=s).return_) for s in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_lanes_that_end_early_are_frozen():
    """A vmapped `while` runs to its longest lane: lane i falls where it falls alone."""
    env = make_env("cartpole")
    policy = policy_for(env)
    together = jax.vmap(lambda s: run(env, policy, seed=s))(jnp.arange(6))
    alone = [run(env, policy, seed=s) for s in range(6)]
    assert len(set(together.length.tolist())) > 1
    assert together.length.tolist() == [int(x.length) for x in alone]
    assert together.return_.tolist() == [float(x.return_) for x in alone]
    assert together.terminated.all()


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize("where", WHERE)
def test_a_simulator_that_breaks_ends_its_own_episode(where, broken):
    """Step 3 of 5 breaks in some lanes: 1 + 1 + 0 there, and 5 in the lanes beside them."""
    env = Breakdown(where, broken)
    policy = policy_for(env)
    together = jax.vmap(lambda s: run(env, policy, seed=s))(jnp.arange(8))
    alone = [run(env, policy, seed=s) for s in range(8)]
    diverged = np.asarray(together.diverged)
    assert 0 < diverged.sum() < 8
    assert together.return_.tolist() == np.where(diverged, 2.0, 5.0).tolist()
    assert together.length.tolist() == np.where(diverged, 3, 5).tolist()
    assert np.array_equal(together.terminated, diverged)
    for ours, each in zip(together, zip(*alone, strict=True), strict=True):
        assert ours.tolist() == [x.tolist() for x in each]


def test_a_break_at_the_time_limit_is_a_break():
    """Nothing can be earned after it, so it terminates; the last step earns 0."""
    env = Breakdown(at=5)
    result = jax.vmap(lambda s: run(env, policy_for(env), seed=s))(jnp.arange(8))
    diverged = np.asarray(result.diverged)
    assert 0 < diverged.sum() < 8
    assert result.return_.tolist() == np.where(diverged, 4.0, 5.0).tolist()
    assert result.length.tolist() == [5] * 8
    assert np.array_equal(result.terminated, diverged)


def test_an_episode_is_the_loop_of_its_definition():
    """Reset, then normalise, act with the mean, step; in Python, on the drifting probe."""
    env = Drift(length=6)
    policy = policy_for(env)
    key = jax.random.key(5)
    state, obs = env.reset(jax.random.split(key)[0])
    total = 0.0
    for _ in range(6):
        action = action_distribution(policy, normalise(policy, obs)).mode()
        state, after = env.step(state, action)
        obs, total = after.obs, total + float(after.reward)
    result = run(env, policy, seed=5)
    assert float(result.return_) == pytest.approx(total, rel=1e-5)
    assert int(result.length) == 6


def test_the_victim_is_deterministic_and_log_std_does_not_matter_to_its_actions():
    env = Drift()
    policy = policy_for(env)
    loud = replace(policy, params=policy.params._replace(log_std=jnp.full(2, 3.0)))
    assert float(run(env, policy).return_) == float(run(env, loud).return_)


# --- adversaries


@pytest.mark.parametrize("attack", ["none", "random", "mad"])
@pytest.mark.parametrize("env", [make_env("cartpole"), Drift()], ids=["cartpole", "drift"])
def test_no_radius_is_no_attack(env, attack):
    """eps = 0: the clean return, length and ending bit for bit, and no distance."""
    policy = policy_for(env)
    clean = attacked(env, policy, "none", 0.3)
    result = attacked(env, policy, attack, 0.0)
    for ours, expected in zip(result[:3], clean[:3], strict=True):
        assert np.array_equal(ours, expected)
    assert np.all(result.distance == 0.0)


def test_the_neutral_attack_ignores_eps_and_changes_no_bit():
    env = Drift()
    policy = policy_for(env)
    result = attacked(env, policy, "none", 0.3)
    clean = jax.jit(jax.vmap(lambda s: run(env, policy, seed=s)))(jnp.arange(4))
    for ours, expected in zip(result, clean, strict=True):
        assert np.array_equal(ours, expected)


@pytest.mark.parametrize("attack", ["random", "mad"])
def test_an_attack_changes_the_actions(attack):
    """Otherwise the tests above would pass for attacks that do nothing."""
    env = Drift()
    policy = policy_for(env)
    result = attacked(env, policy, attack, 0.3)
    assert np.all(result.distance > 1e-3)
    assert np.all(result.return_ != attacked(env, policy, "none", 0.3).return_)


def test_distance_is_between_the_clean_and_the_perturbed_distribution():
    """The treadmill's observation is constant, so D of x + eps is the same at every step."""
    env = Treadmill(terminates=False, length=3)
    policy = policy_for(env)
    x = normalise(policy, jnp.ones(1))
    expected = action_distribution(policy, x).distance(action_distribution(policy, x + 0.25))
    result = run(env, policy, lambda m, k, v, obs_norm, eps, _: (obs_norm + eps, m), eps=0.25)
    assert float(expected) > 0.01
    assert float(result.distance) == pytest.approx(float(expected), rel=1e-5)


def test_the_adversary_remembers_and_the_largest_distance_is_kept():
    """Memory counts 0, 1, 2, 1, ...: the shift eps * memory is largest at the third of 5 steps."""
    env = Treadmill(terminates=False, length=5)
    policy = policy_for(env)

    def perturb(step, key, victim, obs_norm, eps, moment):
        return obs_norm + eps * jnp.array([0.0, 1.0, 2.0, 1.0, 0.0])[step], step + 1

    x = normalise(policy, jnp.ones(1))
    d = [
        float(action_distribution(policy, x).distance(action_distribution(policy, x + 0.1 * n)))
        for n in range(3)
    ]
    assert d[2] > d[1] > d[0]
    result = run(env, policy, perturb, memory=jnp.int32(0), eps=0.1)
    assert float(result.distance) == pytest.approx(d[2], rel=1e-5)


def test_the_adversary_sees_the_normalised_observation():
    """(1 - 0.02) / 0.5 = 1.96; a perturbation that removes it is undone nowhere."""
    env = Treadmill(terminates=False, length=2)
    policy = policy_for(env)
    expected = action_distribution(policy, jnp.full(1, 1.96)).distance(
        action_distribution(policy, jnp.zeros(1))
    )
    result = run(env, policy, lambda m, k, v, obs_norm, eps, _: (obs_norm - 1.96, m))
    assert float(result.distance) == pytest.approx(float(expected), rel=1e-5)


def test_the_simulator_moves_on_from_the_true_state():
    """Actions do nothing on the treadmill, so an absurd perturbation costs nothing."""
    env = Treadmill(terminates=False, length=3)
    result = run(env, policy_for(env), lambda m, k, v, obs_norm, eps, _: (obs_norm + 1e3, m))
    assert float(result.return_) == 3.0
    assert float(result.distance) > 0.0


def test_the_adversary_has_a_fresh_key_at_every_step():
    """Memory collects the draws; a repeated key would make the largest equal the smallest."""
    env = Treadmill(terminates=False, length=4)

    def perturb(memory, key, victim, obs_norm, eps, moment):
        low, high = memory
        draw = jax.random.uniform(key)
        low, high = jnp.minimum(low, draw), jnp.maximum(high, draw)
        return obs_norm + (high - low), (low, high)

    memory = (jnp.float32(1.0), jnp.float32(0.0))
    assert float(run(env, policy_for(env), perturb, memory).distance) > 0.0


def test_the_initial_state_depends_on_the_key_alone():
    """This probe's return is its initial observation: the same for all policies and attacks."""
    env = ObservationReward()
    seeds = range(16)
    returns = [
        attacked(env, policy_for(env, seed=policy), attack, 0.5, seeds).return_
        for policy in range(2)
        for attack in ("none", "random", "mad")
    ]
    assert set(np.unique(returns[0])) == {-1.0, 1.0}
    for other in returns[1:]:
        assert np.array_equal(other, returns[0])
