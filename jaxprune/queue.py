"""Loops over populations whose items take different times: a lane that is done takes the next item.

A vectorised `while` runs until its slowest item is done, and the lanes of the others idle. Here
lanes step together until one of them is done; that one leaves its result and starts the next item
of its device's queue.
"""

import heapq
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.devices import LANES, Mapped, lane_width, layout, mesh_devices, take
from jaxprune.types import AnyArray, Array, PyTree

# Items that one device steps together. Fewer than `LANES` on a CPU, where a step costs what its
# lanes cost, those included that idle at the end of the queue.
QUEUE_LANES = LANES | {"cpu": 32}


class Loop(NamedTuple):
    """What is done to one item until it is done, in pure functions of one item."""

    start: Callable[[PyTree], tuple[PyTree, PyTree]]
    """item -> (what stays the same, the state before the first step)."""
    step: Callable[[PyTree, PyTree], PyTree]
    """(what stays the same, state) -> state."""
    done: Callable[[PyTree], Array]
    """state -> bool []."""
    result: Callable[[PyTree], PyTree]
    """state -> result."""


class Queued(NamedTuple):
    """Items of a queue, and which of them are no padding; on every device the padding is last."""

    real: AnyArray  # bool [N]
    items: PyTree  # [N]


def map_queue(program: Mapped, shared: PyTree, items: PyTree, lanes: int | None = None) -> PyTree:
    """Runs a loop for every item of a population, on all devices.

    Args:
        program: of a `Loop`, through the items `in_queue`; keep it for the next call.
        shared: what all items have in common, a pytree.
        items: a pytree whose leaves have a leading axis `[N]`; neighbours go to different devices.
        lanes: items that a device steps together at most; default: `QUEUE_LANES` of its kind.

    Returns:
        The results, `[N]`, on the host.
    """
    size = len(jax.tree.leaves(items)[0])
    laid = layout(size, width=1)
    queued = laid.deal(Queued(np.ones(size, bool), items))
    return laid.collect(program(shared, queued, queue_width(size, lanes)))


def queue_width(size: int, lanes: int | None = None) -> int:
    """How many of `size` items of a queue a device steps together; see `map_queue`.

    The fewest with which equal items are done as soon: in rounds that are all full, to one lane.
    """
    widest = lane_width(1, size, lanes or QUEUE_LANES[mesh_devices()[0].platform])
    share = max(-(-size // len(mesh_devices())), 1)
    return -(-share // -(-share // widest))


def lane_steps(lengths: Sequence[int], width: int) -> int:
    """Returns how many steps all lanes of all devices take for items of so many steps each.

    Args:
        lengths: of the items, in the order of `map_queue`.
        width: lanes of a device.
    """
    devices, total = len(mesh_devices()), 0
    for device in range(min(devices, len(lengths))):
        ends = [0] * width
        for length in lengths[device::devices]:
            heapq.heapreplace(ends, ends[0] + int(length))
        total += width * max(ends)
    return total


def in_queue(make: Callable[[PyTree], Loop], width: int, shared: PyTree, queued: Queued) -> PyTree:
    """Runs a loop for every item of one device: a lane that is done takes the next one.

    Lanes step together until one is done. The queue starts again at its end, for lanes that have
    to wait for others; what they find there is dropped.
    """
    loop = make(shared)
    size, capacity = jnp.sum(queued.real), len(queued.real)
    done, step = jax.vmap(loop.done), jax.vmap(loop.step)

    def start(number: Array) -> tuple[PyTree, PyTree]:
        return loop.start(take(queued.items, number % jnp.maximum(size, 1)))

    def until_one_is_done(carry: PyTree) -> PyTree:
        number, known, state, results = carry
        state = jax.lax.while_loop(lambda s: ~jnp.any(done(s)), partial(step, known), state)
        ended = done(state)
        place = jnp.where(ended, number, capacity)
        results = jax.tree.map(
            lambda all_, new: all_.at[place].set(new, mode="drop"),
            results,
            jax.vmap(loop.result)(state),
        )
        number = jnp.where(ended, jnp.max(number) + jnp.cumsum(ended), number)
        known, state = _where(ended, jax.vmap(start)(number), (known, state))
        return number, known, state, results

    number = jnp.arange(width)
    known, state = jax.vmap(start)(number)
    shapes = jax.eval_shape(jax.vmap(loop.result), state)
    results = jax.tree.map(lambda x: jnp.zeros((capacity, *x.shape[1:]), x.dtype), shapes)
    left = lambda carry: jnp.any(carry[0] < size)  # noqa: E731
    return jax.lax.while_loop(left, until_one_is_done, (number, known, state, results))[-1]


def _where(which: Array, new: PyTree, old: PyTree) -> PyTree:
    """The lanes `which` of one tree, the others of the other."""
    return jax.tree.map(
        lambda x, y: jnp.where(which.reshape(-1, *[1] * (x.ndim - 1)), x, y), new, old
    )
