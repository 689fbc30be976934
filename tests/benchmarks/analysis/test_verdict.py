"""Verdicts from made-up returns whose answers are known."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from benchmarks.analysis.curves import Results, collect
from benchmarks.analysis.verdict import (
    Sample,
    holm,
    one_sided,
    sweet_spots,
    verdicts,
)
from tests.benchmarks.analysis.test_analysis import returns_table, two_attacks

PANEL = ("magnitude", 0.1)
LIMITS = (-1000.0, 1000.0)


def spot(sample: Sample, others: int = 0):
    """The sweet spot of a panel among others like it."""
    return sweet_spots({("m", float(i)): sample for i in range(1 + others)}, LIMITS)["m", 0.0]


def sample(gain, n: int = 12, loss: float = 0.0, noise: float = 1.0) -> Sample:
    """Clean 100 less `loss`, attacked 20 and `gain` more at sparsities 0.5 and 0.9."""
    rng = np.random.default_rng(n)
    clean = 100 - loss * np.array([0, 1, 1]) + rng.normal(0, noise, (n, 3))
    attacked = 20 + np.array([0, *gain]) + rng.normal(0, noise, (n, 3))
    return Sample(np.array([0, 0.5, 0.9]), clean, attacked, attacked)


def test_a_verdict_by_hand():
    """Clean 100, 98, 60; attacked 20, 70, 58 by MAD, and 99, 97, 59 by noise."""
    found = verdicts(collect(returns_table()))[PANEL]
    assert (found.unit, found.replicates, found.attacks) == ("agents", 5, 2)
    assert (found.strongest_dense, found.strongest_pruned) == ("mad", "mad")
    assert found.dense_clean.interval.mean == pytest.approx(100)
    assert found.dense_attacked.interval.mean == pytest.approx(20)
    assert found.within_clean.sparsities == (0.5, 0.5)
    assert found.within_clean.keeps_clean and found.within_clean.keeps_attacked
    assert found.within_clean.clean_change.interval.mean == pytest.approx(-2, abs=1e-4)
    assert found.within_attacked.sparsity == 0.9
    assert not found.within_attacked.keeps_clean
    assert found.sweet_spot.found and found.sweet_spot.sparsities == (0.5,)
    assert found.sweet_spot.gain.interval.mean == pytest.approx(50, abs=1e-4)
    np.testing.assert_allclose(found.sweet_spot.gain.each, [50] * 5, atol=1e-4)
    assert found.sweet_spot.naive == pytest.approx((0.5, 50), abs=1e-4)
    assert not found.alone["random"].found  # 2 less
    assert found.answer == "yes" and not found.refuted


def test_what_pruning_does_not_change_is_no_sweet_spot():
    table = returns_table()
    dense = table["method"] == "none"
    table = {name: np.concatenate([c[dense], c[dense]]) for name, c in table.items()}
    half = len(table["seed"]) // 2
    table["method"][half:], table["sparsity"][half:] = "random", 0.5
    table["mode"][half:], table["allocation"][half:] = "after", "global"
    found = verdicts(collect(table))["random", 0.1]
    assert not found.sweet_spot.found and found.sweet_spot.p_value == 1
    assert found.sweet_spot.detectable == 0
    assert found.refuted and found.answer == "no"
    assert found.within_clean.sparsity == found.within_attacked.sparsity == 0.5


def test_nothing_is_said_where_nothing_was_pruned():
    table = returns_table()
    alone = {name: column[table["method"] == "none"] for name, column in table.items()}
    assert verdicts(collect(alone)) == {}


def of_seeds(count: int) -> Results:
    table = returns_table(noise=1.0)
    return collect({name: column[table["seed"] < count] for name, column in table.items()})


@pytest.mark.parametrize("count", [2, 4])
def test_of_few_agents_there_are_choices_and_points_and_no_test(count):
    found = verdicts(of_seeds(count))[PANEL]
    assert found.unit == "agents" and found.replicates == count
    assert found.within_clean.sparsities == (0.5, 0.5)
    assert not found.within_clean.clean.interval.available
    assert len(found.within_clean.clean.each) == count
    assert not found.sweet_spot.tested and not found.sweet_spot.found
    assert np.isnan([found.sweet_spot.p_value, found.sweet_spot.detectable]).all()
    assert not found.refuted and found.answer == "undecided"


def one_agent(episodes: int = 12) -> Results:
    """Two attacks that are as strong on average, and episodes with noise."""
    means = {
        "none": {0.0: [[100, 98, 60]]},
        "mad": {0.1: [[20, 50, 8]]},
        "rs": {0.1: [[21, 51, 9]]},
    }
    results, rng = two_attacks(means, episodes), np.random.default_rng(0)
    for curve in results.by_key.values():
        curve.returns[:] += rng.normal(0, 1, curve.returns.shape)
    return results


def test_of_one_agent_the_episodes_are_the_replicates():
    found = verdicts(one_agent())["micro", 0.1]
    assert (found.unit, found.replicates) == ("episodes", 12)
    assert found.sweet_spot.sparsities == (0.25,)
    assert found.within_clean.sparsity == 0.25
    assert found.sweet_spot.gain.interval.available


def test_a_fold_of_episodes_knows_nothing_of_the_other():
    """What the first half chooses, attacks included, is the same whatever the second holds."""
    results = one_agent()
    before = verdicts(results)["micro", 0.1]
    for (_, attack, _), curve in results.by_key.items():
        curve.returns[..., 6:] = (
            -50
            if attack == "rs"
            else np.array([[[1.0]], [[2.0]], [[99.0]]])[: curve.returns.shape[1]].reshape(1, -1, 1)
        )
    after = verdicts(replace(results))["micro", 0.1]
    for name in ("within_clean", "within_attacked"):
        assert getattr(before, name).sparsities[0] == getattr(after, name).sparsities[0]
        assert getattr(before, name).sparsities[1] != getattr(after, name).sparsities[1]


def test_every_replicate_is_judged_at_what_the_others_chose():
    """The first six agents gain at 0.5 and lose at 0.9, the others the other way round."""
    clean, attacked = np.full((12, 3), 100.0), np.full((12, 3), 20.0)
    attacked[:6, 1:], attacked[6:, 1:] = (30, 10), (10, 30)
    found = spot(Sample(np.array([0, 0.5, 0.9]), clean, attacked, attacked))
    assert found.choice.sparsities == (0.5, 0.9)
    np.testing.assert_array_equal(found.gain.each, [-10] * 12)
    assert not found.found
    assert found.naive.gain == 0  # the mean of both


def test_a_clear_gain_is_found_and_a_clean_loss_forbids_it():
    assert spot(sample((0, 9))).sparsities == (0.9,)
    assert not spot(sample((0, 9), loss=8)).found
    assert spot(sample((0, 9), loss=2)).sparsities == (0.9,)


def test_tests_are_corrected_for_all_folds_of_all_panels():
    alone, among = spot(sample((0, 2))), spot(sample((0, 2)), others=3)
    assert 0 < alone.p_value < 0.05
    assert alone.p_value < among.p_value <= 4 * alone.p_value + 1e-12
    assert alone.detectable < among.detectable


def test_holms_correction_by_hand():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03]), [0.03, 0.06, 0.06])
    np.testing.assert_allclose(holm([0.9, 0.6, 0.001]), [1, 1, 0.003])
    assert holm([]).size == 0


def test_the_one_sided_test_against_scipy():
    rng = np.random.default_rng(0)
    for n in (3, 8):
        x = rng.normal(0.3, size=n)
        expected = stats.ttest_1samp(x, 0, alternative="greater").pvalue
        assert one_sided(x) == pytest.approx(expected)
    assert one_sided(np.ones(4)) == 0
    assert one_sided(np.zeros(4)) == one_sided(-np.ones(4)) == 1


@pytest.mark.parametrize(("n", "folds"), [(5, 1), (12, 2)])
def test_the_detectable_gain_has_the_power_that_it_says(n, folds):
    """Of one fold of three agents, or of two of six, by noncentral t."""
    held = sample((0, 0), n)
    found, spread = (
        spot(held),
        np.median((held.attacked[:, 1:] - held.attacked[:, :1]).std(0, ddof=1)),
    )
    pairs = 3 if n == 5 else 6
    critical = stats.t.ppf(1 - 0.05 / folds, pairs - 1)
    of_fold = stats.nct.sf(critical, pairs - 1, found.detectable / spread * pairs**0.5)
    assert 1 - (1 - of_fold) ** folds == pytest.approx(0.8, abs=1e-4)
    assert found.detectable_share == pytest.approx(found.detectable / held.attacked[:, 0].mean())
    assert 0 < found.resolvable_loss < 0.2


def test_the_sparsest_policy_is_that_of_a_falling_curve():
    """By chance 0.9 is within 5 % of the clean return, which 0.5 is far from."""
    table = returns_table()
    for sparsity, level in ((0.5, 60.0), (0.9, 95.5)):
        rows = (table["sparsity"] == sparsity) & (table["attack"] == "none")
        table["return"] = np.where(rows, level, table["return"])
    assert verdicts(collect(table))[PANEL].within_clean.sparsity == 0
