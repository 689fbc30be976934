"""Baselines: what a run is compared with, small enough to be committed.

A baseline is a folder with

- `experiment.json`: that it is one, of which version, made by which command from which settings,
  and the checksums of the tables;
- `returns.parquet` and `certificates.parquet`: those of the run, less the columns that no
  comparison needs.
"""

import json
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.analysis.bounds import ATTACK_ROWS
from benchmarks.analysis.curves import Columns, collect, labelled, victims
from benchmarks.experiment.config import Experiment
from benchmarks.gate.pairing import QUANTITIES, Recorded
from benchmarks.runtime.atomic import write_text, write_whole
from benchmarks.runtime.run_folder import (
    Json,
    check_finished,
    checksum,
    read_json,
    read_table,
    values_of,
)
from jaxprune.policy_io.addresses import in_memory
from jaxprune.policy_io.labels import PARTS, Labels
from jaxprune.validation import InputError

VERSION = 1
ABOUT = "A baseline: `python -m benchmarks.gate --baseline THIS_FOLDER RUN` compares a run with it."
# What names a curve; its cases, of one line each; what tells the rows of a line apart; what they
# hold; and what else is kept of them.
CURVE = ("env", "backend", *PARTS)
CASE = {"returns": ("victim", "attack", "eps"), "certificates": ("bound", "quantity", "eps")}
AXES = {"returns": ("sparsity", "seed", "episode"), "certificates": ("sparsity", "seed")}
VALUE = {"returns": "return", "certificates": "value"}
KEPT = {
    "returns": ("nested",),
    "certificates": ("monotone", "scope", "unit", "confidence"),
}
IDENTITY = {name: (*CURVE, *CASE[name], *AXES[name]) for name in VALUE}
COLUMNS = {name: (*IDENTITY[name], *KEPT[name], VALUE[name]) for name in VALUE}
# Facts of a run that its baseline keeps.
FACTS = ("command", "versions", "python", "device", "cores", "git")


class Run(NamedTuple):
    """What is compared of one run."""

    path: Path
    settings: Json
    facts: Json
    tables: dict[str, Columns]  # "returns" and "certificates"

    def recorded(self) -> Recorded:
        """Its curves."""
        labels = Labels(self.tables["returns"])
        unused = np.full(len(self.tables["returns"]["return"]), np.nan)
        returns = self.tables["returns"] | {"return_discounted": unused, "distance": unused}
        certificates = labelled(self.tables["certificates"], labels)
        first, *others = (collect(returns, name) for name in victims(returns))
        return Recorded(first, certificates, tuple(others))


# --- reading --------------------------------------------------------------------------------------


def read_run(path: Path) -> Run:
    """A complete run.

    Raises:
        InputError: missing, damaged or incomplete, of another version, or with values that are no
            numbers.
    """
    described = read_json(path / "experiment.json")
    if "baseline" in described:
        raise InputError(f"{path} is a baseline: give it with --baseline, and a run beside it")
    _check_finished(path, described)
    settings = _settings(path, described)
    tables = {}
    for name, kept in COLUMNS.items():
        table = read_table(path, name)
        schema = pq.read_schema(in_memory(path / f"{name}.parquet"))
        held = (schema.metadata or {}).get(b"settings")
        if held is not None and json.loads(held) != settings:
            setting, ours, theirs = next(differences(settings, json.loads(held)))
            raise InputError(
                f"{path}/{name}.parquet is of another experiment than experiment.json beside it: "
                f"{setting} is {theirs} there and {ours} here; run the command again"
            )
        tables[name] = _trimmed(name, {column: table[column] for column in kept})
    return _checked(Run(path, settings, _facts(described), tables))


