"""Checks from made-up results: each passes, fails for its own reason, and not by chance."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.analysis import sanity_checks as module
from benchmarks.analysis.curves import Curve, Results
from benchmarks.analysis.sanity_checks import checks, diagnosis_statements, warnings_of
from benchmarks.report.rows import check_rows
from jaxprune.attacks import ATTACKS, FAMILIES, AttackConfig, Kind, label_of, make_attack, none
from jaxprune.evaluation.gradient_masking import Diagnosis

SEEDS, SPARSITIES, EPISODES = 2, (0.0, 0.5, 0.9), 20
# Every state starts alike under every adversary: what pairs have in common is most of the spread.
STARTS = 100 * np.random.default_rng(0).standard_normal((SEEDS, len(SPARSITIES), EPISODES))

GROWS = "stronger with eps"
BY_FAMILY = {
    "transfer": "white box at least as strong as transfer",
    "evolution": "white box at least as strong as gradient-free search",
    "gaussian": "white box at least as strong as noise",
}
CORNERS = "gradient attack at least as strong as corners"
CONVERGED = "gradient attack has converged"
GRADIENTS = "gradients exist"
DEFINED = "objective is a number"
TRANSFERRED = "gradient at least as strong as transfer in D"
SOUND = {
    "gradient": 1.0,
    "doubled": 1.05,
    "corners": 0.9,
    "transferred": 0.8,
    "zero_gradient": 0.1,
    "undefined": 0.0,
}


def results(**levels: float | np.ndarray) -> Results:
    """Of "micro", with returns STARTS + level for every "attack_eps", e.g. mad_0p1."""
    by_key = {}
    for name, level in {"none_0": 0.0, **levels}.items():
        attack, eps = name.rsplit("_", 1)
        returns = STARTS + np.asarray(level)
        at = ("micro", attack, float(eps.replace("p", ".")))
        distance = np.zeros(returns.shape[:2])
        by_key[at] = Curve(*at, np.array(SPARSITIES), returns, returns, distance)
    adversaries = [(a, e) for _, a, e in by_key if a != "none"]
    return Results(
        by_key, ["micro"], {"micro": "micro"}, {"micro": True}, adversaries, "deterministic"
    )


def table(cell: tuple[int, float] | None = None, **values: float) -> dict[str, np.ndarray]:
    """Of two seeds and three sparsities, sound but for `values` at the (seed, sparsity) `cell`."""
    rows = []
    for quantity, usual in SOUND.items():
        for seed in range(SEEDS):
            for sparsity in SPARSITIES:
                here = cell is None or cell == (seed, sparsity)
                value = values.get(quantity, usual) if here else usual
                rows.append(("micro", seed, sparsity, 0.1, quantity, value))
    names = ("method", "seed", "sparsity", "eps", "quantity", "value")
    order = np.random.default_rng(1).permutation(len(rows))  # a table may come in any order
    columns = [np.array(column)[order] for column in zip(*rows, strict=True)]
    return dict(zip(names, columns, strict=True))


def by_name(found):
    names = [check.name for check in found]
    assert len(set(names)) == len(names)
    return dict(zip(names, found, strict=True))


def at_level(i: int, value: float) -> np.ndarray:
    """`value` at one sparsity, 0 at the others."""
    return value * (np.arange(len(SPARSITIES)) == i)[:, None]


def test_a_sound_evaluation_passes_all():
    sound = results(mad_0p1=-30, mad_0p2=-60, transfer_0p1=-20, transfer_0p2=-40, evolution_0p1=-25)
    found = checks(sound, table())
    assert all(check.passed for check in found)
    assert {check.name for check in found} == {
        GROWS,
        BY_FAMILY["transfer"],
        BY_FAMILY["evolution"],
        CORNERS,
        CONVERGED,
        GRADIENTS,
        DEFINED,
        TRANSFERRED,
    }
    assert list(warnings_of(found)) == []


def test_an_attack_that_is_weaker_in_a_larger_ball():
    """At one sparsity, by 5; the other attack grows."""
    weaker = results(mad_0p1=-30, mad_0p2=-30 + at_level(1, 5), random_0p1=-1, random_0p2=-2)
    (check,) = (check for check in checks(weaker, {}) if check.name == GROWS)
    assert not check.passed
    assert check.value == pytest.approx(5)
    assert check.limit == pytest.approx(0.02 * STARTS.mean())  # nothing is left to chance here
    assert check.where == "micro, eps 0.2, sparsity 0.5, mad beside eps 0.1"


def test_one_radius_has_nothing_to_grow_from_and_three_are_two_steps():
    assert GROWS not in by_name(checks(results(mad_0p1=0), {}))
    three = checks(results(mad_0p3=-3, mad_0p1=-1, mad_0p2=-2), {})
    steps = [check.where.split(", ", 3)[1::2] for check in three if check.name == GROWS]
    assert steps == [["eps 0.2", "mad beside eps 0.1"], ["eps 0.3", "mad beside eps 0.2"]]


@pytest.mark.parametrize("rival", BY_FAMILY)
def test_a_rival_that_is_stronger_than_every_white_box(rival):
    """By 3 at the last sparsity; of the white boxes "rs" is the strongest there."""
    whites = {"mad_0p1": -10, "rs_0p1": -8 + at_level(2, -6)}
    level = -9 + at_level(2, -8)
    found = by_name(checks(results(**whites, **{f"{rival}_0p1": level}), {}))
    check = found[BY_FAMILY[rival]]
    assert not check.passed and check.value == pytest.approx(3)
    assert check.where == f"micro, eps 0.1, sparsity 0.9, rs beside {rival}"
    assert set(found) == {BY_FAMILY[rival]}
    # A white box that is as strong everywhere heals it.
    healed = checks(results(**whites, learned_0p1=-17, **{f"{rival}_0p1": level}), {})
    assert by_name(healed)[BY_FAMILY[rival]].passed


def test_an_attack_of_ones_own_is_judged_by_its_family(monkeypatch):
    """Noise of a user's own is a rival, and no white box."""
    monkeypatch.setitem(ATTACKS, "flicker", Kind(lambda _: none(), "", "noise", label="Flicker"))
    stronger = by_name(checks(results(mad_0p1=-5, flicker_0p1=-9), {}))
    assert not stronger[BY_FAMILY["gaussian"]].passed
    assert checks(results(flicker_0p1=-5, transfer_0p1=-9), {}) == []
    assert label_of("flicker") == "Flicker" and label_of("mad_sgld") == "mad_sgld"


