"""The largest ball at an observation in which a policy keeps its promise."""

from typing import Annotated

import numpy as np
from jax.typing import ArrayLike

from jaxprune.certify.certificates import Certificate, certify
from jaxprune.types import Masks, Policy
from jaxprune.validation import ANY_RADIUS, InputError, Range, at_least, check_arguments


def certified_radius(
    policy: Policy,
    masks: Masks | None,
    obs: ArrayLike,
    bound: str,
    *,
    tv: Annotated[float | None, Range(0, 1, "[)")] = None,
    largest: Annotated[float, ANY_RADIUS] = 1.0,
    smallest: Annotated[float, ANY_RADIUS] = 1e-3,
    levels: Annotated[int, at_least(2)] = 41,
    precision: str = "float64",
) -> np.ndarray:
    """Certified radii of masked policies at given observations, `[..., n]`.

    The radii tried are spaced evenly on a logarithmic scale, and the largest that is certified
    counts: a ball holds all smaller ones, so the answer is proved whatever the bound does in
    between, and too small by less than a step (19 % by default) if the bound is monotone in eps.

    Args:
        policy: leading axes `[...]` are agents.
        masks: as in `certify`.
        obs: as in `certify`.
        bound: a key of `BOUNDS`.
        tv: the promise is that the total variation stays at or below this, in [0, 1); None: that
            the likeliest action stays (categorical policies, local bounds).
        largest: radius, in normalised observation units.
        smallest: radius; what is not certified at it gets 0.
        levels: radii tried, one call of `certify` each.
        precision: as in `certify`.

    Raises:
        InputError: radii out of order, fewer than two levels, tv outside [0, 1), no tv although the
            bound has no say on the likeliest action, or what `certify` refuses.
    """
    check_arguments(certified_radius, locals())
    if not 0 < smallest < largest <= policy.obs_clip:
        raise InputError(
            f"radii from {smallest} to {largest}: give 0 < smallest < largest in normalised units, "
            f"within the range that observations are clipped to, +-{policy.obs_clip:g}"
        )

    def kept(eps: float) -> np.ndarray:
        return _kept(certify(policy, masks, eps, obs, [bound], precision)[bound], bound, tv)

    radius = np.where(kept(smallest), smallest, 0.0)
    for eps in np.geomspace(smallest, largest, levels)[1:]:
        now = kept(float(eps))
        if not now.any():
            break
        radius = np.where(now, eps, radius)
    return radius


def _kept(certificate: Certificate, bound: str, tv: float | None) -> np.ndarray:
    if tv is not None:
        return certificate.total_variation <= tv
    if certificate.fixed_action is None:
        raise InputError(
            f"bound {bound!r} says nothing about the likeliest action of this policy: give tv, or "
            "take a categorical policy and a local bound"
        )
    return certificate.fixed_action
