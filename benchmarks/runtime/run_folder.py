"""Result folders: tables that explain themselves, each file whole or absent."""

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.runtime.atomic import sweep, write_text, write_whole
from benchmarks.runtime.identity import differences, identity
from benchmarks.runtime.lock import LOCK, hold
from benchmarks.runtime.schemas import SCHEMAS
from jaxprune.policy_io.addresses import contents, files_below, is_address
from jaxprune.policy_io.runs import read_arrow
from jaxprune.validation import MESSAGE, InputError, shown

# An object of a JSON file.
Json: TypeAlias = dict[str, Any]
# The folder of the shards of a run, inside of it.
SHARDS = "shards"
# The folder of the finished pieces of a run or shard, inside of it.
CHUNKS = "chunks"
# What experiment.json holds of what determines the tables.
IDENTITY = ("settings", "code", "versions", "members", "switches", "device")
# Why a new folder is not complete.
EMPTY = "empty"


class RunFolder:
    """The folder of one experiment.

    Args:
        path: created if missing.
        settings: JSON values that identify the experiment.

    Raises:
        InputError: the folder holds another experiment, or files that are none.
    """

    def __init__(self, path: Path, settings: Mapping[str, object]):
        self.path = path
        self.settings: Json = dict(settings)
        described = path / "experiment.json"
        if described.exists():
            held = read_json(described).get("settings") or {}
            if held != self.settings:
                differing = sorted(
                    k for k in held.keys() | settings.keys() if held.get(k) != settings.get(k)
                )
                raise InputError(
                    f"folder {path} holds another experiment (it differs in "
                    f"{', '.join(differing)}): choose another --out, or leave it out"
                )
        elif path.exists() and not _empty(path):
            raise InputError(
                f"{path} exists and holds no experiment: choose another --out, or leave it out"
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps the folder for this process, and removes what a killed one left half written.

        Raises:
            InputError: another process writes here, or nothing can be written.
        """
        try:
            if not is_address(self.path):
                self.path.mkdir(parents=True, exist_ok=True)
            lock = hold(self.path)
        except OSError as error:
            raise InputError(_unwritable(self.path, error)) from None
        with lock:
            sweep(self.path)
            yield

    def begin(self, facts: Mapping[str, object]) -> None:
        """Describe what is going to be in the folder.

        Raises:
            InputError: nothing can be written there.
        """
        try:
            self.describe(facts)
        except OSError as error:
            raise InputError(_unwritable(self.path, error)) from None

    def describe(self, facts: Mapping[str, object]) -> None:
        """Write experiment.json: the settings, where they ran, and `facts`."""
        self.write_json("experiment.json", {**provenance(), **self.identity, **facts})

    @cached_property
    def identity(self) -> Json:
        """Returns what determines the tables: the settings, and what `runtime.identity` names."""
        return {"settings": self.settings, **identity()}

    def missing(self) -> list[str]:
        """Returns why the folder is not complete, in words.

        Empty for a finished run of the same identity with all its tables and agents undamaged.
        """
        try:
            held = read_json(self.path / "experiment.json")
        except InputError:
            return [EMPTY]
        different = [f"another {part}" for part in differences(self.identity, held)]
        files = held.get("files")
        if different or not files:
            return different or ["unfinished"]
        damaged = [name for name, known in files.items() if checksum(self.path / name) != known]
        return [f"{name} is missing or damaged" for name in damaged]

    def write_json(self, name: str, value: object) -> None:
        """A JSON file; NaN is written as null."""
        text = json.dumps(_without_nan(value), indent=1, allow_nan=False)
        self.write_text(name, text + "\n")

    def write_text(self, name: str, text: str) -> None:
        """A text file."""
        write_text(self.path / name, text)

    def write_table(self, name: str, columns: Mapping[str, Sequence[object] | np.ndarray]) -> None:
        """A Parquet table with the schema `SCHEMAS[name]`; the settings travel in its metadata."""
        schema = SCHEMAS[name].with_metadata({"settings": json.dumps(self.settings)})
        table = pa.table({field.name: columns[field.name] for field in schema}, schema=schema)
        write_whole(self.path / f"{name}.parquet", lambda partial: pq.write_table(table, partial))


def read_json(path: Path) -> Json:
    """Returns what `experiment.json` holds.

    Raises:
        InputError: the file is missing, no JSON, or no description of a run.
    """
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise InputError(f"{path} is missing or no JSON: give the folder of a run") from None
    kinds = {"settings": dict, "files": dict, "shard": str, "command": str}
    if not isinstance(held, dict) or not all(
        held.get(name) is None or isinstance(held[name], kind) for name, kind in kinds.items()
    ):
        raise InputError(f"{path} does not describe a run: give the folder of one")
    return held


def read_table(path: Path, name: str) -> dict[str, np.ndarray]:
    """The columns of a table of a run folder.

    Raises:
        InputError: the table is missing, damaged or of another version.
    """
    file, schema = path / f"{name}.parquet", SCHEMAS[name]
    try:
        held = read_arrow(path, name)
        absent = set(schema.names) - set(held.column_names)
        if absent:
            raise InputError(
                f"{file} lacks the column {min(absent)!r}: another version wrote it; run the "
                "command in experiment.json again"
            )
        columns = {field.name: _column(held, field, file) for field in schema}
        return {column: values_of(values) for column, values in columns.items()}
    except (OSError, ValueError, pa.ArrowException) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{file} is missing or damaged: give the folder of a complete run"
        ) from None


def _column(table: pa.Table, field: pa.Field, file: Path) -> pa.ChunkedArray:
    """Returns a column in the type that it was written in.

    Raises:
        InputError: it is of another kind, or has empty entries.
    """
    column = table[field.name]
    alike = column.type == field.type or any(
        of_kind(column.type) and of_kind(field.type)
        for of_kind in (pa.types.is_integer, pa.types.is_floating)
    )
    if not alike or column.null_count:
        raise InputError(
            f"{file} is damaged: its column {field.name!r} holds {column.type} with "
            f"{column.null_count} empty entries, and {field.type} is written; run the command in "
            "experiment.json again"
        )
    return column.cast(field.type)


def values_of(column: pa.ChunkedArray) -> np.ndarray:
    """Returns the values of a column without empty entries.

    Names and other text are made harmless, see `shown`, and equal ones are one object.
    """
    if not pa.types.is_string(column.type):
        return column.to_numpy()
    coded = column.combine_chunks().dictionary_encode()
    words = [shown(text, MESSAGE) for text in coded.dictionary.to_pylist()]
    return np.array(words, object)[coded.indices.to_numpy()]


def checksum(path: Path) -> str | None:
    """Returns the SHA-256 of a file, or of all files of a folder; None if it is missing."""
    try:
        if not path.is_dir():
            return hashlib.sha256(contents(path)).hexdigest()
        found = hashlib.sha256()
        for file in files_below(path):
            found.update(f"{file.relative_to(path).as_posix()} {checksum(file)}\n".encode())
        return found.hexdigest()
    except OSError:
        return None


def check_finished(path: Path, described: Json, ending: str = "") -> None:
    """Checks that a run or a shard is finished, and that its files are those that it wrote.

    Args:
        path: its folder.
        described: its experiment.json.
        ending: of the names of the files that are looked at; empty for all.

    Raises:
        InputError: it is not, with the command that goes on.
    """
    again = f"start its command again, it goes on where it was: {described.get('command')}"
    if not described.get("files"):
        raise InputError(f"{path} is not finished: {again}")
    for name, known in described["files"].items():
        if name.endswith(ending) and checksum(path / name) != known:
            raise InputError(f"{path / name} is missing or damaged: {again}")


def provenance() -> dict[str, object]:
    """Returns versions, machine and revision."""
    return {
        **identity(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "git": _git_revision(),
    }


def _git_revision() -> str | None:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    where = Path(__file__).parent
    try:
        result = subprocess.run(command, cwd=where, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return result.stdout.strip() or None


def _empty(path: Path) -> bool:
    """Whether a path is a folder with nothing in it but the shards of a run, or its lock."""
    return path.is_dir() and all(entry.name in (SHARDS, LOCK) for entry in path.iterdir())


def _unwritable(path: Path, error: OSError) -> str:
    return f"{path} cannot be written ({error.strerror}): choose another --out, or make it writable"


def _without_nan(value: object) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    return value
