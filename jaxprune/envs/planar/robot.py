"""A planar robot, read from a MuJoCo model: constants only.

x is forward, z up, and a body turns about y. A point of a body is

    p = sum_b R_b arm_b + sum_s axis_s q_s,    R_b (x, z) = (x cos_b + z sin_b, z cos_b - x sin_b)

over the bodies b between the world and it, each turned by its own angle, and the slides s.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import mujoco
import numpy as np

from jaxprune.types import AnyArray

simulator: Any = mujoco  # its type stubs lack what is compiled
SLIDE, HINGE = simulator.mjtJoint.mjJNT_SLIDE, simulator.mjtJoint.mjJNT_HINGE
PLANE, CAPSULE = simulator.mjtGeom.mjGEOM_PLANE, simulator.mjtGeom.mjGEOM_CAPSULE


class Points(NamedTuple):
    """n points fixed in bodies."""

    body: AnyArray  # int [n]
    arms: AnyArray  # [n, nbody, 2], x and z


class Hardness(NamedTuple):
    """How strongly each of n limits or contacts acts."""

    margin: AnyArray  # [n], metres or radians before the violation
    inverse_weight: AnyArray  # [n], MuJoCo's estimate of 1 / (the mass that a row pushes)
    solref: AnyArray  # [n, 2]
    solimp: AnyArray  # [n, 5]


class Contacts(NamedTuple):
    """n places where two geoms can touch."""

    bodies: AnyArray  # int [n, 2]; the contact pushes the second away from the first
    radii: AnyArray  # [n, 2]; 0 for the floor
    friction: AnyArray  # [n]; 0: the contact only pushes
    hardness: Hardness


class Limits(NamedTuple):
    """Limits how far n joints move."""

    joint: AnyArray  # int [n]
    range: AnyArray  # [n, 2]
    hardness: Hardness


@dataclass(frozen=True)
class Robot:
    """Everything about a model that its motion in the plane depends on."""

    timestep: float
    """Seconds."""
    gravity: AnyArray
    """[2], x and z."""
    rest: AnyArray
    """[nv], joint positions."""
    springs: tuple[AnyArray, AnyArray]
    """Stiffness and resting position, [nv] each."""
    damping: AnyArray
    """[nv]."""
    motors: tuple[AnyArray, AnyArray]
    """Forces per unit of control, [nv, nu], and the range of the controls, [2, nu]."""
    spin: AnyArray
    """[nv]: +1 or -1 where a hinge turns about +y or -y, 0 for slides."""
    axis: AnyArray
    """[nv, 2]: of slides, 0 for hinges."""
    moves: AnyArray
    """[nbody, nv]: 1 where a joint moves a body, else 0."""
    travels: AnyArray
    """[nv]: whether a slide moves the whole robot along the floor. Nothing depends on how far it
    went, which stays out of the digits."""
    turning: AnyArray
    """[nv, nv]: the part of the mass matrix that does not change, rotation and armature."""
    masses: AnyArray
    """[nbody]."""
    frames: Points
    """Where the frames of the bodies begin."""
    centres: Points
    """Where the masses of the bodies are centred."""
    pivots: Points
    """Where hinges turn their bodies; a slide's has no meaning."""
    sites: Points
    limits: Limits
    floor: float
    """Height, metres."""
    on_floor: Contacts
    ends: Points
    """The ends of capsules that can touch the floor, in the order of `on_floor`."""
    between: Contacts
    """Where two capsules can touch."""
    segments: tuple[Points, Points, Points, Points]
    """Both ends of the first capsules of `between`, and of the second."""


def is_planar(model: Any) -> bool:
    """Tells whether a `Robot` says everything about the motion of an `MjModel`."""
    return _is_simple(model) and _stays_in_plane(model) and _touches_simply(model)


