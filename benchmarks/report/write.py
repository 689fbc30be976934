"""The report of a run, from its tables alone.

python -m benchmarks.report results/RUN      # draw an existing run again
"""

from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from benchmarks.report import png_figures, terminal
from benchmarks.report.charts import charts
from benchmarks.report.contents import gather
from benchmarks.report.html import page
from benchmarks.report.markdown import heading, sections, text
from benchmarks.runtime.run_folder import RunFolder

# The charts that report.md shows too.
PNG = ("returns", "certificates", "regret", "training")


def write_report(folder: RunFolder, console: Console) -> None:
    """Write figures, report.md and report.html beside the tables, and print a part.

    Raises:
        InputError: a table is missing, damaged or of another version; nothing is written.
    """
    contents = gather(folder.path)
    told, drawn = sections(contents), charts(contents)
    on_paper = {name: drawn[name] for name in PNG if name in drawn}
    files = [*png_figures.draw(on_paper, folder.path), *contents.pictures]
    folder.write_text("report.md", text(heading(contents), told, files))
    pictures = {name: (folder.path / name).read_bytes() for name in contents.pictures}
    folder.write_text("report.html", page(heading(contents), told, drawn, pictures))
    terminal.show(contents, console)


@dataclass(frozen=True)
class Options:
    """Draw the report of a run again."""

    run: tyro.conf.Positional[Path]
    """Its folder, e.g. results/RUN."""
