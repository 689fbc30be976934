"""What training regimes minimise beside PPO's surrogate, and show the actor in rollouts.

With b the stored log-probability, A the advantage and c the clip of PPO:

    rho(x) = exp(log pi(a|x) - b)    psi(rho) = min(rho A, clip(rho, 1 - c, 1 + c) A)

Everything is about one row of a minibatch; the learner maps it. Worst observations are constants of
the gradient, and the ball is around the true observation.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp

from jaxprune.certify.boxes import Box
from jaxprune.certify.crown_ibp import output_changes
from jaxprune.certify.query import make_query, with_rows
from jaxprune.losses import Hyper, Sample, surrogate
from jaxprune.pgd import ascend
from jaxprune.policy import action_distribution, affine_layers, inverse_std
from jaxprune.ppo.robust import STEP_SCALE, STEPS, Regulariser, perturbed
from jaxprune.types import Array, Key, Policy


class Ball(NamedTuple):
    """The l_inf ball of a moment of training."""

    eps: Array  # [], the radius in force, normalised units
    grown: Array  # [], which part of its ramp is over, 0 .. 1


# (key, policy, row, advantage [], hyper, ball) -> what to minimise, []. The advantage is that of
# the row, normalised within the minibatch: all parts of a loss share it.
Defence: TypeAlias = Callable[[Key, Policy, Sample, Array, Hyper, Ball], Array]


def uniform(key: Key, policy: Policy, obs_norm: Array, eps: Array) -> Array:
    """The observation with uniform noise in the ball, `[obs_size]`."""
    del policy
    return obs_norm + eps * jax.random.uniform(key, obs_norm.shape, obs_norm.dtype, -1.0, 1.0)


def divergence(regulariser: Regulariser) -> Defence:
    """An SA regulariser at the true observation.

    Source: Zhang et al. 2020 (SA-PPO, arXiv 2003.08938), section 3.2.
    """

    def defence(
        key: Key, policy: Policy, row: Sample, advantage: Array, hyper: Hyper, ball: Ball
    ) -> Array:
        del advantage, hyper
        return regulariser(key, policy, row.obs_norm, *ball)

    return defence


# --- at an observation that an attack found -------------------------------------------------------


def adversarial(
    key: Key, policy: Policy, row: Sample, advantage: Array, hyper: Hyper, ball: Ball
) -> Array:
    """-psi at the observation of the ball that makes it largest, `[]`.

    The ascent is of -A log pi(a|x), which has the same order and is never clipped, and keeps its
    best point. The reference ascends -psi itself, which has no gradient where it is clipped, in
    steps of eps / 10, and keeps the last point.

    Source: Li et al. 2025 (CAR-PPO, arXiv 2502.16734) and github.com/RyanHaoranLi/CAR-RL.
    """
    frozen, centre, weight = jax.lax.stop_gradient((policy, row.obs_norm, advantage))
    worst = ascend(
        key,
        lambda x: -weight * action_distribution(frozen, x).log_prob(row.action),
        centre,
        ball.eps,
        steps=STEPS,
        step_size=STEP_SCALE * ball.eps / STEPS,
        restarts=1,
    )
    return -surrogate(ratio_at(policy, row, worst), advantage, hyper.clip)


def soft_worst(values: Array, hyper: Hyper) -> Array:
    """sum p l with p = softmax(l / car_temperature), a constant, over a minibatch `[B]`.

    Source: the reference of CAR-PPO.
    """
    share = jax.lax.stop_gradient(jax.nn.softmax(values / hyper.car_temperature))
    return jnp.sum(share * values)


def bilevel(
    key: Key, policy: Policy, row: Sample, advantage: Array, hyper: Hyper, ball: Ball
) -> Array:
    """-(psi(rho(s')) + w psi(rho(s))) / (1 + w), s' where the policy moves most, `[]`.

    The on-policy reading of the paper, whose code is not published: rollouts are perturbed too, so
    that b is of what the actor saw, and s' is found anew for every minibatch.

    Source: Li et al. 2026 (BARPO, arXiv 2512.01228).
    """
    worst = perturbed(key, policy, row.obs_norm, ball.eps)
    there, here = (
        surrogate(ratio_at(policy, row, x), advantage, hyper.clip) for x in (worst, row.obs_norm)
    )
    return -(there + hyper.barpo_weight * here) / (1 + hyper.barpo_weight)


def ratio_at(policy: Policy, row: Sample, obs_norm: Array) -> Array:
    """rho, the probability ratio of the row's action at an observation, `[]`."""
    return jnp.exp(action_distribution(policy, obs_norm).log_prob(row.action) - row.log_prob)


# --- by a bound -----------------------------------------------------------------------------------


def certified(
    key: Key, policy: Policy, row: Sample, advantage: Array, hyper: Hyper, ball: Ball
) -> Array:
    """PPO's clip on the certified worst ratio, `[]`: a bound on -psi over the ball.

        A min(rho_low, 1 + c)  if A >= 0,    A max(rho_high, 1 - c)  otherwise

    This is the reference's minimum over {rho, rho_high, rho_low} x {plain, clipped} where all three
    have the same advantage; there the clean one has the normalised and the others the raw one.

    Source: Oikarinen et al. 2021 (RADIAL, arXiv 2008.01976) and github.com/tuomaso/radial_rl_v2.
    """
    del key
    low, high = jnp.exp(jnp.stack(log_probs(policy, row, ball.eps)) - row.log_prob)
    gained = advantage * jnp.minimum(low, 1 + hyper.clip)
    return -jnp.where(advantage >= 0, gained, advantage * jnp.maximum(high, 1 - hyper.clip))


def log_probs(policy: Policy, row: Sample, eps: Array) -> Box:
    """Bounds on log pi(a|s') over the ball around the row's observation, `[]` each, by intervals.

    Not rounded outward.
    """
    return LOG_PROBS[policy.distribution](policy, row, jnp.full_like(row.obs_norm, eps))


def _gaussian(policy: Policy, row: Sample, radius: Array) -> Box:
    """From the nearest and the farthest point of the box of means, in units of sigma."""
    inv_std = jnp.exp(-policy.params.log_std)
    query = make_query(affine_layers(policy), radius, inv_std, policy.activation, row.obs_norm)
    mean, change, _ = output_changes(query)
    away = row.action * inv_std - mean
    near = jnp.maximum(0.0, jnp.maximum(away - change.high, change.low - away))
    far = jnp.maximum(jnp.abs(away - change.low), jnp.abs(away - change.high))
    here = action_distribution(policy, row.obs_norm).log_prob(row.action)
    return Box(*(here + jnp.sum(away**2 - d**2) / 2 for d in (far, near)))


def _categorical(policy: Policy, row: Sample, radius: Array) -> Box:
    """From bounds on all z_j - z_a: log pi(a) = -log sum_j exp(z_j - z_a)."""
    layers = affine_layers(policy)
    rows = jnp.eye(layers[-1].bias.size)
    query = make_query(layers, radius, inverse_std(policy), policy.activation, row.obs_norm)
    ahead, change, _ = output_changes(with_rows(query, rows - rows[row.action]))
    return Box(-logsumexp(ahead + change.high), -logsumexp(ahead + change.low))


# By `Policy.distribution`.
LOG_PROBS: dict[str, Callable[[Policy, Sample, Array], Box]] = {
    "normal": _gaussian,
    "categorical": _categorical,
}
