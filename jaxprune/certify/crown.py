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

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial, reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxprune.certify.interval import SLOPES, Box, enclosing, ibp, tanh_slope
from jaxprune.certify.query import Query, unit_ball_weights
from jaxprune.certify.rounding import known, outward, slack, vanished
from jaxprune.types import Array
from jaxprune.validation import lookup

# Of alpha-CROWN: iterates, and the first of the steps between them, which shrink to nothing.
ITERATES = 11
STEP = 0.2


class Point(NamedTuple):
    """A point of the graph of an activation."""

    x: Array
    value: Array
    slope: Array


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


class Choice(NamedTuple):
    """Which line to take of those that an activation offers, each in [0, 1]."""

    below: Array  # [n]
    above: Array  # [n]


class Contact(NamedTuple):
    """The slope of a line on one side of an activation, and the points where it may touch."""

    slope: Array  # [n]
    points: tuple[Point, ...]


class Line(NamedTuple):
    """dh = slope dz + offset."""

    slope: Array  # [n]
    offset: Array  # [n]


class Lines(NamedTuple):
    """The lines middle + half above and middle - half below an activation."""

    middle: Line
    half: Line


class Relaxation(NamedTuple):
    """The lines on both sides of an activation over `[low.x, high.x]`."""

    point: Callable[[Array], Point]
    choose: Callable[[Point, Point], Choice]
    """(low, high) -> what plain CROWN takes."""
    below: Callable[[Point, Point, Array], Contact]
    """(low, high, choice `[n]`) -> a slope, and points one of which a line of that slope meets
    first when it rises from below."""
    above: Callable[[Point, Point, Array], Contact]
    """The same for a line that descends from above."""


def crown(query: Query) -> Box:
    """CROWN: the outputs over the ball, `[outputs]`.

    The boxes of the hidden layers come from the same bound, each intersected with its interval
    bound, and so is the result.
    """
    return _layers(query, _relaxation(query))[-1].box()


def alpha_crown(query: Query) -> Box:
    """CROWN with lines chosen by descent, for every end of every output on its own.

    Projected steps along the sign of the gradient. The boxes of the hidden layers stay those of
    CROWN. Every iterate is a bound, and the best one counts, CROWN's own being the first.

    Source: Xu et al. 2021 (arXiv 2011.13824).
    """
    relaxation = _relaxation(query)
    *hidden, last = _layers(query, relaxation)
    if not hidden:
        return last.box()
    units = [units_over(relaxation, layer) for layer in hidden]
    *weights, rows = unit_ball_weights(query)
    # One after the other, for the memory that gradients take at many centres.
    least = jax.lax.map(
        partial(_least_reach, relaxation, units, weights), jnp.concatenate([rows, -rows])
    )
    up, down = jnp.split(least, 2)
    return _tightened(last, up, down).box()


def _least_reach(
    relaxation: Relaxation, units: Sequence[Units], weights: Sequence[Array], row: Array
) -> Array:
    """The smallest bound found on `row @ dh` of the last hidden layer, `[n] -> []`."""

    def reach(choices: list[Choice]) -> Array:
        lines = [lines_around(relaxation, *pair) for pair in zip(units, choices, strict=True)]
        return _reach(row[None], lines, weights)[0]

    def step(carry: tuple[list[Choice], Array], size: Array):
        choices, least = carry
        value, gradient = jax.value_and_grad(reach)(choices)
        moved = jax.tree.map(lambda c, g: jnp.clip(c - size * jnp.sign(g), 0, 1), choices, gradient)
        return (moved, jnp.minimum(least, value)), None

    start = [relaxation.choose(u.low, u.high) for u in units]
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
    relaxation = _relaxation(query)
    *hidden, _ = _layers(query, relaxation)
    *weights, rows = unit_ball_weights(query)
    middle, radius = rows, jnp.zeros_like(rows)
    for layer, weight in zip(reversed(hidden), reversed(weights), strict=True):
        slope = SLOPES[query.activation](layer.box())
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


def _relaxation(query: Query) -> Relaxation:
    return lookup(RELAXATIONS, query.activation, "activation with a linear relaxation")


def _layers(query: Query, relaxation: Relaxation) -> list[Layer]:
    """Every layer over the ball, first to last."""
    weights = unit_ball_weights(query)
    found: list[Layer] = []
    lines: list[Lines] = []
    h, dh = query.centre, Box(-query.eps, query.eps)
    for weight, bias in query.layers:
        if found:
            units = units_over(relaxation, found[-1])
            lines.append(lines_around(relaxation, units, relaxation.choose(units.low, units.high)))
            h, dh = units.value, _change(units)
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


