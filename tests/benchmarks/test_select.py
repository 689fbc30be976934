"""The program that chooses a policy: files, messages, and agreement with the report."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import select
from benchmarks.analysis.curves import collect
from benchmarks.analysis.verdict import TOLERATED_LOSS, verdicts
from benchmarks.runtime.run_folder import read_table
from jaxprune import load_policy, load_run
from tests.benchmarks.made_up import write_run
from tests.test_notebook import write_cartpole_run

REFERENCE = Path(__file__).parents[2] / "results" / "reference" / "hopper-laptop"
LIMITS = ["--clean-loss", "40%", "--attacked-loss", "0.4"]


def test_it_chooses_as_the_verdict_of_the_report_does():
    """With no limit on the attacked return, of the only method of a real run."""
    found = load_run(REFERENCE).best(TOLERATED_LOSS, attacked_loss=10)
    (verdict,) = verdicts(collect(read_table(REFERENCE, "returns"))).values()
    theirs = verdict.within_clean
    assert found.choice.sparsities == theirs.sparsities and found.sparsity == theirs.sparsity
    for ours, other in zip(found.choice[1:], theirs[1:], strict=True):
        np.testing.assert_allclose(ours.each, other.each)
        np.testing.assert_allclose(ours.interval, other.interval)


@pytest.mark.parametrize("suffix", [".npz", ".h", ".stablehlo"])
def test_it_writes_what_it_chose(tmp_path, suffix, capsys):
    write_cartpole_run(tmp_path / "run")
    out = tmp_path / f"policy{suffix}"
    assert select.main([str(tmp_path / "run"), *LIMITS, "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert "magnitude at sparsity 0.3, agent of seed 2" in told and f"{out.name}, " in told
    assert "bytes of the actor: dense 18,440, rows" in told
    if suffix == ".npz":
        chosen = load_run(tmp_path / "run").best(0.4, 0.4).policy
        obs_stats = load_policy(out).obs_stats
        np.testing.assert_array_equal(obs_stats.mean, chosen.obs_stats.mean)


def test_layout_and_type_of_a_header(tmp_path):
    write_cartpole_run(tmp_path / "run")
    words = [str(tmp_path / "run"), *LIMITS, "--out", str(tmp_path / "p.h"), "--layout", "rows"]
    assert select.main([*words, "--dtype", "int8"]) == 0
    assert "(rows, int8)" in (tmp_path / "p.h").read_text()
    (tmp_path / "p.h").unlink()
    assert select.main([*words, "--dtype", "int4"]) == 2
    assert not (tmp_path / "p.h").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "policy.pt"], "unknown format of --out '.pt': choose from .npz, .onnx"),
        (["--out", "p.h", "--clean-loss", "5%"], "exceeds clean-loss 0.05 by 2"),
        (["--out", "p.h", "--clean-loss", "much"], "could not convert string to float: 'much'"),
        (["--out", "p.h", "--clean-loss=-5%"], "clean_loss -0.05 is outside"),
        (["--out", "p.h", "--method", "micro"], "no method 'micro': choose from magnitude"),
    ],
)
def test_bad_input_writes_nothing(tmp_path, words, message, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_cartpole_run(tmp_path / "run")
    assert select.main(["run", *LIMITS, *words]) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_run_with_tables_alone_is_shown_and_not_written(tmp_path, capsys):
    run, out = write_run(tmp_path / "run").path, tmp_path / "p.h"
    assert select.main([str(run), *LIMITS]) == 0
    assert "the run has no agents/" in capsys.readouterr().out
    assert select.main([str(run), *LIMITS, "--out", str(out)]) == 2
    assert not out.exists()
