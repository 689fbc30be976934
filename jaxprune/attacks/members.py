"""Attacks that have to be prepared, and the strongest of their members for every victim."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from jaxprune.attacks import Attack, Victims
from jaxprune.attacks.base import ranked
from jaxprune.attacks.config import SelectionConfig
from jaxprune.devices import take
from jaxprune.envs import EnvSpec
from jaxprune.types import Policy, PyTree


class ChosenMembers(NamedTuple):
    """The member of an attack that every victim meets."""

    params: PyTree  # [N, ...], of the member that is used
    member: np.ndarray  # int [N], which one that is
    returns: np.ndarray  # [N, members], mean returns on the episodes of the choice that each played


def blanks(
    attacks: Sequence[Attack], victim: Policy, spec: EnvSpec, count: int
) -> tuple[PyTree, ...]:
    """Parameters of unprepared attacks for a population, `[count, ...]`, on the host.

    Args:
        attacks: in the order of the program.
        victim: one policy, or its shapes.
        spec: of the task.
        count: size of the population.
    """
    shapes = jax.eval_shape(lambda v: tuple(a.blank(v, spec) for a in attacks), victim)
    return jax.tree.map(lambda x: np.zeros((count, *x.shape), x.dtype), shapes)


def prepared(attack: Attack, victims: Victims) -> PyTree:
    """Parameters of all members, `[N, members, ...]`, on the host; blank ones of one member where
    there is nothing to prepare."""
    if attack.prepare is not None:
        return jax.device_get(attack.prepare(victims))
    one = jax.tree.map(lambda x: x[0], victims.policies)
    (params,) = blanks([attack], one, victims.env.spec, len(victims.cells.agent))
    return jax.tree.map(lambda x: x[:, None], params)


def choose(
    config: SelectionConfig,
    shape: tuple[int, int],
    params: PyTree,
    play: Callable[[int, np.ndarray, PyTree], np.ndarray],
) -> ChosenMembers:
    """Chooses the member that leaves each victim the lowest mean return, in several rounds.

    Those with the lowest mean so far play the next round, too. The minimum of noisy means is too
    low on the episodes that picked it: choose on some, report others. A single member is no choice,
    and nothing is played.

    Args:
        config: of the rounds.
        shape: (N, members).
        params: of all members, `[N, members, ...]`.
        play: (round, index of a victim `[n]`, parameters `[n, ...]`) -> returns `[n, episodes]`.

    Source: successive halving, Jamieson and Talwalkar 2016 (arXiv 1502.07943).
    """
    count, members = shape
    everyone = np.arange(count)
    if members == 1:
        best, returns = np.zeros(count, np.int32), np.full((count, 1), np.nan)
        return ChosenMembers(take(params, (everyone, best)), best, returns)
    row, alive = everyone[:, None], np.tile(np.arange(members), (count, 1))
    total, played = np.zeros(shape), np.zeros(shape)
    for turn, few in enumerate(config.playing(members)):
        alive = _best(total, played, alive, few)
        victim = np.repeat(everyone, few)
        found = play(turn, victim, take(params, (victim, alive.ravel())))
        total[row, alive] += found.sum(-1).reshape(alive.shape)
        played[row, alive] += found.shape[-1]
    best = _best(total, played, alive, 1)[:, 0].astype(np.int32)
    return ChosenMembers(take(params, (everyone, best)), best, total / played)


def _best(total: np.ndarray, played: np.ndarray, alive: np.ndarray, few: int) -> np.ndarray:
    """Returns the few of those alive with the lowest means, `[N, few]`; all before a first play."""
    if few == alive.shape[1]:
        return alive
    row = np.arange(len(alive))[:, None]
    mean = total[row, alive] / played[row, alive]
    return alive[row, ranked(mean)[:, :few]]
