"""The gate as a program: what it exits with, what it prints and what it writes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks.gate.__main__ import main
from benchmarks.gate.baseline import read_baseline
from tests.benchmarks.made_up_runs import EPS, GRID, Made, changed, write_run


@pytest.fixture(scope="module")
def tables():
    return Made(np.random.default_rng(0), methods=("magnitude",)).tables(np.random.default_rng(1))


@pytest.fixture(scope="module")
def folder(tables, tmp_path_factory) -> Path:
    """A run, a baseline of it, and runs that are better, worse and about another task."""
    folder = tmp_path_factory.mktemp("gate")
    write_run(folder / "run", tables)
    third = {"attack": ("random", "mad"), "sparsity": GRID[2:4]}
    write_run(folder / "worse", changed(tables, 0.9, **third))
    write_run(folder / "better", changed(tables, 1.1, **third))
    write_run(folder / "walker", tables, env="walker2d")
    assert main(["--baseline", str(folder / "baseline"), "--update", str(folder / "run")]) == 0
    return folder


@pytest.fixture(autouse=True)
def no_step(monkeypatch):
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)


def gate(folder: Path, run: str, *options: str) -> int:
    return main([str(folder / run), "--baseline", str(folder / "baseline"), *options])


@pytest.mark.parametrize(
    ("run", "status", "words"),
    [
        ("run", 0, "0 of 14 curves got worse, 0 better"),
        ("better", 0, "0 of 14 curves got worse, 4 better"),
        ("worse", 1, "4 of 14 curves got worse, 0 better"),
    ],
)
def test_it_exits_with_1_if_a_curve_got_worse(folder, run, status, words, capsys):
    assert gate(folder, run) == status
    printed = capsys.readouterr().out
    assert words in printed
    assert ("return/magnitude/mad@0.1" in printed) == (run != "run")


@pytest.mark.parametrize(
    ("run", "words"),
    [
        ("walker", "env is hopper there and walker2d here"),
        ("nowhere", "nowhere/experiment.json is missing"),
        ("baseline", "is a baseline"),
    ],
)
def test_it_exits_with_2_if_there_is_nothing_to_compare(folder, run, words, capsys):
    assert gate(folder, run) == 2
    captured = capsys.readouterr()
    assert words in captured.err and captured.err.startswith("error: ")
    assert captured.out == ""


def test_it_exits_with_2_if_a_change_cannot_be_judged(tmp_path, capsys):
    """Two seeds of other policies."""
    for i, name in enumerate(("before", "run")):
        made = Made(np.random.default_rng(i), seeds=2, methods=("magnitude",))
        write_run(tmp_path / name, made.tables(np.random.default_rng(i)))
    assert (
        main([str(tmp_path / "before"), "--update", "--baseline", str(tmp_path / "baseline")]) == 0
    )
    assert gate(tmp_path, "run", "--junit", str(tmp_path / "junit.xml")) == 2
    captured = capsys.readouterr()
    assert "14 could not be judged" in captured.out
    assert "2 seeds or 16 episodes are too few" in captured.err
    assert 'skipped="14"' in (tmp_path / "junit.xml").read_text()


@pytest.mark.parametrize("lost", ["deterministic", "stochastic"])
def test_it_sees_a_loss_of_any_victim_and_says_whose(tmp_path, capsys, lost):
    """Curves of the first are called as they are where it is alone."""
    made = Made(np.random.default_rng(0), methods=("magnitude",))
    before = made.tables(np.random.default_rng(1), victims=("deterministic", "stochastic"))
    third = {"attack": ("random", "mad"), "sparsity": GRID[2:4], "victim": lost}
    write_run(tmp_path / "run", before)
    write_run(tmp_path / "worse", changed(before, 0.9, **third))
    folder = str(tmp_path / "baseline")
    assert main(["--baseline", folder, "--update", str(tmp_path / "run")]) == 0
    assert gate(tmp_path, "run") == 0
    assert gate(tmp_path, "worse", "--json", str(tmp_path / "history.json")) == 1
    assert "4 of 24 curves got worse, 0 better" in capsys.readouterr().out
    history = json.loads((tmp_path / "history.json").read_text())
    prefix = "stochastic/" if lost == "stochastic" else ""
    moved = {
        entry["name"].split("/sparsity=")[0]
        for entry in history
        if not entry["extra"].startswith(f"baseline {entry['value']:.6g};")
        and "/sparsity=" in entry["name"]
    }
    sources = ("mad@0.1", "random@0.1", "all_attacks@0.1", "worst_of@0.1")
    assert moved == {f"{prefix}return/magnitude/{source}" for source in sources}


def test_a_baseline_of_one_victim_is_no_baseline_of_two(folder, tmp_path, capsys):
    tables = Made(np.random.default_rng(0), methods=("magnitude",)).tables(
        np.random.default_rng(1), victims=("deterministic", "stochastic")
    )
    run = write_run(tmp_path / "both", tables)
    assert main([str(run), "--baseline", str(folder / "baseline")]) == 2
    assert "victim is ['deterministic'] there and ['deterministic', 'stochastic'] here" in (
        capsys.readouterr().err
    )


def test_an_update_makes_the_run_the_baseline_and_says_what_changed(folder, tmp_path, capsys):
    shutil.copytree(folder / "baseline", tmp_path / "baseline")
    capsys.readouterr()
    assert main([str(folder / "worse"), "--update", "--baseline", str(tmp_path / "baseline")]) == 0
    printed = capsys.readouterr().out
    assert "4 of 14 curves got worse" in printed and "return/magnitude/mad@0.1" in printed
    assert main([str(folder / "worse"), "--baseline", str(tmp_path / "baseline")]) == 0


def test_an_update_with_other_settings_names_them(folder, tmp_path, capsys):
    shutil.copytree(folder / "baseline", tmp_path / "baseline")
    assert main([str(folder / "walker"), "--update", "--baseline", str(tmp_path / "baseline")]) == 0
    printed = capsys.readouterr().out
    assert "setting env: hopper is now walker2d" in printed
    assert "not compared" in printed
    assert read_baseline(tmp_path / "baseline").settings["env"] == "walker2d"


def test_an_update_never_overwrites_something_else(folder, capsys):
    before = (folder / "run" / "experiment.json").read_bytes()
    assert main([str(folder / "worse"), "--update", "--baseline", str(folder / "run")]) == 2
    assert "holds something that is no baseline" in capsys.readouterr().err
    assert (folder / "run" / "experiment.json").read_bytes() == before


def test_it_writes_what_is_asked_for(folder, tmp_path):
    files = [tmp_path / "new" / name for name in ("junit.xml", "history.json", "summary.md")]
    options = zip(("--junit", "--json", "--summary"), map(str, files), strict=True)
    assert gate(folder, "worse", *(word for option in options for word in option)) == 1
    assert {file.name for file in (tmp_path / "new").iterdir()} == {
        *(file.name for file in files),
        "history-certificates.json",
    }
    assert files[0].read_text().startswith("<?xml")
    returns = json.loads(files[1].read_text())
    assert f"return/magnitude/mad@{EPS:g}/sparsity=0.3" in {entry["name"] for entry in returns}
    assert files[2].read_text().startswith("## Robustness gate FAILED: hopper")


def test_it_adds_to_the_summary_of_a_github_step(folder, tmp_path, monkeypatch):
    file = tmp_path / "step.md"
    file.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(file))
    assert gate(folder, "run") == 0
    assert file.read_text().startswith("before\n## Robustness gate passed: hopper")


def test_a_file_that_cannot_be_written_is_named(folder, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert gate(folder, "run", "--junit", str(tmp_path / "file" / "junit.xml")) == 2
    assert "cannot write" in capsys.readouterr().err
