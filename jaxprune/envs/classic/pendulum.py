"""The pendulum on a motor that is too weak to lift it in one go."""

import jax
import jax.numpy as jnp

from jaxprune.envs.base import EnvSpec, conclude
from jaxprune.envs.classic.angles import wrap
from jaxprune.types import ActionBox, Array, EnvState, Key, TimeStep


class Pendulum:
    """Swing a rod up and hold it there with a torque in +-2 N m; Gymnasium's Pendulum-v1.

    The physics is `(theta, theta_dot)`, theta = 0 upright; the observation is
    `(cos theta, sin theta, theta_dot)`. A step costs theta^2 + 0.1 theta_dot^2 + 0.001 torque^2, of
    the state it starts from and the clipped torque. Nothing terminates.
    """

    GRAVITY = 10.0  # m/s^2
    MASS = 1.0  # kg
    LENGTH = 1.0  # m
    MAX_TORQUE = 2.0  # N m
    MAX_SPEED = 8.0  # rad/s
    DT = 0.05  # s, semi-implicit Euler
    SPEED_COST = 0.1
    TORQUE_COST = 0.001
    RESET_ANGLE = jnp.pi  # rad, anywhere
    RESET_SPEED = 1.0  # rad/s
    REWARD_RANGE = (-(jnp.pi**2 + SPEED_COST * MAX_SPEED**2 + TORQUE_COST * MAX_TORQUE**2), 0.0)

    spec = EnvSpec(
        name="pendulum",
        backend="analytic",
        obs_size=3,
        action_size=1,
        discrete=False,
        horizon=200,
        eps=0.1,
        reward_range=REWARD_RANGE,
        reward_clip=REWARD_RANGE,
        action_box=ActionBox((-MAX_TORQUE,), (MAX_TORQUE,)),
    )

    def reset(self, key: Key) -> tuple[EnvState, Array]:
        """Any angle, speed in +-1 rad/s, both uniform."""
        angle, speed = jax.random.uniform(key, (2,), minval=-1.0)
        physics = jnp.array([angle * self.RESET_ANGLE, speed * self.RESET_SPEED])
        return EnvState(physics, time=jnp.int32(0)), self._observe(physics)

    def step(self, state: EnvState, action: Array) -> tuple[EnvState, TimeStep]:
        """50 ms under a constant torque.

        Gymnasium's angle counts the turns, ours forgets them: float32 has no digits for both.
        """
        theta, speed = wrap(state.physics[0]), state.physics[1]
        torque = jnp.clip(action[0], -self.MAX_TORQUE, self.MAX_TORQUE)
        cost = theta**2 + self.SPEED_COST * speed**2 + self.TORQUE_COST * torque**2

        inertia = self.MASS * self.LENGTH**2 / 3  # of a rod about its end
        weight = self.MASS * self.GRAVITY * self.LENGTH / 2
        speed += self.DT * (weight * jnp.sin(theta) + torque) / inertia
        speed = jnp.clip(speed, -self.MAX_SPEED, self.MAX_SPEED)
        physics = jnp.array([theta + self.DT * speed, speed])
        time = state.time + 1
        return EnvState(physics, time), conclude(
            self.spec, time, self._observe(physics), -cost, False
        )

    def _observe(self, physics: Array) -> Array:
        theta, speed = physics
        return jnp.array([jnp.cos(theta), jnp.sin(theta), speed])
