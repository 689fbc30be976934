"""Local bounds by linear relaxation: every activation between two lines, substituted backwards.

All of it is about changes from a reference, the network as computed at the centre of the ball:

    z^ = W h^ + b,  h^ = sigma(z^),  z = z^ + dz,  h = h^ + dh,  dz = W dh + rho

with rho what rounding lost in computing z^. Biases drop out, and rounding errors are relative to
the changes instead of the values. Over the box that dz is known to stay in, a line on each side,

    lower dz + a <= dh <= upper dz + b,

turns a bound on rows A of changes dh into one of dz with A+ upper + A- lower for slopes, which is
A middle + |A| half, and on to the layer before, down to the ball: |A| eps.

Source: Zhang et al. 2018 (CROWN, arXiv 1811.00866), Singh et al. 2019 (DeepPoly).
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial, reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxprune.certify.activations import Activation, activation_rules
from jaxprune.certify.activations.base import Choice, Contact, Point
from jaxprune.certify.boxes import Box, enclosing
from jaxprune.certify.interval import ibp
from jaxprune.certify.query import Query, unit_ball_weights
from jaxprune.certify.rounding import known, outward, slack, vanished
from jaxprune.types import Array

# Of alpha-CROWN: iterates, and the first of the steps between them, which shrink to nothing.
ITERATES = 11
STEP = 0.2


class Layer(NamedTuple):
    """The outputs of an affine layer over the ball: value + change."""

    value: Array  # [n], z^
    change: Box  # [n], of dz
    rounding: Array  # [n], bounds rho, and what rounding loses when rows pass through this layer

    def box(self) -> Box:
        """Of the outputs, `[n]`."""
        return enclosing(Box(self.value + self.change.low, self.value + self.change.high))


class Units(NamedTuple):
    """A hidden layer and its activation."""

    layer: Layer
    value: Array  # [n], h^
    low: Point  # [n], at the ends of the box of z
    high: Point


class Line(NamedTuple):
    """dh = slope dz + offset."""

    slope: Array  # [n]
    offset: Array  # [n]


class Lines(NamedTuple):
    """The lines middle + half above and middle - half below an activation."""

    middle: Line
    half: Line


def crown(query: Query) -> Box:
    """CROWN: the outputs over the ball, `[outputs]`.

    The boxes of the hidden layers come from the same bound, each intersected with its interval
    bound, and so is the result.
    """
    return _layers(query, activation_rules(query.activation))[-1].box()


def alpha_crown(query: Query) -> Box:
    """CROWN with lines chosen by descent, for every end of every output on its own.

    Projected steps along the sign of the gradient. The boxes of the hidden layers stay those of
    CROWN. Every iterate is a bound, and the best one counts, CROWN's own being the first.

    Source: Xu et al. 2021 (arXiv 2011.13824).
    """
    rules = activation_rules(query.activation)
    *hidden, last = _layers(query, rules)
    if not hidden:
        return last.box()
    units = [units_over(rules, layer) for layer in hidden]
    *weights, rows = unit_ball_weights(query)
    # One after the other, for the memory that gradients take at many centres.
    least = jax.lax.map(
        partial(_least_reach, rules, units, weights), jnp.concatenate([rows, -rows])
    )
    up, down = jnp.split(least, 2)
    return _tightened(last, up, down).box()


def _least_reach(
    rules: Activation, units: Sequence[Units], weights: Sequence[Array], row: Array
) -> Array:
    """The smallest bound found on `row @ dh` of the last hidden layer, `[n] -> []`."""

    def reach(choices: list[Choice]) -> Array:
        lines = [lines_around(rules, *pair) for pair in zip(units, choices, strict=True)]
        return _reach(row[None], lines, weights)[0]

    def step(carry: tuple[list[Choice], Array], size: Array):
        choices, least = carry
        value, gradient = jax.value_and_grad(reach)(choices)
        moved = jax.tree.map(lambda c, g: jnp.clip(c - size * jnp.sign(g), 0, 1), choices, gradient)
        return (moved, jnp.minimum(least, value)), None

    start = [rules.choose(u.low, u.high) for u in units]
    sizes = jnp.linspace(STEP, 0, ITERATES, dtype=row.dtype)
    (_, least), _ = jax.lax.scan(step, (start, jnp.array(jnp.inf, row.dtype)), sizes)
    return least


def interval_jacobian(query: Query) -> Box:
    """The value at the centre, give or take J eps with |df / dx| <= J over the ball, `[outputs]`.

        [J] = W_L D_{L-1} W_{L-1} ... D_1 W_1,  D_k the slopes of layer k over its box

    multiplied in interval arithmetic from the left. J also bounds the change between any two
    points of the ball, but as a bound from its centre CROWN is tighter. The boxes are CROWN's: from
    interval bounds J would be cheaper, and at eps 0.01 on 11-64-64-3 more than twice as large.

    Source: Weng et al. 2018 (Fast-Lip, arXiv 1804.09699).
    """
    rules = activation_rules(query.activation)
    *hidden, _ = _layers(query, rules)
    *weights, rows = unit_ball_weights(query)
    middle, radius = rows, jnp.zeros_like(rows)
    for layer, weight in zip(reversed(hidden), reversed(weights), strict=True):
        slope = rules.slopes(layer.box())
        low, high = middle - radius, middle + radius
        low = jnp.minimum(low * slope.low, low * slope.high)
        high = jnp.maximum(high * slope.low, high * slope.high)
        middle, radius = (low + high) / 2, (high - low) / 2
        radius = radius + slack(len(weight), weight.dtype) * (jnp.abs(middle) + radius)
        middle, radius = middle @ weight, radius @ jnp.abs(weight)
    change = outward(jnp.sum(jnp.abs(middle) + radius, axis=-1), query.eps.size)
    at = ibp(replace(query, eps=jnp.zeros_like(query.eps)))
    lost = slack(0, change.dtype) * change
    return enclosing(Box(at.low - change - lost, at.high + change + lost))


def _layers(query: Query, rules: Activation) -> list[Layer]:
    """Every layer over the ball, first to last."""
    weights = unit_ball_weights(query)
    found: list[Layer] = []
    lines: list[Lines] = []
    h, dh = query.centre, Box(-query.eps, query.eps)
    for weight, bias in query.layers:
        if found:
            units = units_over(rules, found[-1])
            lines.append(lines_around(rules, units, rules.choose(units.low, units.high)))
            h, dh = units.value, _change(rules, units)
        layer = _affine(weight, bias, h, dh)
        if lines:
            layer = _tightened(layer, *_reaches(weight, lines, weights[: len(lines)]))
        found.append(layer)
    return found


def _affine(weight: Array, bias: Array, h: Array, dh: Box) -> Layer:
    """The interval image of h + dh."""
    centre, radius = (dh.low + dh.high) / 2, (dh.high - dh.low) / 2
    size = jnp.abs(weight)
    value = h @ weight.T + bias
    # Rounding of the value, of the box below and of rows times this weight, all n-term sums.
    lost = slack(weight.shape[1], weight.dtype)
    rounding = lost * ((jnp.abs(h) + jnp.abs(centre) + radius) @ size.T + jnp.abs(bias))
    rounding = rounding + vanished(weight.shape[1], weight.dtype)
    middle, reach = centre @ weight.T, radius @ size.T + rounding
    return Layer(value, Box(middle - reach, middle + reach), rounding)


def _tightened(layer: Layer, up: Array, down: Array) -> Layer:
    """The layer, knowing that W dh is in `[-down, up]`."""
    low = jnp.maximum(layer.change.low, -known(down + layer.rounding))
    high = jnp.minimum(layer.change.high, known(up + layer.rounding))
    return layer._replace(change=Box(low, high))


def units_over(rules: Activation, layer: Layer) -> Units:
    """The activation over the box of a layer."""
    low, high = (rules.point(end) for end in layer.box())
    return Units(layer, rules.point(layer.value).value, low, high)


def _change(rules: Activation, units: Units) -> Box:
    """Returns a box of dh, `[n]`."""
    low, high = rules.values(units.low, units.high)
    lost = _activation_error(units)
    return Box(low - units.value - lost, high - units.value + lost)


def _activation_error(units: Units) -> Array:
    """Of differences of two values of the activation, `[n]`."""
    size = jnp.abs(units.low.value) + jnp.abs(units.high.value) + jnp.abs(units.value)
    return slack(0, size.dtype) * size


def lines_around(rules: Activation, units: Units, choice: Choice) -> Lines:
    """The lines chosen, in terms of W dh: dz but for rho, which goes to the offsets."""
    low, high, layer = units.low, units.high, units.layer
    above = rules.above(low, high, choice.above)
    below = rules.below(low, high, choice.below)
    top = reduce(jnp.maximum, _offsets(units, above))
    bottom = reduce(jnp.minimum, _offsets(units, below))
    middle = Line((above.slope + below.slope) / 2, (top + bottom) / 2)
    half = Line((above.slope - below.slope) / 2, (top - bottom) / 2)
    # Slopes are off by a few roundings too, and offsets will be summed over the layer.
    steepest = jnp.maximum(above.slope, below.slope)
    lost = _activation_error(units) + slack(0, high.x.dtype) * steepest * (high.x - low.x)
    lost += slack(high.x.size, high.x.dtype) * (jnp.abs(middle.offset) + half.offset)
    return Lines(middle, half._replace(offset=half.offset + lost + layer.rounding))


def _offsets(units: Units, contact: Contact) -> list[Array]:
    """Of the lines of that slope through each of the points."""
    z, h = units.layer.value, units.value
    return [p.value - h - contact.slope * (p.x - z) for p in contact.points]


def _reaches(rows: Array, lines: Sequence[Lines], weights: Sequence[Array]) -> tuple[Array, Array]:
    """Bounds on `rows @ dh` and on `-rows @ dh`, dh of the layer of the last lines, `[m]` each.

    Args:
        rows: `[m, n]`.
        lines: of the layers before, first to last.
        weights: of the same layers, eps folded into the first.
    """
    if len(lines) == 1:
        return _reaches_of_first(rows, lines[0], weights[0])
    return _reach(rows, lines, weights), _reach(-rows, lines, weights)


def _reach(rows: Array, lines: Sequence[Lines], weights: Sequence[Array]) -> Array:
    """A bound on `rows @ dh`, `[m]`; arguments as of `_reaches`."""
    reach = jnp.zeros(len(rows), rows.dtype)
    for (middle, half), weight in zip(reversed(lines), reversed(weights), strict=True):
        size = jnp.abs(rows)
        reach = reach + rows @ middle.offset + size @ half.offset
        rows = (rows * middle.slope + size * half.slope) @ weight
    return outward(reach + jnp.sum(jnp.abs(rows), axis=-1), rows.shape[1])


def _reaches_of_first(rows: Array, lines: Lines, weight: Array) -> tuple[Array, Array]:
    """`_reaches` through one layer, in an order for many centres of the same network.

        sum_j rows_ij slope_j weight_jk = slope . T_ki,  T_ki = rows_i * weight_k

    T is the same at all centres, so that this, the bulk of the work, is one large matrix product.
    """

    def product(rows: Array, slope: Array) -> Array:
        table = rows.T[:, None, :] * weight[:, :, None]  # [n, inputs, m]
        return (slope @ table.reshape(len(slope), -1)).reshape(table.shape[1:])

    middle, half = lines
    size = jnp.abs(rows)
    even, odd = product(rows, middle.slope), product(size, half.slope)
    even_offset, odd_offset = middle.offset @ rows.T, half.offset @ size.T
    up = odd_offset + even_offset + jnp.sum(jnp.abs(odd + even), axis=0)
    down = odd_offset - even_offset + jnp.sum(jnp.abs(odd - even), axis=0)
    return outward(up, weight.shape[1]), outward(down, weight.shape[1])
