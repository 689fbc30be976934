"""The answer of a run: how sparse for free, and whether pruning helps under attack.

A sparsity is chosen on one fold of the replicates and judged on the other, and back: a maximum over
noisy means is too good on the replicates that picked it. Replicates are agents, or the episodes of
a single one. "No sweet spot at this power" is an answer, and comes with the smallest gain that the
run could have found.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import nctdtrinc, stdtr, stdtrit

from benchmarks.analysis.curves import Results
from benchmarks.analysis.versus_dense import clean_differences, differences, single_agent
from benchmarks.analysis.worst_case import most_common, worst_of
from jaxprune.statistics import FEWEST
from jaxprune.statistics.choice import (
    TOLERATED_LOSS,
    Choice,
    Limits,
    Measured,
    Sample,
    falling,
    judged,
    keeps,
    measured,
    sample_of,
)
from jaxprune.statistics.folds import folds

# A gain below this share of the dense attacked mean is none.
NEGLIGIBLE = 0.1
# Of the statements about sweet spots of a whole report together, and of a found effect.
ERROR, POWER = 0.05, 0.8
# Two pairs have to differ by 13 of their standard errors for a test that fails in 5 % of cases: a
# fold of fewer pairs than this judges nothing, and leaves its share of the error to the other.
FEWEST_PAIRS = 3


class Naive(NamedTuple):
    """What choosing and reporting on the same replicates would have claimed: always something."""

    sparsity: float  # the best attacked mean of those within the tolerated clean loss
    gain: float  # over the dense attacked mean; too good


class SweetSpot(NamedTuple):
    """Whether pruning makes policies stronger under attack, at next to no clean loss.

    A sweet spot is a sparsity above 0 with (a) an attacked return above the dense one and (b) a
    clean return that is at most `TOLERATED_LOSS` below the dense one. Each fold chooses the
    sparsity with the best attacked mean among those that keep (b), and both are tested on the other
    fold: Student's one-sided test in pairs, the larger p-value of the two, Holm's correction over
    the folds of all panels of the report.

    Against a max-t test of the whole grid without folds: where nothing was gained, both announced
    something in at most 5 % of runs (20 sparsities, 5, 10 and 24 agents, Gaussian and bimodal,
    independent and one-shot). Where four sparsities gained, the folds found as much or more where
    the clean return was uncertain, too, and nearly as much where it was not.
    """

    tested: bool  # False: too few replicates for a test; nothing was found, nothing could be
    sparsities: tuple[float, ...]  # of all that pass; empty where there is no sweet spot
    p_value: float  # corrected, the smallest of the folds; NaN where nothing was tested
    choice: Choice  # of the folds, among sparsities above 0
    detectable: float  # the smallest gain that would have been found with `POWER`; NaN: not tested
    detectable_share: float  # the same of the dense attacked mean
    resolvable_loss: float  # share of the clean mean that an unchanged one can be told from
    naive: Naive  # for comparison only

    @property
    def found(self) -> bool:
        """Whether there is a sweet spot."""
        return bool(self.sparsities)

    @property
    def gain(self) -> Measured:
        """The attacked change at the chosen sparsities, judged by other replicates."""
        return self.choice.attacked_change


class Verdict(NamedTuple):
    """All that is said of one method at one radius."""

    method: str
    eps: float
    unit: str  # of the replicates: "agents", or "episodes" of the only agent
    replicates: int
    attacks: int  # adversaries that "worst of all" chooses from
    strongest_dense: str  # the adversary that was chosen most often against the dense agents
    strongest_pruned: str  # and against the pruned ones, over all sparsities above 0
    dense_clean: Measured  # over all replicates
    dense_attacked: Measured  # likewise, worst of all
    within_clean: Choice  # the sparsest policy within the tolerated loss of the clean return
    within_attacked: Choice  # and of the attacked return
    sweet_spot: SweetSpot  # under worst of all
    refuted: bool  # at all sparsities at once, a gain of `NEGLIGIBLE` or the clean return is lost
    alone: dict[str, SweetSpot]  # adversary -> what it alone would have claimed

    @property
    def answer(self) -> str:
        """Whether there is a sweet spot: yes, no or undecided."""
        if self.sweet_spot.found:
            return "yes"
        return "no" if self.refuted else "undecided"


Key = tuple[str, float]  # method, eps


def verdicts(results: Results) -> dict[Key, Verdict]:
    """Returns the verdict of every method and radius that has a sparsity above 0."""
    panels = [
        (method, eps)
        for eps in results.radii
        for method in results.methods
        if (results.clean(method).sparsity > 0).any()
    ]
    limits = results.limits()
    worst = {panel: _sample(results, *panel) for panel in panels}
    spots = sweet_spots(worst, limits)
    alone: dict[Key, dict[str, SweetSpot]] = {panel: {} for panel in panels}
    for name in dict.fromkeys(attack for attack, _ in results.adversaries):
        those = [panel for panel in panels if (name, panel[1]) in results.adversaries]
        samples = {panel: _sample(results, *panel, name) for panel in those}
        for panel, spot in sweet_spots(samples, limits).items():
            alone[panel][name] = spot
    return {p: _verdict(results, *p, worst[p], spots[p], alone[p]) for p in panels}


def _verdict(
    results: Results,
    method: str,
    eps: float,
    sample: Sample,
    sweet_spot: SweetSpot,
    alone: dict[str, SweetSpot],
) -> Verdict:
    dense = results.dense_of[method]
    unpruned, pruned = (worst_of(results, name, eps) for name in (dense, method))
    limits, n = results.limits(), len(sample.clean)
    dense_clean, dense_attacked = measured([sample.clean[:, 0], sample.attacked[:, 0]], limits)
    return Verdict(
        method,
        eps,
        unit="episodes" if single_agent(results, method) else "agents",
        replicates=n,
        attacks=len(results.attacked(method, eps)),
        strongest_dense=most_common(unpruned.chosen),
        strongest_pruned=most_common(pruned.chosen[:, pruned.curve.sparsity > 0]),
        dense_clean=dense_clean,
        dense_attacked=dense_attacked,
        within_clean=judged(sample, lambda part: _sparsest(part.clean), limits),
        within_attacked=judged(sample, lambda part: _sparsest(part.choosing), limits),
        sweet_spot=sweet_spot,
        refuted=_refuted(results, method, eps),
        alone=alone,
    )


def _refuted(results: Results, method: str, eps: float) -> bool:
    """Whether bands exclude a sweet spot of at least a negligible gain at all sparsities."""
    dense = worst_of(results, results.dense_of[method], eps).curve.returns.mean()
    clean = results.dense(method).returns.mean()
    no_gain = differences(results, method, eps).high < NEGLIGIBLE * abs(dense)
    too_dear = clean_differences(results, method).high < -TOLERATED_LOSS * abs(clean)
    pruned = results.clean(method).sparsity > 0
    return bool((no_gain | too_dear)[pruned].all())  # NaN, no band: not refuted


# --- replicates -----------------------------------------------------------------------------------


def _sample(results: Results, method: str, eps: float, attack: str | None = None) -> Sample:
    """Returns the replicates of a panel under one attack, or under the worst of all."""
    dense, pruned = results.dense_of[method], results.clean(method).sparsity > 0

    def attacked(name: str) -> np.ndarray:
        if attack is not None:
            return results.by_key[name, attack, eps].returns[None]
        return np.stack([curve.returns for curve in results.attacked(name, eps)])

    return sample_of(
        results.clean(method).sparsity[pruned],
        (results.clean(dense).returns[:, :1], results.clean(method).returns[:, pruned]),
        (attacked(dense)[:, :, :1], attacked(method)[:, :, pruned]),
    )


# --- choosing -------------------------------------------------------------------------------------


def _sparsest(returns: np.ndarray) -> int:
    """The highest sparsity of `[n, S]` within the tolerated loss; 0 where none is."""
    return int(np.flatnonzero(keeps(falling(returns), returns[:, 0].mean())).max(initial=0))


def _best(sample: Sample) -> int:
    """The sparsity above 0 with the best attacked mean of those that keep the clean one.

    Where none does, the one that comes nearest.
    """
    clean, attacked = sample.clean.mean(0), sample.choosing.mean(0)
    kept = keeps(clean, clean[0])[1:]
    score = np.where(kept, attacked[1:], -np.inf) if kept.any() else clean[1:]
    return 1 + int(score.argmax())


# --- sweet spots ----------------------------------------------------------------------------------


class _Test(NamedTuple):
    """Holds what one fold says of the sparsity that the other one chose."""

    sparsity: float
    pairs: int
    p_value: float


def sweet_spots(samples: Mapping[Key, Sample], limits: Limits) -> dict[Key, SweetSpot]:
    """Returns the sweet spots of all panels of a report, corrected together."""
    tested = {panel: list(_tests(sample)) for panel, sample in samples.items()}
    corrected = iter(holm([test.p_value for tests in tested.values() for test in tests]))
    level = ERROR / max(sum(map(len, tested.values())), 1)
    found = {}
    for panel, sample in samples.items():
        tests = [test._replace(p_value=next(corrected)) for test in tested[panel]]
        passed = {test.sparsity for test in tests if test.p_value <= ERROR}
        best, dense = _best(sample), sample.attacked[:, 0].mean()
        gain, loss = _detectable(sample, [test.pairs for test in tests], level)
        found[panel] = SweetSpot(
            bool(tests),
            tuple(sorted(passed)),
            min((test.p_value for test in tests), default=np.nan),
            judged(sample, _best, limits),
            gain,
            gain / abs(dense) if dense else np.nan,
            loss,
            Naive(float(sample.sparsity[best]), float(sample.attacked[:, best].mean() - dense)),
        )
    return found


def _tests(sample: Sample) -> Iterator[_Test]:
    """Yields the test of every fold that is large enough to judge."""
    n = len(sample.clean)
    for rows, judge in folds(n):
        chosen, (sparsity, clean, attacked, _) = _best(sample.part(rows)), sample.part(judge)
        if n >= FEWEST and len(clean) >= FEWEST_PAIRS:
            gain = attacked[:, chosen] - attacked[:, 0]
            kept = clean[:, chosen] - clean[:, 0] + TOLERATED_LOSS * np.abs(clean[:, 0])
            yield _Test(float(sparsity[chosen]), len(clean), max(one_sided(gain), one_sided(kept)))


def one_sided(differences: np.ndarray) -> float:
    """The p-value of Student's test that the mean of `[n]` is not above 0."""
    n, mean, spread = len(differences), differences.mean(), differences.std(ddof=1)
    if spread == 0:
        return float(mean <= 0)
    return float(stdtr(n - 1, -mean / spread * n**0.5))


