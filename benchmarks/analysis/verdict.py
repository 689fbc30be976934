"""The answer of a run: how sparse for free, and whether pruning helps under attack.

A sparsity is chosen on some replicates and judged on others, and back (two folds): a maximum over
noisy means is too good on the replicates that picked it. "No sweet spot at this power" is an
answer, and comes with the smallest gain that the run could have found.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from benchmarks.analysis.curves import Results
from jaxprune.statistics import Interval

# What the sparsest policy, and a sweet spot, may cost of the mean of the dense agents.
TOLERATED_LOSS = 0.05
# Of the statements about sweet spots of a whole report together, and of a found effect.
ERROR, POWER = 0.05, 0.8


class Measured(NamedTuple):
    """A mean over replicates, with the replicates for where they are too few for an interval."""

    interval: Interval  # []; `available` is False for fewer than five agents
    each: np.ndarray  # [n], the replicates: points, and their range, to show instead


class Choice(NamedTuple):
    """A sparsity that one fold chose and the other judged, and back.

    Every replicate is judged once, at the sparsity that the other fold chose.
    """

    sparsities: tuple[float, ...]  # chosen, by fold; 0 is a choice
    clean: Measured  # of the judged replicates
    attacked: Measured
    dense_clean: Measured  # of the same replicates, not pruned
    dense_attacked: Measured
    clean_change: Measured  # pruned less dense, in pairs
    attacked_change: Measured

    @property
    def sparsity(self) -> float:
        """The sparsity that all folds allow: the lowest chosen one."""
        return min(self.sparsities)


class Naive(NamedTuple):
    """What choosing and reporting on the same replicates would have claimed: always something."""

    sparsity: float  # the best attacked mean of those within the tolerated clean loss
    gain: float  # over the dense attacked mean; too good


class SweetSpot(NamedTuple):
    """Whether pruning makes policies stronger under attack, at next to no clean loss.

    A sweet spot is a sparsity above 0 with (a) an attacked return above the dense one and (b) a
    clean return that is at most `TOLERATED_LOSS` below the dense one, each shown by a one-sided
    test in pairs, corrected for the grid, and for all panels of the report.
    """

    tested: bool  # False: too few replicates for a test; nothing was found, nothing could be
    sparsities: tuple[float, ...]  # of all that pass; empty where there is no sweet spot
    gain: Measured  # attacked change at the chosen sparsity, judged on other replicates
    p_value: float  # corrected, of the best sparsity; NaN where nothing was tested
    detectable: float  # the smallest gain that would have been found with `POWER`; inf, NaN
    detectable_share: float  # the same of the dense attacked mean
    resolvable_loss: float  # share of the clean mean that an unchanged one can be told from
    naive: Naive  # for comparison only

    @property
    def found(self) -> bool:
        """Whether there is a sweet spot."""
        return bool(self.sparsities)


class Verdict(NamedTuple):
    """All that is said of one method at one radius."""

    method: str
    eps: float
    unit: str  # of the replicates: "agents", or "episodes" of the only agent
    replicates: int
    folds: tuple[int, ...]  # replicates of each; (n,) where there are too few for two
    attacks: int  # adversaries that "worst of all" chooses from
    strongest_dense: str  # the adversary that was chosen most often against the dense agents
    strongest_pruned: str  # and against the pruned ones, over all sparsities above 0
    dense_clean: Measured  # over all replicates
    dense_attacked: Measured  # likewise, worst of all
    within_clean: Choice  # the sparsest policy within the tolerated loss of the clean return
    within_attacked: Choice  # and of the attacked return
    sweet_spot: SweetSpot  # under worst of all
    alone: dict[str, SweetSpot]  # adversary -> what it alone would have claimed
    sparsity: np.ndarray  # [S]
    band: Interval  # [S], attacked return less that of the dense agents, all sparsities at once


def verdicts(results: Results) -> Mapping[tuple[str, float], Verdict]:
    """Returns (method, eps) -> verdict of every panel that has a sparsity above 0.

    Raises:
        InputError: a fold without a replicate.
    """
    raise NotImplementedError("the interface comes first")
