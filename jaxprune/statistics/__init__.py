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

__all__ = [
    "Interval",
    "area",
    "bootstrap",
    "bootstrap_mean",
    "cvar",
    "iqm",
    "paired_difference",
    "probability_of_improvement",
    "simultaneous_band",
    "widening",
]
