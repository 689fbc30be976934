"""The task of a learned adversary: the victim's task with the victim inside, paid in reverse.

What the adversary decides is turned into an observation of the ball and shown to the victim; the
simulator moves on from the true state. An adversary is then a policy like any other.

Source: Zhang et al. 2020 (SA-MDP, arXiv 2003.08938), section 3.1: against a fixed policy the
optimal adversary is the optimal policy of such an MDP; Zhang et al. 2021 (ATLA, arXiv 2101.08452).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

import jax

from jaxprune.envs import Environment, EnvSpec
from jaxprune.pgd import projected
from jaxprune.policy import normalise
from jaxprune.rollout import Play, act
from jaxprune.types import AnyArray, Array, EnvState, Key, Policy, TimeStep

# (key, victim, obs_norm [obs_size], eps [], decision [action_size]) -> obs_norm' in the ball
Move: TypeAlias = Callable[[Key, Policy, Array, Array, Array], Array]


class Scene(NamedTuple):
    """The victim's task in the middle of an episode: `physics` of the adversary's."""

    state: EnvState  # of the task
    obs: Array  # [obs_size], raw and true
    key: Key  # of all steps of this episode


@dataclass(frozen=True, eq=False)  # it may hold traced arrays, which do not compare
class AdversarialMDP:
    """An `Environment` in which the action is a perturbation and the reward is the victim's loss.

    The observation is the victim's normalised *true* observation, never what it was shown; the
    reward is minus the task's; episodes end as the task's do.

    The victim and eps may be traced: build the wrapper inside the program that uses it.
    """

    env: Environment
    victim: Policy
    """Already masked."""
    eps: AnyArray
    """Radius of the ball in normalised units, `[]`."""
    move: Move
    """Makes the shown observation from the adversary's decision."""
    action_size: int
    """Length of a decision."""
    stochastic: bool = False
    """Whether the victim draws its actions."""

    @property
    def spec(self) -> EnvSpec:
        """That of the task with continuous decisions and the reward's bounds swapped."""
        task = self.env.spec
        return replace(
            task,
            name=f"{task.name}_adversary",
            action_size=self.action_size,
            discrete=False,
            reward_range=None if task.reward_range is None else _negated(task.reward_range),
            reward_clip=_negated(task.reward_clip),
            action_box=None,
        )

    def reset(self, key: Key) -> tuple[EnvState, Array]:
        """A fresh episode of the task, and the victim's first true observation."""
        key_reset, key_steps = jax.random.split(key)
        state, obs = self.env.reset(key_reset)
        return self._scene(state, obs, key_steps), normalise(self.victim, obs)

    def step(self, state: EnvState, action: Array) -> tuple[EnvState, TimeStep]:
        """One step of the task under the victim's action at the perturbed observation."""
        scene: Scene = state.physics

        def perturb(memory, key, victim, obs_norm, eps, moment):
            del moment  # the adversary has decided already
            moved = self.move(key, victim, obs_norm, eps, action)
            return projected(moved, obs_norm, eps), memory

        taken, _, _ = act(
            jax.random.fold_in(scene.key, state.time),
            self.env.spec,
            self.victim,
            perturb,
            (),
            scene.obs,
            self.eps,
            Play(self.stochastic),
        )
        after_state, after = self.env.step(scene.state, taken)
        seen = normalise(self.victim, after.obs)
        return self._scene(after_state, after.obs, scene.key), after._replace(
            obs=seen, reward=-after.reward
        )

    @staticmethod
    def _scene(state: EnvState, obs: Array, key: Key) -> EnvState:
        return EnvState(Scene(state, obs, key), state.time)


def _negated(bounds: tuple[float, float]) -> tuple[float, float]:
    low, high = bounds
    return -high, -low
