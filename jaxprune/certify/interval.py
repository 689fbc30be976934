"""Local bounds by interval arithmetic: cheap, and loose beyond a layer or two."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from jaxprune.certify.query import Query
from jaxprune.certify.rounding import slack
from jaxprune.families import lookup
from jaxprune.types import Array


class Box(NamedTuple):
    """Element-wise bounds."""

    low: Array  # [n]
    high: Array  # [n]


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
        boxes.append(Box(middle - reach, middle + reach))
    return boxes


def tanh_box(box: Box) -> Box:
    """tanh is nondecreasing; a few units in the last place cover its rounding."""
    lost = slack(0, box.low.dtype)
    low, high = jnp.tanh(box.low), jnp.tanh(box.high)
    return Box(jnp.maximum(low - lost, -1.0), jnp.minimum(high + lost, 1.0))


def relu_box(box: Box) -> Box:
    """max(0, .) of both ends, exact."""
    return Box(jnp.maximum(box.low, 0.0), jnp.maximum(box.high, 0.0))


ACTIVATIONS: dict[str, Callable[[Box], Box]] = {"tanh": tanh_box, "relu": relu_box}
