"""Episodes and rollouts of a policy in an environment.

An evaluation plays whole episodes under an observation adversary: one is `begin`, then `proceed`
until it is done. `episode` plays one to its end; a queue of them (`jaxprune.queue.in_queue`) lets
a lane take the next one as soon as its own is done. A learner instead takes a fixed number of steps
of every worker (`rollout`).
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from jaxprune.envs import Environment, EnvSpec, Moment
from jaxprune.policy import action_distribution, clip_action, normalise
from jaxprune.types import AnyArray, Array, EnvState, Key, Policy, PyTree

# (memory, key, victim, obs_norm [obs_size], eps [], moment) -> (obs_norm', memory')
Perturb: TypeAlias = Callable[[PyTree, Key, Policy, Array, Array, PyTree], tuple[Array, PyTree]]


class Play(NamedTuple):
    """How an episode is played, and at which steps its observations are kept. May be traced."""

    stochastic: AnyArray = False  # bool [], draw actions, do not take the mean or the likeliest
    noise: AnyArray = 0.0  # [], sigma of the smoothed policy: N(0, sigma^2) on all it sees
    gamma: AnyArray = 0.99  # [], of the discounted return
    times: AnyArray | None = None  # int [k]; None: at none


DETERMINISTIC = Play()


class Episode(NamedTuple):
    """What is kept of one episode."""

    return_: Array  # [], undiscounted sum of the raw rewards
    discounted: Array  # [], sum of gamma^t times the raw reward at t
    length: Array  # int32 [], steps taken
    terminated: Array  # bool [], ended by the task; False: by the time limit
    diverged: Array  # bool [], ended because the simulator left the finite numbers
    distance: Array  # [], largest D between pi(.|s) and pi(.|s') that the adversary reached
    visited: Array  # [k, obs_size], the true raw observations at `Play.times`; 0 after the end
    earned: Array  # [k], the raw rewards of those steps


def act(
    key: Key,
    spec: EnvSpec,
    victim: Policy,
    perturb: Perturb,
    memory: PyTree,
    obs: Array,
    eps: Array,
    play: Play = DETERMINISTIC,
    moment: Moment | None = None,
) -> tuple[Array, PyTree, Array]:
    """The victim's action at a perturbed observation: (action, memory', D).

    The action is what the simulator gets, clipped if the victim's are. D is how far the adversary
    moved the action distribution, without noise and before clipping.

    Args:
        key: consumed.
        spec: of the task.
        victim: the policy, already masked.
        perturb: the adversary's step.
        memory: what the adversary remembers.
        obs: raw observation `[obs_size]`.
        eps: radius of the ball in normalised units, `[]`.
        play: whether to draw the action, and how noisy the observation is after the adversary.
        moment: the simulator and its state, for adversaries that look ahead; None outside of one.
    """
    key_perturb, key_action, key_noise = jax.random.split(key, 3)
    obs_norm = normalise(victim, obs)
    seen, memory = perturb(memory, key_perturb, victim, obs_norm, eps, moment)
    clean, attacked = (action_distribution(victim, x) for x in (obs_norm, seen))
    noise = play.noise * jax.random.normal(key_noise, seen.shape, seen.dtype)
    acting = action_distribution(victim, seen + noise)
    action = jnp.where(play.stochastic, acting.sample(key_action), acting.mode())
    action = clip_action(victim, action, spec.action_box)
    return action, memory, clean.distance(attacked)


class Running(NamedTuple):
    """An episode that is being played."""

    key: Key  # of the steps that follow
    env_state: EnvState
    obs: Array  # [obs_size], raw
    memory: PyTree  # of the adversary
    done: Array  # bool []
    so_far: Episode


def begin(
    key: Key, start: tuple[EnvState, Array], memory: PyTree, play: Play = DETERMINISTIC
) -> Running:
    """Returns an episode before its first step.

    Args:
        key: of its steps.
        start: what the environment's reset returns.
        memory: what the adversary remembers at the start (`Attack.init`).
        play: the steps whose observations are kept.
    """
    state, obs = start
    zero, false = jnp.zeros((), obs.dtype), jnp.bool_(False)
    kept = _times(play).size
    unseen, nothing = jnp.zeros((kept, *obs.shape), obs.dtype), jnp.zeros(kept, obs.dtype)
    empty = Episode(zero, zero, jnp.int32(0), false, false, zero, unseen, nothing)
    return Running(key, state, obs, memory, false, empty)


def _times(play: Play) -> Array:
    """An empty array is made here and is no constant: see `jaxprune.devices`."""
    return jnp.zeros(0, jnp.int32) if play.times is None else jnp.asarray(play.times)


def proceed(
    running: Running,
    env: Environment,
    victim: Policy,
    perturb: Perturb,
    eps: Array,
    play: Play = DETERMINISTIC,
) -> Running:
    """Returns the episode after one more step; the arguments are those of `episode`."""
    key, state, obs, memory, _, so_far = running
    key_t = jax.random.fold_in(key, so_far.length)
    action, memory, distance = act(
        key_t, env.spec, victim, perturb, memory, obs, eps, play, Moment(env, state)
    )
    state, after = env.step(state, action)
    now = _times(play) == so_far.length
    so_far = Episode(
        return_=so_far.return_ + after.reward,
        discounted=so_far.discounted + play.gamma**so_far.length * after.reward,
        length=so_far.length + 1,
        terminated=after.terminated,
        diverged=jnp.asarray(after.diverged),
        distance=jnp.maximum(so_far.distance, distance),
        visited=jnp.where(now[:, None], obs, so_far.visited),
        earned=jnp.where(now, after.reward, so_far.earned),
    )
    return Running(key, state, after.obs, memory, after.terminated | after.truncated, so_far)


def episode(
    key: Key,
    env: Environment,
    victim: Policy,
    perturb: Perturb,
    memory: PyTree,
    eps: Array,
    play: Play = DETERMINISTIC,
) -> Episode:
    """One episode from a fresh reset.

    The reset depends on `key` alone: runs that share a key share the initial state, whatever the
    policy and the attack.

    Args:
        key: consumed.
        env: the task; its `horizon` bounds the episode.
        victim: the policy, already masked.
        perturb: the adversary's step.
        memory: what the adversary remembers at the start (`Attack.init`).
        eps: radius of the ball in normalised units, `[]`, may be traced.
        play: how to act, and what to keep.
    """
    key_reset, key_steps = jax.random.split(key)
    start = begin(key_steps, env.reset(key_reset), memory, play)
    step = lambda running: proceed(running, env, victim, perturb, eps, play)  # noqa: E731
    return jax.lax.while_loop(lambda running: ~running.done, step, start).so_far


class Transition(NamedTuple):
    """One step as the learner needs it; `[unroll, num_envs]` after a rollout."""

    obs: Array  # [obs_size], raw
    next_obs: Array  # [obs_size], raw, before any reset
    seen: Array  # [obs_size], normalised, what the policy acted on
    action: Array  # as the policy chose it, before it is clipped for the simulator
    log_prob: Array  # [], under the policy that acted
    reward: Array  # [], raw
    terminated: Array  # bool []
    truncated: Array  # bool []
    diverged: Array  # bool []
    episode_return: Array  # [], raw return of the episode so far, this step included
    discounted_return: Array  # [], the same with older rewards discounted


class Worker(NamedTuple):
    """One environment of an agent and its running sums."""

    env_state: EnvState
    obs: Array  # [obs_size], raw
    episode_return: Array  # []
    discounted_return: Array  # []


def fresh_workers(key: Key, env: Environment, count: int) -> Worker:
    """So many environments at the start of an episode: `Worker [count]`. The key is consumed."""
    env_state, obs = jax.vmap(env.reset)(jax.random.split(key, count))
    return Worker(env_state, obs, jnp.zeros(count), jnp.zeros(count))


def rollout(
    key: Key,
    env: Environment,
    policy: Policy,
    gamma: Array | float,
    workers: Worker,
    length: int,
    perturb: Callable[[Key, Policy, Array], Array] | None = None,
    stochastic: bool = True,
) -> tuple[Worker, Transition]:
    """`length` steps of every worker under the policy: `Transition [length, N]`.

    With `perturb`, the policy acts on what that makes of the normalised observation. It draws its
    actions, unless it is not `stochastic`: then it takes the mean or the likeliest.

    An episode that ends continues from a fresh state drawn once per rollout and worker: resetting
    inside the loop would double the cost of a step. Workers that finish twice in one rollout start
    from that state twice, with different action noise.
    """
    count = workers.obs.shape[0]
    key_reset, key_act = jax.random.split(key)
    fresh = fresh_workers(key_reset, env, count)

    def one(key: Key, worker: Worker, fresh: Worker) -> tuple[Worker, Transition]:
        obs = worker.obs
        seen = normalise(policy, obs)
        if perturb is not None:
            seen = perturb(jax.random.fold_in(key, 1), policy, seen)
        distribution = action_distribution(policy, seen)
        action = distribution.sample(key) if stochastic else distribution.mode()
        taken = clip_action(policy, action, env.spec.action_box)
        env_state, after = env.step(worker.env_state, taken)
        worker = Worker(
            env_state,
            after.obs,
            worker.episode_return + after.reward,
            worker.discounted_return * gamma + after.reward,
        )
        step = Transition(
            obs=obs,
            next_obs=after.obs,
            seen=seen,
            action=action,
            log_prob=distribution.log_prob(action),
            reward=after.reward,
            terminated=after.terminated,
            truncated=after.truncated,
            diverged=jnp.asarray(after.diverged),
            episode_return=worker.episode_return,
            discounted_return=worker.discounted_return,
        )
        done = after.terminated | after.truncated
        return jax.tree.map(lambda new, old: jnp.where(done, new, old), fresh, worker), step

    def step(workers: Worker, key: Key):
        return jax.vmap(one)(jax.random.split(key, count), workers, fresh)

    return jax.lax.scan(step, workers, jax.random.split(key_act, length))
