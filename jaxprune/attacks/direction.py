"""One direction for a whole episode: where the victim's output is pushed at every step.

Noise averages out over an episode, and what changes the action most changes it now here, now there.
What pushes the action the same way at every step is what a walking robot does not stand.
"""

import jax.numpy as jnp
import numpy as np

from jaxprune.attacks.base import Attack, Cost, Victims, nothing
from jaxprune.attacks.config import DirectorConfig, MADConfig
from jaxprune.envs import EnvSpec
from jaxprune.pgd import ascend_from_corner
from jaxprune.policy import actor_output
from jaxprune.types import Array, Policy

# Up to so many actions every vector of signs and zeros is tried.
FEW = 3


def direction(config: DirectorConfig) -> Attack:
    """Push the victim's output in one direction d, the same at every step.

        s' = argmax over the ball of <d, f(s')>

    with f the mean of a Gaussian victim, in units of the action, or the logits of a categorical
    one. Members are the `directions`; nothing is trained.

    Raises:
        InputError: settings of the directing attacks that they could not honour.

    Source: this package; the inner ascent is the actor of PA-AD, Sun et al. 2022
    (arXiv 2106.05087), with a linear objective.
    """
    config.check()

    def perturb(params, memory, key, victim, obs_norm, eps, moment=None):
        del key, moment  # nothing is drawn, and it does not look ahead
        return steer(config, victim, obs_norm, eps, params), memory

    def prepare(victims: Victims) -> np.ndarray:
        fixed = directions(victims.env.spec, config.directions)
        return np.broadcast_to(fixed, (len(victims.cells.agent), *fixed.shape))

    return Attack(
        perturb,
        nothing,
        lambda victim, spec: jnp.zeros(spec.action_size),
        prepare,
        members=lambda spec: len(directions(spec, config.directions)),
        per_eps=False,
        cost=steering_cost(config),
    )


def directions(spec: EnvSpec, most: int) -> np.ndarray:
    """Returns the directions that are tried in a task, float32 `[members, action_size]`.

    A choice of K actions has 2 K: towards and away from each. Up to three continuous actions have
    all vectors of -1, 0 and 1 but the zero; more have the axes, both ways, and random signs, `most`
    in all.
    """
    size = spec.action_size
    axes = np.concatenate([np.eye(size), -np.eye(size)])
    if spec.discrete:
        found = axes
    elif size <= FEW:
        found = np.array(list(np.ndindex(*[3] * size))) - 1
        found = found[np.any(found, axis=1)]
    else:
        drawn = np.random.default_rng(0).choice([-1, 1], (8 * most, size))
        _, first = np.unique(drawn, axis=0, return_index=True)
        found = np.concatenate([axes, drawn[np.sort(first)][: max(0, most - len(axes))]])
    return found.astype(np.float32)


def steer(
    config: DirectorConfig, victim: Policy, obs_norm: Array, eps: Array, towards: Array
) -> Array:
    """Returns the s' of the ball with the largest <d, f(s')> that gradients find, `[obs_size]`.

    Args:
        config: of the ascent.
        victim: the policy, already masked.
        obs_norm: s, `[obs_size]`.
        eps: radius, `[]`.
        towards: d, `[action_size]`; its length does not matter.
    """
    return ascend_from_corner(
        lambda x: actor_output(victim, x) @ towards,
        obs_norm,
        eps,
        steps=config.actor_steps,
        step_size=MADConfig.step_scale * eps / config.actor_steps,
    )


def steering_cost(config: DirectorConfig) -> Cost:
    """Returns what `steer` spends per step: its gradients, and the value of the last iterate."""
    return Cost(queries=1, gradients=config.actor_steps)
