"""Adversaries that begin as an imitation of the strongest Robust Sarsa against their victim.

A fresh adversary finds what harms only by accident: its noise, drawn anew at every step, averages
out before a robust victim falls. A critic's gradient shows it at once, and what imitates it can
still learn what the critic does not know.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.attacks import sarsa
from jaxprune.attacks.action_value import Critic, descend
from jaxprune.attacks.base import Victims, lowest
from jaxprune.attacks.config import MADConfig, SarsaConfig
from jaxprune.attacks.imitation import fit
from jaxprune.attacks.robust_sarsa import grid
from jaxprune.attacks.training import Start
from jaxprune.cells import Cell, masked_policy
from jaxprune.devices import Mapped, map_population, take
from jaxprune.envs import Environment
from jaxprune.policy import action_distribution, normalise
from jaxprune.ppo.advantages import update_stats
from jaxprune.rollout import Transition, fresh_workers, rollout
from jaxprune.types import Array, Key, Policy

TRIALS = 8  # environments in which every critic is tried,
ENVS = 16  # those in which the strongest demonstrates,
LENGTH = 1024  # and the steps of each: a whole episode of most tasks
EPOCHS = 40  # passes over the demonstrations

# (victim, obs_norm, what it is shown instead, eps) -> the decision that would have shown it
Inverse: TypeAlias = Callable[[Policy, Array, Array, Array], Array]


class Teaching(NamedTuple):
    """What selects the programs. Hashable."""

    env: Environment
    mad: MADConfig
    stochastic: bool


class Shared(NamedTuple):
    """What all victims of a call have in common."""

    policies: Policy  # [agents]
    eps: Any  # []
    key: Key


class Trial(NamedTuple):
    """A critic of a victim."""

    cell: Cell
    critic: Critic


class Lesson(NamedTuple):
    """A victim, the strongest of its critics, and who imitates it."""

    cell: Cell
    critic: Critic
    pupils: Start  # [k]


def env_steps(config: SarsaConfig) -> int:
    """Simulator steps per victim: the critics' data, their trials, and the demonstrations."""
    return sarsa.env_steps(config) + (len(grid(config)) * TRIALS + ENVS) * LENGTH


def imitating(
    config: SarsaConfig, mad: MADConfig, inverse: Inverse, victims: Victims, pupils: Start
) -> Policy:
    """The pupils' policies after they have learned what the strongest critic does: `[N, k]`.

    Squared error of the mean decision at the true observations of episodes under that attack. The
    observation statistics become those of these episodes; critic and deviation stay as they are.

    Args:
        config: of Robust Sarsa, whose whole grid of critics is tried.
        mad: how the critics are descended.
        inverse: from perturbations to decisions.
        victims: the population; its key is consumed.
        pupils: `[k]`, the same for every victim.
    """
    key_train, key_try, key_show = jax.random.split(victims.key, 3)
    teaching = Teaching(victims.env, mad, victims.stochastic)
    critics = sarsa.train(config, victims._replace(key=key_train), grid(config))
    strongest = lowest(_tried(teaching, victims._replace(key=key_try), critics))
    count = len(strongest)
    everyone = np.tile(np.arange(len(pupils.key)), (count, 1))
    lessons = Lesson(
        victims.cells, take(critics, (np.arange(count), strongest)), take(pupils, everyone)
    )
    shared = Shared(victims.policies, np.float32(victims.eps), key_show)
    return map_population(_lesson_program(teaching, inverse), shared, lessons, ENVS, victims.lanes)


def _tried(teaching: Teaching, victims: Victims, critics: Critic) -> np.ndarray:
    """Mean return that every critic `[N, members]` leaves its victim, on the host."""
    count, members = jax.tree.leaves(critics)[0].shape[:2]
    victim, member = np.divmod(np.arange(count * members), members)
    trials = Trial(take(victims.cells, victim), take(critics, (victim, member)))
    shared = Shared(victims.policies, np.float32(victims.eps), victims.key)
    returns = map_population(_trial_program(teaching), shared, trials, TRIALS, victims.lanes)
    return returns.reshape(count, members)


@lru_cache(maxsize=16)
def _trial_program(teaching: Teaching) -> Mapped:
    """`(Shared, Trial) -> mean return`."""

    def attempt(shared: Shared, trial: Trial) -> Array:
        _, steps = _demonstration(teaching, shared, trial.cell, trial.critic, TRIALS)
        return jnp.mean(first_returns(steps))

    return Mapped(attempt)


@lru_cache(maxsize=16)
def _lesson_program(teaching: Teaching, inverse: Inverse) -> Mapped:
    """`(Shared, Lesson) -> Policy [k]`."""

    def teach(shared: Shared, lesson: Lesson) -> Policy:
        victim, steps = _demonstration(teaching, shared, lesson.cell, lesson.critic, ENVS)
        obs_norm = jax.vmap(jax.vmap(partial(normalise, victim)))(steps.obs)
        rows = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), (obs_norm, steps.seen))
        decisions = jax.vmap(lambda x, seen: inverse(victim, x, seen, shared.eps))(*rows)

        def learn(pupil: Start) -> Policy:
            stats = update_stats(pupil.policy.obs_stats, obs_norm)
            key = jax.random.fold_in(pupil.key, 1)  # its own are those of training
            return imitated(key, replace(pupil.policy, obs_stats=stats), rows[0], decisions)

        return jax.vmap(learn)(lesson.pupils)

    return Mapped(teach)


def imitated(key: Key, policy: Policy, obs_norm: Array, decisions: Array) -> Policy:
    """The policy whose mean comes close to the decisions, `[rows, ...]`. The key is consumed."""

    def with_actor(actor: Any) -> Policy:
        return replace(policy, params=policy.params._replace(actor=actor))

    def loss(actor: Any, row: tuple[Array, Array]) -> Array:
        x, decision = row
        pupil = with_actor(actor)
        return jnp.sum((action_distribution(pupil, normalise(pupil, x)).mode() - decision) ** 2)

    return with_actor(fit(key, policy.params.actor, loss, (obs_norm, decisions), EPOCHS))


def first_returns(steps: Transition) -> Array:
    """Of the first episode of every worker, or of what was seen of it: `[N]`."""
    done = steps.terminated | steps.truncated
    last = jnp.where(jnp.any(done, axis=0), jnp.argmax(done, axis=0), len(done) - 1)
    return jnp.take_along_axis(steps.episode_return, last[None], axis=0)[0]


def _demonstration(
    teaching: Teaching, shared: Shared, cell: Cell, critic: Critic, envs: int
) -> tuple[Policy, Transition]:
    """The victim, and its steps while the critic is descended: `Transition [LENGTH, envs]`."""
    victim = masked_policy(shared.policies, cell)
    key_reset, key_act = jax.random.split(shared.key)

    def perturb(key: Key, policy: Policy, obs_norm: Array) -> Array:
        return descend(teaching.mad, critic, key, policy, obs_norm, shared.eps)

    workers = fresh_workers(key_reset, teaching.env, envs)
    _, steps = rollout(
        key_act, teaching.env, victim, 1.0, workers, LENGTH, perturb, teaching.stochastic
    )
    return victim, steps
