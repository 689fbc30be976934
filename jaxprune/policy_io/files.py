"""Files that are written whole or not at all, and read within bounds or refused."""

import io
import os
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from jaxprune.policy_io.addresses import as_path, is_address, reaching
from jaxprune.validation import InputError

# Of a file, and of all that is read from an archive: a policy of 60 million numbers.
MAX_BYTES = 2**28
# Of an archive: each entry of its directory takes ten times its size in memory.
MAX_MEMBERS = 10_000


@contextmanager
def whole_file(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write into; it takes the place of `path` once everything is written.

    Raises:
        InputError: nothing can be written there.
    """
    partial = Path(path).with_name(Path(path).name + ".partial")
    try:
        opened = open(partial, "wb")  # noqa: SIM115 - closed below
    except OSError as error:
        raise InputError(
            f"cannot write {path} ({error.strerror}): give a path in a folder that is there and "
            "writable"
        ) from None
    try:
        with opened as file:
            yield file
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def refusing(message: str) -> Iterator[None]:
    """Whatever a parser raises over a broken file becomes an `InputError` with this message."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # damaged archives and pickles raise errors of every kind
        raise InputError(message) from error


def read_bytes(path: str | Path) -> bytes:
    """Returns what a regular file or an object holds, at most `MAX_BYTES`.

    Raises:
        InputError: it is a device, a pipe or a folder, which are not opened, or larger, or cannot
            be read.
    """
    try:
        return _read_object(as_path(path)) if is_address(path) else _read_file(path)
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror}): give another file") from None


def _read_file(path: str | Path) -> bytes:
    _check_regular(os.stat(path), path)
    # What took its place since must not make us wait for a writer.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        opened = os.fstat(file.fileno())
        _check_regular(opened, path)
        return file.read(opened.st_size)


def _read_object(path: Path) -> bytes:
    with reaching(path), path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    _check_size(len(data), path)
    return data


def _check_regular(found: os.stat_result, path: str | Path) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise InputError(
            f"{path} is no regular file: give one of jaxprune.save_policy or another library"
        )
    _check_size(found.st_size, path)


def _check_size(size: int, path: str | Path) -> None:
    if size > MAX_BYTES:
        raise InputError(too_large(path))


def too_large(path: str | Path) -> str:
    """Returns the message for a file of more than `MAX_BYTES`."""
    return f"{path} holds more than {MAX_BYTES >> 20} MiB: no policy that is read here is as large"


class Archive:
    """A zip archive in memory, of which only what is asked for is inflated. A context manager.

    Args:
        data: of the archive.
        path: what to call it in messages.

    Raises:
        InputError: it has too many members or several of one name.
        zipfile.BadZipFile: it is damaged.
    """

    def __init__(self, data: bytes, path: str | Path):
        if data.count(b"PK\x01\x02") > MAX_MEMBERS:
            raise InputError(f"{path} has more than {MAX_MEMBERS} members: it is no policy")
        self._archive, self._path, self._left = zipfile.ZipFile(io.BytesIO(data)), path, MAX_BYTES
        self.names = self._archive.namelist()
        if len(set(self.names)) < len(self.names):
            raise InputError(f"{path} has two members of one name: write it again")

    def read(self, name: str) -> bytes:
        """Returns a member, as long as all that was read stays within `MAX_BYTES`.

        Raises:
            InputError: it would be more.
            Exception: of any kind, if it is missing or damaged.
        """
        member = self._archive.getinfo(name)
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise zipfile.BadZipFile("other methods inflate without bound")
        self._left -= member.file_size
        if self._left < 0:
            raise InputError(too_large(self._path))
        with self._archive.open(member) as file:
            return file.read(member.file_size)  # without a number it inflates all there is

    def __enter__(self) -> "Archive":
        return self

    def __exit__(self, *error: object) -> None:
        self._archive.close()
