"""Pruning: scores, schedules, structures, and the masks they make. See README.md beside."""

from jaxprune.pruning.allocation import ALLOCATIONS
from jaxprune.pruning.directives import Directive, Timing, make_directives
from jaxprune.pruning.masks import apply_masks, dense, mask_policy, masked_on_host, sparsity_of
from jaxprune.pruning.methods import METHODS, Method, find_method, honoured, make_target
from jaxprune.pruning.posthoc import prune
from jaxprune.pruning.schedules import SCHEDULES
from jaxprune.pruning.scope import Scope
from jaxprune.pruning.scores import SCORES, Batch
from jaxprune.pruning.structures import STRUCTURES

__all__ = [
    "ALLOCATIONS",
    "METHODS",
    "SCHEDULES",
    "SCORES",
    "STRUCTURES",
    "Batch",
    "Directive",
    "Method",
    "Scope",
    "Timing",
    "apply_masks",
    "dense",
    "find_method",
    "honoured",
    "make_directives",
    "make_target",
    "mask_policy",
    "masked_on_host",
    "prune",
    "sparsity_of",
]
