"""Local D to any accuracy: branch and bound over the ball.

    lower = max over boxes of D at two points of the box
    upper = max over boxes of CROWN's bound on D over the box

The boxes cover the ball. Those with the largest bounds are halved, along the coordinate that
moves the outputs most, until `upper <= (1 + gap) lower`.

For a Gaussian policy D is a Euclidean length. The outputs of a box are bounded in a frame whose
first axis is the change at its centre: a box in that frame loses only to second order in its size.

Source: Wang et al. 2018 (ReluVal, arXiv 1804.10829) and Bunel et al. 2020 (arXiv 1909.06588).
"""

from dataclasses import replace
from functools import partial
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxprune.cells import as_cells, masked_policy
from jaxprune.certify.certificates import check_certify, furthest, policy_query
from jaxprune.certify.crown import crown
from jaxprune.certify.interval import centre_value
from jaxprune.certify.query import Query, length, with_rows
from jaxprune.policy import ACTIVATIONS, normalise
from jaxprune.types import Array, Masks, Policy
from jaxprune.validation import ANY_RADIUS, Range, at_least, check_arguments

# Boxes that one call of the compiled program bounds.
BATCH = 64
# Relative, to the rounding of the turned last layer: a million times what it can lose.
GRANTED = 1e-9
# Of the steepest coordinate: what one that is flat at the centre is taken for (a ReLU at rest).
FLAT = 0.1
# Absolute: a D below it is rounding, as where everything was removed.
NOTHING = 1e-12


class Exact(NamedTuple):
    """Both ends of the largest D over the ball."""

    lower: np.ndarray  # `[..., n]`, reached
    upper: np.ndarray  # `[..., n]`, never exceeded
    boxes: np.ndarray  # `[..., n]`, int: bounded on the way


class Boxes(NamedTuple):
    """Parts of the ball that are not decided yet."""

    centre: np.ndarray  # [k, obs_size]
    radius: np.ndarray  # [k, obs_size]
    upper: np.ndarray  # [k], on D
    widest: np.ndarray  # [k], the coordinate that moves the outputs most


def exact_distance(
    policy: Policy,
    masks: Masks | None,
    eps: Annotated[ArrayLike, ANY_RADIUS],
    obs: ArrayLike,
    *,
    gap: Annotated[float, Range(0, 1, "(]")] = 0.01,
    most_boxes: Annotated[int, at_least(1)] = 100_000,
) -> Exact:
    """Returns the largest D over the ball at each observation, from below and from above.

    Where `most_boxes` are not enough, the two ends are further apart than `gap`, and still hold.

    Args:
        policy: leading axes `[...]` are agents.
        masks: leading axes are those of the policy, then any number more; None for no pruning.
        eps: radius of the l_inf ball in normalised observation units, or one per coordinate.
        obs: raw observations `[n, obs_size]`, or `[..., n, obs_size]` with the axes of the masks.
        gap: relative; the search ends at `upper <= (1 + gap) lower`.
        most_boxes: boxes per observation.

    Raises:
        InputError: what `certify` refuses.
    """
    check_arguments(exact_distance, locals())
    shape, policies, cells = as_cells(policy, masks)
    check_certify(policy, eps, obs, shape)
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        policies = jax.tree.map(lambda x: np.asarray(x, np.float64), policies)
        rows = np.broadcast_to(np.asarray(obs, np.float64), (*shape, *np.shape(obs)[-2:]))
        rows = rows.reshape(-1, *rows.shape[-2:])
        radius = np.broadcast_to(np.asarray(eps, np.float64), rows.shape[-1:])
        found = []
        for cell, at in enumerate(rows):
            victim = masked_policy(policies, jax.tree.map(lambda x, i=cell: x[i], cells))
            for one in at:
                query = policy_query(victim, jnp.asarray(radius), normalise(victim, one))
                found.append(_search(query, gap, most_boxes))
    ends = (np.reshape(x, (*shape, rows.shape[1])) for x in zip(*found, strict=True))
    return Exact(*ends)


