"""The rules of swish, x sigmoid(x), also called SiLU.

    swish(-x) = swish(x) - x,   swish'(-x) = 1 - swish'(x)

It falls up to `LOWEST` and rises from there. It is convex between -`BEND` and `BEND`, where its
slope is least and largest, and concave outside: there the slope is in (1 - STEEPEST, 0] on the left
and in [1, STEEPEST) on the right.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from jaxprune.certify.activations.base import FLUSHED, Activation, Choice, Contact, Point, Ray
from jaxprune.certify.boxes import Box
from jaxprune.certify.rounding import slack
from jaxprune.types import Array

BEND = 2.399357280515467
STEEPEST = 1.0998394  # slopes stay within [1 - STEEPEST, STEEPEST]; rounded up
LOWEST, FLOOR = -1.2784645427610738, -0.2784645427610738  # where swish is least, and its value
# How well a touching point is known decides how tight a line is, not whether it holds.
BISECTIONS = 8


def swish_point(x: Array) -> Point:
    """Returns x sigmoid(x) with its slope, by an exponential that cannot overflow."""
    e = jnp.exp(-jnp.abs(x))
    larger, smaller = 1 / (1 + e), e / (1 + e)
    sigmoid, rest = (jnp.where(x >= 0, *pair) for pair in ((larger, smaller), (smaller, larger)))
    return Point(
        x, jnp.where(jnp.isinf(x), jnp.maximum(x, 0), x * sigmoid), _slope(x, sigmoid, rest)
    )


def _slope(x: Array, sigmoid: Array, rest: Array) -> Array:
    """sigmoid (1 + x (1 - sigmoid)); its limits at infinity."""
    return jnp.where(jnp.isinf(x), sigmoid, sigmoid * (1 + x * rest))


def swish_values(low: Point, high: Point) -> Box:
    """The larger end above; below the smaller one, or the least value of all."""
    floor = FLOOR * (1 + 4 * jnp.finfo(low.x.dtype).eps)
    least = jnp.minimum(low.value, high.value)
    least = jnp.where(_holds(Box(low.x, high.x), LOWEST), floor, least)
    return Box(least, jnp.maximum(low.value, high.value))


def swish_box(box: Box) -> Box:
    """`swish_values`, rounded outward: 4 roundings and those of exp, of which 32 are granted.

    Where exp is subnormal, XLA's is 0, and swish is a little below it.
    """
    low, high = swish_values(*map(swish_point, box))
    lost = slack(0, low.dtype)
    vanished = jnp.where(box.low < -80, FLUSHED * jnp.finfo(low.dtype).tiny, 0.0)
    return Box(low - lost * jnp.abs(low) - vanished, high + lost * jnp.abs(high))


def swish_slopes(box: Box) -> Box:
    """The slope falls up to -`BEND`, rises to `BEND`, and falls again."""
    ends = [swish_point(end).slope for end in box]
    lost = 2 * slack(0, box.low.dtype)  # of a sum of terms up to 1.4
    least, most = jnp.minimum(*ends) - lost, jnp.maximum(*ends) + lost
    least = jnp.where(_holds(box, -BEND), 1 - STEEPEST, least)
    most = jnp.where(_holds(box, BEND), STEEPEST, most)
    return Box(jnp.maximum(least, 1 - STEEPEST), jnp.minimum(most, STEEPEST))


def _holds(box: Box, x: float) -> Array:
    """Whether x is in the box or so close to it that rounding decides."""
    return (box.low <= x + 1e-6) & (box.high >= x - 1e-6)


def swish_above(low: Point, high: Point, choice: Array) -> Contact:
    """The chord if it stays above swish, else a tangent on a concave side.

    Tangents are taken from the one through the end of the box on the other side, or at it where
    swish is concave throughout (choice 0), to the one at the end on this side (choice 1).
    """
    return _contact(_touch_above, low, high, choice)


def swish_below(low: Point, high: Point, choice: Array) -> Contact:
    """A tangent on the convex part; the chord if it stays below, or if there is no such part.

    Where the box ends beyond the convex part, tangents are taken up to the one through that end.
    """
    return _contact(_touch_below, low, high, choice)


class Span(NamedTuple):
    """A box that reaches further to the right than to the left."""

    low: Array  # [n]
    high: Array
    flatter_low: Array  # bool [n], whether the chord is flatter than swish is at this end
    flatter_high: Array


class Touch(NamedTuple):
    """Where a line leaves swish: along the chord, or as a tangent."""

    chord: Array  # bool [n]
    x: Array  # [n]


def _contact(
    rule: Callable[[Span, Array], Touch], low: Point, high: Point, choice: Array
) -> Contact:
    """The rule of a box that reaches further to the right, for any: one to the left is mirrored.

    Values and slopes stay those of the box itself: on the left, where they are small, mirrored ones
    would be rounded to 1 - 0.
    """
    left, chord = low.x + high.x < 0, _chord(low, high)
    span = Span(
        jnp.where(left, -high.x, low.x),
        jnp.where(left, -low.x, high.x),
        jnp.where(left, chord >= high.slope, chord <= low.slope),
        jnp.where(left, chord >= low.slope, chord <= high.slope),
    )
    touch = rule(span, choice)
    tangent = swish_point(jnp.where(left, -touch.x, touch.x))
    slope = jnp.where(touch.chord, chord, tangent.slope)
    return Contact(slope, (low, high, _where(touch.chord, low, tangent)))


def _touch_above(span: Span, choice: Array) -> Touch:
    """Chord and tangents have slopes above 0, so that the left concave side does not matter.

    On the right one slopes fall: the chord stays above if it is flatter than the upper end.
    """
    last = jnp.maximum(span.high, BEND)
    first = _touching(span.low, jnp.clip(span.low, BEND, last), last)
    stays = (span.high <= BEND) | span.flatter_high
    return Touch(stays, first + choice * (last - first))


def _touch_below(span: Span, choice: Array) -> Touch:
    """Lines meet concave sides at the ends of the box, or where the convex part begins.

    The chord stays below if it is flatter than the lower end, which is in the convex part.
    """
    first, last = jnp.maximum(span.low, -BEND), jnp.minimum(span.high, BEND)
    last = jnp.where(span.high > BEND, _touching(span.high, last, first), last)
    within = (span.high > BEND) & (span.low >= -BEND)
    stays = (span.low >= BEND) | (within & span.flatter_low)
    return Touch(stays, first + choice * (last - first))


def _touching(end: Array, near: Array, far: Array) -> Array:
    """Where between `near` and `far` the tangent passes through swish at `end`.

    Bisection; `far` if tangents pass on one side of it throughout.
    """

    def passes(t: Array) -> Array:
        """How far above the end the tangent at t passes."""
        at = swish_point(t)
        return at.value + at.slope * (end - t) - swish_point(end).value

    side = passes(near) > 0
    for _ in range(BISECTIONS):
        middle = (near + far) / 2
        beyond = (passes(middle) > 0) != side
        near, far = jnp.where(beyond, near, middle), jnp.where(beyond, middle, far)
    return far


def swish_choose(low: Point, high: Point) -> Choice:
    """Tangents near the middle of the box."""
    half = jnp.full_like(low.x, 0.5)
    return Choice(half, half)


def swish_rays(low: Point, high: Point) -> tuple[Ray, Ray]:
    """The lines of `swish_choose`, through the point that they meet first."""
    choice = swish_choose(low, high)
    above = swish_above(low, high, choice.above)
    below = swish_below(low, high, choice.below)
    return _ray(above, jnp.argmax), _ray(below, jnp.argmin)


def _ray(contact: Contact, first: Callable) -> Ray:
    offsets = jnp.stack([p.value - contact.slope * p.x for p in contact.points])
    at = first(offsets, axis=0)[None]
    points = (jnp.stack(parts) for parts in zip(*contact.points, strict=True))
    return Ray(contact.slope, Point(*(jnp.take_along_axis(x, at, 0)[0] for x in points)))


def _where(condition: Array, one: Point, other: Point) -> Point:
    return Point(*(jnp.where(condition, a, b) for a, b in zip(one, other, strict=True)))


def _chord(low: Point, high: Point) -> Array:
    """The slope between the ends; within the slopes of swish, whatever rounding makes of it."""
    width = high.x - low.x
    slope = jnp.where(
        width > 0, (high.value - low.value) / jnp.where(width > 0, width, 1), low.slope
    )
    return jnp.clip(slope, 1 - STEEPEST, STEEPEST)


SWISH = Activation(
    box=swish_box,
    slopes=swish_slopes,
    increment=lambda z: z,
    steepest=STEEPEST,
    values=swish_values,
    point=swish_point,
    choose=swish_choose,
    below=swish_below,
    above=swish_above,
    rays=swish_rays,
)
