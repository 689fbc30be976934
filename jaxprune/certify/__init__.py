"""Certificates: what no adversary in the ball can exceed."""

from jaxprune.certify.certificates import BOUNDS, Certificate, certify
from jaxprune.certify.divergence import TOTAL_VARIATION
from jaxprune.certify.value import vacuity, value_gap

__all__ = ["BOUNDS", "TOTAL_VARIATION", "Certificate", "certify", "vacuity", "value_gap"]
