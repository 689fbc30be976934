"""Unite the shards of a run.

python -m benchmarks.merge results/RUN                          # of results/RUN/shards/*
python -m benchmarks.merge results/RUN --shards SHARD SHARD ... # of folders from elsewhere
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, NamedTuple

import tyro

from benchmarks.experiment.sharding import Shard, parse_shard
from benchmarks.report.write import write_report
from benchmarks.runtime.command_line import read_options
from benchmarks.runtime.console import make_console
from benchmarks.runtime.guard import guarded
from benchmarks.runtime.run_folder import (
    SHARDS,
    Json,
    RunFolder,
    check_finished,
    read_json,
    read_table,
)
from benchmarks.runtime.schemas import SCHEMAS
from benchmarks.stages.results import SHARD_AGENTS, Results, finish, read_shard_agents, united
from jaxprune.devices import check_devices
from jaxprune.validation import InputError


@dataclass(frozen=True)
class Options:
    """Unite the shards of a run: the tables are those of a single process."""

    out: Annotated[Path, tyro.conf.Positional]
    """Folder of the run."""
    shards: tuple[Path, ...] = field(default_factory=tuple)
    """Folders of its shards; default: all in OUT/shards."""


class Part(NamedTuple):
    """A finished shard."""

    path: Path
    shard: Shard
    described: Json


@guarded("the shards are as they were")
def main(argv: Sequence[str]) -> int:
    """The command; returns its exit status."""
    options = read_options(Options, argv, "benchmarks.merge", addresses=True)
    check_devices()
    merge(options.out, options.shards or sorted((options.out / SHARDS).glob("*")))
    return 0


def merge(out: Path, paths: Sequence[Path]) -> None:
    """Write the run that the shards are parts of, and its report.

    Raises:
        InputError: a shard is missing, there twice, of another run, unfinished or damaged; nothing
            is written then.
    """
    parts = _complete_set([read_part(path) for path in paths], out)
    first = parts[0].described
    folder = RunFolder(out, first["settings"])
    results = united([load(part) for part in parts], first["settings"]["chunk_seeds"])
    facts = {
        "command": first["command"],
        "shard": "0/1",
        "merged": [f"{part.shard}: {part.described['device']}" for part in parts],
        "seconds": sum(part.described["seconds"] for part in parts),
        "stages": _sums([part.described["stages"] for part in parts]),
    }
    console = make_console()
    with folder.locked():
        folder.begin(facts)
        finish(folder, results, facts)
        write_report(folder, console)
    console.print(f"united {len(parts)} shards in {out}")


def read_part(path: Path) -> Part:
    """What a shard says of itself.

    Raises:
        InputError: it is no shard, not finished, or its tables are damaged.
    """
    described = read_json(path / "experiment.json")
    if "shard" not in described:
        raise InputError(f"{path} is no shard of a run: give folders that --shard wrote")
    check_finished(path, described)
    return Part(path, parse_shard(described["shard"]), described)


def _complete_set(parts: Sequence[Part], out: Path) -> list[Part]:
    """The shards in order.

    Raises:
        InputError: they are not exactly the shards of one run of one version.
    """
    if not parts:
        raise InputError(f"{out / SHARDS} holds no shards: give their folders with --shards")
    first = parts[0]
    for part in parts[1:]:
        for name in ("settings", "code", "versions", "members", "switches"):
            ours, theirs = (p.described.get(name) for p in (first, part))
            if ours != theirs:
                raise InputError(
                    f"{part.path} and {first.path} are mixed: they differ in "
                    f"{_difference(name, ours, theirs)}; unite shards of one run and one version"
                )
        if part.shard.count != first.shard.count:
            raise InputError(
                f"{part.path} is shard {part.shard}, {first.path} is shard {first.shard}: unite "
                "shards of one count"
            )
    by_index: dict[int, Part] = {}
    for part in parts:
        twice = by_index.setdefault(part.shard.index, part)
        if twice is not part:
            raise InputError(
                f"{twice.path} and {part.path} are both shard {part.shard}: leave one out"
            )
    missing = [i for i in range(first.shard.count) if i not in by_index]
    if missing:
        names = ", ".join(f"{i}/{first.shard.count}" for i in missing[:20])
        names += f" and {len(missing) - 20} more" if len(missing) > 20 else ""
        raise InputError(
            f"shards {names} are missing: run them ({first.described['command']} with their "
            "--shard), then unite again"
        )
    return [by_index[i] for i in range(first.shard.count)]


def load(part: Part) -> Results:
    """Tables and agents of a shard."""
    files = part.described["files"]
    tables = {
        name: read_table(part.path, name) if f"{name}.parquet" in files else {} for name in SCHEMAS
    }
    policy, masks = read_shard_agents(part.path / SHARD_AGENTS)
    return Results(tables, policy, masks, {})


def _difference(name: str, ours: object, theirs: object) -> str:
    """Which entries of two descriptions differ, with both values."""
    if not isinstance(ours, dict) or not isinstance(theirs, dict):
        return name
    differing = [k for k in sorted(ours.keys() | theirs.keys()) if ours.get(k) != theirs.get(k)]
    return ", ".join(f"{k} ({ours.get(k)} and {theirs.get(k)})" for k in differing)


def _sums(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: round(sum(part[name] for part in parts), 1) for name in parts[0]}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
