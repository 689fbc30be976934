"""The curves of two runs side by side, and what the two have in common."""

from collections.abc import Iterator, Sequence
from math import comb
from typing import NamedTuple

import numpy as np

from benchmarks.analysis import curves
from benchmarks.analysis.bounds import BoundCurve, bound_curves
from benchmarks.analysis.curves import Columns, Curve, Results
from benchmarks.analysis.worst_case import worst_of
from jaxprune.statistics.folds import picked, strongest

# Differences of returns below this share are rounding; certificates are computed in float64.
RETURN_ROUNDING, CERTIFICATE_ROUNDING = 1e-5, 1e-6
# Certificates that are compared, all of them better when lower.
QUANTITIES = ("D", "D_mean", "TV", "TV_mean")
RETURN, AREA_OVER_EPS = "return", "area_over_eps"
# The mean over the adversaries of one radius, and over the pruned methods as well.
EVERY, ALL_METHODS = "all_attacks", "all"

# How a curve is judged: nothing differs; any change counts; by exchanging episodes, or policies,
# between the runs; not at all, because there are too few of these.
EQUAL, EXACT, EPISODES, SEEDS, TOO_FEW = "equal", "exact", "episodes", "seeds", "too few"
# The share of false alarms among all curves that are judged by episodes, and among all that are
# judged by seeds. Together below 5 %, and a count over 200 pairs of runs stays below it as well.
LEVEL = 0.02


class Recorded(NamedTuple):
    """What is compared of a run: its curves, and its certificates with labels for methods."""

    results: Results  # of the first victim
    certificates: Columns
    others: tuple[Results, ...] = ()


class Key(NamedTuple):
    """The name of a curve."""

    method: str
    source: str  # an attack, `EVERY`, `WORST_OF`, `AREA_OVER_EPS`, or a bound
    eps: float
    quantity: str  # `RETURN`, or one of `QUANTITIES`
    victim: str = ""  # where it is not the first

    def __str__(self) -> str:
        eps = "" if self.source in ("none", AREA_OVER_EPS) else f"@{self.eps:g}"
        source = "clean" if self.source == "none" else self.source
        victim = f"{self.victim}/" if self.victim else ""
        return f"{victim}{self.quantity}/{self.method}/{source}{eps}"


class Pair(NamedTuple):
    """A curve of both runs, on the same cells."""

    key: Key
    unit: str
    sparsity: np.ndarray  # [S]
    baseline: np.ndarray  # [seeds, S, episodes]; certificates have one "episode"
    run: np.ndarray  # [seeds, S, episodes]
    basis: str  # how it is judged

    @property
    def sign(self) -> float:
        """1 where higher is better, -1 where lower is."""
        return 1.0 if self.key.quantity == RETURN else -1.0


def pairs(baseline: Recorded, run: Recorded) -> Iterator[Pair]:
    """The curves of two runs with the same cells.

    Of every victim, returns under every adversary and radius, their means and worst-of, and the
    area over eps where there are several radii; then the certificates.
    """
    methods = list(dict.fromkeys(method for method, _, _ in baseline.results.by_key))
    alike = {method: _same_policies(baseline, run, method) for method in methods}
    yield from _victim_pairs(baseline.results, run.results, alike)
    for ours, theirs in zip(baseline.others, run.others, strict=True):
        for pair in _victim_pairs(ours, theirs, alike):
            yield pair._replace(key=pair.key._replace(victim=ours.victim))
    for method in methods:
        yield from _certificate_pairs(baseline, run, method, alike[method])


def _same_policies(baseline: Recorded, run: Recorded, method: str) -> bool:
    """Whether all cells of a method hold the same policies in both runs.

    A bound on D is a function of the weights, and so are returns of clean episodes that are not all
    alike. In every cell, one of them that agrees is proof enough: the others may have been altered
    by a change of the code.
    """
    ours, theirs = (r.results.clean(method).returns for r in (baseline, run))
    agree = np.isclose(ours, theirs, rtol=RETURN_ROUNDING, atol=0).all(-1)  # [seeds, S]
    agree &= ours.std(-1) > 0
    for (_, one), (_, other) in _both_bounds(baseline, run, method, ("D",)):
        close = np.isclose(one.values, other.values, rtol=CERTIFICATE_ROUNDING, atol=0)
        agree |= close & (one.values > 0)
    return bool(agree.all())


# --- returns --------------------------------------------------------------------------------------


def _victim_pairs(ours: Results, theirs: Results, alike: dict[str, bool]) -> Iterator[Pair]:
    """All returns of policies that act in one way."""
    for method in alike:
        yield from _return_pairs(ours, theirs, method, alike[method])
    yield from _pooled_pairs(ours, theirs, alike)


