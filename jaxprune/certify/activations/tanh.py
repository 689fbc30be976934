"""The rules of tanh."""

import math

import jax.numpy as jnp

from jaxprune.certify.activations.base import Activation, Choice, Contact, Point, Ray
from jaxprune.certify.boxes import Box
from jaxprune.certify.rounding import slack
from jaxprune.types import Array

# Of e^y - 1: terms of the series, and doublings of y, which starts below 1 / 4.
TERMS, DOUBLINGS = 12, 8
# Roundings of an increment.
ROUNDINGS = 2 * (TERMS + DOUBLINGS + 2)
SATURATED = 64.0  # 2 tanh(z / 2) is 2 in either precision from here on


def tanh_box(box: Box) -> Box:
    """tanh is nondecreasing; XLA's is off by at most 7 unit roundoffs, and 32 are granted."""
    lost = slack(0, box.low.dtype)
    low, high = jnp.tanh(box.low), jnp.tanh(box.high)
    low, high = low - lost * jnp.abs(low), high + lost * jnp.abs(high)
    return Box(jnp.maximum(low, -1.0), jnp.minimum(high, 1.0))


def tanh_slope(x: Array) -> Array:
    """sech^2, to 6 unit roundoffs also where tanh is 1 in floating point."""
    e = jnp.exp(-2 * jnp.abs(x))
    return jnp.minimum(4 * e / ((1 + e) * (1 + e)), 1.0)


def tanh_slopes(box: Box) -> Box:
    """sech^2 is least at an end of the box, and largest at 0 or at the other end."""
    low, high = tanh_slope(box.low), tanh_slope(box.high)
    lost = slack(0, low.dtype)
    least, most = jnp.minimum(low, high), jnp.maximum(low, high)
    flushed = 4 * jnp.finfo(low.dtype).tiny  # where exp is subnormal, XLA's is 0
    most = jnp.where((box.low <= 0) & (box.high >= 0), 1.0, most * (1 + lost) + flushed)
    return Box(least * (1 - lost), jnp.minimum(most, 1.0))


def tanh_increment(z: Array) -> Array:
    """2 tanh(z / 2) for z >= 0, to a few roundings, nondecreasing bit for bit as XLA's is not.

        2 tanh(z / 2) = 2 / (1 + 2 / m),  m = e^z - 1
        e^(2y) - 1 = m (m + 2),  m = e^y - 1 = y + y^2 / 2 + ... for a small y

    All terms are positive, and sums, products and quotients round monotonically. The relative
    error of a step reaches the result times z / sinh(z) <= 1 at most, so errors only add up.
    """
    y = jnp.minimum(z, SATURATED) / 2**DOUBLINGS
    # The rest of the series is at most 1 / TERMS of this last term for y <= 1.
    series = jnp.full_like(y, (1 + 1 / TERMS) / math.factorial(TERMS))
    for k in range(TERMS - 1, 0, -1):
        series = series * y + 1 / math.factorial(k)
    m = series * y
    for _ in range(DOUBLINGS):
        m = m * (m + 2)
    return 2 / (1 + 2 / m)  # 0 at m = 0


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


def tanh_rays(low: Point, high: Point) -> tuple[Ray, Ray]:
    """Above and below tanh, which is odd."""
    slope, through = _above_tanh(_mirrored(high), _mirrored(low))
    return _above_tanh(low, high), Ray(slope, _mirrored(through))


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
    touch = tanh_point(x)
    return Ray(jnp.where(chord_holds, chord, 1 - touch.value**2), touch)


TANH = Activation(
    box=tanh_box,
    slopes=tanh_slopes,
    increment=tanh_increment,
    point=tanh_point,
    choose=tanh_choose,
    below=tanh_below,
    above=tanh_above,
    rays=tanh_rays,
    largest=lambda values: 1.0,
)
