"""Reads files before they are asked for, so that the answers of a store overlap."""

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Self

from jaxprune.policy_io.addresses import contents

THREADS = 8
# Files that were read and not asked for yet, at most.
AHEAD = 16


class ReadAhead:
    """What files hold, read by a few threads in the order in which they will be asked for.

    Args:
        files: in that order; any other is read when it is asked for.
    """

    def __init__(self, files: Iterable[Path]):
        self._left = iter(files)
        self._pool = ThreadPoolExecutor(THREADS)
        self._begun: dict[Path, Future[bytes]] = {}

    def __enter__(self) -> Self:
        self._begin(AHEAD)
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def contents(self, file: Path) -> bytes:
        """Returns what a file holds.

        Raises:
            OSError: it is missing or cannot be read.
        """
        begun = self._begun.pop(file, None)
        if begun is None:
            return contents(file)
        self._begin(1)
        return begun.result()

    def _begin(self, count: int) -> None:
        for file in islice(self._left, count):
            self._begun[file] = self._pool.submit(contents, file)
