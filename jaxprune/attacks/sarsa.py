"""Robust Sarsa: the action values of every victim, learned from its own steps.

    minimise  E[huber(r + gamma Q'(s', a') - Q(s, a))] + w E[max over B of (Q(s, a^) - Q(s, a))^2]

with the action a' that the victim would take next, as it acts in the attack, a target network Q',
and the maximum over the l_inf ball B of a radius around a bounded from above by intervals. The
radius grows while training. Where targets spread by more than 1, Q is closer to their median than
the mean: the price of Huber's loss.

All critics are one population. Nothing but data tells them apart, the members of a victim and the
published form from the corrected one: one program trains them all.

Source: Zhang et al. 2020 (arXiv 2003.08938), section 3.5, and github.com/huanzhang12/SA_PPO.
"""

from collections.abc import Sequence
from functools import cache, lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxprune.attacks.action_value import (
    ACTIVATION,
    Critic,
    action_features,
    action_value,
    critic_inputs,
    critic_layers,
    descend,
    init_critic,
)
from jaxprune.attacks.base import Victims
from jaxprune.attacks.config import MADConfig, SarsaConfig
from jaxprune.cells import Cell, masked_policy
from jaxprune.certify.crown_ibp import output_changes
from jaxprune.certify.query import make_query
from jaxprune.devices import Mapped, lane_width, map_population, mesh_devices, take
from jaxprune.envs import Environment, EnvSpec
from jaxprune.policy import action_distribution, normalise
from jaxprune.ppo.advantages import no_returns, update_stats
from jaxprune.rollout import Transition, Worker, fresh_workers, rollout
from jaxprune.types import AnyArray, Array, Key, Policy, PyTree

ADAM = optax.scale_by_adam(eps=1e-5)
REWARD_CLIP = 10.0
# Steps after which workers that finish get another initial state, see `rollout`.
SEGMENT = 64


class Penalty(NamedTuple):
    """What a critic pays for changing with the action."""

    radius: AnyArray  # [], of the l_inf ball around (phi of) the action, at the end of training
    weight: AnyArray  # []


NO_PENALTY = Penalty(0.0, 0.0)


class Steps(NamedTuple):
    """Consecutive steps of a victim in its environments; E of them follow each other by turns."""

    inputs: Array  # [T * E, in], (s, phi(a)) of every step; that of row i + E came after row i
    acting: Array  # [T * E, action_size], phi of what the victim does as it acts in the attack
    reward: Array  # [T * E], raw
    terminated: Array  # bool [T * E]
    truncated: Array  # bool [T * E]
    return_std: Array  # [], of the discounted returns


class Rows(NamedTuple):
    """What a critic learns from, `[D, rows]`, one D per source of data."""

    inputs: Array  # [in]
    acting: Array  # [action_size], what takes the place of phi(a) where the row follows another
    reward: Array  # [], normalised
    bootstrap: AnyArray  # [], the factor of the value that follows
    weight: AnyArray  # [], 0 where what follows is unknown


class Lesson(NamedTuple):
    """What all critics of a call have in common."""

    rows: Rows  # [D, rows]
    batches: AnyArray  # int [updates, batch], rows
    successors: AnyArray  # int [updates, batch], the rows taken to follow them
    progress: AnyArray  # [updates], of training, from 0 to 1
    ball: AnyArray  # [in], 1 for the inputs that the penalty is about
    learning_rate: AnyArray  # []
    polyak: AnyArray  # []


class Student(NamedTuple):
    """A critic in training."""

    critic: Critic
    target: Critic
    moments: PyTree  # of Adam
    penalty: Penalty
    source: AnyArray  # int [], whose data it learns from


