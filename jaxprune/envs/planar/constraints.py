"""Computes what joint limits and contacts of a planar robot ask for, rows of `newton.Problem`.

MuJoCo's rows (documentation, "Computation", "Constraint model"), with one difference that changes
no result. A contact's friction pyramid has four edges, two of them across the plane, along which
nothing can move. These two are the same row; here it is one, with twice the weight.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxprune.envs.planar.motion import Pose, Vectors, positions, velocities
from jaxprune.envs.planar.robot import Contacts, Hardness, Robot
from jaxprune.types import AnyArray, Array

IMPEDANCES = (1e-4, 1 - 1e-4)  # mjMINIMP and mjMAXIMP
TINY = 1e-15  # mjMINVAL


class Rows(NamedTuple):
    """n constraint rows."""

    jacobian: Array  # [n, nv]
    weight: Array  # [n], MuJoCo's efc_D
    reference: Array  # [n], MuJoCo's efc_aref


class _Asked(NamedTuple):
    """n rows before their strength is known."""

    jacobian: Array  # [n, nv]
    position: Array  # [n], of the joint or the surfaces; the row acts where it is below the margin
    hardness: Hardness
    copies: AnyArray  # [n], how many of MuJoCo's rows it is


class _Touch(NamedTuple):
    """Where n pairs of geoms are nearest."""

    distance: Array  # [n], negative: they overlap
    point: Vectors
    normal: Vectors  # towards the second geom


def constraint_rows(robot: Robot, at: Pose, pivots: Vectors, qpos: Array, qvel: Array) -> Rows:
    """Returns the rows of all limits and contacts; those that do not act are zero."""
    asked = [_limits(robot, qpos)]
    if len(robot.on_floor.friction):
        asked += _pushes(robot, robot.on_floor, _on_floor(robot, at), pivots)
    if len(robot.between.friction):
        asked += _pushes(robot, robot.between, _between(robot, at), pivots)
    jacobian = jnp.concatenate([rows.jacobian for rows in asked])
    position = jnp.concatenate([rows.position for rows in asked])
    hard = Hardness(*map(np.concatenate, zip(*[rows.hardness for rows in asked], strict=True)))
    copies: AnyArray = np.concatenate([rows.copies for rows in asked])

    position = position - hard.margin
    stiffness, damping = _stiffness_and_damping(hard, robot.timestep)
    impedance = _impedance(position, hard)
    compliance = jnp.maximum(hard.inverse_weight * (1 - impedance) / impedance, TINY)
    acts = position < 0
    jacobian = jnp.where(acts[:, None], jacobian, 0.0)
    pull = stiffness * impedance * jnp.where(acts, position, 0.0)
    return Rows(jacobian, copies / compliance, -damping * (jacobian @ qvel) - pull)


def _limits(robot: Robot, qpos: Array) -> _Asked:
    joint, (low, high), hardness = robot.limits.joint, robot.limits.range.T, robot.limits.hardness
    above, below = qpos[joint] - low, high - qpos[joint]
    side = jnp.where(above < below, 1.0, -1.0)
    jacobian = side[:, None] * np.eye(len(robot.rest))[joint]
    return _Asked(jacobian, jnp.minimum(above, below), hardness, np.ones(len(joint)))


def _pushes(robot: Robot, contacts: Contacts, touch: _Touch, pivots: Vectors) -> list[_Asked]:
    """Rows along the normals, then along the edges of friction on either side."""
    moves = robot.moves[contacts.bodies[:, 1]] - robot.moves[contacts.bodies[:, 0]]
    velocity = velocities(robot, touch.point, pivots, moves)
    x, z = touch.normal.x[:, None], touch.normal.z[:, None]
    apart = x * velocity.x + z * velocity.z
    along = z * velocity.x - x * velocity.z

    def asked(jacobian: Array, of: np.ndarray, copies: np.ndarray) -> _Asked:
        hardness = Hardness(*[x[of] for x in contacts.hardness])
        return _Asked(jacobian, touch.distance[of], hardness, copies)

    every, rough = np.arange(len(contacts.friction)), np.flatnonzero(contacts.friction)
    rows = [asked(apart, every, np.where(contacts.friction > 0, 2.0, 1.0))]
    if len(rough):
        edge = contacts.friction[rough, None] * along[rough]
        rows += [asked(apart[rough] + sign * edge, rough, np.ones(len(rough))) for sign in (1, -1)]
    return rows


def _on_floor(robot: Robot, at: Pose) -> _Touch:
    """The floor meets the ends of capsules."""
    ends = positions(robot, at, robot.ends)
    radius = robot.on_floor.radii[:, 1]
    distance = ends.z - robot.floor - radius
    point = Vectors(ends.x, ends.z - radius - 0.5 * distance)
    return _Touch(distance, point, Vectors(jnp.zeros_like(ends.x), jnp.ones_like(ends.x)))


def _between(robot: Robot, at: Pose) -> _Touch:
    """Where capsules are nearest to each other: one place, also where they are parallel."""
    a0, a1, b0, b1 = (positions(robot, at, ends) for ends in robot.segments)
    on_a, on_b = _nearest((a0, a1), (b0, b1))
    gap = _minus(on_b, on_a)
    length = jnp.sqrt(_dot(gap, gap))
    apart = length > 0
    scale = 1.0 / jnp.where(apart, length, 1.0)
    normal = _where(apart, _times(gap, scale), Vectors(jnp.ones_like(scale), jnp.zeros_like(scale)))
    first, second = robot.between.radii.T
    distance = length - (first + second)
    return _Touch(distance, _plus(on_a, _times(normal, first + 0.5 * distance)), normal)


Segments = tuple[Vectors, Vectors]


def _nearest(a: Segments, b: Segments) -> tuple[Vectors, Vectors]:
    """The nearest points of pairs of segments: of the lines, then within the segments."""
    (along_a, half_a, middle_a), (along_b, half_b, middle_b) = _centred(a), _centred(b)
    between = _minus(middle_a, middle_b)
    cosine = _dot(along_a, along_b)
    from_a, from_b = _dot(along_a, between), _dot(along_b, between)
    on_a = (cosine * from_b - from_a) / jnp.maximum(1.0 - cosine * cosine, TINY)
    on_b = from_b + on_a * cosine
    best_a = _plus(middle_a, _times(along_a, jnp.clip(on_a, -half_a, half_a)))
    best_b = _plus(middle_b, _times(along_b, jnp.clip(on_b, -half_b, half_b)))
    # Where both are at an end, one of them may be nearer elsewhere.
    new_a, new_b = _project(best_b, a), _project(best_a, b)
    gap_a, gap_b = _minus(best_b, new_a), _minus(best_a, new_b)
    nearer = _dot(gap_a, gap_a) < _dot(gap_b, gap_b)
    return _where(nearer, new_a, best_a), _where(nearer, best_b, new_b)


def _centred(ends: Segments) -> tuple[Vectors, Array, Vectors]:
    """Directions, half the lengths, middles."""
    half = _times(_minus(*ends), 0.5)
    length = jnp.sqrt(_dot(half, half))
    return _times(half, 1.0 / length), length, _times(_plus(*ends), 0.5)


def _project(point: Vectors, ends: Segments) -> Vectors:
    """The points of segments that are nearest to given ones."""
    along = _minus(*ends)
    share = _dot(_minus(point, ends[1]), along) / _dot(along, along)
    return _plus(ends[1], _times(along, jnp.clip(share, 0.0, 1.0)))


def _plus(a: Vectors, b: Vectors) -> Vectors:
    return Vectors(a.x + b.x, a.z + b.z)


def _minus(a: Vectors, b: Vectors) -> Vectors:
    return Vectors(a.x - b.x, a.z - b.z)


def _times(a: Vectors, factor: Array | float) -> Vectors:
    return Vectors(a.x * factor, a.z * factor)


def _dot(a: Vectors, b: Vectors) -> Array:
    return a.x * b.x + a.z * b.z


def _where(first: Array, a: Vectors, b: Vectors) -> Vectors:
    return Vectors(jnp.where(first, a.x, b.x), jnp.where(first, a.z, b.z))


def _stiffness_and_damping(hard: Hardness, timestep: float) -> tuple[AnyArray, AnyArray]:
    """K and B of MuJoCo's reference acceleration, from (time constant, damping ratio) `[n, 2]`.

    Or from (-stiffness, -damping), where these are not positive.
    """
    strongest = np.clip(hard.solimp[:, 1], *IMPEDANCES)
    first, second = hard.solref.T
    time, ratio = np.where(hard.solref > 0, hard.solref, 1.0).T
    time = np.maximum(time, 2 * timestep)  # shorter ones are unstable
    stiffness = np.where(first > 0, 1 / (strongest * time * ratio) ** 2, -first / strongest**2)
    damping = np.where(second > 0, 2 / (strongest * time), -second / strongest)
    return stiffness, damping


def _impedance(position: Array, hard: Hardness) -> Array:
    """How hard a row is, `[n]`: from `least` where it begins to act to `most` at depth `width`."""
    least, most, width, middle, _ = hard.solimp.T
    least, most, middle = (np.clip(x, *IMPEDANCES) for x in (least, most, middle))
    depth = jnp.abs(position) / np.maximum(width, TINY)
    share = jnp.where(depth < middle, depth**2 / middle, 1.0 - (1.0 - depth) ** 2 / (1.0 - middle))
    return jnp.where(depth > 1.0, most, jnp.clip(least + share * (most - least), least, most))
