"""The acceleration of a planar robot: what `mj_forward` computes, as far as our tasks read it."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxprune.envs import newton
from jaxprune.envs.elimination import solve_positive
from jaxprune.envs.planar.constraints import constraint_rows
from jaxprune.envs.planar.motion import Pose, Vectors, drifts, pose, positions, velocities
from jaxprune.envs.planar.robot import Points, Robot, read_robot
from jaxprune.types import Array


@struct.dataclass
class PlanarData:
    """The parts of MuJoCo's `mjData` that a planar robot has, under MuJoCo's names."""

    qpos: Array  # [nq], metres and radians
    qvel: Array  # [nv]
    ctrl: Array  # [nu]
    qacc_warmstart: Array  # [nv], where the constraint solver starts
    qacc: Array  # [nv]
    qfrc_smooth: Array  # [nv], all forces but those of constraints
    qfrc_constraint: Array  # [nv]
    mass: Array  # [nv, nv]
    xpos: Array  # [nbody, 3], the origins of the bodies' frames
    xquat: Array  # [nbody, 4]
    site_xpos: Array  # [nsite, 3]


class PlanarDynamics:
    """The equations of motion of one planar robot."""

    def __init__(self, model: Any):
        self._model = model

    @property
    def rest(self) -> PlanarData:
        """Returns the model's rest, in the precision that JAX works in."""
        model = self._model
        still = jnp.zeros(model.nv)
        return PlanarData(
            qpos=jnp.asarray(model.qpos0.copy()),
            qvel=still,
            ctrl=jnp.zeros(model.nu),
            qacc_warmstart=still,
            qacc=still,
            qfrc_smooth=still,
            qfrc_constraint=still,
            mass=jnp.zeros((model.nv, model.nv)),
            xpos=jnp.zeros((model.nbody, 3)),
            xquat=jnp.zeros((model.nbody, 4)),
            site_xpos=jnp.zeros((model.nsite, 3)),
        )

    def forward(self, data: PlanarData) -> PlanarData:
        """Computes all that follows from `qpos`, `qvel` and `ctrl`, as `mj_forward` does."""
        # Read anew, as JAX keeps NumPy's arrays in the precision of their first use.
        robot = read_robot(self._model)
        moved = data.qpos - robot.rest
        at = pose(robot, jnp.where(robot.travels, 0.0, moved), data.qvel)
        pivots = positions(robot, at, robot.pivots)
        mass, bias = _inertia_and_bias(robot, at, pivots)
        smooth = _applied(robot, data) - bias
        rows = constraint_rows(robot, at, pivots, data.qpos, data.qvel)
        problem = newton.Problem(mass, solve_positive(mass, smooth), *rows)
        qacc, qfrc_constraint = newton.solve(problem, data.qacc_warmstart)
        return dataclasses.replace(
            data,
            qacc=qacc,
            qfrc_smooth=smooth,
            qfrc_constraint=qfrc_constraint,
            mass=mass,
            xpos=_in_space(robot, at, robot.frames, moved),
            xquat=_quaternions(robot, moved),
            site_xpos=_in_space(robot, at, robot.sites, moved),
        )

    def mass(self, data: PlanarData) -> Array:
        """Returns the mass matrix `[nv, nv]` of the last `forward`."""
        return data.mass


def _applied(robot: Robot, data: PlanarData) -> Array:
    """Springs, dampers and motors, `[nv]`."""
    (stiffness, resting), (gears, ctrl_range) = robot.springs, robot.motors
    motors = gears @ jnp.clip(data.ctrl, *ctrl_range)
    return motors - stiffness * (data.qpos - resting) - robot.damping * data.qvel


def _inertia_and_bias(robot: Robot, at: Pose, pivots: Vectors) -> tuple[Array, Array]:
    """The mass matrix `[nv, nv]`, and Coriolis and gravity `[nv]`, MuJoCo's `qfrc_bias`.

    M = sum_b m_b J_b' J_b + rotation, and bias = sum_b m_b J_b' (drift_b - g), where J_b is the
    velocity of body b's centre of mass per unit of the joints'.
    """
    centres = positions(robot, at, robot.centres)
    jacobian = jnp.concatenate(velocities(robot, centres, pivots, robot.moves))  # [2 nbody, nv]
    momentum = jacobian.T * np.tile(robot.masses, 2)
    drift = drifts(at, robot.centres)
    falling = jnp.concatenate([drift.x - robot.gravity[0], drift.z - robot.gravity[1]])
    return momentum @ jacobian + robot.turning, momentum @ falling


def _in_space(robot: Robot, at: Pose, points: Points, moved: Array) -> Array:
    """Points `[n, 3]`, also moved by the slides that `at` leaves out."""
    plane = positions(robot, at, points)
    travelled = robot.moves[points.body] * robot.axis[:, 0] * robot.travels @ moved
    return jnp.stack([plane.x + travelled, jnp.zeros_like(plane.x), plane.z], axis=1)


def _quaternions(robot: Robot, moved: Array) -> Array:
    """Returns the orientations of the bodies, `[nbody, 4]`."""
    half = 0.5 * (robot.moves * robot.spin) @ moved
    none = jnp.zeros_like(half)
    return jnp.stack([jnp.cos(half), none, jnp.sin(half), none], axis=1)
