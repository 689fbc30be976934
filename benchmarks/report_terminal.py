"""What a person wants on the terminal at the end of a run: curves, sweet spots, doubts."""

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.evidence import Evidence, Panel
from benchmarks.report_rows import bound_rows, judged_rows, return_rows
from benchmarks.tables import interval_text


def show(evidence: Evidence, console: Console) -> None:
    """Print it."""
    order = evidence.results.pruned_methods()
    for panel in sorted(evidence.panels, key=lambda panel: order.index(panel.method)):
        for table in tables(panel):
            console.print(table)
    for other in evidence.others:
        for judged in other.judged:
            title = f"{judged.method}, eps = {judged.eps:g}, as a {other.results.victim} policy"
            console.print(_curve(title, *judged_rows(judged)))
    for line in evidence.warnings:
        console.print(f"warning: {line}", style="yellow", markup=False)


def tables(panel: Panel) -> Iterator[Table]:
    """The curve of one method and radius, and its sweet spots."""
    header, rows = return_rows(panel, wide=False)
    bounds, certified = bound_rows(panel)
    tv = [i for i, name in enumerate(bounds) if name.startswith("TV ")]
    title = f"{panel.method}, eps = {panel.eps:g}"
    yield _curve(
        title,
        [*header, *(bounds[i] for i in tv)],
        [[*row, *(bound[i] for i in tv)] for row, bound in zip(rows, certified, strict=True)],
    )

    spots = Table(title=f"sweet spots of {title}", title_justify="left")
    spots.add_column("objective")
    for name in ("sparsity", "clean", "attacked"):
        spots.add_column(name, justify="right", no_wrap=True)
    for spot in panel.spots:
        clean, attacked = interval_text(spot.clean), interval_text(spot.attacked)
        spots.add_row(spot.objective, f"{spot.sparsity:.3g}", clean, attacked)
    yield spots


def _curve(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Numbers by sparsity."""
    curve = Table(title=title, title_justify="left")
    for name in header:
        curve.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        curve.add_row(*row)
    return curve
