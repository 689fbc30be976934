"""Boxes of the change of the outputs over a ball, with gradients: IBP and CROWN-IBP.

Differentiable and not rounded outward: for training. `crown` is the sound one.

Source: Zhang et al. 2020 (arXiv 1906.06316).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp

from jaxprune.certify.crown import Line, Lines
from jaxprune.certify.interval import Box
from jaxprune.certify.query import Query, unit_ball_weights
from jaxprune.policy import ACTIVATIONS, Affine
from jaxprune.types import Array
from jaxprune.validation import lookup

# --- bounds ---------------------------------------------------------------------------------------


class Point(NamedTuple):
    """A point of the graph of an activation."""

    x: Array  # [n]
    value: Array  # [n]


class Ray(NamedTuple):
    """The line of a slope through a point."""

    slope: Array  # [n]
    through: Point


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
    activation = lookup(ACTIVATIONS, query.activation, "activation")
    *hidden, last = query.layers
    lines: list[Lines] = []
    at, change = query.centre, Box(-query.eps, query.eps)
    for affine in hidden:
        z, dz = _affine(affine, at, change)
        centre, low, high = (Point(x, activation(x)) for x in (z, z + dz.low, z + dz.high))
        lines.append(_around(query.activation, centre, low, high))
        at, change = centre.value, Box(low.value - centre.value, high.value - centre.value)
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


def _around(activation: str, centre: Point, low: Point, high: Point) -> Lines:
    """Lines around the change dh of an activation from its centre, over the change dz."""
    above, below = RAYS[activation](low, high)
    top, bottom = (
        through.value - centre.value - slope * (through.x - centre.x)
        for slope, through in (above, below)
    )
    middle = Line((above.slope + below.slope) / 2, (top + bottom) / 2)
    return Lines(middle, Line((above.slope - below.slope) / 2, (top - bottom) / 2))


def tanh_rays(low: Point, high: Point) -> tuple[Ray, Ray]:
    """Above and below tanh, which is odd."""
    slope, through = _above_tanh(_mirrored(high), _mirrored(low))
    return _above_tanh(low, high), Ray(slope, _mirrored(through))


def _mirrored(point: Point) -> Point:
    return Point(-point.x, -point.value)


def _above_tanh(low: Point, high: Point) -> Ray:
    """The chord if it stays above tanh, else the tangent at the middle of the box.

    But no further left than where the tangent passes through the lower end -a. A fit of that place,
    t in tanh t + tanh a = sech^2(t) (t + a), is at least 0.992 t; 1 % further right it is safe.

    Of `jnp.where` only: the gradients of `jnp.maximum`, which split ties, cost more.
    """
    width = high.x - low.x
    chord = (high.value - low.value) / jnp.where(width > 0, width, 1.0)
    chord_holds = chord <= 1 - high.value**2
    a = jnp.where(low.x < 0, -low.x, 0.0)
    first = 1.01 * a * (1 + a * (1.87 + 0.0105 * a)) / (2 + a * (3.32 + 0.965 * a))
    middle = (low.x + high.x) / 2
    x = jnp.where(middle > first, middle, first)
    x = jnp.where(chord_holds | (x > high.x), high.x, x)
    touch = Point(x, jnp.tanh(x))
    return Ray(jnp.where(chord_holds, chord, 1 - touch.value**2), touch)


def relu_rays(low: Point, high: Point) -> tuple[Ray, Ray]:
    """The chord above; slope 0 or 1, whichever leaves the smaller triangle, below."""
    width = high.x - low.x
    bent = (low.x < 0) & (high.x > 0)
    active = (high.x > 0).astype(high.x.dtype)
    above = jnp.where(bent, high.x / jnp.where(bent, width, 1.0), active)
    bend = jnp.clip(0.0, low.x, high.x)
    below = (high.x > -low.x).astype(high.x.dtype)
    return Ray(above, high), Ray(below, Point(bend, jnp.maximum(bend, 0.0)))


# (low, high) -> lines above and below an activation over the box.
RAYS: dict[str, Callable[[Point, Point], tuple[Ray, Ray]]] = {"tanh": tanh_rays, "relu": relu_rays}
