"""Signals that end a process: the scheduler wants the machine back, or a person has had enough."""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable

# EX_TEMPFAIL of sysexits.h: nothing is wrong, start me again and I go on where I was.
RESTART = 75
# The exit status of Ctrl-C.
INTERRUPTED = 130
# A chunk that is not finished by then is abandoned; schedulers kill after 30 s, some after 10.
GRACE_SECONDS = 6.0
# What a scheduler stops with, and a terminal that is closed (which Windows does not tell of).
STOP = tuple(getattr(signal, x) for x in ("SIGTERM", "SIGHUP") if hasattr(signal, x))


class Stopped(BaseException):
    """Raised at a boundary after SIGTERM. No `Exception`, so that nothing on the way catches it."""


def leave_while_importing() -> None:
    """Ends the process at once, without a traceback, on every signal that asks for its end.

    The imports of a program take seconds, and nothing is lost then.
    """
    for number in (*STOP, signal.SIGINT):
        _answer(number, _leave)


def raise_from_now_on() -> None:
    """Lets signals raise `Stopped` and KeyboardInterrupt, after `leave_while_importing`."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in STOP:
        if signal.getsignal(number) is _leave:
            signal.signal(number, _raise)


def _leave(number: int, _: object) -> None:
    os.write(2, b"stopped before it began\n")
    os._exit(INTERRUPTED if number == signal.SIGINT else RESTART)


def _raise(*_: object) -> None:
    raise Stopped


def _answer(number: int, handler: Callable[..., None]) -> None:
    """Handle a signal, unless it is ignored on purpose, as under nohup."""
    if signal.getsignal(number) != signal.SIG_IGN:
        signal.signal(number, handler)


class Stopping:
    """Stops the process at the next boundary after a signal, or abruptly after a grace period.

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
        """Handle SIGTERM and SIGHUP from now on; main thread only."""
        signal.set_wakeup_fd(self._theirs.fileno(), warn_on_full_buffer=False)
        for number in STOP:
            _answer(number, lambda *_: self.requested.set())
        threading.Thread(target=self._watch, name="stopping", daemon=True).start()

    def boundary(self) -> None:
        """Where the run may stop: raises `Stopped` after a signal."""
        if self.requested.is_set():
            raise Stopped

    def _watch(self) -> None:
        while not set(STOP) & set(self._ours.recv(64)):
            pass
        self.requested.set()
        time.sleep(GRACE_SECONDS)
        self._clean()
        sys.stderr.write("stopped in the middle of a chunk, which is computed again\n")
        sys.stderr.flush()
        os._exit(RESTART)
