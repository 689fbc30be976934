"""Whole episodes of a policy under an observation adversary.

One episode is a `while` loop that stops where the episode stops; `vmap` turns the condition into
"until the last lane is done", so nothing is computed past the longest episode of a batch.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from jaxprune.envs import Environment
from jaxprune.policy import action_distribution, normalise
from jaxprune.types import Array, Key, Policy

# (memory, key, victim, obs_norm [obs_size], eps []) -> (obs_norm', memory')
Perturb: TypeAlias = Callable[[Any, Key, Policy, Array, Array], tuple[Array, Any]]


class Episode(NamedTuple):
    """What is kept of one episode."""

    return_: Array  # [], undiscounted sum of the raw rewards
    length: Array  # int32 [], steps taken
    terminated: Array  # bool [], ended by the task; False: by the time limit
    diverged: Array  # bool [], ended because the simulator left the finite numbers
    distance: Array  # [], largest D between pi(.|s) and pi(.|s') that the adversary reached


def act(
    key: Key, victim: Policy, perturb: Perturb, memory: Any, obs: Array, eps: Array
) -> tuple[Array, Any, Array]:
    """The victim's deterministic action at a perturbed observation: (action, memory', D).

    The action is the mean, or the likeliest choice; D is how far the adversary moved the action
    distribution.

    Args:
        key: consumed.
        victim: the policy, already masked.
        perturb: the adversary's step.
        memory: what the adversary remembers.
        obs: raw observation `[obs_size]`.
        eps: radius of the ball in normalised units, `[]`.
    """
    obs_norm = normalise(victim, obs)
    seen, memory = perturb(memory, key, victim, obs_norm, eps)
    clean, attacked = (action_distribution(victim, x) for x in (obs_norm, seen))
    return attacked.mode(), memory, clean.distance(attacked)


def episode(
    key: Key,
    env: Environment,
    victim: Policy,
    perturb: Perturb,
    memory: Any,
    eps: Array,
) -> Episode:
    """One episode of the deterministic victim (mean or likeliest action), from a fresh reset.

    The reset depends on `key` alone: runs that share a key share the initial state, whatever the
    policy and the attack.

    Args:
        key: consumed.
        env: the task; its `horizon` bounds the episode.
        victim: the policy, already masked.
        perturb: the adversary's step.
        memory: what the adversary remembers at the start (`Attack.init`).
        eps: radius of the ball in normalised units, `[]`, may be traced.
    """
    key_reset, key_attack = jax.random.split(key)
    state, obs = env.reset(key_reset)
    zero = jnp.zeros((), obs.dtype)
    false = jnp.bool_(False)
    start = Episode(zero, jnp.int32(0), false, false, zero)

    def unfinished(carry):
        *_, done, _ = carry
        return ~done

    def step(carry):
        state, obs, memory, _, so_far = carry
        key_t = jax.random.fold_in(key_attack, so_far.length)
        action, memory, distance = act(key_t, victim, perturb, memory, obs, eps)
        state, after = env.step(state, action)
        so_far = Episode(
            return_=so_far.return_ + after.reward,
            length=so_far.length + 1,
            terminated=after.terminated,
            diverged=jnp.asarray(after.diverged),
            distance=jnp.maximum(so_far.distance, distance),
        )
        return state, after.obs, memory, after.terminated | after.truncated, so_far

    *_, result = jax.lax.while_loop(unfinished, step, (state, obs, memory, false, start))
    return result
