"""Acrobot, after Sutton (1996) with the equations of Sutton and Barto's book."""

import jax
import jax.numpy as jnp

from jaxprune.envs.base import EnvSpec, conclude
from jaxprune.envs.classic.angles import wrap
from jaxprune.types import Array, EnvState, Key, TimeStep


class Acrobot:
    """Swing a chain of two links up by its middle joint; Gymnasium's Acrobot-v1.

    The physics is `(theta_1, theta_2, theta_1_dot, theta_2_dot)`: theta_1 = 0 hangs down, theta_2
    is relative to the first link. The observation shows cosine and sine of either angle, then the
    speeds. The actions are torques of -1, 0 and 1 N m. Every step costs 1 but the one on which the
    tip gets more than a link's length above the fixed joint, which terminates.
    """

    GRAVITY = 9.8  # m/s^2
    MASS = 1.0  # kg, of either link
    LENGTH = 1.0  # m, of either link
    CENTRE = 0.5  # m, from a link's upper joint to its centre of mass
    INERTIA = 1.0  # kg m^2, of either link about its centre of mass
    TORQUE = 1.0  # N m
    MAX_SPEED_1 = 4 * jnp.pi  # rad/s
    MAX_SPEED_2 = 9 * jnp.pi  # rad/s
    DT = 0.2  # s, one classical Runge-Kutta step of order 4
    GOAL = 1.0  # link lengths above the fixed joint
    RESET_RANGE = 0.1

    spec = EnvSpec(
        name="acrobot",
        backend="analytic",
        obs_size=6,
        action_size=3,
        discrete=True,
        horizon=500,
        eps=0.1,
        reward_range=(-1.0, 0.0),
        reward_clip=(-1.0, 0.0),
    )

    def reset(self, key: Key) -> tuple[EnvState, Array]:
        """Angles and speeds uniform in +-0.1: it hangs almost still."""
        physics = jax.random.uniform(key, (4,), minval=-self.RESET_RANGE, maxval=self.RESET_RANGE)
        return EnvState(physics, time=jnp.int32(0)), self._observe(physics)

    def step(self, state: EnvState, action: Array) -> tuple[EnvState, TimeStep]:
        """0.2 s under a constant torque; then angles are wrapped and speeds clipped."""
        theta_1, theta_2, speed_1, speed_2 = self._integrate(
            state.physics, (action - 1) * self.TORQUE
        )
        physics = jnp.array(
            [
                wrap(theta_1),
                wrap(theta_2),
                jnp.clip(speed_1, -self.MAX_SPEED_1, self.MAX_SPEED_1),
                jnp.clip(speed_2, -self.MAX_SPEED_2, self.MAX_SPEED_2),
            ]
        )
        time = state.time + 1
        terminated = -jnp.cos(physics[0]) - jnp.cos(physics[0] + physics[1]) > self.GOAL
        reward = jnp.where(terminated, 0.0, -1.0)
        step = conclude(self.spec, time, self._observe(physics), reward, terminated)
        return EnvState(physics, time), step

    def _observe(self, physics: Array) -> Array:
        theta_1, theta_2, speed_1, speed_2 = physics
        cos_sin = [jnp.cos(theta_1), jnp.sin(theta_1), jnp.cos(theta_2), jnp.sin(theta_2)]
        return jnp.array([*cos_sin, speed_1, speed_2])

    def _integrate(self, physics: Array, torque: Array) -> Array:
        slope_1 = self._slope(physics, torque)
        slope_2 = self._slope(physics + self.DT / 2 * slope_1, torque)
        slope_3 = self._slope(physics + self.DT / 2 * slope_2, torque)
        slope_4 = self._slope(physics + self.DT * slope_3, torque)
        return physics + self.DT / 6 * (slope_1 + 2 * slope_2 + 2 * slope_3 + slope_4)

    def _slope(self, physics: Array, torque: Array) -> Array:
        """The time derivative of the physics: two linear equations for the accelerations a.

        [[m_11, m_12], [m_12, m_22]] a = b, with the masses as the two joints feel them on the left,
        and on the right the torques of the motor, of gravity and of the motion itself.
        """
        theta_1, theta_2, speed_1, speed_2 = physics
        sin_2, cos_2 = jnp.sin(theta_2), jnp.cos(theta_2)
        coupling = self.MASS * self.LENGTH * self.CENTRE

        m_22 = self.MASS * self.CENTRE**2 + self.INERTIA
        m_12 = m_22 + coupling * cos_2
        m_11 = 2 * m_22 + self.MASS * self.LENGTH**2 + 2 * coupling * cos_2

        weight = self.MASS * self.GRAVITY
        weight_2 = weight * self.CENTRE * jnp.sin(theta_1 + theta_2)
        weight_1 = weight * (self.CENTRE + self.LENGTH) * jnp.sin(theta_1) + weight_2
        b_1 = coupling * sin_2 * speed_2 * (speed_2 + 2 * speed_1) - weight_1
        b_2 = torque - coupling * sin_2 * speed_1**2 - weight_2

        a_2 = (b_2 - m_12 / m_11 * b_1) / (m_22 - m_12**2 / m_11)
        a_1 = (b_1 - m_12 * a_2) / m_11
        return jnp.array([speed_1, speed_2, a_1, a_2])
