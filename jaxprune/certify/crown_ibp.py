"""Boxes of the change of the outputs over a ball, with gradients: IBP and CROWN-IBP.

Differentiable and not rounded outward: for training. `crown` is the sound one.

Source: Zhang et al. 2020 (arXiv 1906.06316).
"""

from collections.abc import Sequence

import jax.numpy as jnp

from jaxprune.certify.activations import Activation, activation_rules
from jaxprune.certify.activations.base import Point
from jaxprune.certify.boxes import Box
from jaxprune.certify.crown import Line, Lines
from jaxprune.certify.query import Query, unit_ball_weights
from jaxprune.policy import Affine
from jaxprune.types import Array

# --- bounds ---------------------------------------------------------------------------------------


def output_changes(query: Query) -> tuple[Array, Box, Box]:
    """The outputs at the centre, and boxes of their change over the ball: IBP and CROWN-IBP.

    CROWN-IBP substitutes backwards from the outputs only; the boxes in which activations are
    relaxed are those of IBP, where the CROWN of `jaxprune.certify` would compute its own. As there,
    the result is intersected with IBP's: it is never the looser of the two. Without the outward
    rounding of `jaxprune.certify`, and with one contact point per line, a gradient takes half as
    long.

    Changes from the centre, because without a ball they are 0 and not the rounding of outputs.

    Returns:
        `[outputs]` each.

    Source: Zhang et al. 2020 (CROWN-IBP, arXiv 1906.06316), Gowal et al. 2018 (IBP).
    """
    rules = activation_rules(query.activation)
    *hidden, last = query.layers
    lines: list[Lines] = []
    at, change = query.centre, Box(-query.eps, query.eps)
    for affine in hidden:
        z, dz = _affine(affine, at, change)
        centre, low, high = (rules.point(x) for x in (z, z + dz.low, z + dz.high))
        lines.append(_around(rules, centre, low, high))
        at, change = centre.value, Box(*(end - centre.value for end in rules.values(low, high)))
    value, interval = _affine(last, at, change)
    *weights, rows = unit_ball_weights(query)
    up, down = jnp.split(_reach(jnp.concatenate([rows, -rows]), lines, weights), 2)
    linear = Box(jnp.maximum(interval.low, -down), jnp.minimum(interval.high, up))
    return value, interval, linear


def _affine(affine: Affine, at: Array, change: Box) -> tuple[Array, Box]:
    """The image of `at`, and the interval image of a change from it."""
    middle = affine.weight @ ((change.low + change.high) / 2)
    reach = jnp.abs(affine.weight) @ ((change.high - change.low) / 2)
    return affine.weight @ at + affine.bias, Box(middle - reach, middle + reach)


def _reach(rows: Array, lines: Sequence[Lines], weights: Sequence[Array]) -> Array:
    """A bound on `rows @ dh`, dh of the last hidden layer, `[m, n] -> [m]`.

    As in `jaxprune.certify.crown`: lines middle + half above and middle - half below turn rows A of
    changes dh into rows A middle + |A| half of dz, and on to the ball, where |A| eps is left.

    Args:
        rows: `[m, n]`.
        lines: around the hidden activations, first to last.
        weights: of the hidden layers, eps folded into the first.
    """
    reach = jnp.zeros(len(rows), rows.dtype)
    for (middle, half), weight in zip(reversed(lines), reversed(weights), strict=True):
        size = jnp.abs(rows)
        reach = reach + rows @ middle.offset + size @ half.offset
        rows = (rows * middle.slope + size * half.slope) @ weight
    return reach + jnp.sum(jnp.abs(rows), axis=-1)


def _around(rules: Activation, centre: Point, low: Point, high: Point) -> Lines:
    """Lines around the change dh of an activation from its centre, over the change dz."""
    above, below = rules.rays(low, high)
    top, bottom = (
        through.value - centre.value - slope * (through.x - centre.x)
        for slope, through in (above, below)
    )
    middle = Line((above.slope + below.slope) / 2, (top + bottom) / 2)
    return Lines(middle, Line((above.slope - below.slope) / 2, (top - bottom) / 2))
