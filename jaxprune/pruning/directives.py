"""What the learner is told, iteration by iteration: made on the host, exact, one per agent."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxprune.pruning.allocation import exact
from jaxprune.pruning.methods import Method, Target, make_target
from jaxprune.pruning.schedules import SCHEDULES, counts_per_event, window_iterations
from jaxprune.pruning.scope import Scope
from jaxprune.types import AnyArray, Array, Params
from jaxprune.validation import InputError

# Fraction of the kept weights that SET and RigL exchange at first; it falls to 0 as a cosine.
DROP = 0.3


class Directive(NamedTuple):
    """The orders of one iteration; `[iterations, ...]` for a whole training."""

    method: AnyArray  # int32 [], index of the agent's method among the learner's
    groups: AnyArray  # int32 [leaves], see `Target`
    counts: AnyArray  # int32 [events, leaves], units gone after each event
    drop: AnyArray  # float32 [], fraction of the kept weights to exchange (SET, RigL)
    rewind: Array  # bool [], go back to the first weights, optimiser and normaliser
    progress: AnyArray  # float32 [], share of training that is over, since the last rewinding
    snapshot: AnyArray  # int32 [], where to keep the agent after this iteration; none if too large


class Timing(NamedTuple):
    """When a training prunes."""

    iterations: int
    window: tuple[float, float]  # fractions of training
    events: int = 1  # per iteration


def make_directives(
    methods: Sequence[Method],
    index: int,
    params: Params,
    scope: Scope,
    allocation: str,
    levels: Sequence[float],
    timing: Timing,
) -> Directive:
    """The orders for one agent, `[iterations, ...]`.

    Args:
        methods: all of the learner's, which decide the width of the arrays.
        index: of the agent's method.
        params: arrays or shapes of a policy's parameters.
        scope: which weights may go.
        allocation: a key of `ALLOCATIONS`.
        levels: rising sparsities. The last one is the target. With several, the agent passes
            through every one exactly and is kept there, as late as possible (trajectory mode).
        timing: when training prunes.

    Raises:
        InputError: what `make_target` and the schedule refuse, or more levels than events.
    """
    method = methods[index]
    targets = [make_target(method, params, scope, allocation, level) for level in levels]
    iterations, events = timing.iterations, timing.events
    counts = counts_per_event(
        SCHEDULES[method.schedule or "one_shot"],
        list(targets[-1].counts),
        exact(levels[-1]),
        iterations,
        timing.window,
        events,
    )
    snapshot = np.full(iterations, len(levels), np.int32)
    if len(levels) > 1:
        counts, snapshot = _through(counts, targets, levels)
    start, stop = window_iterations(iterations, timing.window)
    phase = np.clip((np.arange(iterations) - start) / (stop - start), 0, 1)
    drop = DROP / 2 * (1 + np.cos(np.pi * phase)) if method.regrow else np.zeros(iterations)
    ends = counts[:, 0].sum(-1)
    rewind = (np.diff(ends, prepend=0) > 0) & method.rewind
    padding = width(methods, params, scope) - counts.shape[-1]
    repeated = {"method": np.int32(index), "groups": np.pad(targets[-1].groups, (0, padding))}
    return Directive(
        **{name: np.broadcast_to(x, (iterations, *x.shape)) for name, x in repeated.items()},
        counts=np.pad(counts, ((0, 0), (0, 0), (0, padding))),
        drop=drop.astype(np.float32),
        rewind=rewind,
        progress=_progress(rewind),
        snapshot=snapshot,
    )


def width(methods: Sequence[Method], params: Params, scope: Scope) -> int:
    """Leaves of units of the method that has the most."""
    return max(len(make_target(m, params, scope, "uniform", 0.0).counts) for m in methods)


def _progress(rewind: np.ndarray) -> np.ndarray:
    """Where every iteration stands between two rewindings, in [0, 1), float32."""
    edges = [0, *np.flatnonzero(rewind), len(rewind)]
    parts = [np.arange(b - a) / (b - a) for a, b in itertools.pairwise(edges) if b > a]
    return np.concatenate(parts).astype(np.float32)


def _through(
    counts: np.ndarray, targets: Sequence[Target], levels: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Counts that pass through every level, and the slot of the last iteration at each level.

    The iteration whose counts are nearest to a level's takes these instead.
    """
    counts, total = counts.copy(), counts[:, -1].sum(-1)
    snapshot = np.full(len(counts), len(levels), np.int32)
    passed = [np.flatnonzero(total <= target.counts.sum()) for target in targets]
    where = [int(x[-1]) for x in passed if len(x)]
    if len(set(where)) < len(levels):
        raise InputError(
            f"one run cannot stop at {len(levels)} sparsities with {len(np.unique(total))} "
            "different ones on its way: train for more steps, prune in a wider window, or give a "
            "shorter --sparsity-grid"
        )
    for slot, (at, target) in enumerate(zip(where, targets, strict=True)):
        counts[:at] = np.minimum(counts[:at], target.counts)  # no group may be ahead of a level
        counts[at] = target.counts
        snapshot[at] = slot
    # The groups may pass a level at different times: none may have less removed afterwards.
    flat = np.maximum.accumulate(counts.reshape(-1, counts.shape[-1]))
    return flat.reshape(counts.shape), snapshot
