"""The episodes of a population: one program for all cells, attacks and radii.

A *cell* is one policy with one mask. Its episodes share the weights, so that a layer is one matrix
product over the episodes; cells, or parts of their episodes, are the population axis.
"""

from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.attacks import Attack, AttackConfig, make_attack, one_of
from jaxprune.cells import Cell, masked_policy
from jaxprune.devices import LANES, Mapped, take
from jaxprune.envs import Environment
from jaxprune.policy import action_box
from jaxprune.rollout import Episode, Play, episode
from jaxprune.types import Array, Key, Policy
from jaxprune.validation import InputError

# Whether actions are drawn, by the name of the victim.
VICTIMS = {"deterministic": False, "stochastic": True}


def episode_columns(result: Episode) -> dict[str, Any]:
    """One number per episode, by the names of the tables."""
    columns = {"return": result.return_, "return_discounted": result.discounted}
    names = ("length", "terminated", "diverged", "distance")
    return columns | {name: getattr(result, name) for name in names}


def check_evaluation(env: Environment, policy: Policy, eps: float) -> None:
    """Raises `InputError` unless the policy fits the task, and the ball what the policy sees."""
    spec = env.spec
    kernels = [policy.params.actor[f"layer_{i}"]["kernel"] for i in range(len(policy.params.actor))]
    has = (kernels[0].shape[-2], kernels[-1].shape[-1], policy.distribution)
    wants = (spec.obs_size, spec.action_size, "categorical" if spec.discrete else "normal")
    if has != wants:
        raise InputError(
            f"the policy maps {has[0]} observations to {has[1]} outputs ({has[2]}), but env "
            f"{spec.name!r} needs {wants[0]} to {wants[1]} ({wants[2]}): choose the env that the "
            "policy was trained on"
        )
    action_box(policy, spec.action_box)  # known, if it is needed
    if eps > policy.obs_clip:
        raise InputError(
            f"eps {eps:g} is larger than the range that the policy clips observations to, "
            f"+-{policy.obs_clip:g}: give a radius in normalised units"
        )


def episode_keys(key: Key, episodes: int) -> Array:
    """One key per episode number, the same for every cell: comparisons are paired."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(episodes))


class Shared(NamedTuple):
    """What all cells of a call have in common."""

    policies: Policy  # [agents]
    attack: Any  # int [], which of the program's attacks
    eps: Any  # []
    play: Play  # its `times` are those of the turn


def timeless(play: Play) -> Play:
    """How to play, without the steps to look at: these come with every turn."""
    return play._replace(times=np.zeros((0,), np.int32))


class Turn(NamedTuple):
    """One item of the population: a cell, some of its episodes, and what the attacks know of it."""

    cell: Cell
    params: tuple[Any, ...]  # of one member of every attack, prepared or blank
    keys: Any  # [E], of the episodes
    times: Any  # int [E, k], at which steps each is looked at


class Split(NamedTuple):
    """Episodes dealt to items: more than fit into one call, or too few cells for the devices."""

    keys: Any  # [groups, E]
    times: Any  # [groups, E, k]

    @property
    def groups(self) -> int:
        """Items per cell."""
        return self.times.shape[0]

    @property
    def each(self) -> int:
        """Episodes per item."""
        return self.times.shape[1]

    def turns(self, cells: Cell, params: tuple[Any, ...], items: np.ndarray) -> Turn:
        """The items `[n]` of `cells [N]` with params `[N]`, counted cell by cell."""
        cell, group = items // self.groups, items % self.groups
        return Turn(take(cells, cell), take(params, cell), self.keys[group], self.times[group])

    def joined(self, episodes: Episode) -> Episode:
        """Of items `[N * groups, E]`, the episodes of every cell `[N, episodes]`."""
        return jax.tree.map(
            lambda x: np.reshape(
                x, (len(x) // self.groups, self.groups * x.shape[1], *x.shape[2:])
            ),
            episodes,
        )


def split(keys: Any, times: Any, cells: int, lanes: int | None = None) -> Split:
    """Whole cells where that fills the devices; equal parts of their episodes where not.

    Args:
        keys: one per episode.
        times: int `[episodes, k]`.
        cells: how many there are.
        lanes: episodes that one device plays together; None: what is fast on its kind.
    """
    return dealt(keys, times, together(len(times), cells, lanes))


def together(episodes: int, cells: int, lanes: int | None = None) -> int:
    """How many episodes of a cell one item plays, a divisor of all of them; see `split`."""
    devices = len(jax.local_devices())
    most = lanes or LANES[jax.local_devices()[0].platform]
    groups = next(
        n
        for n in range(1, episodes + 1)
        if episodes % n == 0 and (n == episodes or (episodes // n <= most and cells * n >= devices))
    )
    return episodes // groups


def dealt(keys: Any, times: Any, each: int) -> Split:
    """The episodes in items of `each`, a divisor of their number."""
    shape = (len(times) // each, each)
    return Split(keys.reshape(shape), times.reshape(*shape, times.shape[1]))


@lru_cache(maxsize=16)
def cell_program(
    env: Environment, attacks: tuple[str | Attack, ...], config: AttackConfig
) -> Mapped:
    """`(Shared, Turn) -> Episode [E]`.

    All attacks are branches of one program; `Shared.attack` picks one at run time.
    """
    members = [make_attack(attack, config) for attack in attacks]

    def run(shared: Shared, turn: Turn) -> Episode:
        attack = one_of(members, shared.attack)
        victim = masked_policy(shared.policies, turn.cell)
        return cell_episodes(env, attack, turn, victim, shared)

    return Mapped(run)


def cell_episodes(
    env: Environment, attack: Attack, turn: Turn, victim: Policy, shared: Shared
) -> Episode:
    """The episodes of one masked policy, one per key of the turn: `Episode [E]`."""
    params = turn.params

    def one(key: Key, times: Array) -> Episode:
        key_episode, key_memory = jax.random.split(key)
        memory = attack.init(params, key_memory)
        perturb = partial(attack.perturb, params)
        play = shared.play._replace(times=times)
        return episode(key_episode, env, victim, perturb, memory, shared.eps, play)

    return jax.vmap(one)(turn.keys, turn.times)
