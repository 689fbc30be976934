"""Files that are whole or absent, whatever happens to the process or the machine meanwhile.

The one place that tells local folders from object stores: a file is written beside its place,
flushed and renamed; an object is there when all of it has arrived.
"""

import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

from jaxprune.policy_io.addresses import is_address, put

_PARTIAL = ".partial"


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file or an object, in a folder that is made if it is missing.

    Args:
        path: replaced if it exists.
        write: writes the file it is given.

    Raises:
        OSError: the disk is full, the folder not writable, or the bucket not reached; a file that
            was there is as it was.
    """
    if not is_address(path):
        _write_and_rename(path, write)
        return
    with TemporaryDirectory() as folder:
        write(Path(folder) / path.name)
        put(path, (Path(folder) / path.name).read_bytes())


def write_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8, whole or not at all; see `write_whole`."""
    write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def _write_and_rename(path: Path, write: Callable[[Path], object]) -> None:
    """Write to a temporary name beside `path`, flush it to the disk, then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid4().hex}{_PARTIAL}")  # of no other writer
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
    for folder in filter(lambda folder: not is_address(folder), folders):
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
