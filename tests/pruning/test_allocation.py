"""Counts are exact: decimals as people write them, halves to even."""

import itertools
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune.families import InputError
from jaxprune.pruning.allocation import ALLOCATIONS, exact, global_, uniform


@pytest.mark.parametrize(
    ("sparsity", "size", "count"),
    [
        (0.9, 192, 173),  # 172.8 rounds; flooring would give 172
        (0.29, 100, 29),  # 0.29 * 100 = 28.999999999999996 in floating point
        (0.9, 10, 9),  # int((1 - 0.9) * 10) keeps 0
        (0.5, 5, 2),  # 2.5: halves to even ...
        (0.5, 7, 4),  # ... 3.5
        (0.7, 5, 4),  # 3.5, though 0.7 is below 7/10 as a binary fraction
        (0.35, 10, 4),  # 3.5, though 0.35 is below 35/100 as a binary fraction
        (0.0, 100, 0),
        (0.999, 10, 10),  # 9.99
        (Fraction(1, 3), 3, 1),
        (Fraction(1, 3), 100, 33),
        (Fraction(1, 2), 3, 2),  # 1.5
        (1e-9, 100, 0),
    ],
)
def test_counts_by_hand(sparsity, size, count):
    assert global_([size], sparsity).counts == (count,)
    assert uniform([size], sparsity).counts == (count,)


def test_global_counts_all_leaves_together_and_uniform_each_alone():
    sizes = (704, 4096, 192)  # an 11-64-64-3 actor, 4992 weights
    assert global_(sizes, 0.9) == ((0, 0, 0), (4493,))  # 4492.8
    assert uniform(sizes, 0.9) == ((0, 1, 2), (634, 3686, 173))  # 633.6, 3686.4, 172.8


def test_a_decimal_is_what_a_person_wrote():
    assert exact(0.9) == Fraction(9, 10)
    assert exact(0.1 + 0.2) == Fraction("0.30000000000000004")
    assert exact(Fraction(2, 7)) == Fraction(2, 7)


@given(st.integers(0, 999), st.lists(st.integers(1, 5000), min_size=1, max_size=5))
@settings(deadline=None, derandomize=True)
def test_counts_are_the_rounded_product(thousandths, sizes):
    """Reference: integers only. n = floor(p / 1000), then the remainder decides, ties to even."""

    def reference(size):
        whole, rest = divmod(thousandths * size, 1000)
        return whole + (rest > 500 or (rest == 500 and whole % 2 == 1))

    sparsity = float(f"0.{thousandths:03d}")
    assert global_(sizes, sparsity).counts == (reference(sum(sizes)),)
    assert uniform(sizes, sparsity).counts == tuple(reference(size) for size in sizes)


@pytest.mark.parametrize("name", ALLOCATIONS)
def test_contract(name):
    """One group per leaf, one count per group; nothing at 0, never fewer at a higher sparsity."""
    sizes = (40, 48, 18)
    plans = [ALLOCATIONS[name](sizes, k / 100) for k in range(100)]
    for plan in plans:
        assert len(plan.groups) == len(sizes)
        assert sorted(set(plan.groups)) == list(range(len(plan.counts)))
        assert plan.groups == plans[0].groups
    assert set(plans[0].counts) == {0}
    for low, high in itertools.pairwise(plans):
        assert all(a <= b for a, b in zip(low.counts, high.counts, strict=True))


def test_global_is_the_neutral_member():
    assert next(iter(ALLOCATIONS)) == "global"


@pytest.mark.parametrize("name", ALLOCATIONS)
@pytest.mark.parametrize(
    "sparsity",
    [1, 1.0, 1.5, -0.1, -1e-9, Fraction(1), Fraction(-1, 9)]
    + [float(x) for x in ("nan", "inf", "-inf")],
)
def test_outside_the_unit_interval_is_an_input_error(name, sparsity):
    with pytest.raises(InputError, match=r"outside \[0, 1\)") as error:
        ALLOCATIONS[name]([10], sparsity)
    assert "\n" not in str(error.value)
