"""What to run: settings, their validation, the design, shards, the printed plan."""

from benchmarks.experiment.config import PRESETS, Experiment, attack_names, parse, parse_grid
from benchmarks.experiment.validate import check

__all__ = [
    "PRESETS",
    "Experiment",
    "attack_names",
    "check",
    "parse",
    "parse_grid",
]
