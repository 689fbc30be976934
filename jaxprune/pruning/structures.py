"""What is removed as one: single weights, weights within a row, or whole hidden units.

A structure takes the leaves of a network apart into units that compete, and puts the decision
about the units back together as masks. Units of *joint* structures compete across the leaves of a
group; those of the others within a row of their own leaf, `[..., k]`, so that every row loses the
same number.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxprune.pruning.allocation import Shape, Shares
from jaxprune.pruning.ranking import Units
from jaxprune.pruning.scope import Prunable, named_leaves
from jaxprune.types import Array, Masks, Params
from jaxprune.validation import InputError

Shapes = dict[str, Shape]


class Competing(NamedTuple):
    """The units of one leaf that compete with each other."""

    units: int
    share: Fraction  # of them, to go
    density: Fraction | None = None  # see `Shares`; None: the share is rounded by itself


class Structure(NamedTuple):
    """How leaves become units that compete, and back."""

    joint: bool
    """Whether the units of several leaves may compete."""
    check: Callable[[Shapes], None]
    """(shapes of the prunable leaves); raises `InputError` where the structure does not fit."""
    competing: Callable[[Shapes, Shares], list[Competing]]
    """(shapes, shares) -> of every leaf of units, what competes."""
    scores: Callable[[Params, Prunable], Units]
    """Scores of the weights -> scores of the units."""
    keep: Callable[[Masks, Prunable], Units]
    """Masks -> which units they left."""
    masks: Callable[[Units, Masks, Prunable], Masks]
    """(units to keep, masks of the right shapes) -> masks."""


# --- single weights -------------------------------------------------------------------------------


def _flat(tree: Params, prunable: Prunable) -> Units:
    return {name: leaf.ravel() for name, leaf in named_leaves(tree) if prunable(name)}


def _placed(units: Units, like: Masks, prunable: Prunable) -> Masks:
    """The units as masks, in the shapes of `like`; everything else is kept."""
    leaves = [
        units[name].reshape(leaf.shape) if prunable(name) else jnp.ones(leaf.shape, bool)
        for name, leaf in named_leaves(like)
    ]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


WEIGHTS = Structure(
    joint=True,
    check=lambda shapes: None,
    competing=lambda shapes, shares: [
        Competing(math.prod(shape), share, density)
        for shape, share, density in zip(
            shapes.values(), shares.sparsity, shares.density, strict=True
        )
    ],
    scores=_flat,
    keep=_flat,
    masks=_placed,
)

# --- rows -----------------------------------------------------------------------------------------


def _blocks(tree: Params, prunable: Prunable, size: int | None) -> Units:
    """Kernels `[in, out]` as `[out, in / size, size]`; the whole input axis if size is None."""
    return {
        name: leaf.T.reshape(leaf.shape[1], -1, size or leaf.shape[0])
        for name, leaf in named_leaves(tree)
        if prunable(name)
    }


def _unblocked(units: Units, like: Masks, prunable: Prunable) -> Masks:
    kernels = {name: x.reshape(x.shape[0], -1).T for name, x in units.items()}
    return _placed(kernels, like, prunable)


def rows(size: int | None) -> Structure:
    """Blocks of `size` consecutive inputs of one output unit compete; None: all its inputs.

    With `size` M that is N:M sparsity, N of every M weights stay (2:4 is what tensor cores run).
    """

    def check(shapes: Shapes) -> None:
        for path, shape in shapes.items():
            if len(shape) != 2:
                raise InputError(f"{path} is no kernel: prune rows of kernels only, not biases")
            if size and shape[0] % size:
                raise InputError(
                    f"N:{size} does not divide the {shape[0]} inputs of {path}: choose another "
                    "structure, or leave the layer out (first_layer, last_layer)"
                )

    def competing(shapes: Shapes, shares: Shares) -> list[Competing]:
        pairs = zip(shapes.values(), shares.sparsity, strict=True)
        return [Competing(size or shape[0], share) for shape, share in pairs]

    take_apart = partial(_blocks, size=size)
    return Structure(False, check, competing, take_apart, take_apart, _unblocked)


# --- hidden units ---------------------------------------------------------------------------------


def _hidden(paths: Sequence[str]) -> list[tuple[str, str]]:
    """Of every hidden layer, the paths of the kernels that lead into it and out of it."""
    kernels = [path for path in paths if path.endswith("/kernel")]
    pairs = itertools.pairwise(kernels)
    return [(a, b) for a, b in pairs if a.split("/")[0] == b.split("/")[0]]


def _check_units(shapes: Shapes) -> None:
    pairs = _hidden(list(shapes))
    numbers = [int(path.split("/")[1].removeprefix("layer_")) for path in shapes]
    gaps = any(b - a > 1 for a, b in itertools.pairwise(numbers))
    if not pairs or gaps or any(len(shape) != 2 for shape in shapes.values()):
        raise InputError(
            "neurons need the kernels before and after a hidden layer: let the first and the last "
            "layer be pruned (first_layer, last_layer), and not the biases"
        )


def unit_share(shapes: Shapes, sparsity: Fraction) -> Fraction:
    """The fraction of the units of every hidden layer whose removal comes nearest to a sparsity.

    Removing units removes their incoming and outgoing weights, so that half of the units of two
    neighbouring layers is three quarters of the weights between them.
    """
    pairs = _hidden(list(shapes))
    widths = {a: shapes[a][1] for a, _ in pairs}
    total = sum(math.prod(shape) for shape in shapes.values())

    def left(share: Fraction) -> int:
        kept = {path: width - round(share * width) for path, width in widths.items()}
        before = {b: kept[a] for a, b in pairs}
        return sum(
            before.get(path, shape[0]) * kept.get(path, shape[1]) for path, shape in shapes.items()
        )

    largest = max(widths.values())
    shares = [Fraction(count, largest) for count in range(largest)]
    return min(shares, key=lambda share: abs((1 - sparsity) * total - left(share)))


def _competing_units(shapes: Shapes, shares: Shares) -> list[Competing]:
    weights = [math.prod(shape) for shape in shapes.values()]
    asked = sum(n * share for n, share in zip(weights, shares.sparsity, strict=True)) / sum(weights)
    share = unit_share(shapes, Fraction(asked))
    return [Competing(shapes[a][1], share) for a, _ in _hidden(list(shapes))]


def _pooled(tree: Params, prunable: Prunable) -> Units:
    """Of every hidden unit, the sum over the weights that lead into it and out of it."""
    leaves = {name: leaf for name, leaf in named_leaves(tree) if prunable(name)}
    return {a: leaves[a].sum(0) + leaves[b].sum(1) for a, b in _hidden(list(leaves))}


def _connected(masks: Masks, prunable: Prunable) -> Units:
    leaves = {name: leaf for name, leaf in named_leaves(masks) if prunable(name)}
    return {a: leaves[a].any(0) | leaves[b].any(1) for a, b in _hidden(list(leaves))}


def _units_to_weights(units: Units, like: Masks, prunable: Prunable) -> Masks:
    """A weight stays if both of the units that it connects do."""
    leaves = {name: leaf for name, leaf in named_leaves(like) if prunable(name)}
    kernels: dict[str, Array] = {name: jnp.ones(leaf.shape, bool) for name, leaf in leaves.items()}
    for a, b in _hidden(list(leaves)):
        kernels[a] &= units[a][None, :]
        kernels[b] &= units[a][:, None]
    return _placed(kernels, like, prunable)


NEURONS = Structure(
    joint=True,
    check=_check_units,
    competing=_competing_units,
    scores=_pooled,
    keep=_connected,
    masks=_units_to_weights,
)

STRUCTURES: dict[str, Structure] = {
    "weights": WEIGHTS,
    "outputs": rows(None),
    "neurons": NEURONS,
    "n_of_4": rows(4),
    "n_of_8": rows(8),
}
