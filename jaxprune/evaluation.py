"""Returns of masked policies under attack: the cells of the experiment.

A *cell* is one policy with one mask. Its episodes share the weights, so that a layer is one matrix
product over the episodes; cells are the population axis.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.attacks import Attack, MADConfig, make_attack, one_of
from jaxprune.envs import Environment
from jaxprune.families import InputError, lookup
from jaxprune.population import lane_width, layout, over_population, take
from jaxprune.pruning.cells import Cell, as_cells, masked_policy
from jaxprune.rollout import Episode, Play, episode
from jaxprune.types import Array, Key, Masks, Policy

# Whether actions are drawn, by the name of the victim.
VICTIMS = {"deterministic": False, "stochastic": True}


def evaluate(
    env: Environment,
    policy: Policy,
    masks: Masks | None = None,
    attack: str = "none",
    eps: float | None = None,
    episodes: int = 50,
    key: Key | None = None,
    mad_config: MADConfig | None = None,
    victim: str = "deterministic",
    noise: float = 0.0,
    gamma: float = 0.99,
) -> dict[str, np.ndarray]:
    """Episodes of a masked policy under one attack, on all devices.

    Args:
        env: from `make_env`.
        policy: leading axes `[...]` are agents.
        masks: leading axes are those of the policy, then any number more; None for no pruning.
        attack: a key of `ATTACKS`.
        eps: radius of the l_inf ball in normalised observation units; None for the task's.
        episodes: per cell. Episode i starts from the same state in every cell and attack.
        key: default `jax.random.key(0)`; consumed.
        mad_config: settings of the "mad" attack.
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
        InputError: unknown attack or victim, eps < 0, no episode, or a policy that does not fit
            the task.
    """
    eps = env.spec.eps if eps is None else eps
    check_evaluation(env, policy, eps, episodes)
    drawn = lookup(VICTIMS, victim, "victim")
    if not 0 <= noise < float("inf"):
        raise InputError(f"noise {noise:g} is no standard deviation: give a number >= 0")
    never = np.zeros((episodes, 0), np.int32)
    play = Play(drawn, np.float32(noise), np.float32(gamma), never)
    settings = mad_config or MADConfig()
    keys = episode_keys(jax.random.key(0) if key is None else key, episodes)
    # From the host, because agents fresh from training are split over the devices.
    shape, policies, cells = as_cells(*jax.device_get((policy, masks)))
    width = lane_width(episodes, len(cells.agent))
    order, place = layout(len(cells.agent), width)

    run = cell_program(env, (attack,), settings, width)
    shared = Shared(policies, jnp.int32(0), jnp.float32(eps), keys, play)
    result = take(jax.device_get(run(shared, take(cells, order))), place)
    return {name: x.reshape(*shape, episodes) for name, x in episode_columns(result).items()}


def visited(
    env: Environment,
    policy: Policy,
    masks: Masks | None = None,
    states: int = 1000,
    episodes: int = 20,
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
    check_evaluation(env, policy, 0.0, episodes)
    if states < 1:
        raise InputError(f"states {states} is below 1: give at least one state per cell")
    key_play, key_draw = jax.random.split(jax.random.key(0) if key is None else key)
    shape, policies, cells = as_cells(*jax.device_get((policy, masks)))
    width = lane_width(episodes, len(cells.agent))
    order, place = layout(len(cells.agent), width)

    steps = np.broadcast_to(np.arange(env.spec.horizon), (episodes, env.spec.horizon))
    shared = Shared(
        policies, np.int32(0), np.float32(0), episode_keys(key_play, episodes), Play(times=steps)
    )
    run = cell_program(env, ("none",), MADConfig(), width)
    result = take(jax.device_get(run(shared, take(cells, order))), place)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key_draw)))
    drawn = []
    for obs, length in zip(result.visited, result.length, strict=True):
        seen = obs[steps < length[:, None]]
        drawn.append(seen[rng.choice(len(seen), states, replace=len(seen) < states)])
    return np.stack(drawn).reshape(*shape, states, env.spec.obs_size)


def episode_columns(result: Episode) -> dict[str, Any]:
    """One number per episode, by the names of the tables."""
    columns = {"return": result.return_, "return_discounted": result.discounted}
    names = ("length", "terminated", "diverged", "distance")
    return columns | {name: getattr(result, name) for name in names}


def check_evaluation(env: Environment, policy: Policy, eps: float, episodes: int) -> None:
    """Raises `InputError` unless the policy fits the task and eps and episodes make sense."""
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
    if not eps >= 0:
        raise InputError(f"eps {eps:g} is no radius: give a number >= 0 in normalised units")
    if eps > policy.obs_clip:
        raise InputError(
            f"eps {eps:g} is larger than the range that the policy clips observations to, "
            f"+-{policy.obs_clip:g}: give a radius in normalised units"
        )
    if episodes < 1:
        raise InputError(f"episodes {episodes} is below 1: give at least one episode per cell")


def episode_keys(key: Key, episodes: int) -> Array:
    """One key per episode number, the same for every cell: comparisons are paired."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(episodes))


class Shared(NamedTuple):
    """What all cells of a call have in common."""

    policies: Policy  # [agents]
    attack: Any  # int [], which of the program's attacks
    eps: Any  # []
    keys: Array  # [episodes]
    play: Play  # `times [episodes, k]`: every episode has its own


@lru_cache(maxsize=16)
def cell_program(
    env: Environment, attacks: tuple[str, ...], mad_config: MADConfig, width: int
) -> Callable[[Shared, Cell], Episode]:
    """`(Shared, Cell [N]) -> Episode [N, E]` on all devices, `width` cells at a time on each.

    N is a multiple of `devices * width`, see `jaxprune.population.layout`.

    All attacks are branches of one program; `Shared.attack` picks one at run time.
    """
    members = [make_attack(name, mad_config) for name in attacks]

    def run(shared: Shared, cell: Cell) -> Episode:
        attack, victim = one_of(members, shared.attack), masked_policy(shared.policies, cell)
        return cell_episodes(env, attack, victim, shared)

    return over_population(run, width=width)


def cell_episodes(env: Environment, attack: Attack, victim: Policy, shared: Shared) -> Episode:
    """The episodes of one masked policy, one per key: `Episode [E]`."""
    # fold_in(key, i) is split(key)[i] under JAX's default generator: 2 is what `one` leaves free.
    params = attack.prepare(jax.random.fold_in(shared.keys[0], 2), victim, env)

    def one(key: Key, times: Array) -> Episode:
        key_episode, key_memory = jax.random.split(key)
        memory = attack.init(params, key_memory)
        perturb = partial(attack.perturb, params)
        play = shared.play._replace(times=times)
        return episode(key_episode, env, victim, perturb, memory, shared.eps, play)

    return jax.vmap(one)(shared.keys, shared.play.times)
