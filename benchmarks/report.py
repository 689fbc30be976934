"""The report of a run, from its tables alone.

python -m benchmarks.report results/RUN      # draw an existing run again
"""

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from benchmarks import analysis, figures, report_terminal
from benchmarks.command_line import read_options
from benchmarks.display import make_console
from benchmarks.evidence import gather
from benchmarks.guard import guarded
from benchmarks.html_figures import charts
from benchmarks.html_report import page
from benchmarks.report_text import lines
from benchmarks.store import RunFolder, read_json
from jaxprune.population import check_devices

PICTURE = re.compile(r"!\[.*\]\((.+)\)")


def write_report(folder: RunFolder, console: Console) -> None:
    """Write metrics.json, figures, report.md and report.html beside the tables, and print a part.

    Raises:
        InputError: a table is missing, damaged or of another version; nothing is written.
    """
    evidence = gather(folder.path)
    results, certificates = evidence.results, evidence.certificates
    text = list(lines(evidence))
    others = [other.results for other in evidence.others]
    folder.write_json("metrics.json", analysis.metrics(results, certificates, others))
    drawn = figures.draw(results, certificates, evidence.training, evidence.title, folder.path)
    files = [*drawn.values(), *evidence.pictures]
    folder.write_text("report.md", "\n".join(_with_pictures(text, files)) + "\n")
    pictures = {name: (folder.path / name).read_bytes() for name in files}
    folder.write_text("report.html", page(text, charts(evidence), pictures))
    report_terminal.show(evidence, console)


def _with_pictures(text: Iterable[str], files: Sequence[str]) -> Iterator[str]:
    """Without the pictures that only report.html has."""
    for line in text:
        picture = PICTURE.fullmatch(line)
        if picture is None or picture[1] in files:
            yield line


@dataclass(frozen=True)
class Options:
    """Draw the report of a run again."""

    run: tyro.conf.Positional[Path]
    """Its folder, e.g. results/RUN."""


@guarded("the tables are as they were")
def main(argv: Sequence[str]) -> int:
    """Draw the report of an existing run again."""
    path = read_options(Options, argv, "benchmarks.report").run
    check_devices()
    folder = RunFolder(path, read_json(path / "experiment.json").get("settings") or {})
    with folder.locked():
        write_report(folder, make_console())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
