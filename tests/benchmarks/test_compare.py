"""Comparisons of made-up runs whose scores are known."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import compare
from tests.benchmarks.made_up import DENSE, LOSS, write_run


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Two tasks; the second has a method more."""
    hopper = write_run(tmp_path / "hopper", seeds=6).path
    return [hopper, write_run(tmp_path / "ant", env="ant", methods=("magnitude", "micro")).path]


def test_scores_are_shares_of_the_dense_return(runs):
    rows = {
        (x.label, x.sparsity): x for x in compare.rows_of(compare.scores_of(compare.runs_of(runs)))
    }
    assert [row[0] for row in rows] == ["none", *["magnitude"] * 4, *["micro"] * 4]
    pruned = rows["magnitude", 0.3]
    assert pruned.tasks == ["hopper", "ant"] and pruned.replicates == 3
    assert float(pruned.clean.mean) == pytest.approx(0.7, abs=0.002)
    assert float(pruned.attacked.mean) == pytest.approx(0.7 - LOSS / DENSE, abs=0.002)
    assert np.isnan(pruned.clean.low) and rows["micro", 0.3].tasks == ["ant"]


def test_a_profile_is_the_share_above_each_score(runs):
    scores = compare.scores_of(compare.runs_of(runs))
    chart = compare.profiles(scores, list(compare.rows_of(scores)))
    (facet,) = chart.facets
    names = [trace.name for trace in facet.traces]
    assert names == ["none at 0", "magnitude at 0", "micro at 0"]
    assert all(t.y[0] == 1 and t.y[-1] == 0 and (np.diff(t.y) <= 0).all() for t in facet.traces)


def test_the_page(runs, tmp_path, capsys):
    out = tmp_path / "out"
    assert compare.main([*map(str, runs), "--out", str(out)]) == 0
    assert "| hopper | magnitude | 6 |" in capsys.readouterr().out
    told = (out / "comparison.md").read_text()
    assert "| magnitude | 0.3 | 2 | 3 | 0.7" in told and "| not tested |" in told
    assert "![Performance profiles](profiles.png)" in told and (out / "profiles.png").exists()
    assert "sortTable" in (out / "comparison.html").read_text()


def test_one_run_is_nothing_to_compare(runs, tmp_path, capsys):
    assert compare.main([str(runs[0]), "--out", str(tmp_path / "out")]) == 2
    assert "give two or more folders" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_folders_of_one_name_are_refused(runs, tmp_path, capsys):
    again = write_run(tmp_path / "again" / "hopper", seeds=6).path
    assert compare.main([str(runs[0]), str(again), "--out", str(tmp_path / "out")]) == 2
    assert "two folders are called 'hopper'" in capsys.readouterr().err
