"""SIGTERM: the scheduler wants the machine back."""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable

# EX_TEMPFAIL of sysexits.h: nothing is wrong, start me again and I go on where I was.
RESTART = 75
# A chunk that is not finished by then is abandoned; schedulers kill after 30 s, some after 10.
GRACE_SECONDS = 6.0


class Stopped(BaseException):
    """Raised at a boundary after SIGTERM. No `Exception`, so that nothing on the way catches it."""


class Stopping:
    """Stops the process at the next boundary after SIGTERM, or abruptly after a grace period.

    The main thread may be inside of a program of minutes, where Python's handlers do not run. The
    C handler still writes to the wake-up socket, and a thread that waits there ends the process:
    every file is whole or absent, so nothing is lost but the chunk that was being computed.

    Args:
        clean: called before an abrupt end.
    """

    def __init__(self, clean: Callable[[], None] = lambda: None):
        self.requested = threading.Event()
        self._clean = clean
        self._ours, self._theirs = socket.socketpair()
        self._theirs.setblocking(False)

    def install(self) -> None:
        """Handle SIGTERM from now on; main thread only."""
        signal.set_wakeup_fd(self._theirs.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, lambda *_: self.requested.set())
        threading.Thread(target=self._watch, name="stopping", daemon=True).start()

    def boundary(self) -> None:
        """Where the run may stop: raises `Stopped` after SIGTERM."""
        if self.requested.is_set():
            raise Stopped

    def _watch(self) -> None:
        while signal.SIGTERM not in self._ours.recv(64):
            pass
        self.requested.set()
        time.sleep(GRACE_SECONDS)
        self._clean()
        sys.stderr.write("stopped in the middle of a chunk, which is computed again\n")
        sys.stderr.flush()
        os._exit(RESTART)
