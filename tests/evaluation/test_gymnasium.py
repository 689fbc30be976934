"""Policies and attacks of ours in Gymnasium's own environments."""

import gymnasium
import jax
import numpy as np
import pytest

import jaxprune
from jaxprune.evaluation import evaluate_in_gymnasium
from jaxprune.policy import init_policy
from jaxprune.policy_io import numpy_policy
from jaxprune.validation import InputError

EPISODES = 3


def cartpole():
    return gymnasium.make("CartPole-v1", disable_env_checker=True)


def untrained(env, scale=1.0):
    """A policy with larger outputs than fresh ones have, so that attacks find something to move."""
    spec = env.spec
    policy = init_policy(
        jax.random.key(1), spec.obs_size, spec.action_size, discrete=spec.discrete, hidden=(8,)
    )
    return jax.tree.map(lambda x: scale * x, policy)


@pytest.fixture(scope="module")
def env():
    return jaxprune.make_env("cartpole")


@pytest.fixture(scope="module")
def policy(env):
    return untrained(env, scale=20.0)


def by_hand(policy, seed):
    """Return and length of one clean episode, stepped as the documentation shows."""
    act, simulator = numpy_policy(policy), cartpole()
    obs, _ = simulator.reset(seed=seed)
    total, length, done = 0.0, 0, False
    while not done:
        obs, reward, terminated, truncated, _ = simulator.step(act(np.float32(obs)))
        total, length, done = total + float(reward), length + 1, terminated or truncated
    return total, length, terminated


def test_clean_episodes_are_those_of_a_loop_by_hand(env, policy):
    table = evaluate_in_gymnasium(cartpole, env, policy, episodes=EPISODES)
    expected = [by_hand(policy, seed) for seed in range(EPISODES)]
    rows = zip(table["return"], table["length"], table["terminated"], strict=True)
    assert list(rows) == expected
    assert (table["distance"] == 0).all()


def test_an_attack_moves_the_policy_and_zero_radius_does_not(env, policy):
    def run(**kwargs):
        return evaluate_in_gymnasium(cartpole, env, policy, episodes=EPISODES, **kwargs)

    clean, attacked = run(), run(attack="mad", eps=0.5)
    assert (attacked["distance"] > 0).all()
    for name, column in run(attack="random", eps=0.0).items():
        np.testing.assert_array_equal(column, clean[name])
    for name, column in run(attack="mad", eps=0.5).items():
        np.testing.assert_array_equal(column, attacked[name])


def test_random_numbers_follow_the_key(env, policy):
    distances = [
        evaluate_in_gymnasium(
            cartpole, env, policy, attack="random", eps=0.3, episodes=2, key=jax.random.key(seed)
        )["distance"]
        for seed in (0, 1)
    ]
    assert (distances[0] != distances[1]).all()


def test_masks_are_folded_in(env, policy):
    masks = jaxprune.prune(policy, method="magnitude", sparsity=0.5)
    table = evaluate_in_gymnasium(cartpole, env, policy, masks, episodes=2)
    pruned = evaluate_in_gymnasium(cartpole, env, jaxprune.mask_policy(policy, masks), episodes=2)
    np.testing.assert_array_equal(table["return"], pruned["return"])


def test_continuous_actions_reach_the_simulator():
    env = jaxprune.make_env("pendulum")

    def make():
        return gymnasium.make("Pendulum-v1", disable_env_checker=True)

    table = evaluate_in_gymnasium(make, env, untrained(env), episodes=2)
    assert (table["length"] == env.spec.horizon).all()
    assert not table["terminated"].any()
    assert (table["return"] < 0).all()


def test_another_task_is_refused(env, policy):
    def make():
        return gymnasium.make("Pendulum-v1", disable_env_checker=True)

    with pytest.raises(InputError, match="shows 3 numbers, 'cartpole' 4"):
        evaluate_in_gymnasium(make, env, policy)
    with pytest.raises(InputError, match="maps 4 observations"):
        evaluate_in_gymnasium(make, jaxprune.make_env("pendulum"), policy)
