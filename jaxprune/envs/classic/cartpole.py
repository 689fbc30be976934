"""CartPole, after Barto, Sutton and Anderson (1983)."""

import jax
import jax.numpy as jnp

from jaxprune.envs.base import EnvSpec, conclude
from jaxprune.types import Array, EnvState, Key, TimeStep


class CartPole:
    """Balance a pole on a cart by pushing it left (0) or right (1); Gymnasium's CartPole-v1.

    The observation is `(x, x_dot, theta, theta_dot)` in metres and radians. The reward is 1 for
    every step, the failing one included; |x| > 2.4 or |theta| > 12 degrees terminates.
    """

    GRAVITY = 9.8  # m/s^2
    MASS_CART = 1.0  # kg
    MASS_POLE = 0.1  # kg
    HALF_LENGTH = 0.5  # m
    FORCE = 10.0  # N
    DT = 0.02  # s, explicit Euler
    X_LIMIT = 2.4  # m
    THETA_LIMIT = 12 * 2 * jnp.pi / 360  # rad
    RESET_RANGE = 0.05

    spec = EnvSpec(
        name="cartpole",
        backend="analytic",
        obs_size=4,
        action_size=2,
        discrete=True,
        horizon=500,
        eps=0.1,
        reward_range=(0.0, 1.0),
        reward_clip=(0.0, 1.0),
    )

    def reset(self, key: Key) -> tuple[EnvState, Array]:
        """Every coordinate uniform in +-0.05."""
        obs = jax.random.uniform(key, (4,), minval=-self.RESET_RANGE, maxval=self.RESET_RANGE)
        return EnvState(physics=obs, time=jnp.int32(0)), obs

    def step(self, state: EnvState, action: Array) -> tuple[EnvState, TimeStep]:
        """One Euler step of 20 ms under +-10 N."""
        _, x_dot, theta, theta_dot = state.physics
        force = jnp.where(action == 1, self.FORCE, -self.FORCE)
        total_mass = self.MASS_CART + self.MASS_POLE
        moment = self.MASS_POLE * self.HALF_LENGTH

        sin, cos = jnp.sin(theta), jnp.cos(theta)
        push = (force + moment * theta_dot**2 * sin) / total_mass
        theta_acc = (self.GRAVITY * sin - cos * push) / (
            self.HALF_LENGTH * (4.0 / 3.0 - self.MASS_POLE * cos**2 / total_mass)
        )
        x_acc = push - moment * theta_acc * cos / total_mass

        obs = state.physics + self.DT * jnp.array([x_dot, x_acc, theta_dot, theta_acc])
        time = state.time + 1
        terminated = (jnp.abs(obs[0]) > self.X_LIMIT) | (jnp.abs(obs[2]) > self.THETA_LIMIT)
        return EnvState(obs, time), conclude(self.spec, time, obs, jnp.ones(()), terminated)
