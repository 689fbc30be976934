"""Curves, regret and sweet spots from made-up tables whose answers are known."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.analysis import versus_dense, worst_case
from benchmarks.analysis.bounds import bound_curves, bracket, violations
from benchmarks.analysis.curves import (
    WORST_OF,
    Curve,
    Results,
    collect,
    cvar_interval,
    labelled,
    reference,
)
from benchmarks.analysis.sanity_checks import divergences
from benchmarks.analysis.versus_dense import improvement, regret_curve
from benchmarks.analysis.worst_case import leading, sweep
from jaxprune.policy_io.labels import Labels
from jaxprune.statistics import bounded_mean, student_mean
from jaxprune.statistics.folds import folds, picked, strongest

SPARSITIES = (0.0, 0.5, 0.9)
EPISODES = 4
# Mean clean and attacked return by sparsity; the dense ones are those of sparsity 0.
CLEAN = {0.0: 100.0, 0.5: 98.0, 0.9: 60.0}
ATTACKED = {0.0: 20.0, 0.5: 70.0, 0.9: 58.0}
# What the seeds differ by.
SEEDS = np.arange(5) - 2.0


def returns_table(noise: float = 0.0, shuffle: bool = False) -> dict[str, np.ndarray]:
    """Five seeds that differ by 1, episodes that differ by `noise` times their number."""
    rows = []
    for seed in range(5):
        for method, levels in (("none", (0.0,)), ("magnitude", SPARSITIES)):
            for sparsity in levels:
                for attack, eps, mean in (
                    ("none", 0.0, CLEAN[sparsity]),
                    ("random", 0.1, CLEAN[sparsity] - 1),
                    ("mad", 0.1, ATTACKED[sparsity]),
                ):
                    rows += [
                        (seed, method, sparsity, attack, eps, e, mean + SEEDS[seed] + noise * e)
                        for e in range(EPISODES)
                    ]
    names = ("seed", "method", "sparsity", "attack", "eps", "episode", "return")
    table = {
        name: np.array(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)
    }
    table["distance"] = np.where(table["attack"] == "none", 0.0, 2.0)
    table["return_discounted"] = table["return"] / 10
    table["victim"] = np.repeat("deterministic", len(rows))
    table |= curve_of(table["method"])
    if shuffle:
        order = np.random.default_rng(0).permutation(len(rows))
        table = {name: column[order] for name, column in table.items()}
    return table


def curve_of(method: np.ndarray) -> dict[str, np.ndarray]:
    """The rest of what tells a curve, for unpruned agents and for others pruned after training."""
    dense = method == "none"
    return {
        "regime": np.repeat("ppo", len(method)),
        "allocation": np.where(dense, "none", "global"),
        "mode": np.where(dense, "dense", "after"),
        "nested": np.repeat(True, len(method)),
    }


def two_regimes() -> dict[str, np.ndarray]:
    """The made-up runs as "ppo", and as "sa_ppo" with 30 more, and masks that are not nested."""
    first, second = returns_table(), returns_table()
    second["regime"] = np.repeat("sa_ppo", len(second["regime"]))
    for name in ("return", "return_discounted"):
        second[name] = second[name] + (30 if name == "return" else 3)
    second["nested"] = second["method"] == "none"
    return {name: np.concatenate([first[name], second[name]]) for name in first}


def certificates_table(value: float) -> dict[str, np.ndarray]:
    """One bound on D, `value` where nothing is pruned."""
    return statements(("path", "global", "D", "logits", 1.0, lambda s: value * (1 - s)))


def statements(*told) -> dict[str, np.ndarray]:
    """Rows of (bound, scope, quantity, unit, confidence, value of a sparsity) for every cell."""
    cells = [
        (seed, method, sparsity)
        for seed in range(5)
        for method, levels in (("none", (0.0,)), ("magnitude", SPARSITIES))
        for sparsity in levels
    ]
    rows = [
        (*cell, bound, scope, quantity, unit, confidence, value(cell[2]), bound == "path", 0.1)
        for bound, scope, quantity, unit, confidence, value in told
        for cell in cells
    ]
    names = ("seed", "method", "sparsity", "bound", "scope", "quantity", "unit", "confidence")
    names += ("value", "monotone", "eps")
    return {
        name: np.array(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)
    }


def test_curves_put_rows_in_their_place_whatever_the_order():
    for shuffle in (False, True):
        results = collect(returns_table(noise=0.25, shuffle=shuffle))
        assert results.methods == ["magnitude"]
        assert sorted(results.adversaries) == [("mad", 0.1), ("random", 0.1)]
        curve = results.by_key["magnitude", "mad", 0.1]
        np.testing.assert_array_equal(curve.sparsity, SPARSITIES)
        assert curve.returns.shape == (5, 3, EPISODES)
        np.testing.assert_allclose(curve.returns[1, 2], 58 - 1 + 0.25 * np.arange(EPISODES))


def test_the_reference_is_the_mean_unpruned_agent_or_what_was_asked_for():
    """The best of n would rise with n."""
    results = collect(returns_table())
    assert reference(results, "magnitude") == 100
    assert reference(results, "magnitude", "discounted") == pytest.approx(10)
    asked = collect(returns_table(), reference=3000.0)
    assert reference(asked, "magnitude") == 3000
    assert reference(asked, "magnitude", "discounted") == pytest.approx(10)
    curve = regret_curve(asked, "magnitude", 0.1)
    np.testing.assert_allclose(curve.total.mean, [2980, 2930, 2942])


def test_every_regime_is_compared_with_its_own_unpruned_agents():
    results = collect(two_regimes())
    assert results.methods == ["ppo magnitude", "sa_ppo magnitude"]
    assert results.dense_of == {
        f"{regime} {method}": f"{regime} none"
        for regime in ("ppo", "sa_ppo")
        for method in ("none", "magnitude")
    }
    assert results.nested == {
        "ppo none": True,
        "ppo magnitude": True,
        "sa_ppo none": True,
        "sa_ppo magnitude": False,
    }
    assert reference(results, "ppo magnitude") == 100
    assert reference(results, "sa_ppo magnitude") == 130
    np.testing.assert_array_equal(
        results.dense("sa_ppo magnitude").returns, results.clean("sa_ppo none").returns
    )
    # Thirty more everywhere: the regrets are alike.
    one, two = (regret_curve(results, f"{r} magnitude", 0.1) for r in ("ppo", "sa_ppo"))
    for term in ("clean", "pruning", "robustness", "total"):
        np.testing.assert_allclose(getattr(one, term).mean, getattr(two, term).mean, atol=1e-4)


def test_a_run_without_pruning_shows_its_unpruned_agents():
    table = returns_table()
    alone = {name: column[table["method"] == "none"] for name, column in table.items()}
    results = collect(alone)
    assert results.methods == []
    assert results.pruned_methods() == ["none"]
    assert collect(table).pruned_methods() == ["magnitude"]


def test_a_table_gets_the_labels_of_its_curves_for_methods():
    table = two_regimes()
    labels = Labels(table)
    named = labelled(table, labels)
    assert set(named["method"]) == {
        "ppo none",
        "ppo magnitude",
        "sa_ppo none",
        "sa_ppo magnitude",
    }
    np.testing.assert_array_equal(named["return"], table["return"])
    assert labelled({}, labels) == {}


def test_regret_adds_up_against_the_strongest_adversary():
    curve = regret_curve(collect(returns_table()), "magnitude", 0.1)
    assert curve.attack == "mad"
    # By hand: J_ref and dense mean 100; clean 100, 98, 60; attacked 20, 70, 58.
    np.testing.assert_allclose(curve.clean.mean, [0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(curve.pruning.mean, [0, 2, 40])
    np.testing.assert_allclose(curve.robustness.mean, [80, 28, 2])
    np.testing.assert_allclose(curve.total.mean, [80, 30, 42])
    # The seeds' offsets cancel in paired differences, so those intervals have no width.
    np.testing.assert_allclose(curve.pruning.low, curve.pruning.high)
    known = bounded_mean(-SEEDS, (100 - 102, 100 - 18))  # of the run: 18 to 102
    np.testing.assert_allclose((curve.clean.low[0], curve.clean.high[0]), known[1:], atol=1e-4)
    np.testing.assert_allclose(curve.agents, np.array([80, 30, 42]) - SEEDS[:, None])


def test_regret_of_the_discounted_return():
    """A tenth of everything, see the made-up table."""
    results = collect(returns_table())
    whole, tenth = (regret_curve(results, "magnitude", 0.1, q) for q in ("returns", "discounted"))
    np.testing.assert_allclose(10 * tenth.total.mean, whole.total.mean, rtol=1e-5)


def test_the_strongest_adversary_and_the_regret_are_of_different_episodes():
    """Noise wins the first half by luck, and is reported on the second; back, MAD on the first."""
    table = returns_table()
    lucky = (table["attack"] == "random") & (table["episode"] < 2)
    table["return"] = np.where(lucky, -500.0, table["return"])
    curve = regret_curve(collect(table), "magnitude", 0.1)
    assert curve.attack.endswith("and 1 more")
    np.testing.assert_allclose(curve.robustness.mean, [40.5, 14.5, 1.5])


FLOORS = [
    ("crown", "local", "return_floor", "return", np.nan, lambda s: 30 + 10 * s),
    ("crown", "local", "return_floor", "return", 0.95, lambda s: 10 + 10 * s),
    ("ibp", "local", "return_floor", "return", np.nan, lambda s: 20 + 0 * s),
    ("ibp", "local", "return_floor", "return", 0.95, lambda s: 12 + 0 * s),
]
GAPS = [
    ("path", "global", "value_gap", "discounted return", 1.0, lambda s: 9 - 5 * s),
    ("crown", "local", "value_gap_on_policy", "discounted return", np.nan, lambda s: 4 + 0 * s),
    ("crown", "local", "value_gap_on_policy", "discounted return", 0.95, lambda s: 8 + 0 * s),
]
HELD = [
    ("path", "global", "discounted_return_floor", "discounted return", 0.95, lambda s: 0.5 + s),
    ("crown", "local", "discounted_return_floor", "discounted return", 0.95, lambda s: 1 - s),
]


def test_the_attacked_return_lies_between_the_attack_and_the_best_certificate():
    """Deterministic: floors as they are. Stochastic: likewise, but estimates are less a gap."""
    table = returns_table()
    found = bracket(collect(table), statements(*FLOORS), "magnitude", 0.1)
    assert (found.unit, found.bound) == ("return", "crown")
    np.testing.assert_allclose(found.clean, [100, 98, 60])
    np.testing.assert_allclose(found.reached, [20, 70, 58])
    np.testing.assert_allclose(found.estimate, [30, 35, 39])
    np.testing.assert_allclose(found.floor, [12, 15, 19])

    table["victim"] = np.repeat("stochastic", len(table["seed"]))
    certificates = statements(*GAPS, *HELD)
    found = bracket(collect(table), certificates, "magnitude", 0.1)
    assert (found.unit, found.bound) == ("discounted return", "crown")
    np.testing.assert_allclose(found.clean, [10, 9.8, 6], rtol=1e-6)
    np.testing.assert_allclose(found.estimate, [6, 5.8, 2], rtol=1e-6)
    np.testing.assert_allclose(found.floor, [1, 1, 1.4], rtol=1e-6)
    # A run of an older version made no such statement, and a sample mean less a gap is none.
    older = bracket(collect(table), statements(*GAPS), "magnitude", 0.1)
    np.testing.assert_array_equal(older.estimate, found.estimate)
    assert np.isnan(older.floor).all()


def test_no_bracket_where_no_certificate_speaks_about_the_policy_as_it_acted():
    results = collect(returns_table())
    assert bracket(results, certificates_table(3.0), "magnitude", 0.1) is None
    assert bracket(results, statements(*GAPS), "magnitude", 0.1) is None


def test_bounds_by_scope_and_confidence():
    table = statements(*FLOORS, *GAPS)
    find = lambda **kw: [  # noqa: E731
        b.bound for b in bound_curves(table, "magnitude", 0.1, **kw)
    ]
    assert find(quantity="return_floor") == ["crown", "ibp"]
    assert find(quantity="value_gap", scope="global") == ["path"]
    assert find(quantity="value_gap", scope="local") == []
    curve = bound_curves(table, "magnitude", 0.1, "return_floor", confidence=0.95)[0]
    np.testing.assert_allclose(curve.values, [[10, 15, 19]] * 5)


def test_one_seed_is_judged_by_its_episodes():
    results = two_attacks({"none": {0.0: [[5, 5, 5]]}, "mad": {0.1: [[3, 3, 3]]}}, episodes=8)
    results.clean("micro").returns[:] += np.arange(8)
    interval = results.interval(results.clean("micro"))
    assert (interval.low < interval.mean).all()
    assert (interval.mean < interval.high).all()
    few = two_attacks({"none": {0.0: [[5, 5, 5]]}, "mad": {0.1: [[3, 3, 3]]}}, episodes=4)
    assert not few.interval(few.clean("micro")).available.any()


def test_an_attack_above_a_certificate_is_reported():
    results = collect(returns_table())
    assert violations(results, certificates_table(value=40.0)) == []
    problems = violations(results, certificates_table(value=1.0))
    assert problems
    assert all("exceeds path" in problem for problem in problems)


def test_divergences_are_counted_by_group_and_sparsity():
    table = returns_table(shuffle=True)
    table["diverged"] = np.zeros(len(table["return"]), bool)
    by = ("method", "attack", "eps")
    assert divergences(table, by) == {}

    def mark(method, attack, sparsity, episode):
        place = zip(("method", "attack", "sparsity"), (method, attack, sparsity), strict=True)
        rows = np.all([table[name] == value for name, value in place], axis=0)
        table["diverged"] |= rows & (table["episode"] < episode)  # of all seeds

    mark("magnitude", "mad", 0.9, 3)
    mark("magnitude", "mad", 0.5, 1)
    mark("none", "none", 0.0, 2)
    found = divergences(table, by)
    assert found == {
        ("magnitude", "mad", 0.1): {0.5: 5, 0.9: 15},
        ("none", "none", 0.0): {0.0: 10},
    }
    assert list(found["magnitude", "mad", 0.1]) == [0.5, 0.9]


def test_divergences_of_training_are_counts_and_an_old_run_has_none():
    training = {
        "method": np.array(["none", "none", "micro"]),
        "sparsity": np.array([0.0, 0.0, 0.5]),
        "diverged": np.array([2, 3, 0]),
    }
    assert divergences(training, ("method",)) == {("none",): {0.0: 5}}
    assert divergences(returns_table(), ("method",)) == {}
    assert divergences({}, ("method",)) == {}


def two_attacks(levels, episodes: int = 4) -> Results:
    """`levels[attack][eps]` is `[seeds, S]`; every episode of a cell is alike.

    The agents of the first sparsity are the dense ones.
    """
    by_key = {}
    for attack, radii in levels.items():
        for eps, level in radii.items():
            returns = np.repeat(np.asarray(level, float)[..., None], episodes, axis=-1)
            for method, points in (("micro", returns.shape[1]), ("none", 1)):
                part = returns[:, :points]
                sparsity = np.linspace(0, 0.5, points)
                by_key[method, attack, eps] = Curve(
                    method, attack, eps, sparsity, part, part / 10, part[..., 0] / 100
                )
    adversaries = [(a, e) for method, a, e in by_key if method == "micro" and a != "none"]
    dense_of = {"micro": "none", "none": "none"}
    return Results(by_key, ["micro"], dense_of, {"micro": False}, adversaries, "deterministic")


def test_every_agent_at_every_sparsity_meets_its_own_worst_adversary():
    results = two_attacks(
        {
            "none": {0.0: [[9, 9], [9, 9]]},
            "mad": {0.1: [[5, 3], [2, 7]]},
            "rs": {0.1: [[4, 6], [3, 1]]},
        }
    )
    worst = worst_case.worst_of(results, "micro", 0.1)
    assert worst.chosen.tolist() == [["rs", "mad"], ["mad", "rs"]] * 2  # of two folds
    np.testing.assert_array_equal(worst.curve.returns[..., 0], [[4, 3], [2, 1]])
    np.testing.assert_allclose(worst.curve.discounted[..., -1], [[0.4, 0.3], [0.2, 0.1]])
    np.testing.assert_allclose(worst.curve.distance, [[0.04, 0.03], [0.02, 0.01]])
    assert worst.curve.attack == WORST_OF
    assert worst.label in ("mad and 1 more", "rs and 1 more")


def test_an_adversary_that_was_lucky_on_one_half_is_reported_on_the_other():
    """RS takes all in the first half, nothing in the second; MAD, which that half chose, is 5."""
    results = two_attacks({"none": {0.0: [[9]]}, "mad": {0.1: [[5]]}, "rs": {0.1: [[7]]}})
    lucky = results.by_key["micro", "rs", 0.1].returns
    lucky[..., :2] = 0
    worst = worst_case.worst_of(results, "micro", 0.1)
    assert worst.chosen.tolist() == [["rs"], ["mad"]]
    np.testing.assert_array_equal(worst.curve.returns[0, 0], [5, 5, 7, 7])
    np.testing.assert_array_equal(worst.curve.distance, [[0.07]])  # of either


def test_worst_of_all_is_unbiased_by_its_choice():
    """Four attacks that are alike: the least of their means is 3 errors too low, this is not."""
    rng = np.random.default_rng(0)
    found = rng.normal(1000, 500, (4, 4000, 20))
    naive, fair = found.mean(-1).min(0), picked(found, strongest(found)).mean(-1)
    error = fair.std(ddof=1) / len(fair) ** 0.5
    assert abs(fair.mean() - 1000) < 3 * error
    assert naive.mean() < 1000 - 30 * error


@pytest.mark.parametrize("n", [2, 5, 24])
def test_everyone_judges_once_and_chooses_once(n):
    for part in zip(*folds(n), strict=True):
        assert sorted(i for rows in part for i in range(n)[rows]) == list(range(n))
    for choose, judge in folds(n):
        assert not set(range(n)[choose]) & set(range(n)[judge])


def test_the_area_under_the_sweep_is_a_mean_return():
    """10 at 0, 6 at 0.1, 2 at 0.4: (8 * 0.1 + 4 * 0.3) / 0.4 = 5, whatever order they are in."""
    results = two_attacks(
        {
            "none": {0.0: [[10, 10], [10, 10]]},
            "mad": {0.4: [[2, 2], [2, 2]], 0.1: [[6, 6], [6, 6]]},
        }
    )
    radii, _, returns, area = sweep(results, "micro")
    assert radii == [0.0, 0.1, 0.4]
    np.testing.assert_allclose(returns.mean, [[10, 10], [6, 6], [2, 2]])
    np.testing.assert_allclose(area.mean, [5, 5], rtol=1e-6)


def test_many_adversaries_are_shown_by_their_strongest():
    levels = {f"a{i}": {0.1: [[float(i)]]} for i in range(7, 0, -1)}
    results = two_attacks({"none": {0.0: [[9]]}, **levels})
    shown = [curve.attack for curve in leading(results, "micro", 0.1)]
    assert shown == ["a1", "a2", "a3", "a4"]
    few = two_attacks({"none": {0.0: [[9]]}, **dict(list(levels.items())[:3])})
    assert [c.attack for c in leading(few, "micro", 0.1)] == ["a7", "a6", "a5"]


def test_cvar_is_of_the_worst_tenth_of_each_agents_episodes():
    returns = np.arange(40.0).reshape(2, 1, 20)
    interval = cvar_interval(returns, (0, 39))
    np.testing.assert_allclose(interval.mean, [(0.5 + 20.5) / 2])


def test_differences_to_the_dense_agents_are_paired_by_seed_and_episode():
    """Seeds differ by +-1 and episodes by their number: what pruning does is the same for all."""
    results = collect(returns_table(noise=5.0))
    found = versus_dense.differences(results, "magnitude", 0.1)
    for part in found:
        np.testing.assert_allclose(part, [0, 50, 38], atol=1e-4)


def test_the_band_of_differences_holds_for_all_sparsities_and_panels():
    """Wider than Student's intervals, wider still with a second radius, and inside the range."""
    rng = np.random.default_rng(0)
    level = rng.normal(size=(10, 4))
    results = two_attacks({"none": {0.0: 9 + np.zeros((10, 4))}, "mad": {0.1: level}})
    found = versus_dense.differences(results, "micro", 0.1)
    expected = level - level[:, :1]
    np.testing.assert_allclose(found.mean, expected.mean(0), atol=1e-6)
    np.testing.assert_array_equal([x[0] for x in found], 0)  # nothing is pruned there
    alone = student_mean(expected)
    assert (found.low[1:] < alone.low[1:]).all() and (found.high[1:] > alone.high[1:]).all()
    radii = {"none": {0.0: 9 + np.zeros((10, 4))}, "mad": {0.1: level, 0.2: level}}
    wider = versus_dense.differences(two_attacks(radii), "micro", 0.1)
    assert (wider.low[1:] < found.low[1:]).all() and (wider.high[1:] > found.high[1:]).all()
    jumps = [[0, 9 * (i % 2)] for i in range(5)]
    few = two_attacks({"none": {0.0: [[9, 9]] * 5}, "mad": {0.1: jumps}})
    assert versus_dense.differences(few, "micro", 0.1).high[1] == 9


