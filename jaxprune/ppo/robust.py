"""The regulariser that SA-PPO adds to PPO's loss: how far the policy moves in the worst case.

    max over ||s' - s||_inf <= eps of Delta(s, s')

    Gaussian     Delta = sum_j ((mu_j(s') - mu_j(s)) / sigma_j)^2 = D^2, twice the KL divergence
    categorical  Delta = KL(pi(s) || pi(s'))

An attack finds the maximum from below (pgd, sgld): s' and pi(s) are constants of the gradient,
which flows through mu(s') and sigma. What pi(s) would contribute averages out over many states
only: on a few that stay the same, descent can raise Delta. A bound comes from above (convex), and
all of it has a gradient, that of pi(s) included. Sigma is detached in neither, so a larger sigma is
one way to a smaller Delta; the reference offers to detach it.

Everything is about one observation; the learner maps it over a minibatch.

Source: Zhang et al. 2020 (arXiv 2003.08938), section 3.2, and github.com/huanzhang12/SA_PPO, which
has no 1/2 before the Gaussian's square and mu(s) as a constant.
"""

from collections.abc import Callable
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.certify.boxes import Box
from jaxprune.certify.crown_ibp import output_changes
from jaxprune.certify.query import make_query
from jaxprune.pgd import ascend, noisy_ascend
from jaxprune.policy import (
    Categorical,
    Distribution,
    action_distribution,
    affine_layers,
    deviations,
    inverse_std,
)
from jaxprune.types import Array, Key, Policy

Regulariser = Callable[[Key, Policy, Array, Array, Array], Array]
"""(key, policy, obs_norm `[obs_size]`, eps `[]`, mix `[]`) -> what to minimise, `[]`, at least 0.

`mix` is the weight of interval bounds in "convex", which ramps from 0 to 1 along with eps."""

# Gradient evaluations of an attack, and the step of pgd in units of eps / STEPS.
STEPS = 10
STEP_SCALE = 2.5
# What the reference calls the inverse temperature of its Langevin dynamics.
BETA = 1e-5
# Delta in units of KL(pi(s) || pi(s')), by `Policy.distribution`.
KL_SCALE = {"normal": 2.0, "categorical": 1.0}


def pgd(key: Key, policy: Policy, obs_norm: Array, eps: Array, mix: Array) -> Array:
    """Delta at the point that projected sign-gradient ascent finds, `[]`.

    Source: the inner maximisation of Madry et al. 2018, see `jaxprune.pgd.ascend`.
    """
    del mix
    return _delta_at(policy, obs_norm, perturbed(key, policy, obs_norm, eps), eps)


def sgld(key: Key, policy: Policy, obs_norm: Array, eps: Array, mix: Array) -> Array:
    """Delta at the end of the reference's noisy sign-gradient ascent, `[]`.

    Source: Zhang et al. 2020, appendix C; see `langevin`.
    """
    del mix
    return _delta_at(policy, obs_norm, langevin(key, policy, obs_norm, eps), eps)


def convex(key: Key, policy: Policy, obs_norm: Array, eps: Array, mix: Array) -> Array:
    """A bound on Delta from the box [low_j, high_j] of the change of the outputs, `[]`.

        [low, high] = mix * IBP + (1 - mix) * CROWN
        Gaussian     sum_j max(-low_j, high_j)^2 / sigma_j^2
        categorical  max over corners dz of the box of KL(softmax(z) || softmax(z + dz))

    The latter is the exact maximum over the box, KL being convex in dz; there are 2^K corners for K
    actions. An upper bound to the rounding of `obs_norm`'s type.

    Source: Zhang et al. 2020, section 3.2; CROWN-IBP: Zhang et al. 2020 (arXiv 1906.06316).
    """
    del key
    radius = jnp.full_like(obs_norm, eps)
    inv_std = inverse_std(policy)
    query = make_query(affine_layers(policy), radius, inv_std, policy.activation, obs_norm)
    value, interval, linear = output_changes(query)
    ends = zip(interval, linear, strict=True)
    change = Box(*(mix * loose + (1 - mix) * tight for loose, tight in ends))
    return _zero_without_ball(eps, LARGEST_DELTA[policy.distribution](value, change))


REGULARISERS: dict[str, Regulariser] = {"pgd": pgd, "sgld": sgld, "convex": convex}


# --- attacks --------------------------------------------------------------------------------------


def perturbed(key: Key, policy: Policy, obs_norm: Array, eps: Array) -> Array:
    """The point that projected gradient ascent of the KL divergence finds in the ball.

    `[obs_size]`, without a gradient: for the regulariser, and for rollouts under perturbation.

    Args:
        key: consumed.
        policy: the victim.
        obs_norm: centre of the ball, normalised, `[obs_size]`.
        eps: radius, `[]`, may be traced.
    """
    # Frozen before the ascent, so that no derivative of its loop is ever built.
    policy, obs_norm = jax.lax.stop_gradient((policy, obs_norm))
    clean = action_distribution(policy, obs_norm)
    return ascend(
        key,
        lambda x: _delta(policy, clean, x),
        obs_norm,
        eps,
        steps=STEPS,
        step_size=STEP_SCALE * eps / STEPS,
        restarts=1,
    )


def langevin(key: Key, policy: Policy, obs_norm: Array, eps: Array) -> Array:
    """The last iterate of the reference's noisy ascent of Delta; arguments as of `perturbed`.

    In the reference, gradients are those of the mean over a minibatch, against which noise weighs
    more.

    Source: `get_state_kl_bound_sgld` of the reference; see `jaxprune.pgd.noisy_ascend`.
    """
    policy, obs_norm = jax.lax.stop_gradient((policy, obs_norm))
    clean = action_distribution(policy, obs_norm)
    return noisy_ascend(
        key,
        lambda x: _delta(policy, clean, x),
        obs_norm,
        eps,
        steps=STEPS,
        temperature=BETA,
    )


def _delta_at(policy: Policy, obs_norm: Array, point: Array, eps: Array) -> Array:
    """Delta(s, point), pi(s) a constant."""
    clean = jax.lax.stop_gradient(action_distribution(policy, obs_norm))
    return _zero_without_ball(eps, _delta(policy, clean, point))


def _delta(policy: Policy, clean: Distribution, point: Array) -> Array:
    """From the distribution at s to the one at s'.

    A deviation that is a constant in `clean` only changes no gradient: with equal deviations that
    of the rest of the KL divergence is 0.
    """
    return KL_SCALE[policy.distribution] * clean.kl(action_distribution(policy, point))


def _zero_without_ball(eps: Array, value: Array) -> Array:
    """Where eps is 0, what is left is rounding."""
    return jnp.where(eps > 0, value, 0.0)


def _gaussian_delta(value: Array, change: Box) -> Array:
    """Of changes in units of sigma."""
    del value
    largest = jnp.maximum(-change.low, change.high)
    return jnp.sum(deviations(largest, jnp.zeros_like(largest)) ** 2)


def _categorical_delta(value: Array, change: Box) -> Array:
    """Of changes of the logits `value`."""
    corners = np.array(list(product([False, True], repeat=value.size)))
    moved = value + jnp.where(corners, change.high, change.low)
    return jnp.max(jax.vmap(lambda z: Categorical(value).kl(Categorical(z)))(moved))


# The largest Delta over a box, by `Policy.distribution`.
LARGEST_DELTA: dict[str, Callable[[Array, Box], Array]] = {
    "normal": _gaussian_delta,
    "categorical": _categorical_delta,
}
