"""Ranks: exact, nested, ties at random, floors last; groups and counts are data."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune.pruning.ranking import joint_ranks, kept, row_ranks
from tests.policies import stacked

SIZES = (40, 48, 18)
N = sum(SIZES)
NAMES = ("a", "b", "c")
TOGETHER, APART = np.zeros(3, np.int32), np.arange(3, dtype=np.int32)
EVERYTHING = {name: np.ones(size, bool) for name, size in zip(NAMES, SIZES, strict=True)}
few = settings(deadline=None, derandomize=True, max_examples=40)


def random_scores(seed: int, levels: int) -> dict:
    """Scores with only `levels` different values of either sign: many ties."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.integers(-levels, levels, size).astype(np.float32)
        for name, size in zip(NAMES, SIZES, strict=True)
    }


def flat(units: dict) -> np.ndarray:
    return np.concatenate([np.asarray(x) for x in units.values()], axis=-1)


ranks = jax.jit(joint_ranks, static_argnames=("floor", "subset"))
left_of = jax.jit(kept)


@given(st.integers(0, 2**31 - 1), st.integers(1, 50))
@few
def test_a_group_of_all_leaves_is_ranked_as_one(seed, levels):
    """A permutation in the order of the scores; every count is met exactly and nested."""
    scores = random_scores(seed, levels)
    rank = ranks(scores, EVERYTHING, TOGETHER, jax.random.key(seed))
    assert sorted(flat(rank)) == list(range(N))
    assert np.all(np.diff(flat(scores)[np.argsort(flat(rank))]) >= 0)
    keep = np.stack([flat(left_of(rank, TOGETHER, np.array([c, 0, 0]))) for c in (0, 1, 50, N)])
    assert np.sum(~keep, axis=1).tolist() == [0, 1, 50, N]
    assert np.all(keep[1:] <= keep[:-1])


@given(st.integers(0, 2**31 - 1), st.integers(1, 50), st.integers(0, N), st.integers(0, N))
@few
def test_masks_stay_nested_when_the_scores_change(seed, levels, first, second):
    first, second = sorted((first, second))
    rank = ranks(random_scores(seed, levels), EVERYTHING, TOGETHER, jax.random.key(1))
    old = left_of(rank, TOGETHER, np.array([first, 0, 0]))
    rank = ranks(random_scores(seed + 1, levels), old, TOGETHER, jax.random.key(2))
    again, new = (flat(left_of(rank, TOGETHER, np.array([c, 0, 0]))) for c in (first, second))
    assert np.array_equal(again, flat(old))
    assert np.all(new <= flat(old)) and np.sum(~new) == second


def test_what_was_removed_comes_first_whatever_its_score():
    scores = {name: np.zeros(size, np.float32) for name, size in zip(NAMES, SIZES, strict=True)}
    scores["a"][0], scores["b"][0] = np.inf, -np.inf
    keep = EVERYTHING | {"a": np.arange(SIZES[0]) > 0}
    rank = ranks(scores, keep, TOGETHER, jax.random.key(0))
    assert (rank["a"][0], rank["b"][0]) == (0, 1)


def test_groups_rank_apart_and_are_data():
    """One trace serves every allocation: apart, together, and two against one."""
    scores = random_scores(0, 1000)
    traces = []

    @jax.jit
    def count(groups):
        traces.append(1)
        return joint_ranks(scores, EVERYTHING, groups, jax.random.key(0))

    for groups in ([0, 1, 2], [0, 0, 0], [1, 0, 1]):
        rank = count(np.array(groups))
        for group in set(groups):
            members = [NAMES[i] for i in range(3) if groups[i] == group]
            found = np.concatenate([np.asarray(rank[name]) for name in members])
            assert sorted(found) == list(range(found.size))
            score = np.concatenate([np.asarray(scores[name]) for name in members])
            assert np.all(np.diff(score[np.argsort(found)]) >= 0)
    assert len(traces) == 1


