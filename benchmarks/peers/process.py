"""A peer's program as a process, and our end of the pipe to it."""

import json
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

from jaxprune.validation import shown

# Seconds that a program has to end after its last request.
PATIENCE = 10
# One thread, on the core that it shares with us, no accelerator, which we do not use either, and
# tracebacks that end in the error.
ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1", "JAX_TRACEBACK_FILTERING": "off"}


class PeerError(Exception):
    """A peer's program ended, or answered something else; the last line that it wrote says why."""


class Turn(NamedTuple):
    """One timed repeat."""

    work: int
    """Env steps, or pairs of mask and state."""
    seconds: float
    """By the clock."""
    cpu_seconds: float
    """Of all threads of the process."""


class PeerProcess(AbstractContextManager["PeerProcess"]):
    """A program that has read its settings, prepared everything, and waits for requests.

    Args:
        words: its command.
        settings: what it is told, as JSON.

    Raises:
        PeerError: it ended before it was ready.
    """

    def __init__(self, words: Sequence[str], settings: Mapping[str, Any]):
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        try:
            self._process = subprocess.Popen(
                list(words),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                encoding="utf-8",
                env={**os.environ, **ENVIRONMENT},
            )
        except OSError as error:
            self._errors.close()
            raise PeerError(f"{words[0]} does not start ({error.strerror})") from None
        try:
            self.facts = self._ask(json.dumps(settings))
        except BaseException:
            self.__exit__()
            raise

    def turn(self) -> Turn:
        """Returns one repeat, made now. Raises `PeerError` if there is none."""
        reply = self._ask("")
        return Turn(reply["work"], reply["seconds"], reply["cpu_seconds"])

    def _ask(self, line: str) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())
        except (BrokenPipeError, ValueError):
            raise PeerError(self._last_words()) from None

    def _last_words(self) -> str:
        self._process.kill()
        self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().split("\n")
        return shown(next((line for line in reversed(lines) if line.strip()), "it said nothing"))

    def __exit__(self, *_: object) -> None:
        try:
            self._process.communicate(timeout=PATIENCE)
        except (subprocess.TimeoutExpired, BrokenPipeError, ValueError):
            self._process.kill()
            self._process.wait()
        self._errors.close()


def processor() -> str:
    """Returns the name of the processor, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(": ")[2] for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def clocks() -> tuple[float, float]:
    """Returns seconds by the clock, and those of all threads of this process on a core."""
    return time.perf_counter(), time.process_time()
