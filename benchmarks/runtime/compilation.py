"""Compiled programs: ahead of time, side by side, counted and timed."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeAlias

import jax

from jaxprune.devices import Mapped
from jaxprune.types import PyTree

# A program that is being compiled: to be called with its arguments when that is done.
Program: TypeAlias = Future[Callable[..., PyTree]]
_BACKEND_COMPILE = "/jax/core/compile/backend_compile_duration"
_compilations, _compiling = 0, 0.0


def _count(event: str, duration_secs: float, **_: object) -> None:
    global _compilations, _compiling
    if event == _BACKEND_COMPILE:
        _compilations, _compiling = _compilations + 1, _compiling + duration_secs


jax.monitoring.register_event_duration_secs_listener(_count)


def compilations() -> int:
    """XLA programs that this process has compiled or fetched from the cache so far."""
    return _compilations


def compiling() -> float:
    """Seconds that this process has spent in XLA so far, of each thread that compiles."""
    return _compiling


class Programs:
    """The programs of a run. They compile at once, two at a time, in threads."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._tracing, self._before = 0.0, (compilations(), compiling())
        self._threads = ThreadPoolExecutor(max_workers=2)

    def __enter__(self) -> "Programs":
        return self

    def __exit__(self, *_: object) -> None:
        """What has not begun to compile is not needed any more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def compile(
        self, name: str, program: Mapped, shared: PyTree, items: PyTree, width: int
    ) -> Program:
        """Compile for arguments of these shapes (arrays or ShapeDtypeStructs) and this width."""

        def work() -> Callable[..., PyTree]:
            start = time.monotonic()
            lowered = program.lower(shared, items, width)
            self._tracing += time.monotonic() - start
            compiled = lowered.compile()
            self.seconds[name] = round(time.monotonic() - start, 2)
            return lambda shared, items: compiled(*program.placed(shared, items))

        return self._threads.submit(work)

    def facts(self) -> dict[str, object]:
        """What was compiled, for experiment.json."""
        count, seconds = self._before
        return {
            "programs": self.seconds,
            "compilations": compilations() - count,
            "compiling": {
                "tracing": round(self._tracing, 1),
                "xla": round(compiling() - seconds, 1),
            },
        }
