"""Print what there is to choose from, a line each.

python -m benchmarks.list methods      # or envs, attacks, bounds, regimes
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import tyro

from benchmarks.runtime.command_line import read_options
from benchmarks.runtime.console import make_console
from benchmarks.runtime.guard import guarded
from jaxprune.attacks import ATTACKS, FAMILIES
from jaxprune.certify import BOUNDS
from jaxprune.envs import TASKS
from jaxprune.ppo import REGIMES
from jaxprune.pruning import METHODS
from jaxprune.validation import lookup

Line = tuple[str, str]  # name, and what it is


def envs() -> Iterator[Line]:
    """Yields every task with the simulators that it runs on."""
    for name, task in TASKS.items():
        yield name, f"on {', '.join(task.backends)}"


def methods() -> Iterator[Line]:
    """Yields every pruning method with its score, what goes, and when."""
    for name, method in METHODS.items():
        when = "after training" if method.schedule is None else f"schedule {method.schedule}"
        words = [f"score {method.score}", f"structure {method.structure}", when]
        words += [f"regrown by {method.regrow}"] if method.regrow else []
        words += ["rewound to the first weights"] if method.rewind else []
        yield name, ", ".join(words)


def attacks() -> Iterator[Line]:
    """Yields every attack with what it does and how it goes about it."""
    for name, kind in ATTACKS.items():
        yield name, f"{kind.about} ({FAMILIES[kind.family]})"


def bounds() -> Iterator[Line]:
    """Yields every bound with where it holds."""
    for name, bound in BOUNDS.items():
        where = "at every state" if bound.scope == "global" else "at visited states"
        pruning = "pruning never raises it" if bound.monotone else "pruning can raise it"
        yield name, f"holds {where}, {pruning}" + (", slow" if bound.slow else "")


def regimes() -> Iterator[Line]:
    """Yields every training regime with what it adds to PPO."""
    for name, regime in REGIMES.items():
        yield name, regime.about


LISTS: dict[str, Callable[[], Iterator[Line]]] = {
    "envs": envs,
    "methods": methods,
    "attacks": attacks,
    "bounds": bounds,
    "regimes": regimes,
}


@dataclass(frozen=True)
class Options:
    """Print what there is to choose from, a line each."""

    family: tyro.conf.Positional[str]
    """envs, methods, attacks, bounds or regimes."""


@guarded("nothing was written")
def main(argv: Sequence[str]) -> int:
    """The command; returns its exit status."""
    family = read_options(Options, argv, "benchmarks.list").family
    lines = list(lookup(LISTS, family, "list")())
    width = max(len(name) for name, _ in lines)
    console = make_console()
    for name, about in lines:
        console.print(f"{name:<{width}}  {about}".rstrip(), markup=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
