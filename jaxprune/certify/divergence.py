"""From a bound on D to bounds on how far the action distribution can move.

TV is in [0, 1] (the convention with 1/2). The maps from D and from the oscillation are increasing,
so an upper bound stays one, and rounded outward.
"""

from collections.abc import Callable
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erf
from scipy import special

from jaxprune.certify.boxes import Box
from jaxprune.certify.rounding import outward, slack
from jaxprune.types import AnyArray, Array
from jaxprune.validation import InputError

Ends = tuple[AnyArray, AnyArray]  # (low, high), arrays

# --- the action as the policy draws it ------------------------------------------------------------


def gaussian_tv(distance: Array) -> Array:
    """Exact: TV = erf(D / (2 sqrt 2)) for equal covariances and D = ||Sigma^(-1/2) dmu||_2."""
    return _probability(erf(distance / (2 * 2**0.5)), distance)


def deterministic_tv(distance: Array) -> Array:
    """Exact: two actions that differ at all are told apart with certainty."""
    return jnp.where(distance > 0, 1.0, 0.0).astype(distance.dtype)


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
    return _probability(-less / (2 + less), oscillation)


def categorical_tv_of_box(at: Box, box: Box) -> Array:
    """Exact: the largest TV between softmax(z) and softmax(z') for z' in a box, `[K] -> []`.

        max over events A of P'(A) - P(A),  logits of A at their upper ends, the others at the lower

    All 2^K events are enumerated; their complements cover the decreases.

    Args:
        at: encloses z.
        box: of z'.
    """
    actions = at.low.size
    events = np.array(list(product([False, True], repeat=actions)))

    def gain(event: Array) -> Array:
        before = jnp.where(event, at.low, at.high)
        after = jnp.where(event, box.high, box.low)
        p, q = (jnp.sum(jnp.where(event, jax.nn.softmax(z), 0)) for z in (before, after))
        return q - p

    gains = jax.vmap(gain)(jnp.asarray(events))
    return jnp.clip(jnp.max(gains) + slack(4 * actions, gains.dtype), 0.0, 1.0)


def _probability(tv: Array, change: Array) -> Array:
    """Rounded outward, at most 1, and not 0 where something changes."""
    least = jnp.where(change > 0, jnp.finfo(tv.dtype).tiny, 0.0)
    tv = outward(tv, 0)
    return jnp.minimum(jnp.where(tv < least, least, tv), 1.0)  # where, for the slope at 0


# By `Policy.distribution`.
TOTAL_VARIATION: dict[str, Callable[[Array], Array]] = {
    "normal": gaussian_tv,
    "categorical": categorical_tv,
    "deterministic": deterministic_tv,
}


# --- the action as the environment clips it -------------------------------------------------------


def clipped_gaussian_tv(at: Ends, box: Ends, std: AnyArray, limits: Ends) -> np.ndarray:
    """TV between the clipped actions of N(mu, std^2) and N(mu', std^2), `[..., actions] -> [...]`.

        t = clip((mu + mu') / 2, low, high)
        TV_j = |Phi((t - mu) / std) - Phi((t - mu') / std)|     of one action, exact
        TV  <= min(1 - prod_j (1 - TV_j), erf(D / (2 sqrt 2)))  of all of them

    The largest over mu in `at` and mu' in `box`: an upper bound, exact for one action. Clipping
    merges actions, so it can only lower TV; saturated policies certify better.

    Args:
        at: (low, high) around the means without an adversary, `[..., actions]`; those of a
            certificate at radius 0 do.
        box: (low, high) of the means in the ball, same shape.
        std: of every action, broadcasts.
        limits: (low, high), what the environment clips actions to; they broadcast.

    Raises:
        InputError: std not positive, or a low end above its high one.
    """
    if not np.all(np.asarray(std) > 0):
        raise InputError(f"std {std} is not positive: give the deviation of every action")
    for name, (low, high) in {"at": at, "box": box, "limits": limits}.items():
        if np.any(np.greater(low, high)):
            raise InputError(f"{name} has a low end above its high one: give (low, high)")
    (mean_low, mean_high), (low, high) = (np.asarray(ends, float) for ends in (at, box))

    def of_pair(mean: np.ndarray, other: np.ndarray) -> np.ndarray:
        threshold = np.clip((mean + other) / 2, *limits)
        below, below_other = (special.ndtr((threshold - m) / std) for m in (mean, other))
        return np.abs(below - below_other)

    # TV grows as the means part.
    each = np.maximum(of_pair(mean_low, high), of_pair(mean_high, low))
    change = np.maximum(high - mean_low, mean_high - low) / std
    unclipped = special.erf(np.sqrt(np.sum(change**2, axis=-1)) / 8**0.5)
    together = np.minimum(1 - np.prod(1 - each, axis=-1), unclipped)
    return np.minimum(together + slack(change.shape[-1], np.dtype(float)), 1.0)
