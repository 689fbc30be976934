"""What is an alarm: known answers, exact tests as oracles, false alarms and power."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from benchmarks.analysis.curves import Results, collect, labelled
from benchmarks.analysis.worst_case import sweep
from benchmarks.gate import permutation_test
from benchmarks.gate.pairing import EPISODES, LEVEL, RETURN, SEEDS, Key, Pair, Recorded
from benchmarks.gate.permutation_test import Compared, compare, judged_together
from benchmarks.runtime.run_folder import read_table
from jaxprune.policy_io.labels import Labels
from tests.benchmarks.made_up_runs import AGENTS, EPS, GRID, Made, changed, recorded

REFERENCE = Path(__file__).parents[3] / "results" / "reference"
ATTACKS = ("random", "mad")
MAD = Key("magnitude", "mad", EPS, RETURN)
D = Key("magnitude", "path", EPS, "D")


@pytest.fixture
def made() -> Made:
    return Made(np.random.default_rng(0))


@pytest.fixture
def tables(made):
    return made.tables(np.random.default_rng(1))


def by_key(found: list[Compared]) -> dict[Key, Compared]:
    return {c.key: c for c in found}


def alarm(found: list[Compared]) -> bool:
    return any(c.worse for c in found)


def test_a_run_is_no_worse_than_itself(tables):
    found = compare(recorded(tables), recorded(tables))
    assert {c.basis for c in found} == {"equal", "exact"}
    assert all(c.worst is None and c.best is None for c in found)


def test_rounding_is_no_change(tables):
    found = compare(recorded(tables), recorded(changed(tables, 1 - 1e-6, attack=ATTACKS)))
    assert {c.basis for c in found} == {"equal", "exact"}


def test_a_loss_is_found_where_it_is(tables):
    lost = changed(tables, 0.9, attack="mad", method="magnitude", sparsity=GRID[2:4])
    found = by_key(compare(recorded(tables), recorded(lost)))
    window = found[MAD].worst
    assert found[MAD].worse and not found[MAD].better
    assert found[MAD].basis == EPISODES
    assert (window.first, window.last) == (GRID[2], GRID[3])
    assert window.change == pytest.approx(-0.1)
    np.testing.assert_allclose(found[MAD].run[2:4], 0.9 * found[MAD].baseline[2:4])
    assert not found[MAD._replace(source="random")].worse
    assert found[MAD._replace(source="worst_of")].worse
    assert found[MAD._replace(source="all_attacks")].worse
    assert found[Key("all", "all_attacks", EPS, RETURN)].worse
    assert not any(c.worse for key, c in found.items() if key.method in ("micro", "none"))


def test_a_gain_is_shown_and_does_not_fail(tables):
    found = compare(recorded(tables), recorded(changed(tables, 1.1, attack="mad")))
    assert not alarm(found)
    better = by_key(found)[MAD]
    assert better.better and better.best.change == pytest.approx(0.1)


def test_worse_one_way_is_better_the_other_way(made):
    one, other = (recorded(made.tables(np.random.default_rng(i))) for i in (1, 2))
    for ahead, back in zip(compare(one, other), compare(other, one), strict=True):
        assert (ahead.worst is None) == (back.best is None)
        if ahead.worst is not None:
            assert ahead.worst.probability == back.best.probability
            assert (ahead.worst.first, ahead.worst.last) == (back.best.first, back.best.last)


def pair(baseline: np.ndarray, run: np.ndarray, basis: str) -> Pair:
    """One sparsity, `[seeds, episodes]`."""
    return Pair(MAD, "return", np.zeros(1), baseline[:, None], run[:, None], basis)


def assert_as_scipy(baseline: np.ndarray, run: np.ndarray, basis: str, samples, kind: str) -> None:
    """The probability is that of SciPy's exact test of the samples (run, baseline)."""
    exact = scipy.stats.permutation_test(
        samples,
        lambda x, y: np.mean(x) - np.mean(y),
        permutation_type=kind,
        n_resamples=np.inf,
        alternative="less",
    )
    found = judged_together([pair(baseline, run, basis)], np.random.default_rng(0))[MAD]
    error = 4 * np.sqrt(exact.pvalue / permutation_test.DRAWS)
    assert found.worst.probability == pytest.approx(exact.pvalue, abs=error)


def test_over_episodes_it_is_the_paired_permutation_test():
    rng = np.random.default_rng(3)
    baseline = rng.normal(100, 10, (2, 12))
    run = baseline + rng.normal(-4, 6, (2, 12))
    assert_as_scipy(baseline, run, EPISODES, (run.mean(0), baseline.mean(0)), "samples")


def test_over_seeds_it_is_the_permutation_test_of_policies():
    rng = np.random.default_rng(4)
    baseline, run = rng.normal(100, 10, (6, 1)), rng.normal(90, 10, (6, 1))
    assert_as_scipy(baseline, run, SEEDS, (run[:, 0], baseline[:, 0]), "independent")


