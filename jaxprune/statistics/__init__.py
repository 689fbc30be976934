"""Intervals of means, bootstraps, aggregates over seeds, concentration bounds, and regret."""

from jaxprune.statistics.aggregates import (
    area,
    cvar,
    iqm,
    probability_of_improvement,
    simultaneous_band,
)
from jaxprune.statistics.bootstrap import FEWEST, Interval, bootstrap, widening
from jaxprune.statistics.means import bounded_mean, student_mean
from jaxprune.statistics.ratios import pseudo_values

__all__ = [
    "FEWEST",
    "Interval",
    "area",
    "bootstrap",
    "bounded_mean",
    "cvar",
    "iqm",
    "probability_of_improvement",
    "pseudo_values",
    "simultaneous_band",
    "student_mean",
    "widening",
]