def train(
    config: SarsaConfig,
    victims: Victims,
    penalties: Sequence[Penalty],
    published: bool = False,
    against: MADConfig | None = None,
) -> Critic:
    """Critics of every victim, one per penalty: `[N, members, ...]`, on the host.

    Rewards are divided by the standard deviation of the discounted returns of the first data and
    clipped to +-10. Members of a victim share data and minibatches; with `against` each collects
    its own, in `config.rounds` rounds under the attack by what it has learned (the first without).

    Args:
        config: settings.
        victims: the population; its key is consumed. They draw the actions of the data, or nothing
            would tell what another action is worth; a' is as they act.
        penalties: one per member.
        published: as in the reference, whose minibatches are shuffled before the next row is taken
            for the next step: Q(s, a) becomes r + gamma * the mean of Q, or r where an episode
            ends. Time limits end them too, there is no target network, and the penalty is about
            changes of the observation as well.
        against: how the critic is descended while data are collected.
    """
    size = len(victims.cells.agent)
    group = len(mesh_devices()) * lane_width(config.num_envs, size, victims.lanes)
    found = []
    for start in range(0, size, group):  # because the data of all victims do not fit
        index = np.minimum(np.arange(start, start + group), size - 1)
        some = victims._replace(cells=take(victims.cells, index))
        found.append(_train_group(config, some, penalties, published, against))
    return jax.tree.map(lambda *x: np.concatenate(x)[:size], *found)


def env_steps(config: SarsaConfig, rounds: int = 1) -> int:
    """Environment steps of all rounds together, `config.steps` rounded down."""
    segments, unroll = _segments(config, rounds)
    return rounds * segments * unroll * config.num_envs


def _train_group(
    config: SarsaConfig,
    victims: Victims,
    penalties: Sequence[Penalty],
    published: bool,
    against: MADConfig | None,
) -> Critic:
    spec, count, members = victims.env.spec, len(victims.cells.agent), len(penalties)
    rounds = config.rounds if against else 1
    key_data, key_order, key_init = jax.random.split(victims.key, 3)
    students = fresh_students(key_init, spec, penalties, count)
    owner = np.asarray(students.source)
    cells = take(victims.cells, owner) if against else victims.cells
    if against:
        students = students._replace(source=np.arange(count * members, dtype=np.int32))
    scale = None
    for i in range(rounds):
        steps = collect(
            config,
            victims._replace(cells=cells, key=jax.random.fold_in(key_data, i)),
            rounds,
            students.critic if against else (),
            victims.eps if i else 0.0,
            against,
        )
        scale = steps.return_std if scale is None else scale
        rows = make_rows(steps, scale, config.discount, published)
        order = jax.random.fold_in(key_order, i)
        lesson = make_lesson(order, config, spec, rows, published, (i / rounds, (i + 1) / rounds))
        students = fit(lesson, students, victims.lanes)
    return jax.tree.map(lambda x: x.reshape(count, members, *x.shape[1:]), students.critic)


# --- data -----------------------------------------------------------------------------------------


class Task(NamedTuple):
    """What all victims of a call of `collect` have in common."""

    policies: Policy  # [agents]
    eps: AnyArray  # []
    gamma: AnyArray  # []
    stochastic: AnyArray  # bool []
    key: Key


class Subject(NamedTuple):
    """A victim, and the critic by which it is attacked meanwhile, if at all."""

    cell: Cell
    critic: Critic | tuple[()]


def collect(
    config: SarsaConfig,
    victims: Victims,
    rounds: int = 1,
    critics: Critic | tuple[()] = (),
    eps: float = 0.0,
    against: MADConfig | None = None,
) -> Steps:
    """Steps of every victim, drawing its actions: `Steps [N]`, on the host.

    Args:
        config: settings.
        victims: the population; the same key for every victim.
        rounds: of which this is one: it takes that share of `config.steps`.
        critics: `[N]` with `against`.
        eps: radius of the attack; 0 for none.
        against: how the critic is descended; None for no attack at all.
    """
    program = _collect_program(victims.env, config.num_envs, *_segments(config, rounds), against)
    task = Task(
        victims.policies,
        np.float32(eps),
        np.float32(config.discount),
        np.bool_(victims.stochastic),
        victims.key,
    )
    subjects = Subject(victims.cells, critics)
    return map_population(program, task, subjects, config.num_envs, victims.lanes)


