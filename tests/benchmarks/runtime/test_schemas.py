"""Columns explain themselves, and TABLES.md is what they say."""

from pathlib import Path

from benchmarks.runtime import schemas
from benchmarks.runtime.schemas import COLUMNS, SCHEMAS


def test_the_document_is_up_to_date():
    held = Path(schemas.__file__).parents[1] / "TABLES.md"
    assert held.read_text().splitlines() == list(schemas.document())


def test_every_column_has_a_description_and_no_other_has():
    columns = {field.name: field for schema in SCHEMAS.values() for field in schema}
    assert columns.keys() == COLUMNS.keys()
    assert columns["length"].metadata == {
        b"description": b"length of the episode",
        b"unit": b"steps",
    }
    assert b"unit" not in columns["env"].metadata
