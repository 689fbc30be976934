"""A population of masked policies as a flat list of cells, whatever axes the caller stacked."""

import math
from typing import NamedTuple

import jax
import numpy as np

from jaxprune.pruning.masks import check_arrays, mask_policy
from jaxprune.types import AnyArray, Masks, Policy, PyTree
from jaxprune.validation import InputError


class Cell(NamedTuple):
    """One policy with one mask. Policies are stored once however many masks they have."""

    agent: AnyArray  # int [], which policy
    masks: Masks | None  # None keeps everything


def as_cells(policy: Policy, masks: Masks | None) -> tuple[tuple[int, ...], Policy, Cell]:
    """(leading shape `[...]`, policies `[agents]`, cells `[N]` in row-major order of the shape).

    Args:
        policy: leading axes are agents.
        masks: leading axes are those of the policy, then any number more; None for no pruning.

    Raises:
        InputError: parameters that are no floating-point numbers, masks that are no booleans, or
            leading axes of the masks that do not start with those of the policy.
    """
    check_arrays(policy, masks)
    batch = policy.params.log_std.shape[:-1]
    shape = batch if masks is None else masks.log_std.shape[:-1]
    if shape[: len(batch)] != batch:
        raise InputError(
            f"masks have leading axes {shape}, the policy {batch}: those of the masks must start "
            "with those of the policy"
        )
    agents = np.arange(math.prod(batch)).reshape((*batch, *(1 for _ in shape[len(batch) :])))
    index = np.broadcast_to(agents, shape).ravel().astype(np.int32)
    return shape, _flatten(policy, batch), Cell(index, _flatten(masks, shape))


def masked_policy(policies: Policy, cell: Cell) -> Policy:
    """The pruned policy of one cell, from policies `[agents]`."""
    return mask_policy(jax.tree.map(lambda x: x[cell.agent], policies), cell.masks)


def _flatten(tree: PyTree, shape: tuple[int, ...]) -> PyTree:
    """The leading axes `shape` of every leaf as one."""
    return jax.tree.map(lambda x: x.reshape(math.prod(shape), *x.shape[len(shape) :]), tree)
