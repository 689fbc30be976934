"""A direction that depends linearly on the state, found by the cross-entropy method.

Nothing is differentiated through the task and nothing is learned from single steps: a director is
as good as the return that it leaves. It has few numbers, so that a few hundred episodes find it,
and it cannot chatter as a network can. All trials of a generation, of all victims, are one call of
one program.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.attacks.base import Attack, Victims, nothing, ranked
from jaxprune.attacks.config import DirectorConfig
from jaxprune.attacks.direction import directions, steer, steering_cost
from jaxprune.cells import Cell, masked_policy
from jaxprune.devices import Mapped, take
from jaxprune.envs import Environment, EnvSpec
from jaxprune.queue import Loop, in_queue, map_queue
from jaxprune.rollout import Play, Running, begin, proceed
from jaxprune.types import AnyArray, Key, Policy, PyTree

# Calls in which all fixed directions are tried, and how many each of the next calls compares.
SCOUTING, COMPARED = 2, (8, 4)
# What the search hands over: its last mean, where it started, the best two of its last generation.
MEMBERS = 4

# (number of the call, matrices [N, individuals, ...]) -> mean returns [N, individuals]
Try: TypeAlias = Callable[[int, np.ndarray], np.ndarray]


class Director(NamedTuple):
    """The direction d = kernel @ x + bias at the normalised observation x."""

    kernel: AnyArray  # [action_size, obs_size]
    bias: AnyArray  # [action_size]


class Shared(NamedTuple):
    """What all trials of a call have in common."""

    policies: Policy  # [agents]
    cells: Cell  # [N]
    directors: Director  # [N, individuals]
    key: Key  # [], of the episodes
    eps: AnyArray  # []
    stochastic: AnyArray  # bool []


class Trial(NamedTuple):
    """One episode of one victim under one of its directors."""

    cell: AnyArray  # int []
    individual: AnyArray  # int []
    episode: AnyArray  # int []


def director(config: DirectorConfig) -> Attack:
    """Push the victim's output where a linear function of the true state says.

        s' = argmax over the ball of <A s + b, f(s')>

    with f and the ascent of `jaxprune.attacks.direction`. A and b are those with the lowest return
    that the cross-entropy method finds, from the best fixed direction on, against the victim as it
    acts in the attack. Of an observation of more than `inputs` numbers, A sees that many: the
    projections on the leading singular vectors of the victim's first layer. What the victim does
    not look at, the director does not either, and finding them costs no step of the task.

    Raises:
        InputError: settings of the directing attacks that they could not honour.

    Source: this package. The director is that of PA-AD, Sun et al. 2022 (arXiv 2106.05087); the
    search is that of Szita and Lorincz 2006, with noise that does not vanish.
    """
    config.check()

    def perturb(params: Director, memory, key, victim, obs_norm, eps, moment=None):
        del key, moment  # nothing is drawn, and it does not look ahead
        towards = params.kernel @ obs_norm + params.bias
        return steer(config, victim, obs_norm, eps, towards), memory

    calls = SCOUTING + len(COMPARED) + config.generations
    trials = calls * config.individuals * config.episodes
    return Attack(
        perturb,
        nothing,
        _blank,
        partial(best_directors, config),
        members=lambda spec: MEMBERS,
        cost=steering_cost(config)._replace(trials=trials),
    )


def best_directors(config: DirectorConfig, victims: Victims) -> Director:
    """Returns the directors that the search hands over: `Director [N, MEMBERS]`, on the host.

    Args:
        config: of the search.
        victims: the population; its key is consumed.
    """
    play, draw = np.asarray(jax.random.key_data(jax.random.split(victims.key)))
    inputs = watched(config, victims)
    fixed = directions(victims.env.spec, config.directions)
    fixed = np.pad(fixed[:, :, None], ((0, 0), (0, 0), (inputs.shape[1], 0)))

    def attempt(call: int, found: np.ndarray) -> np.ndarray:
        key = jax.random.fold_in(jax.random.wrap_key_data(play), call)
        return tried(config, victims._replace(key=key), as_director(found, inputs))

    start = scouted(config, attempt, np.tile(fixed, (len(inputs), 1, 1, 1)))
    return as_director(searched(config, np.random.default_rng(draw), attempt, start), inputs)


def watched(config: DirectorConfig, victims: Victims) -> np.ndarray:
    """Returns what the directors see of an observation as its rows, `[N, k, obs_size]`."""
    size, count = victims.env.spec.obs_size, len(victims.cells.agent)
    if size <= config.inputs:
        return np.broadcast_to(np.eye(size), (count, size, size))
    masked = jax.jit(jax.vmap(masked_policy, (None, 0)))(victims.policies, victims.cells)
    left, *_ = np.linalg.svd(np.asarray(masked.params.actor["layer_0"]["kernel"]))
    return np.swapaxes(left, 1, 2)[:, : config.inputs]


def as_director(matrix: np.ndarray, inputs: np.ndarray) -> Director:
    """Returns what matrices `[N, k, action_size, inputs + 1]` mean, the last column the bias."""
    kernel = matrix[..., :-1] @ inputs[:, None]
    return Director(np.float32(kernel), np.float32(matrix[..., -1]))


def scouted(config: DirectorConfig, attempt: Try, fixed: np.ndarray) -> np.ndarray:
    """Returns the fixed direction with the lowest return, `[N, M, ...] -> [N, ...]`.

    As many as there is room for are tried, as often as there is room for; the best of them again,
    and the mean over all that they played decides.
    """
    fixed = fixed[:, : SCOUTING * config.individuals]
    count, several = fixed.shape[:2]
    row, alive = np.arange(count)[:, None], np.tile(np.arange(several), (count, 1))
    slots = np.resize(np.arange(several), (SCOUTING, config.individuals))
    returns = np.concatenate([attempt(i, fixed[:, slot]) for i, slot in enumerate(slots)], axis=1)
    played = np.tile(slots.ravel(), (count, 1))
    for call, few in enumerate(COMPARED, SCOUTING):
        alive = alive[row, ranked(_means(returns, played, alive))[:, :few]]
        again = alive[:, np.resize(np.arange(alive.shape[1]), config.individuals)]
        returns = np.concatenate([returns, attempt(call, fixed[row, again])], axis=1)
        played = np.concatenate([played, again], axis=1)
    best = alive[row, ranked(_means(returns, played, alive))[:, :1]]
    return fixed[row, best][:, 0]


def _means(returns: np.ndarray, played: np.ndarray, alive: np.ndarray) -> np.ndarray:
    """Returns the mean return of each of those alive, `[N, alive]`.

    Args:
        returns: `[N, plays]`.
        played: which candidate each was of.
        alive: candidates `[N, alive]`.
    """
    mine = played[:, None] == alive[..., None]
    return np.where(mine, returns[:, None], 0).sum(-1) / mine.sum(-1)


def searched(
    config: DirectorConfig, rng: np.random.Generator, attempt: Try, start: np.ndarray
) -> np.ndarray:
    """Returns the members that the cross-entropy method finds, `[N, ...] -> [N, MEMBERS, ...]`.

        x_i = mean + deviation z_i,  z_i ~ N(0, I),  z_0 = 0
        mean' = that of the elite
        deviation' = (1 - renewal) deviation + renewal (that of the elite + extra_deviation)

    Args:
        config: of the search.
        rng: of the z, which are the same for every victim.
        attempt: tells the returns of `[N, individuals, ...]`.
        start: the first means; the last column is the bias.
    """
    mean = start
    deviation = np.full(start.shape, config.kernel_deviation)
    deviation[..., -1] = config.bias_deviation
    kept = max(2, round(config.elite * config.individuals))
    elite = np.repeat(start[:, None], kept, axis=1)
    for generation in range(config.generations):
        noise = rng.standard_normal((config.individuals, *start.shape[1:]))
        noise[0] = 0.0
        drawn = mean[:, None] + deviation[:, None] * noise
        best = ranked(attempt(SCOUTING + len(COMPARED) + generation, drawn))[:, :kept]
        elite = drawn[np.arange(len(drawn))[:, None], best]
        spread = elite.std(axis=1) + config.extra_deviation
        mean, deviation = elite.mean(axis=1), deviation + config.renewal * (spread - deviation)
    return np.concatenate([mean[:, None], start[:, None], elite[:, :2]], axis=1)


def tried(config: DirectorConfig, victims: Victims, directors: Director) -> np.ndarray:
    """Returns the mean return that every director `[N, individuals]` leaves its victim.

    All play the same `episodes` episodes, so that they are compared, not their luck.
    """
    shape = (*directors.bias.shape[:2], config.episodes)
    trials = Trial(*(np.ravel(x).astype(np.int32) for x in np.indices(shape)))
    shared = Shared(
        victims.policies,
        victims.cells,
        directors,
        victims.key,
        np.float32(victims.eps),
        np.bool_(victims.stochastic),
    )
    returns = map_queue(_program(victims.env, config), shared, trials, victims.lanes)
    return returns.reshape(shape).mean(axis=-1)


@lru_cache(maxsize=16)
def _program(env: Environment, config: DirectorConfig) -> Mapped:
    """`(Shared, Queued Trials) -> returns`, see `jaxprune.queue`."""
    attack = director(config)

    def make(shared: Shared) -> Loop:
        each = jax.random.split(shared.key, config.episodes)
        keys, keys_reset = jnp.unstack(jax.vmap(jax.random.split)(each), axis=1)
        resets, play = jax.lax.map(env.reset, keys_reset), Play(shared.stochastic)

        def start(trial: Trial) -> tuple[PyTree, Running]:
            victim = masked_policy(shared.policies, take(shared.cells, trial.cell))
            mine = take(shared.directors, (trial.cell, trial.individual))
            key, reset = take((keys, resets), trial.episode)
            return (victim, mine), begin(key, reset, (), play)

        def step(known: PyTree, running: Running) -> Running:
            victim, mine = known
            perturb = partial(attack.perturb, mine)
            return proceed(running, env, victim, perturb, shared.eps, play)

        return Loop(start, step, done=lambda r: r.done, result=lambda r: r.so_far.return_)

    return Mapped(make, in_queue)


def _blank(victim: Policy, spec: EnvSpec) -> Director:
    del victim  # directors are as large whatever the victim
    return Director(jnp.zeros((spec.action_size, spec.obs_size)), jnp.zeros(spec.action_size))
