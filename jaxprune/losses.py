"""What PPO minimises on a minibatch, and the traced settings that say how.

Source: Schulman et al. 2017 (arXiv 1707.06347).
"""

from dataclasses import replace
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from jaxprune.policy import action_distribution, state_value
from jaxprune.types import Array, Params, Policy
from jaxprune.validation import DISCOUNT, FACTOR, FRACTION, LEARNING_RATE, RADIUS, WEIGHT, Range


@struct.dataclass
class Hyper:
    """Traced settings: a pytree of scalars, so every agent of a population may have its own."""

    learning_rate: Annotated[float, LEARNING_RATE] = 3e-4
    """Of Adam, at the first iteration."""
    final_learning_rate: Annotated[float, FRACTION] = 0.0
    """At the last iteration, as a fraction of `learning_rate`; linear in between."""
    clip: Annotated[float, Range(0, 10, "(]")] = 0.2
    """Range of the probability ratio that still earns its advantage."""
    entropy_weight: Annotated[float, WEIGHT] = 0.0
    """Of the entropy bonus."""
    value_weight: Annotated[float, WEIGHT] = 0.5
    """Of the critic's squared error."""
    gamma: Annotated[float, DISCOUNT] = 0.99
    """Discount per step."""
    gae_lambda: Annotated[float, FRACTION] = 0.95
    """Of generalised advantage estimation."""
    max_grad_norm: Annotated[float, FACTOR] = 0.5
    """Gradients are scaled down to this global norm, after masking."""
    reward_scale: Annotated[float, FACTOR] = 1.0
    """Factor on the rewards that the learner sees, after their normalisation."""
    weight_decay: Annotated[float, WEIGHT] = 0.0
    """Decoupled (AdamW), of the kernels that may be pruned: w <- w - rate * weight_decay * w."""
    l1: Annotated[float, WEIGHT] = 0.0
    """Of the proximal L1 step on the same kernels: w <- sign(w) max(|w| - rate * l1, 0)."""
    kappa: Annotated[float, WEIGHT] = 0.0
    """Of the SA-PPO regulariser (see `jaxprune.ppo.robust`); 0 is plain PPO."""
    sa_eps: Annotated[float | None, RADIUS] = None
    """Radius of the l_inf ball of regimes that train in one, in normalised units, at the end of its
    ramp; default: the task's."""
    sa_ramp: Annotated[float, FRACTION] = 0.75
    """Fraction of training over which the radius grows linearly from 0."""
    radial_weight: Annotated[float, FRACTION] = 0.0
    """Share of RADIAL's certified surrogate, PPO has the rest (published: 0.5, raw advantages)."""
    car_weight: Annotated[float, WEIGHT] = 0.0
    """Of CAR's adversarial surrogate, beside a clean one of weight 1, both over their sum."""
    car_temperature: Annotated[float, Range(0, 1e6, "(]")] = 1000.0
    """Of the softmax over a minibatch that weights CAR's worst rows more; a mean as it grows."""
    barpo_weight: Annotated[float, WEIGHT] = 0.0
    """Of BARPO's clean surrogate, its guidance, beside a perturbed one of weight 1, likewise."""
    adversary_rate: Annotated[float, FRACTION] = 0.0
    """Learning rate of ATLA's opponent, at the first iteration."""
    adversary_entropy: Annotated[float, WEIGHT] = 0.0
    """Of the opponent's entropy bonus."""
    wocar_weight: Annotated[float, WEIGHT] = 0.0
    """Of the advantage of WocaR's worst-case critic, in deviations of PPO's; linear from 0."""
    wocar_rate: Annotated[float, FRACTION] = 0.0
    """Learning rate of that critic, at the first iteration."""
    spectral_norm: Annotated[float, WEIGHT] = 0.0
    """Largest spectral norm of a kernel in the regime spectral; 0: no limit."""
    orthogonal: Annotated[float, WEIGHT] = 0.0
    """Of ||W^T W - I||^2 of the same kernels, decoupled (regime orthogonal)."""


class Sample(NamedTuple):
    """One row of a minibatch."""

    obs_norm: Array  # [obs_size], the true one: what the critic sees
    seen: Array  # [obs_size], what the actor saw: the same, or perturbed
    action: Array
    log_prob: Array  # []
    advantage: Array  # []
    value_target: Array  # []


class Losses(NamedTuple):
    """The parts of the loss, means over a minibatch."""

    policy: Array
    value: Array
    entropy: Array
    kl: Array
    robust: Array  # what the training regime adds, without its weight; 0 without


def ppo_loss(
    params: Params, policy: Policy, hyper: Hyper, sample: Sample, weight: Array | float = 1.0
) -> tuple[Array, Losses]:
    """The clipped surrogate, the critic's error and the entropy bonus of a minibatch `[B]`.

        L = -w E[psi(rho, A)] + w_v E[(V - V_target)^2] / 2 - w_e E[H]

    with rho = pi(a|s) / pi_old(a|s) and advantages normalised within the minibatch; the weight w
    is below 1 where a training regime has a surrogate of its own beside psi.

    Source: Schulman et al. 2017, equation 9.
    """
    policy = replace(policy, params=params)

    def terms(row: Sample):
        distribution = action_distribution(policy, row.seen)
        log_ratio = distribution.log_prob(row.action) - row.log_prob
        error = state_value(policy, row.obs_norm) - row.value_target
        return log_ratio, 0.5 * error**2, distribution.entropy()

    log_ratio, value_loss, entropy = jax.vmap(terms)(sample)
    ratio = jnp.exp(log_ratio)
    policy_loss = -surrogate(ratio, normalised(sample.advantage), hyper.clip)

    losses = Losses(
        policy_loss.mean(),
        value_loss.mean(),
        entropy.mean(),
        (ratio - 1 - log_ratio).mean(),
        jnp.zeros(()),
    )
    total = weight * losses.policy + hyper.value_weight * losses.value
    return total - hyper.entropy_weight * losses.entropy, losses


def surrogate(ratio: Array, advantage: Array, clip: Array | float) -> Array:
    """psi(rho, A) = min(rho A, clip(rho, 1 - c, 1 + c) A), element by element.

    Source: Schulman et al. 2017, equation 7.
    """
    return jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - clip, 1 + clip) * advantage)


def normalised(advantage: Array) -> Array:
    """The advantages of a minibatch `[B]` with mean 0 and standard deviation 1."""
    return (advantage - advantage.mean()) / (advantage.std() + 1e-8)
