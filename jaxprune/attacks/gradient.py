"""Adversaries that follow the gradient of the policy: MAD, maximal action difference.

All maximise KL(pi(.|s) || pi(.|s')) over the ball, with the policy's real sigma unless said
otherwise: for the Gaussian policy that is D^2 / 2, so the attack's D is a lower bound of what the
certificates bound from above.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxprune.attacks.base import Attack, Cost, memoryless
from jaxprune.attacks.config import MADConfig
from jaxprune.pgd import ascend, noisy_ascend, usable
from jaxprune.policy import action_distribution
from jaxprune.types import Array, Key, Policy

# Where the gradient of `fgsm` is taken, in units of eps, and that of `mad_power`, in observations.
FGSM_OFFSET = 0.01
POWER_SCALE = 0.01
# Gradient steps and temperature of the published attack.
SGLD_STEPS = 10
SGLD_TEMPERATURE = 1.0


def divergence(victim: Policy, obs_norm: Array) -> Callable[[Array], Array]:
    """s' -> KL(pi(.|s) || pi(.|s')) in nats, `[obs_size] -> []`."""
    clean = action_distribution(victim, obs_norm)
    return lambda x: clean.kl(action_distribution(victim, x))


def mad(config: MADConfig) -> Attack:
    """Projected sign-gradient ascent of the KL divergence.

    Raises:
        InputError: fewer than one step or restart, or a step that goes nowhere.

    Source: Zhang et al. 2020 (arXiv 2003.08938), Algorithm 3, with random restarts, steps longer
    than eps / steps and the best iterate where the reference keeps the last.
    """
    return _climbing(config, momentum=0.0)


def mad_momentum(config: MADConfig) -> Attack:
    """`mad` along the sum of all gradients so far, each divided by its l_1 norm.

    Raises:
        InputError: fewer than one step or restart, or a step that goes nowhere.

    Source: MI-FGSM, Dong et al. 2018 (arXiv 1710.06081), Algorithm 1 with its decay of 1; starts,
    steps and the best iterate as in `mad`.
    """
    return _climbing(config, momentum=1.0)


def fgsm() -> Attack:
    """x' = x + eps sign(g), g = grad KL at x + 0.01 eps u, u ~ U(-1, 1)^d: one gradient.

    At x itself the divergence has no gradient.

    Source: Goodfellow et al. 2015 (arXiv 1412.6572); the random offset: Tramer et al. 2018.
    """

    def offset(key: Key, obs_norm: Array, eps: Array) -> Array:
        return FGSM_OFFSET * eps * jax.random.uniform(key, obs_norm.shape, obs_norm.dtype, -1, 1)

    return _one_gradient(offset)


def mad_power() -> Attack:
    """x' = x + eps sign(g), g = grad KL at x + 0.01 z, z ~ N(0, I): one gradient.

    Near x the divergence is d' H d / 2, so that g is 0.01 H z: one power iteration, which turns z
    towards the direction of the largest curvature.

    Source: Miyato et al. 2018 (arXiv 1704.03976), section 3.3, as used on policies by
    github.com/AmineAndam04/advrl.
    """

    def offset(key: Key, obs_norm: Array, eps: Array) -> Array:
        del eps  # the curvature is that at x, whatever the ball
        return POWER_SCALE * jax.random.normal(key, obs_norm.shape, obs_norm.dtype)

    return _one_gradient(offset)


def mad_sgld() -> Attack:
    """The published attack: the last of 10 noisy sign-gradient steps of eps / 10.

    For the Gaussian policy, the objective is sum_j (mu_j(s') - mu_j(s))^2 without sigma, for the
    reference attacks deterministic policies by setting all sigma_j to the same number.

    Source: Zhang et al. 2020 (arXiv 2003.08938), Algorithm 3 and appendix C, with the constants of
    github.com/huanzhang12/SA_PPO; see `jaxprune.pgd.noisy_ascend`.
    """

    def perturb(key: Key, victim: Policy, obs_norm: Array, eps: Array) -> Array:
        clean = action_distribution(victim, obs_norm)
        return noisy_ascend(
            key,
            lambda x: clean.change(action_distribution(victim, x)),
            obs_norm,
            eps,
            steps=SGLD_STEPS,
            temperature=SGLD_TEMPERATURE,
        )

    return memoryless(perturb, Cost(queries=1, gradients=SGLD_STEPS))


def climb(
    config: MADConfig,
    key: Key,
    objective: Callable[[Array], Array],
    obs_norm: Array,
    eps: Array,
    momentum: float = 0.0,
) -> Array:
    """The best s' that projected sign-gradient ascent of `objective` finds, `[obs_size]`.

    See `jaxprune.pgd.ascend`; by these settings climb all attacks that have an objective.
    """
    return ascend(
        key,
        objective,
        obs_norm,
        eps,
        steps=config.steps,
        step_size=config.step_scale * eps / config.steps,
        restarts=config.restarts,
        momentum=momentum,
    )


def _climbing(config: MADConfig, momentum: float) -> Attack:
    config.check()

    def perturb(key: Key, victim: Policy, obs_norm: Array, eps: Array) -> Array:
        return climb(config, key, divergence(victim, obs_norm), obs_norm, eps, momentum)

    cost = Cost(queries=2 + config.restarts, gradients=config.restarts * config.steps)
    return memoryless(perturb, cost)


def _one_gradient(offset: Callable[[Key, Array, Array], Array]) -> Attack:
    def perturb(key: Key, victim: Policy, obs_norm: Array, eps: Array) -> Array:
        start = obs_norm + offset(key, obs_norm, eps)
        gradient = jax.grad(divergence(victim, obs_norm))(start)
        return obs_norm + eps * jnp.sign(usable(gradient))

    return memoryless(perturb, Cost(queries=1, gradients=1))
