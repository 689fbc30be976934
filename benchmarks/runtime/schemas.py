"""The columns of every table of a run, with what they mean as Arrow metadata.

python -m benchmarks.runtime.schemas > benchmarks/TABLES.md
"""

from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa

TEXT, FLAG, COUNT, LARGE, REAL = pa.string(), pa.bool_(), pa.int32(), pa.int64(), pa.float64()


class Column(NamedTuple):
    """Describes what a column holds in every table that has it."""

    kind: pa.DataType
    about: str
    unit: str = ""  # "1" of a share or a ratio


COLUMNS = {
    "env": Column(TEXT, "task"),
    "backend": Column(TEXT, "simulator behind the task"),
    "seed": Column(COUNT, "seed of the agent"),
    "regime": Column(TEXT, "how the agent was trained; `file` for a loaded policy"),
    "method": Column(TEXT, "pruning method or control; `none` for an unpruned agent"),
    "allocation": Column(TEXT, "how the layers share the removed weights"),
    "mode": Column(TEXT, "`dense`, `after` training, `endpoint` or `trajectory`"),
    "sparsity": Column(REAL, "share of the prunable weights that was to be removed", "1"),
    "sparsity_achieved": Column(REAL, "share that was removed", "1"),
    "nested": Column(FLAG, "whether the masks of the curve are nested, of the same weights"),
    "victim": Column(TEXT, "how the policy acts: `deterministic` or `stochastic`"),
    "attack": Column(TEXT, "adversary; `none` for the clean run"),
    "eps": Column(REAL, "radius of the l_inf ball", "normalised observations"),
    "episode": Column(COUNT, "number of the episode; equal ones start alike"),
    "return": Column(REAL, "sum of rewards", "reward"),
    "return_discounted": Column(REAL, "discounted sum of rewards", "reward"),
    "length": Column(COUNT, "length of the episode", "steps"),
    "terminated": Column(FLAG, "whether the task ended the episode, not the horizon"),
    "diverged": Column(FLAG, "whether, or how often, the simulator left the finite numbers"),
    "distance": Column(
        REAL, "the largest D that the adversary reached", "sd of the action, or logits"
    ),
    "bound": Column(TEXT, "bound; `attack` for what an attack reached at the visited states"),
    "monotone": Column(FLAG, "whether removing weights can never raise it"),
    "scope": Column(TEXT, "`global` (every state) or `local` (visited states)"),
    "quantity": Column(TEXT, "what is bounded or measured: D, TV, return_floor, ..."),
    "value": Column(REAL, "its value", "that of the row"),
    "unit": Column(TEXT, "unit of the value"),
    "confidence": Column(REAL, "of the statement; 1 where it is proved, NaN for an estimate", "1"),
    "note": Column(TEXT, "what else is to be known"),
    "iteration": Column(COUNT, "iteration of PPO"),
    "env_steps": Column(LARGE, "steps of the simulator", "steps"),
    "episode_return": Column(REAL, "mean return of the episodes that ended", "reward"),
    "episodes": Column(COUNT, "episodes that ended"),
    "policy_loss": Column(REAL, "loss of the policy"),
    "value_loss": Column(REAL, "loss of the critic"),
    "entropy": Column(REAL, "entropy of the action distribution", "nats"),
    "kl": Column(REAL, "KL divergence of the old from the new policy", "nats"),
    "robust": Column(REAL, "the robust regulariser"),
    "sparsity_now": Column(REAL, "sparsity of the masks in this iteration", "1"),
    "layer": Column(TEXT, "kernel, network (`actor`, `critic`), or `all`"),
    "size": Column(COUNT, "entries", "weights"),
    "kept": Column(COUNT, "entries that stay", "weights"),
    "layer_sparsity": Column(REAL, "share that was removed", "1"),
    "at_floor": Column(FLAG, "whether the layer is at its smallest number of weights"),
    "condition": Column(REAL, "condition number of the masked kernel", "1"),
    "dead": Column(COUNT, "units without a path to an output or from an input", "units"),
    "constant": Column(COUNT, "units whose input is constant", "units"),
    "disconnected_obs": Column(COUNT, "observations that reach no output", "observations"),
    "disconnected_outputs": Column(COUNT, "outputs that no observation reaches", "outputs"),
    "compact": Column(COUNT, "parameters without the units that do nothing", "weights"),
    "bytes_dense": Column(LARGE, "as float32", "bytes"),
    "bytes_rows": Column(LARGE, "as compressed rows of float32", "bytes"),
    "bytes_compact": Column(LARGE, "as float32 without the units that do nothing", "bytes"),
    "bytes_int8": Column(LARGE, "as 8-bit integers with a scale per output", "bytes"),
    "bytes_int8_rows": Column(LARGE, "as compressed rows of 8-bit integers", "bytes"),
    "members": Column(COUNT, "adversaries that were prepared"),
    "member": Column(COUNT, "the one that was used"),
    "warm_start": Column(FLAG, "whether the preparation started from the sparsity below"),
    "chosen_return": Column(REAL, "mean return that the member was chosen by", "reward"),
    "queries": Column(LARGE, "forward passes per attacked step"),
    "gradients": Column(LARGE, "gradients per attacked step"),
    "simulated": Column(LARGE, "steps of the simulator per attacked step", "steps"),
    "prepare": Column(REAL, "time to prepare the adversary", "s"),
    "choose": Column(REAL, "time to choose its member", "s"),
    "play": Column(REAL, "time of the episodes", "s"),
    "agent": Column(COUNT, "row of the policy in `agents/`"),
    "curve": Column(TEXT, "name of the masks there"),
    "index": Column(COUNT, "row of these masks"),
}
# What a table counts that another one flags.
COUNTED = {("training", "diverged")}


