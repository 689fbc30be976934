"""Adversaries that lead the victim to where its own critic sees least."""

from functools import lru_cache

import jax
import jax.numpy as jnp

from jaxprune.attacks.base import Attack, Cost, Victims, memoryless, nothing
from jaxprune.attacks.config import MADConfig, SearchConfig
from jaxprune.attacks.gradient import climb
from jaxprune.cells import Cell, masked_policy
from jaxprune.devices import Mapped, map_population
from jaxprune.envs import Environment, EnvSpec, Moment
from jaxprune.pgd import best_of, usable
from jaxprune.policy import action_distribution, actor_output, clip_action, normalise, state_value
from jaxprune.rollout import fresh_workers, rollout
from jaxprune.types import Array, Key, Policy

# Of `lookahead`: the discount of what comes after.
GAMMA = 0.99
# The data from which it learns the critic's unit: environments per victim, and steps of each.
ENVS, UNROLL = 16, 256


def value_attack(config: MADConfig) -> Attack:
    """Minimise V(s') over the ball by projected sign-gradient descent, V the victim's critic.

    That is the value of being in s', not of acting in s as if it were s': its authors found it
    weak, and it is here because it is published.

    Raises:
        InputError: fewer than one step or restart, or a step that goes nowhere.

    Source: the critic attack of Pattanaik et al. 2018 as in Zhang et al. 2020 (arXiv 2003.08938),
    Algorithm 2; restarts, steps and the best iterate as in `jaxprune.attacks.gradient.mad`.
    """
    config.check()

    def perturb(key: Key, victim: Policy, obs_norm: Array, eps: Array) -> Array:
        return climb(config, key, lambda x: -state_value(victim, x), obs_norm, eps)

    cost = Cost(queries=1 + config.restarts, gradients=config.restarts * config.steps)
    return memoryless(perturb, cost)


def lookahead(config: SearchConfig) -> Attack:
    """The candidate s' with the lowest c r + gamma V(f(s, a')), a' the mode of pi(.|s').

    The simulator f is asked for the reward and the state that follow each candidate; V is the
    victim's critic, 0 after termination. A candidate that breaks the simulator is not used.
    Candidates are no perturbation, the corners eps sign(+-grad) that push each of the first outputs
    (means or logits) up and down to first order, and random corners: `config.simulated` in all.

    Critics are trained on rewards in units that the policy does not record. Preparation finds them:
    c is the least-squares solution of c r_t = V(s_t) - gamma V(s_{t+1}) on 4096 steps of the
    victim, and at least 0.

    Raises:
        InputError: a setting of the searching attacks that they could not honour.

    Source: this package; one step of a greedy adversary with a model.
    """

    config.check()
    count = config.simulated

    def perturb(params, memory, key, victim, obs_norm, eps, moment: Moment):
        def score(x: Array) -> Array:
            action = action_distribution(victim, x).mode()
            taken = clip_action(victim, action, moment.env.spec.action_box)
            _, after = moment.env.step(moment.state, taken)
            future = jnp.where(after.terminated, 0.0, _value(victim, after.obs))
            total = params * after.reward + GAMMA * future
            return jnp.where(after.diverged, jnp.inf, total)

        points = candidates(key, victim, obs_norm, eps, count)
        return best_of(points, -jax.vmap(score)(points))[0], memory

    def blank(victim: Policy, spec: EnvSpec) -> Array:
        del victim, spec
        return jnp.ones(())  # the raw reward

    def prepare(victims: Victims) -> Array:
        shared = (victims.policies, victims.key)
        units = map_population(_units(victims.env), shared, victims.cells, ENVS, victims.lanes)
        return units[:, None]

    cost = Cost(
        queries=1 + 2 * count,
        gradients=count // 2,  # fewer where there are fewer outputs
        simulated=count,
        env_steps=ENVS * UNROLL,
    )
    return Attack(perturb, nothing, blank, prepare, per_eps=False, cost=cost)


def candidates(key: Key, victim: Policy, obs_norm: Array, eps: Array, count: int) -> Array:
    """The points that `lookahead` tries, the centre last: `[count, obs_size]`.

    Of equals the first is used, which is then a corner.
    """

    size, pulled_back = jax.vjp(lambda x: actor_output(victim, x), obs_norm)
    rows = jnp.eye(size.shape[0], dtype=size.dtype)[: count // 2]
    signs = jnp.sign(jax.vmap(lambda row: usable(pulled_back(row)[0]))(rows))
    both = jnp.stack([signs, -signs], axis=1).reshape(-1, *obs_norm.shape)
    aimed = both[: count - 1]
    others = (count - 1 - len(aimed), *obs_norm.shape)
    drawn = jax.random.rademacher(key, others, obs_norm.dtype)
    centre = jnp.zeros((1, *obs_norm.shape), obs_norm.dtype)
    return obs_norm + eps * jnp.concatenate([aimed, drawn, centre])


@lru_cache(maxsize=16)
def _units(env: Environment) -> Mapped:
    """`((policies, key), Cell) -> c` of `lookahead`."""

    def of_cell(policies_and_key: tuple[Policy, Key], cell: Cell) -> Array:
        policies, key = policies_and_key
        victim = masked_policy(policies, cell)
        key_reset, key_act = jax.random.split(key)
        workers = fresh_workers(key_reset, env, ENVS)
        _, steps = rollout(key_act, env, victim, GAMMA, workers, UNROLL)
        values = jax.vmap(jax.vmap(lambda obs: _value(victim, obs)))
        future = jnp.where(steps.terminated, 0.0, values(steps.next_obs))
        return reward_unit(steps.reward, values(steps.obs) - GAMMA * future)

    return Mapped(of_cell)


def reward_unit(reward: Array, earned: Array) -> Array:
    """The least-squares c >= 0 of c * reward = earned, `[]`; 0 without rewards."""
    square = jnp.sum(reward**2)
    return jnp.maximum(jnp.sum(reward * earned) / jnp.where(square > 0, square, 1.0), 0.0)


def _value(victim: Policy, obs: Array) -> Array:
    return state_value(victim, normalise(victim, obs))