@lru_cache(maxsize=16)
def _collect_program(
    env: Environment,
    num_envs: int,
    segments: int,
    unroll: int,
    against: MADConfig | None,
) -> Mapped:
    """`(Task, Subject) -> Steps`."""

    def of_subject(task: Task, subject: Subject) -> Steps:
        victim = masked_policy(task.policies, subject.cell)

        def perturb(key: Key, policy: Policy, obs_norm: Array) -> Array:
            assert against is not None and subject.critic
            return descend(against, subject.critic, key, policy, obs_norm, task.eps)

        def segment(workers: Worker, key: Key) -> tuple[Worker, Transition]:
            attack = perturb if against else None
            return rollout(key, env, victim, task.gamma, workers, unroll, attack)

        key_reset, key_act = jax.random.split(task.key)
        workers = fresh_workers(key_reset, env, num_envs)
        _, taken = jax.lax.scan(segment, workers, jax.random.split(key_act, segments))
        taken = jax.tree.map(lambda x: x.reshape(-1, *x.shape[3:]), taken)
        obs_norm = jax.vmap(partial(normalise, victim))(taken.obs)
        mode = jax.vmap(lambda seen: action_distribution(victim, seen).mode())(taken.seen)
        acting = jnp.where(task.stochastic, taken.action, mode)
        return Steps(
            jax.vmap(partial(critic_inputs, env.spec))(obs_norm, taken.action),
            jax.vmap(partial(action_features, env.spec))(acting),
            taken.reward,
            taken.terminated,
            taken.truncated,
            update_stats(no_returns(), taken.discounted_return[None]).std,
        )

    return Mapped(of_subject)


def make_rows(steps: Steps, return_std: AnyArray, gamma: float, published: bool = False) -> Rows:
    """Steps `[D]` of data as rows to learn from; see `train` for what the published form does.

    Args:
        steps: `[D]`, on the host.
        return_std: `[D]`, what rewards are divided by.
        gamma: discount per step.
        published: where episodes end.
    """
    reward = np.clip(steps.reward / (return_std[:, None] + 1e-8), -REWARD_CLIP, REWARD_CLIP)
    ends = steps.terminated | steps.truncated if published else steps.terminated
    known = np.ones_like(ends) if published else ~steps.truncated
    bootstrap, weight = (x.astype(reward.dtype) for x in (gamma * ~ends, known))
    return Rows(steps.inputs, steps.acting, reward, bootstrap, weight)


def _segments(config: SarsaConfig, rounds: int) -> tuple[int, int]:
    """(segments, steps of each) of every environment in one round."""
    length = config.steps // (rounds * config.num_envs)
    segments = max(1, length // SEGMENT)
    return segments, length // segments


# --- training -------------------------------------------------------------------------------------


def fresh_students(key: Key, spec: EnvSpec, penalties: Sequence[Penalty], count: int) -> Student:
    """Critics before training, `[count * members]`, the same for each of `count` victims."""
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(len(penalties)))
    critics = jax.device_get(_fresh_critics(spec, keys))
    moments = jax.device_get(jax.vmap(ADAM.init)(critics))
    radius, weight = np.asarray(penalties, np.float32).T
    member = Student(critics, critics, moments, Penalty(radius, weight), ())
    every = take(member, np.tile(np.arange(len(penalties)), count))
    return every._replace(source=np.repeat(np.arange(count, dtype=np.int32), len(penalties)))


# Not under `vmap`: see `fresh` in `jaxprune.ppo`.
@partial(jax.jit, static_argnums=0)
def _fresh_critics(spec: EnvSpec, keys: Array) -> Critic:
    return jax.lax.map(lambda key: init_critic(key, spec), keys)


def make_lesson(
    key: Key,
    config: SarsaConfig,
    spec: EnvSpec,
    rows: Rows,
    published: bool = False,
    span: tuple[float, float] = (0.0, 1.0),
) -> Lesson:
    """`config.epochs` shuffled passes over the rows.

    Args:
        key: consumed; of the order of the rows.
        config: settings.
        spec: of the task.
        rows: `[D, rows]`; those of the last step are only there to follow others.
        published: the next row of the minibatch is taken for the next step; see `train`.
        span: of training that these passes are, between 0 and 1.
    """
    usable = rows.reward.shape[-1] - config.num_envs
    batch = min(config.batch, usable)
    batches = np.asarray(_shuffled(key, config.epochs, usable, batch))
    start, stop = span
    observed = np.full(spec.obs_size, published, np.float32)
    return Lesson(
        rows,
        batches,
        np.roll(batches, -1, axis=1) if published else batches + np.int32(config.num_envs),
        np.linspace(start, stop, len(batches), endpoint=False, dtype=np.float32),
        np.concatenate([observed, np.ones(spec.action_size, np.float32)]),
        np.float32(config.learning_rate),
        np.float32(1.0 if published else config.polyak),
    )


