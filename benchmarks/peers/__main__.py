"""Make the environments of the peers, from package names and exact versions.

    python -m benchmarks.peers               # all of them, or those that are named

They are virtual environments in the user's cache, or in `--folder`: nothing is installed anywhere
else. `python -m benchmarks.throughput --peers` finds them there.
"""

import subprocess
import sys
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from benchmarks.peers.registry import (
    MADE_FROM,
    PEERS,
    default_folder,
    missing,
    python_of,
    requirements_of,
    wanted,
)
from benchmarks.runtime.command_line import read_options
from benchmarks.runtime.console import make_console
from benchmarks.runtime.guard import guarded
from jaxprune.validation import InputError, lookup


@dataclass(frozen=True)
class Options:
    """Which environments to make."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="NAME ...")] = ()
    """Peers; default: all of them."""
    folder: Path | None = None
    """For the environments; default: in the user's cache."""


@guarded("start it again")
def main(argv: Sequence[str]) -> int:
    """The command; returns its exit status."""
    console = make_console()
    options = read_options(Options, argv, "benchmarks.peers")
    for name in options.names:
        lookup(PEERS, name, "peer")
    folder = options.folder or default_folder()
    for name in options.names or PEERS:
        if missing(name, folder) is not None:
            make(name, folder)
        where = folder / name if PEERS[name].own_environment else "our own environment"
        console.print(f"{name} is ready: {where}", markup=False, soft_wrap=True)
    return 0


def make(name: str, folder: Path) -> None:
    """Makes the environment of a peer anew. Raises `InputError` if pip cannot."""
    where, alone = folder / name, PEERS[name].without_dependencies
    venv.create(where, clear=True, with_pip=True)
    install = [str(python_of(name, folder)), "-m", "pip", "install", "--quiet"]
    for words in (["-r", str(requirements_of(name))], ["--no-deps", *alone] if alone else []):
        if words and subprocess.run([*install, *words], check=False).returncode:
            raise InputError(
                f"pip could not install what {name} needs, see above: mend that, and start again"
            )
    (where / MADE_FROM).write_text(wanted(name), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
