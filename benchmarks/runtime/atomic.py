"""Files that are whole or absent, whatever happens to the process or the machine meanwhile."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

_PARTIAL = ".partial"


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Write to a temporary name beside `path`, flush it to the disk, then rename it.

    Args:
        path: replaced if it exists.
        write: writes the file it is given.

    Raises:
        OSError: the disk is full or the folder not writable; a file that was there is as it was.
    """
    partial = path.with_name(f".{path.name}{_PARTIAL}")
    try:
        write(partial)
        _flush(partial)
        os.replace(partial, path)
        _flush(path.parent)
    except OSError as error:  # what failed to write seldom says where
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        partial.unlink(missing_ok=True)


def sweep(*folders: Path) -> None:
    """Remove what killed processes left half written in folders; only their own process may."""
    for folder in folders:
        for partial in folder.glob(f".*{_PARTIAL}"):
            partial.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """fsync: a rename may otherwise reach the disk before the content does."""
    if os.name == "nt" and path.is_dir():  # has no such call
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
