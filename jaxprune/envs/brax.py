"""Brax's continuous-control tasks behind our protocol, on its four physics backends.

Brax keeps ten to fifteen times more numbers in its state than its next step reads (contact
points, inertias, metrics). Selecting between states, as an episode end does, would copy them all,
so `BraxEnv` finds out once, from the program of `step` itself, which leaves the next step reads,
and carries only those: hopper on mjx carries 78 floats, not 1162. No result depends on the others.
"""

import contextlib
import io
import warnings
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import partial_eval

from jaxprune.envs.base import EnvSpec
from jaxprune.types import Array, EnvState, Key, TimeStep


@contextlib.contextmanager
def _quiet():
    """Without the notices that Brax, jaxopt (both unmaintained) and MJX (no Warp here) give."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.filterwarnings("ignore", "JAXopt is no longer maintained", DeprecationWarning)
        warnings.filterwarnings("ignore", "Brax System, piplines and", UserWarning)
        yield


with _quiet():
    from brax import envs as brax_envs
    from brax import fluid

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
    """

    def __init__(
        self,
        name: str,
        backend: str,
        horizon: int,
        eps: float,
        reward_range: tuple[float, float] | None,
    ):
        with _quiet():
            self._env = brax_envs.get_environment(name, backend=backend)
        example = jax.eval_shape(self._env.reset, jax.random.key(0))
        self._leaves, self._treedef = jax.tree.flatten(example)
        self._live = self._leaves_that_step_reads()
        self.spec = EnvSpec(
            name=name,
            backend=backend,
            obs_size=example.obs.shape[0],
            action_size=self._env.action_size,
            discrete=False,
            horizon=horizon,
            eps=eps,
            reward_range=reward_range,
        )

    def reset(self, key: Key) -> tuple[EnvState, Array]:
        """Brax's own reset distribution."""
        state = self._env.reset(key)
        return EnvState(self._pack(state), jnp.int32(0)), jnp.asarray(state.obs)

    def step(self, state: EnvState, action: Array) -> tuple[EnvState, TimeStep]:
        """One control step (several physics steps) with Brax's reward and termination."""
        after = self._env.step(self._unpack(state.physics), jnp.clip(action, -1.0, 1.0))
        time = state.time + 1
        obs = jnp.asarray(after.obs)
        terminated = after.done > 0
        return EnvState(self._pack(after), time), TimeStep(
            obs=obs,
            reward=jnp.asarray(after.reward, obs.dtype),
            terminated=terminated,
            truncated=(time >= self.spec.horizon) & ~terminated,
        )

    def _pack(self, state: Any) -> list[Array]:
        leaves = jax.tree.leaves(state)
        return [jnp.asarray(leaf) for leaf, live in zip(leaves, self._live, strict=True) if live]

    def _unpack(self, physics: list[Array]) -> Any:
        carried = iter(physics)
        leaves = [
            next(carried) if live else jnp.zeros(leaf.shape, leaf.dtype)  # never read
            for leaf, live in zip(self._leaves, self._live, strict=True)
        ]
        return jax.tree.unflatten(self._treedef, leaves)

    def _leaves_that_step_reads(self) -> list[bool]:
        """The smallest set of state leaves that determines every later step's result.

        A leaf is live if the observation, reward or done flag depends on it, or if a live leaf
        of the next state does: a fixed point, found by dead-code elimination.
        """

        def step(leaves: list[Array], action: Array):
            after = self._env.step(jax.tree.unflatten(self._treedef, leaves), action)
            return jax.tree.leaves(after), (after.obs, after.reward, after.done)

        action = jax.ShapeDtypeStruct((self._env.action_size,), np.float32)
        jaxpr = jax.make_jaxpr(step)(self._leaves, action).jaxpr
        live = [False] * len(self._leaves)
        while True:
            _, read = partial_eval.dce_jaxpr(jaxpr, [*live, True, True, True])
            wider = [a or b for a, b in zip(live, read, strict=False)]
            if wider == live:
                return live
            live = wider
