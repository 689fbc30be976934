"""The answers of several runs together: whether there are sweet spots, corrected for all runs."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from benchmarks.analysis.curves import USUAL, Results
from benchmarks.analysis.verdict import ERROR, Verdict, holm, verdicts
from jaxprune.devices import take
from jaxprune.statistics import Interval


class Answer(NamedTuple):
    """Holds what one run says of one method at one radius, among all runs."""

    run: str
    verdict: Verdict  # of the run alone
    p_value: float  # of a sweet spot, corrected for all runs too; NaN: not tested
    usual: Interval | None  # what the unpruned agents return under MAD, []

    @property
    def answer(self) -> str:
        """Whether there is a sweet spot: yes, no or undecided."""
        if self.p_value <= ERROR:
            return "yes"
        return "no" if self.verdict.refuted else "undecided"


def answers(runs: Mapping[str, Results]) -> Iterator[Answer]:
    """Yields the verdicts of all runs, with p-values corrected over the runs by Holm.

    The p-values of a run are corrected for its own methods, radii and folds already. Its smallest
    stands for it; the others are multiplied by the same factor, or by the number of runs where the
    smallest is 0.
    """
    found = {run: list(verdicts(results).values()) for run, results in runs.items()}
    spots = [[verdict.sweet_spot for verdict in of_run] for of_run in found.values()]
    smallest = [min((x.p_value for x in of_run if x.tested), default=1.0) for of_run in spots]
    for (run, of_run), own, shared in zip(found.items(), smallest, holm(smallest), strict=True):
        factor = shared / own if own else len(found)
        for verdict in of_run:
            p_value = float(np.minimum(1, verdict.sweet_spot.p_value * factor))  # NaN stays
            yield Answer(run, verdict, p_value, _usual(runs[run], verdict))


def _usual(results: Results, verdict: Verdict) -> Interval | None:
    curve = results.by_key.get((results.dense_of[verdict.method], USUAL, verdict.eps))
    return None if curve is None else take(results.interval(curve), 0)
