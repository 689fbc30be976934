"""Shares are exact: decimals as people write them, and ERK to the digits of the literature."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune.pruning import METHODS, Scope, make_target
from jaxprune.pruning.allocation import (
    ALLOCATIONS,
    apportioned,
    erk,
    exact,
    global_,
    share_out,
    uniform,
)
from jaxprune.types import Params
from jaxprune.validation import InputError
from tests.policies import drawn_policy

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
    assert global_(HOPPER, 0.9) == ((0, 0, 0), (Fraction(9, 10),) * 3, (1, 1, 1))
    assert uniform(HOPPER, 0.9) == ((0, 1, 2), (Fraction(9, 10),) * 3, (1, 1, 1))


@pytest.mark.parametrize(
    ("sparsity", "layers"),
    [
        # (1 - 0.9) 4992 = 499.2 of c 270: c = 499.2 / 270, and 75 c / 704 of the first layer stay.
        (0.90, (0.803030, 0.942222, 0.354815)),
        (0.95, (0.901515, 0.971111, 0.677407)),
        (0.50, (0.0, 0.609375, 0.0)),  # the first and the last layer stay dense
        (0.0, (0.0, 0.0, 0.0)),
    ],
)
def test_erk_of_a_hopper_actor(sparsity, layers):
    assert [round(float(x), 6) for x in erk(HOPPER, sparsity).sparsity] == pytest.approx(
        layers, abs=1e-6
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
        assert kept == (1 - sparsity) * sum(sizes)
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
    assert shares[:2] == ((0, 1, 0), (Fraction(1, 2), Fraction(9, 10), Fraction(1, 2)))
    assert shares.density == (1, None, 1)
    assert share_out(named, uniform, 0.5, {"a": 0.0}).sparsity[0] == 0
    assert share_out(named, erk, 0.0, {"b": 0.9}).sparsity == (0, 0, 0)  # nothing is pruned
    every = share_out(named, global_, 0.5, {"a": 0.1, "b": 0.2, "c": 0.3})
    assert every[:2] == ((0, 1, 2), (Fraction(1, 10), Fraction(1, 5), Fraction(3, 10)))


def test_shares_of_a_whole_number_by_hand():
    """Webster's divisors 1/2, 3/2, ... over the weights: the smallest get a unit each."""
    shared = lambda total, *weights: apportioned(total, weights, [0, 0, 0], [9, 9, 9])  # noqa: E731
    assert shared(4, 6, 3, 1) == [3, 1, 0]  # 1/12, 1/6, 1/4, 5/12 before 1/2
    assert shared(5, 6, 3, 1) == [3, 2, 0]  # all of 1/2 change together, the first comes first
    assert shared(27, 6, 3, 1) == [9, 9, 9]
    assert apportioned(6, [6, 3, 1], [0, 0, 2], [2, 9, 9]) == [2, 2, 2]


def actor(shapes) -> Params:
    """Parameters with kernels of these shapes, whether or not they make a network."""
    layers = {
        f"layer_{i}": {"bias": np.zeros(shape[1]), "kernel": np.zeros(shape)}
        for i, shape in enumerate(shapes)
    }
    return Params(layers, {}, np.zeros(0))


def lost(shapes, allocation: str, sparsity, **scope) -> list[int]:
    """What every layer loses, or all together for the global allocation."""
    target = make_target(METHODS["magnitude"], actor(shapes), Scope(**scope), allocation, sparsity)
    return target.counts.tolist()


def test_all_allocations_of_a_hopper_actor_keep_as_many():
    """ERK kept 501 of 4992 where the others kept 499."""
    params = drawn_policy(11, 3).params
    for name in ALLOCATIONS:
        target = make_target(METHODS["magnitude"], params, Scope(), name, 0.9)
        assert 4992 - target.counts.sum() == 499
    assert lost(HOPPER, "erk", 0.9) == [565, 3860, 68]
    assert lost(HOPPER, "uniform", 0.9) == [634, 3686, 173]  # what rounding by itself gives, too


@given(shapes, st.sampled_from(sorted(ALLOCATIONS)), st.integers(0, 3))
@settings(deadline=None)
def test_allocations_are_compared_at_equal_totals(shapes, name, min_weights):
    """The total is the rounded decimal, or refused where the floors alone are more than is left.

    Layers never get denser as the sparsity rises, and are no further from their exact share than
    what adds up needs.
    """
    sizes = [math.prod(shape) for shape in shapes]
    floors = sum(min(min_weights, n) for n in sizes)
    before = [0] * len(shapes)
    for sparsity in GRID:
        total = round(sparsity * sum(sizes))
        if sum(sizes) - total < floors:
            with pytest.raises(InputError, match=f"takes {total} of {sum(sizes)}.*min_weights"):
                lost(shapes, name, sparsity, min_weights=min_weights)
            continue
        counts = lost(shapes, name, sparsity, min_weights=min_weights)
        assert sum(counts) == total
        assert all(a <= b for a, b in zip(before, counts, strict=True))
        before = counts
        if name != "global":
            assert all(n - c >= min(min_weights, n) for n, c in zip(sizes, counts, strict=True))
        if name != "global" and min_weights == 0:
            shares = ALLOCATIONS[name](shapes, sparsity).sparsity
            errors = [c - s * n for c, s, n in zip(counts, shares, sizes, strict=True)]
            assert max(errors) - min(errors) <= len(shapes)


def test_a_layer_with_a_sparsity_of_its_own_has_no_part_in_the_total():
    own = (("actor/layer_2/kernel", 0.25),)
    for name in ("uniform", "erk"):
        counts = lost(HOPPER, name, 0.9, layer_sparsity=own)
        assert counts[2] == 48 and sum(counts[:2]) == round(exact(0.9) * 4800)


def test_global_is_the_neutral_member():
    assert next(iter(ALLOCATIONS)) == "global"
