"""Every task by name, with the backends it runs on; simulators are imported when first needed."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from jaxprune.envs.base import Environment
from jaxprune.envs.classic import Acrobot, CartPole, MountainCar, MountainCarContinuous, Pendulum
from jaxprune.validation import InputError, lookup


@dataclass(frozen=True)
class Facts:
    """What Brax's and Gymnasium's version of a task have in common."""

    eps: float
    reward_clip: tuple[float, float]
    bounded: bool = False
    """Whether `reward_clip` bounds the reward as it is."""

    @property
    def for_spec(self) -> dict[str, Any]:
        """The fields of `EnvSpec` that follow."""
        bounds = self.reward_clip if self.bounded else None
        return {"eps": self.eps, "reward_clip": self.reward_clip, "reward_range": bounds}


# eps: the radius of the published robust-RL tables (SA-PPO, Zhang et al. 2020) where the task has
# one; the pendulums, reacher and swimmer have none, and 0.1 is our choice.
# reward_clip: our choice; tests check that random episodes of the gym/ tasks stay within it.
HOPPER = Facts(0.075, (-10.0, 10.0))
WALKER2D = Facts(0.05, (-10.0, 10.0))
HALF_CHEETAH = Facts(0.15, (-20.0, 20.0))
ANT = Facts(0.15, (-10.0, 15.0))
HUMANOID = Facts(0.075, (-10.0, 20.0))
INVERTED_PENDULUM = Facts(0.1, (0.0, 1.0), bounded=True)
INVERTED_DOUBLE_PENDULUM = Facts(0.1, (-10.0, 10.0))
REACHER = Facts(0.1, (-4.0, 0.0))
SWIMMER = Facts(0.1, (-5.0, 5.0))


@dataclass(frozen=True)
class Task:
    """How to make an environment."""

    backends: tuple[str, ...]
    """Those that work, the default first."""
    make: Callable[[str], Environment]
    """Backend -> environment."""


def _analytic_task(make: Callable[[], Environment]) -> Task:
    return Task(("analytic",), lambda backend: make())  # there is only one backend


def _brax(backend: str, name: str, facts: Facts) -> Environment:
    from jaxprune.envs.brax import BraxEnv

    return BraxEnv(name, backend, horizon=1000, **facts.for_spec)


def _brax_task(
    name: str,
    facts: Facts,
    backends: tuple[str, ...] = ("mjx", "spring", "positional", "generalized"),
) -> Task:
    return Task(backends, partial(_brax, name=name, facts=facts))


def _gym(backend: str, name: str, facts: Facts) -> Environment:
    from jaxprune.envs.mujoco import MujocoEnv

    del backend  # there is only one
    return MujocoEnv(name, **facts.for_spec)


def _playground(backend: str, name: str) -> Environment:
    from jaxprune.envs.playground import PlaygroundEnv

    del backend  # there is only one
    return PlaygroundEnv(name, eps=0.1)


TASKS: dict[str, Task] = {
    "cartpole": _analytic_task(CartPole),
    "acrobot": _analytic_task(Acrobot),
    "mountain_car": _analytic_task(MountainCar),
    "mountain_car_continuous": _analytic_task(MountainCarContinuous),
    "pendulum": _analytic_task(Pendulum),
    "hopper": _brax_task("hopper", HOPPER),
    "walker2d": _brax_task("walker2d", WALKER2D),
    "halfcheetah": _brax_task("halfcheetah", HALF_CHEETAH),
    "ant": _brax_task("ant", ANT),
    "humanoid": _brax_task("humanoid", HUMANOID),
    "inverted_pendulum": _brax_task("inverted_pendulum", INVERTED_PENDULUM),
    "inverted_double_pendulum": _brax_task("inverted_double_pendulum", INVERTED_DOUBLE_PENDULUM),
    "reacher": _brax_task("reacher", REACHER),
    "swimmer": _brax_task("swimmer", SWIMMER, backends=("generalized",)),
}

# Gymnasium's MuJoCo tasks, in both versions.
GYM = {
    "Hopper": HOPPER,
    "Walker2d": WALKER2D,
    "HalfCheetah": HALF_CHEETAH,
    "Ant": ANT,
    "Humanoid": HUMANOID,
    "InvertedPendulum": INVERTED_PENDULUM,
    "InvertedDoublePendulum": INVERTED_DOUBLE_PENDULUM,
    "Reacher": REACHER,
    "Swimmer": SWIMMER,
}
TASKS |= {
    f"gym/{name}-{version}": Task(
        ("mjx",), partial(_gym, name=f"gym/{name}-{version}", facts=facts)
    )
    for name, facts in GYM.items()
    for version in ("v4", "v5")
}

# Gymnasium's own names for these.
ALIASES = {name.removeprefix("gym/"): name for name in TASKS if name.startswith("gym/")}

# The DM Control suite of MuJoCo Playground, which is the extra `dmc`; eps is our choice.
PLAYGROUND = (
    "AcrobotSwingup",
    "AcrobotSwingupSparse",
    "BallInCup",
    "CartpoleBalance",
    "CartpoleBalanceSparse",
    "CartpoleSwingup",
    "CartpoleSwingupSparse",
    "CheetahRun",
    "FingerSpin",
    "FingerTurnEasy",
    "FingerTurnHard",
    "FishSwim",
    "HopperHop",
    "HopperStand",
    "HumanoidStand",
    "HumanoidWalk",
    "HumanoidRun",
    "PendulumSwingup",
    "PointMass",
    "ReacherEasy",
    "ReacherHard",
    "SwimmerSwimmer6",
    "WalkerRun",
    "WalkerStand",
    "WalkerWalk",
)
TASKS |= {
    f"dmc/{name}": Task(("mjx",), partial(_playground, name=f"dmc/{name}")) for name in PLAYGROUND
}


def find_env(name: str) -> str:
    """Returns the key of `TASKS` for a name, or for an alias of one.

    Raises:
        InputError: neither; the message has the nearest ones.
    """
    lookup(dict.fromkeys([*TASKS, *ALIASES]), name, "env")
    return ALIASES.get(name, name)


def default_backend(name: str) -> str:
    """The backend that `make_env(name)` uses. Raises `InputError` for an unknown task."""
    return TASKS[find_env(name)].backends[0]


def make_env(name: str, backend: str | None = None) -> Environment:
    """The environment `name`: the same object for the same task, so that programs of it are shared.

    Args:
        name: a key of `TASKS` or `ALIASES`, e.g. "hopper", "cartpole" or "Hopper-v4".
        backend: the simulator; None for the task's default (mjx for Brax's tasks).

    Raises:
        InputError: no such task, or the task does not run on that backend.
    """
    task = TASKS[find_env(name)]
    backend = backend or task.backends[0]
    if backend not in task.backends:
        raise InputError(
            f"env {name!r} does not run on backend {backend!r}: "
            f"choose from {', '.join(task.backends)}, or leave the backend out"
        )
    return _made(task, backend)


@cache
def _made(task: Task, backend: str) -> Environment:
    """A simulator takes seconds to be made, and an environment has no state."""
    return task.make(backend)
