"""How many weights go where: exact integer counts, computed on the host.

An allocation puts the prunable leaves into *groups* that are ranked together and gives every group
the number of weights to prune. Counts are `round(sparsity * size)` in exact decimal arithmetic,
halves to even as in `torch.nn.utils.prune`: 0.9 of 192 is 173, and 0.29 of 100 is 29, not 28.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from jaxprune.families import InputError


class Allocation(NamedTuple):
    """Which leaves compete with each other, and how many weights each group loses."""

    groups: tuple[int, ...]  # group of every prunable leaf, in leaf order
    counts: tuple[int, ...]  # weights to prune, per group


def exact(sparsity: float | Fraction) -> Fraction:
    """The decimal number that a person wrote: 0.9 is 9/10, not the nearest binary fraction.

    Raises:
        InputError: outside [0, 1).
    """
    if not 0 <= sparsity < 1:  # NaN too
        raise InputError(
            f"sparsity {float(sparsity):g} is outside [0, 1): give the fraction of weights to "
            "remove, e.g. 0.5"
        )
    return sparsity if isinstance(sparsity, Fraction) else Fraction(str(float(sparsity)))


def global_(sizes: Sequence[int], sparsity: float | Fraction) -> Allocation:
    """One group: the lowest scores of all leaves together go first."""
    return Allocation((0,) * len(sizes), (round(exact(sparsity) * sum(sizes)),))


def uniform(sizes: Sequence[int], sparsity: float | Fraction) -> Allocation:
    """Every leaf is its own group and loses the same fraction."""
    counts = tuple(round(exact(sparsity) * size) for size in sizes)
    return Allocation(tuple(range(len(sizes))), counts)


ALLOCATIONS = {"global": global_, "uniform": uniform}
