"""The car in a valley, after Moore (1990): its motor is too weak to climb out without a swing."""

import jax
import jax.numpy as jnp

from jaxprune.envs.base import EnvSpec, conclude
from jaxprune.types import ActionBox, Array, EnvState, Key, TimeStep


class MountainCar:
    """Leave a valley by pushing left (0), not at all (1) or right (2); Gymnasium's MountainCar-v0.

    The observation is `(position, velocity)`, unitless, velocity per step; the height of the track
    is a sine of three times the position. Every step costs 1, the one that arrives included.
    """

    GRAVITY = 0.0025  # per step^2, on the steepest slope
    PUSH = 0.001  # per step^2
    MAX_SPEED = 0.07  # per step
    LEFT, RIGHT = -1.2, 0.6  # ends of the track: a wall that stops the car, and a plain limit
    GOAL = 0.5
    RESET_LOW, RESET_HIGH = -0.6, -0.4

    spec = EnvSpec(
        name="mountain_car",
        backend="analytic",
        obs_size=2,
        action_size=3,
        discrete=True,
        horizon=200,
        eps=0.1,
        reward_range=(-1.0, 0.0),
        reward_clip=(-1.0, 0.0),
    )

    def reset(self, key: Key) -> tuple[EnvState, Array]:
        """At rest near the bottom, position uniform in [-0.6, -0.4]."""
        position = jax.random.uniform(key, minval=self.RESET_LOW, maxval=self.RESET_HIGH)
        obs = jnp.array([position, 0.0])
        return EnvState(physics=obs, time=jnp.int32(0)), obs

    def step(self, state: EnvState, action: Array) -> tuple[EnvState, TimeStep]:
        """One step of semi-implicit Euler."""
        obs, arrived = self._drive(state.physics, (action - 1) * self.PUSH)
        time = state.time + 1
        return EnvState(obs, time), conclude(self.spec, time, obs, -jnp.ones(()), arrived)

    def _drive(self, physics: Array, push: Array) -> tuple[Array, Array]:
        """The physics one step later, and whether the car is at the goal, not on its way back."""
        position, velocity = physics
        velocity += push - self.GRAVITY * jnp.cos(3 * position)
        velocity = jnp.clip(velocity, -self.MAX_SPEED, self.MAX_SPEED)
        position = jnp.clip(position + velocity, self.LEFT, self.RIGHT)
        velocity = jnp.where((position == self.LEFT) & (velocity < 0), 0.0, velocity)
        return jnp.array([position, velocity]), (position >= self.GOAL) & (velocity >= 0)


class MountainCarContinuous(MountainCar):
    """The same valley, a stronger motor, an action in +-1; Gymnasium's MountainCarContinuous-v0.

    Arriving, a little lower than for `MountainCar`, earns 100. Every step costs a tenth of the
    square of the action *before* it is clipped: a policy that asks for more than the motor has pays
    for it, and the reward has no lower bound. Actions in +-1 earn what `reward_clip` says.
    """

    PUSH = 0.0015  # per step^2, of an action of 1
    MAX_ACTION = 1.0
    GOAL = 0.45
    PRIZE = 100.0
    ACTION_COST = 0.1

    spec = EnvSpec(
        name="mountain_car_continuous",
        backend="analytic",
        obs_size=2,
        action_size=1,
        discrete=False,
        horizon=999,
        eps=0.1,
        reward_range=None,
        reward_clip=(-0.1, 100.0),
        action_box=ActionBox((-MAX_ACTION,), (MAX_ACTION,)),
    )

    def step(self, state: EnvState, action: Array) -> tuple[EnvState, TimeStep]:
        """One step of semi-implicit Euler under the clipped action."""
        push = jnp.clip(action[0], -self.MAX_ACTION, self.MAX_ACTION) * self.PUSH
        obs, arrived = self._drive(state.physics, push)
        time = state.time + 1
        reward = jnp.where(arrived, self.PRIZE, 0.0) - self.ACTION_COST * action[0] ** 2
        return EnvState(obs, time), conclude(self.spec, time, obs, reward, arrived)
