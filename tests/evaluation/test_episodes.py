"""Episodes are dealt to as many items as keep the devices busy, and come back in order."""

import jax
import numpy as np
import pytest

from jaxprune.attacks import Victims
from jaxprune.cells import as_cells
from jaxprune.evaluation.episodes import episode_keys, split
from jaxprune.evaluation.evaluator import Evaluator, dealt_out
from jaxprune.policy import init_policy
from jaxprune.rollout import Episode, Play
from tests.probes import Drift

KEY = jax.random.key(0)


def parts_of(episodes: int, cells: int, lanes: int = 64):
    times = np.arange(episodes * 2, dtype=np.int32).reshape(episodes, 2)
    return split(episode_keys(KEY, episodes), times, cells, lanes)


@pytest.mark.parametrize(
    ("episodes", "cells", "groups"),
    [
        (8, 2, 1),  # two devices, two cells
        (8, 1, 2),  # one cell, cut in two
        (9, 1, 3),  # by a divisor
        (128, 10, 2),  # more than 64 lanes
        (130, 10, 5),
        (7, 1, 7),  # a prime number of episodes: one each
        (1, 1, 1),
    ],
)
def test_as_few_parts_as_fit_the_lanes_and_fill_the_devices(episodes, cells, groups):
    parts = parts_of(episodes, cells)
    assert parts.groups == groups
    assert parts.keys.shape == (groups, episodes // groups)


def test_items_are_counted_cell_by_cell_and_joined_again():
    parts = parts_of(6, 1)
    _, _, cells = as_cells(init_policy(KEY, 2, 2), None)
    cells = jax.tree.map(lambda x: np.repeat(np.asarray(x), 3), cells)._replace(
        agent=np.array([10, 11, 12])
    )
    turns = parts.turns(cells, (np.array([0.0, 0.1, 0.2]),), np.arange(6))
    np.testing.assert_array_equal(turns.cell.agent, [10, 10, 11, 11, 12, 12])
    np.testing.assert_allclose(turns.params[0], [0.0, 0.0, 0.1, 0.1, 0.2, 0.2])
    assert turns.times.shape == (6, 3, 2) and turns.times[1, 0, 0] == 6
    returns = np.arange(18).reshape(6, 3)
    episodes = Episode(*([returns] * 6), np.zeros((6, 3, 0, 2)), returns)
    joined = parts.joined(episodes)
    np.testing.assert_array_equal(joined.return_, np.arange(18).reshape(3, 6))
    assert joined.visited.shape == (3, 6, 0, 2)


def test_the_parts_change_nothing():
    """Few lanes, many lanes: the same episodes in the same order."""
    policies = jax.vmap(lambda k: init_policy(k, 2, 2))(jax.random.split(KEY, 2))
    _, flat, cells = as_cells(*jax.device_get((policies, None)))
    play = Play(times=np.zeros((6, 0), np.int32))
    evaluator = Evaluator(Drift(), ("random",))

    def played(lanes: int):
        victims = Victims(Drift(), flat, cells, 0.1, KEY, lanes=lanes)
        return evaluator.play("random", victims, (), dealt_out(KEY, victims, play), play)

    few, many = played(2), played(64)
    np.testing.assert_allclose(few.return_, many.return_, rtol=1e-5)
    assert few.return_.shape == (2, 6)
