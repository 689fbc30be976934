"""Compare a run with a baseline: did the robustness of pruned policies get worse?

    python -m benchmarks.gate --baseline results/baselines/quick results/quick
    python -m benchmarks.gate --baseline results/baselines/quick results/quick --update

The first exits with 0 if no curve got worse, 1 if one did, and 2 if the two cannot be compared. The
second makes the run the new baseline and says what changed.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from benchmarks.gate import report
from benchmarks.gate.baseline import (
    Run,
    check_comparable,
    differences,
    read_baseline,
    read_run,
    write_baseline,
)
from benchmarks.gate.pairing import RETURN
from benchmarks.gate.permutation_test import compare
from benchmarks.gate.report import Verdict
from benchmarks.runtime.atomic import write_text
from benchmarks.runtime.command_line import read_options
from benchmarks.runtime.console import make_console
from benchmarks.runtime.guard import guarded
from jaxprune.devices import check_devices
from jaxprune.validation import MESSAGE, InputError, shown

# What cannot be compared ends with 2, as in every program.
FINE, WORSE = 0, 1


@dataclass(frozen=True)
class Options:
    """Compare a run with a baseline."""

    run: tyro.conf.Positional[Path]
    """Folder of a run."""
    baseline: Path
    """Folder of the baseline."""
    update: bool = False
    """Make the run the new baseline, and say what changed."""
    junit: Path | None = None
    """File for JUnit XML: a test case for every curve."""
    json: Path | None = None
    """File for github-action-benchmark's customBiggerIsBetter: the returns. The certificates go
    beside it, for customSmallerIsBetter, as NAME-certificates.json."""
    summary: Path | None = None
    """File for a summary in Markdown; default: added to $GITHUB_STEP_SUMMARY if that is set."""


@guarded("nothing was decided")
def main(argv: Sequence[str]) -> int:
    """The command; returns its exit status."""
    console = make_console()
    options = read_options(Options, argv, "benchmarks.gate", addresses=True)
    check_devices()
    return update(options, console) if options.update else gate(options, console)


def gate(options: Options, console: Console) -> int:
    """Judge a run.

    Raises:
        InputError: there is nothing to judge, or too little.
    """
    baseline, run = read_baseline(options.baseline), read_run(options.run)
    check_comparable(baseline, run)
    verdict = judge(baseline, run)
    show(verdict, console)
    write(verdict, options)
    if verdict.worse:
        return WORSE
    unknown = [c for c in verdict.unjudged if c.key.quantity == RETURN]
    if unknown:
        raise InputError(
            f"{len(unknown)} curves differ and cannot be judged, {unknown[0].key} for one: "
            f"{run.settings['seeds']} seeds or {run.settings['episodes']} episodes are too few "
            "(4 seeds where the policies differ, 6 episodes where they do not); make baseline and "
            "run with more, or accept the run with --update"
        )
    return FINE


def update(options: Options, console: Console) -> int:
    """Make a run the baseline.

    Raises:
        InputError: the run is not fit to be one, or the folder holds something else.
    """
    run, old = read_run(options.run), None
    try:
        old = read_baseline(options.baseline)
    except InputError as error:
        console.print(f"nothing to compare with: {error}", markup=False, soft_wrap=True)
    write_baseline(options.baseline, run)
    console.print(f"{options.baseline} now holds {options.run}", markup=False, soft_wrap=True)
    if old is None:
        return FINE
    for name, before, after in differences(old.settings, run.settings):
        differing = shown(f"{name}: {before} is now {after}", MESSAGE)
        console.print(f"setting {differing}", markup=False, soft_wrap=True)
    try:
        check_comparable(old, run)
    except InputError:
        console.print("other settings or cells: the curves are not compared")
    else:
        verdict = judge(old, run)
        show(verdict, console)
        write(verdict, options)
    return FINE


def judge(baseline: Run, run: Run) -> Verdict:
    """Every curve of two comparable runs."""
    return Verdict(baseline, run, compare(baseline.recorded(), run.recorded()))


def show(verdict: Verdict, console: Console) -> None:
    """On a terminal."""
    for table in report.rich_tables(verdict):
        console.print(table)
    console.print(f"{verdict.sentence()} ({verdict.run.path})", markup=False, soft_wrap=True)


def write(verdict: Verdict, options: Options) -> None:
    """The files that were asked for."""
    returns = report.history(verdict.compared, returns=True)
    certificates = report.history(verdict.compared, returns=False)
    summary = report.markdown(verdict)
    if options.junit is not None:
        _write(options.junit, report.junit(verdict))
    if options.json is not None:
        _write(options.json, returns)
        _write(options.json.with_name(f"{options.json.stem}-certificates.json"), certificates)
    if options.summary is not None:
        _write(options.summary, summary)
    elif os.environ.get("GITHUB_STEP_SUMMARY"):
        _add(Path(os.environ["GITHUB_STEP_SUMMARY"]), summary)


def _add(path: Path, text: str) -> None:
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise InputError(
            f"cannot write GITHUB_STEP_SUMMARY {path} ({error.strerror}): give --summary FILE"
        ) from None


def _write(path: Path, text: str) -> None:
    try:
        write_text(path, text)
    except OSError as error:
        raise InputError(f"cannot write {path} ({error.strerror}): choose another file") from None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
