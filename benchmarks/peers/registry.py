"""The peers: what each does as we do it, and where its program and its environment are."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.runtime.command_line import command
from jaxprune.devices import default_cache

HERE = Path(__file__).parent
# In an environment that is complete: the requirements that it was made from.
MADE_FROM = "made_from.txt"


class Comparison(NamedTuple):
    """One thing that a peer and we both do."""

    what: str
    """In the table."""
    kind: str
    """What we do: a key of `benchmarks.peers.sides.SIDES`."""
    options: Mapping[str, Any]
    """Options of `benchmarks.throughput` that differ from those of the command line."""
    settings: Mapping[str, Any]
    """What the peer's program is told beside those of our side."""


class Peer(NamedTuple):
    """Somebody else's program."""

    program: str
    """File in `programs`."""
    comparisons: tuple[Comparison, ...]
    own_environment: bool = True
    """Whether it needs one; the others are among our dependencies."""
    without_dependencies: tuple[str, ...] = ()
    """Packages that ask for versions which do not exist any more; they are installed alone."""


def _stepping(task: str, healthy: tuple[tuple[int, float, float], ...]) -> Comparison:
    """Bare stepping; `healthy` are coordinates and the ranges that they may not leave."""
    return Comparison(f"step {task}", "stepping", {"env": f"gym/{task}"}, {"healthy": healthy})


def _training(task: str, backend: str | None, name: str) -> Comparison:
    where = f"{task}, {backend}" if backend else task
    options = {"env": task, "backend": backend}
    return Comparison(f"train {where}", "training", options, {"env": name, "backend": backend})


def _bounding(bound: str, method: str) -> Comparison:
    options = {"env": "gym/Hopper-v4", "bounds": (bound,)}
    return Comparison(f"bound by {bound}", "bounds", options, {"method": method})


PEERS: dict[str, Peer] = {
    "mujoco": Peer(
        "mujoco_c.py",
        (
            _stepping("Hopper-v4", ((1, 0.7, 100.0), (2, -0.2, 0.2))),
            _stepping("Walker2d-v4", ((1, 0.8, 2.0), (2, -1.0, 1.0))),
            _stepping("HalfCheetah-v4", ()),
        ),
        own_environment=False,
    ),
    "brax": Peer(
        "brax_ppo.py",
        (
            _training("hopper", "mjx", "hopper"),
            _training("hopper", "spring", "hopper"),
        ),
    ),
    "rejax": Peer(
        "rejax_ppo.py",
        (
            _training("cartpole", None, "CartPole-v1"),
            _training("pendulum", None, "Pendulum-v1"),
        ),
    ),
    "auto_lirpa": Peer(
        "auto_lirpa_bounds.py",
        (_bounding("ibp", "IBP"), _bounding("crown", "CROWN")),
        without_dependencies=("auto_LiRPA==0.3",),
    ),
}


def default_folder() -> Path:
    """Returns where the environments are, in the user's cache."""
    return default_cache().parent / "peers"


def program_of(peer: Peer) -> Path:
    """Returns the file of a peer's program."""
    return HERE / "programs" / peer.program


def requirements_of(name: str) -> Path:
    """Returns the file with the exact versions of a peer's environment."""
    return HERE / f"requirements-{name}.txt"


def python_of(name: str, folder: Path) -> Path:
    """Returns the Python that runs a peer's program."""
    return folder / name / "bin" / "python" if PEERS[name].own_environment else Path(sys.executable)


def missing(name: str, folder: Path) -> str | None:
    """Returns why a peer cannot be run, with the command that mends it; None if it can."""
    if not PEERS[name].own_environment:
        return None
    made_from, remedy = folder / name / MADE_FROM, command("peers", name, "--folder", str(folder))
    if not made_from.exists():
        return f"it has no environment: {remedy}"
    if made_from.read_text(encoding="utf-8") != wanted(name):
        return f"its environment is of other versions: {remedy}"
    return None


def wanted(name: str) -> str:
    """Returns everything that is installed in the environment of a peer, a line each."""
    alone = "".join(f"{package}\n" for package in PEERS[name].without_dependencies)
    return requirements_of(name).read_text(encoding="utf-8") + alone
