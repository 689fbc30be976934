"""The console command: every program by its name.

jaxprune run --preset smoke      # as python -m benchmarks.run --preset smoke
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec

from benchmarks.runtime import preemption
from benchmarks.runtime.command_line import CONSOLE, started_by
from benchmarks.runtime.console import BAD_INPUT, complain, make_console
from jaxprune.validation import InputError, lookup

PROGRAMS = {
    "run": "train, prune, attack and certify policies, and report",
    "report": "write the report of a run again",
    "select": "choose a pruned policy of a run, and write it for a device",
    "compare": "compare runs over tasks, regimes and methods on one page",
    "card": "write a result card for every policy of a run",
    "zoo": "put dense agents of runs among the policies of the package",
    "list": "print the envs, methods, attacks, bounds or regimes there are",
    "status": "tell how far a run is",
    "merge": "unite the shards of a run",
    "gate": "compare a run with a baseline, for CI",
    "render": "film the policies of a run",
    "capacity": "tell how much fits on a device",
    "profile": "tell where the seconds of a run went",
    "throughput": "measure env steps and bounds per second",
    "peers": "make the environments of throughput --peers",
    "tightness": "put every bound beside an attack",
    "theorem": "measure where the theorem says anything",
    "parity": "compare the gym/ tasks with Gymnasium",
}
HELP = """\
usage: jaxprune PROGRAM [OPTIONS]

What does pruning a policy do to its robustness, and what of that can be proved?

{programs}

jaxprune PROGRAM --help tells the options of a program."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit status of the program."""
    name, *words = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        make_console().print(help_text(), markup=False, soft_wrap=True)
        return 0
    if name == "--version":
        print(f"jaxprune {version('jaxprune')}")
        return 0
    try:
        lookup(PROGRAMS, name, "program")
    except InputError as error:
        complain(error)
        return BAD_INPUT
    preemption.leave_while_importing()
    started_by(CONSOLE)
    return importlib.import_module(module_of(name)).main(words)


def help_text() -> str:
    """Returns what there is, a line for each program."""
    lines = [f"  {name:<10}  {about}" for name, about in PROGRAMS.items()]
    return HELP.format(programs="\n".join(lines))


def module_of(program: str) -> str:
    """Returns the name of the module that has the `main` of a program."""
    spec = find_spec(f"benchmarks.{program}")
    return f"benchmarks.{program}" + (
        ".__main__" if spec and spec.submodule_search_locations else ""
    )


if __name__ == "__main__":
    sys.exit(main())