@partial(jax.jit, static_argnums=(1, 2, 3))
def _shuffled(key: Key, epochs: int, rows: int, batch: int) -> Array:
    """Minibatches of `epochs` passes, int `[updates, batch]`; what is left of a pass is dropped."""
    keys = jax.random.split(key, epochs)
    passes = jax.lax.map(lambda k: jax.random.permutation(k, rows), keys)
    return passes[:, : rows // batch * batch].reshape(-1, batch)


def fit(lesson: Lesson, students: Student, lanes: int | None = None) -> Student:
    """Every student after the lesson, `Student [items]`, on the host."""
    return map_population(_fit_program(), lesson, students, lesson.batches.shape[1], lanes)


@cache
def _fit_program() -> Mapped:
    """`(Lesson, Student) -> Student`."""
    return Mapped(taught)


def taught(lesson: Lesson, student: Student) -> Student:
    """One student after all minibatches of the lesson."""

    def update(state: PyTree, xs: tuple[Array, Array, Array]):
        critic, target, moments = state
        index, successor, progress = xs
        rows = jax.tree.map(lambda x: x[student.source, index], lesson.rows)
        after = jax.tree.map(lambda x: x[student.source, successor], lesson.rows)
        state_size = after.inputs.shape[-1] - after.acting.shape[-1]
        following = jnp.concatenate([after.inputs[:, :state_size], after.acting], axis=-1)
        value = jax.vmap(partial(action_value, target))(following)
        radius = student.penalty.radius * growth(progress) * lesson.ball
        gradient = jax.grad(sarsa_loss)(
            critic, rows, rows.reward + rows.bootstrap * value, radius, student.penalty.weight
        )
        step, moments = ADAM.update(gradient, moments)
        rate = lesson.learning_rate * decay(progress)
        critic = jax.tree.map(lambda w, d: w - rate * d, critic, step)
        target = optax.incremental_update(critic, target, lesson.polyak)
        return (critic, target, moments), None

    state = (student.critic, student.target, student.moments)
    passes = (lesson.batches, lesson.successors, lesson.progress)
    (critic, target, moments), _ = jax.lax.scan(update, state, passes)
    return student._replace(critic=critic, target=target, moments=moments)


def growth(progress: Array) -> Array:
    """Of the radius: 0 for a third of training, linear to 1 in the second, 1 in the last, `[]`."""
    return jnp.clip(3 * progress - 1, 0.0, 1.0)


def decay(progress: Array) -> Array:
    """Of the learning rate: 1 for two thirds of training, then linear to 0, `[]`."""
    return jnp.minimum(1.0, 3 * (1 - progress))


def sarsa_loss(critic: Critic, rows: Rows, goal: Array, radius: Array, weight: Array) -> Array:
    """Mean Huber loss of the values, and the penalty on a bound of their change, `[]`.

    Args:
        critic: to be trained.
        rows: `[B]`.
        goal: what Q(s, a) should be, `[B]`.
        radius: of the ball, per input, `[in]`.
        weight: of the penalty, `[]`.
    """

    def value_and_change(inputs: Array) -> tuple[Array, Array]:
        query = make_query(critic_layers(critic), radius, None, ACTIVATION, inputs)
        value, interval, _ = output_changes(query)  # the compiler drops CROWN-IBP, not asked for
        return value[0], jnp.maximum(interval.high, -interval.low)[0]

    value, change = jax.vmap(value_and_change)(rows.inputs)
    error = optax.losses.huber_loss(value, goal, delta=1.0)
    return jnp.mean(rows.weight * error) + weight * jnp.mean(change**2)
