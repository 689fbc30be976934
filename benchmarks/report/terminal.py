"""What a person wants on the terminal at the end of a run: curves, sweet spots, doubts."""

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.report.contents import Contents, Panel
from benchmarks.report.rows import bound_rows, judged_rows, return_rows
from benchmarks.runtime.tables import terminal_table

# What a column takes beside its text: a line and two spaces.
BORDER = 3


def show(contents: Contents, console: Console) -> None:
    """Print it."""
    for panel in (panel for panels in contents.by_method.values() for panel in panels):
        for table in tables(panel, console.width):
            console.print(table)
    for other in contents.others:
        for judged in other.judged:
            title = f"{judged.method}, eps = {judged.eps:g}, as a {other.victim} policy"
            for table in curves(title, *judged_rows(judged), console.width):
                console.print(table)
    for line in contents.warnings:
        console.print(f"warning: {line}", style="yellow", markup=False)


def tables(panel: Panel, width: int) -> Iterator[Table]:
    """The curve of one method and radius."""
    header, rows = return_rows(panel, wide=False)
    bounds, certified = bound_rows(panel)
    tv = [i for i, name in enumerate(bounds) if name.startswith("TV ")]
    title = f"{panel.method}, eps = {panel.eps:g}"
    yield from curves(
        title,
        [*header, *(bounds[i] for i in tv)],
        [[*row, *(bound[i] for i in tv)] for row, bound in zip(rows, certified, strict=True)],
        width,
    )


def curves(
    title: str, header: Sequence[str], rows: Sequence[Sequence[str]], width: int
) -> Iterator[Table]:
    """Yields as many tables as it takes to show every column whole.

    Args:
        title: of all of them.
        header: the sparsity first, which every table begins with.
        rows: of cells.
        width: columns of the terminal.
    """
    sizes = [max(map(len, column)) + BORDER for column in zip(header, *rows, strict=True)]
    for group in _groups(sizes, width - 1):
        chosen = [[cells[i] for i in group] for cells in (header, *rows)]
        yield terminal_table(title, chosen[0], chosen[1:])


def _groups(sizes: Sequence[int], width: int) -> Iterator[list[int]]:
    """Yields the first column with as many others as fit, at least one, until all were there."""
    group = [0]
    for i in range(1, len(sizes)):
        if len(group) > 1 and sum(sizes[j] for j in (*group, i)) > width:
            yield group
            group = [0]
        group.append(i)
    yield group
