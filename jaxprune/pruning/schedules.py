"""When weights go: the pruned count as a function of the event, in exact arithmetic on the host.

An event is a PPO iteration boundary, before its rollout, so that no stored log-probability is
stale. A schedule gives the fraction of the final count at event `k` of `K`; the learner receives
the resulting integers as data, so that every agent of a population may have its own.
"""

from collections.abc import Callable
from fractions import Fraction

import numpy as np

from jaxprune.families import InputError
from jaxprune.pruning.allocation import Allocation

Schedule = Callable[[int, int], Fraction]


def one_shot(event: int, events: int) -> Fraction:
    """Everything at the last event."""
    return Fraction(int(event >= events))


def linear(event: int, events: int) -> Fraction:
    """k / K: micro-pruning M1, the next smallest weights at every event (linear-absolute)."""
    return Fraction(event, events)


SCHEDULES: dict[str, Schedule] = {"one_shot": one_shot, "linear": linear}


def counts_per_iteration(
    schedule: Schedule,
    allocation: Allocation,
    iterations: int,
    window: tuple[float, float],
) -> np.ndarray:
    """How many weights each group has lost when iteration i starts, int32 `[iterations, groups]`.

    The events are the iterations `round(window[0] * iterations) + 1 .. round(window[1] *
    iterations)`, counted from 1; the last one reaches the target exactly.

    Raises:
        InputError: the window is not an interval of [0, 1] with at least one event.
    """
    valid = 0 <= window[0] < window[1] <= 1
    start, stop = (round(Fraction(str(x)) * iterations) if valid else 0 for x in window)
    if start == stop:
        raise InputError(
            f"prune window {window} holds no iteration of {iterations}: give two fractions of "
            "training with 0 <= start < stop <= 1, or train for more steps"
        )
    events = [min(max(i - start, 0), stop - start) for i in range(1, iterations + 1)]
    fractions = [schedule(event, stop - start) if event else Fraction(0) for event in events]
    rows = [[round(fraction * count) for count in allocation.counts] for fraction in fractions]
    return np.asarray(rows, np.int32)