def _search(query: Query, gap: float, most_boxes: int) -> tuple[float, float, int]:
    """(lower, upper, boxes) at one observation."""
    whole = np.asarray(query.centre)[None], np.asarray(query.eps)[None]
    lower, boxes = _bounded(query, *whole, np.array([np.inf]))
    count = 1
    while True:
        goal = (1 + gap) * lower + NOTHING
        boxes = _where(boxes, boxes.upper > goal)
        if not len(boxes.upper):
            return lower, goal, count
        if count >= most_boxes:
            return lower, float(boxes.upper.max()), count
        largest = np.argsort(-boxes.upper)
        split, left = (_where(boxes, i) for i in np.split(largest, [BATCH // 2]))
        reached, halves = _bounded(query, *_halves(split), np.tile(split.upper, 2))
        boxes = Boxes(*(np.concatenate(pair) for pair in zip(left, halves, strict=True)))
        lower, count = max(lower, reached), count + len(halves.upper)


def _where(boxes: Boxes, chosen: np.ndarray) -> Boxes:
    return Boxes(*(x[chosen] for x in boxes))


def _halves(boxes: Boxes) -> tuple[np.ndarray, np.ndarray]:
    """Centres and radii of both halves of every box, `[2 k, obs_size]`; together they cover it."""
    here = np.arange(len(boxes.widest)), boxes.widest
    radius, step = boxes.radius.copy(), np.zeros_like(boxes.radius)
    step[here] = radius[here] = boxes.radius[here] / 2
    # The rounding of centre +- step.
    radius += 4 * np.finfo(float).eps * (np.abs(boxes.centre) + boxes.radius)
    return np.concatenate([boxes.centre - step, boxes.centre + step]), np.tile(radius, (2, 1))


def _bounded(
    query: Query, centre: np.ndarray, radius: np.ndarray, parent: np.ndarray
) -> tuple[float, Boxes]:
    """(D reached in these boxes, the boxes with their bounds, none above its parent's)."""
    padding = ((0, BATCH - len(centre)), (0, 0))
    padded = (jnp.asarray(np.pad(x, padding, mode="edge")) for x in (centre, radius))
    lower, upper, widest = (np.asarray(x)[: len(centre)] for x in _explore(query, *padded))
    return float(lower.max()), Boxes(centre, radius, np.minimum(upper, parent), widest)


@jax.jit
@partial(jax.vmap, in_axes=(None, 0, 0))
def _explore(query: Query, centre: Array, radius: Array) -> tuple[Array, Array, Array]:
    """(D reached, bound on D, the coordinate that moves the outputs most) of one box."""

    def change(obs: Array) -> Array:
        return _outputs(query, obs) - _outputs(query, query.centre)

    moved = change(centre)
    rows = _frame(moved) if query.norm == "l2" else jnp.eye(len(moved), dtype=moved.dtype)
    box = crown(with_rows(replace(query, centre=centre, eps=radius), rows))
    upper = length(query, furthest(box, centre_value(with_rows(query, rows))))
    slopes = jax.jacobian(change)(centre)
    corner = centre + radius * jnp.sign(moved @ slopes)
    corner = jnp.clip(corner, query.centre - query.eps, query.centre + query.eps)
    lower = jnp.maximum(length(query, moved), length(query, change(corner)))
    steepness = jnp.linalg.norm(slopes, axis=0)
    steepness += FLAT * jnp.max(steepness) + NOTHING
    return lower, upper * (1 + GRANTED), jnp.argmax(steepness * radius)


def _outputs(query: Query, obs: Array) -> Array:
    """The network of the query, `[outputs]`."""
    *hidden, last = query.layers
    for weight, bias in hidden:
        obs = ACTIVATIONS[query.activation](weight @ obs + bias)
    return last.weight @ obs + last.bias


def _frame(vector: Array) -> Array:
    """An orthonormal basis `[n, n]`, its first row along the vector (Householder)."""
    size = jnp.linalg.norm(vector)
    first = jnp.zeros_like(vector).at[0].set(1.0)
    unit = jnp.where(size > 0, vector / jnp.where(size > 0, size, 1.0), first)
    mirror = unit + jnp.where(unit[0] < 0, -1.0, 1.0) * first
    return jnp.eye(len(vector)) - 2 * jnp.outer(mirror, mirror) / (mirror @ mirror)
