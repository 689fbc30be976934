"""Made-up runs with Hopper-like spread, as tables and as folders."""

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.analysis import curves
from benchmarks.analysis.curves import Columns, collect, labelled
from benchmarks.gate.pairing import Recorded
from benchmarks.runtime.run_folder import RunFolder
from jaxprune.policy_io.labels import Labels

GRID = (0.0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9)
EPS = 0.1
RETURNS = {"none": 2500.0, "random": 2400.0, "mad": 1000.0}  # of the dense policy
# Standard deviations relative to the mean: between agents, and between the episodes of one agent,
# of which a part is common to all cells that start alike.
AGENTS, EPISODES, STARTS = 0.3, 0.25, 0.1


class Made:
    """What a made-up run is drawn from: the level of every cell, and episodes around it."""

    def __init__(
        self,
        rng: np.random.Generator,
        seeds: int = 4,
        methods: tuple[str, ...] = ("magnitude", "micro"),
        spread: float = AGENTS,
    ):
        agents = 1 + spread * rng.standard_normal((seeds, 1))
        self.seeds = seeds
        self.quality = {"none": agents} | {
            name: agents
            * (1 - 0.8 * np.square(GRID))
            * (1 + spread / 3 * rng.standard_normal((seeds, 7)))
            for name in methods
        }

    def tables(
        self,
        rng: np.random.Generator,
        episodes: int = 16,
        eps: tuple[float, ...] = (EPS,),
        victims: tuple[str, ...] = ("deterministic",),
    ) -> dict[str, Columns]:
        """Returns and certificates of one run, with the columns that are compared."""
        starts = STARTS * rng.standard_normal(episodes)
        cases = [("none", 0.0), *((a, e) for e in eps for a in RETURNS if a != "none")]
        cases = [(victim, *case) for victim in victims for case in cases]
        rows, bounds = [], []
        for method, quality in self.quality.items():
            grid = GRID if quality.shape[1] > 1 else GRID[:1]
            for seed, s in np.ndindex(quality.shape):
                cell = (seed, method, grid[s])
                bounds += [
                    (*cell, e, quantity, quality[seed, s] * e * factor)
                    for e in eps
                    for quantity, factor in (("D", 10.0), ("TV", 0.5), ("vacuity", 0.7))
                ]
                for victim, attack, e in cases:
                    noise = 1 + starts + EPISODES * rng.standard_normal(episodes)
                    level = RETURNS[attack] * quality[seed, s]
                    rows += [(*cell, e, victim, attack, i, x) for i, x in enumerate(level * noise)]
        names = ("seed", "method", "sparsity", "eps", "victim", "attack", "episode", "return")
        returns = columns(rows, names)
        certificates = columns(bounds, ("seed", "method", "sparsity", "eps", "quantity", "value"))
        return {"returns": returns, "certificates": certificates}


def columns(rows: list[tuple], names: tuple[str, ...]) -> Columns:
    """Every column of both tables; what a made-up run does not vary is constant."""
    table = {n: np.array(v) for n, v in zip(names, zip(*rows, strict=True), strict=True)}
    dense, count = table["method"] == "none", len(rows)
    constant: dict[str, Any] = {
        **{"env": "hopper", "backend": "mjx", "regime": "ppo", "victim": "deterministic"},
        **{"nested": True, "return_discounted": 0.0, "length": 10, "terminated": True},
        **{"diverged": False, "distance": 0.0, "bound": "path", "monotone": True},
        **{"scope": "global", "unit": "standard deviations", "confidence": 1.0, "note": ""},
    }
    filled = {name: np.repeat(value, count) for name, value in constant.items()}
    cell = {
        "allocation": np.where(dense, "none", "global"),
        "mode": np.where(dense, "dense", "after"),
        "sparsity_achieved": table["sparsity"],
    }
    return filled | cell | table


def recorded(tables: dict[str, Columns]) -> Recorded:
    """As a gate sees it."""
    labels = Labels(tables["returns"])
    certificates = labelled(tables["certificates"], labels)
    first, *others = (
        collect(tables["returns"], name) for name in curves.victims(tables["returns"])
    )
    return Recorded(first, certificates, tuple(others))


def changed(tables: dict[str, Columns], factor: float, **where: Any) -> dict[str, Columns]:
    """The tables with returns times `factor` where columns have one of the given values."""
    returns = tables["returns"]
    rows = np.all([np.isin(returns[name], values) for name, values in where.items()], axis=0)
    lower = np.where(rows, factor * returns["return"], returns["return"])
    return tables | {"returns": returns | {"return": lower}}


def settings(tables: dict[str, Columns], **other: Any) -> dict[str, Any]:
    """Of the run that such tables come from."""
    returns = tables["returns"]
    return {
        "env": "hopper",
        "sparsity_grid": list(GRID),
        "seeds": len(np.unique(returns["seed"])),
        "episodes": len(np.unique(returns["episode"])),
        "attacks": list(RETURNS),
        "victim": curves.victims(returns),
        "eps": np.unique(returns["eps"])[1:].tolist(),
        "policy": None,
        "policy_sha256": None,
        "lanes": None,
        "ppo": {"steps": 1000, "hyper": {"gamma": 0.99}},
        **other,
    }


def write_run(path: Path, tables: dict[str, Columns], **other: Any) -> Path:
    """The folder of a run."""
    folder = RunFolder(path, settings(tables, **other))
    folder.describe({"command": "python -m benchmarks.run --env hopper"})
    for name, table in tables.items():
        folder.write_table(name, table)
    return path
