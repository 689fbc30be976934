"""Progress: live bars on a terminal, a line per chunk in a pipe."""

import io
import os
import sys
import time
from datetime import timedelta
from types import TracebackType

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as Remaining

from jaxprune.validation import MESSAGE, shown

# Exit statuses: input that cannot be honoured, and files that cannot be written (EX_IOERR of
# sysexits.h).
BAD_INPUT, NOT_WRITTEN = 2, 74
# Columns of the tables where there is no terminal to ask.
PIPE_WIDTH = 110


class Patient(Console):
    """A console whose reader may leave (`... | head -1`): the work goes on in silence."""

    def on_broken_pipe(self) -> None:
        """Discards what is printed from now on, and what is flushed at the end."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


def make_console() -> Console:
    """Standard output: live on a terminal, plain and wide enough for the tables in a pipe.

    What its encoding lacks is written as an escape: a name of a file may hold any character.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)
    console = Patient(highlight=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    return console


def complain(error: Exception | str) -> None:
    """One line on standard error, however long."""
    remark(f"error: {shown(error, MESSAGE)}")


def remark(text: str) -> None:
    """One line on standard error about what is no error."""
    Patient(stderr=True, soft_wrap=True, highlight=False).print(text, markup=False)


def _clocks() -> np.ndarray:
    """Seconds that went by, and those of all threads of this process on a core, `[2]`."""
    return np.array([time.monotonic(), time.process_time()])


class Display:
    """A bar per stage with elapsed and remaining time, or in a pipe a line per chunk.

    A context manager.

    Args:
        console: to print on.
        chunks: of the whole run, as announced with `chunk`.
    """

    def __init__(self, console: Console, chunks: int):
        self._bars = Progress(
            TextColumn("{task.description:>8}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("left"),
            Remaining(),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._totals: dict[str, int] = {}
        self._spent: dict[str, np.ndarray] = {}
        self._current, self._began = "", _clocks()
        self._console, self._chunks = console, chunks
        self._done, self._resumed = 0, 0
        self._started = self._chunk_began = time.monotonic()

    def stage(self, name: str, total: int) -> None:
        """Begin a stage of `total` units of work, or go on with it in another block."""
        self._close()
        self._current = name
        if name not in self._tasks:
            self._tasks[name], self._totals[name] = self._bars.add_task(name, total=0), 0
        self._totals[name] += total
        self._bars.update(self._tasks[name], total=self._totals[name])

    def advance(self, units: int) -> None:
        """So many units of the current stage are done."""
        self._bars.advance(self._tasks[self._current], units)

    def chunk(self, resumed: bool, steps: int = 0) -> None:
        """A chunk of the current stage is there: computed, or resumed from a killed run.

        Args:
            resumed: whether a killed run had computed it.
            steps: env steps of its episodes; 0 where there are none.
        """
        now = time.monotonic()
        self._done += 1
        self._resumed += resumed
        if not self._console.is_terminal:
            place = f"{self._current:<8} {self._done} of {self._chunks} chunks"
            rate = f"{steps / (now - self._chunk_began):,.0f} steps/s" if steps else ""
            facts = ["resumed"] if resumed else [rate, f"about {self._left(now)} left"]
            self._console.print(", ".join([place, *filter(None, facts)]), markup=False)
        self._chunk_began = now

    def resumed(self) -> str:
        """How many chunks a killed run had left; empty where there was none."""
        if not self._resumed:
            return ""
        return f"resumed {self._resumed} of {self._chunks} chunks"

    def _left(self, now: float) -> timedelta:
        """The time left if the rest takes as long per chunk as what was computed."""
        per_chunk = (now - self._started) / (self._done - self._resumed)
        return timedelta(seconds=round(per_chunk * (self._chunks - self._done)))

    def seconds(self) -> dict[str, dict[str, float]]:
        """How long every stage took so far: `stages`, by the clock, and `cpu`, of all threads."""
        self._close()
        return {
            clock: {stage: round(float(spent[i]), 1) for stage, spent in self._spent.items()}
            for i, clock in enumerate(("stages", "cpu"))
        }

    def _close(self) -> None:
        now = _clocks()
        if self._current:
            self._spent[self._current] = self._spent.get(self._current, 0) + now - self._began
        self._began = now

    def __enter__(self) -> "Display":
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()
