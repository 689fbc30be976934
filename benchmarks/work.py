"""How stages work: in pieces that are kept, reported and counted."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from benchmarks.chunks import Chunks
from benchmarks.trees import Arrays, part


class Progress(Protocol):
    """Where the stages report to."""

    def stage(self, name: str, total: int) -> None:
        """Begin a stage of `total` units of work."""
        ...

    def advance(self, units: int) -> None:
        """So many units of the current stage are done."""
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
            return held
        held = compute()
        self.chunks.put(held, **what)
        self.record(table, part(table, held))
        return held
