"""What an environment is: two pure functions and a specification."""

from dataclasses import dataclass
from typing import Protocol

from jaxprune.types import Array, EnvState, Key, TimeStep


@dataclass(frozen=True)
class EnvSpec:
    """The facts about a task that other stages need."""

    name: str
    backend: str
    """The simulator behind the task; "analytic" where the equations are written out."""
    obs_size: int
    action_size: int
    """Actions are `[action_size]` floats, clipped to [-1, 1]; if `discrete`, one of so many."""
    discrete: bool
    horizon: int
    """Steps after which an episode is truncated."""
    eps: float
    """Default radius of the l_inf ball, in normalised observation units."""
    reward_range: tuple[float, float] | None
    """A-priori bounds of one reward, 0 included if episodes can terminate; None if unbounded."""


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
