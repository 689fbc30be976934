"""MuJoCo models, stepped as MuJoCo C steps them and several times faster than MJX does.

Here are the loop over simulator steps and the two integrators. The accelerations between them come
from `jaxprune.envs.planar` for robots in a plane, from `jaxprune.envs.spatial` for all others.
results/reference/gym-parity holds what each change gained and the parity that was measured.
"""

from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import mujoco

from jaxprune.envs.elimination import solve_positive
from jaxprune.envs.planar import PlanarDynamics, is_planar
from jaxprune.envs.quiet import quiet
from jaxprune.envs.spatial import SpatialDynamics
from jaxprune.types import Array

simulator: Any = mujoco  # its type stubs lack what is compiled
Data: TypeAlias = Any  # PlanarData or mjx.Data, whose fields have the same names

# Runge-Kutta 4: stage i starts from the derivatives of stage i - 1, carried for NODES[i] of a step.
NODES = (0.0, 0.5, 0.5, 1.0)
WEIGHTS = (1 / 6, 1 / 3, 1 / 3, 1 / 6)


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
        planar = is_planar(model)
        self._dynamics: Any = PlanarDynamics(model) if planar else SpatialDynamics(model)
        self.dt = model.opt.timestep * frame_skip  # seconds per control step
        self.frame_skip = frame_skip
        self._free_root = bool(model.njnt) and model.jnt_type[0] == simulator.mjtJoint.mjJNT_FREE
        rk4 = model.opt.integrator == simulator.mjtIntegrator.mjINT_RK4
        self._substep = self._runge_kutta if rk4 else self._euler

    @property
    def rest(self) -> Data:
        """The model's rest, from which `at` and `simulate` start."""
        return self._dynamics.rest

    def at(self, qpos: Array, qvel: Array) -> Data:
        """Everything MuJoCo derives from a state at rest controls, as `mj_forward` does."""
        return self._dynamics.forward(self.rest.replace(qpos=qpos, qvel=qvel))

    def simulate(self, qpos: Array, qvel: Array, qacc_warmstart: Array, ctrl: Array) -> Data:
        """One control step: `frame_skip` steps under `ctrl` `[nu]`, which the model clips.

        As after `mj_step`, positions and velocities are those at the end, and all that is derived
        from them (body positions, forces, inertias) is of the last evaluation before the end.
        """
        start = self.rest.replace(qpos=qpos, qvel=qvel, qacc_warmstart=qacc_warmstart, ctrl=ctrl)
        return jax.lax.fori_loop(0, self.frame_skip, lambda _, data: self._substep(data), start)

    def with_contact_forces(self, data: Data) -> Data:
        """`data` with `cfrc_ext`, the contact forces and torques on bodies; only in space."""
        return self._dynamics.with_contact_forces(data)

    def _euler(self, start: Data) -> Data:
        """Positions move by the new velocity, which joint damping acts at: semi-implicit.

        (M + h diag(damping)) qacc = all forces, where damping at the old velocity is among them.
        """
        h = self.c_model.opt.timestep
        data = self._dynamics.forward(start)
        damped = self._dynamics.mass(data) + jnp.diag(h * self.c_model.dof_damping)
        qvel = data.qvel + h * solve_positive(damped, data.qfrc_smooth + data.qfrc_constraint)
        qpos = self._advance(data.qpos, h * qvel)
        return data.replace(qpos=qpos, qvel=qvel, qacc_warmstart=data.qacc)

    def _runge_kutta(self, start: Data) -> Data:
        """Classical RK4. One program serves all four evaluations: it compiles once."""
        h = self.c_model.opt.timestep

        def stage(carry, coefficients):
            data, qvel, qacc, mean_qvel, mean_qacc = carry
            node, weight = coefficients
            data = data.replace(
                qpos=self._advance(start.qpos, node * h * qvel),
                qvel=start.qvel + node * h * qacc,
            )
            data = self._dynamics.forward(data)
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
