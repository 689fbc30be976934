"""From a bound on D to a bound on the total variation of the action distribution.

TV is in [0, 1] (the convention with 1/2). Both maps are increasing, so an upper bound stays one.
"""

from collections.abc import Callable
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erf

from jaxprune.certify.interval import Box
from jaxprune.certify.rounding import slack
from jaxprune.types import Array


def gaussian_tv(distance: Array) -> Array:
    """Exact: TV = erf(D / (2 sqrt 2)) for equal covariances and D = ||Sigma^(-1/2) dmu||_2."""
    return erf(distance / (2 * 2**0.5))


def categorical_tv(distance: Array) -> Array:
    """Tight: TV <= tanh(D / 2) if no logit moves by more than D: their oscillation is at most 2 D.

    Attained by two actions at logits -D / 2 and D / 2.
    """
    return tv_of_oscillation(2 * distance)


def tv_of_oscillation(oscillation: Array) -> Array:
    """Tight: TV <= tanh(osc / 4), osc = max_i dz_i - min_i dz_i of the change of the logits.

    The log-odds of any event move by at most osc, and max_P of the resulting change of P is
    tanh(osc / 4).
    """
    less = jnp.expm1(-oscillation / 2)  # tanh would do, but XLA's falls by some ulps beyond 20
    return -less / (2 + less)


def categorical_tv_of_box(at: Box, box: Box) -> Array:
    """Exact: the largest TV between softmax(z) and softmax(z') for z' in a box, `[K] -> []`.

        max over events A of P'(A) - P(A),  logits of A at their upper ends, the others at the lower

    All 2^K events are enumerated; their complements cover the decreases.

    Args:
        at: encloses z.
        box: of z'.
    """
    actions = at.low.size
    events = np.array(list(product([False, True], repeat=actions)))[1:-1]  # [2^K - 2, K]

    def gain(event: Array) -> Array:
        before = jnp.where(event, at.low, at.high)
        after = jnp.where(event, box.high, box.low)
        p, q = (jnp.sum(jnp.where(event, jax.nn.softmax(z), 0)) for z in (before, after))
        return q - p

    gains = jax.vmap(gain)(jnp.asarray(events))
    return jnp.clip(jnp.max(gains) + slack(4 * actions, gains.dtype), 0.0, 1.0)


# By `Policy.distribution`.
TOTAL_VARIATION: dict[str, Callable[[Array], Array]] = {
    "normal": gaussian_tv,
    "categorical": categorical_tv,
}
