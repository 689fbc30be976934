"""Live progress on a terminal; silence in a pipe."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as Remaining

# Columns of the tables where there is no terminal to ask.
PIPE_WIDTH = 110


def make_console() -> Console:
    """Standard output: live on a terminal, plain and wide enough for the tables in a pipe."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    return console


def complain(error: Exception) -> None:
    """One line on standard error, however long."""
    Console(stderr=True, soft_wrap=True, highlight=False).print(f"error: {error}", markup=False)


class Display:
    """A bar per stage with elapsed and remaining time. A context manager."""

    def __init__(self, console: Console):
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
        self._current: TaskID | None = None
        self._began: dict[str, float] = {}

    def stage(self, name: str, total: int) -> None:
        """Begin a stage of `total` units of work."""
        self._began[name] = time.monotonic()
        self._current = self._bars.add_task(name, total=total)

    def advance(self, units: int) -> None:
        """So many units of the current stage are done."""
        assert self._current is not None
        self._bars.advance(self._current, units)

    def seconds(self) -> dict[str, float]:
        """How long every stage took; call it when the last one is done."""
        edges = [*self._began.values(), time.monotonic()]
        pairs = zip(self._began, edges[:-1], edges[1:], strict=True)
        return {name: round(end - begin, 1) for name, begin, end in pairs}

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
