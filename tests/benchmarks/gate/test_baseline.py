"""Baselines: small, checked, and compared with nothing that is not like them."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.gate.baseline import (
    COLUMNS,
    check_comparable,
    differences,
    read_baseline,
    read_run,
    write_baseline,
)
from benchmarks.runtime.run_folder import read_table
from jaxprune.validation import InputError
from tests.benchmarks.made_up_runs import GRID, Made, changed, write_run

COMMITTED = sorted((Path(__file__).parents[3] / "results" / "baselines").glob("*/"))


@pytest.fixture(scope="module")
def tables():
    made = Made(np.random.default_rng(0), methods=("magnitude",))
    return made.tables(np.random.default_rng(1))


@pytest.fixture
def run(tables, tmp_path) -> Path:
    return write_run(tmp_path / "run", tables)


@pytest.fixture
def baseline(run, tmp_path) -> Path:
    write_baseline(tmp_path / "baseline", read_run(run))
    return tmp_path / "baseline"


def rewrite(path: Path, name: str, **columns: np.ndarray) -> None:
    table = {column: read_table(path, name)[column] for column in read_table(path, name)}
    pq.write_table(pa.table(table | columns), path / f"{name}.parquet")


def redescribe(path: Path, **facts) -> None:
    file = path / "experiment.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | facts))


def test_a_baseline_holds_what_is_compared_of_its_run(run, baseline):
    held, made_of = read_baseline(baseline), read_run(run)
    assert held.settings == made_of.settings
    assert held.facts["command"] == "python -m benchmarks.run --env hopper"
    assert held.facts["versions"]["jax"]
    for name in COLUMNS:
        assert tuple(held.tables[name]) == COLUMNS[name]
        for column, values in held.tables[name].items():
            np.testing.assert_array_equal(values, made_of.tables[name][column])
    assert set(held.tables["certificates"]["quantity"]) == {"D", "TV"}
    check_comparable(held, made_of)


def test_a_baseline_explains_itself(baseline):
    described = json.loads((baseline / "experiment.json").read_text())
    assert "python -m benchmarks.gate --baseline" in described["baseline"]["about"]
    assert {f.name for f in baseline.iterdir()} == {
        "experiment.json",
        "returns.parquet",
        "certificates.parquet",
    }


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.name)
def test_committed_baselines_are_whole_and_small(path):
    held = read_baseline(path)
    assert held.facts["command"].startswith("python -m benchmarks.run ")
    assert sum(file.stat().st_size for file in path.iterdir()) < 200_000


def test_a_baseline_is_written_in_place_of_another(run, baseline, tables, tmp_path):
    write_run(tmp_path / "lower", changed(tables, 0.5, attack="mad"))
    write_baseline(baseline, read_run(tmp_path / "lower"))
    held = read_baseline(baseline).tables["returns"]
    assert held["return"].mean() < read_run(run).tables["returns"]["return"].mean()


def test_a_folder_of_something_else_is_left_alone(run, tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("dear")
    for folder in ("letters", "letters/dear.txt", "run"):
        with pytest.raises(InputError, match=r"choose another folder|no JSON"):
            write_baseline(tmp_path / folder, read_run(run))
    assert [f.name for f in (tmp_path / "letters").iterdir()] == ["dear.txt"]
    assert "baseline" not in json.loads((run / "experiment.json").read_text())


# --- what cannot be read --------------------------------------------------------------------------


def test_a_run_is_no_baseline_and_a_baseline_no_run(run, baseline, tmp_path):
    with pytest.raises(InputError, match=r"is no baseline \(a run, perhaps\?\).*--update"):
        read_baseline(run)
    with pytest.raises(InputError, match="is a baseline: give it with --baseline"):
        read_run(baseline)
    for folder in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(InputError, match=r"is no baseline, it has no experiment\.json"):
            read_baseline(folder)
        with pytest.raises(InputError, match="is missing or no JSON"):
            read_run(folder)


def test_a_baseline_of_another_version_is_refused(baseline):
    redescribe(baseline, baseline={"version": 7})
    with pytest.raises(InputError, match="of version 7, and this program reads 1"):
        read_baseline(baseline)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_a_damaged_baseline_is_refused(baseline, damage):
    file = baseline / "returns.parquet"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content if damage == "flipped" else content[:100])
    if damage == "missing":
        file.unlink()
    with pytest.raises(InputError, match=r"returns.parquet is missing, or not what"):
        read_baseline(baseline)


@pytest.mark.parametrize(("name", "column"), [("returns", "return"), ("certificates", "value")])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_named(run, name, column, value):
    values = read_table(run, name)[column].copy()
    values[3] = value
    rewrite(run, name, **{column: values})
    with pytest.raises(
        InputError, match=rf"{name}.parquet holds 1 values .* {value} at env hopper"
    ):
        read_run(run)


def test_a_missing_column_is_named(run):
    table = pq.read_table(run / "returns.parquet")
    pq.write_table(table.drop_columns("attack"), run / "returns.parquet")
    with pytest.raises(InputError, match="lacks the column 'attack'"):
        read_run(run)


@pytest.mark.parametrize(
    ("gone", "problem"),
    [
        ({"sparsity": (GRID[2],)}, "it lacks sparsity 0.3"),
        ({"seed": (1,)}, "it holds 3 seeds, and the settings say 4"),
        ({"episode": (5, 6)}, "it holds 14 episodes, and the settings say 16"),
        (
            {"attack": ("mad",), "method": ("none",)},
            "not every curve has all of its 3 cases of victim, attack, eps",
        ),
        ({"attack": ("mad",), "episode": (3,)}, "rows are missing of env hopper, .* attack mad"),
    ],
)
def test_an_incomplete_run_is_refused(run, gone, problem):
    table = read_table(run, "returns")
    rows = ~np.all([np.isin(table[column], values) for column, values in gone.items()], axis=0)
    pq.write_table(
        pa.table({column: values[rows] for column, values in table.items()}),
        run / "returns.parquet",
    )
    with pytest.raises(InputError, match=f"returns.parquet is incomplete: {problem}"):
        read_run(run)


def test_rows_that_are_there_twice_are_refused(run):
    table = pq.read_table(run / "returns.parquet")
    pq.write_table(pa.concat_tables([table, table.slice(0, 1)]), run / "returns.parquet")
    with pytest.raises(InputError, match="rows are there twice"):
        read_run(run)


def test_a_table_of_another_experiment_is_refused(run, tables, tmp_path):
    write_run(tmp_path / "other", tables, ppo={"steps": 2000, "hyper": {"gamma": 0.99}})
    (tmp_path / "other" / "returns.parquet").replace(run / "returns.parquet")
    with pytest.raises(InputError, match=r"of another experiment.*ppo.*steps.* 2000"):
        read_run(run)


def test_a_run_without_settings_is_refused(run):
    redescribe(run, settings=None)
    with pytest.raises(InputError, match="holds no settings"):
        read_run(run)


# --- what cannot be compared ----------------------------------------------------------------------


def test_other_settings_are_named_with_both_values(baseline, tables, tmp_path):
    other = write_run(tmp_path / "other", tables, ppo={"steps": 2000, "hyper": {"gamma": 0.9}})
    with pytest.raises(InputError) as error:
        check_comparable(read_baseline(baseline), read_run(other))
    assert "ppo.steps is 1000 there and 2000 here" in str(error.value)
    assert "ppo.hyper.gamma is 0.99 there and 0.9 here" in str(error.value)
    assert "python -m benchmarks.run --env hopper" in str(error.value)


def test_settings_that_cannot_matter_are_ignored(tables, tmp_path):
    files = (
        write_run(tmp_path / name, tables, policy=f"{name}.npz", policy_sha256="ab", lanes=lanes)
        for name, lanes in (("one", 4), ("two", None))
    )
    check_comparable(*(read_run(path) for path in files))


def test_another_policy_file_is_another_setting(tables, tmp_path):
    files = [
        write_run(tmp_path / name, tables, policy="p.npz", policy_sha256=name)
        for name in ("one", "two")
    ]
    with pytest.raises(InputError, match="policy_sha256 is one there and two here"):
        check_comparable(*(read_run(path) for path in files))


@pytest.mark.parametrize(
    ("column", "old", "new", "problem"),
    [
        ("env", "hopper", "walker2d", "it lacks env hopper"),
        ("eps", 0.1, 0.2, "it lacks eps 0.1"),
        ("attack", "mad", "rs", "it lacks attack mad"),
        ("victim", "deterministic", "stochastic", "it lacks victim deterministic"),
        ("sparsity", GRID[3], 0.5, "it lacks sparsity 0.45"),
        ("method", "magnitude", "lamp", "it lacks method magnitude"),
    ],
)
def test_other_cells_are_refused(baseline, run, column, old, new, problem):
    held = read_run(run)
    other = {
        name: {c: np.where(v == old, new, v) if c == column else v for c, v in table.items()}
        for name, table in held.tables.items()
    }
    with pytest.raises(InputError, match=f"cannot be compared .*{problem}"):
        check_comparable(read_baseline(baseline), held._replace(tables=other))


def test_differences_are_found_at_every_depth():
    one = {"a": 1, "b": {"c": [1, 2], "d": {"e": None}}, "f": 2, "not given": None}
    other = {"a": 1, "b": {"c": [1, 3], "d": {"e": 0}}, "g": 2}
    assert list(differences(one, other)) == [
        ("b.c", [1, 2], [1, 3]),
        ("b.d.e", None, 0),
        ("f", 2, "absent"),
        ("g", "absent", 2),
    ]
    assert list(differences(one, one)) == []
