"""The columns of every table of a run."""

import pyarrow as pa

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
        # On a device, see jaxprune.pruning.storage.
        ("bytes_dense", pa.int64()),
        ("bytes_rows", pa.int64()),
        ("bytes_compact", pa.int64()),
        ("bytes_int8", pa.int64()),
        ("bytes_int8_rows", pa.int64()),
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
