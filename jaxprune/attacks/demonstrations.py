"""Adversaries that begin as an imitation of another attack, of its strongest member.

A fresh adversary finds what harms only by accident: its noise, drawn anew at every step, averages
out before a robust victim falls. The gradient of a critic shows it at once, and so does a search
for a direction; what imitates them can still learn what they do not know.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.attacks.base import Attack, Cost, Victims, lowest
from jaxprune.attacks.config import DirectorConfig, MADConfig, SarsaConfig
from jaxprune.attacks.director import MEMBERS, director
from jaxprune.attacks.imitation import fit
from jaxprune.attacks.robust_sarsa import grid, rs
from jaxprune.attacks.training import Start
from jaxprune.cells import Cell, masked_policy
from jaxprune.devices import Mapped, map_population, take
from jaxprune.envs import Environment
from jaxprune.policy import action_distribution, normalise
from jaxprune.ppo.advantages import update_stats
from jaxprune.rollout import Transition, fresh_workers, rollout
from jaxprune.types import AnyArray, Array, Key, Policy, PyTree

TRIALS = 8  # environments in which every member is tried,
ENVS = 16  # those in which the strongest demonstrates,
LENGTH = 1024  # and the steps of each: a whole episode of most tasks
EPOCHS = 40  # passes over the demonstrations

# (victim, obs_norm, what it is shown instead, eps) -> the decision that would have shown it
Inverse: TypeAlias = Callable[[Policy, Array, Array, Array], Array]


class Teacher(NamedTuple):
    """An attack without memory that has to be prepared, and how many members it has."""

    attack: Attack
    members: int

    @property
    def cost(self) -> Cost:
        """Returns what an imitation costs per victim: preparation, trials and demonstrations."""
        steps = (self.members * TRIALS + ENVS) * LENGTH
        prepared = self.attack.cost
        return Cost(env_steps=prepared.env_steps + steps, trials=prepared.trials)


@lru_cache(maxsize=16)  # equal settings are the same teachers, and select the same programs
def teachers(
    critics: SarsaConfig, mad: MADConfig, directors: DirectorConfig
) -> Mapping[str, Teacher]:
    """Returns who can be imitated, by the name of the start that does.

    Raises:
        InputError: settings that one of them could not honour.
    """
    return {
        "rs": Teacher(rs(critics, mad), len(grid(critics))),
        "director": Teacher(director(directors), MEMBERS),
    }


class Teaching(NamedTuple):
    """What selects the programs. Hashable."""

    env: Environment
    attack: Attack
    stochastic: bool


class Shared(NamedTuple):
    """What all victims of a call have in common."""

    policies: Policy  # [agents]
    eps: AnyArray  # []
    key: Key


class Trial(NamedTuple):
    """A member of a victim's teacher."""

    cell: Cell
    params: PyTree


class Lesson(NamedTuple):
    """A victim, the strongest member of its teacher, and who imitates it."""

    cell: Cell
    params: PyTree
    pupils: Start  # [k]


def imitating(teacher: Teacher, inverse: Inverse, victims: Victims, pupils: Start) -> Policy:
    """The pupils' policies after they have learned what the strongest member does: `[N, k]`.

    Squared error of the mean decision at the true observations of episodes under that attack. The
    observation statistics become those of these episodes; critic and deviation stay as they are.

    Args:
        teacher: whose members are all tried.
        inverse: from perturbations to decisions.
        victims: the population; its key is consumed.
        pupils: `[k]`, the same for every victim.
    """
    key_train, key_try, key_show = jax.random.split(victims.key, 3)
    teaching = Teaching(victims.env, teacher.attack, victims.stochastic)
    assert teacher.attack.prepare is not None
    members = teacher.attack.prepare(victims._replace(key=key_train))
    strongest = lowest(_tried(teaching, victims._replace(key=key_try), members))
    count = len(strongest)
    everyone = np.tile(np.arange(len(pupils.key)), (count, 1))
    lessons = Lesson(
        victims.cells, take(members, (np.arange(count), strongest)), take(pupils, everyone)
    )
    shared = Shared(victims.policies, np.float32(victims.eps), key_show)
    return map_population(_lesson_program(teaching, inverse), shared, lessons, ENVS, victims.lanes)


def _tried(teaching: Teaching, victims: Victims, params: PyTree) -> np.ndarray:
    """Mean return that every member `[N, members]` leaves its victim, on the host."""
    count, members = jax.tree.leaves(params)[0].shape[:2]
    victim, member = np.divmod(np.arange(count * members), members)
    trials = Trial(take(victims.cells, victim), take(params, (victim, member)))
    shared = Shared(victims.policies, np.float32(victims.eps), victims.key)
    returns = map_population(_trial_program(teaching), shared, trials, TRIALS, victims.lanes)
    return returns.reshape(count, members)


@lru_cache(maxsize=16)
def _trial_program(teaching: Teaching) -> Mapped:
    """`(Shared, Trial) -> mean return`."""

    def attempt(shared: Shared, trial: Trial) -> Array:
        _, steps = _demonstration(teaching, shared, trial.cell, trial.params, TRIALS)
        return jnp.mean(first_returns(steps))

    return Mapped(attempt)


@lru_cache(maxsize=16)
def _lesson_program(teaching: Teaching, inverse: Inverse) -> Mapped:
    """`(Shared, Lesson) -> Policy [k]`."""

    def teach(shared: Shared, lesson: Lesson) -> Policy:
        victim, steps = _demonstration(teaching, shared, lesson.cell, lesson.params, ENVS)
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

    def with_actor(actor: PyTree) -> Policy:
        return replace(policy, params=policy.params._replace(actor=actor))

    def loss(actor: PyTree, row: tuple[Array, Array]) -> Array:
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
    teaching: Teaching, shared: Shared, cell: Cell, params: PyTree, envs: int
) -> tuple[Policy, Transition]:
    """The victim, and its steps under the attack: `Transition [LENGTH, envs]`."""
    victim = masked_policy(shared.policies, cell)
    key_reset, key_act = jax.random.split(shared.key)

    def perturb(key: Key, policy: Policy, obs_norm: Array) -> Array:
        return teaching.attack.perturb(params, (), key, policy, obs_norm, shared.eps)[0]

    workers = fresh_workers(key_reset, teaching.env, envs)
    _, steps = rollout(
        key_act, teaching.env, victim, 1.0, workers, LENGTH, perturb, teaching.stochastic
    )
    return victim, steps
