"""What an environment is: two pure functions and a specification."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

import jax
import jax.numpy as jnp
from flax import struct

from jaxprune.types import ActionBox, Array, EnvState, Key, TimeStep


@dataclass(frozen=True)
class EnvSpec:
    """The facts about a task that other stages need."""

    name: str
    backend: str
    """The simulator behind the task; "analytic" where the equations are written out."""
    obs_size: int
    action_size: int
    """Actions are `[action_size]` floats, which the task clips; if `discrete`, one of so many."""
    discrete: bool
    horizon: int
    """Steps after which an episode is truncated."""
    eps: float
    """Default radius of the l_inf ball, in normalised observation units."""
    reward_range: tuple[float, float] | None
    """A-priori bounds of one reward, 0 included if episodes can terminate; None if unbounded."""
    reward_clip: tuple[float, float]
    """Value certificates hold for the return of rewards clipped to this; `reward_range` if any."""
    action_box: ActionBox | None = None
    """Where its motors end: what policies that clip to the task's box clip to. None: not said."""


Method = TypeVar("Method", bound=Callable[..., Any])


def traced_once(method: Method) -> Method:
    """For a function of a simulator: all programs of a process share one trace of it.

    Python needs seconds to walk through a simulator, for every program that steps it anew; the
    compiled programs are the same.
    """
    return cast(Method, jax.jit(method, static_argnums=0))


class Environment(Protocol):
    """One environment; `vmap` makes many. Both functions are pure and jit-compatible."""

    @property
    def spec(self) -> EnvSpec:
        """The facts about the task."""
        ...

    def reset(self, key: Key) -> tuple[EnvState, Array]:
        """A fresh episode, and its first observation `[obs_size]`; the key is consumed."""
        ...

    def step(self, state: EnvState, action: Array) -> tuple[EnvState, TimeStep]:
        """One control step. There is no auto-reset: the caller decides what follows an episode."""
        ...


@runtime_checkable
class Drawable(Environment, Protocol):
    """An environment that MuJoCo can draw."""

    @property
    def mj_model(self) -> Any:
        """The `mujoco.MjModel` of the bodies."""
        ...

    @property
    def dt(self) -> float:
        """Seconds per control step."""
        ...

    def qpos(self, state: EnvState) -> Array:
        """Where everything is in the world: positions as MuJoCo orders them, `[nq]`."""
        ...


@struct.dataclass
class Moment:
    """A simulator in the middle of an episode, for those that want to know what would follow."""

    env: Environment = struct.field(pytree_node=False)
    state: EnvState


def conclude(
    spec: EnvSpec, time: Array, obs: Array, reward: Array, terminated: Array | bool
) -> TimeStep:
    """The time step that ends after `time` steps, with the time limit and the divergence guard.

    A simulator that leaves the finite numbers has no next observation: the episode ends, that step
    earns 0 and shows zeros, and `diverged` says so, so that it can be counted.
    """
    diverged = ~(jnp.all(jnp.isfinite(obs)) & jnp.isfinite(reward))
    terminated = terminated | diverged
    return TimeStep(
        obs=jnp.where(diverged, 0.0, obs),
        reward=jnp.where(diverged, 0.0, jnp.asarray(reward, obs.dtype)),
        terminated=terminated,
        truncated=(time >= spec.horizon) & ~terminated,
        diverged=diverged,
    )
