"""The folder of a finished run, read back: its tables and its policies."""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jaxprune.devices import take
from jaxprune.policy_io.addresses import as_path, in_memory
from jaxprune.policy_io.agents import load_agents
from jaxprune.pruning.masks import mask_policy
from jaxprune.types import Masks, Policy
from jaxprune.validation import InputError

# What a cell is called, in the table of cells.
NAMES = ("regime", "method", "allocation", "mode", "sparsity", "seed")


class _Table:
    """A table as an attribute, read whenever it is asked for."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, run: "Run", owner: type | None = None) -> pa.Table:
        return read_arrow(run.path, self.name)


class Run:
    """The results of `python -m benchmarks.run`; tables are Arrow's, `.to_pandas()` is one step.

    Args:
        path: of the folder.
    """

    returns = _Table()
    certificates = _Table()
    sparsity = _Table()
    training = _Table()
    attacks = _Table()
    diagnosis = _Table()
    seconds = _Table()
    cells = _Table()

    def __init__(self, path: Path):
        self.path = path

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def agents(self) -> tuple[Policy, dict[str, Masks]]:
        """Returns all policies `[policies]` and the masks of every curve, as `load_agents` does."""
        return self._agents

    def policy(self, method: str, sparsity: float, seed: int, **others: str) -> Policy:
        """Returns the policy of one cell, masked: what was attacked and certified.

        Args:
            method: "none" for an unpruned agent, at sparsity 0.
            sparsity: as it was asked for.
            seed: of the agent.
            others: `regime`, `allocation` or `mode`, where the run has several.

        Raises:
            InputError: no cell or several; the message lists what there is.
        """
        asked = {"method": method, "sparsity": float(sparsity), "seed": seed, **others}
        cells = self.cells
        wrong = [name for name in asked if name not in NAMES]
        if wrong:
            raise InputError(f"cells have no {wrong[0]!r}: choose from {', '.join(NAMES)}")
        columns = {name: cells[name].to_numpy() for name in NAMES}
        found = np.flatnonzero(np.all([columns[k] == v for k, v in asked.items()], axis=0))
        if len(found) != 1:
            words = ", ".join(f"{name} {value}" for name, value in asked.items())
            raise InputError(f"{self.path} has {len(found)} cells of {words}: {_choice(columns)}")
        row = cells.slice(int(found[0]), 1).to_pylist()[0]
        policies, masks = self._agents
        kept = take(masks[row["curve"]], row["index"])
        return mask_policy(take(policies, row["agent"]), kept)

    @cached_property
    def _agents(self) -> tuple[Policy, dict[str, Masks]]:
        return load_agents(self.path / "agents")


def load_run(path: str | Path) -> Run:
    """Returns the run of a folder, whose tables and policies are read when they are asked for.

        run = jaxprune.load_run("results/hopper-1a2b3c4d")
        run.returns.to_pandas().groupby(["method", "sparsity", "attack"])["return"].mean()
        jaxprune.export_c("pruned.h", run.policy("magnitude", 0.5, seed=0))

    Args:
        path: of the folder.

    Raises:
        InputError: it is no folder of a run; later, a table or the agents are missing or damaged.
    """
    path = as_path(path)
    if not (path / "experiment.json").is_file():
        raise InputError(f"{path} holds no run: give a folder that python -m benchmarks.run wrote")
    return Run(path)


def read_arrow(folder: Path, name: str) -> pa.Table:
    """Returns a table of a run folder as it was written.

    Raises:
        InputError: it is missing or damaged.
    """
    file = folder / f"{name}.parquet"
    try:
        return pq.read_table(in_memory(file))
    except (OSError, ValueError, pa.ArrowException):
        raise InputError(
            f"{file} is missing or damaged: give the folder of a complete run"
        ) from None


def _choice(columns: dict[str, Any]) -> str:
    """What to choose from, of the names that differ."""
    values = {name: list(dict.fromkeys(column.tolist())) for name, column in columns.items()}
    told = [f"{k} {', '.join(map(str, v[:20]))}" for k, v in values.items() if len(v) > 1]
    return f"choose one of {'; '.join(told)}"
