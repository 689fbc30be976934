"""Every task by name, with the backends it runs on; simulators are imported when first needed."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from jaxprune.envs.base import Environment
from jaxprune.envs.classic import CartPole
from jaxprune.families import InputError, lookup


@dataclass(frozen=True)
class Task:
    """How to make an environment."""

    backends: tuple[str, ...]
    """Those that work, the default first."""
    make: Callable[[str], Environment]
    """Backend -> environment."""


def _cartpole(backend: str) -> Environment:
    del backend  # there is only one
    return CartPole()


def _brax(name: str, eps: float, reward_range: tuple[float, float] | None, backend: str):
    from jaxprune.envs.brax import BraxEnv

    return BraxEnv(name, backend, horizon=1000, eps=eps, reward_range=reward_range)


def _brax_task(
    name: str,
    eps: float,
    reward_range: tuple[float, float] | None = None,
    backends: tuple[str, ...] = ("mjx", "spring", "positional", "generalized"),
) -> Task:
    return Task(backends, partial(_brax, name, eps, reward_range))


# eps: the radius of the published robust-RL tables (SA-PPO, Zhang et al. 2020) where the task has
# one; the pendulums, reacher, swimmer and cartpole have none, and 0.1 is our choice.
TASKS: dict[str, Task] = {
    "cartpole": Task(("analytic",), _cartpole),
    "hopper": _brax_task("hopper", 0.075),
    "walker2d": _brax_task("walker2d", 0.05),
    "halfcheetah": _brax_task("halfcheetah", 0.15),
    "ant": _brax_task("ant", 0.15),
    "humanoid": _brax_task("humanoid", 0.075),
    "inverted_pendulum": _brax_task("inverted_pendulum", 0.1, reward_range=(0.0, 1.0)),
    "inverted_double_pendulum": _brax_task("inverted_double_pendulum", 0.1),
    "reacher": _brax_task("reacher", 0.1),
    "swimmer": _brax_task("swimmer", 0.1, backends=("generalized",)),
}


def default_backend(name: str) -> str:
    """The backend that `make_env(name)` uses. Raises `InputError` for an unknown task."""
    return lookup(TASKS, name, "env").backends[0]


def make_env(name: str, backend: str | None = None) -> Environment:
    """The environment `name`.

    Args:
        name: a key of `TASKS`, e.g. "hopper" or "cartpole".
        backend: the simulator; None for the task's default (mjx for Brax's tasks).

    Raises:
        InputError: no such task, or the task does not run on that backend.
    """
    task = lookup(TASKS, name, "env")
    backend = backend or task.backends[0]
    if backend not in task.backends:
        raise InputError(
            f"env {name!r} does not run on backend {backend!r}: "
            f"choose from {', '.join(task.backends)}, or leave the backend out"
        )
    return task.make(backend)