def holm(p_values: Sequence[float]) -> np.ndarray:
    """The p-values corrected so that any false one below a level is as rare as that level.

    Source: Holm 1979 (Scandinavian Journal of Statistics 6).
    """
    p = np.asarray(p_values, float)
    order = p.argsort()
    corrected = np.empty_like(p)
    corrected[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return np.minimum(corrected, 1)


def _detectable(sample: Sample, pairs: Sequence[int], level: float) -> tuple[float, float]:
    """The smallest gain, and tolerated share of the clean mean, that are found with `POWER`.

    By noncentral t, at the median over the sparsities that keep the clean mean (all where none
    does) of the standard deviation of paired differences; folds are taken as independent.
    """
    if not pairs:
        return np.nan, np.nan
    n, clean = min(pairs), sample.clean.mean(0)
    of_fold = 1 - (1 - POWER) ** (1 / len(pairs))
    errors = nctdtrinc(n - 1, 1 - of_fold, stdtrit(n - 1, 1 - level))
    kept = keeps(clean, clean[0])[1:]
    columns = 1 + np.flatnonzero(kept if kept.any() else ~kept)
    gain, loss = (
        float(errors / n**0.5 * np.median((x[:, columns] - x[:, :1]).std(0, ddof=1)))
        for x in (sample.attacked, sample.clean)
    )
    return gain, loss / abs(clean[0]) if clean[0] else np.nan
