"""How a compiled call is timed, and what is written of it."""

import json
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from benchmarks.rates.options import Options
from benchmarks.runtime.atomic import write_text
from benchmarks.runtime.run_folder import provenance
from jaxprune.devices import Mapped
from jaxprune.types import PyTree


class Work(NamedTuple):
    """A call that can be timed."""

    name: str
    unit: str
    run: Callable[[], PyTree]
    amount: int
    """Of the unit, in one call."""
    compile_seconds: float


class Rate(NamedTuple):
    """One figure."""

    name: str
    unit: str
    median: float
    low: float
    high: float
    compile_seconds: float


def compile_timed(
    program: Mapped, shared: PyTree, items: PyTree, width: int
) -> tuple[Callable[..., PyTree], float]:
    """A program compiled ahead of time for these arguments, and the seconds that took."""
    start = time.monotonic()
    compiled = program.lower(shared, items, width).compile()
    return compiled, time.monotonic() - start


def timed(work: Work, repeats: int) -> Rate:
    """Units of work per second of so many calls."""
    spent = np.array(in_turns([work.run], repeats)[0])
    return rate_of(work.name, work.unit, work.amount / spent, work.compile_seconds)


def in_turns(runs: Sequence[Callable[[], PyTree]], repeats: int) -> list[list[float]]:
    """Seconds of each of `repeats` calls of every function; a first call is not timed."""
    for run in runs:
        jax.block_until_ready(run())
    spent: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats):
        for run, seconds in zip(runs, spent, strict=True):
            start = time.monotonic()
            jax.block_until_ready(run())
            seconds.append(time.monotonic() - start)
    return spent


def rate_of(name: str, unit: str, values: np.ndarray, compile_seconds: float = 0.0) -> Rate:
    """The median and the range of values `[repeats]`."""
    middle, low, high = (float(x) for x in (np.median(values), values.min(), values.max()))
    return Rate(name, unit, middle, low, high, compile_seconds)


def write_json(options: Options, **facts: object) -> None:
    """Figures, versions, machine and settings."""
    assert options.json is not None
    settings = {k: v for k, v in vars(options).items() if isinstance(v, int | str)}
    text = json.dumps({**provenance(), "settings": settings, **facts}, indent=1)
    write_text(options.json, text + "\n")