def units_over(relaxation: Relaxation, layer: Layer) -> Units:
    """The activation over the box of a layer."""
    low, high = (relaxation.point(end) for end in layer.box())
    return Units(layer, relaxation.point(layer.value).value, low, high)


def _change(units: Units) -> Box:
    """Of dh, the activation being nondecreasing, `[n]`."""
    low, high = units.low.value, units.high.value
    lost = _activation_error(units)
    return Box(low - units.value - lost, high - units.value + lost)


def _activation_error(units: Units) -> Array:
    """Of differences of two values of the activation, `[n]`."""
    size = jnp.abs(units.low.value) + jnp.abs(units.high.value) + jnp.abs(units.value)
    return slack(0, size.dtype) * size


def lines_around(relaxation: Relaxation, units: Units, choice: Choice) -> Lines:
    """The lines chosen, in terms of W dh: dz but for rho, which goes to the offsets."""
    low, high, layer = units.low, units.high, units.layer
    above = relaxation.above(low, high, choice.above)
    below = relaxation.below(low, high, choice.below)
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


def tanh_point(x: Array) -> Point:
    """Of tanh."""
    return Point(x, jnp.tanh(x), tanh_slope(x))


def tanh_above(low: Point, high: Point, choice: Array) -> Contact:
    """The chord if it stays above tanh, else a tangent on the concave side.

    A line of slope s has its distance to tanh least at an end, or where s = sech^2(t), t > 0. The
    chord stays above if s <= sech^2(u) at the upper end, for then t >= u, or if u < 0.

    Tangents are taken from the one through the lower end, or at it where tanh is concave
    throughout (choice 0), to the one at the upper end (choice 1). How well the first is known
    decides how tight the line is, never whether it holds.
    """
    width = high.x - low.x
    chord = (high.value - low.value) / jnp.where(width > 0, width, 1)
    chord = jnp.maximum(chord, jnp.minimum(low.slope, high.slope))  # rounding of tiny boxes
    first = _first_tangent(low, high)
    touch = tanh_point(first + choice * (high.x - first))
    return Contact(jnp.where(chord <= high.slope, chord, touch.slope), (low, high, touch))


def tanh_below(low: Point, high: Point, choice: Array) -> Contact:
    """tanh is odd."""
    slope, points = tanh_above(_mirrored(high), _mirrored(low), choice)
    return Contact(slope, tuple(_mirrored(p) for p in points))


def tanh_choose(low: Point, high: Point) -> Choice:
    """The tangents at the middle of the box, where the area between line and tanh is least."""
    return Choice(_middle_choice(_mirrored(high), _mirrored(low)), _middle_choice(low, high))


def _middle_choice(low: Point, high: Point) -> Array:
    """For `tanh_above`."""
    first = _first_tangent(low, high)
    rest = high.x - first
    middle = jnp.maximum((low.x + high.x) / 2, first)
    return (middle - first) / jnp.where(rest > 0, rest, 1)


def _first_tangent(low: Point, high: Point) -> Array:
    """Where the tangent through the lower end touches the concave side.

    A fit of t in tanh t + tanh a = sech^2(t) (t + a) for a lower end -a: a / 2 for small a, and
    within 3 % up to 60.
    """
    a = jnp.clip(-low.x, 0, 1000)
    t = a * (1 + a * (1.87 + 0.0105 * a)) / (2 + a * (3.32 + 0.965 * a))
    return jnp.clip(t, low.x, high.x)


def _mirrored(point: Point) -> Point:
    return Point(-point.x, -point.value, point.slope)


def relu_point(x: Array) -> Point:
    """Of max(0, x)."""
    return Point(x, jnp.maximum(x, 0), (x > 0).astype(x.dtype))


def relu_above(low: Point, high: Point, choice: Array) -> Contact:
    """The chord."""
    del choice  # the chord is below all others
    width = high.x - low.x
    bent = (low.x < 0) & (high.x > 0)
    slope = jnp.where(bent, high.x / jnp.where(bent, width, 1), high.slope)
    return Contact(slope, (low, high))


def relu_below(low: Point, high: Point, choice: Array) -> Contact:
    """A line through the origin of any slope in [0, 1]; ReLU itself where it does not bend."""
    slope = jnp.clip(choice, low.slope, high.slope)
    return Contact(slope, (relu_point(jnp.clip(0, low.x, high.x)),))


def relu_choose(low: Point, high: Point) -> Choice:
    """Slope 0 or 1, whichever leaves the smaller triangle."""
    slope = (high.x > -low.x).astype(low.x.dtype)
    return Choice(slope, jnp.zeros_like(slope))


RELAXATIONS = {
    "tanh": Relaxation(tanh_point, tanh_choose, tanh_below, tanh_above),
    "relu": Relaxation(relu_point, relu_choose, relu_below, relu_above),
}