class Table(NamedTuple):
    """A table of a run."""

    about: str
    columns: str  # names


AGENT = "env backend seed regime method allocation mode sparsity"
CELL = f"{AGENT} sparsity_achieved nested"  # one agent with one mask
CASE = "victim attack eps"
TABLES = {
    "returns": Table(
        "One row per episode.",
        f"{CELL} {CASE} episode return return_discounted length terminated diverged distance",
    ),
    "certificates": Table(
        "One row per cell, bound, radius and quantity.",
        f"{CELL} bound monotone scope eps quantity value unit confidence note",
    ),
    "training": Table(
        "One row per agent and iteration.",
        f"{AGENT} iteration env_steps episode_return episodes diverged policy_loss value_loss "
        "entropy kl robust sparsity_now",
    ),
    "attacks": Table(
        "One row per cell, attack, radius and victim: what the attack spent.",
        f"{CELL} {CASE} members member warm_start chosen_return queries gradients simulated "
        "env_steps",
    ),
    "diagnosis": Table(
        "One row per cell, radius and quantity: what attacks reach at visited states.",
        f"{CELL} eps quantity value",
    ),
    "sparsity": Table(
        "One row per cell and layer: what the masks leave.",
        f"{CELL} layer size kept layer_sparsity at_floor condition dead constant disconnected_obs "
        "disconnected_outputs compact bytes_dense bytes_rows bytes_compact bytes_int8 "
        "bytes_int8_rows",
    ),
    "seconds": Table(
        "One row per attack, radius and victim; differs between repetitions.",
        f"{CASE} prepare choose play",
    ),
    "cells": Table(
        "One row per cell: where its policy and its masks are in `agents/`.",
        f"{CELL} agent curve index",
    ),
}


def _field(table: str, name: str) -> pa.Field:
    """Returns a column with its description and unit."""
    kind, about, unit = COLUMNS[name]
    held = {"description": about} | ({"unit": unit} if unit else {})
    return pa.field(name, COUNT if (table, name) in COUNTED else kind, metadata=held)


SCHEMAS = {
    name: pa.schema([_field(name, column) for column in table.columns.split()])
    for name, table in TABLES.items()
}


def document() -> Iterator[str]:
    """Yields the lines of TABLES.md."""
    yield "# Tables of a run"
    yield ""
    yield "Generated from `benchmarks/runtime/schemas.py`. Each Parquet file holds the description"
    yield "and the unit of a column as the metadata of its Arrow field."
    for name, schema in SCHEMAS.items():
        yield from ("", f"## {name}.parquet", "", TABLES[name].about, "")
        yield from ("| column | type | unit | holds |", "|---|---|---|---|")
        for field in schema:
            column = COLUMNS[field.name]
            yield f"| `{field.name}` | {field.type} | {column.unit} | {column.about} |"


if __name__ == "__main__":
    print("\n".join(document()))
