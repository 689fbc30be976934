"""Repeats of ours and of a peer in turn, and the ratios of neighbours."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from rich.table import Table

from benchmarks.peers.process import PeerProcess, Turn, clocks
from benchmarks.runtime.tables import terminal_table

Spread: TypeAlias = dict[str, float]  # "median", "low" and "high" of some repeats

HEADER = ("beside", "what", "ours", "theirs", "ours / theirs")


def take_turns(
    run: Callable[[], object], work: int, peer: PeerProcess, repeats: int
) -> list[tuple[Turn, Turn]]:
    """Returns so many pairs of repeats: ours, theirs, ours, theirs, ...

    Args:
        run: one repeat of ours, until its result is there; it has run before.
        work: env steps or pairs that one repeat of ours is worth.
        peer: the other side.
        repeats: of each side.
    """
    return [(our_turn(run, work), peer.turn()) for _ in range(repeats)]


def our_turn(run: Callable[[], object], work: int) -> Turn:
    """Returns one timed repeat of ours."""
    start = clocks()
    run()
    seconds, cpu_seconds = (now - then for now, then in zip(clocks(), start, strict=True))
    return Turn(work, seconds, cpu_seconds)


def rates_of(pairs: Sequence[tuple[Turn, Turn]], clock: str) -> dict[str, Spread]:
    """Returns the rates of both sides by a clock, and the ratio of each pair of neighbours.

    Args:
        pairs: of repeats.
        clock: "seconds" or "cpu_seconds", a field of `Turn`.
    """
    ours, theirs = (
        [turn.work / getattr(turn, clock) for turn in side] for side in zip(*pairs, strict=True)
    )
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return {"ours": spread_of(ours), "theirs": spread_of(theirs), "ratio": spread_of(ratios)}


def spread_of(values: Sequence[float]) -> Spread:
    """Returns the median and the range."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def table_of(rows: Sequence[Mapping[str, Any]], repeats: int) -> Table:
    """Returns the comparisons as a table of 80 columns, per CPU second.

    Args:
        rows: "peer", "what", "unit" and "per_cpu_second", what `rates_of` returns.
        repeats: of each side.
    """
    title = f"Per CPU second on one core: median and range of {repeats} pairs"
    return terminal_table(title, HEADER, map(_cells, rows), left=HEADER[:2], fold=True)


def _cells(row: Mapping[str, Any]) -> Sequence[str]:
    rates = row["per_cpu_second"]
    ours, theirs = (f"{rates[side]['median']:,.0f}" for side in ("ours", "theirs"))
    ratio = "{median:.3g} [{low:.3g}, {high:.3g}]".format(**rates["ratio"])
    return row["peer"], row["what"], ours, theirs, ratio
