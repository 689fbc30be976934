"""Counts per iteration: nothing before the window, exact at its end."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune.families import InputError
from jaxprune.pruning.allocation import Allocation
from jaxprune.pruning.schedules import SCHEDULES, counts_per_iteration, linear, one_shot

HUNDRED = Allocation((0,), (100,))


def test_linear_by_hand():
    """Window 0.2 to 0.7 of 10 iterations: events at iterations 3 to 7, a fifth each."""
    counts = counts_per_iteration(linear, HUNDRED, 10, (0.2, 0.7))
    assert counts.dtype == np.int32
    assert counts[:, 0].tolist() == [0, 0, 20, 40, 60, 80, 100, 100, 100, 100]


def test_one_shot_by_hand():
    counts = counts_per_iteration(one_shot, HUNDRED, 10, (0.2, 0.7))
    assert counts[:, 0].tolist() == [0, 0, 0, 0, 0, 0, 100, 100, 100, 100]


def test_groups_have_their_own_counts_and_halves_go_to_even():
    """Counts 5, 3, 0 over two events: the first event removes 2.5, 1.5 and 0."""
    plan = Allocation((0, 1, 1, 2), (5, 3, 0))
    counts = counts_per_iteration(linear, plan, 3, (0, 2 / 3))
    assert counts.tolist() == [[2, 2, 0], [5, 3, 0], [5, 3, 0]]


def test_fractions_are_exact():
    """7 * 29 / 100 events is what the decimal says: 0.29 * 100 is 29, not 28."""
    counts = counts_per_iteration(linear, Allocation((0,), (29,)), 100, (0.0, 0.29))
    assert counts[:29, 0].tolist() == list(range(1, 30))
    third = counts_per_iteration(linear, Allocation((0,), (3,)), 3, (0, 1))
    assert third[:, 0].tolist() == [1, 2, 3]


windows = st.tuples(st.integers(0, 100), st.integers(0, 100)).filter(lambda w: w[0] < w[1])


@given(st.sampled_from(list(SCHEDULES)), st.integers(0, 5000), st.integers(1, 300), windows)
@settings(deadline=None, derandomize=True, max_examples=200)
def test_any_schedule_starts_at_zero_never_falls_and_ends_exactly(name, count, iterations, window):
    start, stop = (round(Fraction(edge, 100) * iterations) for edge in window)
    edges = (window[0] / 100, window[1] / 100)
    plan = Allocation((0,), (count,))
    if start == stop:
        with pytest.raises(InputError, match="holds no iteration"):
            counts_per_iteration(SCHEDULES[name], plan, iterations, edges)
        return
    rows = counts_per_iteration(SCHEDULES[name], plan, iterations, edges)[:, 0]
    assert rows.shape == (iterations,)
    assert np.all(rows[:start] == 0)
    assert np.all(np.diff(rows) >= 0)
    assert np.all(rows[stop - 1 :] == count)
    if name == "linear":  # never more than half a weight off the line
        events = np.arange(1, stop - start + 1)
        assert np.all(
            np.abs(2 * rows[start:stop] * (stop - start) - 2 * events * count) <= stop - start
        )
    else:
        assert np.all(rows[: stop - 1] == 0)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_contract(name):
    """Exact fractions in [0, 1] that never fall and end at 1."""
    for events in (1, 2, 7, 100):
        values = [SCHEDULES[name](event, events) for event in range(1, events + 1)]
        assert all(isinstance(value, Fraction) for value in values)
        assert values == sorted(values) and values[0] >= 0 and values[-1] == 1


def test_one_shot_is_the_neutral_member():
    assert next(iter(SCHEDULES)) == "one_shot"


@pytest.mark.parametrize(
    "window",
    [
        (0.5, 0.5),
        (0.7, 0.2),
        (-0.1, 0.5),
        (0.5, 1.1),
        (0.5, 0.52),
        (0.0, 0.04),
        (0.0, float("nan")),
    ],
)
def test_windows_without_an_event_are_input_errors(window):
    with pytest.raises(InputError, match="prune window") as error:
        counts_per_iteration(linear, HUNDRED, 10, window)
    assert "0 <= start < stop <= 1" in str(error.value) and "\n" not in str(error.value)
