"""Numbers and tables as a person reads them."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv
from rich.table import Table

from benchmarks.runtime.atomic import write_whole
from jaxprune.statistics import Interval
from jaxprune.validation import NAME, shown


def interval_text(interval: Interval, digits: int = 0) -> str:
    """`mean [low, high]` with so many decimals; the mean alone where there is no interval."""
    rounded = np.round(np.asarray(interval, float), digits) + 0.0  # no -0
    mean, low, high = (f"{x:.{digits}f}" for x in rounded)
    return mean if low == "nan" else f"{mean} [{low}, {high}]"


def plain(value: object, limit: int = NAME) -> str:
    """Returns a name or a value from a file as Markdown that is only text, in code and tables too.

    What Markdown or HTML would act on is escaped like what is not printable: `|` becomes `\\x7c`.
    The middle of what is longer than `limit` is left out.
    """
    return re.sub(r"[`|<&\[*]", lambda found: f"\\x{ord(found[0]):02x}", shown(value, limit))


def markdown_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 0
) -> list[str]:
    """Returns the lines of a Markdown table, its first `left` columns to the left."""
    marks = ["---"] * left + ["--:"] * (len(header) - left)
    return [f"| {' | '.join(cells)} |" for cells in (header, marks, *rows)]


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Writes rows of named values as CSV, whole or not at all."""
    write_whole(path, partial(csv.write_csv, pa.Table.from_pylist(list(rows))))


def terminal_table(
    title: str,
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    left: Collection[str] = (),
    wrap: bool = False,
    fold: bool = False,
    style: str | None = None,
) -> Table:
    """Returns a table for a terminal.

    Args:
        title: in `style`.
        header: names of the columns.
        rows: of cells.
        left: columns of words, which go to the left and are wrapped where there is no room.
        wrap: whether the others, of numbers, are wrapped too, or cut.
        fold: whether words that are too long are broken, or cut.
        style: of the title.
    """
    table = Table(title=title, title_justify="left", title_style=style)
    for name in header:
        if name in left:
            table.add_column(name, overflow="fold" if fold else "ellipsis")
        else:
            table.add_column(name, justify="right", no_wrap=not wrap)
    for row in rows:
        table.add_row(*row)
    return table
