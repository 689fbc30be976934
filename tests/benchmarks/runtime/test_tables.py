"""How tables are laid out for Markdown and for a terminal."""

import io

from rich.console import Console

from benchmarks.runtime.tables import markdown_table, terminal_table

HEADER, ROWS = ("name", "value"), [("a long name", "1"), ("b", "1,000")]


def test_columns_of_words_go_to_the_left_in_markdown():
    assert markdown_table(HEADER, ROWS, left=1) == [
        "| name | value |",
        "| --- | --: |",
        "| a long name | 1 |",
        "| b | 1,000 |",
    ]


def test_words_are_wrapped_and_numbers_stay_whole_on_a_narrow_terminal():
    file = io.StringIO()
    Console(file=file, width=18).print(terminal_table("title", HEADER, ROWS, left=("name",)))
    lines = [[cell.strip() for cell in x.split("│")] for x in file.getvalue().splitlines()]
    assert [x[1:3] for x in lines if len(x) > 2] == [["a long", "1"], ["name", ""], ["b", "1,000"]]
