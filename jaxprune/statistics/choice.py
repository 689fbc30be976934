"""A sparsity that one fold of the replicates chooses and the other judges, and back.

Replicates are agents, or the episodes of a single one. The dense agents are the first column, 0.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import isotonic_regression

from jaxprune.statistics.bootstrap import Interval
from jaxprune.statistics.folds import folds, picked, strongest
from jaxprune.statistics.means import bounded_mean, student_mean
from jaxprune.types import AnyArray

# What the sparsest policy, and a sweet spot, may cost of the mean of the dense agents.
TOLERATED_LOSS = 0.05
# The lowest and the highest that a return can be.
Limits = tuple[float, float]


class Measured(NamedTuple):
    """A mean over replicates, with the replicates for where they are too few for an interval."""

    interval: Interval  # []; not `available` for fewer than `FEWEST` replicates
    each: np.ndarray  # [n], the replicates: points, and their range, to show instead


class Choice(NamedTuple):
    """A sparsity that one fold chose and the other judged, and back.

    Every replicate is judged once, at the sparsity that the other fold chose: these means are
    unbiased, and about both choices. The choice of the sparsest policy lies where the loss reaches
    what is tolerated, so that the judged loss is as often above it as below; at the lower of both
    choices, `sparsity`, the true loss was 3 % to 4 % on average in simulations with 5 agents.
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

    @property
    def keeps_clean(self) -> bool:
        """Whether the judged clean mean is within the tolerated loss, too."""
        return keeps(self.clean.interval.mean, self.dense_clean.interval.mean)

    @property
    def keeps_attacked(self) -> bool:
        """Whether the judged attacked mean is."""
        return keeps(self.attacked.interval.mean, self.dense_attacked.interval.mean)


def keeps(mean: AnyArray, dense: AnyArray) -> Any:
    """Whether a mean return is at most `TOLERATED_LOSS` below that of the dense agents."""
    return mean >= dense - TOLERATED_LOSS * abs(dense)


def falling(returns: np.ndarray) -> np.ndarray:
    """Returns the nearest curve to the means of `[n, S]` that falls with the sparsity.

    The highest of noisy means that happens to be within a limit is too sparse.
    """
    return isotonic_regression(returns.mean(0), increasing=False).x


class Sample(NamedTuple):
    """The replicates of one panel; the dense agents are the first sparsity, 0."""

    sparsity: np.ndarray  # [S], rising
    clean: np.ndarray  # [n, S]
    attacked: np.ndarray  # [n, S], which judges
    choosing: np.ndarray  # [n, S], the attacked return as its fold finds it without the other

    def part(self, rows: slice) -> "Sample":
        """Returns some of the replicates."""
        return Sample(self.sparsity, *(values[rows] for values in self[1:]))


# Of the dense agents, then of a method: returns `[..., seeds, S, episodes]`.
Pair = tuple[np.ndarray, np.ndarray]


def sample_of(sparsity: np.ndarray, clean: Pair, attacked: Pair) -> Sample:
    """Returns the replicates of a method beside the dense agents, in pairs.

    Args:
        sparsity: `[S]` of the method, above 0.
        clean: returns without an attack, `[seeds, 1, episodes]` of the dense agents and
            `[seeds, S, episodes]`; a policy file has one dense agent for all seeds.
        attacked: the same under every attack, `[attacks, ...]`; each half of the episodes is judged
            under the attack that the other half chose.
    """
    single = max(len(returns) for returns in clean) == 1
    worst = [picked(x, strongest(x)) for x in attacked]
    within = [_within_folds(x) for x in attacked] if single else worst
    return Sample(np.array([0.0, *sparsity]), *map(_replicates, (clean, worst, within)))


def replicates(*returns: np.ndarray) -> list[np.ndarray]:
    """`[seeds, S, episodes]` each -> samples `[n, S]` each.

    Seeds are the replicates; where all have a single seed its episodes are, and the claim is then
    about that one policy.
    """
    if max(len(r) for r in returns) == 1:
        return [r[0].T for r in returns]
    return [r.mean(-1, dtype=float) for r in returns]


def _replicates(pair: Sequence[np.ndarray]) -> np.ndarray:
    """Returns `[n, 1 + S]`, the dense agents first."""
    dense, pruned = replicates(*pair)
    return np.concatenate([np.broadcast_to(dense, (len(pruned), 1)), pruned], axis=1)


def _within_folds(returns: np.ndarray) -> np.ndarray:
    """Returns `[attacks, seeds, S, episodes]` under the worst attack, cross-fitted in each fold.

    Where episodes are the replicates, the worst attack in one fold was chosen by the other. That is
    right for judging, but a fold that chooses must know nothing of the one that will judge.
    """
    parts = [returns[..., judge] for _, judge in reversed(folds(returns.shape[-1]))]
    return np.concatenate([picked(part, strongest(part)) for part in parts], axis=-1)


def judged(sample: Sample, choose: Callable[[Sample], int], limits: Limits) -> Choice:
    """Returns what each fold chose, as the other one finds it.

    Args:
        sample: of one panel.
        choose: the index of a sparsity, from the replicates of a fold.
        limits: of the returns.
    """
    n = len(sample.clean)
    column, chosen = np.empty(n, int), []
    for rows, judge in folds(n):
        chosen.append(choose(sample.part(rows)))
        column[judge] = chosen[-1]
    row = np.arange(n)
    clean, attacked = sample.clean[row, column], sample.attacked[row, column]
    dense = sample.clean[:, 0], sample.attacked[:, 0]
    returns = measured([clean, attacked, *dense], limits)
    return Choice(
        tuple(float(sample.sparsity[i]) for i in chosen),
        clean=returns[0],
        attacked=returns[1],
        dense_clean=returns[2],
        dense_attacked=returns[3],
        clean_change=change(clean, dense[0], limits),
        attacked_change=change(attacked, dense[1], limits),
    )


def measured(columns: Sequence[np.ndarray], limits: Limits) -> list[Measured]:
    """Returns the means of returns `[n]` each."""
    found = bounded_mean(np.stack(columns, axis=1), limits)
    each = zip(columns, zip(*found, strict=True), strict=True)
    return [Measured(Interval(*ends), column) for column, ends in each]


def change(pruned: np.ndarray, dense: np.ndarray, limits: Limits) -> Measured:
    """Returns the mean of pruned less dense, in pairs `[n]`."""
    each = pruned - dense
    return Measured(student_mean(each).clipped(of_differences(limits)), each)


def of_differences(limits: Limits) -> Limits:
    """Returns what a difference of two returns can be."""
    return limits[0] - limits[1], limits[1] - limits[0]
