"""Certificates: upper bounds on what any attack in the ball can do. See README.md beside."""

from jaxprune.certify.certificates import BOUNDS, Bound, Certificate, certify, check_bounds
from jaxprune.certify.divergence import (
    TOTAL_VARIATION,
    clipped_gaussian_tv,
)
from jaxprune.certify.exact import Exact, exact_distance
from jaxprune.certify.radius import certified_radius
from jaxprune.certify.smoothing import certified_quantile
from jaxprune.certify.value import (
    ValueBound,
    attacked_return,
    certified_return,
    expected_value_gap,
    finite_vacuity,
    finite_value_gap,
    on_policy_value_gap,
    sa_mdp_published,
    sampled_value_gap,
    vacuity,
    value_gap,
)

__all__ = [
    "BOUNDS",
    "TOTAL_VARIATION",
    "Bound",
    "Certificate",
    "Exact",
    "ValueBound",
    "attacked_return",
    "certified_quantile",
    "certified_radius",
    "certified_return",
    "certify",
    "check_bounds",
    "clipped_gaussian_tv",
    "exact_distance",
    "expected_value_gap",
    "finite_vacuity",
    "finite_value_gap",
    "on_policy_value_gap",
    "sa_mdp_published",
    "sampled_value_gap",
    "vacuity",
    "value_gap",
]
