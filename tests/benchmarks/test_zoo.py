"""The zoo made from made-up runs; their agents are policies of a seed."""

import jax
import numpy as np
import pytest

from benchmarks import zoo
from jaxprune.policy_io import Run, load_policy
from tests.benchmarks.made_up import DENSE, LOSS, write_run
from tests.policies import drawn_policy


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A zoo with one old policy of the same task and one of another, and agents for every run."""

    def policy(run, method, sparsity, seed, regime):
        assert (method, sparsity, regime) == ("none", 0.0, "ppo")
        return drawn_policy(4, 2, (8,), discrete=True, seed=seed)

    monkeypatch.setattr(Run, "policy", policy)
    for old in ("hopper/ppo/7.npz", "ant/ppo/0.npz"):
        (tmp_path / "zoo" / old).parent.mkdir(parents=True)
        (tmp_path / "zoo" / old).write_bytes(b"")
    (tmp_path / "zoo/README.md").write_text(f"# Zoo\n\n{zoo.MARK}\n| old |\n")
    return tmp_path / "zoo"


def test_the_first_agents_go_into_the_zoo(folder, tmp_path, capsys):
    run = write_run(tmp_path / "hopper-ppo", seeds=6).path
    assert zoo.main([str(run), "--agents", "2", "--out", str(folder)]) == 0
    assert "wrote 2 policies" in capsys.readouterr().out
    files = sorted(x.relative_to(folder).as_posix() for x in folder.rglob("*.npz"))
    assert files == ["ant/ppo/0.npz", "hopper/ppo/0.npz", "hopper/ppo/1.npz"]
    found = load_policy(folder / "hopper/ppo/1.npz")
    expected = drawn_policy(4, 2, (8,), discrete=True, seed=1)
    jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)
    introduction, _, table = (folder / "README.md").read_text().partition(zoo.MARK)
    assert introduction == "# Zoo\n\n" and "old" not in table
    (row,) = [line for line in table.splitlines() if "zoo:hopper/ppo/1" in line]
    _, _, run_name, clean, _, worst, _ = (cell.strip() for cell in row.split("|"))
    assert run_name == "hopper-ppo" and float(clean) == pytest.approx(DENSE, abs=5)
    assert float(worst) == pytest.approx(DENSE - LOSS, abs=10)


def test_of_two_runs_the_first_counts(folder, tmp_path):
    runs = [write_run(tmp_path / name, seeds=seeds).path for name, seeds in (("a", 3), ("b", 6))]
    assert zoo.main([*map(str, runs), "--agents", "4", "--out", str(folder)]) == 0
    rows = [x for x in (folder / "README.md").read_text().splitlines() if "zoo:hopper/ppo" in x]
    assert [row.split(" | ")[1] for row in rows] == ["a", "a", "a", "b"]


def test_a_run_without_mad_is_refused(folder, tmp_path, capsys):
    run = write_run(tmp_path / "hopper-ppo", attacks=("rs",), seeds=6).path
    assert zoo.main([str(run), "--out", str(folder)]) == 2
    assert "has no returns under mad" in capsys.readouterr().err
    assert (folder / "hopper/ppo/7.npz").exists()


def test_regimes_that_are_not_there_change_nothing(folder, tmp_path, capsys):
    run = write_run(tmp_path / "hopper-ppo", seeds=6).path
    for regime, told in (("car", "no agents of car in these runs"), ("cra", "regime 'cra'")):
        assert zoo.main([str(run), "--regimes", regime, "--out", str(folder)]) == 2
        assert told in capsys.readouterr().err
        assert (folder / "hopper/ppo/7.npz").exists()
