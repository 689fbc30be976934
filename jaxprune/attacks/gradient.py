"""Adversaries that follow the gradient of the policy."""

from dataclasses import dataclass

from jaxprune.attacks.base import Attack, memoryless
from jaxprune.ball import ascend
from jaxprune.families import InputError
from jaxprune.policy import action_distribution
from jaxprune.types import Array, Key, Policy


@dataclass(frozen=True)
class MADConfig:
    """Settings of the maximal-action-difference attack."""

    steps: int = 10
    """Gradient evaluations per restart."""
    step_scale: float = 2.5
    """Step size in units of eps / steps; above 1 an iterate can cross the ball."""
    restarts: int = 1
    """Independent random starts; the best iterate of all is used."""


def mad(config: MADConfig) -> Attack:
    """Maximise KL(pi(.|s) || pi(.|s')) over the ball by projected sign-gradient ascent.

    For the Gaussian policy that is D^2 / 2 with the policy's real sigma, so the attack's D is a
    lower bound of what the certificates bound from above.

    Raises:
        InputError: fewer than one step or restart, or a step that goes nowhere.

    Source: Zhang et al. 2020 (arXiv 2003.08938), Algorithm 3, with random restarts, steps longer
    than eps / steps and the best iterate where the reference keeps the last.
    """

    for name in ("steps", "restarts"):
        if getattr(config, name) < 1:
            raise InputError(f"mad {name} {getattr(config, name)} is below 1: give at least 1")
    if not config.step_scale > 0:
        raise InputError(f"mad step_scale {config.step_scale} is not positive: 2.5 is usual")

    def perturb(key: Key, victim: Policy, obs_norm: Array, eps: Array) -> Array:
        clean = action_distribution(victim, obs_norm)
        return ascend(
            key,
            lambda x: clean.kl(action_distribution(victim, x)),
            obs_norm,
            eps,
            steps=config.steps,
            step_size=config.step_scale * eps / config.steps,
            restarts=config.restarts,
        )

    return memoryless(perturb)
