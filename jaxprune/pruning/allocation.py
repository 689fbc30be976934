"""How sparse every leaf becomes, and which leaves compete: exact arithmetic on the host.

An allocation puts the prunable leaves into *groups* whose weights are ranked together, and gives
every leaf the sparsity it is meant to have. The number of weights that all groups lose together is

    round(sum over their leaves of sparsity * size)

in exact decimal arithmetic, halves to even as in `torch.nn.utils.prune`: 0.9 of 192 is 173, and
0.29 of 100 is 29, not 28. It is the same for every allocation, so that they are compared at equal
totals; how the groups share it is up to `apportioned`. Counts never fall when the sparsity rises,
so that masks nest.
"""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import NamedTuple, TypeAlias

from jaxprune.validation import InputError

Shape: TypeAlias = tuple[int, ...]

EQUAL, HALF = Fraction(1), Fraction(1, 2)
# Halvings of the interval that holds the factor of `apportioned`; what is left is exact anyway.
HALVINGS = 64


class Shares(NamedTuple):
    """What an allocation decides about the leaves, in leaf order."""

    groups: tuple[int, ...]  # leaves of a group compete with each other
    sparsity: tuple[Fraction, ...]  # of every leaf; of a group on average
    # What a leaf keeps per weight, relative to others; None: its sparsity is its own affair.
    density: tuple[Fraction | None, ...]


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


def global_(shapes: Sequence[Shape], sparsity: float | Fraction) -> Shares:
    """One group: the lowest scores of all leaves together go first."""
    return Shares((0,) * len(shapes), (exact(sparsity),) * len(shapes), (EQUAL,) * len(shapes))


def uniform(shapes: Sequence[Shape], sparsity: float | Fraction) -> Shares:
    """Every leaf is its own group and loses the same fraction."""
    count = len(shapes)
    return Shares(tuple(range(count)), (exact(sparsity),) * count, (EQUAL,) * count)


def erk(shapes: Sequence[Shape], sparsity: float | Fraction) -> Shares:
    """Erdos-Renyi-kernel: small layers stay denser.

        density_l = c * sum(shape_l) / prod(shape_l)

    with c such that the budget, (1 - sparsity) sum_l n_l weights, is spent. Where a density
    exceeds 1, the densest layer stays dense, its weights leave the budget, and c is solved again.
    At moderate sparsity that leaves the first and the last layer of a policy dense, and all pruning
    falls on the hidden ones: allocation confounds "robustness against sparsity".

    Source: Evci et al. 2020 (RigL, arXiv 1911.11134), Mocanu et al. 2018. RigL's code rounds the
    budget up in every layer and so keeps more than other allocations do, 501 of 4992 at 0.9.
    """
    s = exact(sparsity)
    sizes = [math.prod(shape) for shape in shapes]
    raw = [Fraction(sum(shape), size) for shape, size in zip(shapes, sizes, strict=True)]
    budget = (1 - s) * sum(sizes)
    densities = {}
    while len(densities) < len(shapes):
        rest = [i for i in range(len(shapes)) if i not in densities]
        left = budget - sum(sizes[i] for i in densities)
        scale = left / sum(raw[i] * sizes[i] for i in rest)
        densest = max(rest, key=lambda i: raw[i])
        if scale * raw[densest] > 1:
            densities[densest] = Fraction(1)
        else:
            densities |= {i: scale * raw[i] for i in rest}
    sparse = tuple(1 - densities[i] for i in range(len(shapes)))
    return Shares(tuple(range(len(shapes))), sparse, tuple(raw))


ALLOCATIONS: dict[str, Callable[[Sequence[Shape], float | Fraction], Shares]] = {
    "global": global_,
    "uniform": uniform,
    "erk": erk,
}


def share_out(
    shapes: dict[str, Shape],
    allocation: Callable[[Sequence[Shape], float | Fraction], Shares],
    sparsity: float | Fraction,
    own: dict[str, float],
) -> Shares:
    """The shares of all leaves, some of which have a sparsity of their own.

    Args:
        shapes: by path, in leaf order.
        allocation: a value of `ALLOCATIONS`, for the other leaves.
        sparsity: of the others; at 0 nothing is pruned anywhere.
        own: path -> sparsity, a group of its own.
    """
    own = own if exact(sparsity) else dict.fromkeys(own, 0.0)
    free = [path for path in shapes if path not in own]
    shared = allocation([shapes[path] for path in free], sparsity) if free else Shares((), (), ())
    first = max(shared.groups, default=-1) + 1
    of_own = [(first + i, exact(x), None) for i, x in enumerate(own.values())]
    of_leaf = dict(zip([*free, *own], [*zip(*shared, strict=True), *of_own], strict=True))
    groups, sparse, density = zip(*(of_leaf[path] for path in shapes), strict=True)
    return Shares(groups, sparse, density)


def apportioned(
    total: int, weights: Sequence[Fraction], least: Sequence[int], most: Sequence[int]
) -> list[int]:
    """Shares `total` out in proportion to the weights, in whole numbers that add up to it.

        clip(round(c * weight), least, most)

    for the one c that spends the total (Webster's method). Where several change at the same c, the
    first come first. No share falls when the total rises, which rounding by largest remainders
    does not promise.

    Args:
        total: from sum(least) to sum(most).
        weights: positive, `[n]`, as are all arguments.
        least: what each has in any case.
        most: what each can have.

    Source: Balinski and Young 2001, Fair Representation, appendix A.
    """

    def shares(factor: Fraction) -> list[int]:
        found = (math.floor(factor * weight + HALF) for weight in weights)
        return [min(max(x, a), b) for x, a, b in zip(found, least, most, strict=True)]

    low, high = Fraction(0), max(Fraction(b) / w for b, w in zip(most, weights, strict=True))
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(shares(middle)) <= total else (low, middle)
    found = shares(low)
    while sum(found) < total:  # those that change together, or too close to tell apart
        open_ = [i for i in range(len(found)) if found[i] < most[i]]
        found[min(open_, key=lambda i: (found[i] + HALF) / weights[i])] += 1
    return found
