"""From a bound on D to a bound on the total variation of the action distribution.

TV is in [0, 1] (the convention with 1/2). Both maps are increasing, so an upper bound stays one.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax.scipy.special import erf

from jaxprune.types import Array


def gaussian_tv(distance: Array) -> Array:
    """Exact: TV = erf(D / (2 sqrt 2)) for equal covariances and D = ||Sigma^(-1/2) dmu||_2."""
    return erf(distance / (2 * 2**0.5))


def categorical_tv(distance: Array) -> Array:
    """Tight: TV <= tanh(D / 2) if no logit moves by more than D.

    The log-odds of any event move by at most osc(dz) <= 2 D, and max_P of the resulting change of P
    is tanh(osc / 4). Attained by two actions at logits -D / 2 and D / 2.
    """
    less = jnp.expm1(-distance)  # tanh would do, but XLA's falls by some ulps beyond D = 20
    return -less / (2 + less)


# By `Policy.distribution`.
TOTAL_VARIATION: dict[str, Callable[[Array], Array]] = {
    "normal": gaussian_tv,
    "categorical": categorical_tv,
}