@pytest.mark.parametrize("name", ATTACKS)
def test_the_facts_of_every_attack_are_of_their_kinds(name):
    facts = ATTACKS[name]
    assert facts.family in FAMILIES and (name == "none") == (facts.family == "none")
    if facts.learns is not None:
        assert make_attack(name).cost.env_steps > 0
        assert getattr(getattr(AttackConfig(), facts.learns.section), facts.learns.passes) > 0
        assert facts.learns.network in ("actor", "critic", "both")


def test_without_a_white_box_there_is_nothing_to_compare():
    assert checks(results(random_0p1=-5, transfer_0p1=-9), {}) == []


def test_a_single_episode_is_not_checked():
    one = results(mad_0p1=0, random_0p1=-5)
    cut = {
        at: curve.__class__(*at, curve.sparsity, *[curve.returns[:1, :, :1]] * 2, curve.distance)
        for at, curve in one.by_key.items()
    }
    assert checks(replace(one, by_key=cut), {}) == []


def test_the_limit_of_one_difference_is_two_standard_errors(monkeypatch):
    """Of the pairs: the starts cancel. Of several differences it is wider, as is their largest."""
    noise = np.random.default_rng(2).standard_normal(STARTS.shape)
    check = by_name(checks(results(mad_0p1=noise, random_0p1=0), {}))[BY_FAMILY["gaussian"]]
    i = SPARSITIES.index(float(check.where.split("sparsity ")[1].split(",")[0]))
    error = noise[:, i].std(ddof=1) / noise[:, i].size ** 0.5
    assert check.value == pytest.approx(noise[:, i].mean())
    assert 2.3 * error < check.limit < 2.5 * error  # three sparsities
    monkeypatch.setattr(module, "_errors", lambda count: 2.0)
    alone = by_name(checks(results(mad_0p1=noise, random_0p1=0), {}))[BY_FAMILY["gaussian"]]
    assert alone.limit == pytest.approx(2 * error)
    monkeypatch.undo()
    assert module._errors(1) == pytest.approx(2.0)


def test_chance_alone_fails_few_checks():
    """200 draws of equally strong adversaries: the largest of 6 and of 9 differences in a check."""
    rng = np.random.default_rng(3)
    draw = lambda: 10 * rng.standard_normal(STARTS.shape)  # noqa: E731
    names = ("mad_0p1", "mad_0p2", "rs_0p1", "rs_0p2", "random_0p1", "corners_0p1", "fixed_0p1")
    alarms = {GROWS: 0, BY_FAMILY["gaussian"]: 0}
    for _ in range(200):
        for check in checks(results(**{name: draw() for name in names}), {}):
            alarms[check.name] += not check.passed
    assert all(count <= 0.05 * 200 for count in alarms.values()), alarms


