"""Where a monotone bound says anything, and what the policy still does there.

A bound on the total variation below 1/2 leaves the adversary less than half of all that it could
do. Bounds that can never rise when weights are removed get there once: the sparsity where they do
is shown with the return and the behaviour that are left.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

# A bound on the total variation at or above this says nothing.
VACUOUS = 0.5
# The smallest of all bounds, as a bound.
BEST = "best of these"


class Meaning(NamedTuple):
    """Holds where one bound first says anything; NaN where it never does."""

    bound: str
    sparsity: float
    tv: float  # there
    clean: float  # return there
    spread: float  # of the action along the trajectory there


def where_meaningful(
    sparsity: np.ndarray, tv: Mapping[str, np.ndarray], clean: np.ndarray, spread: np.ndarray
) -> list[Meaning]:
    """Returns the first sparsity at which each bound on TV is below `VACUOUS`, and the best's.

    Args:
        sparsity: ascending, `[S]`.
        tv: bound -> `[S]`, its statement about the total variation.
        clean: return without an adversary, `[S]`.
        spread: standard deviation of the action along the trajectory, `[S]`; NaN: not known.
    """
    if not tv:
        return []
    every = {**tv, BEST: np.min(list(tv.values()), axis=0)}
    found = []
    for bound, values in every.items():
        below = np.flatnonzero(values < VACUOUS)
        columns = (sparsity, values, clean, spread)
        told = [float(x[below[0]]) if below.size else np.nan for x in columns]
        found.append(Meaning(bound, *told))
    return found


def spread_of(actions: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Returns the standard deviation of the action over states, `[..., n, m] -> [...]`.

        sqrt(sum_j Var(a_j))     of m actions, in their units, to be compared with ||Delta a||_2

    Args:
        actions: mean actions at n states.
        weight: of every state, `[..., n]`, broadcasts.
    """
    weight = np.broadcast_to(weight, actions.shape[:-1])[..., None]
    weight = weight / weight.sum(-2, keepdims=True)
    centred = actions - (weight * actions).sum(-2, keepdims=True)
    return np.sqrt((weight * centred**2).sum((-2, -1)))


def meaning_rows(
    found: list[Meaning], clean: float, spread: float
) -> tuple[list[str], list[list[str]]]:
    """Returns header and rows of a table; `clean` and `spread` are of the dense policy."""
    header = [
        "monotone bound",
        f"TV < {VACUOUS:g} from sparsity",
        f"clean return there (dense {clean:.0f})",
        f"SD of the action there (dense {spread:.3g})",
    ]
    rows = [
        [x.bound, "never", "-", "-"]
        if np.isnan(x.sparsity)
        else [x.bound, f"{x.sparsity:.3g}", f"{x.clean:.0f}", f"{x.spread:.3g}"]
        for x in found
    ]
    return header, rows
