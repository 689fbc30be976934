"""Stages without an audience, in a folder of their own."""

from pathlib import Path

from benchmarks.chunks import Chunks
from benchmarks.work import Work


class Silent:
    """Progress that nobody watches."""

    def stage(self, name: str, total: int) -> None: ...
    def advance(self, units: int) -> None: ...


def quiet_work(folder: Path) -> Work:
    """What a stage is given: nothing is finished yet."""
    return Work(Chunks(folder / "chunks", {"of": "a test"}), Silent())
