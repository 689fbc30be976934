"""The folder of a run that was never run, for the tests."""

import json
from pathlib import Path

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jaxprune.policy_io import save_agents
from jaxprune.pruning import prune
from tests.policy_io.policies import policy_of

GRID = (0.25, 0.5)


def write_run(folder: Path):
    """A folder with two seeds of magnitude pruning; the policies `[seeds]`, masks `[seeds, S]`."""
    folder.mkdir(parents=True, exist_ok=True)
    policies = jax.tree.map(lambda x: np.stack([x, -x]), policy_of())
    masks = jax.device_get(prune(policies, "magnitude", GRID))  # [seeds, sparsities]
    flat = jax.tree.map(lambda x: x.reshape(4, *x.shape[2:]), masks)
    save_agents(folder / "agents", policies, {"magnitude": flat})
    cells = {
        "regime": ["ppo"] * 4,
        "method": ["magnitude"] * 4,
        "allocation": ["global"] * 4,
        "mode": ["after"] * 4,
        "sparsity": GRID * 2,
        "seed": [0, 0, 1, 1],
        "agent": [0, 0, 1, 1],
        "curve": ["magnitude"] * 4,
        "index": range(4),
    }
    pq.write_table(pa.table(cells), folder / "cells.parquet")
    pq.write_table(pa.table({"return": [1.0, 2.0]}), folder / "returns.parquet")
    (folder / "experiment.json").write_text(json.dumps({"settings": {}}))
    return policies, masks
