"""Adversaries that are policies, each trained by PPO against one victim.

They differ in what they decide. SA-RL decides the perturbation itself; PA-AD decides in which
direction the victim's output should go (the director) and leaves it to gradients to find the
observation that sends it there (the actor). Members differ in where they start: freshly drawn, or
as an imitation of Robust Sarsa or of a linear director (`jaxprune.attacks.demonstrations`). What
training does to an imitation depends on the victim, so that one that is not trained any further is
a member too.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from itertools import product
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.adversarial_mdp import AdversarialMDP, Move
from jaxprune.attacks.base import Attack, Cost, Victims, nothing
from jaxprune.attacks.config import AdversaryConfig, DirectorConfig
from jaxprune.attacks.demonstrations import Inverse, Teacher, imitating
from jaxprune.attacks.direction import steer, steering_cost
from jaxprune.attacks.training import Size, Start, blank, optimised, ppo_config, starts
from jaxprune.cells import Cell, masked_policy
from jaxprune.devices import Mapped, map_population, take
from jaxprune.envs import Environment, EnvSpec
from jaxprune.losses import Hyper
from jaxprune.pgd import usable
from jaxprune.policy import action_distribution, actor_output, normalise
from jaxprune.types import AnyArray, Array, Key, Policy, PyTree

TINY = 1e-24  # keeps the norm of no change differentiable; its root is far below float32's noise

# By the name of the start that imitates them, see `jaxprune.attacks.demonstrations.teachers`.
Teachers: TypeAlias = Mapping[str, Teacher]


class Form(NamedTuple):
    """What an adversary decides, and what becomes of it. Hashable: it selects a program."""

    decisions: Callable[[EnvSpec], int]
    """How many numbers a decision has."""
    move: Move
    inverse: Inverse
    """The decision that comes closest to a perturbation, for those who imitate."""


class Item(NamedTuple):
    """One training: a victim and a member."""

    cell: Cell
    start: Start


class Shared(NamedTuple):
    """What all trainings of a call have in common."""

    policies: Policy  # [agents]
    eps: AnyArray  # []


def sa_rl(config: AdversaryConfig, teachers: Teachers) -> Attack:
    """A policy u(s) on the true observation that decides where in the ball the victim sees it.

        s' = s + eps clip(u(s), -1, 1),  u a Gaussian policy trained by PPO on minus the reward

    In training u is drawn, in the attack it is the mean. The victim acts in training as it does in
    the attack (`Victims.stochastic`); in the reference code it always draws in training.

    Raises:
        InputError: a budget too small to train an adversary.

    Source: Zhang et al. 2021 (ATLA, arXiv 2101.08452), section 3.
    """
    return _learned(config, teachers, PERTURBATION, Cost(queries=1))


def paad(config: AdversaryConfig, teachers: Teachers, director: DirectorConfig) -> Attack:
    """A policy d(s) decides where the victim's output should go; gradients take it there.

        s' = argmax over the ball of <d(s), f(s')>

    with f and the ascent of `jaxprune.attacks.direction`. The published objective cos + norm, which
    `paad_reference` keeps, mixes units: where actions are small the cosine decides alone, and the
    output goes exactly along d, but not far. The director is trained as the adversary of `sa_rl`
    and has only as many outputs as the victim.

    Raises:
        InputError: a budget too small to train an adversary, or settings of the ascent that it
            could not honour.

    Source: Sun et al. 2022 (PA-AD, arXiv 2106.05087), section 4, with a linear objective.
    """
    director.check()
    cost = steering_cost(director)
    cost = cost._replace(queries=cost.queries + 1)  # the decision
    return _learned(config, teachers, directing(director), cost)


def paad_reference(config: AdversaryConfig, teachers: Teachers) -> Attack:
    """PA-AD as published for MuJoCo: one step of its actor, in the opposite direction.

        s' = s + eps sign(grad at s + delta_0 of -(cos(Delta, d(s)) + ||Delta||_2)),
        delta_0 ~ U(-eps / 10, eps / 10)

    The objective is to be maximised, so the sign is wrong, and delta_0 is dropped. A director can
    make up for the sign of d, not for that of the norm. For comparison with published numbers.

    Raises:
        InputError: a budget too small to train an adversary.

    Source: the code of Sun et al. 2022 (umd-huang-lab/paad_adv_rl), MuJoCo.
    """
    return _learned(config, teachers, PUBLISHED, Cost(queries=2, gradients=1))


def train_adversaries(
    config: AdversaryConfig, form: Form, victims: Victims, start: Start
) -> Policy:
    """Trains every member against every victim: `Policy [N, members]`, on the host.

    Where the victims have a start, weights and statistics are taken from there, and the deviation
    is the member's initial one all the same.

    Args:
        config: budgets.
        form: what the adversaries decide.
        victims: the population; its key is not used.
        start: `[members]`, the same for every victim.
    """
    size, members = len(victims.cells.agent), len(start.key)
    victim, member = np.divmod(np.arange(size * members), members)
    begin = take(start, member)
    if victims.start is not None:
        warm = take(victims.start, (victim, member))
        fresh_log_std = begin.policy.params.log_std
        params = warm.params._replace(log_std=fresh_log_std)
        begin = begin._replace(policy=warm.replace(params=params))
    items = Item(take(victims.cells, victim), begin)
    program = _program(victims.env, config, form, victims.stochastic)
    shared = Shared(victims.policies, np.float32(victims.eps))
    found = map_population(program, shared, items, config.num_envs, victims.lanes)
    return jax.tree.map(lambda x: x.reshape(size, members, *x.shape[1:]), found)


def _learned(config: AdversaryConfig, teachers: Teachers, form: Form, cost: Cost) -> Attack:
    config.check()
    ppo = ppo_config(config)
    grid = list(product(config.starts, config.learning_rates, config.log_stds, range(config.seeds)))
    kinds, rates, log_stds, _ = (np.array(x) for x in zip(*grid, strict=True))
    imitated = {kind: teacher for kind, teacher in teachers.items() if kind in config.starts}

    def size(spec: EnvSpec) -> Size:
        return Size(spec.obs_size, form.decisions(spec))

    def prepare(victims: Victims) -> Policy:
        key_start, key_teach = jax.random.split(victims.key)
        hyper = Hyper(entropy_weight=config.entropy_weight)
        start = starts(key_start, size(victims.env.spec), hyper, rates, log_stds)
        if not imitated:
            return train_adversaries(config, form, victims, start)
        begin = victims.start
        if begin is None:
            watched = victims._replace(key=key_teach)
            begin = _begun(start, kinds, imitated, form.inverse, watched)
        still = jax.tree.map(lambda x: x[:, len(grid) :], begin)
        begin = jax.tree.map(lambda x: x[:, : len(grid)], begin)
        trained = train_adversaries(config, form, victims._replace(start=begin), start)
        return jax.tree.map(lambda *x: np.concatenate(x, axis=1), trained, still)

    def perturb(params: Policy, memory, key, victim, obs_norm, eps, moment=None):
        del moment  # the adversary does not look ahead
        decision = action_distribution(params, normalise(params, obs_norm)).mode()
        return form.move(key, victim, obs_norm, eps, decision), memory

    shown = [teacher.cost for teacher in imitated.values()]
    env_steps = len(grid) * ppo.iterations * ppo.batch + sum(one.env_steps for one in shown)
    return Attack(
        perturb,
        nothing,
        lambda victim, spec: blank(size(spec)),
        prepare,
        members=lambda spec: len(grid) + len(imitated),
        warms=True,
        cost=cost._replace(env_steps=env_steps, trials=sum(one.trials for one in shown)),
    )


def _begun(
    start: Start, kinds: np.ndarray, teachers: Teachers, inverse: Inverse, victims: Victims
) -> Policy:
    """Where every member begins, and one imitation of each teacher that stays as it is.

    Args:
        start: `[members]`, of those that imitate nobody.
        kinds: `[members]`, the names of their teachers.
        teachers: of the others.
        inverse: see `Form`.
        victims: whose perturbations are imitated; the key is consumed.

    Returns:
        `Policy [N, members + teachers]`.
    """
    taught = {  # [N, k], those that take the place of the k members of a kind
        kind: imitating(teacher, inverse, victims, take(start, np.flatnonzero(kinds == kind)))
        for kind, teacher in teachers.items()
    }

    def leaf(all_of: PyTree, *some: PyTree) -> np.ndarray:
        whole = np.tile(all_of, (len(some[0]), *[1] * np.ndim(all_of)))
        for kind, by in zip(taught, some, strict=True):
            whole[:, kinds == kind] = by
        return np.concatenate([whole, *(by[:, :1] for by in some)], axis=1)

    return jax.tree.map(leaf, jax.device_get(start.policy), *taught.values())


@lru_cache(maxsize=16)
def _program(env: Environment, config: AdversaryConfig, form: Form, stochastic: bool) -> Mapped:
    """`(Shared, Item) -> Policy`."""
    ppo = ppo_config(config)

    def train(shared: Shared, item: Item) -> Policy:
        victim = masked_policy(shared.policies, item.cell)
        decisions = form.decisions(env.spec)
        task = AdversarialMDP(env, victim, shared.eps, form.move, decisions, stochastic)
        return optimised(ppo, task, item.start)

    return Mapped(train)


def _shift(key: Key, victim: Policy, obs_norm: Array, eps: Array, decision: Array) -> Array:
    del key, victim  # the decision is the perturbation
    return obs_norm + eps * jnp.clip(decision, -1.0, 1.0)


def _steer_as_published(
    key: Key, victim: Policy, obs_norm: Array, eps: Array, decision: Array
) -> Array:
    objective = _alignment(victim, obs_norm, decision)
    start = jax.random.uniform(key, obs_norm.shape, obs_norm.dtype, -0.1, 0.1)
    grad = jax.grad(objective)(obs_norm + eps * start)
    return obs_norm - eps * jnp.sign(usable(grad))


def _alignment(victim: Policy, obs_norm: Array, direction: Array) -> Callable[[Array], Array]:
    """x -> cos(Delta, direction) + ||Delta||_2 with Delta = f(x) - f(obs_norm)."""
    clean, unit = actor_output(victim, obs_norm), direction / _norm(direction)

    def objective(x: Array) -> Array:
        change = actor_output(victim, x) - clean
        length = _norm(change)
        return (change / length) @ unit + length

    return objective


def _norm(x: Array) -> Array:
    return jnp.sqrt(jnp.sum(x**2) + TINY)


def _shifted_by(victim: Policy, obs_norm: Array, seen: Array, eps: Array) -> Array:
    """The perturbation in units of eps."""
    del victim  # the decision is the perturbation
    return (seen - obs_norm) / jnp.maximum(eps, TINY)


def _steered_to(victim: Policy, obs_norm: Array, seen: Array, eps: Array) -> Array:
    """The unit vector along which the output went."""
    del eps  # directions have no length
    change = actor_output(victim, seen) - actor_output(victim, obs_norm)
    return change / _norm(change)


def _steered_as_published(victim: Policy, obs_norm: Array, seen: Array, eps: Array) -> Array:
    """The opposite, because its actor goes where it should not."""
    return -_steered_to(victim, obs_norm, seen, eps)


PERTURBATION = Form(lambda spec: spec.obs_size, _shift, _shifted_by)
PUBLISHED = Form(lambda spec: spec.action_size, _steer_as_published, _steered_as_published)


@lru_cache(maxsize=16)  # equal settings are the same form, and select the same program
def directing(config: DirectorConfig) -> Form:
    """Returns the form of PA-AD: a decision is the direction of the victim's output."""

    def move(key: Key, victim: Policy, obs_norm: Array, eps: Array, decision: Array) -> Array:
        del key  # nothing is drawn
        return steer(config, victim, obs_norm, eps, decision)

    return Form(lambda spec: spec.action_size, move, _steered_to)
