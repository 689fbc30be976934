"""The rules of ReLU."""

import jax.numpy as jnp

from jaxprune.certify.activations.base import Activation, Choice, Contact, Point, Ray
from jaxprune.certify.boxes import Box
from jaxprune.types import Array


def relu_box(box: Box) -> Box:
    """max(0, .) of both ends, exact."""
    return Box(jnp.maximum(box.low, 0.0), jnp.maximum(box.high, 0.0))


def relu_slopes(box: Box) -> Box:
    """0 left of the kink, 1 right of it."""
    return Box(*((end > 0).astype(end.dtype) for end in box))


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


def relu_rays(low: Point, high: Point) -> tuple[Ray, Ray]:
    """The chord above; slope 0 or 1, whichever leaves the smaller triangle, below."""
    width = high.x - low.x
    bent = (low.x < 0) & (high.x > 0)
    active = (high.x > 0).astype(high.x.dtype)
    above = jnp.where(bent, high.x / jnp.where(bent, width, 1.0), active)
    bend = jnp.clip(0.0, low.x, high.x)
    below = (high.x > -low.x).astype(high.x.dtype)
    return Ray(above, high), Ray(below, relu_point(bend))


RELU = Activation(
    box=relu_box,
    slopes=relu_slopes,
    increment=lambda z: z,
    point=relu_point,
    choose=relu_choose,
    below=relu_below,
    above=relu_above,
    rays=relu_rays,
)
