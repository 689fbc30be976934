"""What a person wants on the terminal at the end of a run: returns, doubts, and the verdict."""

from rich.console import Console

from benchmarks.report.contents import Contents
from benchmarks.report.findings import name_of, verdict_lines
from benchmarks.report.rows import main_rows
from benchmarks.runtime.tables import terminal_table


def show(contents: Contents, console: Console) -> None:
    """Print it, the verdict last."""
    for panel in (panel for panels in contents.by_method.values() for panel in panels):
        title = f"{name_of(contents, panel)}: return per episode"
        console.print(terminal_table(title, *main_rows(panel, wide=False)))
    for line in contents.warnings:
        console.print(f"warning: {line}", style="yellow", markup=False)
    for line in verdict_lines(contents):
        console.print(f"\n{line}", markup=False)
    console.print()
