"""Local bounds by interval arithmetic: cheap, and loose beyond a layer or two."""

import jax.numpy as jnp

from jaxprune.certify.activations import activation_rules
from jaxprune.certify.boxes import Box, enclosing
from jaxprune.certify.query import Query
from jaxprune.certify.rounding import slack, vanished


def ibp(query: Query) -> Box:
    """Interval bound propagation: the outputs over the ball, `[outputs]`.

        c' = W c + b,  r' = |W| r        through a layer
        [min sigma, max sigma]           through an activation, over [c - r, c + r]

    Source: Gowal et al. 2018 (arXiv 1810.12715).
    """
    return pre_activations(query)[-1]


def pre_activations(query: Query) -> list[Box]:
    """The boxes of every layer's outputs before its activation, first to last."""
    activation = activation_rules(query.activation).box
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
