"""MuJoCo models on MJX, stepped as MuJoCo C steps them and several times faster than MJX does.

Positions, collisions, inertias and constraint rows are MJX's. Ours are the loop around them, the
linear systems (`jaxprune.envs.elimination`), as MJX calls LAPACK, and the constraint solver
(`jaxprune.envs.newton`), which reaches the same minimum as MuJoCo's Newton solver.
results/reference/gym-parity holds what each change gained and the parity that was measured.
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
Data: TypeAlias = Any  # an mjx.Data: its type leaves open which backend's fields `_impl` has
Stage: TypeAlias = Callable[[Any, Data], Data]  # (model, data)

# Runge-Kutta 4: stage i starts from the derivatives of stage i - 1, carried for NODES[i] of a step.
NODES = (0.0, 0.5, 0.5, 1.0)
WEIGHTS = (1 / 6, 1 / 3, 1 / 3, 1 / 6)

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


def load_model(path: str) -> Any:
    """Reads the `MjModel` of an XML file."""
    with quiet():
        return simulator.MjModel.from_xml_path(path)


class Physics:
    """The simulator of one model.

    Args:
        model: an `MjModel` of hinges and slides behind at most one free root joint, with limits and
            pyramidal contacts as its only constraints.
        frame_skip: simulator steps per control step.
    """

    def __init__(self, model: Any, frame_skip: int):
        # MJX has no projected Gauss-Seidel (humanoid.xml); both minimise the same function.
        model.opt.solver = simulator.mjtSolver.mjSOL_NEWTON
        self.c_model = model
        self.model = mjx.put_model(model, impl="jax")
        self.rest = mjx.make_data(self.model)
        self.dt = model.opt.timestep * frame_skip  # seconds per control step
        self.frame_skip = frame_skip
        self._free_root = bool(model.njnt) and model.jnt_type[0] == simulator.mjtJoint.mjJNT_FREE
        self._steep = _capsules_on_planes(self.model, self.rest)
        rk4 = model.opt.integrator == simulator.mjtIntegrator.mjINT_RK4
        self._substep = self._runge_kutta if rk4 else self._euler

    def at(self, qpos: Array, qvel: Array) -> Data:
        """Everything MuJoCo derives from a state at rest controls, as `mj_forward` does."""
        return self._forward(self.rest.replace(qpos=qpos, qvel=qvel))

    def simulate(self, qpos: Array, qvel: Array, qacc_warmstart: Array, ctrl: Array) -> Data:
        """One control step: `frame_skip` steps under `ctrl` `[nu]`, which the model clips.

        As after `mj_step`, positions and velocities are those at the end, and all that is derived
        from them (body positions, forces, inertias) is of the last evaluation before the end.
        """
        return self.control_step(
            self.rest.replace(qpos=qpos, qvel=qvel, qacc_warmstart=qacc_warmstart, ctrl=ctrl)
        )

    def control_step(self, start: Data) -> Data:
        """`simulate` from the positions, velocities, warm start and controls that `start` holds."""
        return jax.lax.fori_loop(0, self.frame_skip, lambda _, data: self._substep(data), start)

    def with_contact_forces(self, data: Data) -> Data:
        """`data` with `cfrc_ext`, the contact forces and torques on each body."""
        return mjx.rne_postconstraint(self.model, data)

    def _forward(self, state: Data) -> Data:
        data = state
        for stage in PLACING:
            data = stage(self.model, data)
        data = self._align_contacts(data)
        for stage in MOVING:
            data = stage(self.model, data)
        data = data.replace(qpos=state.qpos)  # MJX makes unit quaternions of them, C leaves them
        mass = mjx.full_m(self.model, data)
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

    def _align_contacts(self, data: Data) -> Data:
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

    def _euler(self, start: Data) -> Data:
        """Positions move by the new velocity, which joint damping acts at: semi-implicit.

        (M + h diag(damping)) qacc = all forces, where damping at the old velocity is among them.
        """
        h = self.model.opt.timestep
        data = self._forward(start)
        damped = mjx.full_m(self.model, data) + jnp.diag(h * self.model.dof_damping)
        qvel = data.qvel + h * solve_positive(damped, data.qfrc_smooth + data.qfrc_constraint)
        qpos = self._advance(data.qpos, h * qvel)
        return data.replace(qpos=qpos, qvel=qvel, qacc_warmstart=data.qacc)

    def _runge_kutta(self, start: Data) -> Data:
        """Classical RK4. One program serves all four evaluations: it compiles once."""
        h = self.model.opt.timestep

        def stage(carry, coefficients):
            data, qvel, qacc, mean_qvel, mean_qacc = carry
            node, weight = coefficients
            data = data.replace(
                qpos=self._advance(start.qpos, node * h * qvel),
                qvel=start.qvel + node * h * qacc,
            )
            data = self._forward(data)
            mean_qvel, mean_qacc = mean_qvel + weight * data.qvel, mean_qacc + weight * data.qacc
            # The next evaluation's solution is near this one.
            data = data.replace(qacc_warmstart=data.qacc)
            return (data, data.qvel, data.qacc, mean_qvel, mean_qacc), None

        zero = jnp.zeros_like(start.qvel)
        tableau = (jnp.asarray(NODES, zero.dtype), jnp.asarray(WEIGHTS, zero.dtype))
        (end, _, _, qvel, qacc), _ = jax.lax.scan(stage, (start, *[zero] * 4), tableau)
        return end.replace(qpos=self._advance(start.qpos, h * qvel), qvel=start.qvel + h * qacc)

    def _advance(self, qpos: Array, change: Array) -> Array:
        """`qpos` moved by `change`, a velocity times a duration; a quaternion stays one."""
        if not self._free_root:
            return qpos + change
        turned = _turn(qpos[3:7], change[3:6])
        return jnp.concatenate([qpos[:3] + change[:3], turned, qpos[7:] + change[6:]])


class _Steep(NamedTuple):
    """Contacts of a capsule on a plane, and their capsules."""

    contacts: np.ndarray  # int [n], numbers of contacts
    capsules: np.ndarray  # int [n], numbers of geoms


def _capsules_on_planes(model: mjx.Model, rest: Data) -> _Steep:
    # As one program: MJX takes seconds to do this operation by operation.
    placed: Data = jax.jit(lambda data: mjx.collision(model, mjx.kinematics(model, data)))(rest)
    geoms = np.asarray(placed._impl.contact.geom)
    kinds = np.asarray(model.geom_type)[geoms]
    wanted = (simulator.mjtGeom.mjGEOM_PLANE, simulator.mjtGeom.mjGEOM_CAPSULE)
    contacts = np.flatnonzero((kinds == wanted).all(axis=1))
    return _Steep(contacts, geoms[contacts, 1])


def _turn(quaternion: Array, rotation: Array) -> Array:
    """The unit quaternion after a rotation, given as axis times angle in the body's own frame."""
    angle = jnp.linalg.norm(rotation)
    half = 0.5 * angle
    # sin(angle / 2) / angle, which is 1/2 at 0
    scale = 0.5 * jnp.sinc(half / jnp.pi)
    w, v = jnp.cos(half), scale * rotation
    w0, v0 = quaternion[0], quaternion[1:]
    product = jnp.concatenate(
        [jnp.expand_dims(w0 * w - v0 @ v, 0), w0 * v + w * v0 + jnp.cross(v0, v)]
    )
    return product / jnp.linalg.norm(product)
