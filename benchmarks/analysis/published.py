"""A run beside published returns of PPO and of robustly trained policies.

`data/published_returns.csv`: means over 50 episodes of the median agent of many, on Gym's MuJoCo
tasks of version 2, each under the strongest of many configurations of an attack, chosen on these
episodes. Source: the rows name it (Zhang et al. 2020, arXiv 2003.08938; Zhang et al. 2021, arXiv
2101.08452).
"""

import csv
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.analysis.curves import Curve, Results
from benchmarks.analysis.worst_case import worst_of
from benchmarks.runtime.tables import interval_text
from jaxprune.devices import take

FILE = Path(__file__).parent / "published_returns.csv"
# Our adversaries by the published name; "strongest" is the worst of all.
OURS = {
    "natural": ("none",),
    "random": ("random",),
    "critic": ("critic",),
    "mad": ("mad_sgld", "mad"),
    "rs": ("rs_reference", "rs"),
    "rs_mad": ("rs_mad",),
}
STRONGEST = "strongest"
CLOSENESS = {
    "v4": "The task has the models, rewards and endings of the published ones.",
    "v5": "Version 5 of the task withholds the bonus of the last step and changed some models: "
    "returns are close to comparable.",
    "": "The task is Brax's own, with other bodies, rewards and resets than Gym's: only the order "
    "of magnitude, and what an attack leaves of a return, can be compared.",
}


class Published(NamedTuple):
    """One published mean."""

    task: str
    eps: float
    method: str
    attack: str
    mean: float
    std: float  # NaN: not published
    source: str

    @property
    def column(self) -> str:
        """What it is called in a table."""
        return f"{self.method} ({self.source.split(',')[0]})"


class Comparison(NamedTuple):
    """A table, and what has to be known to read it."""

    note: str
    header: list[str]
    rows: list[list[str]]


@cache
def published() -> tuple[Published, ...]:
    """All rows of the file."""
    with FILE.open(encoding="utf-8", newline="") as file:
        return tuple(
            Published(
                row["task"],
                float(row["eps"]),
                row["method"],
                row["attack"],
                float(row["mean"]),
                float(row["std"] or "nan"),
                row["source"],
            )
            for row in csv.DictReader(file)
        )


def compare(results: Results, task: str) -> Comparison | None:
    """The unpruned agents beside the published ones; None for a task without published returns.

    Attacks are compared at the published radius only; the return without one always is.

    Args:
        results: of a run.
        task: its name; those of Gymnasium ("gym/Hopper-v4") and Brax's own ("hopper") are known.
    """
    name, version = _known(task)
    rows = [row for row in published() if row.task == name]
    if not rows:
        return None
    eps = next((r for r in results.radii if np.isclose(r, rows[0].eps)), None)
    unpruned = list(dict.fromkeys(results.dense_of.values()))
    columns = list(dict.fromkeys(row.column for row in rows))
    attacks = ["natural"] if eps is None else list(dict.fromkeys(row.attack for row in rows))
    found = {(row.attack, row.column): row for row in rows}
    note = f"{CLOSENESS[version]} Published: mean +- standard deviation over 50 episodes of the "
    note += f"median of many agents, radius {rows[0].eps:g}, the strongest of many configurations "
    note += "on the episodes that chose them; here: the unpruned agents, "
    note += f"{results.victim}."
    if eps is None:
        radii = ", ".join(f"{r:g}" for r in results.radii)
        note += f" This run attacked at eps {radii}, so that only returns without an attack compare"
        note += f": give --eps {rows[0].eps:g}."
    called = [f"here, {label}" if len(unpruned) > 1 else "here, dense" for label in unpruned]
    return Comparison(
        note,
        ["attack", *called, *columns],
        [
            [attack]
            + [_here(results, label, attack, eps) for label in unpruned]
            + [_text(found.get((attack, column))) for column in columns]
            for attack in attacks
        ],
    )


def _known(task: str) -> tuple[str, str]:
    """gym/Hopper-v4 -> ("hopper", "v4"); hopper -> ("hopper", "")."""
    if not task.startswith("gym/"):
        return task, ""
    name, _, version = task.removeprefix("gym/").lower().partition("-")
    return name, version


def _text(row: Published | None) -> str:
    if row is None:
        return ""
    return f"{row.mean:.0f}" if np.isnan(row.std) else f"{row.mean:.0f} +- {row.std:.0f}"


def _here(results: Results, label: str, attack: str, eps: float | None) -> str:
    """Our figures under the adversaries of a published name, several with their names."""
    if attack == STRONGEST:
        assert eps is not None
        return f"worst of: {_mean(results, worst_of(results, label, eps).curve)}"
    curves = [results.by_key.get((label, name, _radius(name, eps))) for name in OURS[attack]]
    named = [(curve.attack, _mean(results, curve)) for curve in curves if curve is not None]
    several = len(OURS[attack]) > 1
    return ", ".join(f"{name}: {text}" if several else text for name, text in named)


def _mean(results: Results, curve: Curve) -> str:
    """The mean return of unpruned agents with its interval, in words."""
    return interval_text(take(results.interval(curve), 0))


def _radius(attack: str, eps: float | None) -> float:
    return 0.0 if attack == "none" or eps is None else eps
