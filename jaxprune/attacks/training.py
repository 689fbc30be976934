"""Policies that an attack trains for itself, with the learner that trains the victims."""

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.attacks.config import AdversaryConfig
from jaxprune.envs import Environment
from jaxprune.losses import Hyper
from jaxprune.policy import init_policy
from jaxprune.ppo.learner import PPOConfig, dense_directives, make_learner
from jaxprune.pruning.masks import dense
from jaxprune.pruning.methods import METHODS
from jaxprune.types import Array, Key, Policy

HIDDEN = (64, 64)  # of actor and critic, tanh


class Size(NamedTuple):
    """The interface of a network."""

    obs: int
    action: int
    discrete: bool = False


class Start(NamedTuple):
    """Where the training of one policy begins."""

    key: Key
    hyper: Hyper  # float32 [] each
    policy: Policy


def ppo_config(config: AdversaryConfig) -> PPOConfig:
    """The learner's static settings."""
    return PPOConfig(
        steps=config.steps,
        num_envs=config.num_envs,
        unroll=config.unroll,
        epochs=config.epochs,
        minibatches=config.minibatches,
        hidden=HIDDEN,
    )


def starts(
    key: Key, size: Size, hyper: Hyper, learning_rates: np.ndarray, log_stds: np.ndarray
) -> Start:
    """Freshly drawn policies, one per member, on the host: `Start [members]`.

    Drawn outside of the training program: orthogonal matrices must not be drawn in a `vmap` there
    (see `jaxprune.ppo.make_learner`), and whoever calls may start from other policies.

    Args:
        key: consumed; member i depends on it and on i alone.
        size: of the policies.
        hyper: what members have in common.
        learning_rates: `[members]`.
        log_stds: initial log standard deviations, `[members]`.
    """
    members = len(learning_rates)
    keys, policies = _fresh(key, np.float32(log_stds), size)
    hyper = jax.tree.map(lambda x: np.full(members, x, np.float32), hyper)
    return Start(keys, replace(hyper, learning_rate=np.float32(learning_rates)), policies)


def blank(size: Size) -> Policy:
    """A policy of zeros in the shapes of a trained one."""
    shapes = jax.eval_shape(partial(_one, size), jax.random.key(0), jnp.float32(0))
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def optimised(config: PPOConfig, env: Environment, start: Start) -> Policy:
    """The policy after the last iteration. Pure; the environment may hold traced arrays.

    Source: Schulman et al. 2017 (PPO, arXiv 1707.06347), see `jaxprune.ppo`.
    """
    learner = make_learner(config, env)
    key, hyper, policy = start
    directives = dense_directives(config, (METHODS["none"],), policy.params)
    first = jax.tree.map(lambda x: x[0], directives)
    state = learner.init(key, hyper, first, policy, dense(policy.params))

    def iterate(state, directive):
        return learner.iterate(state, hyper, directive)[0], None

    return jax.lax.scan(iterate, state, directives)[0].policy


@partial(jax.jit, static_argnames="size")
def _fresh(key: Key, log_stds: Array, size: Size) -> tuple[Key, Policy]:
    """(keys of training, policies), `[members]` each."""
    keys = jax.vmap(lambda i: jax.random.split(jax.random.fold_in(key, i)))(
        jnp.arange(len(log_stds))
    )
    draw = lambda xs: _one(size, *xs)  # noqa: E731
    return keys[:, 0], jax.lax.map(draw, (keys[:, 1], log_stds))


def _one(size: Size, key: Key, log_std: Array) -> Policy:
    policy = init_policy(key, size.obs, size.action, discrete=size.discrete, hidden=HIDDEN)
    params = policy.params
    return replace(policy, params=params._replace(log_std=params.log_std + log_std))
