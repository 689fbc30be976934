"""The table of returns of a run as one array: curve x seed x sparsity x attack x eps x episode."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from jaxprune.policy_io.labels import PARTS, Labels
from jaxprune.validation import InputError, lookup

if TYPE_CHECKING:
    import xarray

# Axes of every array, in this order; a curve is called by its method, and by its regime,
# allocation and mode where a run has several.
DIMS = ("curve", "seed", "sparsity", "attack", "eps", "episode")
# Columns of the table of returns that an array can hold.
MEASURED = ("return", "return_discounted", "length", "terminated", "diverged", "distance")


class Grid(NamedTuple):
    """One column of the table of returns."""

    values: np.ndarray  # `DIMS`, NaN where the run has no such episode
    coords: dict[str, np.ndarray]  # by name of the axis
    curves: dict[str, tuple[str, ...]]  # label -> (regime, method, allocation, mode)
    dense_of: dict[str, str]  # label -> that of the unpruned agents of its regime

    def of(self, label: str) -> np.ndarray:
        """Returns `[seed, sparsity, attack, eps, episode]` of one curve."""
        return self.values[list(self.coords["curve"]).index(label)]


def grid_of(table: pa.Table, column: str = "return", victim: str | None = None) -> Grid:
    """Returns a column of the table of returns as an array.

    Args:
        table: of returns.
        column: one of `MEASURED`.
        victim: how the policies acted; None for the first of the run.
    """
    columns = {name: table[name].to_numpy() for name in (*PARTS, *DIMS[1:], "victim", column)}
    rows = columns["victim"] == (victim or columns["victim"][0])
    columns = {name: values[rows] for name, values in columns.items()}
    labels = Labels(columns)
    named = columns | {"curve": labels.column(columns).astype(str)}
    found = {dim: _axis(named[dim]) for dim in DIMS}
    values = np.full([len(each) for each, _ in found.values()], np.nan)
    values[tuple(index for _, index in found.values())] = columns[column]
    return Grid(
        values,
        {dim: each for dim, (each, _) in found.items()},
        {labels.of(*key): key for key in labels.keys},
        labels.dense_of(),
    )


def _axis(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the coordinates of an axis, and which one each row has.

    Numbers rise; names are in the order of the table, so that ties between attacks go to the same
    one everywhere.
    """
    unique, first, index = np.unique(values, return_index=True, return_inverse=True)
    if np.issubdtype(unique.dtype, np.number):
        return unique, index
    order = first.argsort()
    return unique[order], order.argsort()[index]


def to_xarray(table: pa.Table, victim: str | None = None) -> "xarray.Dataset":
    """Returns the table of returns as a data set with the axes `DIMS`.

    Raises:
        InputError: the package xarray is missing.
    """
    xarray = _xarray()
    grids = {name: grid_of(table, name, victim) for name in MEASURED}
    coords = next(iter(grids.values())).coords
    variables = {
        name: (DIMS, grid.values, _attributes(table.schema.field(name)))
        for name, grid in grids.items()
    }
    return xarray.Dataset(variables, coords)


def to_rliable(table: pa.Table, attack: str, eps: float | None) -> dict[str, np.ndarray]:
    """Returns the scores that rliable takes: policy -> `[seeds, 1]`, of one task.

    A policy is a method at a sparsity, such as "magnitude 0.5". A score is the mean return of an
    agent over that of the unpruned agents of its regime without an attack.

    Raises:
        InputError: no such attack or radius, or unpruned agents that return 0.
    """
    grid = grid_of(table)
    place, radius = place_of(grid, attack, eps)
    scores = {}
    for label in grid.curves:
        dense = np.nanmean(clean_of(grid, grid.dense_of[label]))
        if not dense:
            raise InputError("the unpruned agents return 0: scores are shares of their return")
        for index, sparsity in enumerate(grid.coords["sparsity"]):
            returns = grid.of(label)[:, index, place, radius].mean(-1)
            if (there := np.isfinite(returns)).any():
                scores[f"{label} {sparsity:g}"] = returns[there, None] / dense
    return scores


def place_of(grid: Grid, attack: str, eps: float | None) -> tuple[int, int]:
    """Returns the indices of an attack and of a radius; by default its smallest one.

    Raises:
        InputError: the run has no such attack, or not at this radius.
    """
    attacks = list(map(str, grid.coords["attack"]))
    place = lookup({name: i for i, name in enumerate(attacks)}, attack, "attack")
    played = np.isfinite(grid.values[:, :, :, place]).any((0, 1, 2, 4))
    radii = {float(grid.coords["eps"][i]): int(i) for i in np.flatnonzero(played)}
    if eps is None:
        return place, next(iter(radii.values()))
    if eps not in radii:
        told = ", ".join(f"{x:g}" for x in radii)
        raise InputError(f"the run has no {attack} at eps {eps:g}: choose from {told}")
    return place, radii[eps]


def clean_of(grid: Grid, label: str) -> np.ndarray:
    """Returns `[seed, sparsity, episode]` of one curve without an attack."""
    place, radius = place_of(grid, "none", None)
    return grid.of(label)[:, :, place, radius]


def _attributes(field: pa.Field) -> dict[str, str]:
    """Unit and description, where the table has them."""
    held: Mapping[bytes, bytes] = field.metadata or {}
    return {
        name.decode(): text.decode()
        for name, text in held.items()
        if name in (b"unit", b"description")
    }


def _xarray() -> Any:
    try:
        import xarray
    except ImportError:
        raise InputError(
            "to_xarray needs the package xarray: pip install -e '.[notebook]'; run.returns is an "
            "Arrow table, and needs none"
        ) from None
    return xarray
