"""Files that are written whole or not at all, and refusals of those that cannot be read."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from jaxprune.families import InputError


@contextmanager
def whole_file(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write into; it takes the place of `path` once everything is written."""
    partial = Path(path).with_name(Path(path).name + ".partial")
    try:
        with open(partial, "wb") as file:
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
