"""When weights go: the pruned count as a function of the event, in exact arithmetic on the host.

An event is a PPO iteration boundary, before its rollout, so that no stored log-probability is
stale; with the event unit "epoch" there is one before every epoch of an iteration, and those after
the first are stale: an ablation. A schedule gives the fraction of the final count at event `k` of
`K` and at `k = 0`, before the window; the learner receives the resulting integers as data, so that
every agent of a population may have its own.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np

from jaxprune.validation import InputError

# (event k, events K, final sparsity) -> fraction of the final count
Schedule = Callable[[int, int, Fraction], Fraction]

# Rounds of pruning of the schedule "iterative", and of lottery tickets.
ROUNDS = 5


def one_shot(event: int, events: int, final: Fraction) -> Fraction:
    """Everything at the last event, and fine-tuning after it."""
    del final  # all of it
    return Fraction(int(event >= events))


def linear(event: int, events: int, final: Fraction) -> Fraction:
    """k / K: micro-pruning M1, the next smallest weights at every event (linear-absolute)."""
    del final  # a share of it
    return Fraction(event, events)


def geometric(event: int, events: int, final: Fraction) -> Fraction:
    """s_k = 1 - (1 - s)^(k / K): micro-pruning M2, each event removes one fraction of what is left.

    That fraction is 1 - (1 - s)^(1 / K).
    """
    if not final or event in (0, events):
        return Fraction(event, events)
    return Fraction(1 - (1 - float(final)) ** (event / events)) / final


def iterative(event: int, events: int, final: Fraction) -> Fraction:
    """`ROUNDS` equal relative cuts, evenly spread over the window, with training in between."""
    return geometric(event * ROUNDS // events, ROUNDS, final)


def cubic(event: int, events: int, final: Fraction) -> Fraction:
    """1 - (1 - k / K)^3: gradual magnitude pruning.

    Source: Zhu and Gupta 2017 (arXiv 1710.01878), equation 1 from sparsity 0.
    """
    del final  # a share of it
    return 1 - (1 - Fraction(event, events)) ** 3


def at_start(event: int, events: int, final: Fraction) -> Fraction:
    """Everything before the first rollout: static sparsity."""
    del event, events, final  # always all of it
    return Fraction(1)


SCHEDULES: dict[str, Schedule] = {
    "one_shot": one_shot,
    "linear": linear,
    "geometric": geometric,
    "iterative": iterative,
    "cubic": cubic,
    "at_start": at_start,
}


def counts_per_event(
    schedule: Schedule,
    counts: Sequence[int],
    final: Fraction,
    iterations: int,
    window: tuple[float, float],
    events: int = 1,
) -> np.ndarray:
    """What each group has lost after every event, int32 `[iterations, events, groups]`.

    The window holds the iterations `round(window[0] * iterations) + 1 .. round(window[1] *
    iterations)`, counted from 1; its last event reaches the target exactly.

    Args:
        schedule: of `SCHEDULES`.
        counts: of every group, in the end.
        final: sparsity in the end.
        iterations: of training.
        window: fractions of training.
        events: per iteration; the first is at its start.

    Raises:
        InputError: the window is not an interval of [0, 1] with at least one event.
    """
    start, stop = window_iterations(iterations, window)
    total = (stop - start) * events
    rows = []
    for number in range(iterations * events):
        event = min(max(number + 1 - start * events, 0), total)
        fraction = schedule(event, total, final)
        rows.append([round(fraction * count) for count in counts])
    return np.asarray(rows, np.int32).reshape(iterations, events, len(counts))


def window_iterations(iterations: int, window: tuple[float, float]) -> tuple[int, int]:
    """Iterations before the window, and up to its end. Raises `InputError` if it is empty."""
    valid = 0 <= window[0] < window[1] <= 1
    start, stop = (round(Fraction(str(x)) * iterations) if valid else 0 for x in window)
    if start == stop:
        raise InputError(
            f"prune window {window} holds no iteration of {iterations}: give two fractions of "
            "training with 0 <= start < stop <= 1, or train for more steps"
        )
    return start, stop