def test_a_real_difference_is_found_in_the_same_noise():
    rng = np.random.default_rng(4)
    draw = lambda: 10 * rng.standard_normal(STARTS.shape)  # noqa: E731
    found = checks(results(mad_0p1=draw(), transfer_0p1=-15 + draw()), {})
    assert not by_name(found)[BY_FAMILY["transfer"]].passed


@pytest.mark.parametrize(
    ("name", "values", "value"),
    [
        (CORNERS, {"corners": 1.2}, 1.2),
        (CONVERGED, {"doubled": 1.2}, 1.2),
        (
            CONVERGED,
            {"gradient": 0.0, "doubled": 0.5, "transferred": 0.0, "corners": 0.0},
            0.5 / 1e-4,
        ),
        (GRADIENTS, {"zero_gradient": 0.9}, 0.9),
        (GRADIENTS, {"zero_gradient": np.nan}, np.nan),
        (TRANSFERRED, {"transferred": 1.1}, 1.1),
        (DEFINED, {"undefined": 0.01}, 0.01),
    ],
)
def test_one_cell_of_the_diagnosis_fails_one_check(name, values, value):
    found = by_name(checks(results(), table((1, 0.5), **values)))
    assert [check.name for check in found.values() if not check.passed] == [name]
    assert found[name].value == pytest.approx(value, nan_ok=True)
    assert found[name].where == "micro, eps 0.1, sparsity 0.5, seed 1"


def test_a_policy_that_nothing_moves_is_no_alarm_but_for_its_gradients():
    """A network that pruning cut in two; what is left are rounding errors."""
    still = {"gradient": 0.0, "doubled": 2e-8, "corners": 6e-8, "transferred": 1e-8}
    found = by_name(checks(results(), table(None, **still, zero_gradient=1.0)))
    assert [check.name for check in found.values() if not check.passed] == [GRADIENTS]


def test_no_source_and_no_ball_are_not_checked():
    assert TRANSFERRED not in by_name(checks(results(), table(transferred=np.nan)))
    some = by_name(checks(results(), table((0, 0.9), transferred=np.nan)))
    assert some[TRANSFERRED].passed and "sparsity 0.9, seed 0" not in some[TRANSFERRED].where
    assert checks(results(), table() | {"eps": np.zeros(len(table()["eps"]))}) == []


def test_statements_are_means_over_states():
    gradient = np.array([[1, 2, 0, 4], [1, 1, 1, 1]], np.float32)
    factor = np.array([[1.005, 1.02, 1, 2], [1.02, 1, 1, 1]], np.float32)
    corners = gradient * factor + np.float32(6e-8)
    nothing = np.full_like(gradient, np.nan)
    told = diagnosis_statements(Diagnosis(gradient, 2 * gradient, corners, gradient / 4, nothing))
    np.testing.assert_allclose(told["gradient"], [1.75, 1])
    np.testing.assert_allclose(told["doubled"], [3.5, 2])
    np.testing.assert_allclose(told["corners"], corners.mean(-1), rtol=1e-6)
    np.testing.assert_allclose(told["zero_gradient"], [1.75 / 4, 1 / 4])
    assert np.isnan(told["transferred"]).all()
    assert set(told) == set(SOUND)


def test_what_a_person_reads():
    found = checks(results(mad_0p1=-10, random_0p1=-13), table((1, 0.5), doubled=1.25))
    (noise, converged) = warnings_of(found)
    assert noise.startswith(
        "Noise lowers the return by 3 more than the attacks (micro, eps 0.1, sparsity 0"
    )
    assert "mad beside random; at most" in noise
    assert "times as far (micro, eps 0.1, sparsity 0.5, seed 1; at most 1.1 is sound)." in converged
    header, rows = check_rows(found)
    assert header == ["check", "passed", "value", "limit", "where"]
    assert len(rows) == len(found)
    where = "micro, eps 0.1, sparsity 0.5, seed 1"
    assert [CONVERGED, "NO", "1.25", "1.1", where] in rows
    assert {row[1] for row in rows} == {"yes", "NO"}


def test_what_is_certain_but_tiny_is_no_warning():
    """1.9 % of the clean return passes, 2.1 % does not; the noise is the same, both are certain."""
    for share, passes in ((0.019, True), (0.021, False)):
        level = -10 + at_level(1, -share * STARTS.mean())
        found = by_name(checks(results(mad_0p1=-10, gaussian_0p1=level), {}))
        assert found[BY_FAMILY["gaussian"]].passed == passes
