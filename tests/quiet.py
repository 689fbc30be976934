"""Stages without an audience, in a folder of their own."""

from collections.abc import Callable
from pathlib import Path

from benchmarks.runtime.checkpoints import Chunks, Work


class Silent:
    """Progress that nobody watches."""

    def stage(self, name: str, total: int) -> None: ...
    def advance(self, units: int) -> None: ...
    def chunk(self, resumed: bool, steps: int = 0) -> None: ...


def quiet_work(folder: Path, boundary: Callable[[], None] = lambda: None) -> Work:
    """What a stage is given, with the chunks of a folder."""
    return Work(Chunks(folder / "chunks", {"of": "a test"}, boundary), Silent())
