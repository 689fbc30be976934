"""Schedules: exact integers at every event, none lost at the end."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxprune.pruning.schedules import (
    ROUNDS,
    SCHEDULES,
    at_start,
    counts_per_event,
    cubic,
    geometric,
    iterative,
    linear,
    one_shot,
    window_iterations,
)
from jaxprune.validation import InputError

WINDOW = (0.2, 0.7)


def counts(schedule, target=100, iterations=10, window=WINDOW, events=1, final=Fraction(1, 2)):
    return counts_per_event(schedule, [target], final, iterations, window, events)[..., 0]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (linear, [0, 0, 20, 40, 60, 80, 100, 100, 100, 100]),  # events at iterations 3 to 7
        (one_shot, [0, 0, 0, 0, 0, 0, 100, 100, 100, 100]),
        (cubic, [0, 0, 49, 78, 94, 99, 100, 100, 100, 100]),  # 1 - .8^3 = .488, .784, .936, .992
        (at_start, [100] * 10),
        # 200 weights to a half: 200 (1 - 2^(-k / 5)) = 25.9, 48.4, 68.0, 85.1
        (geometric, [0, 0, 26, 48, 68, 85, 100, 100, 100, 100]),
        (iterative, [0, 0, 26, 48, 68, 85, 100, 100, 100, 100]),  # five events are five rounds
    ],
)
def test_by_hand(schedule, expected):
    found = counts_per_event(schedule, [100], Fraction(1, 2), 10, WINDOW)
    assert found.dtype == np.int32 and found.shape == (10, 1, 1)
    assert found[:, 0, 0].tolist() == expected


def test_cubic_is_that_of_zhu_and_gupta():
    found = [float(cubic(event, 20, Fraction(1, 2))) for event in (2, 5, 10, 15)]
    assert found == pytest.approx([0.271, 0.578, 0.875, 0.984], abs=6e-4)


def test_geometric_removes_the_same_fraction_of_the_rest_at_every_event():
    final, events = Fraction(9, 10), 7
    left = [1 - final * geometric(k, events, final) for k in range(events + 1)]
    ratios = [float(b / a) for a, b in itertools.pairwise(left)]
    assert ratios == pytest.approx([0.1 ** (1 / events)] * events)


def test_iterative_jumps_once_a_round():
    found = counts(iterative, target=5000, iterations=100, window=(0.0, 1.0), final=Fraction(9, 10))
    jumps = np.flatnonzero(np.diff(found[:, 0], prepend=0)) + 1
    assert jumps.tolist() == [20, 40, 60, 80, 100] and len(jumps) == ROUNDS


def test_events_of_epochs_divide_those_of_iterations():
    by_iteration, by_epoch = counts(linear, 1000), counts(linear, 1000, events=4)
    assert by_epoch.shape == (10, 4)
    assert np.array_equal(by_epoch[:, -1], by_iteration[:, 0])
    assert by_epoch[2].tolist() == [50, 100, 150, 200]


def test_groups_have_their_own_counts_and_halves_go_to_even():
    """Counts 5, 3, 0 over two events: the first event removes 2.5, 1.5 and 0."""
    found = counts_per_event(linear, [5, 3, 0], Fraction(1, 2), 3, (0, 2 / 3))
    assert found[:, 0].tolist() == [[2, 2, 0], [5, 3, 0], [5, 3, 0]]


windows = st.tuples(st.integers(0, 100), st.integers(0, 100)).filter(lambda w: w[0] < w[1])


@given(
    st.sampled_from(list(SCHEDULES)),
    st.integers(0, 5000),
    st.integers(0, 99),
    st.integers(1, 60),
    windows,
    st.integers(1, 3),
)
def test_any_schedule_never_falls_and_ends_exactly(name, target, final, iterations, window, events):
    edges = (window[0] / 100, window[1] / 100)
    start, stop = (round(Fraction(edge, 100) * iterations) for edge in window)
    arguments = (SCHEDULES[name], [target], Fraction(final, 100), iterations, edges, events)
    if start == stop:
        with pytest.raises(InputError, match="holds no iteration"):
            counts_per_event(*arguments)
        return
    assert window_iterations(iterations, edges) == (start, stop)
    found = counts_per_event(*arguments)[..., 0]
    assert found.shape == (iterations, events)
    assert np.all(np.diff(found.ravel()) >= 0)
    assert np.all(found[stop - 1 :, -1] == target)
    assert np.all(found[:start] == (target if name == "at_start" else 0))
    if name == "linear":  # never more than half a weight off the line
        inside, total = found[start:stop].ravel(), (stop - start) * events
        line = np.arange(1, total + 1) * target
        assert np.all(np.abs(2 * inside * total - 2 * line) <= total)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_contract(name):
    """Exact fractions in [0, 1] that never fall and end at 1, whatever the final sparsity."""
    for final in (Fraction(0), Fraction(1, 20), Fraction(99, 100)):
        for events in (1, 2, 7, 100):
            values = [SCHEDULES[name](event, events, final) for event in range(events + 1)]
            assert all(isinstance(value, Fraction) for value in values)
            assert values == sorted(values) and values[0] >= 0 and values[-1] == 1


@pytest.mark.parametrize(
    "window",
    [(0.5, 0.5), (0.7, 0.2), (-0.1, 0.5), (0.5, 1.1), (0.5, 0.52), (0.0, 0.04), (0.0, np.nan)],
)
def test_windows_without_an_event_are_input_errors(window):
    with pytest.raises(InputError, match="prune window") as error:
        counts_per_event(linear, [100], Fraction(1, 2), 10, window)
    assert "0 <= start < stop <= 1" in str(error.value) and "\n" not in str(error.value)
