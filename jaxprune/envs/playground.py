"""MuJoCo Playground's DM Control tasks behind our protocol; the package is the extra `dmc`.

Every reward is a product or a mean of terms in [0, 1]. No episode ends before the time limit,
unless a position or velocity becomes NaN: Playground's `done` says only that.
"""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from jaxprune.envs.base import EnvSpec, conclude, traced_once
from jaxprune.envs.carry import Carry
from jaxprune.envs.quiet import quiet
from jaxprune.types import ActionBox, Array, EnvState, Key, PyTree, TimeStep
from jaxprune.validation import InputError


def _load(name: str) -> tuple[Any, int]:
    """Playground's own environment, on MJX's pure JAX (its default needs CUDA), and its horizon."""
    try:
        with quiet():
            import mujoco_playground  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(
            f"env {name!r} needs MuJoCo Playground, which does not import ({error}): "
            'pip install "jaxprune[dmc]", or choose an env without "dmc/"'
        ) from None
    suite = mujoco_playground.dm_control_suite
    # Its reacher compares versions as strings, and "3.17" < "3.3": say one that sorts last.
    suite.reacher.mujoco = SimpleNamespace(**{**vars(mujoco), "__version__": "9"})
    task = name.removeprefix("dmc/")
    config: Any = suite.get_default_config(task)
    with quiet():
        env = suite.load(task, config, config_overrides={"impl": "jax"})
    return env, config.episode_length


class PlaygroundEnv:
    """A DM Control task. Actions are clipped to [-1, 1], the range of every actuator.

    Only what a later step reads is carried: 54 numbers of CartpoleBalance's 449.

    Args:
        name: "dmc/" and Playground's name of the task.
        eps: default radius of the observation ball, in normalised units.
    """

    def __init__(self, name: str, eps: float):
        self._env, horizon = _load(name)
        example = jax.eval_shape(self._env.reset, jax.random.key(0))
        action = jax.ShapeDtypeStruct((self._env.action_size,), np.float32)
        self._carry = Carry(self._step, example, action)
        self.spec = EnvSpec(
            name=name,
            backend="mjx",
            obs_size=example.obs.shape[0],
            action_size=self._env.action_size,
            discrete=False,
            horizon=horizon,
            eps=eps,
            reward_range=(0.0, 1.0),
            reward_clip=(0.0, 1.0),
            action_box=ActionBox(*((end,) * self._env.action_size for end in (-1.0, 1.0))),
        )

    @traced_once
    def reset(self, key: Key) -> tuple[EnvState, Array]:
        """Playground's own reset distribution."""
        state = self._env.reset(key)
        return EnvState(self._carry.pack(state), jnp.int32(0)), state.obs

    @traced_once
    def step(self, state: EnvState, action: Array) -> tuple[EnvState, TimeStep]:
        """One control step (one or several physics steps) with Playground's reward."""
        before = self._carry.unpack(state.physics)
        after, (obs, reward, done) = self._step(before, jnp.clip(action, -1.0, 1.0))
        time = state.time + 1
        reward = jnp.clip(reward, 0.0, 1.0)  # a cosine of the simulator may round to 1 + 5e-7
        step = conclude(self.spec, time, obs, reward, done > 0)
        return EnvState(self._carry.pack(after), time), step

    def _step(self, state: PyTree, action: Array):
        after = self._env.step(state, action)
        return after, (after.obs, after.reward, after.done)
