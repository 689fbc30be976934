"""The columns of every table of a run, with what they mean as Arrow metadata.

python -m benchmarks.runtime.schemas > benchmarks/TABLES.md
"""

from collections.abc import Iterator, Sequence

import pyarrow as pa

# Column -> what it holds, and its unit: "1" of a share or a ratio, "" where it has none.
ABOUT = {
    "env": ("task", ""),
    "backend": ("simulator behind the task", ""),
    "seed": ("seed of the agent", ""),
    "regime": ("how the agent was trained; `file` for a loaded policy", ""),
    "method": ("pruning method or control; `none` for an unpruned agent", ""),
    "allocation": ("how the layers share the removed weights", ""),
    "mode": ("`dense`, `after` training, `endpoint` or `trajectory`", ""),
    "sparsity": ("share of the prunable weights that was to be removed", "1"),
    "sparsity_achieved": ("share that was removed", "1"),
    "nested": ("whether the masks of the curve are nested, of the same weights", ""),
    "victim": ("how the policy acts: `deterministic` or `stochastic`", ""),
    "attack": ("adversary; `none` for the clean run", ""),
    "eps": ("radius of the l_inf ball", "normalised observations"),
    "episode": ("number of the episode; equal ones start alike", ""),
    "return": ("sum of rewards", "reward"),
    "return_discounted": ("discounted sum of rewards", "reward"),
    "length": ("length of the episode", "steps"),
    "terminated": ("whether the task ended the episode, not the horizon", ""),
    "diverged": ("whether, or how often, the simulator left the finite numbers", ""),
    "distance": ("the largest D that the adversary reached", "sd of the action, or logits"),
    "bound": ("bound; `attack` for what an attack reached at the visited states", ""),
    "monotone": ("whether removing weights can never raise it", ""),
    "scope": ("`global` (every state) or `local` (visited states)", ""),
    "quantity": ("what is bounded or measured: D, TV, return_floor, ...", ""),
    "value": ("its value", "that of the row"),
    "unit": ("unit of the value", ""),
    "confidence": ("of the statement; 1 where it is proved, NaN for an estimate", "1"),
    "note": ("what else is to be known", ""),
    "iteration": ("iteration of PPO", ""),
    "env_steps": ("steps of the simulator", "steps"),
    "episode_return": ("mean return of the episodes that ended", "reward"),
    "episodes": ("episodes that ended", ""),
    "policy_loss": ("loss of the policy", ""),
    "value_loss": ("loss of the critic", ""),
    "entropy": ("entropy of the action distribution", "nats"),
    "kl": ("KL divergence of the old from the new policy", "nats"),
    "robust": ("the robust regulariser", ""),
    "sparsity_now": ("sparsity of the masks in this iteration", "1"),
    "layer": ("kernel, network (`actor`, `critic`), or `all`", ""),
    "size": ("entries", "weights"),
    "kept": ("entries that stay", "weights"),
    "layer_sparsity": ("share that was removed", "1"),
    "at_floor": ("whether the layer is at its smallest number of weights", ""),
    "condition": ("condition number of the masked kernel", "1"),
    "dead": ("units without a path to an output or from an input", "units"),
    "constant": ("units whose input is constant", "units"),
    "disconnected_obs": ("observations that reach no output", "observations"),
    "disconnected_outputs": ("outputs that no observation reaches", "outputs"),
    "compact": ("parameters without the units that do nothing", "weights"),
    "bytes_dense": ("as float32", "bytes"),
    "bytes_rows": ("as compressed rows of float32", "bytes"),
    "bytes_compact": ("as float32 without the units that do nothing", "bytes"),
    "bytes_int8": ("as 8-bit integers with a scale per output", "bytes"),
    "bytes_int8_rows": ("as compressed rows of 8-bit integers", "bytes"),
    "members": ("adversaries that were prepared", ""),
    "member": ("the one that was used", ""),
    "warm_start": ("whether the preparation started from the sparsity below", ""),
    "chosen_return": ("mean return that the member was chosen by", "reward"),
    "queries": ("forward passes per attacked step", ""),
    "gradients": ("gradients per attacked step", ""),
    "simulated": ("steps of the simulator per attacked step", "steps"),
    "prepare": ("time to prepare the adversary", "s"),
    "choose": ("time to choose its member", "s"),
    "play": ("time of the episodes", "s"),
    "agent": ("row of the policy in `agents/`", ""),
    "curve": ("name of the masks there", ""),
    "index": ("row of these masks", ""),
}
# Table -> what it holds.
TABLES = {
    "returns": "One row per episode.",
    "certificates": "One row per cell, bound, radius and quantity.",
    "training": "One row per agent and iteration.",
    "attacks": "One row per cell, attack, radius and victim: what the attack spent.",
    "diagnosis": "One row per cell, radius and quantity: what attacks reach at visited states.",
    "sparsity": "One row per cell and layer: what the masks leave.",
    "seconds": "One row per attack, radius and victim; differs between repetitions.",
    "cells": "One row per cell: where its policy and its masks are in `agents/`.",
}


def _schema(columns: Sequence[tuple[str, pa.DataType]]) -> pa.Schema:
    """Returns the schema of a table, each column with its description and unit."""

    def field(name: str, kind: pa.DataType) -> pa.Field:
        description, unit = ABOUT[name]
        held = {"description": description} | ({"unit": unit} if unit else {})
        return pa.field(name, kind, metadata=held)

    return pa.schema([field(*column) for column in columns])


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
RETURNS = _schema(
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
CERTIFICATES = _schema(
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
TRAINING = _schema(
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
SPARSITY = _schema(
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
        # On a device, see jaxprune.pruning.storage.
        ("bytes_dense", pa.int64()),
        ("bytes_rows", pa.int64()),
        ("bytes_compact", pa.int64()),
        ("bytes_int8", pa.int64()),
        ("bytes_int8_rows", pa.int64()),
    ]
)
ATTACKS = _schema(
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
SECONDS = _schema(
    [
        ("victim", pa.string()),
        ("attack", pa.string()),
        ("eps", pa.float64()),
        ("prepare", pa.float64()),
        ("choose", pa.float64()),
        ("play", pa.float64()),
    ]
)
CELLS = _schema(
    [
        *CELL,
        ("agent", pa.int32()),  # row of the policies in `agents`
        ("curve", pa.string()),  # name of its masks there
        ("index", pa.int32()),  # row of these masks
    ]
)
DIAGNOSIS = _schema(
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


def document() -> Iterator[str]:
    """Yields the lines of TABLES.md."""
    yield "# Tables of a run"
    yield ""
    yield "Generated from `benchmarks/runtime/schemas.py`. Each Parquet file holds the description"
    yield "and the unit of a column as the metadata of its Arrow field."
    for name, schema in SCHEMAS.items():
        yield from ("", f"## {name}.parquet", "", TABLES[name], "")
        yield from ("| column | type | unit | holds |", "|---|---|---|---|")
        for field in schema:
            description, unit = ABOUT[field.name]
            yield f"| `{field.name}` | {field.type} | {unit} | {description} |"


if __name__ == "__main__":
    print("\n".join(document()))
