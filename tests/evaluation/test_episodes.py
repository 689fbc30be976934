"""The episodes of a population: every one as if it were played alone."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.attacks import Victims, make_attack
from jaxprune.cells import as_cells, masked_policy
from jaxprune.envs import make_env
from jaxprune.evaluation.episodes import EpisodeSet, episode_keys, turns
from jaxprune.evaluation.evaluator import Evaluator
from jaxprune.policy import init_policy
from jaxprune.pruning import prune
from jaxprune.rollout import Play, episode

KEY = jax.random.key(0)
CARTPOLE = make_env("cartpole")
# A step that is looked at in each of five episodes: one that is reached, or may be, or is not.
PLAY = Play(stochastic=True, gamma=np.float32(0.9), times=np.array([[0], [9], [12], [3], [10**6]]))
ATTACKS = ("random", "fixed")  # without a memory, and with one


@cache
def population():
    """Two agents with three masks each, and the six cells that these are."""
    make = lambda k: init_policy(k, 4, 2, discrete=True, hidden=(8,))  # noqa: E731
    policy = jax.jit(jax.vmap(make))(jax.random.split(KEY, 2))
    policy.params.actor["layer_1"]["kernel"] *= 100  # so that it acts on what it sees
    _, policies, cells = as_cells(
        *jax.device_get((policy, prune(policy, "random", [0.0, 0.5, 0.9])))
    )
    return jax.device_put(policies), jax.device_get(cells)


def test_turns_are_counted_cell_by_cell():
    found = turns(2, 3)
    np.testing.assert_array_equal(found.cell, [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(found.episode, [0, 1, 2, 0, 1, 2])
    assert found.cell.dtype == np.int32


@pytest.mark.parametrize("lanes", [2, 64])
@pytest.mark.parametrize("name", ATTACKS)
def test_episodes_are_those_that_would_be_played_alone(name, lanes):
    """Few lanes or more than there are episodes; of unequal lengths; by `rollout.episode`."""
    policies, cells = population()
    victims = Victims(CARTPOLE, policies, cells, 0.2, KEY, lanes=lanes)
    evaluator = Evaluator(CARTPOLE, ATTACKS)
    attack = make_attack(name)
    params = attack.blank(init_policy(KEY, 4, 2, discrete=True, hidden=(8,)), CARTPOLE.spec)
    every = jax.tree.map(lambda x: np.broadcast_to(x, (6, *np.shape(x))), params)
    episodes = EpisodeSet(KEY, PLAY.times)
    found = evaluator.play(name, victims, every, episodes, PLAY)
    assert found.visited.shape == (6, 5, 1, 4)
    assert len(np.unique(found.length)) > 5

    def alone(cell, key, times):
        key_episode, key_memory = jax.random.split(key)
        memory, perturb = attack.init(params, key_memory), partial(attack.perturb, params)
        victim, play = masked_policy(policies, cell), PLAY._replace(times=times)
        return episode(key_episode, CARTPOLE, victim, perturb, memory, jnp.float32(0.2), play)

    over_episodes = jax.vmap(alone, in_axes=(None, 0, 0))
    over_cells = jax.jit(jax.vmap(over_episodes, in_axes=(0, None, None)))
    expected = over_cells(cells, episode_keys(KEY, episodes.size), episodes.times)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_cell_does_not_depend_on_its_neighbours():
    """One cell alone, on two devices, plays what it plays among the others."""
    policies, cells = population()
    evaluator = Evaluator(CARTPOLE, ATTACKS)
    episodes = EpisodeSet(KEY, PLAY.times)
    every = Victims(CARTPOLE, policies, cells, 0.2, KEY)
    one = every._replace(cells=jax.tree.map(lambda x: x[4:5], cells))
    among, alone = (evaluator.play("random", v, (), episodes, PLAY) for v in (every, one))
    np.testing.assert_array_equal(among.length[4:5], alone.length)
    np.testing.assert_allclose(among.distance[4:5], alone.distance, rtol=1e-5)
