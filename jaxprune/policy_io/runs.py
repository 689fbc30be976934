"""The folder of a finished run, read back: its tables and its policies."""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jaxprune.devices import take
from jaxprune.policy_io.addresses import as_path, in_memory
from jaxprune.policy_io.agents import load_agents
from jaxprune.policy_io.run_arrays import to_rliable, to_xarray
from jaxprune.policy_io.selection import Selection, select
from jaxprune.pruning.masks import mask_policy
from jaxprune.statistics.choice import TOLERATED_LOSS
from jaxprune.types import Masks, Policy
from jaxprune.validation import RADIUS, SEED, InputError, Range, check_arguments

if TYPE_CHECKING:
    import xarray

# Of a return that may be lost; of negative ones more than all.
SHARE = Range(0, 10)

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

    def best(
        self,
        clean_loss: Annotated[float, SHARE] = TOLERATED_LOSS,
        attacked_loss: Annotated[float, SHARE] = TOLERATED_LOSS,
        method: str | None = None,
        eps: Annotated[float | None, RADIUS] = None,
        seed: Annotated[int | None, SEED] = None,
    ) -> Selection:
        """Returns the sparsest policy that loses no more than it may, and what is known of it.

        It is chosen on one half of the results and judged on the other, see
        `jaxprune.policy_io.selection`. Attacked returns are those of the strongest attack.

        Args:
            clean_loss: share of the clean return of the dense agents that it may lose.
            attacked_loss: of their attacked return.
            method: of pruning, or the label of a curve ("sa_ppo magnitude"); None for all.
            eps: radius; None for the smallest of the run.
            seed: of the agent; None for the best under attack.

        Raises:
            InputError: nothing qualifies (which limit failed, and by how much), or no such method,
                radius or seed.
        """
        check_arguments(Run.best, locals())
        return select(self, (clean_loss, attacked_loss), method, eps, seed)

    def to_xarray(self, victim: str | None = None) -> "xarray.Dataset":
        """Returns `returns` as a data set: curve x seed x sparsity x attack x eps x episode.

        A curve is called by its method: "magnitude", or "sa_ppo magnitude" of several regimes.

        Args:
            victim: how the policies acted; None for the first of the run.

        Raises:
            InputError: the package xarray is missing.
        """
        return to_xarray(self.returns, victim)

    def to_rliable(self, attack: str = "none", eps: float | None = None) -> dict[str, np.ndarray]:
        """Returns scores as rliable takes them: policy -> `[seeds, 1]`, of the one task of a run.

        A policy is a method at a sparsity ("magnitude 0.5"); its score is the mean return of an
        agent over that of the dense agents without an attack.

        Args:
            attack: a single one.
            eps: its radius; None for the smallest of the run.

        Raises:
            InputError: no such attack or radius.
        """
        return to_rliable(self.returns, attack, eps)

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
