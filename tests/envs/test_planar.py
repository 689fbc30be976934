"""Robots in a plane: their equations of motion against those of MuJoCo C, in double precision.

tests/envs/test_mujoco.py compares whole steps of the tasks; here are all states, also those that no
task visits.
"""

from functools import cache

import jax
import mujoco
import numpy as np
import pytest

from jaxprune.envs import TASKS, gym_tasks, make_env
from jaxprune.envs.mujoco import _asset
from jaxprune.envs.physics import load_model
from jaxprune.envs.planar import PlanarDynamics, is_planar

PLANAR = {"hopper", "walker2d", "halfcheetah", "inverted_pendulum", "inverted_double_pendulum"}
PLANAR |= {
    f"gym/{name}-{version}"
    for name in ("Hopper", "Walker2d", "HalfCheetah", "InvertedPendulum", "InvertedDoublePendulum")
    for version in ("v4", "v5")
}
STATES = 200


BODY = """
<mujoco>
  <option {option}/>
  <worldbody>
    <geom name="floor" type="plane" size="1 1 1" {floor}/>
    <body name="a" pos="0 0 0.5">
      <joint name="x" type="slide" axis="{slide}"/>
      <joint name="y" type="hinge" axis="0 1 0" {joint}/>
      <geom type="capsule" size="0.1" fromto="0 0 0 0.3 0 0.1" {geom}/>
      <body name="b" pos="{place}" {turned}>
        <joint name="z" type="{kind}" axis="{axis}"/>
        <geom type="{shape}" size="0.1 0.2"/>
        {part}
      </body>
    </body>
  </worldbody>
  <actuator><motor joint="y" ctrlrange="-1 1" {motor}/></actuator>
  {more}
</mujoco>
"""
FLAT = dict.fromkeys(("option", "floor", "joint", "geom", "turned", "motor", "more", "part"), "")
FLAT |= {
    "place": "0 0 -0.5",
    "kind": "hinge",
    "axis": "0 -1 0",
    "shape": "capsule",
    "slide": "1 0 0",
}


def small_model(**changes):
    return mujoco.MjModel.from_xml_string(BODY.format(**FLAT | changes))


# A hoist: a trolley along x on a beam that moves along z, and a pendulum below.
HOIST = """
<mujoco>
  <worldbody>
    <geom type="plane" size="1 1 1"/>
    <body pos="0 0 1">
      <joint type="slide" axis="0 0 1"/>
      <geom type="capsule" size="0.05" fromto="-0.5 0 0 0.5 0 0"/>
      <body pos="0.2 0 -0.3">
        <joint type="slide" axis="1 0 0" range="-0.5 0.5"/>
        <joint type="hinge" axis="0 1 0" pos="0.1 0 0"/>
        <geom type="capsule" size="0.05" fromto="0 0 0 0.1 0 -0.4"/>
        <body pos="0.1 0 -0.5">
          <joint type="hinge" axis="0 -1 0" stiffness="3" springref="20" damping="0.1"/>
          <geom type="capsule" size="0.1 0.1" condim="1"/>
          <site pos="0.1 0 0.2"/>
        </body>
      </body>
    </body>
  </worldbody>
</mujoco>
"""
# Robots unlike those of the tasks.
SMALL = {
    "two hinges on a cart": small_model(),
    "a cart on a slope": small_model(slide="0.6 0 0.8"),
    "contacts that only push": small_model(floor='condim="1"', geom='condim="1"'),
    "hard contacts": small_model(geom='solref="-1000 -10" solimp="0.8 0.9 0.01 0.3 2" gap="0.01"'),
    "a hoist": mujoco.MjModel.from_xml_string(HOIST),
}

# Brax's ant and humanoid are stepped by MJX itself.
STEPPED = {name for name in TASKS if name.startswith("gym/")} | {"reacher"}
STEPPED |= {name for name in PLANAR if not name.startswith("gym/")}


@cache
def model_of(name: str):
    if name in SMALL:
        return SMALL[name]
    if not name.startswith("gym/"):
        return make_env(name, "mjx").mj_model
    return load_model(_asset(gym_tasks.TASKS[name.removeprefix("gym/")].model))


def test_the_planar_tasks():
    assert {name for name in STEPPED if is_planar(model_of(name))} == PLANAR


@cache
def drawn(name: str):
    """States with limits exceeded, in the air and in the floor: (qpos, qvel, ctrl), `[N, ...]`."""
    model = model_of(name)
    rng = np.random.default_rng(0)
    low, high = np.where(model.jnt_limited, model.jnt_range.T, [[-1.5], [0.5]])
    middle, reach = (low + high) / 2, (high - low) / 2
    qpos = model.qpos0 + middle + 1.2 * reach * rng.uniform(-1, 1, (STATES, model.nq))
    qvel = 5 * rng.normal(size=(STATES, model.nv))
    return qpos, qvel, rng.uniform(-1.5, 1.5, (STATES, model.nu))


