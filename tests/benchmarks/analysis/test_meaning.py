"""Where a monotone bound says anything, on constructed curves."""

import numpy as np
import pytest

from benchmarks.analysis.meaning import BEST, meaning_rows, spread_of, where_meaningful

SPARSITY = np.array([0.0, 0.4, 0.8])
CLEAN, SPREAD = np.array([1000.0, 700.0, 20.0]), np.array([0.5, 0.4, 0.01])


def test_the_first_sparsity_below_one_half_with_what_is_left_there():
    tv = {
        "path": np.array([1.0, 0.9, 0.3]),
        "frobenius": np.array([1.0, 0.5, 0.5]),
        "path_22": np.array([0.7, 0.49, 0.4]),
    }
    found = {x.bound: x for x in where_meaningful(SPARSITY, tv, CLEAN, SPREAD)}
    assert list(found) == [*tv, BEST]
    assert found["path"][1:] == (0.8, 0.3, 20.0, 0.01)
    assert found["path_22"][1:] == found[BEST][1:] == (0.4, 0.49, 700.0, 0.4)
    assert np.isnan(found["frobenius"][1:]).all()
    header, rows = meaning_rows(list(found.values()), 1000.0, 0.5)
    assert "(dense 1000)" in header[2] and "(dense 0.5)" in header[3]
    assert rows[0] == ["path", "0.8", "20", "0.01"]
    assert rows[1] == ["frobenius", "never", "-", "-"]


def test_no_bound_says_nothing():
    assert where_meaningful(SPARSITY, {}, CLEAN, SPREAD) == []


def test_the_spread_of_actions():
    actions = np.array([[0.0, 0.0], [2.0, 4.0]])
    assert spread_of(actions, np.ones(2)) == pytest.approx(np.sqrt(1 + 4))
    assert spread_of(actions, np.array([3.0, 1.0])) == pytest.approx(np.sqrt(0.75 + 3))
    assert spread_of(actions, np.array([1.0, 0.0])) == 0