def test_the_best_units_of_every_leaf_come_last():
    """By hand: leaf c has the lowest scores of all; its best two must outlive all the others."""
    scores = {
        name: np.arange(size, dtype=np.float32) + start
        for name, size, start in zip(NAMES, SIZES, (100.0, 200.0, 0.0), strict=True)
    }
    rank = ranks(scores, EVERYTHING, TOGETHER, jax.random.key(0), floor=2)
    assert sorted(flat(rank)) == list(range(N))
    last = sorted(np.flatnonzero(flat(rank) >= N - 6))
    assert last == [38, 39, 86, 87, 104, 105]
    for count in range(N - 5):
        left = left_of(rank, TOGETHER, np.array([count, 0, 0]))
        assert min(np.sum(x) for x in left.values()) >= 2
    # Without the floor the order is that of the scores, and nothing else moves with it.
    plain = flat(ranks(scores, EVERYTHING, TOGETHER, jax.random.key(0)))
    others = [i for i in range(N) if i not in last]
    assert np.array_equal(np.argsort(plain[others]), np.argsort(flat(rank)[others]))


def test_floors_hold_apart_too_and_among_the_removed():
    keep = EVERYTHING | {"c": np.arange(18) >= 16}  # two are left of c
    rank = ranks(random_scores(3, 5), keep, APART, jax.random.key(0), floor=2)
    assert set(np.flatnonzero(np.asarray(rank["c"]) >= 16)) == {16, 17}


def test_ties_are_broken_at_random():
    scores = {name: np.zeros(size, np.float32) for name, size in zip(NAMES, SIZES, strict=True)}
    keys = jax.random.split(jax.random.key(0), 200)
    rank = jax.jit(jax.vmap(lambda k: joint_ranks(scores, EVERYTHING, TOGETHER, k)))(keys)
    gone = flat(rank) < N // 2
    assert len(np.unique(gone, axis=0)) == len(keys)
    # Each goes in half of the draws: binomial(200, 1/2) has a deviation of 7.1.
    assert np.all(np.abs(gone.sum(axis=0) - 100) < 36)


def test_the_lowest_subset_goes_in_random_order():
    """Scores 0 .. N - 1: of what is left after 10 are gone, the lowest quarter is shuffled."""
    order = np.random.default_rng(0).permutation(N).astype(np.float32)
    parts = np.split(order, np.cumsum(SIZES)[:-1])
    scores = dict(zip(NAMES, parts, strict=True))
    keep = {name: x >= 10 for name, x in scores.items()}
    width = -(-(N - 10) // 4)
    found = [flat(ranks(scores, keep, TOGETHER, jax.random.key(i), subset=0.25)) for i in range(9)]
    for rank in found:
        by_score = rank[np.argsort(order)]
        assert sorted(by_score[10 : 10 + width]) == list(range(10, 10 + width))
        assert np.array_equal(by_score[10 + width :], np.arange(10 + width, N))
    assert len({tuple(x) for x in found}) == 9


@pytest.mark.parametrize("shape", [(3, 1, 7), (2, 5, 4)])
def test_rows_do_not_compete(shape):
    rng = np.random.default_rng(0)
    scores = {"a": rng.integers(0, 3, shape).astype(np.float32)}
    keep = {"a": rng.random(shape) < 0.7}
    rank = np.asarray(jax.jit(row_ranks)(scores, keep, jax.random.key(0))["a"])
    assert np.array_equal(np.sort(rank, axis=-1), np.broadcast_to(np.arange(shape[-1]), shape))
    combined = np.where(keep["a"], np.asarray(scores["a"]), -1)
    assert np.all(np.diff(np.take_along_axis(combined, np.argsort(rank, -1), -1), axis=-1) >= 0)
    gone = ~np.asarray(left_of({"a": rank}, np.zeros(1, int), np.array([2]))["a"])
    assert np.all(gone.sum(-1) == 2)


def test_vmap_over_agents_and_counts_is_the_loop():
    agents = [random_scores(seed, 3) for seed in range(4)]
    keys = jax.random.split(jax.random.key(0), 4)
    counts = np.array([[3, 0, 0], [50, 0, 0], [0, 0, 0], [N, 0, 0]])

    @jax.jit
    def of(scores, key, count):
        return kept(joint_ranks(scores, EVERYTHING, TOGETHER, key, floor=1), TOGETHER, count)

    batch = flat(jax.vmap(of)(stacked(*agents), keys, counts))
    for i, scores in enumerate(agents):
        assert np.array_equal(batch[i], flat(of(scores, keys[i], counts[i])))
