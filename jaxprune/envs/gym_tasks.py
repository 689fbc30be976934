"""Gymnasium's MuJoCo tasks, v4 and v5, as data: what is seen, what is earned, when it ends.

Source: Gymnasium 1.x `envs/mujoco`. Rewards charge the action as the policy gave it, also where
the motors clip it, as Gymnasium's do.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

import jax.numpy as jnp

from jaxprune.envs.physics import Data
from jaxprune.types import Array


class Outcome(NamedTuple):
    """What a reward is computed from, after one control step."""

    data: Data
    action: Array  # [nu], as the policy gave it
    before: Array  # the tracked quantity when the step started
    after: Array  # and when it ended
    dt: float  # seconds between
    healthy: Array  # bool []


View: TypeAlias = Callable[[Data], Array]
Reward: TypeAlias = Callable[[Outcome], Array]
Healthy: TypeAlias = Callable[[Data], Array]


@dataclass(frozen=True)
class GymTask:
    """One version of one task."""

    model: str
    """XML file in Gymnasium's assets."""
    frame_skip: int
    obs: tuple[View, ...]
    """Parts of the observation, in order."""
    reward: tuple[Reward, ...]
    """Terms whose sum is the reward."""
    healthy: Healthy
    """False ends the episode."""
    tracked: View
    """What the reward compares before and after a step: a position, an offset."""
    qpos_noise: float
    """The start is uniform in +- this around the model's rest."""
    qvel_noise: float
    qvel_normal: bool = False
    """Whether the velocities at the start are normal rather than uniform."""
    root: int = 0
    """Leading coordinates that nothing depends on: where in the world the robot is."""
    target: bool = False
    """Whether the last two coordinates are a target, at rest anywhere within 0.2 m."""
    contact_forces: bool = False
    """Whether the contact forces on bodies are needed."""
    horizon: int = 1000


# What is seen.


def qpos(start: int = 0) -> View:
    """Positions, without the first `start`."""
    return lambda data: data.qpos[start:]


def qvel(clip: float = jnp.inf) -> View:
    """Velocities, clipped to +-clip."""
    return lambda data: jnp.clip(data.qvel, -clip, clip)


def cinert(start: int = 0) -> View:
    """Inertias of the bodies about the centre of mass, from body `start`."""
    return lambda data: data._impl.cinert[start:]


def cvel(start: int = 0) -> View:
    """Velocities of the bodies about the centre of mass, from body `start`."""
    return lambda data: data.cvel[start:]


def qfrc_actuator(start: int = 0) -> View:
    """Forces of the motors on the joints, from degree of freedom `start`."""
    return lambda data: data.qfrc_actuator[start:]


def cfrc_ext(start: int = 0, clip: float = jnp.inf) -> View:
    """Contact forces and torques on the bodies, from body `start`, clipped to +-clip."""
    return lambda data: jnp.clip(data._impl.cfrc_ext[start:], -clip, clip)


def qpos_of_cart(data: Data) -> Array:
    """Position of the cart, `[1]`."""
    return data.qpos[:1]


def pole_angles(data: Data) -> Array:
    """Sines, then cosines of the joints behind the cart."""
    return jnp.concatenate([jnp.sin(data.qpos[1:]), jnp.cos(data.qpos[1:])])


def qfrc_constraint(end: int | None = None) -> View:
    """Forces of the constraints on the first `end` joints, clipped to +-10."""
    return lambda data: jnp.clip(data.qfrc_constraint[:end], -10.0, 10.0)


def arm_angles(data: Data) -> Array:
    """Cosines, then sines of the two joints of the arm."""
    return jnp.concatenate([jnp.cos(data.qpos[:2]), jnp.sin(data.qpos[:2])])


def arm_velocities(data: Data) -> Array:
    """Velocities of the two joints of the arm."""
    return data.qvel[:2]


def fingertip_from_target(data: Data) -> Array:
    """The vector from the target to the fingertip, in metres, `[3]`."""
    return data.xpos[3] - data.xpos[4]


def offset_in_plane(data: Data) -> Array:
    """The same without its third component, which is always 0, `[2]`."""
    return fingertip_from_target(data)[:2]


# What is tracked.


def nothing(data: Data) -> Array:
    """The reward needs no comparison."""
    return data.qpos[:0]


def root_position(size: int) -> View:
    """Where the root is, in the first `size` directions."""
    return lambda data: data.qpos[:size]


def torso_position(data: Data) -> Array:
    """Horizontal position of the torso at the simulator's last evaluation, `[2]`."""
    return data.xpos[1, :2]


def mass_centre(data: Data) -> Array:
    """Horizontal position of the centre of mass at the simulator's last evaluation, `[2]`."""
    return data.subtree_com[0, :2]


