"""What an adversary is, the one that does nothing, and how several share one program.

The adversary replaces the normalised observation x by some x' with ||x' - x||_inf <= eps before
the policy acts (SA-MDP, Zhang et al. 2020); the simulator always moves on from the true state.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from jaxprune.envs import Environment
from jaxprune.types import Array, Key, Policy


class Attack(NamedTuple):
    """An adversary as three pure functions. Members of the family are made by factories."""

    prepare: Callable[[Key, Policy, Environment], Any]
    """Once per victim: trains what the attack needs and returns its parameters."""
    init: Callable[[Any, Key], Any]
    """(parameters, key) -> what the attack remembers, at the start of every episode."""
    perturb: Callable[[Any, Any, Key, Policy, Array, Array], tuple[Array, Any]]
    """(parameters, memory, key, victim, obs_norm [obs_size], eps []) -> (obs_norm', memory')."""


def memoryless(perturb: Callable[[Key, Policy, Array, Array], Array]) -> Attack:
    """An attack without parameters or memory, from (key, victim, obs_norm, eps) -> obs_norm'."""

    def with_memory(params, memory, key, victim, obs_norm, eps):
        del params  # there are none
        return perturb(key, victim, obs_norm, eps), memory

    return Attack(lambda *_: (), lambda *_: (), with_memory)


def none() -> Attack:
    """No attack: the observation passes, bit for bit."""
    return memoryless(lambda key, victim, obs_norm, eps: obs_norm)


def one_of(attacks: Sequence[Attack], index: Array) -> Attack:
    """The attack number `index`, a traced integer: one compiled program runs them all.

    Keep `index` out of every `vmap`, or each step computes all the attacks and discards the rest.
    """

    def prepare(key, victim, env):
        return tuple(attack.prepare(key, victim, env) for attack in attacks)

    def init(params, key):
        return tuple(a.init(p, key) for a, p in zip(attacks, params, strict=True))

    def branch(i):
        def perturb(params, memory, key, victim, obs_norm, eps):
            obs_norm, mine = attacks[i].perturb(params[i], memory[i], key, victim, obs_norm, eps)
            return obs_norm, (*memory[:i], mine, *memory[i + 1 :])

        return perturb

    def perturb(*args):
        return jax.lax.switch(index, [branch(i) for i in range(len(attacks))], *args)

    return Attack(prepare, init, perturb)
