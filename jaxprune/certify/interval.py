"""Local bounds by interval arithmetic: cheap, and loose beyond a layer or two."""

import jax.numpy as jnp

from jaxprune.certify.activations import activation_rules
from jaxprune.certify.activations.base import FLUSHED
from jaxprune.certify.boxes import Box, enclosing
from jaxprune.certify.query import Query
from jaxprune.certify.rounding import slack, vanished
from jaxprune.types import Array


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


def centre_value(query: Query) -> Box:
    """The outputs at the centre, enclosed, `[outputs]`: one forward pass and what it lost.

    Let h^ be computed activations, |h^_j - h_j| <= e and |h^_j| <= m for all j. Of the computed
    z^ = W h^ + b, and in the next layer,

        |z^_i - z_i| <= |W_i|_1 e + lost (|W_i|_1 (m + e) + |b_i|) =: r_i
        |h^_i - sigma(z_i)| <= |h^_i - sigma(z^_i)| + |sigma(z^_i) - sigma(z_i)|
                            <= slack(0) m + steepest max_i r_i

    In the first line |W_i|_1 e bounds W_i (h^ - h). The n-term sums lose n + 1 roundings of
    |W_i|_1 m + |b_i|, and |W_i|_1 e is computed with fewer than n + 12 of its own, those of e
    included: `lost` grants either 2 (n + 16). In the second line sigma is as accurate as its rules
    say, and nowhere steeper than `steepest`. One number per hidden layer is enough, so that the
    error costs no pass of its own.

    Source: Higham 2002, section 3.1, and Hoelder's inequality.
    """
    rules, (*hidden, last) = activation_rules(query.activation), query.layers
    value, error = query.centre, 0.0
    largest: Array | float = jnp.max(jnp.abs(value))
    for weight, bias in hidden:
        row, offset = jnp.max(jnp.sum(jnp.abs(weight), axis=1)), jnp.max(jnp.abs(bias))
        lost = _lost(weight, row, offset, largest, error)
        value = rules.point(weight @ value + bias).value
        largest = rules.largest(value)
        flushed = FLUSHED * float(jnp.finfo(value.dtype).tiny)
        error = rules.steepest * lost + slack(0, value.dtype) * largest + flushed
    row = jnp.sum(jnp.abs(last.weight), axis=1)
    lost = _lost(last.weight, row, jnp.abs(last.bias), largest, error)
    value = last.weight @ value + last.bias
    return enclosing(Box(value - lost, value + lost))


def _lost(
    weight: Array, row: Array, offset: Array, largest: Array | float, error: Array | float
) -> Array:
    """r of `centre_value`, infinite where a sum may be beyond all numbers.

    Args:
        weight: of the layer.
        row: |W_i|_1, `[n]`, or the largest of them `[]`.
        offset: |b_i|, likewise.
        largest: m.
        error: e.
    """
    share, terms = slack(weight.shape[1], weight.dtype), weight.shape[1]
    reach = row * (error + share * (largest + error)) + share * offset
    finite = jnp.isfinite(2 * (row * largest + offset))
    return jnp.where(finite, reach + vanished(terms, weight.dtype), jnp.inf)
