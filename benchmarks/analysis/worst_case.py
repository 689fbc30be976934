"""Every agent under its strongest adversary, chosen on other episodes than are reported."""

from typing import NamedTuple

import numpy as np

from benchmarks.analysis.curves import TIE, WORST_OF, Curve, Results, replicated_interval
from jaxprune.statistics import Interval, area

# Adversaries that are shown one by one; of more, these many.
SHOWN = 4


class Halves(NamedTuple):
    """Episodes to choose on, and fresh ones to report; a single episode serves for both."""

    choose: slice
    judge: slice


def halves(results: Results) -> Halves:
    """The first half of the episodes and the second."""
    episodes = next(iter(results.by_key.values())).returns.shape[-1]
    return Halves(slice(0, max(episodes // 2, 1)), slice(episodes // 2, None))


class Worst(NamedTuple):
    """Every agent at every sparsity under the adversary that did best against it."""

    curve: Curve  # all episodes: those it was chosen on are too low, `halves(...).judge` is fair
    chosen: np.ndarray  # [seeds, S], names of adversaries; TIE where several did as much

    @property
    def label(self) -> str:
        """The adversary that was chosen most often."""
        names, counts = np.unique(self.chosen, return_counts=True)
        usual = str(names[counts.argmax()])
        return usual if len(names) == 1 else f"{usual} and {len(names) - 1} more"


def worst_of(results: Results, method: str, eps: float) -> Worst:
    """Returns the adversary of radius eps with the lowest mean return, agent by agent.

    Chosen on the first half of the episodes, because the minimum of noisy means is too low on the
    episodes that picked it. Every worst case of a run is evaluated once.
    """
    if (method, eps) not in results.worst_cases:
        results.worst_cases[method, eps] = _evaluated(results, method, eps)
    return results.worst_cases[method, eps]


def _evaluated(results: Results, method: str, eps: float) -> Worst:
    curves_ = results.attacked(method, eps)
    choose = halves(results).choose
    means = np.array([c.returns[:, :, choose].mean(-1) for c in curves_])  # [attacks, seeds, S]
    best = means.argmin(0)
    tied = (means == means.min(0)).sum(0) > 1

    def picked(quantity: str) -> np.ndarray:
        stacked = np.stack([getattr(c, quantity) for c in curves_])
        index = best[None] if stacked.ndim == 3 else best[None, ..., None]
        return np.take_along_axis(stacked, index, axis=0)[0]

    curve = Curve(
        method,
        WORST_OF,
        eps,
        curves_[0].sparsity,
        *(picked(quantity) for quantity in ("returns", "discounted", "distance")),
    )
    return Worst(curve, np.where(tied, TIE, np.array([c.attack for c in curves_])[best]))


def leading(results: Results, method: str, eps: float) -> list[Curve]:
    """The adversaries that are worth a line of their own: all, or of many the strongest."""
    found = results.attacked(method, eps)
    if len(found) <= SHOWN:
        return found
    return sorted(found, key=lambda c: c.returns.mean())[:SHOWN]


class Sweep(NamedTuple):
    """The worst-of return of one method against the radius, on fresh episodes."""

    radii: list[float]  # [R], from 0 up
    sparsity: np.ndarray  # [S]
    returns: Interval  # [R, S]
    area: Interval  # [S], under that curve


def sweep(results: Results, method: str) -> Sweep:
    """Returns the worst-of return at every radius, and the area under it."""
    judge = halves(results).judge
    radii = [0.0, *sorted(results.radii)]
    returns = np.stack(
        [results.clean(method).returns[:, :, judge]]
        + [worst_of(results, method, eps).curve.returns[:, :, judge] for eps in radii[1:]]
    )  # [R, seeds, S, episodes]
    each = [replicated_interval(r) for r in returns]
    return Sweep(
        radii,
        results.clean(method).sparsity,
        Interval(*(np.stack(x) for x in zip(*each, strict=True))),
        replicated_interval(np.asarray(area(radii, returns))),
    )
