"""Result folders: one experiment each, whole files, nothing of another run touched."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.runtime.lock import LOCK
from benchmarks.runtime.run_folder import RunFolder, checksum, read_json, read_table
from benchmarks.runtime.schemas import SCHEMAS
from jaxprune.validation import InputError

SETTINGS = {"env": "cartpole", "seeds": 2}


def columns(rows: int) -> dict[str, list]:
    values = {pa.string(): "x", pa.int32(): 1, pa.float64(): 0.5, pa.bool_(): True}
    return {field.name: [values[field.type]] * rows for field in SCHEMAS["returns"]}


def test_a_table_comes_back_as_it_was_written(tmp_path: Path):
    folder = RunFolder(tmp_path / "run", SETTINGS)
    folder.describe({"note": 1})
    table = columns(3) | {"return": [1.0, 2.5, float("nan")], "episode": [0, 1, 2]}
    folder.write_table("returns", table)
    back = read_table(folder.path, "returns")
    assert list(back) == SCHEMAS["returns"].names
    np.testing.assert_array_equal(back["return"], table["return"])
    np.testing.assert_array_equal(back["episode"], table["episode"])
    held = pq.read_schema(folder.path / "returns.parquet").metadata[b"settings"]
    assert json.loads(held) == SETTINGS


def test_the_description_holds_settings_versions_and_device(tmp_path: Path):
    folder = RunFolder(tmp_path / "run", SETTINGS)
    folder.describe({"seconds": 1.5})
    held = read_json(folder.path / "experiment.json")
    assert held["settings"] == SETTINGS
    assert held["seconds"] == 1.5
    assert held["versions"]["jax"]
    assert held["device"] == "2 x cpu"


def test_the_same_experiment_may_write_again_but_another_may_not(tmp_path: Path):
    RunFolder(tmp_path / "run", SETTINGS).describe({})
    RunFolder(tmp_path / "run", SETTINGS)
    before = (tmp_path / "run" / "experiment.json").read_bytes()
    with pytest.raises(InputError, match=r"another experiment.*seeds.*--out"):
        RunFolder(tmp_path / "run", SETTINGS | {"seeds": 3})
    assert (tmp_path / "run" / "experiment.json").read_bytes() == before


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("dear")
    (tmp_path / "file").write_text("no folder")
    for name in ("letters", "file"):
        with pytest.raises(InputError, match="holds no experiment"):
            RunFolder(tmp_path / name, SETTINGS)
    assert [p.name for p in (tmp_path / "letters").iterdir()] == ["dear.txt"]


def test_asking_for_a_folder_creates_nothing(tmp_path: Path):
    RunFolder(tmp_path / "run", SETTINGS)
    assert not (tmp_path / "run").exists()


def test_a_failed_write_leaves_the_old_file_and_no_partial_one(tmp_path: Path):
    folder = RunFolder(tmp_path / "run", SETTINGS)
    folder.describe({})
    folder.write_table("returns", columns(2))
    before = (folder.path / "returns.parquet").read_bytes()
    with pytest.raises(pa.ArrowInvalid):
        folder.write_table("returns", columns(2) | {"return": ["not", "numbers"]})
    assert (folder.path / "returns.parquet").read_bytes() == before
    assert {p.name for p in folder.path.iterdir()} == {"experiment.json", "returns.parquet"}


def test_nan_is_null_in_json(tmp_path: Path):
    folder = RunFolder(tmp_path / "run", SETTINGS)
    folder.describe({"low": float("nan"), "values": [np.float64(1.5), np.int32(2)]})
    held = read_json(folder.path / "experiment.json")
    assert held["low"] is None
    assert held["values"] == [1.5, 2]


def test_a_table_of_another_version_is_refused(tmp_path: Path):
    file = tmp_path / "returns.parquet"
    pq.write_table(pa.table(columns(2)).drop_columns("diverged"), file)
    with pytest.raises(InputError, match="lacks the column 'diverged': another version wrote it"):
        read_table(tmp_path, "returns")


@pytest.mark.parametrize("content", [None, b"", b"PAR1 not a table"])
def test_a_missing_or_damaged_table_is_named(tmp_path: Path, content: bytes | None):
    if content is not None:
        (tmp_path / "returns.parquet").write_bytes(content)
    with pytest.raises(InputError, match=r"returns\.parquet is missing or damaged"):
        read_table(tmp_path, "returns")


def test_a_damaged_description_is_named(tmp_path: Path):
    (tmp_path / "experiment.json").write_text("{")
    with pytest.raises(InputError, match=r"experiment\.json is missing or no JSON"):
        RunFolder(tmp_path, SETTINGS)


def test_text_of_a_table_is_read_as_harmless_text(tmp_path: Path):
    """Of reports, which are drawn from tables, it becomes a part."""
    folder = RunFolder(tmp_path, {})
    rows = columns(3)
    rows["method"] = ["magnitude", "a\x1b[2J\n::error::b", "x" * 10**5]
    folder.write_table("returns", rows)
    found = read_table(tmp_path, "returns")
    short, ugly, long = found["method"]
    assert (short, ugly) == ("magnitude", r"a\x1b[2J\n::error::b") and len(long) < 5000
    np.testing.assert_array_equal(found["env"], rows["env"])


@pytest.mark.parametrize(
    ("column", "values", "held"),
    [
        ("return", ["1.5", "2"], "string with 0 empty"),
        ("seed", [0.5, 1.5], "double with 0 empty"),
        ("length", [None, 3], "int64 with 1 empty"),
        ("terminated", [0, 1], "int64 with 0 empty"),
    ],
)
def test_a_column_of_another_kind_is_damage(column: str, values: list, held: str, tmp_path: Path):
    table = pa.table({**columns(2), column: pa.array(values)})
    pq.write_table(table, tmp_path / "returns.parquet")
    with pytest.raises(InputError, match=f"damaged: its column '{column}' holds {held}"):
        read_table(tmp_path, "returns")


@pytest.mark.parametrize(
    "text", ["[]", "3", '{"settings": []}', '{"files": [1]}', '{"shard": 3}', "[" * 10**5, "\xff"]
)
def test_a_description_of_another_shape_is_refused(text: str, tmp_path: Path):
    (tmp_path / "experiment.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=r"is missing or no JSON|does not describe a run"):
        read_json(tmp_path / "experiment.json")


def test_agents_are_part_of_what_a_folder_promises(tmp_path: Path):
    folder = RunFolder(tmp_path, {})
    agents = tmp_path / "agents" / "deep"
    agents.mkdir(parents=True)
    (agents / "weights").write_bytes(b"1")
    known, damaged = checksum(tmp_path / "agents"), ["agents is missing or damaged"]
    folder.describe({"files": {"agents": known}})
    assert folder.missing() == []
    (agents / "weights").write_bytes(b"2")
    assert checksum(tmp_path / "agents") != known and folder.missing() == damaged
    shutil.rmtree(tmp_path / "agents")
    assert checksum(tmp_path / "agents") is None and folder.missing() == damaged


def test_what_an_interrupted_redraw_left_is_swept(tmp_path: Path):
    (tmp_path / ".report.md.partial").write_text("half")
    with RunFolder(tmp_path / "run", {}).locked():
        pass
    folder = RunFolder(tmp_path / "run", {})
    (tmp_path / "run" / ".report.md.partial").write_text("half")
    with folder.locked():
        assert [path.name for path in folder.path.iterdir()] == [LOCK]
    assert (tmp_path / ".report.md.partial").exists()  # of another folder
