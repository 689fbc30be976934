"""Imitation of a policy that was trained to do the task as badly as it can be done."""

from functools import lru_cache

import jax
import numpy as np

from jaxprune.attacks.base import Attack, Cost, Victims, nothing
from jaxprune.attacks.config import AdversaryConfig, MADConfig
from jaxprune.attacks.gradient import climb
from jaxprune.attacks.training import Size, Start, blank, optimised, ppo_config, starts
from jaxprune.devices import Mapped, map_population
from jaxprune.envs import Environment, EnvSpec
from jaxprune.losses import Hyper
from jaxprune.policy import action_distribution, normalise
from jaxprune.types import Array, Policy

FEWEST = 2  # bad policies: one alone may have found a poor way to fail
LOG_STD = 0.0  # initially, as the victims'


def worst_policy(config: AdversaryConfig, mad: MADConfig) -> Attack:
    """Make the action likely that a bad policy takes here.

        s' = argmax over the ball of log pi(a_bad(s) | s')

    with a_bad the mean or the likeliest action of a policy that PPO trained on minus the task's
    reward, at the true state. For a Gaussian victim that is the least ||mu(s') - mu_bad(s)||^2 in
    units of sigma; mu_bad is not clipped to what the task can do, and a target out of reach says
    in which direction to go. No victim is needed to train it, so that all victims, and all eps,
    share `max(2, seeds)` bad policies, trained with the first of the learning rates.

    A bad policy knows the states of its own episodes alone, and a task that pays for every step
    teaches it to end them at once: what it would do where the victim hops means little.

    Args:
        config: budgets of the bad policies.
        mad: of the ascent.

    Raises:
        InputError: a budget too small to train a policy, or an ascent that goes nowhere.

    Source: the Two-Stage-Attack (Science China Information Sciences, 2023): a worst policy, then a
    targeted attack; the target here is its action, whatever the head.
    """
    config.check()
    mad.check()
    ppo, members = ppo_config(config), max(FEWEST, config.seeds)

    def size(spec: EnvSpec) -> Size:
        return Size(spec.obs_size, spec.action_size, spec.discrete)

    def prepare(victims: Victims) -> Policy:
        hyper = Hyper(entropy_weight=config.entropy_weight, reward_scale=-1.0)
        rates = np.full(members, config.learning_rates[0])
        log_stds = np.full(members, LOG_STD)
        start = starts(victims.key, size(victims.env.spec), hyper, rates, log_stds)
        program = _program(victims.env, config)
        found = map_population(program, (), start, config.num_envs, victims.lanes)
        count = len(victims.cells.agent)
        return jax.tree.map(lambda x: np.broadcast_to(x, (count, *x.shape)), found)

    def perturb(params: Policy, memory, key, victim: Policy, obs_norm, eps, moment=None):
        del moment  # it does not look ahead
        target = action_distribution(params, normalise(params, _raw(victim, obs_norm))).mode()

        def objective(x: Array) -> Array:
            return action_distribution(victim, x).likelihood(target)

        return climb(mad, key, objective, obs_norm, eps), memory

    return Attack(
        perturb,
        nothing,
        lambda victim, spec: blank(size(spec)),
        prepare,
        members=lambda spec: members,
        per_eps=False,
        cost=Cost(
            queries=2 + mad.restarts,
            gradients=mad.restarts * mad.steps,
            env_steps=members * ppo.iterations * ppo.batch,
        ),
    )


def _raw(victim: Policy, obs_norm: Array) -> Array:
    """The observation in the task's units, up to what the victim's normaliser clipped."""
    stats = victim.obs_stats
    return obs_norm * (stats.std + victim.obs_std_offset) + stats.mean


@lru_cache(maxsize=16)
def _program(env: Environment, config: AdversaryConfig) -> Mapped:
    """`((), Start) -> Policy`."""
    ppo = ppo_config(config)

    def train(_: tuple[()], start: Start) -> Policy:
        return optimised(ppo, env, start)

    return Mapped(train)
