"""Addresses of object stores, such as s3://bucket/folder, which are used like local paths.

`etils.epath` opens them, with a file system of fsspec. An object is there when all of it has
arrived, and not before; folders are not there at all, only objects with a `/` in their names.
"""

import errno
import io
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path, PurePath
from typing import Any, cast

import fsspec
import fsspec.config
from etils import epath

from jaxprune.validation import InputError

# Those of the extra `cloud`, and how their clients read an object by one request: they ask for the
# size of one that they may read in parts first. epath knows more.
SCHEMES = {"gs": {"concurrency": 1}, "s3": {"max_concurrency": 1}}
_ADDRESS = re.compile(r"([A-Za-z][\w+.-]+)://.*", re.DOTALL)
# What another process writes has to be seen.
_LISTINGS = {"use_listings_cache": False}
# Clients raise these without a number.
_NUMBERS = {FileNotFoundError: errno.ENOENT, PermissionError: errno.EACCES}


def scheme_of(text: str | PurePath) -> str | None:
    """Returns what an address begins with, such as "s3"; None for a local path."""
    found = _ADDRESS.fullmatch(str(text))
    return found and found[1]


def is_address(path: str | PurePath) -> bool:
    """Returns whether a path is of an object store."""
    return scheme_of(path) is not None


def as_path(text: str | PurePath) -> Path:
    """Returns a path. Of an address it is an epath, with those methods of `Path` that are used.

    Raises:
        InputError: an address of another kind or with a wildcard, which clients expand, or the
            package that opens it is not installed.
    """
    scheme = scheme_of(text)
    if scheme is None:
        return Path(text)
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise InputError(f"{str(text)!r} is a {scheme} address: give a local path or {known}")
    if re.search(r"[*?[]", str(text)):
        raise InputError(f"{str(text)!r} holds a wildcard, *, ? or [: give an address without")
    fsspec.config.conf.setdefault(scheme, {}).update(_LISTINGS)
    try:
        fsspec.get_filesystem_class(scheme)
    except ImportError:
        raise InputError(
            f"{str(text)!r} needs a package that is not installed: pip install 'jaxprune[cloud]', "
            "or give a local path"
        ) from None
    return cast(Path, epath.Path(text))


@contextmanager
def reaching(path: PurePath) -> Iterator[None]:
    """Makes an `OSError` that names the path of whatever the client of a store raises."""
    try:
        yield
    except Exception as error:  # every client has errors of its own
        number = next((n for kind, n in _NUMBERS.items() if isinstance(error, kind)), errno.EIO)
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        known = isinstance(error, OSError) and error.errno is not None
        raise error if known else OSError(number, reason, str(path)) from error


def put(path: Path, data: bytes) -> None:
    """Writes an object, whole or not at all.

    Raises:
        OSError: the bucket is missing, refuses it, or cannot be reached.
    """
    with reaching(path):
        store, name = _store(path)
        store.pipe_file(name, data)


def contents(path: Path) -> bytes:
    """Returns what a file or an object holds, the latter by one request.

    Raises:
        OSError: it is missing or cannot be read.
    """
    scheme = scheme_of(path)
    if scheme is None:
        return path.read_bytes()
    with reaching(path):
        store, name = _store(path)
        return store.cat_file(name, **SCHEMES[scheme])


def in_memory(file: Path) -> io.BytesIO:
    """Returns a file as pyarrow and numpy read it wherever it is: addresses they open themselves,
    with other credentials."""
    return io.BytesIO(contents(file))


def files_below(folder: Path) -> list[Path]:
    """Returns the files in a folder and in those inside of it, sorted."""
    if not is_address(folder):
        return sorted(path for path in folder.rglob("*") if path.is_file())
    with reaching(folder):
        store, name = _store(folder)
        return sorted(folder / found.removeprefix(f"{name}/") for found in store.find(name))


def times_in(folder: Path) -> dict[str, float]:
    """Returns when each file of a folder was written, in seconds since 1970, by its name."""
    if not is_address(folder):
        times = {}
        for path in folder.glob("*"):
            with suppress(FileNotFoundError):  # its owner has just removed it
                times[path.name] = path.stat().st_mtime
        return times
    with reaching(folder):
        store, name = _store(folder)
        found = store.find(name, maxdepth=1, detail=True)
    return {path.rpartition("/")[2]: _written(about) for path, about in found.items()}


def remove_folder(folder: Path) -> None:
    """Removes a folder with everything in it, if it is there."""
    if not is_address(folder):
        shutil.rmtree(folder, ignore_errors=True)
        return
    with reaching(folder):
        cast(epath.Path, folder).rmtree(missing_ok=True)


def copy_folder(source: Path, target: Path) -> None:
    """Copies the files of a folder from one place to another, where there is none yet."""
    for file in files_below(source):
        to = target / file.relative_to(source).as_posix()
        if is_address(target):
            put(to, file.read_bytes())
        else:
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_bytes(file.read_bytes())


def _written(about: Mapping[str, Any]) -> float:
    """Returns the time of an object, which every store has under another name."""
    time = next(about[name] for name in ("mtime", "LastModified", "created") if name in about)
    return time.timestamp() if isinstance(time, datetime) else time


def _store(path: Path) -> tuple[Any, str]:
    """Returns the file system of an address, and its name there."""
    return fsspec.url_to_fs(str(path))