# What is earned.


def forward(weight: float) -> Reward:
    """weight * velocity along x, in m/s."""
    return lambda step: weight * (step.after[0] - step.before[0]) / step.dt


def alive(bonus: float, always: bool) -> Reward:
    """A bonus per step; v5 withholds it from the step that ends the episode, v4 does not."""
    return lambda step: jnp.where(step.healthy | always, bonus, 0.0)


def control_cost(weight: float) -> Reward:
    """-weight * |a|^2."""
    return lambda step: -weight * jnp.sum(step.action**2)


def contact_cost(weight: float, clip: float = jnp.inf, most: float = jnp.inf) -> Reward:
    """-min(most, weight * |contact forces clipped to +-clip|^2)."""
    forces = cfrc_ext(clip=clip)
    return lambda step: -jnp.minimum(weight * jnp.sum(forces(step.data) ** 2), most)


def distance_cost(before: bool) -> Reward:
    """Minus the length of the tracked vector: v4 takes the one before the step, v5 after it."""
    return lambda step: -jnp.linalg.norm(step.before if before else step.after)


def tip_cost(step: Outcome) -> Array:
    """-(0.01 x^2 + (y - 2)^2) of the pole's tip, in metres."""
    x, _, y = step.data.site_xpos[0]
    return -(0.01 * x**2 + (y - 2.0) ** 2)


def swing_cost(step: Outcome) -> Array:
    """-(1e-3 v1^2 + 5e-3 v2^2) of the hinges' velocities, in rad/s."""
    return -(1e-3 * step.data.qvel[1] ** 2 + 5e-3 * step.data.qvel[2] ** 2)


# When it goes on. Comparisons with NaN are false, so a simulator that fails is never healthy.


def endless(data: Data) -> Array:
    """Nothing ends the episode but the time limit."""
    del data
    return jnp.bool_(True)


def within(low: float, x: Array, high: float) -> Array:
    """low < x < high."""
    return (low < x) & (x < high)


def upright(low: float, high: float, lean: float = jnp.inf, state: float = jnp.inf) -> Healthy:
    """Height `qpos[1]` in (low, high) m, pitch within +-lean rad, and the rest within +-state."""

    def healthy(data: Data) -> Array:
        others = jnp.concatenate([data.qpos[2:], data.qvel])
        height, pitch = data.qpos[1], data.qpos[2]
        calm = jnp.all(jnp.abs(others) < state)
        return within(low, height, high) & within(-lean, pitch, lean) & calm

    return healthy


def off_the_ground(low: float, high: float) -> Healthy:
    """Height of a free root, `qpos[2]`, in [low, high] m, and everything finite."""

    def healthy(data: Data) -> Array:
        finite = jnp.all(jnp.isfinite(data.qpos)) & jnp.all(jnp.isfinite(data.qvel))
        return finite & (low <= data.qpos[2]) & (data.qpos[2] <= high)

    return healthy


def standing(low: float, high: float) -> Healthy:
    """Height of a free root, `qpos[2]`, in (low, high) m."""
    return lambda data: within(low, data.qpos[2], high)


def balanced(data: Data) -> Array:
    """The pole is within 0.2 rad of upright, and everything is finite."""
    finite = jnp.all(jnp.isfinite(data.qpos)) & jnp.all(jnp.isfinite(data.qvel))
    return finite & (jnp.abs(data.qpos[1]) <= 0.2)


def tip_is_high(data: Data) -> Array:
    """The tip of the second pole is above 1 m."""
    return data.site_xpos[0, 2] > 1.0


