"""Brax's continuous-control tasks behind our protocol, on its four physics backends.

Brax keeps ten to fifteen times more numbers in its state than its next step reads; `BraxEnv`
carries only those that it reads. On mjx it steps with `jaxprune.envs.physics`: the same equations,
several times as fast.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxprune.envs.base import EnvSpec, conclude, traced_once
from jaxprune.envs.carry import Carry
from jaxprune.envs.physics import Data, Physics
from jaxprune.envs.planar import PlanarData
from jaxprune.envs.quiet import quiet
from jaxprune.types import ActionBox, Array, EnvState, Key, TimeStep

with quiet():
    from brax import envs as brax_envs
    from brax import fluid
    from brax.base import Motion, System, Transform

# brax.fluid, which only swimmer uses, calls `clip` by a keyword that jax 0.10 removed.
fluid.jp = SimpleNamespace(**{**vars(jnp), "clip": lambda x, a_min: jnp.maximum(x, a_min)})


class BraxEnv:
    """A Brax task. Actions are clipped to [-1, 1], Brax's range, before Brax sees them.

    Args:
        name: Brax's name of the task.
        backend: "mjx", "spring", "positional" or "generalized".
        horizon: control steps until truncation (Brax's default is 1000 for every task).
        eps: default radius of the observation ball, in normalised units.
        reward_range: a-priori bounds of one reward, or None.
        reward_clip: see `EnvSpec`.
    """

    def __init__(
        self,
        name: str,
        backend: str,
        horizon: int,
        eps: float,
        reward_range: tuple[float, float] | None,
        reward_clip: tuple[float, float],
    ):
        with quiet():
            self._env: Any = brax_envs.get_environment(name, backend=backend)
        if backend == "mjx" and _solves(self._env.sys):
            start, step = _pipeline(self._env.sys, self._env._n_frames)
            self._env.pipeline_init, self._env.pipeline_step = start, step
        example = jax.eval_shape(self._env.reset, jax.random.key(0))
        action = jax.ShapeDtypeStruct((self._env.action_size,), np.float32)
        self._carry = Carry(self._step, example, action)
        self.spec = EnvSpec(
            name=name,
            backend=backend,
            obs_size=example.obs.shape[0],
            action_size=self._env.action_size,
            discrete=False,
            horizon=horizon,
            eps=eps,
            reward_range=reward_range,
            reward_clip=reward_clip,
            action_box=ActionBox(*((end,) * self._env.action_size for end in (-1.0, 1.0))),
        )

    @traced_once
    def reset(self, key: Key) -> tuple[EnvState, Array]:
        """Brax's own reset distribution."""
        state = self._env.reset(key)
        return EnvState(self._carry.pack(state), jnp.int32(0)), jnp.asarray(state.obs)

    @traced_once
    def step(self, state: EnvState, action: Array) -> tuple[EnvState, TimeStep]:
        """One control step (several physics steps) with Brax's reward and termination."""
        before = self._carry.unpack(state.physics)
        after, (obs, reward, done) = self._step(before, jnp.clip(action, -1.0, 1.0))
        time = state.time + 1
        step = conclude(self.spec, time, jnp.asarray(obs), jnp.asarray(reward), done > 0)
        return EnvState(self._carry.pack(after), time), step

    @property
    def mj_model(self) -> Any:
        """See `Drawable`."""
        return self._env.sys.mj_model

    @property
    def dt(self) -> float:
        """See `Drawable`."""
        return float(self._env.dt)

    def qpos(self, state: EnvState) -> Array:
        """See `Drawable`; every backend computes it for its observations."""
        return self._carry.unpack(state.physics).pipeline_state.q

    def _step(self, state: brax_envs.State, action: Array):
        after = self._env.step(state, action)
        return after, (after.obs, after.reward, after.done)


def _solves(sys: System) -> bool:
    """Whether Brax lets the solver reach the minimum that ours goes to.

    Ant and humanoid stop after one iteration, and are another task without it.
    """
    return sys.opt.iterations > 1


@struct.dataclass
class Pipeline:
    """Holds what Brax's tasks read of a simulator, and where its next step starts."""

    q: Array  # [nq]
    qd: Array  # [nv]
    x: Transform  # of every body
    xd: Motion | None  # None for robots in a plane: no task reads it
    qacc_warmstart: Array  # [nv]


def _pipeline(sys: System, frame_skip: int) -> tuple[Callable[..., Pipeline], ...]:
    """`pipeline_init` and `pipeline_step` of the mjx backend, by our physics."""
    physics = Physics(sys.mj_model, frame_skip)

    def start(q: Array, qd: Array) -> Pipeline:
        return read(physics.at(q, qd))

    def step(before: Pipeline, action: Array) -> Pipeline:
        return read(physics.simulate(before.q, before.qd, before.qacc_warmstart, action))

    def read(data: Data) -> Pipeline:
        """As `brax.mjx.pipeline` reads it off."""
        x = Transform(pos=data.xpos[1:], rot=data.xquat[1:])
        xd = None
        if not isinstance(data, PlanarData):
            at_centre = Motion(vel=data.cvel[1:, 3:], ang=data.cvel[1:, :3])
            to_link = Transform.create(pos=x.pos - data.subtree_com[sys.body_rootid[1:]])
            xd = to_link.vmap().do(at_centre)
        return Pipeline(data.qpos, data.qvel, x, xd, data.qacc_warmstart)

    return start, step