def read_baseline(path: Path) -> Run:
    """A baseline.

    Raises:
        InputError: none, of another version, or damaged.
    """
    remedy = "write one with `python -m benchmarks.gate --update --baseline FOLDER RUN`"
    if not (path / "experiment.json").is_file():
        raise InputError(f"{path} is no baseline, it has no experiment.json: {remedy}")
    described = read_json(path / "experiment.json")
    if not isinstance(described.get("baseline"), dict):
        raise InputError(f"{path} is no baseline (a run, perhaps?): {remedy}")
    version = described["baseline"].get("version")
    if version != VERSION:
        raise InputError(
            f"{path} is a baseline of version {version}, and this program reads {VERSION}: {remedy}"
        )
    sums = described["baseline"].get("sha256", {})
    tables = {name: _read_checked(path / f"{name}.parquet", name, sums) for name in COLUMNS}
    return _checked(Run(path, _settings(path, described), _facts(described), tables))


def _check_finished(path: Path, described: Json) -> None:
    """Raises `InputError` for a run that was stopped, a shard, or a table with a wrong bit."""
    shard = described.get("shard", "0/1")
    if shard != "0/1":
        raise InputError(f"{path} is shard {shard} of a run: unite it first (benchmarks.merge)")
    if "shard" in described:
        check_finished(path, described, ".parquet")


def _settings(path: Path, described: Json) -> Json:
    settings = described.get("settings")
    if not isinstance(settings, dict):
        raise InputError(f"{path}/experiment.json holds no settings: give the folder of a run")
    return settings


def _facts(described: Json) -> Json:
    return {name: described[name] for name in FACTS if name in described}


def _read_checked(file: Path, name: str, sums: Mapping[str, str]) -> Columns:
    remedy = "restore the folder, or write it again with --update"
    if checksum(file) != sums.get(file.name, ""):
        raise InputError(f"{file} is missing, or not what its baseline was written with: {remedy}")
    table = pq.read_table(in_memory(file))
    absent = [column for column in COLUMNS[name] if column not in table.column_names]
    if absent:
        raise InputError(f"{file} lacks the column {absent[0]!r}: {remedy}")
    return {column: values_of(table[column]) for column in COLUMNS[name]}


def _trimmed(name: str, table: Columns) -> Columns:
    """The rows that are compared: of certificates, bounds on how far the policy moves."""
    if name == "returns":
        return table
    kept = np.isin(table["quantity"].astype(str), QUANTITIES)
    kept &= table["bound"].astype(str) != ATTACK_ROWS
    return {column: values[kept] for column, values in table.items()}


def _checked(run: Run) -> Run:
    """Raises `InputError` for values that are no numbers, and for rows that are missing."""
    for name, table in run.tables.items():
        value, columns = table[VALUE[name]], IDENTITY[name]
        broken = np.flatnonzero(~np.isfinite(value))
        if len(broken):
            where = ", ".join(f"{column} {table[column][broken[0]]}" for column in columns)
            raise InputError(
                f"{run.path}/{name}.parquet holds {len(broken)} values that are no numbers, the "
                f"first is {value[broken[0]]} at {where}: find out why before comparing"
            )
        problem = next(_gaps(run.settings, name, table), None)
        if problem is not None:
            raise InputError(
                f"{run.path}/{name}.parquet is incomplete: {problem}; run its command again"
            )
    return run


def _gaps(settings: Json, name: str, table: Columns) -> Iterator[str]:
    """What a table lacks: by the settings, and of lines that have every row once."""
    sizes = {"seed": settings.get("seeds", 0), "episode": settings.get("episodes", 0)}
    for column in AXES[name][1:]:
        held = len(np.unique(table[column]))
        if held != sizes[column]:
            yield f"it holds {held} {column}s, and the settings say {sizes[column]}"
    for sparsity in settings.get("sparsity_grid", ()):
        if sparsity not in table["sparsity"]:
            yield f"it lacks sparsity {sparsity:g}"
    rows = pa.table({column: table[column] for column in IDENTITY[name]})
    if rows.group_by(rows.column_names).aggregate([]).num_rows < rows.num_rows:
        yield "rows are there twice"
    lines = rows.group_by([*CURVE, *CASE[name]])
    counted = lines.aggregate([("sparsity", "count_distinct"), ([], "count_all")]).to_pylist()
    others = prod(sizes[column] for column in AXES[name][1:])
    cases = len({tuple(line[column] for column in CASE[name]) for line in counted})
    curves = len({tuple(line[column] for column in CURVE) for line in counted})
    for line in counted:
        if line["count_all"] != line["sparsity_count_distinct"] * others:
            yield f"rows are missing of {_named(line, name)}"
    if len(counted) != cases * curves:
        yield f"not every curve has all of its {cases} cases of {', '.join(CASE[name])}"


