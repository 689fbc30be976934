"""How stages work: in pieces that are kept, reported and counted."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

from benchmarks.chunks import Chunks
from benchmarks.experiment import Experiment
from benchmarks.trees import Arrays, joined, part


class Progress(Protocol):
    """Where the stages report to."""

    def stage(self, name: str, total: int) -> None:
        """Begin a stage of `total` units of work."""
        ...

    def advance(self, units: int) -> None:
        """So many units of the current stage are done."""
        ...

    def chunk(self, resumed: bool) -> None:
        """A chunk of the current stage is there: computed, or resumed from a killed run."""
        ...


class Record(Protocol):
    """Where finished pieces of the tables go, beside the chunks."""

    def __call__(self, stage: str, table: Arrays) -> None:
        """A piece of the table that a stage makes."""
        ...


def no_record(stage: str, table: Arrays) -> None:
    """Nobody follows the run."""
    del stage, table


class Work(NamedTuple):
    """What a stage takes finished pieces from, and where it leaves its own."""

    chunks: Chunks
    progress: Progress
    record: Record = no_record

    def piece(self, compute: Callable[[], Arrays], units: int, table: str, **what: Any) -> Arrays:
        """The arrays of the chunk `what`, computed only if it is not there.

        Args:
            compute: makes them; it tells of its progress itself.
            units: of work, that are done where the chunk is there.
            table: whose columns are among the arrays, below this name.
            what: the chunk.
        """
        held = self.chunks.get(**what)
        if held is not None:
            self.progress.advance(units)
            self.progress.chunk(resumed=True)
            return held
        held = compute()
        self.chunks.put(held, **what)
        self.record(table, part(table, held))
        self.progress.chunk(resumed=False)
        return held


def by_radius(
    block: Experiment,
    work: Work,
    stage: str,
    table: str,
    units: int,
    compute: Callable[[float], Arrays],
) -> Arrays:
    """The table of a stage that looks at one radius after the other, in a chunk for each.

    Args:
        block: of seeds.
        work: what was finished before.
        stage: its name.
        table: the name of its table.
        units: of work, per radius.
        compute: eps -> the rows, below the name of their table.
    """
    radii = dict.fromkeys(block.eps)
    work.progress.stage(stage, len(radii) * units)
    tables = []
    for eps in radii:
        what = {"stage": stage, "first_seed": block.first_seed, "eps": eps}
        tables.append(part(table, work.piece(partial(compute, eps), units, table, **what)))
    return joined(tables)
