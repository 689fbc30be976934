"""Our policies, masks and attacks in a Gymnasium environment: any number of ours, checked there."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.attacks import Attack, AttackConfig, Victims, check_needs, make_attack
from jaxprune.cells import as_cells
from jaxprune.devices import take
from jaxprune.envs import Environment
from jaxprune.evaluation.episodes import check_evaluation, episode_keys
from jaxprune.evaluation.evaluate import spread
from jaxprune.evaluation.evaluator import Evaluator
from jaxprune.pruning import mask_policy
from jaxprune.rollout import Play, act
from jaxprune.types import Array, Key, Masks, Policy, PyTree
from jaxprune.validation import ANY_RADIUS, COUNT, InputError, check_arguments

if TYPE_CHECKING:
    import gymnasium


def evaluate_in_gymnasium(
    make: Callable[[], Any],
    env: Environment,
    policy: Policy,
    masks: Masks | None = None,
    attack: str | Attack = "none",
    eps: Annotated[float | None, ANY_RADIUS] = None,
    episodes: Annotated[int, COUNT] = 50,
    key: Key | None = None,
    config: AttackConfig | None = None,
    source: Policy | None = None,
) -> dict[str, np.ndarray]:
    """`jaxprune.evaluate` for one policy with another simulator under it.

        evaluate_in_gymnasium(lambda: gymnasium.make("Hopper-v4"), env, policy, attack="mad")

    Episode i starts from Gymnasium's `reset(seed=i)`. The policy, the attack and their random
    numbers are those of `evaluate`; all episodes advance together, so that they are one program.

    Args:
        make: a fresh Gymnasium environment; called once per episode.
        env: the same task here, which attacks may need to prepare.
        policy: a single one.
        masks: of this policy; None for no pruning.
        attack: a key of `ATTACKS`, or an attack.
        eps: radius of the l_inf ball in normalised observation units; None for the task's.
        episodes: how many.
        key: of the attack, default `jax.random.key(0)`; consumed.
        config: settings of the attacks.
        source: the policy whose attack is transferred, masked.

    Returns:
        `return` (undiscounted, raw units), `length`, `terminated`, `distance`, each `[episodes]`.

    Raises:
        InputError: as `evaluate` does, or the two environments differ in size.
    """
    check_arguments(evaluate_in_gymnasium, locals())
    eps = env.spec.eps if eps is None else eps
    check_evaluation(env, policy, eps)
    victim = policy if masks is None else mask_policy(policy, masks)
    check_needs(attack, env.spec, policy, source is not None, simulator=False)
    key = jax.random.key(0) if key is None else key
    key_prepare, keys = jax.random.fold_in(key, episodes), episode_keys(key, episodes)
    params = strongest(env, victim, attack, eps, episodes, key_prepare, config, source)
    adversary = make_attack(attack, config)
    return play_in_gymnasium(make, env, victim, adversary, params, eps, keys)


def strongest(
    env: Environment,
    victim: Policy,
    attack: str | Attack,
    eps: float,
    episodes: int,
    key: Key,
    config: AttackConfig | None = None,
    source: Policy | None = None,
) -> Any:
    """Prepares an attack against one policy: the parameters of its strongest member.

    Args:
        env: the task here.
        victim: a single policy, already masked.
        attack: a key of `ATTACKS`, or an attack.
        eps: radius of the l_inf ball in normalised observation units.
        episodes: how many of them the members are compared on.
        key: consumed.
        config: settings of the attack that is named.
        source: the policy whose attack is transferred, masked.
    """
    _, policies, cells = as_cells(*jax.device_get((victim, None)))
    source = None if source is None else spread(source, (1,))
    victims = Victims(env, policies, cells, float(eps), key, source=source)
    play = Play(times=np.zeros((episodes, 0), np.int32))
    return take(Evaluator(env, (attack,), config).arm(attack, victims, play).params, 0)


def play_in_gymnasium(
    make: Callable[[], "gymnasium.Env"],
    env: Environment,
    victim: Policy,
    adversary: Attack,
    params: PyTree,
    eps: float,
    keys: Key,
) -> dict[str, np.ndarray]:
    """Episodes of a masked policy under an attack that is ready, as `evaluate_in_gymnasium`.

    Args:
        make: a fresh Gymnasium environment; called once per episode.
        env: the same task here.
        victim: already masked.
        adversary: the attack.
        params: what it has prepared, of one member.
        eps: radius of the l_inf ball in normalised observation units.
        keys: one per episode; consumed.

    Raises:
        InputError: the two environments differ in size.
    """
    keys, keys_memory = jnp.unstack(jax.vmap(jax.random.split)(keys), axis=1)
    memory = jax.vmap(partial(adversary.init, params))(keys_memory)

    @jax.jit
    def choose(time: Array, memory: PyTree, obs: Array) -> tuple[Array, PyTree, Array]:
        def one(key: Key, memory: PyTree, obs: Array):
            perturb = partial(adversary.perturb, params)
            key_t = jax.random.fold_in(key, time)
            return act(key_t, env.spec, victim, perturb, memory, obs, jnp.float32(eps))

        return jax.vmap(one)(keys, memory, obs)

    envs = [make() for _ in range(len(keys))]
    obs = np.stack([_flat(e.reset(seed=i)[0]) for i, e in enumerate(envs)])
    if obs.shape[1] != env.spec.obs_size:
        raise InputError(
            f"the Gymnasium environment shows {obs.shape[1]} numbers, {env.spec.name!r} "
            f"{env.spec.obs_size}: give the same task and version twice"
        )
    table = _lockstep(envs, choose, memory, obs)
    for each in envs:
        each.close()
    return table


def _lockstep(
    envs: list["gymnasium.Env"], choose: Callable[..., Any], memory: PyTree, obs: np.ndarray
) -> dict[str, np.ndarray]:
    """Every episode to its end: one action program per time step, one Python step per episode."""
    count = len(envs)
    total, length = np.zeros(count), np.zeros(count, np.int32)
    terminated, running = np.zeros(count, bool), np.ones(count, bool)
    distance = np.zeros(count)
    time = 0
    while running.any():
        actions, memory, moved = choose(time, memory, jnp.asarray(obs, jnp.float32))
        distance = np.where(running, np.maximum(distance, moved), distance)
        for i, action in zip(np.flatnonzero(running), np.asarray(actions)[running], strict=True):
            seen, reward, terminated[i], truncated, _ = envs[i].step(action)
            obs[i] = _flat(seen)
            total[i] += float(reward)
            length[i] += 1
            running[i] = not (terminated[i] or truncated)
        time += 1
    return {"return": total, "length": length, "terminated": terminated, "distance": distance}


def _flat(obs: Any) -> np.ndarray:
    return np.ravel(np.asarray(obs, np.float64))