def _named(line: Json, name: str) -> str:
    return ", ".join(f"{column} {line[column]}" for column in (*CURVE, *CASE[name]))


# --- comparing ------------------------------------------------------------------------------------


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Settings that differ, by dotted name, with both values ("absent" where there is none).

    One that is None was not given: it says as little as one that an older version did not know.
    """
    for name in sorted(one.keys() | other.keys()):
        ours, theirs = one.get(name, "absent"), other.get(name, "absent")
        if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
            for inner, *values in differences(ours, theirs):
                yield (f"{name}.{inner}", *values)
        elif one.get(name) != other.get(name):
            yield name, ours, theirs


def check_comparable(baseline: Run, run: Run) -> None:
    """Raises `InputError` unless both have the same settings and the same cells."""
    found = list(differences(*map(Experiment.material, (baseline.settings, run.settings))))
    if found:
        named = "; ".join(
            f"{name} is {ours} there and {theirs} here" for name, ours, theirs in found
        )
        raise InputError(
            f"{run.path} has other settings than baseline {baseline.path}: {named}. Run the "
            f"baseline's command ({baseline.facts.get('command')}), or write a new baseline with "
            "--update"
        )
    for name in COLUMNS:
        problem = next(_unlike(name, baseline.tables[name], run.tables[name]), None)
        if problem is not None:
            raise InputError(
                f"{run.path}/{name}.parquet cannot be compared with baseline {baseline.path}: "
                f"{problem}; run the baseline's command again, or write a new one with --update"
            )


def _unlike(name: str, ours: Columns, theirs: Columns) -> Iterator[str]:
    """What one of two tables has and the other has not."""
    columns = IDENTITY[name]
    for column in columns:
        one, other = (set(table[column].tolist()) for table in (ours, theirs))
        for value in sorted(one - other):
            yield f"it lacks {column} {value}"
        for value in sorted(other - one):
            yield f"it has {column} {value}, which the baseline lacks"
    one, other = (set(zip(*(t[c].tolist() for c in columns), strict=True)) for t in (ours, theirs))
    for cell in sorted(one ^ other):
        holder = "the baseline" if cell in one else "the run"
        where = ", ".join(f"{column} {value}" for column, value in zip(columns, cell, strict=True))
        yield f"only {holder} has {where}"


# --- writing --------------------------------------------------------------------------------------


def write_baseline(path: Path, run: Run) -> None:
    """Make a baseline of a run, in place of the one that is there.

    Raises:
        InputError: the folder holds something else.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        held = read_json(path / "experiment.json") if path.is_dir() else {}
        if "baseline" not in held:
            raise InputError(f"{path} holds something that is no baseline: choose another folder")
    sums = {}
    for name, columns in run.tables.items():
        file = path / f"{name}.parquet"
        write_whole(file, lambda to, c=columns: pq.write_table(pa.table(c), to, compression="zstd"))
        sums[file.name] = checksum(file)
    described = {
        "baseline": {"version": VERSION, "about": ABOUT, "sha256": sums},
        "settings": run.settings,
        **run.facts,
    }
    text = json.dumps(described, indent=1) + "\n"
    # Last: tables without their sums are recognised as damaged.
    write_text(path / "experiment.json", text)
