"""Shares are exact: decimals as people write them, and ERK to the digits of the literature."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxprune.families import InputError
from jaxprune.pruning.allocation import ALLOCATIONS, erk, exact, global_, share_out, uniform

HOPPER = ((11, 64), (64, 64), (64, 3))
GRID = [Fraction(i, 20) for i in range(20)] + [Fraction(99, 100)]


@pytest.mark.parametrize(
    ("sparsity", "fraction"),
    [(0.9, (9, 10)), (0.29, (29, 100)), (1e-9, (1, 10**9)), (0, (0, 1)), (0.35, (7, 20))],
)
def test_a_sparsity_is_the_decimal_that_was_written(sparsity, fraction):
    assert exact(sparsity) == Fraction(*fraction)


@pytest.mark.parametrize("sparsity", [1.0, -0.1, float("nan"), 2])
def test_a_sparsity_outside_the_range_is_named(sparsity):
    for rule in ALLOCATIONS.values():
        with pytest.raises(InputError, match=r"outside \[0, 1\)"):
            rule([(3, 4)], sparsity)


def test_global_and_uniform_differ_in_who_competes():
    assert global_(HOPPER, 0.9) == ((0, 0, 0), (Fraction(9, 10),) * 3)
    assert uniform(HOPPER, 0.9) == ((0, 1, 2), (Fraction(9, 10),) * 3)


@pytest.mark.parametrize(
    ("sparsity", "layers"),
    [
        (0.90, (0.80232, 0.94201, 0.35249)),
        (0.95, (0.90096, 0.97095, 0.67560)),
        (0.50, (0.0, 0.609375, 0.0)),  # the first and the last layer stay dense
        (0.0, (0.0, 0.0, 0.0)),
    ],
)
def test_erk_of_a_hopper_actor(sparsity, layers):
    assert [round(float(x), 6) for x in erk(HOPPER, sparsity).sparsity] == pytest.approx(
        layers, abs=5e-6
    )


shapes = st.lists(st.tuples(st.integers(1, 80), st.integers(1, 80)), min_size=1, max_size=5)


@given(shapes)
def test_erk_spends_its_budget_and_never_gets_denser(shapes):
    """Densities in [0, 1] that add up to the budget, proportional where they are below 1."""
    before = None
    for sparsity in GRID:
        shares = erk(shapes, sparsity).sparsity
        sizes = [math.prod(shape) for shape in shapes]
        kept = sum((1 - s) * n for s, n in zip(shares, sizes, strict=True))
        assert kept == sum(n - math.floor(sparsity * n) for n in sizes)
        assert all(0 <= s <= 1 for s in shares)
        scale = {(1 - s) * n / sum(x) for s, n, x in zip(shares, sizes, shapes, strict=True) if s}
        assert len(scale) <= 1
        assert before is None or all(a <= b for a, b in zip(before, shares, strict=True))
        before = shares


def test_counts_of_every_size_are_the_decimal_rounded_half_to_even():
    """All sizes to 5000 and the whole grid, against decimal arithmetic of Python's own."""
    for sparsity in GRID:
        (share,) = uniform([(1, 1)], sparsity).sparsity
        numerator, denominator = share.numerator, share.denominator
        sizes = np.arange(1, 5001)
        quotient, rest = np.divmod(sizes * numerator, denominator)
        up = (2 * rest > denominator) | ((2 * rest == denominator) & (quotient % 2 == 1))
        assert [round(share * int(n)) for n in sizes] == (quotient + up).tolist()


def test_layers_with_a_sparsity_of_their_own():
    named = dict(zip(("a", "b", "c"), HOPPER, strict=True))
    shares = share_out(named, global_, 0.5, {"b": 0.9})
    assert shares == ((0, 1, 0), (Fraction(1, 2), Fraction(9, 10), Fraction(1, 2)))
    assert share_out(named, uniform, 0.5, {"a": 0.0}).sparsity[0] == 0
    assert share_out(named, erk, 0.0, {"b": 0.9}).sparsity == (0, 0, 0)  # nothing is pruned
    every = share_out(named, global_, 0.5, {"a": 0.1, "b": 0.2, "c": 0.3})
    assert every == ((0, 1, 2), (Fraction(1, 10), Fraction(1, 5), Fraction(3, 10)))


def test_global_is_the_neutral_member():
    assert next(iter(ALLOCATIONS)) == "global"
