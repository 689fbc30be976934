"""Did a curve get worse? Two runs of the same settings, compared without a fixed percentage.

The null hypothesis is that nothing changed but chance, and the two runs could change places. What
changes places depends on what they share:

*The same policies.* Episode i starts alike in both runs and in every cell, so it is swapped as a
whole, in all curves at once. With d_ik the difference of its returns at sparsity k, a mean over the
seeds, and random signs e_i, the effects are

    effect_k = 1/m sum_i d_ik,    and by chance    1/m sum_i e_i d_ik.

*Other policies*, because training went another way, be it by rounding. The seeds are the
replicates: policies change places at random. Episodes may start elsewhere too, alike for all
policies of a run, so the deviations of d_ik from their mean are added with random signs. What is
left of a policy in an episode counts twice then, which errs towards fewer alarms.

Either way every curve is scanned: all contiguous windows of the sparsity grid, weighted as if the
whole window lost one share of its return, and the plain mean over the grid (the area). Each is
divided by its standard error. It is an alarm if chance shows as much anywhere, in any window of any
curve, in at most `LEVEL` of its draws. That controls the false alarms of the whole gate, and keeps
the correlation of curves that share policies and episodes.

Certificates of the same policies are no matter of chance: any rise beyond rounding counts.

Sources: the largest window is a scan statistic (Kulldorff 1997, Communications in Statistics 26),
calibrated jointly by the largest of all (Westfall and Young 1993, Resampling-Based Multiple
Testing); standard errors with a floor are those of Tusher, Tibshirani and Chu 2001 (PNAS 98).
"""

from collections.abc import Sequence
from itertools import combinations, product
from math import comb
from typing import NamedTuple

import numpy as np

from benchmarks.gate.pairing import (
    CERTIFICATE_ROUNDING,
    EPISODES,
    EXACT,
    LEVEL,
    RETURN_ROUNDING,
    SEEDS,
    Key,
    Pair,
    Recorded,
    pairs,
)

# Draws from chance.
DRAWS = 2000


class Window(NamedTuple):
    """Where a curve changed most, in one direction."""

    probability: float  # that chance alone shows as much anywhere in the gate
    first: float  # sparsity
    last: float
    baseline: float  # mean over the window
    run: float

    @property
    def change(self) -> float:
        """Relative to the baseline; infinite where that is 0."""
        difference = self.run - self.baseline
        return difference / abs(self.baseline) if self.baseline else np.copysign(np.inf, difference)


class Compared(NamedTuple):
    """A curve and what became of it."""

    key: Key
    unit: str
    basis: str  # how it was judged
    sparsity: np.ndarray  # [S]
    baseline: np.ndarray  # [S], means over seeds and episodes
    run: np.ndarray  # [S]
    tolerance: np.ndarray  # [S], the change at one sparsity that is an alarm; NaN: not judged
    area_tolerance: float  # likewise of the mean over the grid
    worst: Window | None  # None where nothing got worse
    best: Window | None

    @property
    def worse(self) -> bool:
        """Whether the gate fails because of this curve."""
        return self.worst is not None and self.worst.probability <= LEVEL

    @property
    def better(self) -> bool:
        """Whether it improved by more than chance."""
        return self.best is not None and self.best.probability <= LEVEL


def compare(baseline: Recorded, run: Recorded, seed: int = 0) -> list[Compared]:
    """Every curve of two runs.

    Args:
        baseline: what was.
        run: what is, in the same cells.
        seed: of the draws from chance.

    Returns:
        In the order of `pairing.pairs`.
    """
    found = list(pairs(baseline, run))
    rng = np.random.default_rng(seed)
    families = {basis: [p for p in found if p.basis == basis] for basis in (EPISODES, SEEDS)}
    judged = {pair.key: _certain(pair) for pair in found if pair.basis not in families}
    for members in families.values():
        if members:
            judged |= judged_together(members, rng)
    return [judged[pair.key] for pair in found]


def _certain(pair: Pair) -> Compared:
    """A curve without chance: the same in both runs, deterministic, or with too few replicates."""
    judged = pair.basis == EXACT
    change = pair.sign * (pair.run - pair.baseline)
    rounding = CERTIFICATE_ROUNDING * np.abs(pair.baseline)
    worse, better = (np.array((x > rounding).any((0, 2))) & judged for x in (-change, change))
    tolerance = np.where(judged, rounding.mean((0, 2)), np.nan)
    spread = np.append(tolerance, tolerance.mean())
    return _compared(pair, spread, _at(pair, worse, 0.0), _at(pair, better, 0.0))


