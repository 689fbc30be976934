"""Result folders: tables that explain themselves, each file whole or absent."""

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import jaxprune
from benchmarks.whole import sweep, write_whole
from jaxprune.families import MESSAGE, InputError, shown

# What a cell is: one agent with one mask.
CELL = [
    ("env", pa.string()),
    ("backend", pa.string()),
    ("seed", pa.int32()),
    ("regime", pa.string()),
    ("method", pa.string()),
    ("allocation", pa.string()),
    ("mode", pa.string()),
    ("sparsity", pa.float64()),
    ("sparsity_achieved", pa.float64()),
    ("nested", pa.bool_()),
]
RETURNS = pa.schema(
    [
        *CELL,
        ("victim", pa.string()),
        ("attack", pa.string()),
        ("eps", pa.float64()),
        ("episode", pa.int32()),
        ("return", pa.float64()),
        ("return_discounted", pa.float64()),
        ("length", pa.int32()),
        ("terminated", pa.bool_()),
        ("diverged", pa.bool_()),
        ("distance", pa.float64()),
    ]
)
CERTIFICATES = pa.schema(
    [
        *CELL,
        ("bound", pa.string()),
        ("monotone", pa.bool_()),
        ("scope", pa.string()),
        ("eps", pa.float64()),
        ("quantity", pa.string()),
        ("value", pa.float64()),
        ("unit", pa.string()),
        ("confidence", pa.float64()),
        ("note", pa.string()),
    ]
)
TRAINING = pa.schema(
    [
        ("env", pa.string()),
        ("backend", pa.string()),
        ("seed", pa.int32()),
        ("regime", pa.string()),
        ("method", pa.string()),
        ("allocation", pa.string()),
        ("mode", pa.string()),
        ("sparsity", pa.float64()),
        ("iteration", pa.int32()),
        ("env_steps", pa.int64()),
        ("episode_return", pa.float64()),
        ("episodes", pa.int32()),
        ("diverged", pa.int32()),
        ("policy_loss", pa.float64()),
        ("value_loss", pa.float64()),
        ("entropy", pa.float64()),
        ("kl", pa.float64()),
        ("robust", pa.float64()),
        ("sparsity_now", pa.float64()),
    ]
)
SPARSITY = pa.schema(
    [
        *CELL,
        ("layer", pa.string()),
        ("size", pa.int32()),
        ("kept", pa.int32()),
        ("layer_sparsity", pa.float64()),
        ("at_floor", pa.bool_()),
        ("condition", pa.float64()),
        ("dead", pa.int32()),
        ("constant", pa.int32()),
        ("disconnected_obs", pa.int32()),
        ("disconnected_outputs", pa.int32()),
        ("compact", pa.int32()),
    ]
)
ATTACKS = pa.schema(
    [
        *CELL,
        ("victim", pa.string()),
        ("attack", pa.string()),
        ("eps", pa.float64()),
        ("members", pa.int32()),
        ("member", pa.int32()),
        ("warm_start", pa.bool_()),
        ("chosen_return", pa.float64()),
        ("queries", pa.int64()),
        ("gradients", pa.int64()),
        ("simulated", pa.int64()),
        ("env_steps", pa.int64()),
    ]
)
# The only table that a repetition does not repeat.
SECONDS = pa.schema(
    [
        ("victim", pa.string()),
        ("attack", pa.string()),
        ("eps", pa.float64()),
        ("prepare", pa.float64()),
        ("choose", pa.float64()),
        ("play", pa.float64()),
    ]
)
CELLS = pa.schema(
    [
        *CELL,
        ("agent", pa.int32()),  # row of the policies in `agents`
        ("curve", pa.string()),  # name of its masks there
        ("index", pa.int32()),  # row of these masks
    ]
)
DIAGNOSIS = pa.schema(
    [*CELL, ("eps", pa.float64()), ("quantity", pa.string()), ("value", pa.float64())]
)
SCHEMAS = {
    "returns": RETURNS,
    "certificates": CERTIFICATES,
    "training": TRAINING,
    "attacks": ATTACKS,
    "diagnosis": DIAGNOSIS,
    "sparsity": SPARSITY,
    "seconds": SECONDS,
    "cells": CELLS,
}


# The folder of the shards of a run, inside of it.
SHARDS = "shards"


