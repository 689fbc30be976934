"""Bootstrap intervals, aggregates over seeds, concentration bounds, and regret."""

from jaxprune.statistics.aggregates import (
    area,
    cvar,
    iqm,
    paired_difference,
    probability_of_improvement,
    simultaneous_band,
)
from jaxprune.statistics.bootstrap import Interval, bootstrap, bootstrap_mean, widening
from jaxprune.statistics.ratios import pseudo_values, student

__all__ = [
    "Interval",
    "area",
    "bootstrap",
    "bootstrap_mean",
    "cvar",
    "iqm",
    "paired_difference",
    "probability_of_improvement",
    "pseudo_values",
    "simultaneous_band",
    "student",
    "widening",
]
