"""Finished pieces of a run: each in a file of its own, whole and checked, or absent.

A chunk is named by what it is: a digest of everything that determines its content. A run that was
killed finds what it had finished and computes the rest; what another version of the code or other
settings would have written has another name. The first line of a file is JSON for people and for
the checksum, the rest is safetensors, which are read ten times as fast as `.npz`.
"""

import errno
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from safetensors.numpy import load, save

from benchmarks.runtime.arrays import Arrays, decoded, encoded, part
from benchmarks.runtime.atomic import write_whole
from benchmarks.runtime.read_ahead import ReadAhead
from jaxprune.devices import agreed
from jaxprune.policy_io.addresses import contents, remove_folder, times_in

What: TypeAlias = Mapping[str, Any]


class Chunks:
    """The chunks of one run.

    Args:
        path: their folder; created with the first one.
        identity: JSON values that determine the content of all of them.
        boundary: called after every chunk, where a run may be stopped without losing anything.
    """

    def __init__(
        self,
        path: Path,
        identity: Mapping[str, object],
        boundary: Callable[[], None] = lambda: None,
    ):
        self.path = path
        self.damaged: list[str] = []  # what was found broken, for people
        self._identity = _digest(identity)
        self._boundary = boundary
        self._contents = contents

    def get(self, **what: object) -> Arrays | None:
        """The arrays of a chunk; None where it is absent or damaged, and then to be computed.

        Raises:
            OSError: it cannot be read, or only by the first of the processes that joined.
        """
        held = self._held(what)
        if not agreed(held is not None):
            return None
        if held is None:
            reason = "the first process has this chunk: give an --out that all processes share"
            raise FileNotFoundError(errno.ENOENT, reason, str(self.file(**what)))
        return held

    def _held(self, what: What) -> Arrays | None:
        file = self.file(**what)
        try:
            content = self._contents(file)
        except FileNotFoundError:
            return None
        except IsADirectoryError:
            shutil.rmtree(file)
            content = b""
        arrays = _read(content, self._header(what))
        if arrays is None:
            self.damaged.append(_words(what))
            file.unlink(missing_ok=True)
        return arrays

    @contextmanager
    def listed(self, whats: Iterable[What]) -> Iterator[list[What]]:
        """Yields the chunks that are not there, by one listing; it finds no damage.

        Meanwhile the others are read ahead: `get` is going to ask for them in this order.

        Raises:
            OSError: the folder cannot be listed.
        """
        names = times_in(self.path)
        files = [(what, self.file(**what)) for what in whats]
        with ReadAhead(file for _, file in files if file.name in names) as ahead:
            self._contents = ahead.contents
            try:
                yield [what for what, file in files if file.name not in names]
            finally:
                self._contents = contents

    def put(self, arrays: Mapping[str, np.ndarray], **what: object) -> None:
        """Write a chunk.

        Raises:
            OSError: the disk is full, or the folder not writable.
        """
        body = save(encoded(arrays))
        header = {**self._header(what), "sha256": hashlib.sha256(body).hexdigest()}
        content = json.dumps(header).encode() + b"\n" + body
        write_whole(self.file(**what), lambda partial: partial.write_bytes(content))
        self._boundary()

    def drop(self, **what: object) -> None:
        """Remove a chunk that others have made superfluous."""
        self.file(**what).unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove the folder, chunks of other versions included."""
        remove_folder(self.path)

    def file(self, **what: object) -> Path:
        """Returns where a chunk is, or would be."""
        return self.path / f"{_digest(self._header(what))[:20]}.chunk"

    def _header(self, what: What) -> dict[str, object]:
        return {"chunk": json.loads(json.dumps(what)), "identity": self._identity}


class OthersChunks(Chunks):
    """Those that the first of the processes writes, which compute the same."""

    def put(self, arrays: Mapping[str, np.ndarray], **what: object) -> None:
        """Leaves it to the first process."""

    def drop(self, **what: object) -> None:
        """Leaves it to the first process."""


def _read(content: bytes, expected: Mapping[str, object]) -> Arrays | None:
    """The arrays of a file, None unless it is exactly what was written."""
    line, _, body = content.partition(b"\n")
    try:
        header = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if header != {**expected, "sha256": hashlib.sha256(body).hexdigest()}:
        return None
    return decoded(load(body))


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _words(what: What) -> str:
    return " ".join(str(value) for value in what.values())


class Progress(Protocol):
    """Where the stages report to."""

    def stage(self, name: str, total: int) -> None:
        """Begin a stage of `total` units of work."""
        ...

    def advance(self, units: int) -> None:
        """So many units of the current stage are done."""
        ...

    def chunk(self, resumed: bool, steps: int = 0) -> None:
        """A chunk of the current stage is there, computed (so many env steps) or resumed."""
        ...


class Record(Protocol):
    """Where finished pieces of the tables go, beside the chunks."""

    def __call__(self, stage: str, table: Arrays) -> None:
        """A piece of the table that a stage makes."""
        ...


def _no_record(stage: str, table: Arrays) -> None:
    """Nobody follows the run."""
    del stage, table


class Work(NamedTuple):
    """What a stage takes finished pieces from, and where it leaves its own."""

    chunks: Chunks
    progress: Progress
    record: Record = _no_record

    def piece(
        self, compute: Callable[[], Arrays], units: int, table: str, **what: object
    ) -> Arrays:
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
        rows = part(table, held)
        self.record(table, rows)
        self.progress.chunk(resumed=False, steps=env_steps(rows))
        return held


def env_steps(rows: Arrays) -> int:
    """Returns the env steps that a table is about: of its episodes, or of the training."""
    if "length" in rows:
        return int(rows["length"].sum())
    if "env_steps" in rows:
        return int(rows["env_steps"][rows["iteration"] == rows["iteration"].max()].sum())
    return 0