def test_improvement_is_a_comparison_of_any_two_seeds():
    """Dense 2 and 6, thrice; at the second sparsity 4 and 8, which win 3 of 4; then 7 and 9."""
    results = two_attacks(
        {"none": {0.0: [[9, 9, 9]] * 6}, "mad": {0.1: [[2, 4, 7], [6, 8, 9]] * 3}}
    )
    found = improvement(results, "micro", 0.1)
    np.testing.assert_allclose(found.mean, [0.5, 0.75, 1])
    assert found.low[2] == pytest.approx(0.025 ** (1 / 6))
    assert found.high[2] == 1


def test_of_a_single_seed_the_episodes_are_compared():
    table = returns_table(noise=1.0)
    one = collect({name: column[table["seed"] == 0] for name, column in table.items()})
    found = versus_dense.differences(one, "magnitude", 0.1)
    np.testing.assert_allclose(found.mean, [0, 50, 38], atol=1e-4)
    assert not found.available.any()  # of four episodes
    probability = improvement(one, "magnitude", 0.1)
    np.testing.assert_allclose(probability.mean, [0.5, 1, 1])


def test_a_single_dense_agent_is_compared_with_each_that_was_pruned():
    """A policy from a file, and five seeds of fine-tuning: no interval without dense seeds."""
    results = two_attacks(
        {"none": {0.0: [[9, 9]] * 5}, "mad": {0.1: [[5, 6], [5, 7], [5, 8], [5, 7], [5, 7]]}}
    )
    alone = {
        key: replace(curve, returns=curve.returns[:1], distance=curve.distance[:1])
        for key, curve in results.by_key.items()
        if key[0] == "none"
    }
    results = replace(results, by_key=results.by_key | alone)
    found = versus_dense.differences(results, "micro", 0.1)
    np.testing.assert_allclose(found.mean, [0, 2], atol=1e-6)
    assert 0 < found.mean[1] - found.low[1] < np.inf
    probability = improvement(results, "micro", 0.1)
    np.testing.assert_allclose(probability.mean, [0.5, 1])
    assert np.isnan(probability.low).all()
