"""What a report says besides its numbers: episodes that diverged, and rewards that are clipped."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from benchmarks.analysis.curves import collect
from benchmarks.experiment import PRESETS
from benchmarks.experiment.design import expand
from benchmarks.report import write
from benchmarks.report.contents import gather, remains, units, warnings
from benchmarks.report.markdown import value_note
from benchmarks.report.rows import sparsity_rows
from benchmarks.runtime.run_folder import RunFolder, read_table
from benchmarks.stages import pipeline
from jaxprune.ppo import PPOConfig
from jaxprune.validation import InputError
from tests.probes import Breakdown
from tests.quiet import quiet_work

ENV = Breakdown()  # half of its episodes diverge
SMALL = replace(
    PRESETS["smoke"],
    methods=("magnitude",),
    attacks=("random",),
    bounds=("path",),
    sparsity_grid=(0.0, 0.5),
    seeds=1,
    episodes=8,
    ppo=PPOConfig(steps=320, num_envs=8, unroll=10, epochs=1, minibatches=1, hidden=(8,)),
).resolved(ENV)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an experiment whose simulator breaks, with its report."""
    path = tmp_path_factory.mktemp("report")
    folder = RunFolder(path / "run", SMALL.settings())
    results = pipeline.run(expand(SMALL), ENV, None, quiet_work(path))
    folder.describe({})
    for name, table in results.tables.items():
        folder.write_table(name, table)
    print_report(folder.path)
    return folder.path


def print_report(path: Path) -> str:
    """Write the report of a run; what a person reads on the terminal."""
    console = Console(width=1000, highlight=False)
    with console.capture() as printed:
        write.write_report(RunFolder(path, SMALL.settings()), console)
    return printed.get()


def found(path: Path, **changes: np.ndarray) -> list[str]:
    """The warnings of a run whose table of returns is changed."""
    returns = read_table(path, "returns") | changes
    training, certificates = (read_table(path, name) for name in ("training", "certificates"))
    return list(warnings(collect(returns), returns, training, certificates))


def test_diverged_episodes_are_counted_explained_and_placed(run: Path):
    """Episode i starts alike everywhere, so every cell loses the same ones."""
    table = read_table(run, "returns")
    np.testing.assert_array_equal(table["diverged"], table["return"] == 2)  # it breaks at step 3
    each = int(table["diverged"][:8].sum())
    assert 0 < each < 8
    warning = found(run)[0]
    assert warning == (
        f"{6 * each} of 48 episodes diverged: the simulator left the finite numbers and the "
        "episode ended there, with the return until then ("
        f"dense, clean: {each}; "
        f"magnitude, clean: {each} at sparsity 0, {each} at sparsity 0.5; "
        f"dense, random at eps 0.1: {each}; "
        f"magnitude, random at eps 0.1: {each} at sparsity 0, {each} at sparsity 0.5)"
    )


def test_diverged_training_episodes_are_counted_too(run: Path):
    training = read_table(run, "training")
    diverged, episodes = training["diverged"].sum(), training["episodes"].sum()
    assert 0 < diverged < episodes
    _, warning = found(run)
    assert warning.startswith(f"{diverged} of {episodes} training episodes diverged: the simulator")
    assert warning.endswith(f"(dense: {diverged})")


def test_the_warnings_are_in_the_report_and_on_the_terminal(run: Path):
    printed, text = print_report(run), (run / "report.md").read_text()
    listed = re.search(r"## Warnings\n\n((- .*\n)+)", text)
    assert listed is not None
    expected = [*found(run), gather(run).few_seeds]
    assert expected[-1].startswith("The run has 1 agent, and a statement about a method needs")
    assert listed[1].splitlines() == [f"- {line}" for line in expected]
    for line in expected:
        assert f"warning: {line}\n" in printed


def test_the_report_says_what_is_left_of_the_network(run: Path):
    """A line per sparsity: half of the kernel entries of the actor, and their part of all."""
    table = read_table(run, "sparsity")
    sizes = {str(n): int(x) for n, x in zip(table["layer"], table["size"], strict=True)}
    header, rows = sparsity_rows(remains(table, "magnitude"))
    assert header[:3] == ["asked", "achieved", "of all parameters"]
    assert [row[:2] for row in rows] == [["0", "0.0000"], ["0.5", "0.5000"]]
    half = sizes["actor"] / 2
    assert rows[0][2] == "0.000"
    assert rows[1][2] == f"{half / sizes['all']:.3f}"
    text = (run / "report.md").read_text()
    section = text.split("### What magnitude leaves of the network")[1].split("##")[0]
    for row in rows:
        assert "| " + " | ".join(row) + " |" in section
    assert "What none leaves" not in text


def test_nothing_is_said_where_nothing_diverged(run: Path):
    nothing = np.zeros(len(read_table(run, "returns")["return"]), bool)
    (only,) = found(run, diverged=nothing)
    assert "training episodes diverged" in only


def test_a_run_of_another_version_is_refused(run: Path, tmp_path: Path):
    old = tmp_path / "old"
    shutil.copytree(run, old)
    table = pq.read_table(old / "returns.parquet")
    pq.write_table(table.drop_columns("diverged"), old / "returns.parquet")
    with pytest.raises(InputError, match="lacks the column 'diverged': another version"):
        print_report(old)


def test_the_report_says_for_which_rewards_the_value_gap_holds(run: Path):
    certificates = read_table(run, "certificates")
    assert "The tables hold the value gap too." in (run / "report.md").read_text()
    rows = certificates["quantity"] == "value_gap"
    unit = "discounted return of rewards clipped to [-10, 10]"
    clipped = certificates | {
        "quantity": np.where(rows, "value_gap_clipped", certificates["quantity"]),
        "unit": np.where(rows, unit, certificates["unit"]),
    }
    note = value_note(units(clipped))
    assert "no a-priori bounds" in note
    assert unit in note
    old = {name: column[~rows] for name, column in certificates.items()}
    assert value_note(units(old)) == ""
