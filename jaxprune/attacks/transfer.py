"""Attacks through another policy: the victim's own gradients are never asked.

They are weaker than an attack on the victim itself, unless the victim's gradients are masked: a
pruned policy that resists its own attack and not that of the dense one only looks robust (Athalye
et al. 2018, arXiv 1802.00420).
"""

from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxprune.attacks.base import Attack, Victims, nothing
from jaxprune.attacks.config import MADConfig, SearchConfig
from jaxprune.attacks.gradient import mad
from jaxprune.attacks.imitation import fit
from jaxprune.cells import Cell, masked_policy
from jaxprune.devices import Mapped, map_population
from jaxprune.envs import Environment, EnvSpec
from jaxprune.policy import MLP, action_distribution, normalise
from jaxprune.rollout import fresh_workers, rollout
from jaxprune.types import Array, Key, Policy, PyTree

ENVS, HIDDEN = 32, (64, 64)  # where the clone watches, and its hidden widths


def transfer(config: MADConfig) -> Attack:
    """MAD against the source (`Victims.source`), played against the victim.

    The source sees the same normalised observation, as two networks of one agent do.
    """
    inner = mad(config)

    def perturb(params, memory, key, victim, obs_norm, eps, moment=None):
        del victim
        return inner.perturb((), memory, key, params, obs_norm, eps, moment)

    def prepare(victims: Victims) -> Policy:
        assert victims.source is not None
        return jax.tree.map(lambda x: x[:, None], victims.source)

    return Attack(perturb, nothing, lambda victim, spec: victim, prepare, cost=inner.cost)


def snooping(search: SearchConfig, config: MADConfig) -> Attack:
    """MAD against a clone of the victim, learned from what it was seen to do.

    The clone is fitted to the victim's modes at the states of its own episodes: squared error in
    units of sigma for the Gaussian, cross-entropy for a choice.

    Source: Zhang et al. 2021 (ATLA, arXiv 2101.08452), "snooping"; Inkawhich et al. 2020.
    """
    inner = mad(config)

    def perturb(params, memory, key, victim, obs_norm, eps, moment=None):
        clone = victim.replace(params=victim.params._replace(actor=params), activation="tanh")
        return inner.perturb((), memory, key, clone, obs_norm, eps, moment)

    def blank(victim: Policy, spec: EnvSpec) -> PyTree:
        return _clone(spec.action_size).init(jax.random.key(0), jnp.zeros(spec.obs_size))["params"]

    def prepare(victims: Victims) -> PyTree:
        key_clone, key = jax.random.split(victims.key)
        first = jax.jit(_clone(victims.env.spec.action_size).init)(
            key_clone, jnp.zeros(victims.env.spec.obs_size)
        )["params"]
        shared = Shared(victims.policies, jax.device_get(first), key)
        program = _program(victims.env, search.clone_steps // ENVS, search.clone_epochs)
        found = map_population(program, shared, victims.cells, ENVS, victims.lanes)
        return jax.tree.map(lambda x: x[:, None], found)

    cost = inner.cost._replace(env_steps=search.clone_steps // ENVS * ENVS)
    return Attack(perturb, nothing, blank, prepare, per_eps=False, cost=cost)


class Shared(NamedTuple):
    """What all victims of a call have in common."""

    policies: Policy  # [agents]
    first: PyTree  # the clone's parameters before it has learned
    key: Key


@lru_cache(maxsize=16)
def _program(env: Environment, unroll: int, epochs: int) -> Mapped:
    """`(Shared, Cell) -> parameters of the clone`."""

    def of_cell(shared: Shared, cell: Cell) -> PyTree:
        victim = masked_policy(shared.policies, cell)
        key_reset, key_act, key_fit = jax.random.split(shared.key, 3)
        workers = fresh_workers(key_reset, env, ENVS)
        _, steps = rollout(key_act, env, victim, 1.0, workers, unroll)
        obs_norm = jax.vmap(partial(normalise, victim))(steps.obs.reshape(-1, env.spec.obs_size))
        actions = jax.vmap(lambda x: action_distribution(victim, x).mode())(obs_norm)
        return fit_clone(key_fit, victim, shared.first, obs_norm, actions, epochs)

    return Mapped(of_cell)


def fit_clone(
    key: Key, victim: Policy, first: PyTree, obs_norm: Array, actions: Array, epochs: int
) -> PyTree:
    """The clone's parameters after so many passes over what was seen, `[rows, ...]` each."""
    outputs = first[f"layer_{len(HIDDEN)}"]["bias"].size

    def loss(params: PyTree, row: tuple[Array, Array]) -> Array:
        obs_norm, action = row
        output = jnp.asarray(_clone(outputs).apply({"params": params}, obs_norm))
        if victim.distribution == "categorical":
            return optax.softmax_cross_entropy_with_integer_labels(output, action)
        return jnp.sum(((output - action) * jnp.exp(-victim.params.log_std)) ** 2)

    return fit(key, first, loss, (obs_norm, actions), epochs)


def _clone(outputs: int) -> MLP:
    return MLP(HIDDEN, outputs)
