"""Adversaries that lower action values learned by Sarsa, and what they are made of.

All act in the units of the critic, rewards normalised by the deviation of the discounted return.
Observations of discrete tasks are attacked by the exact expectation over the actions.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.attacks.action_value import (
    PUBLISHED_STEPS,
    Critic,
    blank_critic,
    descend,
    descend_published,
    expected_value,
)
from jaxprune.attacks.base import Attack, Cost, Victims, nothing
from jaxprune.attacks.config import MADConfig, SarsaConfig
from jaxprune.attacks.gradient import climb, divergence
from jaxprune.attacks.sarsa import NO_PENALTY, Penalty, env_steps, train
from jaxprune.envs import EnvSpec
from jaxprune.types import AnyArray, Array, Policy

# Weights of the KL divergence in `rs_mad`.
SHARES = (1e-4, 1e-2, 3e-1)
PUBLISHED_GAMMA = 0.99


class Mix(NamedTuple):
    """Parameters of `rs_mad`."""

    critic: Critic
    share: AnyArray  # [], of the KL divergence


def grid(config: SarsaConfig) -> list[Penalty]:
    """Every radius with every weight."""
    return [Penalty(*pair) for pair in product(config.radii, config.weights)]


def few(config: SarsaConfig) -> list[Penalty]:
    """The first, middle and last radius with the middle weight, where every critic is dear."""
    radii, middle = config.radii, config.weights[len(config.weights) // 2]
    chosen = dict.fromkeys((radii[0], radii[len(radii) // 2], radii[-1]))
    return [Penalty(radius, middle) for radius in chosen]


def q_attack(rs: SarsaConfig, mad: MADConfig) -> Attack:
    """The critic attack as its authors meant it: lower Q(s, pi(s')), Q from plain Sarsa.

    V(s') would be the value of being in s', which the victim is not.

    Raises:
        InputError: settings that no critic could be trained or descended with.

    Source: Zhang et al. 2020 (arXiv 2003.08938), appendix D.1.
    """
    return _descent(rs, mad, [NO_PENALTY])


def rs(rs: SarsaConfig, mad: MADConfig) -> Attack:
    """Robust Sarsa on consecutive steps, one critic per radius and weight of the penalty.

    Raises:
        InputError: settings that no critic could be trained or descended with.

    Source: Zhang et al. 2020 (arXiv 2003.08938), section 3.5; see `jaxprune.attacks.sarsa`.
    """
    return _descent(rs, mad, grid(rs))


def rs_adversarial(rs: SarsaConfig, mad: MADConfig) -> Attack:
    """Robust Sarsa that learns the values of the attacked victim: policy iteration in effect.

    In every round the victim is attacked by the critic of the round before, and the critic learns
    from what happens then. Data are each member's own, so only the critics of `few` are trained.

    Raises:
        InputError: settings that no critic could be trained or descended with.

    Source: `adv_steps` of github.com/AmineAndam04/advrl.
    """
    return _descent(rs, mad, few(rs), adversarial=True)


def rs_reference(rs: SarsaConfig) -> Attack:
    """Robust Sarsa as its published code does it, to compare with published numbers.

    See `train` for what is different about its critics and `descend_published` about its steps. Its
    values are those of the victim that draws its actions, with a discount of 0.99.

    Raises:
        InputError: settings that no critic could be trained with.

    Source: github.com/huanzhang12/SA_PPO.
    """
    rs.check()
    published = replace(rs, gamma=PUBLISHED_GAMMA)

    def prepare(victims: Victims) -> Critic:
        return train(published, victims._replace(stochastic=True), grid(rs), published=True)

    def perturb(critic, memory, key, victim, obs_norm, eps, moment=None):
        del moment  # the critic stands for what would follow
        return descend_published(critic, key, victim, obs_norm, eps), memory

    return Attack(
        perturb,
        nothing,
        _blank,
        prepare,
        members=lambda spec: len(grid(rs)),
        per_eps=False,
        cost=Cost(gradients=PUBLISHED_STEPS, env_steps=env_steps(rs)),
    )


def rs_mad(rs: SarsaConfig, mad: MADConfig) -> Attack:
    """Maximise a KL(pi(s) || pi(s')) - (1 - a) E_{pi(s')} Q(s, .), for some a and some critics.

    Raises:
        InputError: settings that no critic could be trained or descended with.

    Source: Zhang et al. 2020 (arXiv 2003.08938), appendix D.4, which scans a for its best critic.
    """
    rs.check()
    mad.check()
    members = list(product(range(len(few(rs))), SHARES))

    def blank(victim: Policy, spec: EnvSpec) -> Mix:
        return Mix(_blank(victim, spec), jnp.zeros(()))

    def prepare(victims: Victims) -> Mix:
        critics = train(rs, victims, few(rs))
        index, shares = zip(*members, strict=True)
        count = len(victims.cells.agent)
        return Mix(
            jax.tree.map(lambda x: x[:, np.array(index)], critics),
            np.broadcast_to(np.array(shares, np.float32), (count, len(members))),
        )

    def perturb(mix, memory, key, victim, obs_norm, eps, moment=None):
        del moment  # the critic stands for what would follow
        moved = divergence(victim, obs_norm)

        def objective(x: Array) -> Array:
            value = expected_value(mix.critic, victim, obs_norm, x)
            return mix.share * moved(x) - (1 - mix.share) * value

        return climb(mad, key, objective, obs_norm, eps), memory

    cost = _climb_cost(mad, env_steps(rs))
    cost = cost._replace(queries=cost.queries + 1)  # the policy's, at s
    return Attack(
        perturb, nothing, blank, prepare, lambda spec: len(members), per_eps=False, cost=cost
    )


def _descent(
    rs: SarsaConfig, mad: MADConfig, penalties: Sequence[Penalty], adversarial: bool = False
) -> Attack:
    """Descends the critics of these penalties."""
    rs.check()
    mad.check()

    def perturb(critic, memory, key, victim, obs_norm, eps, moment=None):
        del moment  # the critic stands for what would follow
        return descend(mad, critic, key, victim, obs_norm, eps), memory

    def prepare(victims: Victims) -> Critic:
        return train(rs, victims, penalties, against=mad if adversarial else None)

    data = len(penalties) * env_steps(rs, rs.rounds) if adversarial else env_steps(rs)
    cost = _climb_cost(mad, data)
    return Attack(
        perturb,
        nothing,
        _blank,
        prepare,
        members=lambda spec: len(penalties),
        per_eps=adversarial,
        cost=cost,
    )


def _blank(victim: Policy, spec: EnvSpec) -> Critic:
    del victim  # critics are as large whatever the victim
    return blank_critic(spec)


def _climb_cost(mad: MADConfig, data: int) -> Cost:
    return Cost(queries=1 + mad.restarts, gradients=mad.restarts * mad.steps, env_steps=data)
