"""The study of monotonicity, as a program and piece by piece."""

import csv
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.theorem import __main__ as theorem
from benchmarks.theorem import findings, measure, report
from benchmarks.theorem.findings import (
    Findings,
    Line,
    Network,
    prices,
    relative,
    rises,
    untold,
    verdict,
)
from benchmarks.theorem.measure import Options
from benchmarks.theorem.report import told
from jaxprune.policy import init_policy
from jaxprune.policy_io import save_policy
from jaxprune.pruning import prune, sparsity_of

# One set of shapes in all tests that run the program: it is compiled once.
SIZES = (3, 8, 8, 1)
STUDY = (
    "--states 5 --singles 12 --orders 2 --sparsity-grid 0.3,0.6 "
    "--bounds path centre_free spectral ibp --steps 3 --restarts 1"
)
SMALL = f"--random 2 --sizes 3 8 8 1 {STUDY}"


@pytest.fixture(scope="module", autouse=True)
def devices_are_set():
    """The tests' own devices stay."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(theorem.devices, "configure", lambda: None)
        yield


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("theorem") / "out"
    assert theorem.main([*SMALL.split(), "--out", str(out)]) == 0
    return out


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_has_a_row_per_network_sweep_and_quantity(small):
    found = rows(small / "table.csv")
    names = ["path", "centre_free", "spectral", "ibp", "jacobian", "attack"]
    assert [r["quantity"] for r in found[:6]] == names
    assert [r["network"] for r in found] == ["seed 0"] * 18 + ["seed 1"] * 18
    assert [r["sweep"] for r in found[::6]] == ["magnitude", "random", "one by one"] * 2
    # Two steps, in two orders, at five states; global bounds have one state.
    steps = {(r["sweep"], r["quantity"]): int(r["steps"]) for r in found}
    assert steps["magnitude", "path"] == 2 and steps["magnitude", "ibp"] == 10
    assert steps["random", "path"] == 4 and steps["random", "jacobian"] == 20
    assert steps["one by one", "spectral"] == 12 and steps["one by one", "attack"] == 60
    for row in found:
        if row["kind"] == "global, monotone":
            assert row["raised"] == "0" and float(row["largest_ratio_to_dense"]) <= 1
        bound = row["quantity"] in names[:4]
        assert bool(row["dense_over_attack"]) == bool(row["dense_over_tightest"]) == bound
        assert not bound or float(row["dense_over_attack"]) >= 1
    assert sum(int(r["raised"]) for r in found if r["quantity"] == "spectral") > 0


def test_the_curves_start_at_the_dense_network(small):
    found = rows(small / "curves.csv")
    assert [r["sweep"] for r in found[:9:3]] == ["magnitude", "random", "magnitude, rescaled"]
    assert [r["sparsity"] for r in found[:3]] == ["0", "0.3", "0.6"]
    dense = [{k: r[k] for k in ("path", "spectral", "ibp")} for r in found[:9:3]]
    assert dense[0] == dense[1]
    for name, value in dense[0].items():
        assert float(dense[2][name]) == pytest.approx(float(value), rel=1e-6)
    # Rescaled kernels: every product of norms falls by the same factor.
    scaled = [float(r["path"]) / float(dense[0]["path"]) for r in found[6:9]]
    assert [float(r["spectral"]) / float(dense[0]["spectral"]) for r in found[6:9]] == (
        pytest.approx(scaled, rel=1e-5)
    )


def test_the_report_opens_with_a_verdict_from_the_numbers(small):
    report = (small / "report.md").read_text()
    top = report.split("![")[0]
    assert "the claim holds for " in top and "It holds for path, centre_free" in top
    assert "It fails for spectral, which rose in " in top
    assert "No attack went beyond any bound." in top and "Please report" not in report
    assert "The price of monotonicity, before any pruning" in top
    assert f"`python -m benchmarks.theorem {SMALL}" in report
    for sweep in ("magnitude", "random", "one by one"):
        assert f"## How often a step raised it, state by state: {sweep}\n" in report
    for level in ("0", "0.6"):
        assert f"## What bounds cost: magnitude, sparsity {level}\n" in report
    assert (small / "theorem.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in small.iterdir()} == {
        "table.csv",
        "curves.csv",
        "theorem.png",
        "report.md",
    }


def test_the_same_command_gives_the_same_tables(small, tmp_path):
    assert theorem.main([*SMALL.split(), "--out", str(tmp_path)]) == 0
    for name in ("table.csv", "curves.csv"):
        assert (tmp_path / name).read_bytes() == (small / name).read_bytes()


def test_a_policy_is_looked_at_where_it_goes(tmp_path, capsys):
    save_policy(tmp_path / "swing.npz", measure.gaussian_policy(0, SIZES, "tanh"))
    arguments = f"--policies {tmp_path / 'swing.npz'} --env pendulum {STUDY}"
    assert theorem.main([*arguments.split(), "--out", str(tmp_path / "out")]) == 0
    found = rows(tmp_path / "out" / "table.csv")
    assert {r["network"] for r in found} == {"swing"}
    steps = [r["steps"] for r in found if r["sweep"] == "magnitude"]
    assert steps == ["2", "2", "2", "10", "10", "10"]
    assert "of 4 bounds." in capsys.readouterr().out


def linear_policy(weight, std=1.0):
    weight = np.asarray(weight, float)
    policy = init_policy(jax.random.key(0), weight.shape[1], len(weight), hidden=())
    actor = {"layer_0": {"kernel": jnp.asarray(weight.T), "bias": jnp.zeros(len(weight))}}
    log_std = jnp.full(len(weight), np.log(std))
    return replace(policy, params=policy.params._replace(actor=actor, log_std=log_std))


def test_the_truth_about_a_linear_policy():
    """mu = W x: the Jacobian is W, and the farthest corner of the ball is (1, 1) or (1, -1)."""
    weight = np.array([[1.0, 2.0], [0.0, -1.0]])
    policy = linear_policy(weight, std=0.5)
    masks = prune(policy, "none", [0.0, 0.0])
    masks.actor["layer_0"]["kernel"] = masks.actor["layer_0"]["kernel"].at[1].set(False)
    options = Options(out=Path(), eps=0.1)
    found = measure.sensitivity(policy, masks, np.zeros((3, 2)), options)
    jacobian = np.linalg.norm(weight, 2) / 0.5
    np.testing.assert_allclose(found["jacobian"], [[jacobian] * 3, [0.0] * 3], rtol=1e-7)
    corner = 0.1 * np.hypot(3, 1) / 0.5
    np.testing.assert_allclose(found["attack"], [[corner] * 3, [0.0] * 3], rtol=1e-6)
    moved = found["attack, action units"]  # without the deviations
    np.testing.assert_allclose(moved, [[corner * 0.5] * 3, [0.0] * 3], rtol=1e-6)


def test_chains_are_nested_and_single_weights_go_one_by_one():
    policy = init_policy(jax.random.key(1), 3, 2, hidden=(5,))
    options = Options(out=Path(), sparsity_grid="0:0.8:5", orders=3, singles=100)
    magnitude, random, single = measure.sweeps(policy, options)
    assert magnitude.sparsity == random.sparsity == [0, 0.2, 0.4, 0.6, 0.8]
    assert magnitude.masks.log_std.shape[:2] == (1, 5)
    assert random.masks.log_std.shape[:2] == (3, 5)
    removed = jax.vmap(sparsity_of)(jax.tree.map(lambda m: jnp.asarray(m[0]), single.masks))
    np.testing.assert_allclose(removed * 25, np.arange(25), atol=1e-4)  # all but the last
    for sweep in (magnitude, random, single):
        for layer in sweep.masks.actor.values():
            assert np.all(layer["kernel"][:, :-1] >= layer["kernel"][:, 1:])


def test_rescaled_kernels_have_the_norms_that_masks_left():
    policy = measure.gaussian_policy(1, (3, 5, 2), "tanh")
    masks = prune(policy, "magnitude", [0.0, 0.5])
    scaled = measure.rescaled(policy, jax.device_get(masks))
    for name, layer in policy.params.actor.items():
        kernels, dense = scaled.params.actor[name]["kernel"], np.asarray(layer["kernel"])
        masked = dense * np.asarray(masks.actor[name]["kernel"])
        norms = np.linalg.norm(masked, axis=(1, 2))
        np.testing.assert_allclose(np.linalg.norm(kernels, axis=(1, 2)), norms, rtol=1e-6)
        np.testing.assert_allclose(kernels[0], dense, rtol=1e-6)
        assert np.all(kernels[1] != 0)


def line(sweep="magnitude", baseline=False, **values) -> Line:
    """A sweep of three levels at one state, from the values of each quantity."""
    arrays = {name: np.array(x, float).reshape(1, 3, -1) for name, x in values.items()}
    network = Network("net", "nets", linear_policy(np.ones((1, 1))), None)
    return Line(network, sweep, [0.0, 0.5, 0.9], arrays, baseline)


def test_rises_are_counted_step_by_step_and_against_the_dense_network():
    found = line(spectral=[2.0, 1.0, 1.5], jacobian=[[1, 0], [4, 0], [2, 0]], path=[1, 1, 1])
    assert rises([found], "spectral") == (2, 1, 1.5, 0.75)
    assert rises([found, found], "jacobian") == (8, 2, 4.0, 4.0)
    assert rises([found], "path") == (2, 0, 1.0, 1.0)
    # The last bit counts where a bound claims to be monotone, and is rounding where it does not.
    bits = [1.0, np.nextafter(1.0, 2.0), 1.0]
    found = line(path=bits, spectral=bits)
    assert rises([found], "path").raised == 1
    assert rises([found], "spectral").raised == 0


def test_what_is_infinite_or_no_number_is_counted_apart():
    """It compared as "did not rise", and a bound that was NaN throughout as one that held."""
    path = [[3.0], [np.nan], [2.0], [np.inf], [np.inf], [1.0], [0.5]]
    values = {
        "path": np.array([path]),
        "jacobian": np.ones((1, 7, 1)),
        "attack": np.ones((1, 7, 1)),
    }
    network = findings.Network("net", "nets", measure.gaussian_policy(0, SIZES, "tanh"), None)
    found = findings.Line(network, "magnitude", [i / 7 for i in range(7)], values)
    assert rises([found], "path") == (1, 0, 0.5, 0.5 / 3)
    assert untold([found], "path") == 5
    lines = findings.Findings([found])
    sentences = " ".join(verdict(lines))
    assert "holds for 0 of 1 bounds" in sentences and "not known for path: 5 of" in sentences
    assert told([found])["path"] == "0; 5 not known"
    (row, *_) = report.table([found])
    assert (row["steps"], row["raised"], row["not_known"]) == (1, 0, 5)


def test_prices_are_ratios_at_each_state():
    found = line(
        path=[8, 4, 2],
        ibp=[[2, 8], [1, 1], [1, 1]],
        attack=[[1, 4], [1, 1], [0, 0]],
        jacobian=[1] * 3,
    )
    found = found._replace(actions={name: x / 2 for name, x in found.values.items()})
    price = prices([found], 0)
    assert price["path"] == pytest.approx((8, 4, 2, 4))  # sqrt(8/2 * 8/8), sqrt(8/1 * 8/4)
    assert price["ibp"] == pytest.approx((4, 2, 1, 2))
    assert relative([found], "path") == pytest.approx([1, 0.5, 0.25])
    assert relative([found], "attack") == pytest.approx([1, 0.5, 0])


def test_the_verdict_names_what_should_be_impossible():
    truth = {"jacobian": [1.0, 1.0, 1.0], "attack": [1.0, 1.0, 1.0]}
    good = line(path=[3, 2, 1], spectral=[2, 2.5, 1], **truth)
    fine = list(verdict(Findings([good])))
    assert fine[0].endswith("the claim holds for 1 of 2 bounds.")
    assert "not one of 2 pruning steps" in fine[1]
    assert fine[2] == (
        "It fails for spectral, which rose in 50.0% (magnitude) of the steps, at most to 1.25x in "
        "one and to 1.25x its dense value."
    )
    assert "1.5 times the tightest of all at each state and 3 times" in " ".join(fine)
    assert fine[-1] == "No attack went beyond any bound."
    bad = line(path=[3, 4, 1], spectral=[2, 0.5, 1], **truth)
    found = " ".join(verdict(Findings([bad])))
    assert "Please report: path cannot rise, and rose in 50.0% (magnitude)" in found
    assert "Please report: the attack went beyond spectral of net, magnitude." in found
    lucky = " ".join(verdict(Findings([line(spectral=[3, 2, 1], **truth)])))
    assert "No step raised spectral here, though nothing forbids it." in lucky
    assert "price" not in lucky  # no monotone bound, no price


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("", "nothing to prune"),
        ("--policies missing.npz --env pendulum", "missing.npz"),
        ("--policies missing.npz", "--env"),
        ("--policies here/a.npz there/a.npz --env pendulum", "same name"),
        ("--random 1 --policy-stats stats.pkl", "stats.pkl belong to no --policies"),
        ("--random 1 --bounds nonsense", "unknown bound 'nonsense'"),
        ("--random 1 --sparsity-grid 0:2:3", "outside [0, 1)"),
        ("--random 1 --sparsity-grid 0", "removes nothing"),
        ("--random 1 --activation gelu", "unknown activation 'gelu'"),
        ("--random 1 --states 0", "states 0"),
        ("--random 1 --eps 0", "eps 0"),
        ("--random 1 --eps nan", "eps nan"),
        ("--random 1 --sizes 4", "sizes (4,)"),
        ("--random 1 --restarts 0", "restarts 0"),
        (f"{SMALL} --eps 20", "clipped"),
    ],
)
def test_bad_settings_end_in_one_line(arguments, words, tmp_path, capsys):
    out = tmp_path / "out"
    assert theorem.main(["--out", str(out), *arguments.split()]) == 2
    error = capsys.readouterr().err
    assert words in error and len(error.strip().splitlines()) == 1
    assert not out.exists()


def test_a_file_in_the_place_of_the_folder_is_kept(tmp_path, capsys):
    (tmp_path / "out").write_text("precious")
    assert theorem.main([*SMALL.split(), "--out", str(tmp_path / "out")]) == 2
    assert "is no folder" in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == "precious"


def test_a_policy_of_another_task_is_refused(tmp_path, capsys):
    save_policy(tmp_path / "small.npz", init_policy(jax.random.key(0), 2, 1, hidden=(4,)))
    arguments = ["--policies", str(tmp_path / "small.npz"), "--env", "pendulum"]
    assert theorem.main([*arguments, "--out", str(tmp_path / "out")]) == 2
    assert "choose the env that the policy was trained on" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_published_policies(published, tmp_path):
    """All bounds on a trained policy: those that claim it never rise, and no attack exceeds any."""
    file = published / "ppo-hopper-median.npz"
    arguments = f"--policies {file} --env gym/Hopper-v4 --states 16 --singles 64"
    assert theorem.main([*arguments.split(), "--out", str(tmp_path)]) == 0
    found = rows(tmp_path / "table.csv")
    for row in found:
        assert row["kind"] != "global, monotone" or row["raised"] == "0"
    assert "Please report" not in (tmp_path / "report.md").read_text()