def judged_together(members: Sequence[Pair], rng: np.random.Generator) -> dict[Key, Compared]:
    """Curves whose parts change places in the same way, calibrated together."""
    chance = _draw(members, rng)
    scans = [_scan(pair, chance) for pair in members]
    # Draw by draw, the largest of all curves.
    losses, gains = (np.max([getattr(s, way) for s in scans], 0) for way in ("losses", "gains"))
    critical = float(np.quantile(losses, 1 - LEVEL, method="higher"))

    def judged(pair: Pair, scan: _Scan) -> Compared:
        worst = _window(pair, scan.inside, -scan.observed, losses)
        best = _window(pair, scan.inside, scan.observed, gains)
        return _compared(pair, critical * scan.error, worst, best)

    return {pair.key: judged(pair, scan) for pair, scan in zip(members, scans, strict=True)}


# --- chance ---------------------------------------------------------------------------------------


class _Chance(NamedTuple):
    """What changes places in every draw, in all curves of a family; row 0 is what was observed."""

    signs: np.ndarray  # [1 + DRAWS, episodes]
    shares: np.ndarray | None  # [1 + DRAWS, 2 seeds], of policies in the effect; None: they stay
    usual: dict[str, np.ndarray]  # by quantity, relative spread of policies, [1 + DRAWS, 1]


def _draw(members: Sequence[Pair], rng: np.random.Generator) -> _Chance:
    """At random, or all possibilities in turn where they are few."""
    episodes = max(pair.run.shape[-1] for pair in members)
    if 2**episodes <= DRAWS:
        patterns = np.array(list(product((-1.0, 1.0), repeat=episodes)))
        drawn = rng.permutation(np.resize(patterns, (DRAWS, episodes)))
    else:
        drawn = rng.choice((-1.0, 1.0), (DRAWS, episodes))
    if members[0].basis == EPISODES:
        return _Chance(np.concatenate([np.ones((1, episodes)), drawn]), None, {})
    # Signs of deviations from the mean, none of which is part of what was observed.
    signs = np.concatenate([np.zeros((1, episodes)), drawn])
    shares = _shares(members[0].run.shape[0], rng)
    return _Chance(signs, shares, _usual(members, shares))


def _usual(members: Sequence[Pair], shares: np.ndarray) -> dict[str, np.ndarray]:
    """Median over curves and sparsities of the standard deviation per level."""
    found: dict[str, list[np.ndarray]] = {}
    for pair in members:
        policies = _policies(pair)
        level = np.broadcast_to(np.abs(policies.mean(0)), (len(shares), policies.shape[1]))
        relative = _over(np.sqrt(_variance(policies, shares @ policies)), level)
        found.setdefault(pair.key.quantity, []).append(relative)
    # Where most policies are alike, differences of rounding still are no change.
    medians = {name: np.median(np.concatenate(x, axis=1), axis=1) for name, x in found.items()}
    return {name: np.maximum(x, RETURN_ROUNDING)[:, None] for name, x in medians.items()}


