"""Tasks whose equations of motion are written out: exact, and cheap enough for a laptop.

Dynamics, first states, rewards and endings are those of Gymnasium's tasks of the same names. A step
computes in the dtype of the state it is given.

Source: Gymnasium 1.x `envs/classic_control`.
"""

from jaxprune.envs.classic.acrobot import Acrobot
from jaxprune.envs.classic.cartpole import CartPole
from jaxprune.envs.classic.mountain_car import MountainCar, MountainCarContinuous
from jaxprune.envs.classic.pendulum import Pendulum

__all__ = ["Acrobot", "CartPole", "MountainCar", "MountainCarContinuous", "Pendulum"]
