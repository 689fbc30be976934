"""The comparison with Gymnasium, as a program."""

import csv

import jax
import numpy as np
import pytest

from benchmarks import parity
from jaxprune.envs import make_env
from jaxprune.policy import init_policy
from jaxprune.policy_io import save_policy
from jaxprune.types import TimeStep


@pytest.fixture
def devices_are_set(monkeypatch):
    """The tests' own devices stay."""
    monkeypatch.setattr(parity.devices, "configure", lambda: None)


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_small_comparison_writes_both_tables_and_a_report(tmp_path, devices_are_set):
    spec = make_env("gym/InvertedPendulum-v4").spec
    policy = init_policy(jax.random.key(0), spec.obs_size, spec.action_size, hidden=(4,))
    save_policy(tmp_path / "small.npz", policy)
    arguments = (
        f"--out {tmp_path / 'out'} --envs InvertedPendulum-v4 --states 40 --train-steps 0 "
        f"--policies {tmp_path / 'small.npz'} --policy-env InvertedPendulum-v4 "
        "--attacks none fixed rs --episodes 3 --rs.steps 1024 --rs.epochs 1 --rs.radii 0.1 "
        "--rs.weights 1 3 --selection.episodes 2 --selection.finalists 2 "
        "--selection.final-episodes 2"  # both rounds of the choice are calls of one program
    )
    assert parity.main(arguments.split()) == 0

    (steps,) = table(tmp_path / "out" / "steps.csv")
    assert steps["env"] == "InvertedPendulum-v4" and steps["states"] == "40"
    assert steps["solver in C"] == "Newton"
    assert float(steps["obs max"]) < 1e-5 and steps["termination differs"] == "0"
    assert int(steps["terminated"]) > 0
    returns = table(tmp_path / "out" / "returns.csv")
    assert [row["attack"] for row in returns] == ["none", "fixed", "rs"]
    for row in returns:
        assert row["policy"] == "small"
        assert row["MuJoCo C"] == row["here"]  # a pole that falls in a few steps
    report = (tmp_path / "out" / "report.md").read_text()
    assert "python -m benchmarks.parity" in report
    assert "| InvertedPendulum-v4 | Newton | 40 |" in report


def test_differences_are_those_of_the_formulas():
    there = parity.Visited(
        state=None,
        action=None,
        obs=np.array([[3.0, 4.0], [0.0, 2.0]]),
        reward=np.array([10.0, 0.0]),
        terminated=np.array([True, False]),
        touching=np.array([True, False]),
    )
    here = TimeStep(
        obs=np.array([[3.0, 4.5], [0.0, 2.0]]),
        reward=np.array([11.0, 0.5]),
        terminated=np.array([False, False]),
        truncated=np.array([False, False]),
    )
    found = parity.differences(there, here)
    assert found["obs max"] == "1.0e-01"  # 0.5 of |(3, 4)|
    assert found["obs > 1e-4"] == "50.00%"
    assert found["element max"] == "1.0e-01"  # 0.5 of 1 + 4
    assert found["element > 1e-4"] == "50.00%"
    assert found["reward max"] == "5.0e-01"  # of max(1, 0)
    assert found["termination differs"] == 1 and found["terminated"] == 1
    assert found["in contact"] == 0.5


def test_the_difference_of_means_is_in_its_own_standard_errors():
    there, here = np.array([0.0, 2.0]), np.array([3.0, 5.0])
    found = parity.compare_returns(there, here)
    # Each mean has the standard error 1, their difference sqrt(2).
    assert found["difference / SE"] == "+2.12"
    assert found["MuJoCo C"] == "1 +- 1"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--envs Hopper-v9", "'Hopper-v9'"),
        ("--attacks nonsense", "'nonsense'"),
        ("--states 1", "states 1"),
        ("--episodes 1", "episodes 1"),
        ("--train-steps -5", "train_steps -5"),
        ("--policies missing.npz", "missing.npz"),
    ],
)
def test_bad_settings_end_in_one_line(arguments, words, tmp_path, capsys, devices_are_set):
    out = tmp_path / "out"
    given = f"--out {out} --policy-env InvertedPendulum-v4 {arguments}"
    assert parity.main(given.split()) == 2
    error = capsys.readouterr().err
    assert words in error and len(error.strip().splitlines()) <= 2
    assert not out.exists()