def _return_pairs(ours: Results, theirs: Results, method: str, alike: bool) -> Iterator[Pair]:
    both, clean = (ours, theirs), ours.clean(method)

    def pair(source: str, eps: float, returns: Sequence[np.ndarray]) -> Pair:
        return _return_pair(Key(method, source, eps, RETURN), clean, returns, alike)

    for attack, eps in [("none", 0.0), *ours.adversaries]:
        yield pair(attack, eps, [r.by_key[method, attack, eps].returns for r in both])
    radii = sorted(ours.radii)
    at_radius = [[r.clean(method).returns for r in both]]
    for eps in radii:
        if len(ours.attacked(method, eps)) > 1:
            yield pair(EVERY, eps, [_mean_attacked(r, method, eps) for r in both])
        at_radius.append(_worst_of(ours, theirs, method, eps, alike))
        yield pair(curves.WORST_OF, eps, at_radius[-1])
    if len(radii) > 1:
        area = np.trapezoid(np.array(at_radius), [0.0, *radii], axis=0) / radii[-1]
        yield pair(AREA_OVER_EPS, radii[-1], list(area))


def _pooled_pairs(ours: Results, theirs: Results, alike: dict[str, bool]) -> Iterator[Pair]:
    """The mean over all pruned methods and adversaries, for what is lost everywhere a little."""
    methods = ours.methods
    grids = {ours.clean(method).sparsity.tobytes() for method in methods}
    if len(methods) < 2 or len(grids) > 1:
        return
    for eps in sorted(ours.radii):
        both = [
            np.mean([_mean_attacked(r, method, eps) for method in methods], axis=0)
            for r in (ours, theirs)
        ]
        key, clean = Key(ALL_METHODS, EVERY, eps, RETURN), ours.clean(methods[0])
        yield _return_pair(key, clean, both, all(alike[method] for method in methods))


def _mean_attacked(results: Results, method: str, eps: float) -> np.ndarray:
    return np.mean([curve.returns for curve in results.attacked(method, eps)], axis=0)


def _worst_of(
    ours: Results, theirs: Results, method: str, eps: float, alike: bool
) -> list[np.ndarray]:
    """Returns `[seeds, S, episodes]` of both runs under the strongest adversary.

    The same policies meet the same adversary in both runs, the one that did most harm in the two
    together, so that swapping episodes does not change what is chosen. Other policies meet their
    own, as in the report.
    """
    if not alike:
        return [worst_of(r, method, eps).curve.returns for r in (ours, theirs)]
    both = [np.stack([c.returns for c in r.attacked(method, eps)]) for r in (ours, theirs)]
    chosen = strongest(np.mean(both, axis=0))
    return [picked(returns, chosen) for returns in both]


def _return_pair(key: Key, clean: Curve, returns: Sequence[np.ndarray], alike: bool) -> Pair:
    """A curve with the sparsities and episodes of a method's clean one, or the last of these."""
    one, other = returns
    other = np.where(np.isclose(other, one, rtol=RETURN_ROUNDING, atol=0), one, other)
    basis = _basis(one, other, alike, clean.returns.shape[-1])
    return Pair(key, "return", clean.sparsity, one, other, basis)


def _basis(one: np.ndarray, other: np.ndarray, alike: bool, episodes: int) -> str:
    """What of two arrays `[seeds, S, ...]` is exchanged; in more ways than 1 / LEVEL."""
    seeds = len(one)
    if np.array_equal(one, other):
        return EQUAL
    if alike:
        return EPISODES if 2**episodes * LEVEL >= 1 else TOO_FEW
    return SEEDS if comb(2 * seeds, seeds) * LEVEL >= 1 else TOO_FEW


# --- certificates ---------------------------------------------------------------------------------


def _certificate_pairs(
    baseline: Recorded, run: Recorded, method: str, alike: bool
) -> Iterator[Pair]:
    """Functions of the policy; local ones of the states, too, that its clean episodes visited."""
    ours, theirs = (r.results.clean(method).returns for r in (baseline, run))
    known = {"global": alike, "local": alike and np.array_equal(ours, theirs)}
    for (key, one), (_, other) in _both_bounds(baseline, run, method, QUANTITIES):
        values = one.values[..., None], other.values[..., None]
        basis = EXACT if known[one.scope] else _basis(*values, alike=False, episodes=1)
        yield Pair(key, one.unit, one.sparsity, *values, basis)


NamedBound = tuple[Key, BoundCurve]


def _both_bounds(
    baseline: Recorded, run: Recorded, method: str, quantities: Sequence[str]
) -> Iterator[tuple[NamedBound, NamedBound]]:
    ours, theirs = (list(_bounds(r, method, quantities)) for r in (baseline, run))
    yield from zip(ours, theirs, strict=True)


def _bounds(recorded: Recorded, method: str, quantities: Sequence[str]) -> Iterator[NamedBound]:
    for eps in recorded.results.radii:
        for quantity in quantities:
            for curve in bound_curves(recorded.certificates, method, eps, quantity):
                yield Key(method, curve.bound, eps, quantity), curve
