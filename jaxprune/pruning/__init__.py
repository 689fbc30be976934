"""Pruning: scores, allocation, schedules and the masks they make."""

from jaxprune.pruning.allocation import ALLOCATIONS, Allocation
from jaxprune.pruning.masks import apply_masks, dense, mask_policy, sparsity_of
from jaxprune.pruning.methods import METHODS, allocate, prune
from jaxprune.pruning.schedules import SCHEDULES, counts_per_iteration

__all__ = [
    "ALLOCATIONS",
    "METHODS",
    "SCHEDULES",
    "Allocation",
    "allocate",
    "apply_masks",
    "counts_per_iteration",
    "dense",
    "mask_policy",
    "prune",
    "sparsity_of",
]