@cache
def by_mujoco(name: str) -> list:
    """`MjData` after `mj_forward` of every drawn state; the solver goes to the minimum."""
    model = model_of(name)
    model.opt.tolerance, iterations = 0.0, model.opt.iterations
    model.opt.iterations = 100
    found = []
    for qpos, qvel, ctrl in zip(*drawn(name), strict=True):
        data = mujoco.MjData(model)
        data.qpos, data.qvel, data.ctrl = qpos, qvel, ctrl
        mujoco.mj_forward(model, data)
        found.append(data)
    model.opt.iterations = iterations
    return found


@cache
def by_us(name: str):
    with jax.enable_x64(True):
        dynamics = PlanarDynamics(model_of(name))

        def forward(qpos, qvel, ctrl):
            return dynamics.forward(dynamics.rest.replace(qpos=qpos, qvel=qvel, ctrl=ctrl))

        return jax.device_get(jax.jit(jax.vmap(forward))(*drawn(name)))


def assert_near(ours, theirs, scale=None):
    theirs = np.array(theirs)
    scale = np.max(np.abs(theirs)) if scale is None else scale
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9 * scale)


# The models of version 5 are those of version 4, but for Walker2d's friction.
MODELS = {name for name in PLANAR if not name.endswith("v5")} | {"gym/Walker2d-v5"}
each = pytest.mark.parametrize("name", [*sorted(MODELS), *SMALL])


@each
def test_bodies_are_where_mujoco_puts_them(name):
    ours, theirs = by_us(name), by_mujoco(name)
    assert_near(ours.xpos, [data.xpos for data in theirs])
    assert_near(ours.site_xpos, [data.site_xpos for data in theirs], scale=1.0)
    # q and -q are the same rotation.
    overlap = np.sum(ours.xquat * np.array([data.xquat for data in theirs]), axis=-1)
    np.testing.assert_allclose(np.abs(overlap), 1.0, rtol=1e-12)


@each
def test_inertia_and_forces_are_mujocos(name):
    model, ours = model_of(name), by_us(name)
    for mass, smooth, data in zip(ours.mass, ours.qfrc_smooth, by_mujoco(name), strict=True):
        full = np.zeros((model.nv, model.nv))
        mujoco.mj_fullM(model, data, full)
        assert_near(mass, full)
        assert_near(smooth, data.qfrc_smooth)


@each
def test_accelerations_under_constraints_are_mujocos(name):
    ours, theirs = by_us(name), by_mujoco(name)
    compared = [i for i, data in enumerate(theirs) if not crosses(data)]
    assert len(compared) > 0.7 * STATES
    touching = np.mean([theirs[i].ncon > 0 for i in compared])
    assert 0.2 < touching < 1 or ("nverted" in name and touching == 0)
    for i in compared:
        assert_near(ours.qacc[i], theirs[i].qacc)
        # Of a state that nothing holds, no force is left to compare with.
        scale = max(1.0, np.max(np.abs(theirs[i].qfrc_constraint)))
        assert_near(ours.qfrc_constraint[i], theirs[i].qfrc_constraint, scale)


def crosses(data) -> bool:
    """Whether the axes of two capsules cross: their nearest points are one, without a normal."""
    model = data.model
    return any(
        model.geom_bodyid[first] > 0
        and -contact.dist > 0.999 * model.geom_size[[first, second], 0].sum()
        for contact in data.contact
        for first, second in [contact.geom]
    )


# --- what is not planar


DEEP = {
    "a fluid": {"option": 'density="1"'},
    "a smooth friction cone": {"option": 'cone="elliptic"'},
    "gravity to the side": {"option": 'gravity="0 1 -9"'},
    "a slope": {"floor": 'euler="0 10 0"'},
    "a joint with friction": {"joint": 'frictionloss="1"'},
    "another impedance": {"geom": 'solimp="0.9 0.95 0.001 0.5 3"'},
    "rolling friction": {"geom": 'condim="6"'},
    "a part beside the plane": {"place": "0 0.1 -0.5"},
    "a part turned at rest": {"turned": 'euler="0 20 0"'},
    "a hinge out of the plane": {"axis": "1 0 0"},
    "a slide behind a hinge": {"kind": "slide", "axis": "1 0 0"},
    "a slide out of the plane": {"kind": "slide", "axis": "0 1 0"},
    "a sphere that touches": {"shape": "sphere"},
    "a weak motor": {"motor": 'forcerange="-1 1" forcelimited="true"'},
    "a servo": {"more": '<actuator><position joint="z" kp="1"/></actuator>'},
    "a pair that never touches": {"more": '<contact><exclude body1="a" body2="b"/></contact>'},
    "a part without a joint": {"part": '<body><geom type="capsule" size="0.1 0.1"/></body>'},
    "a heavy motor": {"motor": 'armature="1"'},
    "a closed loop": {"more": '<equality><joint joint1="y" joint2="z"/></equality>'},
}


@pytest.mark.parametrize("name", SMALL)
def test_a_small_planar_model(name):
    assert is_planar(SMALL[name])


@pytest.mark.parametrize("changes", DEEP.values(), ids=DEEP)
def test_what_needs_three_dimensions_is_left_to_mjx(changes):
    assert not is_planar(small_model(**changes))
