"""Returns of masked policies under attack, and the states that they visit without one."""

import math
from typing import Annotated, NamedTuple

import jax
import numpy as np

from jaxprune.attacks import Attack, AttackConfig, Victims, check_needs
from jaxprune.cells import as_cells
from jaxprune.envs import Environment
from jaxprune.evaluation.episodes import (
    VICTIMS,
    EpisodeSet,
    check_evaluation,
    episode_columns,
)
from jaxprune.evaluation.evaluator import Evaluator
from jaxprune.rollout import Play
from jaxprune.types import AnyArray, Key, Masks, Policy
from jaxprune.validation import ANY_RADIUS, COUNT, FRACTION, check_arguments, lookup


def evaluate(
    env: Environment,
    policy: Policy,
    masks: Masks | None = None,
    attack: str | Attack = "none",
    eps: Annotated[float | None, ANY_RADIUS] = None,
    episodes: Annotated[int, COUNT] = 50,
    key: Key | None = None,
    config: AttackConfig | None = None,
    source: Policy | None = None,
    victim: str = "deterministic",
    noise: Annotated[float, ANY_RADIUS] = 0.0,
    gamma: Annotated[float, FRACTION] = 0.99,
) -> dict[str, np.ndarray]:
    """Episodes of a masked policy under one attack, on all devices.

    What the attack has to train is trained first, against every cell, on episodes of its own; of
    several members each cell meets the one that did best on a second set of episodes.

    Args:
        env: from `make_env`.
        policy: leading axes `[...]` are agents.
        masks: leading axes are those of the policy, then any number more; None for no pruning.
        attack: a key of `ATTACKS`, or an attack.
        eps: radius of the l_inf ball in normalised observation units; None for the task's.
        episodes: per cell. Episode i starts from the same state in every cell and attack.
        key: default `jax.random.key(0)`; consumed.
        config: settings of the attack that is named.
        source: the policy whose attack is transferred, masked; leading axes are those of the
            result, or none.
        victim: "deterministic" acts with the mean or the likeliest action, "stochastic" draws.
        noise: sigma of the smoothed victim: N(0, sigma^2) on every coordinate of what it sees,
            after the adversary, in normalised units. See `jaxprune.certify.certified_quantile`.
        gamma: of the discounted return.

    Returns:
        `return` (undiscounted, the task's raw units), `return_discounted`, `length` (steps),
        `terminated`, `diverged` (the simulator failed: the return ends before it) and `distance`
        (the largest D reached, see `Distribution.distance`), each `[..., episodes]` with the
        leading axes of the masks (of the policy without masks).

    Raises:
        InputError: unknown attack or victim, an argument of another type or out of its range, or a
            policy that does not fit the task.
    """
    check_arguments(evaluate, locals())
    eps = env.spec.eps if eps is None else eps
    stochastic = lookup(VICTIMS, victim, "victim")
    check_evaluation(env, policy, eps, stochastic)
    check_needs(attack, env.spec, policy, source is not None)
    key = jax.random.key(0) if key is None else key
    # From the host, because agents fresh from training are split over the devices.
    shape, policies, cells = as_cells(*jax.device_get((policy, masks)))
    key_prepare = jax.random.fold_in(key, episodes)  # those below are the episodes' own
    if source is not None:
        source = spread(source, shape)
    victims = Victims(env, policies, cells, float(eps), key_prepare, stochastic, source)
    never = np.zeros((episodes, 0), np.int32)
    play = Play(stochastic, np.float32(noise), np.float32(gamma), never)
    evaluator = Evaluator(env, (attack,), config)
    params = evaluator.arm(attack, victims, play).params
    result = evaluator.play(attack, victims, params, EpisodeSet(key, never), play)
    return {name: x.reshape(*shape, episodes) for name, x in episode_columns(result).items()}


def visited(
    env: Environment,
    policy: Policy,
    masks: Masks | None = None,
    states: Annotated[int, COUNT] = 1000,
    episodes: Annotated[int, COUNT] = 20,
    key: Key | None = None,
) -> np.ndarray:
    """Raw observations of unattacked episodes of a masked policy, where local bounds are asked.

    Args:
        env: from `make_env`.
        policy: leading axes `[...]` are agents.
        masks: leading axes are those of the policy, then any number more; None for no pruning.
        states: per cell, drawn uniformly from all steps of its episodes, with replacement only if
            these are fewer.
        episodes: per cell, of the deterministic policy.
        key: default `jax.random.key(0)`; consumed.

    Returns:
        `[..., states, obs_size]` with the leading axes of the masks: `obs` of `certify`.

    Raises:
        InputError: no state, no episode, or a policy that does not fit the task.
    """
    check_arguments(visited, locals())
    key_play, key_draw = jax.random.split(jax.random.key(0) if key is None else key)
    found = trajectories(env, policy, masks, episodes, key_play)
    shape = found.length.shape[:-1]
    steps = np.arange(env.spec.horizon)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key_draw)))
    drawn = []
    for cell in np.ndindex(shape):
        seen = found.obs[cell][steps < found.length[cell][:, None]]
        drawn.append(seen[rng.choice(len(seen), states, replace=len(seen) < states)])
    return np.stack(drawn).reshape(*shape, states, env.spec.obs_size)


class Trajectories(NamedTuple):
    """Holds whole unattacked episodes of masked policies; leading axes `[...]` of the masks."""

    obs: np.ndarray  # raw [..., episodes, horizon, obs_size]; 0 after the end
    length: np.ndarray  # int [..., episodes], steps
    return_: np.ndarray  # [..., episodes], undiscounted


def trajectories(
    env: Environment, policy: Policy, masks: Masks | None, episodes: int, key: Key
) -> Trajectories:
    """Plays unattacked episodes of the deterministic policy and keeps every observation.

    Episode i starts from the same state in every cell.

    Args:
        env: from `make_env`.
        policy: leading axes `[...]` are agents.
        masks: leading axes are those of the policy, then any number more; None for no pruning.
        episodes: per cell.
        key: consumed.

    Raises:
        InputError: a policy that does not fit the task.
    """
    check_evaluation(env, policy, 0.0)
    shape, policies, cells = as_cells(*jax.device_get((policy, masks)))
    steps = np.broadcast_to(np.arange(env.spec.horizon), (episodes, env.spec.horizon))
    victims = Victims(env, policies, cells, 0.0, key)
    play = Play(times=steps)
    result = Evaluator(env, ("none",)).play("none", victims, (), EpisodeSet(key, steps), play)
    kept = (result.visited, result.length, result.return_)
    return Trajectories(*(np.reshape(x, (*shape, *np.shape(x)[1:])) for x in kept))


def spread(policy: Policy, shape: tuple[int, ...]) -> Policy:
    """A policy `[...]` for every cell of a population of this shape, `[N]`, on the host."""
    axes, count = policy.params.log_std.ndim - 1, math.prod(shape)

    def leaf(x: AnyArray) -> np.ndarray:
        one = np.shape(x)[axes:]
        return np.broadcast_to(jax.device_get(x), (*shape, *one)).reshape(count, *one)

    return jax.tree.map(leaf, policy)
