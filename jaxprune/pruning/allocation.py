"""How sparse every leaf becomes, and which leaves compete: exact arithmetic on the host.

An allocation puts the prunable leaves into *groups* whose weights are ranked together, and gives
every leaf the sparsity it is meant to have. The number of weights that a group loses is

    round(sum over its leaves of sparsity * size)

in exact decimal arithmetic, halves to even as in `torch.nn.utils.prune`: 0.9 of 192 is 173, and
0.29 of 100 is 29, not 28. Counts never fall when the sparsity rises, so that masks nest.
"""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import NamedTuple, TypeAlias

from jaxprune.families import InputError

Shape: TypeAlias = tuple[int, ...]


class Shares(NamedTuple):
    """What an allocation decides about the leaves, in leaf order."""

    groups: tuple[int, ...]  # leaves of a group compete with each other
    sparsity: tuple[Fraction, ...]  # of every leaf; of a group on average


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
    return Shares((0,) * len(shapes), (exact(sparsity),) * len(shapes))


def uniform(shapes: Sequence[Shape], sparsity: float | Fraction) -> Shares:
    """Every leaf is its own group and loses the same fraction."""
    return Shares(tuple(range(len(shapes))), (exact(sparsity),) * len(shapes))


def erk(shapes: Sequence[Shape], sparsity: float | Fraction) -> Shares:
    """Erdos-Renyi-kernel: small layers stay denser.

        density_l = c * sum(shape_l) / prod(shape_l)

    with c such that the budget, sum_l (n_l - floor(sparsity * n_l)) weights, is spent. Where a
    density exceeds 1, the densest layer stays dense, its weights leave the budget, and c is solved
    again. At moderate sparsity that leaves the first and the last layer of a policy dense, and all
    pruning falls on the hidden ones: allocation confounds "robustness against sparsity".

    Source: Evci et al. 2020 (RigL, arXiv 1911.11134), Mocanu et al. 2018; the budget with floors
    is that of RigL's code.
    """
    s = exact(sparsity)
    sizes = [math.prod(shape) for shape in shapes]
    raw = [Fraction(sum(shape), size) for shape, size in zip(shapes, sizes, strict=True)]
    budget = sum(size - math.floor(s * size) for size in sizes)
    densities = {}
    while len(densities) < len(shapes):
        rest = [i for i in range(len(shapes)) if i not in densities]
        left = budget - sum(sizes[i] for i in densities)
        scale = Fraction(left) / sum(raw[i] * sizes[i] for i in rest)
        densest = max(rest, key=lambda i: raw[i])
        if scale * raw[densest] > 1:
            densities[densest] = Fraction(1)
        else:
            densities |= {i: scale * raw[i] for i in rest}
    return Shares(tuple(range(len(shapes))), tuple(1 - densities[i] for i in range(len(shapes))))


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
    groups, fractions = allocation([shapes[path] for path in free], sparsity) if free else ((), ())
    first = max(groups, default=-1) + 1
    group = dict(zip(free, groups, strict=True)) | {p: first + i for i, p in enumerate(own)}
    share = dict(zip(free, fractions, strict=True)) | {p: exact(x) for p, x in own.items()}
    return Shares(tuple(group[path] for path in shapes), tuple(share[path] for path in shapes))
