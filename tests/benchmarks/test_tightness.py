"""The tightness program on a small policy: what it writes, and bad input."""

import csv

import jax
import pytest

from benchmarks import tightness
from jaxprune.policy import init_policy
from jaxprune.policy_io import save_policy
from jaxprune.pruning import prune


@pytest.fixture(autouse=True)
def devices_are_set(monkeypatch):
    """The tests' own devices stay."""
    monkeypatch.setattr(tightness.devices, "configure", lambda: None)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two cartpole policies."""
    folder = tmp_path_factory.mktemp("policies")
    for i, gain in enumerate((1.0, 30.0)):
        policy = init_policy(jax.random.key(i), 4, 2, discrete=True, hidden=(8,))
        policy.params.actor["layer_1"]["kernel"] *= gain
        save_policy(folder / f"policy{i}.npz", policy, prune(policy, "none"))
    return [str(folder / f"policy{i}.npz") for i in range(2)]


LITTLE = "--env cartpole --sparsity-grid 0,0.5 --states 8 --episodes 2 --bounds path ibp"
SMOOTHED = "--radius ibp --noise 0.2 --noise-episodes 40"
SMALL = f"{LITTLE} {SMOOTHED}".split()


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_bound_is_above_the_attack_and_the_same_seed_gives_the_same_tables(tmp_path, files):
    texts = []
    for out in (tmp_path / "a", tmp_path / "b"):
        assert tightness.main(["--policies", *files, *SMALL, "--out", str(out)]) == 0
        texts.append((out / "states.csv").read_text() + (out / "smoothing.csv").read_text())
        assert "cartpole" in (out / "report.md").read_text()
    assert texts[0] == texts[1]
    rows = read(tmp_path / "a" / "states.csv")
    assert len(rows) == 2 * 2 * 3  # policies, sparsities, attack and two bounds
    for at in range(0, len(rows), 3):
        attack, path, ibp = rows[at : at + 3]
        assert (attack["bound"], path["bound"], ibp["bound"]) == ("attack", "path", "ibp")
        for name in ("D mean", "D max", "TV mean", "TV max"):
            assert float(attack[name]) <= float(ibp[name]) * (1 + 1e-4) + 1e-6
            assert float(attack[name]) <= float(path[name]) * (1 + 1e-4) + 1e-6
        assert float(ibp["radius"]) >= 0 and path["radius"] == ""


def test_the_exact_distance_lies_between_the_attack_and_crown(tmp_path, files):
    out = tmp_path / "run"
    arguments = ["--policies", *files, *LITTLE.split(), "--exact-states", "4", "--out", str(out)]
    assert tightness.main(arguments) == 0
    rows = read(out / "exact.csv")
    assert len(rows) == 2 * 2
    for row in rows:
        found, proved = (float(row[f"{name} / exact"]) for name in ("attack", "crown"))
        assert 0.5 < float(row["lowest"]) <= found < 1.01
        assert 1 <= proved <= float(row["highest"])
    assert any(float(row["highest"]) > 1.02 for row in rows)
    assert "branch and bound" in (out / "report.md").read_text()


def test_the_smoothed_return_and_its_certificate(tmp_path, files):
    out = tmp_path / "run"
    arguments = ["--policies", files[1], *SMALL, "--noise-eps", "0", "0.001", "--out", str(out)]
    assert tightness.main(arguments) == 0
    for row in read(out / "smoothing.csv"):
        certified = [float(row["median at eps 0"]), float(row["median at eps 0.001"])]
        assert certified[0] >= certified[1]
        assert certified[0] <= 500


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--states 1", "states 1 is below 2"),
        ("--bounds pth", "unknown bound 'pth'"),
        ("--radius pth", "unknown bound 'pth'"),
        ("--method micro", "'micro' prunes during training"),
        (
            "--method wanda",
            "'wanda' prunes during training or looks at data: choose from none, mag",
        ),
        ("--noise -1", "noise -1.0 is outside"),
        ("--exact-states 9", "exact_states 9 is above states 8: lower it"),
        ("--env hopper", "the policy maps 4 observations"),
        ("--eps 99", "eps 99 is larger than the range"),
    ],
)
def test_bad_input_ends_in_one_line_and_writes_nothing(arguments, words, files, tmp_path, capsys):
    out = tmp_path / "run"
    given = ["--policies", files[0], *SMALL, "--out", str(out), *arguments.split()]
    assert tightness.main(given) == 2
    assert words in capsys.readouterr().err
    assert not out.exists()