def test_the_tolerance_is_the_change_that_is_an_alarm():
    rng = np.random.default_rng(5)
    baseline = rng.normal(100, 10, (3, 40))
    noise = rng.normal(0, 10, (3, 40))
    noise -= noise.mean()
    for shift, worse in ((0.8, False), (1.2, True)):
        tried = pair(baseline, baseline + noise, EPISODES)
        tolerance = judged_together([tried], np.random.default_rng(0))[MAD].tolerance[0]
        lower = pair(baseline, baseline + noise - shift * tolerance, EPISODES)
        found = judged_together([lower], np.random.default_rng(0))[MAD]
        assert found.worse is worse
        assert found.tolerance[0] == pytest.approx(found.area_tolerance)


# --- certificates ---------------------------------------------------------------------------------


def certified(tables, factor, **where):
    table = tables["certificates"]
    rows = np.all([np.isin(table[name], values) for name, values in where.items()], axis=0)
    return tables | {"certificates": table | {"value": np.where(rows, factor, 1) * table["value"]}}


def test_any_rise_of_a_certificate_of_the_same_policy_is_worse(tables):
    risen = certified(tables, 1 + 1e-5, quantity="D", method="magnitude", sparsity=GRID[3])
    found = by_key(compare(recorded(tables), recorded(risen)))
    assert found[D].worse and found[D].basis == "exact"
    assert (found[D].worst.first, found[D].worst.last) == (GRID[3], GRID[3])
    assert not any(c.worse for key, c in found.items() if key != D)
    back = by_key(compare(recorded(risen), recorded(tables)))
    assert back[D].better and not back[D].worse
    rounded = certified(tables, 1 + 1e-9, quantity="D")
    assert not alarm(compare(recorded(tables), recorded(rounded)))


def test_a_certificate_is_exact_if_only_its_code_changed(tables):
    """Clean episodes prove that the policies are the same."""
    found = compare(recorded(tables), recorded(certified(tables, 1.1, quantity=("D", "TV"))))
    assert {c.key for c in found if c.worse} == {c.key for c in found if c.key.quantity != RETURN}


def test_episodes_that_are_all_alike_prove_no_policy(made):
    """Returns that have reached their limit say nothing about the policy behind them."""
    tables = [made.tables(np.random.default_rng(i)) for i in (1, 1)]
    limit = {"return": np.full_like(tables[0]["returns"]["return"], 500.0)}
    one, other = (t | {"returns": t["returns"] | limit} for t in tables)
    noise = np.random.default_rng(0).normal(1, 0.2, len(other["certificates"]["value"]))
    other = certified(other, noise, scope="global")
    found = by_key(compare(recorded(one), recorded(other)))
    assert found[D].basis == SEEDS
    assert found[MAD].basis == "equal"


def test_local_certificates_depend_on_the_visited_states(made):
    one, other = (made.tables(np.random.default_rng(i)) for i in (1, 2))
    for table in (one, other):
        bounds = table["certificates"]
        local = bounds | {
            "bound": np.repeat("crown", len(bounds["value"])),
            "scope": np.repeat("local", len(bounds["value"])),
        }
        table["certificates"] = {k: np.concatenate([v, local[k]]) for k, v in bounds.items()}
    higher = certified(other, 1.001, bound="crown")
    found = by_key(compare(recorded(one), recorded(higher)))
    assert found[D._replace(source="crown")].basis == SEEDS
    assert found[D].basis == "exact"
    assert not found[D._replace(source="crown")].worse
    same_states = by_key(compare(recorded(one), recorded(certified(one, 1.001, bound="crown"))))
    assert same_states[D._replace(source="crown")].worse


# --- what cannot be told --------------------------------------------------------------------------


def test_three_seeds_cannot_tell_other_policies_apart():
    one, other = (
        recorded(Made(np.random.default_rng(i), seeds=3).tables(np.random.default_rng(i)))
        for i in (1, 2)
    )
    found = compare(one, other)
    assert {c.basis for c in found} == {"too few"}
    assert not alarm(found)
    assert np.isnan(found[0].tolerance).all()


@pytest.mark.parametrize(("episodes", "basis"), [(5, "too few"), (6, EPISODES)])
def test_five_episodes_cannot_tell_chance_apart(made, episodes, basis):
    one, other = (recorded(made.tables(np.random.default_rng(i), episodes)) for i in (1, 2))
    found = compare(one, other)
    assert {c.basis for c in found if c.key.quantity == RETURN} == {basis}


@pytest.mark.parametrize(("seeds", "episodes", "basis"), [(4, 1, SEEDS), (1, 6, EPISODES)])
def test_the_fewest_replicates_that_are_judged_can_fail(seeds, episodes, basis):
    """A clear loss is as improbable as anything can be: 1 of 70, 1 of 64."""
    baseline = np.random.default_rng(0).normal(100, 1, (seeds, episodes))
    lost = pair(baseline, baseline - 50, basis)
    for seed in range(20):
        found = judged_together([lost], np.random.default_rng(seed))[MAD]
        assert found.worse
        assert found.worst.probability == pytest.approx(1 / (70 if basis == SEEDS else 64), rel=0.1)


# --- areas ----------------------------------------------------------------------------------------


