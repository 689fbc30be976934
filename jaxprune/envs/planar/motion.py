"""Where the points of a planar robot are, how joints move them, and how they drift."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxprune.envs.planar.robot import Points, Robot
from jaxprune.types import AnyArray, Array


class Vectors(NamedTuple):
    """n vectors in the plane, `[n]` each."""

    x: Array
    z: Array


class Pose(NamedTuple):
    """How far the robot has moved, and how fast its bodies turn."""

    moved: Array  # [nv], joints from their rest
    cos: Array  # [nbody], of the bodies' angles about +y
    sin: Array
    speed: Array  # [nbody], rad/s


def pose(robot: Robot, moved: Array, qvel: Array) -> Pose:
    """Returns the pose of joints `moved` `[nv]` from their rest, at velocities `qvel` `[nv]`."""
    turns = robot.moves * robot.spin
    angle = turns @ moved
    return Pose(moved, jnp.cos(angle), jnp.sin(angle), turns @ qvel)


def positions(robot: Robot, at: Pose, points: Points) -> Vectors:
    """Returns the points in the world: the sum of their arms, turned, and of what slides moved."""
    slides = robot.moves[points.body, :, None] * robot.axis  # [n, nv, 2]
    turned = _turned(points, at.cos, at.sin)
    return Vectors(turned.x + slides[..., 0] @ at.moved, turned.z + slides[..., 1] @ at.moved)


def drifts(at: Pose, points: Points) -> Vectors:
    """Returns accelerations while no joint accelerates: every arm's end falls to its pivot."""
    square = -(at.speed**2)
    return _turned(points, square * at.cos, square * at.sin)


def _turned(points: Points, cos: Array, sin: Array) -> Vectors:
    x, z = points.arms[..., 0], points.arms[..., 1]
    for_x: AnyArray = np.hstack([x, z])
    for_z: AnyArray = np.hstack([z, -x])
    both = jnp.concatenate([cos, sin])
    return Vectors(for_x @ both, for_z @ both)


def velocities(robot: Robot, at: Vectors, pivots: Vectors, moves: AnyArray) -> Vectors:
    """Returns the velocities of n points per unit of each joint's velocity, `[n, nv]`.

    A slide moves a point along its axis, a hinge across its arm from the pivot.

    Args:
        robot: of nv joints.
        at: where the points are.
        pivots: where the hinges are, nv of them.
        moves: which joints move which points, `[n, nv]`, as `Robot.moves`.
    """
    axis, spin = robot.axis, robot.spin
    return Vectors(
        moves * (axis[:, 0] + spin * (at.z[:, None] - pivots.z)),
        moves * (axis[:, 1] - spin * (at.x[:, None] - pivots.x)),
    )
