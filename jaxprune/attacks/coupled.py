"""Adversaries that cannot jump: what changes from step to step is bounded too."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxprune.attacks.base import Attack, Victims, within
from jaxprune.envs import EnvSpec
from jaxprune.types import Array, Key, Policy, PyTree
from jaxprune.validation import InputError


class Coupled(NamedTuple):
    """Parameters of the attack inside, and what there is before the first step."""

    inner: PyTree
    start: Array  # [obs_size], zeros


class Memory(NamedTuple):
    """What the attack inside remembers, and where the last step was moved to."""

    inner: PyTree
    delta: Array  # [obs_size], x' - x


def coupled(attack: Attack, rate: float = 0.2) -> Attack:
    """An attack whose perturbation moves by at most rate * eps per step.

        delta_t = clip(nu(x_t) - x_t, max(-eps, delta_{t-1} - rate eps),
                                      min(eps, delta_{t-1} + rate eps)),  delta_{-1} = 0

    nu is the attack inside, which does not know: it is projected, coordinate by coordinate. The
    first steps are therefore weaker than it, and all are if it changes its mind; a rate of 2 lets
    everything through.

    Args:
        attack: any.
        rate: in units of eps, positive.

    Raises:
        InputError: a rate that is not positive.

    Source: GRAD, Liang et al. 2024 (arXiv 2307.12062), which trains an adversary in this set.
    """
    if not rate > 0:
        raise InputError(f"coupled rate {rate} is not positive: 0.2 is usual")

    attack = within(attack)  # what is remembered must be in the ball too

    def perturb(params, memory, key, victim, obs_norm, eps, moment=None):
        wanted, inner = attack.perturb(
            params.inner, memory.inner, key, victim, obs_norm, eps, moment
        )
        low = jnp.maximum(-eps, memory.delta - rate * eps)
        high = jnp.minimum(eps, memory.delta + rate * eps)
        delta = jnp.clip(wanted - obs_norm, low, high)
        return obs_norm + delta, Memory(inner, delta)

    def init(params: Coupled, key: Key) -> Memory:
        return Memory(attack.init(params.inner, key), params.start)

    def blank(victim: Policy, spec: EnvSpec) -> Coupled:
        return Coupled(attack.blank(victim, spec), jnp.zeros(spec.obs_size))

    train = attack.prepare
    if train is None:
        return attack._replace(perturb=perturb, init=init, blank=blank)

    def prepare(victims: Victims) -> Coupled:
        spec = victims.env.spec
        start = jnp.zeros((len(victims.cells.agent), attack.members(spec), spec.obs_size))
        return Coupled(train(victims), jax.device_get(start))

    return attack._replace(perturb=perturb, init=init, blank=blank, prepare=prepare)
