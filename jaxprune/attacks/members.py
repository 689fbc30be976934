"""Attacks that have to be prepared, and the strongest of their members for every victim."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxprune.attacks import Attack, Victims
from jaxprune.attacks.base import lowest
from jaxprune.devices import take
from jaxprune.envs import EnvSpec
from jaxprune.types import Policy


class ChosenMembers(NamedTuple):
    """The member of an attack that every victim meets."""

    params: Any  # [N, ...], of the member that is used
    member: np.ndarray  # int [N], which one that is
    returns: np.ndarray  # [N, members], mean returns on the episodes it was chosen on


def blanks(attacks: Sequence[Attack], victim: Policy, spec: EnvSpec, count: int) -> tuple[Any, ...]:
    """Parameters of unprepared attacks for a population, `[count, ...]`, on the host.

    Args:
        attacks: in the order of the program.
        victim: one policy, or its shapes.
        spec: of the task.
        count: size of the population.
    """
    shapes = jax.eval_shape(lambda v: tuple(a.blank(v, spec) for a in attacks), victim)
    return jax.tree.map(lambda x: np.zeros((count, *x.shape), x.dtype), shapes)


def prepared(attack: Attack, victims: Victims) -> Any:
    """Parameters of all members, `[N, members, ...]`, on the host; blank ones of one member where
    there is nothing to prepare."""
    if attack.prepare is not None:
        return jax.device_get(attack.prepare(victims))
    one = jax.tree.map(lambda x: x[0], victims.policies)
    (params,) = blanks([attack], one, victims.env.spec, len(victims.cells.agent))
    return jax.tree.map(lambda x: x[:, None], params)


def choose(
    attack: Attack,
    params: Any,
    victims: Victims,
    play: Callable[[np.ndarray, Any], np.ndarray],
) -> ChosenMembers:
    """The attack with the member that leaves each victim the lowest mean return.

    The minimum of noisy means is too low on the episodes that picked it: choose on some, report
    others. A single member is no choice, and nothing is played.

    Args:
        attack: any.
        params: of all members, `[N, members, ...]`.
        victims: the population.
        play: (index of a victim `[n]`, parameters `[n, ...]`) -> mean returns `[n]`.
    """
    count = len(victims.cells.agent)
    best, returns = np.zeros(count, np.int32), np.full((count, attack.members), np.nan)
    if attack.members > 1:
        index = np.repeat(np.arange(count), attack.members)
        flat = jax.tree.map(lambda x: x.reshape(len(index), *x.shape[2:]), params)
        returns = play(index, flat).reshape(count, attack.members)
        best = lowest(returns).astype(np.int32)
    return ChosenMembers(take(params, (np.arange(count), best)), best, returns)
