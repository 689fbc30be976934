"""How far a run is: its own folder, or those of its shards.

python -m benchmarks.status results/RUN
python -m benchmarks.status s3://bucket/run

Reads names and times of chunks, on any machine and while processes write. Ends with 0 where nothing
is left to be computed, with 3 where something is.
"""

import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import tyro
from rich.console import Console

from benchmarks.experiment.config import Experiment
from benchmarks.experiment.design import Design, expand
from benchmarks.experiment.sharding import ALONE, Shard, blocks_of, parse_shard, where
from benchmarks.runtime.checkpoints import Chunks, What
from benchmarks.runtime.command_line import read_options
from benchmarks.runtime.console import make_console
from benchmarks.runtime.guard import guarded
from benchmarks.runtime.run_folder import CHUNKS, IDENTITY, SHARDS, Json, read_json
from benchmarks.runtime.tables import terminal_table
from benchmarks.stages.pipeline import list_chunks
from jaxprune.policy_io.addresses import times_in
from jaxprune.validation import InputError

UNFINISHED = 3
DESCRIPTION = "experiment.json"


@dataclass(frozen=True)
class Options:
    """Print how far a run is, or its shards."""

    out: tyro.conf.Positional[Path]
    """Its folder, local or an address."""


class Part(NamedTuple):
    """A run, or one of its shards."""

    shard: Shard
    total: Counter[str]  # chunks by stage
    done: Counter[str]
    begun: float | None  # when a process last began with it, in seconds since 1970
    written: list[tuple[float, str]]  # when each chunk was, and its stage


@guarded("nothing was written")
def main(argv: Sequence[str]) -> int:
    """The command; returns its exit status."""
    options = read_options(Options, argv, "benchmarks.status", addresses=True)
    console = make_console()
    if _complete(options.out):
        console.print("complete: nothing is left to be computed")
        return 0
    parts = read_parts(options.out)
    show(parts, console)
    return UNFINISHED if any(part.done != part.total for part in parts) else 0


def _complete(out: Path) -> bool:
    """Returns whether the tables of a run are there, of whatever version."""
    return (out / DESCRIPTION).exists() and bool(read_json(out / DESCRIPTION).get("files"))


def read_parts(out: Path) -> list[Part]:
    """The unfinished run in a folder, or all shards of one, those without a folder included.

    Raises:
        InputError: the folder holds neither, or a run of another version.
    """
    shards = sorted((out / SHARDS).glob(f"*-of-*/{DESCRIPTION}"))
    if (out / DESCRIPTION).exists() and not shards:
        design = expand(Experiment.from_settings(read_json(out / DESCRIPTION)["settings"]))
        return [read_part(out, ALONE, design)]
    if not shards:
        raise InputError(f"{out} holds no run and no shards of one: give the folder of a run")
    first = read_json(shards[0])
    design = expand(Experiment.from_settings(first["settings"]))
    count = parse_shard(first["shard"]).count
    return [read_part(out, Shard(index, count), design) for index in range(count)]


def read_part(out: Path, shard: Shard, design: Design) -> Part:
    """What is done of a run, or of one of its shards."""
    folder = where(out, shard)
    chunks = list_chunks(design, blocks_of(design.blocks, shard))
    total = Counter(what["stage"] for what in chunks)
    begun = times_in(folder).get(DESCRIPTION)
    if begun is None:
        return Part(shard, total, Counter(), None, [])
    described = read_json(folder / DESCRIPTION)
    if described.get("files"):
        return Part(shard, total, total, begun, [])
    stages = _files(chunks, described)
    times = times_in(folder / CHUNKS)
    written = [(times[name], stage) for name, stage in stages.items() if name in times]
    return Part(shard, total, Counter(stage for _, stage in written), begun, sorted(written))


def _files(chunks: Iterable[What], described: Json) -> dict[str, str]:
    """The stages of chunks by the names of their files, as the version that writes them has it."""
    store = Chunks(Path(), {name: described.get(name) for name in IDENTITY})
    return {store.file(**what).name: what["stage"] for what in chunks}


# --- time -----------------------------------------------------------------------------------------


def seconds_per_chunk(parts: Iterable[Part]) -> dict[str, float]:
    """The median time between a chunk of each stage and what was before it.

    Processes write one chunk after the other; a pause before one began is no time of a chunk.
    """
    gaps: dict[str, list[float]] = defaultdict(list)
    for part in parts:
        if part.begun is not None:
            for (before, _), (after, stage) in pairwise(sorted([(part.begun, ""), *part.written])):
                gaps[stage].append(after - before)
    return {stage: statistics.median(found) for stage, found in gaps.items() if stage}


def seconds_left(part: Part, seconds: Mapping[str, float]) -> float | None:
    """How long a part still takes, stages of which nothing is known as long as the others."""
    if not seconds:
        return None if part.done != part.total else 0.0
    usual = statistics.mean(seconds.values())
    return sum(seconds.get(x, usual) * n for x, n in (part.total - part.done).items())


# --- words ----------------------------------------------------------------------------------------


def show(parts: Sequence[Part], console: Console) -> None:
    """Print a line for the run, and a table of its parts."""
    done, total = (sum(sum(x.values()) for x in each) for each in zip(*_counts(parts), strict=True))
    seconds = seconds_per_chunk(parts)
    left = [seconds_left(part, seconds) for part in parts]
    longest = None if None in left else max(x for x in left if x is not None)
    line = f"{done} of {total} chunks done, {total - done} left"
    if done < total:
        line += f", {_time(longest)}" + (" with a process per shard" if len(parts) > 1 else "")
    console.print(line)
    stages = list(parts[0].total)
    rows = [
        [str(part.shard), *(f"{part.done[x]}/{part.total[x]}" for x in stages), _time(time)]
        for part, time in zip(parts, left, strict=True)
    ]
    console.print(terminal_table("chunks", ["shard", *stages, "time left"], rows))


def _counts(parts: Iterable[Part]) -> Iterator[tuple[Counter[str], Counter[str]]]:
    for part in parts:
        yield part.done, part.total


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "no time known yet"
    return f"about {timedelta(seconds=round(seconds))}" if seconds else "none"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
