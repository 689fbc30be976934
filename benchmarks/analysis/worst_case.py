"""Every agent under its strongest adversary, chosen on other episodes than judge it.

The member of a learned attack, too, was chosen on other episodes: `attack.selection` of a run.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from benchmarks.analysis.curves import TIE, WORST_OF, Curve, Results, replicated_interval
from jaxprune.statistics import Interval, area
from jaxprune.statistics.folds import folds, picked, strongest

# Adversaries that are shown one by one; of more, these many.
SHOWN = 4


class Worst(NamedTuple):
    """Every agent at every sparsity under the adversary that did best against it."""

    curve: Curve  # all episodes, each under the adversary that the other fold of them chose
    chosen: np.ndarray  # [folds * seeds, S], names of adversaries; TIE where several did as much

    @property
    def label(self) -> str:
        """The adversary that was chosen most often."""
        names = np.unique(self.chosen)
        usual = most_common(self.chosen)
        return usual if len(names) == 1 else f"{usual} and {len(names) - 1} more"


def most_common(names: np.ndarray) -> str:
    """Returns the name that is there most often."""
    found, counts = np.unique(names, return_counts=True)
    return str(found[counts.argmax()])


def worst_of(results: Results, method: str, eps: float) -> Worst:
    """Returns the adversary of radius eps with the lowest mean return, agent by agent.

    The minimum of noisy means is too low on the episodes that picked it. One half of the episodes
    chooses and the other judges, and back, so that means over all of them are unbiased by the
    choice. Every worst case of a run is evaluated once.
    """
    if (method, eps) not in results.worst_cases:
        results.worst_cases[method, eps] = _evaluated(results, method, eps)
    return results.worst_cases[method, eps]


def _evaluated(results: Results, method: str, eps: float) -> Worst:
    curves_ = results.attacked(method, eps)
    stacked = {
        name: np.stack([getattr(c, name) for c in curves_])
        for name in ("returns", "discounted", "distance")
    }
    chosen = strongest(stacked["returns"])  # [seeds, S, episodes]
    distance = np.broadcast_to(stacked["distance"][..., None], stacked["returns"].shape)
    curve = Curve(
        method,
        WORST_OF,
        eps,
        curves_[0].sparsity,
        picked(stacked["returns"], chosen),
        picked(stacked["discounted"], chosen),
        picked(distance, chosen).max(-1),
    )
    names = np.array([c.attack for c in curves_])
    return Worst(curve, np.concatenate(list(_names(stacked["returns"], names))))


def _names(returns: np.ndarray, names: np.ndarray) -> Iterator[np.ndarray]:
    """Yields what each fold of `[attacks, seeds, S, episodes]` chose, `[seeds, S]`."""
    for choose, _ in folds(returns.shape[-1]):
        means = returns[..., choose].mean(-1)
        tied = (means == means.min(0)).sum(0) > 1
        yield np.where(tied, TIE, names[means.argmin(0)])


def leading(results: Results, method: str, eps: float) -> list[Curve]:
    """The adversaries that are worth a line of their own: all, or of many the strongest."""
    found = results.attacked(method, eps)
    if len(found) <= SHOWN:
        return found
    return sorted(found, key=lambda c: c.returns.mean())[:SHOWN]


class Sweep(NamedTuple):
    """The worst-of return of one method against the radius."""

    radii: list[float]  # [R], from 0 up
    sparsity: np.ndarray  # [S]
    returns: Interval  # [R, S]
    area: Interval  # [S], under that curve


def sweep(results: Results, method: str) -> Sweep:
    """Returns the worst-of return at every radius, and the area under it."""
    radii = [0.0, *sorted(results.radii)]
    worst = [worst_of(results, method, eps).curve for eps in radii[1:]]
    returns = np.stack([curve.returns for curve in (results.clean(method), *worst)])
    each = [replicated_interval(r, results.limits()) for r in returns]  # [seeds, S, episodes] each
    return Sweep(
        radii,
        results.clean(method).sparsity,
        Interval(*(np.stack(x) for x in zip(*each, strict=True))),
        replicated_interval(np.asarray(area(radii, returns)), results.limits()),
    )