def test_the_area_over_eps_is_that_of_the_report(made):
    tables = made.tables(np.random.default_rng(1), eps=(0.1, 0.3))
    lower = changed(tables, 0.5, eps=(0.3,), method="magnitude")
    found = by_key(compare(recorded(tables), recorded(lower)))
    area = found[Key("magnitude", "area_over_eps", 0.3, RETURN)]
    assert area.worse
    for held, means in ((tables, area.baseline), (lower, area.run)):
        interval = sweep(collect(held["returns"]), "magnitude").area
        np.testing.assert_allclose(means, interval.mean, rtol=1e-5)


# --- false alarms and power -----------------------------------------------------------------------


def reference(name: str) -> Recorded:
    tables = {t: read_table(REFERENCE / name, t) for t in ("returns", "certificates")}
    certificates = labelled(tables["certificates"], Labels(tables["returns"]))
    return Recorded(collect(tables["returns"]), certificates)


def resampled(recorded: Recorded, rng: np.random.Generator, episodes: int) -> Recorded:
    """Another run of the same policies: episodes of every seed drawn again, alike in all cells."""
    first = next(iter(recorded.results.by_key.values())).returns
    drawn = rng.integers(first.shape[-1], size=(len(first), 1, episodes))
    by_key = {
        key: replace(
            curve,
            returns=np.take_along_axis(
                curve.returns, np.repeat(drawn, curve.returns.shape[1], axis=1), axis=-1
            ),
        )
        for key, curve in recorded.results.by_key.items()
    }
    return recorded._replace(results=replace(recorded.results, by_key=by_key))


def lowered(recorded: Recorded, share: float, sparsities: np.ndarray) -> Recorded:
    """With this share of the attacked return lost at these sparsities."""
    results: Results = recorded.results
    by_key = {
        key: curve
        if curve.attack == "none"
        else replace(
            curve,
            returns=curve.returns
            * np.where(np.isin(curve.sparsity, sparsities), 1 - share, 1)[:, None],
        )
        for key, curve in results.by_key.items()
    }
    return recorded._replace(results=replace(results, by_key=by_key))


def test_false_alarms_are_few_and_a_loss_at_a_third_of_the_grid_is_caught(monkeypatch):
    """Forty pairs from the same policies; the long version is below."""
    monkeypatch.setattr(permutation_test, "DRAWS", 500)
    rng, false, caught = np.random.default_rng(6), 0, 0
    held = recorded(Made(rng).tables(rng, episodes=300))
    for _ in range(40):
        one, other = (resampled(held, rng, episodes=128) for _ in range(2))
        false += alarm(compare(one, other))
        caught += alarm(compare(one, lowered(other, 0.1, np.array(GRID[2:4]))))
    assert false <= scipy.stats.binom(40, LEVEL).ppf(0.999)
    assert caught >= 38


def test_other_policies_are_no_false_alarm(monkeypatch):
    """Nor are other starts, alike for all policies of a run."""
    monkeypatch.setattr(permutation_test, "DRAWS", 500)
    rng, false = np.random.default_rng(7), 0
    for _ in range(40):
        one, other = (
            recorded(Made(rng, methods=("magnitude",)).tables(rng, episodes=8)) for _ in range(2)
        )
        false += alarm(compare(one, other))
    assert false <= scipy.stats.binom(40, LEVEL).ppf(0.999)


def test_six_seeds_show_a_loss_where_policies_are_much_alike(monkeypatch):
    """A fifth, with 2 % between the policies; with 30 % it is not to be told from chance."""
    monkeypatch.setattr(permutation_test, "DRAWS", 500)
    rng, caught = np.random.default_rng(9), {0.02: 0, AGENTS: 0}
    for spread in caught:
        for _ in range(10):
            one, other = (
                Made(rng, 6, methods=("magnitude",), spread=spread).tables(rng, episodes=64)
                for _ in range(2)
            )
            lost = changed(other, 0.8, attack=ATTACKS, sparsity=GRID[2:4])
            caught[spread] += alarm(compare(recorded(one), recorded(lost)))
    assert caught[0.02] >= 9
    assert caught[AGENTS] <= 2


@pytest.mark.slow
@pytest.mark.parametrize(("name", "episodes"), [("hopper-laptop", 10), ("hopper-learning", 128)])
def test_two_hundred_pairs_of_real_episodes(monkeypatch, name, episodes):
    """At most 5 % false alarms; a loss of 10 % at any third of the grid caught in 95 %."""
    monkeypatch.setattr(permutation_test, "DRAWS", 500)
    held, rng = reference(name), np.random.default_rng(8)
    grid = held.results.clean(held.results.methods[0]).sparsity
    third = max(1, round(len(grid) / 3))
    starts = sorted({0, (len(grid) - third) // 2, len(grid) - third})
    false, caught = 0, np.zeros(len(starts))
    for _ in range(200):
        one, other = (resampled(held, rng, episodes) for _ in range(2))
        false += alarm(compare(one, other))
        caught += [
            alarm(compare(one, lowered(other, 0.1, grid[start : start + third])))
            for start in starts
        ]
    assert false <= 10
    assert (caught >= 190).all(), caught
