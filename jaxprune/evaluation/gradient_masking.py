"""Whether the gradients of a policy can be trusted: a pruned network may only seem robust.

Dead or saturated units have no gradient. An attack that follows it is then blind to a policy that
others still move, and the robustness that it measures is an artefact.
"""

from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxprune.attacks import Attack, MADConfig
from jaxprune.attacks.gradient import mad
from jaxprune.devices import Mapped
from jaxprune.evaluation.pointwise import at_states, over_states
from jaxprune.policy import action_distribution, affine_layers, normalise
from jaxprune.types import AnyArray, Array, Key, Masks, Policy

# Corners of the ball that are tried without a gradient, and how many at a time for each state.
CORNERS, CHUNK = 1000, 50


class Diagnosis(NamedTuple):
    """What attacks with and without gradients reach at the same states; float32, `[..., n]`.

    Reached is D = sqrt(2 KL(pi(.|s) || pi(.|s'))), what MAD maximises. For a Gaussian that is the D
    of the certificates; for a choice theirs is the largest logit change, which MAD is not after.
    """

    gradient: AnyArray  # D, by the MAD attack
    doubled: AnyArray  # D, by MAD with twice the steps and twice the restarts
    corners: AnyArray  # the largest D of random corners of the ball
    zero_gradient: AnyArray  # share of the connected coordinates without a gradient, [0, 1]
    transferred: AnyArray  # D at what MAD finds against the source; NaN without one
    undefined: AnyArray = 0.0  # share of the random corners whose KL is not finite, [0, 1]


def diagnose(
    policy: Policy,
    masks: Masks | None,
    eps: float,
    obs: ArrayLike,
    key: Key,
    config: MADConfig | None = None,
    source: Policy | None = None,
) -> Diagnosis:
    """What the gradient attack reaches at each observation, beside five ways to doubt it.

    * `doubled` is much above `gradient`: the attack has not converged.
    * `corners`, 1000 points here + eps * s with s uniform in {-1, 1}^obs_size, are above it: the
      gradient leads astray. Up to eight coordinates that is nearly every corner there is.
    * `zero_gradient` is high: dKL/dx at a uniformly random x of the ball is exactly 0, or not
      finite, in a coordinate that some path of weights connects to an output. At eps 0 the only x
      is the centre, where it always is 0. Without any such coordinate it is 0.
    * `undefined` is not 0: the policy overflows in the ball, and attacks do not see what it does
      there, because a KL divergence that is not finite is worse for them than every other.
    * `transferred` is above it: what MAD finds against the source, at the victim's normalised
      observation, moves the victim more than what was made for it.

    Args:
        policy: leading axes `[...]` are agents.
        masks: leading axes are those of the policy, then any number more; None for no pruning.
        eps: radius of the l_inf ball in normalised observation units.
        obs: raw observations `[n, obs_size]`, or `[..., n, obs_size]` with the axes of the masks.
        key: consumed.
        config: of the attack.
        source: the policy whose attack is transferred, masked; leading axes are those of the
            result without n, or none.

    Raises:
        InputError: the source has other leading axes, or settings that the attack cannot honour.

    Source: the signs of masked gradients of Athalye et al. 2018 (arXiv 1802.00420, section 3.1).
    """
    return at_states(_program(config or MADConfig()), policy, masks, eps, obs, key, source)


def connected(policy: Policy) -> Array:
    """Whether a path of nonzero weights leads from a coordinate to an output, bool `[obs_size]`."""
    *earlier, last = [layer.weight != 0 for layer in affine_layers(policy)]
    leads = jnp.any(last, axis=0)
    for weight in reversed(earlier):
        leads = jnp.any(weight & leads[:, None], axis=0)
    return leads


@lru_cache(maxsize=16)
def _program(config: MADConfig) -> Mapped:
    attack = mad(config)
    longer = mad(replace(config, steps=2 * config.steps, restarts=2 * config.restarts))

    def ask(key: Key, victim: Policy, obs: Array, eps: Array, source: Policy | None) -> Diagnosis:
        keys = jax.random.split(key, 5)
        here = normalise(victim, obs)
        clean = action_distribution(victim, here)

        def divergence(x: Array) -> Array:
            return clean.kl(action_distribution(victim, x))

        def distance(x: Array) -> Array:
            return jnp.sqrt(2 * jnp.maximum(divergence(x), 0))  # rounding can leave it below 0

        def found(attack: Attack, key: Key, against: Policy) -> Array:
            return attack.perturb((), (), key, against, here, eps)[0]

        signs = jax.random.rademacher(keys[2], (CORNERS, *here.shape), here.dtype)
        corners = jax.lax.map(lambda s: distance(here + eps * s), signs, batch_size=CHUNK)

        start = eps * jax.random.uniform(keys[3], here.shape, here.dtype, -1.0, 1.0)
        slope = jax.grad(divergence)(here + start)
        reached = connected(victim)
        blind = reached & ((slope == 0) | ~jnp.isfinite(slope))

        if source is None:
            transferred = jnp.full((), jnp.nan)
        else:
            transferred = distance(found(attack, keys[4], source))
        return Diagnosis(
            gradient=distance(found(attack, keys[0], victim)),
            doubled=distance(found(longer, keys[1], victim)),
            corners=jnp.nanmax(corners),  # a point that overflows is no find, as in `ascend`
            zero_gradient=jnp.sum(blind) / jnp.maximum(jnp.sum(reached), 1),
            transferred=transferred,
            undefined=jnp.mean(~jnp.isfinite(corners), dtype=here.dtype),
        )

    return over_states(ask)