HOPPER = GymTask(
    model="hopper.xml",
    frame_skip=4,
    root=1,
    obs=(qpos(start=1), qvel(clip=10.0)),
    tracked=root_position(1),
    reward=(forward(1.0), alive(1.0, always=True), control_cost(1e-3)),
    healthy=upright(low=0.7, high=jnp.inf, lean=0.2, state=100.0),
    qpos_noise=5e-3,
    qvel_noise=5e-3,
)
WALKER2D = replace(HOPPER, model="walker2d.xml", healthy=upright(low=0.8, high=2.0, lean=1.0))
HALF_CHEETAH = GymTask(
    model="half_cheetah.xml",
    frame_skip=5,
    root=1,
    obs=(qpos(start=1), qvel()),
    tracked=root_position(1),
    reward=(forward(1.0), control_cost(0.1)),
    healthy=endless,
    qpos_noise=0.1,
    qvel_noise=0.1,
    qvel_normal=True,
)
SWIMMER = GymTask(
    model="swimmer.xml",
    frame_skip=4,
    root=2,
    obs=(qpos(start=2), qvel()),
    tracked=root_position(2),
    reward=(forward(1.0), control_cost(1e-4)),
    healthy=endless,
    qpos_noise=0.1,
    qvel_noise=0.1,
)
ANT = GymTask(
    model="ant.xml",
    frame_skip=5,
    root=2,
    obs=(qpos(start=2), qvel()),
    tracked=torso_position,
    reward=(forward(1.0), alive(1.0, always=True), control_cost(0.5)),
    healthy=off_the_ground(low=0.2, high=1.0),
    qpos_noise=0.1,
    qvel_noise=0.1,
    qvel_normal=True,
)
HUMANOID = GymTask(
    model="humanoid.xml",
    frame_skip=5,
    root=2,
    obs=(qpos(start=2), qvel(), cinert(), cvel(), qfrc_actuator(), cfrc_ext()),
    tracked=mass_centre,
    reward=(forward(1.25), alive(5.0, always=True), control_cost(0.1)),
    healthy=standing(low=1.0, high=2.0),
    qpos_noise=1e-2,
    qvel_noise=1e-2,
    contact_forces=True,
)
INVERTED_PENDULUM = GymTask(
    model="inverted_pendulum.xml",
    frame_skip=2,
    obs=(qpos(), qvel()),
    tracked=nothing,
    reward=(alive(1.0, always=True),),
    healthy=balanced,
    qpos_noise=0.01,
    qvel_noise=0.01,
)
INVERTED_DOUBLE_PENDULUM = GymTask(
    model="inverted_double_pendulum.xml",
    frame_skip=5,
    obs=(qpos_of_cart, pole_angles, qvel(clip=10.0), qfrc_constraint()),
    tracked=nothing,
    reward=(alive(10.0, always=True), tip_cost, swing_cost),
    healthy=tip_is_high,
    qpos_noise=0.1,
    qvel_noise=0.1,
    qvel_normal=True,
)
REACHER = GymTask(
    model="reacher.xml",
    frame_skip=2,
    obs=(arm_angles, qpos(start=2), arm_velocities, fingertip_from_target),
    tracked=fingertip_from_target,
    reward=(distance_cost(before=True), control_cost(1.0)),
    healthy=endless,
    qpos_noise=0.1,
    qvel_noise=0.005,
    target=True,
    horizon=50,
)

TASKS: dict[str, GymTask] = {
    "Hopper-v4": HOPPER,
    "Walker2d-v4": WALKER2D,
    "HalfCheetah-v4": HALF_CHEETAH,
    "Swimmer-v4": SWIMMER,
    "Ant-v4": ANT,
    "Humanoid-v4": HUMANOID,
    "InvertedPendulum-v4": INVERTED_PENDULUM,
    "InvertedDoublePendulum-v4": INVERTED_DOUBLE_PENDULUM,
    "Reacher-v4": REACHER,
    # What version 5 changed.
    "Hopper-v5": replace(
        HOPPER, reward=(forward(1.0), alive(1.0, always=False), control_cost(1e-3))
    ),
    "Walker2d-v5": replace(
        WALKER2D,
        model="walker2d_v5.xml",
        reward=(forward(1.0), alive(1.0, always=False), control_cost(1e-3)),
    ),
    "HalfCheetah-v5": HALF_CHEETAH,
    "Swimmer-v5": SWIMMER,
    "Ant-v5": replace(
        ANT,
        obs=(qpos(start=2), qvel(), cfrc_ext(start=1, clip=1.0)),
        reward=(
            forward(1.0),
            alive(1.0, always=False),
            control_cost(0.5),
            contact_cost(5e-4, clip=1.0),
        ),
        contact_forces=True,
    ),
    "Humanoid-v5": replace(
        HUMANOID,
        obs=(qpos(start=2), qvel(), cinert(1), cvel(1), qfrc_actuator(start=6), cfrc_ext(start=1)),
        reward=(
            forward(1.25),
            alive(5.0, always=False),
            control_cost(0.1),
            contact_cost(5e-7, most=10.0),
        ),
    ),
    "InvertedPendulum-v5": replace(INVERTED_PENDULUM, reward=(alive(1.0, always=False),)),
    "InvertedDoublePendulum-v5": replace(
        INVERTED_DOUBLE_PENDULUM,
        obs=(qpos_of_cart, pole_angles, qvel(clip=10.0), qfrc_constraint(end=1)),
        reward=(alive(10.0, always=False), tip_cost, swing_cost),
    ),
    "Reacher-v5": replace(
        REACHER,
        obs=(arm_angles, qpos(start=2), arm_velocities, offset_in_plane),
        reward=(distance_cost(before=False), control_cost(1.0)),
    ),
}