def _variance(policies: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """Of the policies within two runs of n whose means differ by `moved`, `[1 + DRAWS, W]`.

    All squared deviations are those within the runs and those between their means.
    """
    count = len(policies)
    squares = count * policies.var(0) - count / 4 * moved**2
    return np.maximum(squares, 0) / (count - 2)


def _shares(seeds: int, rng: np.random.Generator) -> np.ndarray:
    """Which policies are the run's, draw by draw, `[1 + DRAWS, 2 seeds]`; row 0 as they are."""
    observed = np.repeat([-1 / seeds, 1 / seeds], seeds)
    if comb(2 * seeds, seeds) > DRAWS:
        return np.stack([observed, *(rng.permutation(observed) for _ in range(DRAWS))])
    chosen = np.array(list(combinations(range(2 * seeds), seeds)))
    chosen = np.resize(chosen, (DRAWS, seeds))
    shares = np.full((DRAWS, 2 * seeds), -1 / seeds)
    np.put_along_axis(shares, chosen, 1 / seeds, axis=1)
    return np.concatenate([observed[None], shares])


def _policies(pair: Pair) -> np.ndarray:
    """Means of the baseline's policies and of the run's, `[2 seeds, S]`."""
    return np.concatenate([pair.baseline, pair.run]).mean(-1)


def _effects(pair: Pair, chance: _Chance, windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Changes of weighted sums over the grid, as observed and by chance, and their standard errors.

    Of policies that change places between two runs of n, with V_w their variance within the runs,

        error_w^2 = 2 / n * (V_w + (usual * level_w)^2).

    Of few policies V_w is small by chance somewhere, and the second term keeps the quotient from
    exploding there.

    Args:
        pair: of curves.
        chance: the draws.
        windows: weights `[S, W]`.

    Returns:
        `[1 + DRAWS, W]` each, or errors that broadcast to it.
    """
    change = windows.T @ (pair.run - pair.baseline).mean(0)  # [W, episodes]
    episodes = change.shape[-1]
    # Worst-of curves are of the last episodes, which have the same signs as in other curves.
    signs = chance.signs[:, -episodes:] / episodes
    if chance.shares is None:
        effects = signs @ change.T
        return effects, effects.std(0, keepdims=True)
    policies, n = _policies(pair) @ windows, len(pair.run)  # [2 n, W]
    moved = chance.shares @ policies
    noise = signs @ (change - change.mean(-1, keepdims=True)).T
    floor = (chance.usual[pair.key.quantity] * policies.mean(0)) ** 2
    return moved + noise, np.sqrt(2 / n * (_variance(policies, moved) + floor) + noise.var(0))


# --- windows --------------------------------------------------------------------------------------


class _Scan(NamedTuple):
    """The windows of one curve, in standard errors."""

    observed: np.ndarray  # [windows], positive for better
    gains: np.ndarray  # [DRAWS], the largest window of every draw from chance
    losses: np.ndarray  # [DRAWS], likewise of what got worse
    inside: np.ndarray  # bool [S, windows], what differs in a window; the last is the area
    error: np.ndarray  # [S + 1], standard errors at single sparsities, and of the area


def _scan(pair: Pair, chance: _Chance) -> _Scan:
    """All contiguous windows of a curve, and its area.

    If a window loses the share q, the effects are -q J_k, and weights J_k / variance_k estimate q
    best (exactly so for uncorrelated effects).
    """
    points = np.arange(len(pair.sparsity))[:, None]
    first, last = np.triu_indices(len(points))
    inside = (first <= points) & (points <= last)  # [S, windows]
    single, _ = _effects(pair, chance, np.eye(len(points)))
    variance = single.var(0)
    weights = inside * _over(np.abs(pair.baseline + pair.run).mean((0, 2)), variance)[:, None]
    area = np.full((len(points), 1), 1 / len(points))
    # The points in their own unit come last, for the tolerances.
    columns = np.concatenate([weights, np.eye(len(points)), area], axis=1)
    effects, errors = _effects(pair, chance, columns)
    scaled = pair.sign * _over(effects, errors)
    return _Scan(
        scaled[0],
        scaled[1:].max(1),
        -scaled[1:].min(1),
        np.concatenate([inside, points == points.T, area > 0], axis=1) & (variance > 0)[:, None],
        errors[0, -len(points) - 1 :],
    )


def _over(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """The quotient; 0 where nothing varies."""
    varies = denominator > 0
    return np.where(varies, numerator / np.where(varies, denominator, 1), 0)


def _window(
    pair: Pair, inside: np.ndarray, observed: np.ndarray, largest: np.ndarray
) -> Window | None:
    """The window with the largest change, beside the largest ones by chance."""
    best = int(observed.argmax())
    if observed[best] <= 0:
        return None
    # The same sum in another order is as large.
    reached = int((largest >= observed[best] * (1 - 1e-9)).sum())
    return _at(pair, inside[:, best], (1 + reached) / (1 + len(largest)))


def _at(pair: Pair, there: np.ndarray, probability: float) -> Window | None:
    """The sparsities `there`, bool `[S]`; None if there are none."""
    if not there.any():
        return None
    sparsity = pair.sparsity[there]
    means = (float(x[:, there].mean()) for x in (pair.baseline, pair.run))
    return Window(probability, float(sparsity[0]), float(sparsity[-1]), *means)


def _compared(
    pair: Pair, tolerance: np.ndarray, worst: Window | None, best: Window | None
) -> Compared:
    """Tolerances `[S + 1]` are those of the sparsities and of the area."""
    baseline, run = (x.mean((0, 2)) for x in (pair.baseline, pair.run))
    at, area = tolerance[:-1], float(tolerance[-1])
    return Compared(
        pair.key, pair.unit, pair.basis, pair.sparsity, baseline, run, at, area, worst, best
    )
