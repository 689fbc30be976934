"""Local bounds by interval arithmetic: cheap, and loose beyond a layer or two."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from jaxprune.certify.query import Query
from jaxprune.certify.rounding import slack, vanished
from jaxprune.types import Array
from jaxprune.validation import lookup


class Box(NamedTuple):
    """Element-wise bounds."""

    low: Array  # [n]
    high: Array  # [n]


def enclosing(box: Box) -> Box:
    """The box, without an end that is not known: NaN, or an overflow to beyond all numbers."""
    low_known, high_known = box.low < jnp.inf, box.high > -jnp.inf  # False for NaN
    return Box(jnp.where(low_known, box.low, -jnp.inf), jnp.where(high_known, box.high, jnp.inf))


def ibp(query: Query) -> Box:
    """Interval bound propagation: the outputs over the ball, `[outputs]`.

        c' = W c + b,  r' = |W| r        through a layer
        [sigma(c - r), sigma(c + r)]     through a nondecreasing activation

    Source: Gowal et al. 2018 (arXiv 1810.12715).
    """
    return pre_activations(query)[-1]


def pre_activations(query: Query) -> list[Box]:
    """The boxes of every layer's outputs before its activation, first to last."""
    activation = lookup(ACTIVATIONS, query.activation, "activation with an interval rule")
    boxes: list[Box] = []
    centre, radius = query.centre, query.eps
    for weight, bias in query.layers:
        if boxes:
            low, high = activation(boxes[-1])
            centre, radius = (low + high) / 2, (high - low) / 2
        # Rounding of this layer, relative to the sum of the absolute terms.
        lost = slack(weight.shape[1], weight.dtype)
        size = jnp.abs(weight)
        middle = weight @ centre + bias
        reach = size @ (radius + lost * (jnp.abs(centre) + radius)) + lost * jnp.abs(bias)
        reach = reach + vanished(weight.shape[1], weight.dtype)
        boxes.append(enclosing(Box(middle - reach, middle + reach)))
    return boxes


def tanh_box(box: Box) -> Box:
    """tanh is nondecreasing; XLA's is off by at most 7 unit roundoffs, and 32 are granted."""
    lost = slack(0, box.low.dtype)
    low, high = jnp.tanh(box.low), jnp.tanh(box.high)
    low, high = low - lost * jnp.abs(low), high + lost * jnp.abs(high)
    return Box(jnp.maximum(low, -1.0), jnp.minimum(high, 1.0))


def relu_box(box: Box) -> Box:
    """max(0, .) of both ends, exact."""
    return Box(jnp.maximum(box.low, 0.0), jnp.maximum(box.high, 0.0))


ACTIVATIONS: dict[str, Callable[[Box], Box]] = {"tanh": tanh_box, "relu": relu_box}


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


def relu_slopes(box: Box) -> Box:
    """0 left of the kink, 1 right of it."""
    return Box(*((end > 0).astype(end.dtype) for end in box))


# The slopes that an activation can have over a box.
SLOPES: dict[str, Callable[[Box], Box]] = {"tanh": tanh_slopes, "relu": relu_slopes}
