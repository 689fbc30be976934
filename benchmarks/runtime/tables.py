"""Numbers and tables as a person reads them."""

import re
from collections.abc import Sequence

import numpy as np

from jaxprune.statistics import Interval
from jaxprune.validation import NAME, shown


def interval_text(interval: Interval) -> str:
    """`mean [low, high]` in whole units; the mean alone where there is no interval."""
    mean, low, high = (f"{float(x) + 0.0:.0f}" for x in np.round(np.asarray(interval, float)))
    return mean if low == "nan" else f"{mean} [{low}, {high}]"


def plain(value: object, limit: int = NAME) -> str:
    """Returns a name or a value from a file as Markdown that is only text, in code and tables too.

    What Markdown or HTML would act on is escaped like what is not printable: `|` becomes `\\x7c`.
    The middle of what is longer than `limit` is left out.
    """
    return re.sub(r"[`|<&\[*]", lambda found: f"\\x{ord(found[0]):02x}", shown(value, limit))


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table, its columns to the right."""
    line = lambda cells: "| " + " | ".join(cells) + " |"  # noqa: E731
    return [line(header), line(["--:"] * len(header)), *map(line, rows)]
