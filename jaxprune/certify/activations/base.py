"""What bounds know of an activation: one record, and the geometry that its rules speak of."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from jaxprune.certify.boxes import Box
from jaxprune.types import Array

# Least normal numbers by which a value is off, at most, where an exponential is smaller than one.
FLUSHED = 1000


class Point(NamedTuple):
    """A point of the graph of an activation."""

    x: Array
    value: Array
    slope: Array


class Choice(NamedTuple):
    """Which line to take of those that an activation offers, each in [0, 1]."""

    below: Array  # [n]
    above: Array  # [n]


class Contact(NamedTuple):
    """The slope of a line on one side of an activation, and the points where it may touch."""

    slope: Array  # [n]
    points: tuple[Point, ...]


class Ray(NamedTuple):
    """The line of a slope through a point."""

    slope: Array  # [n]
    through: Point


def at_ends(low: Point, high: Point) -> Box:
    """The values over a box of a nondecreasing activation."""
    return Box(low.value, high.value)


def largest_of(values: Array) -> Array:
    """The largest size of some values, `[n] -> []`."""
    return jnp.max(jnp.abs(values))


class Activation(NamedTuple):
    """The rules of an activation sigma, element by element."""

    box: Callable[[Box], Box]
    """The values that sigma takes over a box, rounded outward."""
    slopes: Callable[[Box], Box]
    """The slopes that sigma has over a box, rounded outward."""
    increment: Callable[[Array], Array]
    """z -> the most that sigma / `steepest` changes when its input changes by z >= 0, wherever that
    is."""
    point: Callable[[Array], Point]
    """x -> the point of the graph at x, its value off by a share of `slack(0)` at most, and by
    `FLUSHED` least normal numbers."""
    choose: Callable[[Point, Point], Choice]
    """Ends (low, high) of a box -> the lines that plain CROWN takes."""
    below: Callable[[Point, Point, Array], Contact]
    """(low, high, choice `[n]`) -> a slope, and points one of which a line of that slope meets
    first when it rises from below."""
    above: Callable[[Point, Point, Array], Contact]
    """The same for a line that descends from above."""
    rays: Callable[[Point, Point], tuple[Ray, Ray]]
    """(low, high) -> lines above and below sigma over the box, with cheap gradients and no outward
    rounding."""
    values: Callable[[Point, Point], Box] = at_ends
    """Ends (low, high) of a box -> the least and the largest value over it, not rounded."""
    largest: Callable[[Array], Array | float] = largest_of
    """Values `[n]` of sigma -> a number that none of them exceeds in size."""
    steepest: float = 1.0
    """Slopes are in [1 - steepest, steepest]."""
