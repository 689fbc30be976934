"""One process at a time writes a folder."""

import os
import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime
from pathlib import Path

from jaxprune.policy_io.addresses import is_address
from jaxprune.validation import InputError

try:
    import fcntl
except ImportError:  # Windows, where nothing keeps a second process out
    fcntl = None

# Names its holder. The kernel lets go of it when the process ends, however it ends.
LOCK = ".lock"


def hold(folder: Path) -> AbstractContextManager[None]:
    """Returns the lock of a folder, held until the context is left.

    On file systems without locks (some network ones, object stores) nothing keeps a second process
    out. It does no harm: the name of a chunk determines its content, and of what the two write last
    `RunFolder.missing` finds every part that does not fit.

    Raises:
        InputError: another process holds it.
        OSError: nothing can be written there.
    """
    if is_address(folder):
        return nullcontext()
    path = folder / LOCK
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(handle, 200, 0).decode(errors="replace")
        os.close(handle)
        raise InputError(
            f"folder {folder} is being written by {holder}: wait for it, or choose another --out"
        ) from None
    except OSError:  # this file system has none
        pass
    if not _is_there(path, handle):  # its holder has just removed it
        os.close(handle)
        return hold(folder)
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    os.truncate(handle, 0)
    os.pwrite(handle, f"process {os.getpid()} on {platform.node()} since {now}".encode(), 0)
    return _held(path, handle)


def _is_there(path: Path, handle: int) -> bool:
    """Returns whether a path still names the open file."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False


@contextmanager
def _held(path: Path, handle: int) -> Iterator[None]:
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)
