"""Returns of masked policies under attack, and what attacks reach at the states they visit."""

from jaxprune.evaluation.evaluate import evaluate, visited
from jaxprune.evaluation.evaluator import Evaluator
from jaxprune.evaluation.gymnasium import evaluate_in_gymnasium
from jaxprune.evaluation.on_policy import collect_batch

__all__ = [
    "Evaluator",
    "collect_batch",
    "evaluate",
    "evaluate_in_gymnasium",
    "visited",
]
