"""The episodes of a population: one program for all cells, attacks and radii.

A *cell* is one policy with one mask. Its episodes wait in a queue with those of all other cells: a
policy that falls at once makes room for the next, and no lane waits for the longest episode.
"""

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.attacks import Attack, AttackConfig, make_attack, one_of
from jaxprune.cells import Cell, masked_policy
from jaxprune.devices import Mapped, map_evenly, take
from jaxprune.envs import Environment
from jaxprune.policy import HEADS, action_box
from jaxprune.queue import Loop, in_queue
from jaxprune.rollout import Episode, Play, Running, begin, proceed
from jaxprune.types import AnyArray, Array, Key, Policy, PyTree
from jaxprune.validation import InputError

# Whether actions are drawn, by the name of the victim.
VICTIMS = {"deterministic": False, "stochastic": True}
# Environments that are reset at a time.
RESETS = 64
# The time of a step that no episode has.
NEVER = -1


def episode_columns(result: Episode) -> dict[str, AnyArray]:
    """One number per episode, by the names of the tables."""
    columns = {"return": result.return_, "return_discounted": result.discounted}
    names = ("length", "terminated", "diverged", "distance")
    return columns | {name: getattr(result, name) for name in names}


def check_evaluation(
    env: Environment, policy: Policy, eps: float, stochastic: bool = False
) -> None:
    """Raises `InputError` unless the policy fits the task, and the ball what the policy sees.

    Args:
        env: the task.
        policy: leading axes are agents.
        eps: radius of the ball in normalised units.
        stochastic: whether its actions are drawn.
    """
    spec = env.spec
    kernels = [policy.params.actor[f"layer_{i}"]["kernel"] for i in range(len(policy.params.actor))]
    kind = "categorical" if HEADS[policy.distribution].discrete else "normal"
    has = (kernels[0].shape[-2], kernels[-1].shape[-1], kind)
    wants = (spec.obs_size, spec.action_size, "categorical" if spec.discrete else "normal")
    if has != wants:
        raise InputError(
            f"the policy maps {has[0]} observations to {has[1]} outputs ({has[2]}), but env "
            f"{spec.name!r} needs {wants[0]} to {wants[1]} ({wants[2]}): choose the env that the "
            "policy was trained on"
        )
    if stochastic and not HEADS[policy.distribution].stochastic:
        raise InputError(
            "victim 'stochastic' draws actions, and this policy has no deviation that is known "
            "here: choose 'deterministic'"
        )
    action_box(policy, spec.action_box)  # known, if it is needed
    if eps > policy.obs_clip:
        raise InputError(
            f"eps {eps:g} is larger than the range that the policy clips observations to, "
            f"+-{policy.obs_clip:g}: give a radius in normalised units"
        )


@partial(jax.jit, static_argnums=1)
def episode_keys(key: Key, episodes: int) -> Array:
    """One key per episode number, the same for every cell: comparisons are paired."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(episodes))


class EpisodeSet(NamedTuple):
    """The episodes that every cell plays, by number."""

    key: Key  # [], of which each has its own, see `episode_keys`
    times: AnyArray  # int [E, k], at which steps each is looked at

    @property
    def size(self) -> int:
        """How many there are."""
        return len(self.times)


def choosing_sets(key: Key, rounds: Sequence[int], kept: int) -> list[EpisodeSet]:
    """Returns the episodes of every round of a choice; of none an observation is kept.

    Args:
        key: consumed.
        rounds: episodes of each.
        kept: how many times of a reported episode are looked at.
    """
    return [
        EpisodeSet(jax.random.fold_in(key, i), np.full((episodes, kept), NEVER, np.int32))
        for i, episodes in enumerate(rounds)
    ]


class Shared(NamedTuple):
    """What all episodes of a call have in common."""

    policies: Policy  # [agents]
    cells: Cell  # [N]
    params: tuple[PyTree, ...]  # [N], of one member of every attack, prepared or blank
    episodes: EpisodeSet
    attack: AnyArray  # int [], which of the program's attacks
    eps: AnyArray  # []
    play: Play  # its `times` are those of the episode


class Turn(NamedTuple):
    """One episode of one cell."""

    cell: AnyArray  # int []
    episode: AnyArray  # int []


def turns(cells: int, episodes: int) -> Turn:
    """Returns all episodes of all cells `[cells * episodes]`, cell by cell."""
    return Turn(*(np.ravel(x).astype(np.int32) for x in np.indices((cells, episodes))))


def timeless(play: Play) -> Play:
    """How to play, without the steps to look at: these come with every episode."""
    return play._replace(times=None)


@lru_cache(maxsize=16)
def cell_program(
    env: Environment, attacks: tuple[str | Attack, ...], config: AttackConfig
) -> Mapped:
    """`(Shared, Queued Turns) -> Episode`, see `jaxprune.queue`.

    All attacks are branches of one program; `Shared.attack` picks one at run time.
    """
    members = [make_attack(attack, config) for attack in attacks]

    def make(shared: Shared) -> Loop:
        return episode_loop(env, one_of(members, shared.attack), shared)

    return Mapped(make, in_queue)


def episode_loop(env: Environment, attack: Attack, shared: Shared) -> Loop:
    """Returns `jaxprune.rollout.episode` for a `Turn`.

    A reset can cost as much as a step, and episodes start alike in all cells: each is reset once.
    """
    keys = episode_keys(shared.episodes.key, shared.episodes.size)
    keys, keys_memory = jnp.unstack(jax.vmap(jax.random.split)(keys), axis=1)
    keys_reset, keys_steps = jnp.unstack(jax.vmap(jax.random.split)(keys), axis=1)
    resets = map_evenly(env.reset, keys_reset, RESETS)
    starts = keys_steps, resets, keys_memory, shared.episodes.times

    def start(turn: Turn) -> tuple[PyTree, Running]:
        cell, params = take((shared.cells, shared.params), turn.cell)
        key, reset, key_memory, times = take(starts, turn.episode)
        play = shared.play._replace(times=times)
        memory = attack.init(params, key_memory)
        return (masked_policy(shared.policies, cell), params, times), begin(
            key, reset, memory, play
        )

    def step(known: PyTree, running: Running) -> Running:
        victim, params, times = known
        play = shared.play._replace(times=times)
        perturb = partial(attack.perturb, params)
        return proceed(running, env, victim, perturb, shared.eps, play)

    return Loop(start, step, done=lambda r: r.done, result=lambda r: r.so_far)
