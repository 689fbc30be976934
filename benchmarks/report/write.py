"""The report of a run, from its tables alone.

python -m benchmarks.report results/RUN      # draw an existing run again
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from benchmarks.report import png_figures, terminal
from benchmarks.report.contents import gather
from benchmarks.report.html import page
from benchmarks.report.html_figures import charts
from benchmarks.report.markdown import lines
from benchmarks.runtime.run_folder import RunFolder

PICTURE = re.compile(r"!\[.*\]\((.+)\)")


def write_report(folder: RunFolder, console: Console) -> None:
    """Write metrics.json, figures, report.md and report.html beside the tables, and print a part.

    Raises:
        InputError: a table is missing, damaged or of another version; nothing is written.
    """
    contents = gather(folder.path)
    text = list(lines(contents))
    folder.write_json("metrics.json", contents.metrics)
    drawn = png_figures.draw(contents, folder.path)
    files = [*drawn.values(), *contents.pictures]
    folder.write_text("report.md", "\n".join(_with_pictures(text, files)) + "\n")
    pictures = {name: (folder.path / name).read_bytes() for name in files}
    folder.write_text("report.html", page(text, charts(contents), pictures))
    terminal.show(contents, console)


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
