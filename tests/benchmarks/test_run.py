"""The main job end to end on cartpole, as a person starts it: in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxprune
from benchmarks.store import read_table
from jaxprune.policy import init_policy

ROOT = Path(__file__).parents[2]
# As little training as still goes through every stage.
SMALL = "--env cartpole --steps 2048 --num-envs 8 --unroll 64 --epochs 1 --minibatches 2"
SMALL += " --episodes 4 --seeds 2"


def start(words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.run", *words.split()]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with every method and a grid of 20."""
    folder = tmp_path_factory.mktemp("run") / "twenty"
    result = start(f"{SMALL} --methods magnitude,random,micro --out {folder}")
    assert result.returncode == 0, result.stderr
    assert "sweet spots of micro" in result.stdout
    return folder


def test_the_folder_explains_itself(run: Path):
    assert {p.name for p in run.iterdir()} == {
        "agents",
        "certificates.parquet",
        "certificates.png",
        "experiment.json",
        "metrics.json",
        "regret.png",
        "report.md",
        "returns.parquet",
        "returns.png",
        "training.parquet",
    }
    described = json.loads((run / "experiment.json").read_text())
    assert set(described["programs"]) == {"init", "train", "evaluate"}
    assert described["settings"]["env"] == "cartpole"
    report = (run / "report.md").read_text()
    assert report.count("|") > 100
    assert "## Warnings" not in report


def test_every_cell_of_the_grid_is_in_the_tables(run: Path):
    table = read_table(run, "returns")
    # 2 seeds x (1 dense + 3 methods x 20 sparsities) x 3 attacks x 4 episodes
    assert len(table["return"]) == 2 * 61 * 3 * 4
    assert np.isfinite(table["return"]).all()
    assert not table["diverged"].any()
    kernels = 4 * 64 + 64 * 64 + 64 * 2
    counts = table["sparsity_achieved"] * kernels
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-6)
    np.testing.assert_allclose(table["sparsity_achieved"], table["sparsity"], atol=0.5 / kernels)

    certificates = read_table(run, "certificates")
    # 122 cells x (4 global bounds x (D, TV, vacuity, value gap in two forms)
    # + the attack and crown x (D and TV, maximum and mean)
    # + crown's check, actions that stay, and floors of two returns, estimated and certain)
    assert len(certificates["value"]) == 122 * (4 * 5 + 2 * 4 + 2 + 4)
    assert not np.any(certificates["value"][certificates["quantity"] == "exceeded"])
    probabilities = certificates["value"][certificates["unit"] == "probability"]
    assert ((probabilities >= 0) & (probabilities <= 1)).all()


def test_training_is_on_record(run: Path):
    table = read_table(run, "training")
    iterations = -(-2048 // (8 * 64))
    assert len(table["kl"]) == (2 + 2 * 20) * iterations
    assert table["env_steps"].max() == iterations * 8 * 64
    assert np.isfinite(table["value_loss"]).all()
    assert not table["diverged"].any()
    micro = (table["method"] == "micro") & (table["iteration"] == iterations)
    np.testing.assert_allclose(
        table["sparsity_now"][micro], table["sparsity"][micro], atol=0.5 / (4 * 64 + 64 * 66)
    )


def test_sparsity_zero_of_every_method_is_the_dense_agent(run: Path):
    table = read_table(run, "returns")

    def returns(method: str) -> np.ndarray:
        rows = (table["method"] == method) & (table["sparsity"] == 0)
        order = np.lexsort([table[k][rows] for k in ("episode", "seed", "attack")])
        return table["return"][rows][order]

    for method in ("magnitude", "random", "micro"):
        np.testing.assert_array_equal(returns(method), returns("none"))


def test_the_agents_that_were_saved_are_the_ones_in_the_table(run: Path):
    policy, masks = jaxprune.load_agents(run / "agents")
    assert policy.params.actor["layer_0"]["kernel"].shape == (2 + 2 * 20, 4, 64)
    removed = sum(
        (~masks["micro"].actor[f"layer_{i}"]["kernel"]).sum((1, 2)) for i in range(3)
    )  # cells of seed 0 by sparsity, then of seed 1
    kernels = 4 * 64 + 64 * 64 + 64 * 2
    expected = [round(0.05 * i * kernels) for i in range(20)]
    np.testing.assert_array_equal(removed, expected * 2)


def test_a_grid_of_40_compiles_as_many_programs_and_20_points_repeat(run: Path, tmp_path: Path):
    forty = tmp_path / "forty"
    words = f"{SMALL} --methods magnitude,random,micro --sparsity-grid 0:0.975:40 --out {forty}"
    assert start(words).returncode == 0
    small, large = (json.loads((f / "experiment.json").read_text()) for f in (run, forty))
    assert small["compilations"] == large["compilations"] > 0
    assert set(small["programs"]) == set(large["programs"])


def test_the_same_seed_gives_the_same_tables(run: Path, tmp_path: Path):
    again = tmp_path / "again"
    assert start(f"{SMALL} --methods magnitude,random,micro --out {again}").returncode == 0
    for name in ("returns", "certificates"):
        first, second = read_table(run, name), read_table(again, name)
        for column in first:
            np.testing.assert_array_equal(first[column], second[column], err_msg=column)


def test_a_policy_file_skips_training(tmp_path: Path):
    file, out = tmp_path / "policy.npz", tmp_path / "out"
    jaxprune.save_policy(file, init_policy(jax.random.key(0), 4, 2, discrete=True))
    result = start(f"--env cartpole --policy {file} --sparsity-grid 0,0.5 --out {out}")
    assert result.returncode == 0, result.stderr
    described = json.loads((out / "experiment.json").read_text())
    assert set(described["programs"]) == {"evaluate"}
    table = read_table(out, "returns")
    assert set(table["regime"]) == {"file"}
    assert set(table["seed"]) == {0}


def test_a_dry_run_writes_nothing(tmp_path: Path):
    out = tmp_path / "out"
    result = start(f"{SMALL} --methods magnitude,micro --dry-run --out {out}")
    assert result.returncode == 0
    assert not out.exists()
    for part in ("42 agents", "82 cells", "programs: init, train, evaluate", "min and"):
        assert part in result.stdout


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("--env hoper", "'hoper'"),
        ("--sparsity-grid 0:1.5:4", "'0:1.5:4'"),
        ("--policy nowhere.npz", "nowhere.npz"),
        ("--policy {hopper}", "cartpole"),
        ("--out {run}", "another experiment"),
    ],
)
def test_bad_input_ends_in_one_line_with_status_2(
    words: str, named: str, run: Path, tmp_path: Path
):
    hopper = tmp_path / "hopper.npz"
    jaxprune.save_policy(hopper, init_policy(jax.random.key(0), 11, 3))
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    task = "" if "--env" in words else "--env cartpole "
    result = start(task + words.format(run=run, hopper=hopper))
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: ")
    assert named in result.stderr
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before
