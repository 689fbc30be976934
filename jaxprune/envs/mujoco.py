"""Gymnasium's MuJoCo tasks on MJX: the same models, rewards, endings and resets, in JAX."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprune.envs.base import EnvSpec, conclude, traced_once
from jaxprune.envs.gym_tasks import TASKS, Outcome
from jaxprune.envs.physics import Data, Physics, load_model
from jaxprune.types import ActionBox, Array, EnvState, Key, TimeStep
from jaxprune.validation import InputError


class MujocoState(NamedTuple):
    """What a step starts from."""

    qpos: Array  # [nq], metres and radians
    qvel: Array  # [nv]
    qacc_warmstart: Array  # [nv], where the constraint solver starts: no result depends on it
    tracked: Array  # the tracked quantity, relative to the root


class MujocoEnv:
    """A Gymnasium MuJoCo task.

    The simulator runs in a frame that starts every step at the robot's own place, because nothing
    depends on that place: in single precision a velocity taken from positions 30 m away would be
    wrong in its fourth digit. `EnvState.physics.qpos` is still the position in the world.

    Args:
        name: "gym/" and a key of `gym_tasks.TASKS`, for example "gym/Hopper-v4".
        eps: default radius of the observation ball, in normalised units.
        reward_range: a-priori bounds of one reward, or None.
        reward_clip: see `EnvSpec`.
    """

    def __init__(
        self,
        name: str,
        eps: float,
        reward_range: tuple[float, float] | None,
        reward_clip: tuple[float, float],
    ):
        self.task = TASKS[name.removeprefix("gym/")]
        self.physics = Physics(load_model(_asset(self.task.model)), self.task.frame_skip)
        obs = jax.eval_shape(lambda key: self.reset(key)[1], jax.random.key(0))
        self.spec = EnvSpec(
            name=name,
            backend="mjx",
            obs_size=obs.shape[0],
            action_size=self.physics.c_model.nu,
            discrete=False,
            horizon=self.task.horizon,
            eps=eps,
            reward_range=reward_range,
            reward_clip=reward_clip,
            action_box=ActionBox(*map(tuple, self.physics.c_model.actuator_ctrlrange.T.tolist())),
        )

    @traced_once
    def reset(self, key: Key) -> tuple[EnvState, Array]:
        """Gymnasium's reset distribution."""
        task, rest = self.task, self.physics.rest
        key_qpos, key_qvel, key_target = jax.random.split(key, 3)
        qpos = rest.qpos + _uniform(key_qpos, rest.qpos, task.qpos_noise)
        noise = _normal if task.qvel_normal else _uniform
        qvel = rest.qvel + noise(key_qvel, rest.qvel, task.qvel_noise)
        if task.target:
            qpos = qpos.at[-2:].set(_in_disc(key_target, 0.2, qpos.dtype))
            qvel = qvel.at[-2:].set(0.0)
        return self.set_state(qpos, qvel)

    def set_state(self, qpos: Array, qvel: Array) -> tuple[EnvState, Array]:
        """An episode that starts at `qpos` `[nq]`, `qvel` `[nv]`, and its first observation."""
        data = self.physics.at(self._centred(qpos), qvel)
        tracked = self._relative(data)
        state = MujocoState(qpos, qvel, jnp.zeros_like(qvel), tracked)
        return EnvState(state, jnp.int32(0)), self._observe(data)

    @traced_once
    def step(self, state: EnvState, action: Array) -> tuple[EnvState, TimeStep]:
        """One control step: `frame_skip` simulator steps."""
        task, before = self.task, state.physics
        data = self.physics.simulate(
            self._centred(before.qpos), before.qvel, before.qacc_warmstart, action
        )
        if task.contact_forces:
            data = self.physics.with_contact_forces(data)
        outcome = Outcome(
            data, action, before.tracked, task.tracked(data), self.physics.dt, task.healthy(data)
        )
        reward = jnp.asarray(sum(term(outcome) for term in task.reward))

        root = before.qpos[: task.root]
        after = MujocoState(
            qpos=data.qpos.at[: task.root].add(root),
            qvel=data.qvel,
            qacc_warmstart=data.qacc_warmstart,
            tracked=self._relative(data),
        )
        time = state.time + 1
        obs = self._observe(data)
        return EnvState(after, time), conclude(self.spec, time, obs, reward, ~outcome.healthy)

    @property
    def mj_model(self) -> Any:
        """See `Drawable`."""
        return self.physics.c_model

    @property
    def dt(self) -> float:
        """See `Drawable`."""
        return self.physics.dt

    def qpos(self, state: EnvState) -> Array:
        """See `Drawable`."""
        return state.physics.qpos

    def _observe(self, data: Data) -> Array:
        return jnp.concatenate([jnp.ravel(part(data)) for part in self.task.obs])

    def _centred(self, qpos: Array) -> Array:
        return qpos.at[: self.task.root].set(0.0)

    def _relative(self, data: Data) -> Array:
        """The tracked quantity in the frame in which the next step starts."""
        tracked = self.task.tracked(data)
        return tracked - data.qpos[: self.task.root] if self.task.root else tracked


def _asset(name: str) -> str:
    package = find_spec("gymnasium")
    if package is None or not package.submodule_search_locations:
        raise InputError(
            "the gym/ tasks load their models from the gymnasium package, which is not installed: "
            "pip install gymnasium, or choose an env without gym/"
        )
    return str(Path(package.submodule_search_locations[0]) / "envs/mujoco/assets" / name)


def _uniform(key: Key, like: Array, scale: float) -> Array:
    return jax.random.uniform(key, like.shape, like.dtype, -scale, scale)


def _normal(key: Key, like: Array, scale: float) -> Array:
    return scale * jax.random.normal(key, like.shape, like.dtype)


def _in_disc(key: Key, radius: float, dtype: jnp.dtype) -> Array:
    """Uniform in a disc, `[2]`."""
    key_radius, key_angle = jax.random.split(key)
    r = radius * jnp.sqrt(jax.random.uniform(key_radius, (), dtype))
    angle = jax.random.uniform(key_angle, (), dtype, 0.0, 2 * jnp.pi)
    return r * jnp.stack([jnp.cos(angle), jnp.sin(angle)])
