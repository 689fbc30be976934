"""Where the seconds of runs went: stages, compilation, attacks, idle lanes; as Markdown.

python -m benchmarks.profile results/RUN results/OTHER > profile.md

Read from what the runs wrote. Of a run that was killed and went on, its last process is told of.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from benchmarks.analysis.curves import Columns
from benchmarks.runtime.command_line import read_options
from benchmarks.runtime.console import make_console
from benchmarks.runtime.guard import guarded
from benchmarks.runtime.run_folder import Json, read_json, read_table
from benchmarks.runtime.tables import markdown_table, plain
from jaxprune.validation import InputError

CASE = ("attack", "eps", "victim")


@dataclass(frozen=True)
class Options:
    """Tell where the seconds of runs went."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of complete runs."""


@guarded("nothing was written")
def main(argv: Sequence[str]) -> int:
    """The command; returns its exit status."""
    options = read_options(Options, argv, "benchmarks.profile")
    profiles = [profile(path) for path in options.runs]
    console = make_console()
    for lines in profiles:
        for line in lines:
            console.print(line, markup=False, soft_wrap=True)
    return 0


def profile(path: Path) -> list[str]:
    """Returns the lines about one run.

    Raises:
        InputError: it is none, not complete, or of a version that did not count.
    """
    described = read_json(path / "experiment.json")
    if not described.get("cpu"):
        raise InputError(
            f"{path} does not say where its seconds went: it is not complete, united from shards, "
            f"or of an older version: run it again: {described.get('command', '')}"
        )
    seconds, returns = (read_table(path, name) for name in ("seconds", "returns"))
    return [
        f"## {plain(str(described.get('command', path)))}",
        "",
        f"{plain(described['device'])}, git {plain(str(described['git']))}",
        "",
        steps_that_count(described),
        "",
        *markdown_table(("stage", "seconds", "CPU seconds", "% of CPU"), stage_rows(described), 1),
        "",
        compile_line(described),
        "",
        *markdown_table(
            ("attack", "eps", "victim", "prepare s", "choose s", "play s", "us per env step"),
            attack_rows(seconds, returns),
            3,
        ),
        "",
    ]


def stage_rows(described: Json) -> Iterator[list[str]]:
    """Yields the seconds of every stage, then of all, compilation beside them included."""
    spent, cpu = described["stages"], described["cpu"]
    total = sum(cpu.values())
    for name, seconds, used in [
        *((name, spent[name], cpu[name]) for name in spent),
        ("all", sum(spent.values()), total),
    ]:
        yield [name, f"{seconds:.1f}", f"{used:.1f}", f"{100 * used / max(total, 1e-9):.0f}"]


def steps_that_count(described: Json) -> str:
    """Returns how many of the steps that lanes simulated belong to an episode."""
    lanes = described["lanes"]
    share = 100 * lanes["counted"] / max(lanes["simulated"], 1)
    return (
        f"Episodes: {lanes['counted']:,} env steps count of {lanes['simulated']:,} that lanes took "
        f"({share:.1f} %)."
    )


def compile_line(described: Json) -> str:
    """Returns what was compiled."""
    spent = described["compiling"]
    large = ", ".join(f"{name} {seconds:.1f}" for name, seconds in described["programs"].items())
    return (
        f"Compilation: tracing {spent['tracing']:.1f} s, XLA {spent['xla']:.1f} s in "
        f"{described['compilations']} programs, of which the large ones ({large}) side by side."
    )


def attack_rows(seconds: Columns, returns: Columns) -> Iterator[list[str]]:
    """Yields what each attack took; what it takes above `none` per step are its gradients."""
    for i in range(len(seconds["attack"])):
        case = [seconds[name][i] for name in CASE]
        played = np.all([returns[n] == x for n, x in zip(CASE, case, strict=True)], axis=0)
        spent = [float(seconds[name][i]) for name in ("prepare", "choose", "play")]
        spent.append(1e6 * spent[-1] / max(returns["length"][played].sum(), 1))
        attack, eps, victim = case
        yield [plain(attack), f"{eps:g}", plain(victim), *(f"{x:.1f}" for x in spent)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
