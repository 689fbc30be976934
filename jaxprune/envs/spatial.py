"""Robots that move in space: MuJoCo's equations of motion on MJX.

Positions, collisions, inertias and constraint rows are MJX's. Ours are the linear systems
(`jaxprune.envs.elimination`), as MJX calls LAPACK, and the constraint solver
(`jaxprune.envs.newton`), which reaches the same minimum as MuJoCo's Newton solver.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from jaxprune.envs import newton
from jaxprune.envs.elimination import solve_positive
from jaxprune.envs.quiet import quiet
from jaxprune.types import Array

with quiet():
    from mujoco import mjx

simulator: Any = mujoco  # its type stubs lack what is compiled
MjxData: TypeAlias = Any  # an mjx.Data: its type leaves open which backend's fields `_impl` has
Stage: TypeAlias = Callable[[Any, MjxData], MjxData]  # (model, data)

# What MuJoCo derives from the positions, up to the contacts, and all that follows.
PLACING: tuple[Stage, ...] = (
    mjx.kinematics,
    mjx.com_pos,
    mjx.tendon,
    mjx.crb,
    mjx.collision,
)
MOVING: tuple[Stage, ...] = (
    mjx.make_constraint,
    mjx.transmission,
    mjx.fwd_velocity,
    mjx.fwd_actuation,
)


class SpatialDynamics:
    """The equations of motion of one model.

    Args:
        model: an `MjModel` of hinges and slides behind at most one free root joint, with limits and
            pyramidal contacts as its only constraints.
    """

    def __init__(self, model: Any):
        self._model = mjx.put_model(model, impl="jax")
        self.rest = mjx.make_data(self._model)
        self._steep = _capsules_on_planes(self._model, self.rest)

    def forward(self, state: MjxData) -> MjxData:
        """Computes all that follows from `qpos`, `qvel` and `ctrl`, as `mj_forward` does."""
        data = state
        for stage in PLACING:
            data = stage(self._model, data)
        data = self._align_contacts(data)
        for stage in MOVING:
            data = stage(self._model, data)
        data = data.replace(qpos=state.qpos)  # MJX makes unit quaternions of them, C leaves them
        mass = mjx.full_m(self._model, data)
        qfrc_smooth = data.qfrc_passive - data.qfrc_bias + data.qfrc_actuator
        data = data.replace(qfrc_smooth=qfrc_smooth, qacc_smooth=solve_positive(mass, qfrc_smooth))
        rows = data._impl  # MJX shows constraint rows nowhere else
        problem = newton.Problem(
            mass=mass,
            smooth=data.qacc_smooth,
            jacobian=rows.efc_J,
            weight=rows.efc_D,
            reference=rows.efc_aref,
        )
        qacc, qfrc = newton.solve(problem, data.qacc_warmstart)
        data = data.replace(qacc=qacc, qfrc_constraint=qfrc)
        data = data.tree_replace({"_impl.efc_force": newton.force(problem, qacc)})
        # MJX gives some counters of tendons another integer type under x64; a loop needs the same.
        return jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), data, state)

    def mass(self, data: MjxData) -> Array:
        """Returns the mass matrix `[nv, nv]` of the last `forward`."""
        return mjx.full_m(self._model, data)

    def with_contact_forces(self, data: MjxData) -> MjxData:
        """`data` with `cfrc_ext`, the contact forces and torques on each body."""
        return mjx.rne_postconstraint(self._model, data)

    def _align_contacts(self, data: MjxData) -> MjxData:
        """Friction directions of a capsule on a plane: along the capsule, however steep it is.

        MuJoCo C takes the capsule's axis as it lies in the plane. MJX does so up to 60 degrees, and
        takes a fixed direction beyond: another friction pyramid, which changes ant's steps.
        """
        if not self._steep.contacts.size:
            return data
        normal = data._impl.contact.frame[self._steep.contacts, 0]  # [n, 3]
        axis = data.geom_xmat[self._steep.capsules].reshape(-1, 3, 3)[:, :, 2]
        along = axis - normal * jnp.sum(normal * axis, axis=1, keepdims=True)
        length = jnp.linalg.norm(along, axis=1, keepdims=True)
        upright = length < 1e-6  # no direction is better than another
        tangent = jnp.where(
            upright, data._impl.contact.frame[self._steep.contacts, 1], along / length
        )
        frame = jnp.stack([normal, tangent, jnp.cross(normal, tangent)], axis=1)
        frames = data._impl.contact.frame.at[self._steep.contacts].set(frame)
        return data.tree_replace({"_impl.contact.frame": frames})


class _Steep(NamedTuple):
    """Contacts of a capsule on a plane, and their capsules."""

    contacts: np.ndarray  # int [n], numbers of contacts
    capsules: np.ndarray  # int [n], numbers of geoms


def _capsules_on_planes(model: mjx.Model, rest: MjxData) -> _Steep:
    # As one program: MJX takes seconds to do this operation by operation.
    placed: MjxData = jax.jit(lambda data: mjx.collision(model, mjx.kinematics(model, data)))(rest)
    geoms = np.asarray(placed._impl.contact.geom)
    kinds = np.asarray(model.geom_type)[geoms]
    wanted = (simulator.mjtGeom.mjGEOM_PLANE, simulator.mjtGeom.mjGEOM_CAPSULE)
    contacts = np.flatnonzero((kinds == wanted).all(axis=1))
    return _Steep(contacts, geoms[contacts, 1])