class RunFolder:
    """The folder of one experiment.

    Args:
        path: created if missing.
        settings: JSON values that identify the experiment.

    Raises:
        InputError: the folder holds another experiment, or files that are none.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]):
        self.path = path
        self.settings = dict(settings)
        described = path / "experiment.json"
        if described.exists():
            held = read_json(described).get("settings", {})
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

    def begin(self, facts: Mapping[str, Any]) -> None:
        """Create the folder and describe what is going to be in it.

        Raises:
            InputError: nothing can be written there.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            sweep(self.path)
            self.describe(facts)
        except OSError as error:
            raise InputError(
                f"{self.path} cannot be written ({error.strerror}): choose another --out, or make "
                "it writable"
            ) from None

    def describe(self, facts: Mapping[str, Any]) -> None:
        """Write experiment.json: the settings, where they ran, and `facts`."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.write_json("experiment.json", {"settings": self.settings, **provenance(), **facts})

    def identity(self) -> dict[str, Any]:
        """What determines the tables: settings, code and versions."""
        told = provenance()
        return {"settings": self.settings, "code": told["code"], "versions": told["versions"]}

    def is_complete(self) -> bool:
        """Whether a finished run of the same code and settings left all its tables, undamaged."""
        try:
            held = read_json(self.path / "experiment.json")
        except InputError:
            return False
        same = {name: held.get(name) for name in ("settings", "code", "versions")}
        files = held.get("files")
        if same != self.identity() or not files:
            return False
        return all(checksum(self.path / name) == known for name, known in files.items())

    def write_json(self, name: str, value: Any) -> None:
        """A JSON file; NaN is written as null."""
        text = json.dumps(_without_nan(value), indent=1, allow_nan=False)
        self.write_text(name, text + "\n")

    def write_text(self, name: str, text: str) -> None:
        """A text file."""
        write_whole(self.path / name, lambda partial: partial.write_text(text, encoding="utf-8"))

    def write_table(self, name: str, columns: Mapping[str, Sequence[Any] | np.ndarray]) -> None:
        """A Parquet table with the schema `SCHEMAS[name]`; the settings travel in its metadata."""
        schema = SCHEMAS[name].with_metadata({"settings": json.dumps(self.settings)})
        table = pa.table({field.name: columns[field.name] for field in schema}, schema=schema)
        write_whole(self.path / f"{name}.parquet", lambda partial: pq.write_table(table, partial))


def read_json(path: Path) -> dict[str, Any]:
    """Raises `InputError` if the file is missing or no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError(f"{path} is missing or no JSON: give the folder of a run") from None


def read_table(path: Path, name: str) -> dict[str, np.ndarray]:
    """The columns of a table of a run folder.

    Raises:
        InputError: the table is missing, damaged or of another version.
    """
    file = path / f"{name}.parquet"
    try:
        held = _with_victim(pq.read_table(file))
        absent = set(SCHEMAS[name].names) - set(held.column_names)
        if absent:
            raise InputError(
                f"{file} lacks the column {min(absent)!r}: another version wrote it; run the "
                "command in experiment.json again"
            )
        table = held.select(SCHEMAS[name].names)
    except (OSError, pa.ArrowInvalid):
        raise InputError(
            f"{file} is missing or damaged: give the folder of a complete run"
        ) from None
    return {column: values_of(table[column]) for column in table.column_names}


def values_of(column: pa.ChunkedArray) -> np.ndarray:
    """Returns the values of a column, with names and other text made harmless, see `shown`."""
    values = column.to_numpy()
    if not pa.types.is_string(column.type):
        return values
    told = {text: shown(text, MESSAGE) for text in column.unique().to_pylist() if text is not None}
    if all(text == harmless for text, harmless in told.items()):
        return values
    return np.array([told.get(text) for text in values], object)


def _with_victim(table: pa.Table) -> pa.Table:
    """A table of an older version has one victim, which the settings that travel with it name."""
    settings = json.loads((table.schema.metadata or {}).get(b"settings", b"{}"))
    victim = settings.get("victim")
    if "victim" in table.column_names or not isinstance(victim, str):
        return table
    return table.append_column("victim", pa.array([victim] * len(table), pa.string()))


def checksum(file: Path) -> str | None:
    """SHA-256 of a file; None if it is missing."""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return None


@cache
def code_digest() -> str:
    """SHA-256 of the sources of the library and the programs."""
    found = hashlib.sha256()
    for package in (Path(jaxprune.__file__).parent, Path(__file__).parent):
        for file in sorted(package.rglob("*.py")):
            found.update(file.relative_to(package.parent).as_posix().encode())
            found.update(file.read_bytes())
    return found.hexdigest()


def provenance() -> dict[str, Any]:
    """Versions, machine and revision."""
    packages = ("jaxprune", "jax", "jaxlib", "flax", "optax", "brax", "mujoco", "mujoco-mjx")
    devices = jax.local_devices()
    return {
        "versions": {name: metadata.version(name) for name in packages},
        "python": platform.python_version(),
        "device": f"{len(devices)} x {devices[0].device_kind}",
        "cores": os.cpu_count(),
        "code": code_digest(),
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
    """Whether a path is a folder with nothing in it but the shards of a run."""
    return path.is_dir() and all(entry.name == SHARDS for entry in path.iterdir())


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    return value