def read_robot(model: Any) -> Robot:
    """Reads the planar robot of an `MjModel` for which `is_planar`."""
    hinge = model.jnt_type == HINGE
    spin = np.where(hinge, model.jnt_axis[:, 1], 0.0)
    moves = _moved_by(model).astype(float)
    inertia = [_inertia(model, body)[1, 1] for body in range(model.nbody)]
    turns = moves * spin  # [nbody, nv]
    pairs = _touching(model)
    floors = [pair for pair in pairs if model.geom_type[pair[0]] == PLANE for _ in range(2)]
    capsules = [pair for pair in pairs if model.geom_type[pair[0]] == CAPSULE]
    first, second = (np.array([pair[i] for pair in capsules], int) for i in (0, 1))
    lowest = np.array([geom for _, geom in floors], int)
    sides = np.tile([1.0, -1.0], len(floors) // 2)
    axis = np.where(hinge[:, None], 0.0, _in_plane(model.jnt_axis))
    return Robot(
        timestep=float(model.opt.timestep),
        gravity=model.opt.gravity[::2].copy(),
        rest=model.qpos0.copy(),
        springs=(model.jnt_stiffness.copy(), model.qpos_spring.copy()),
        damping=model.dof_damping.copy(),
        motors=(_gears(model), model.actuator_ctrlrange.T.copy()),
        spin=spin,
        axis=axis,
        moves=moves,
        travels=(axis[:, 0] != 0) & (axis[:, 1] == 0) & moves[1:].all(axis=0),
        turning=turns.T @ (np.array(inertia)[:, None] * turns) + np.diag(model.dof_armature),
        masses=model.body_mass.copy(),
        frames=_frames(model),
        centres=_points(model, np.arange(model.nbody), model.body_ipos),
        pivots=_points(model, model.jnt_bodyid, model.jnt_pos),
        sites=_points(model, model.site_bodyid, model.site_pos),
        limits=_limits(model),
        floor=float(model.geom_pos[floors[0][0], 2]) if floors else 0.0,
        on_floor=_contacts(model, floors),
        ends=_ends(model, lowest, sides),
        between=_contacts(model, capsules),
        segments=(
            _ends(model, first, 1.0),
            _ends(model, first, -1.0),
            _ends(model, second, 1.0),
            _ends(model, second, -1.0),
        ),
    )


def _is_simple(model: Any) -> bool:
    """Whether the model has nothing but joints, motors, limits and contacts."""
    features = (
        model.neq,
        model.ntendon,
        model.npair,
        model.nexclude,
        model.na,
        model.nmocap,
        model.opt.density,
    )
    features += (model.opt.viscosity, model.opt.disableflags, model.opt.enableflags, model.opt.cone)
    settings = (model.body_gravcomp, model.dof_frictionloss, model.dof_dampingpoly)
    settings += (model.jnt_stiffnesspoly, model.jnt_actfrclimited, model.geom_priority)
    settings += (model.actuator_forcelimited, model.actuator_biastype, model.actuator_gaintype)
    settings += (model.actuator_trntype, model.actuator_ctrllimited == 0, model.geom_solmix <= 0)
    settings += (model.actuator_armature, model.actuator_damping, model.actuator_delay)
    return not any(features) and not any(np.any(setting) for setting in settings)


def _stays_in_plane(model: Any) -> bool:
    """Whether slides along x and z, then one hinge about y, move every body of one robot."""
    if not np.isin(model.jnt_type, (SLIDE, HINGE)).all():
        return False
    hinge = model.jnt_type == HINGE
    across = np.abs(model.jnt_axis[:, 1])
    moved_by = _moved_by(model)
    level = [model.body_pos, model.site_pos, model.jnt_pos[hinge], model.opt.gravity[None]]
    return bool(
        np.allclose(across[hinge], 1)
        and np.allclose(across[~hinge], 0)
        and np.allclose(model.body_quat, [1, 0, 0, 0])
        and not any(place[:, 1].any() for place in level)
        and np.count_nonzero(model.body_parentid[1:] == 0) == 1
        and set(model.jnt_bodyid) == set(range(1, model.nbody))  # none is a part of its parent
        and len(set(model.jnt_bodyid[hinge])) == hinge.sum()  # no body has two
        # No hinge comes before a slide.
        and not any(
            moved_by[model.jnt_bodyid[slide], :slide][hinge[:slide]].any()
            for slide in np.flatnonzero(~hinge)
        )
        and all(
            np.allclose(_inertia(model, body)[1, ::2], 0, atol=1e-12)
            for body in range(1, model.nbody)
        )
    )


def _touches_simply(model: Any) -> bool:
    """Whether only capsules in the plane touch, each other or one level floor.

    Their impedance, and that of limits, is a parabola at either end, MuJoCo's default.
    """
    pairs = _touching(model)
    floors = {geom for geom, _ in pairs if model.geom_type[geom] == PLANE}
    for geom in {geom for pair in pairs for geom in pair}:
        turned = _rotation(model.geom_quat[geom])
        if geom in floors:
            fits = model.geom_bodyid[geom] == 0 and np.allclose(turned, np.eye(3))
        else:
            fits = model.geom_type[geom] == CAPSULE and model.geom_bodyid[geom] > 0
            fits &= abs(turned[1, 2]) < 1e-9 and model.geom_pos[geom, 1] == 0
        if not fits or model.geom_condim[geom] > 3:
            return False
    parabolic = (model.geom_solimp[:, 4] == 2).all() and (model.jnt_solimp[:, 4] == 2).all()
    return bool(parabolic) and len(floors) <= 1


def _touching(model: Any) -> list[tuple[int, int]]:
    """Pairs of geoms that MuJoCo checks, the lower type first (documentation, "Collision")."""
    pairs = []
    for a in range(model.ngeom):
        for b in range(a + 1, model.ngeom):
            first, second = (a, b) if model.geom_type[a] <= model.geom_type[b] else (b, a)
            one, other = model.geom_bodyid[[a, b]]
            related = one and model.body_parentid[other] == one
            affine = (model.geom_contype[a] & model.geom_conaffinity[b]) | (
                model.geom_contype[b] & model.geom_conaffinity[a]
            )
            if affine and one != other and not related:
                pairs.append((first, second))
    return pairs


def _moved_by(model: Any) -> np.ndarray:
    """Bool [nbody, nv]: whether a joint moves a body."""
    moved = np.zeros((model.nbody, model.nv), bool)
    for body in range(1, model.nbody):
        moved[body] = moved[model.body_parentid[body]] | (model.dof_bodyid == body)
    return moved


def _frames(model: Any) -> Points:
    """The origins of the bodies' frames.

    A body's frame is at `place` in its parent's until its hinge turns it about `pivot`.
    """
    places, pivots = _in_plane(model.body_pos), np.zeros((model.nbody, 2))
    hinge = model.jnt_type == HINGE
    pivots[model.jnt_bodyid[hinge]] = _in_plane(model.jnt_pos[hinge])
    arms = np.zeros((model.nbody, model.nbody, 2))
    for body in range(1, model.nbody):
        parent = model.body_parentid[body]
        arms[body] = arms[parent]
        arms[body, parent] += places[body] + pivots[body]
        arms[body, body] -= pivots[body]
    return Points(np.arange(model.nbody), arms)


def _points(model: Any, body: np.ndarray, place: np.ndarray) -> Points:
    """Points at `place` `[n, 3]` in the frames of `body` `[n]`."""
    arms = _frames(model).arms[body]
    arms[np.arange(len(body)), body] += _in_plane(place)
    return Points(np.array(body), arms)


def _ends(model: Any, geom: np.ndarray, side: np.ndarray | float) -> Points:
    """The upper (`side` 1) or lower (-1) ends of capsules."""
    along = np.array([_rotation(model.geom_quat[g])[:, 2] for g in geom]).reshape(-1, 3)
    half = (side * model.geom_size[geom, 1])[:, None] * along
    return _points(model, model.geom_bodyid[geom], model.geom_pos[geom] + half)


def _gears(model: Any) -> np.ndarray:
    gears = np.zeros((model.nv, model.nu))
    strengths = model.actuator_gear[:, 0] * model.actuator_gainprm[:, 0]
    gears[model.actuator_trnid[:, 0], np.arange(model.nu)] = strengths
    return gears


def _limits(model: Any) -> Limits:
    joint = np.flatnonzero(model.jnt_limited)
    hardness = (model.jnt_margin, model.dof_invweight0, model.jnt_solref, model.jnt_solimp)
    return Limits(joint, model.jnt_range[joint], Hardness(*[x[joint] for x in hardness]))


def _contacts(model: Any, pairs: list[tuple[int, int]]) -> Contacts:
    """Contacts of pairs of geoms, whose parameters are mixed as `mj_contactParam` does."""
    geoms = np.array(pairs, int).reshape(-1, 2)
    bodies = model.geom_bodyid[geoms]
    rough = model.geom_condim[geoms].max(axis=1) == 3
    friction = np.where(rough, model.geom_friction[geoms, 0].max(axis=1), 0.0)
    weight = model.body_invweight0[bodies, 0].sum(axis=1)
    edge = (1 + friction**2) * 2 * friction**2 / model.opt.impratio
    share = model.geom_solmix[geoms] / model.geom_solmix[geoms].sum(axis=1, keepdims=True)
    solref, solimp = model.geom_solref[geoms], model.geom_solimp[geoms]
    mixed = np.einsum("np,npk->nk", share, solref)
    standard = (solref > 0).all(axis=(1, 2))
    return Contacts(
        bodies=bodies,
        radii=np.where(model.geom_type[geoms] == CAPSULE, model.geom_size[geoms, 0], 0.0),
        friction=friction,
        hardness=Hardness(
            margin=(model.geom_margin - model.geom_gap)[geoms].sum(axis=1),
            inverse_weight=weight * np.where(rough, edge, 1.0),
            solref=np.where(standard[:, None], mixed, solref.min(axis=1)),
            solimp=np.einsum("np,npk->nk", share, solimp),
        ),
    )


def _inertia(model: Any, body: int) -> np.ndarray:
    """[3, 3], about the centre of mass, along the axes of the body's frame."""
    axes = _rotation(model.body_iquat[body])
    return axes @ np.diag(model.body_inertia[body]) @ axes.T


def _rotation(quaternion: np.ndarray) -> np.ndarray:
    matrix = np.zeros(9)
    simulator.mju_quat2Mat(matrix, quaternion)
    return matrix.reshape(3, 3)


def _in_plane(v: np.ndarray) -> np.ndarray:
    """x and z of `[n, 3]`."""
    return v[:, ::2]
