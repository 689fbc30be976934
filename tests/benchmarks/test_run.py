"""The main job end to end on cartpole. The run that others are compared with is started as a person
starts it, in a process of its own; the others run here, because a process takes seconds to begin.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import jaxprune
from benchmarks import profile, run
from benchmarks.runtime.run_folder import read_table
from jaxprune.policy_io import save_policy
from tests.benchmarks.small_run import SMALL, THREE_METHODS, start
from tests.policies import drawn_policy

# Twice as many iterations, so that a trajectory finds three sparsities on its way.
WIDE = SMALL.replace("--unroll 64", "--unroll 32")
WIDE += " --methods magnitude,set,lamp/cubic --allocations global,erk"
WIDE += " --modes endpoint,trajectory --regimes ppo,sa_ppo --regulariser convex --kappa 0.3"
WIDE += " --controls narrow,rescaled --sparsity-grid 0,0.5,0.75 --attacks random --bounds path"
KERNELS = 4 * 64 + 64 * 64 + 64 * 2
Curve = tuple[str, str, str, str]  # regime, method, allocation, mode


Main = Callable[[str], int]


@pytest.fixture(scope="module")
def here() -> Iterator[Main]:
    """The program in this process, whose devices and signals stay as they are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run.devices, "configure", lambda **options: None)
        nobody = SimpleNamespace(install=lambda: None, boundary=lambda: None)
        patch.setattr(run, "Stopping", lambda clean: nobody)
        yield lambda words: run.main(words.split())


@pytest.fixture(scope="module")
def wide(here: Main, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two of everything that decides who is trained, and three sparsities."""
    folder = tmp_path_factory.mktemp("run") / "wide"
    assert here(f"{WIDE} --out {folder}") == 0
    return folder


FEW_SEEDS = "The run has 2 agents, and a statement about a method needs at least 5: use --seeds 10."


def curve_names(table: dict[str, np.ndarray]) -> list[Curve]:
    names = zip(
        *(table[x].tolist() for x in ("regime", "method", "allocation", "mode")), strict=True
    )
    return list(dict.fromkeys(names))


def rows_of(table: dict[str, np.ndarray], curve: Curve, sparsity: float | None = None):
    """Which rows are of one curve (and sparsity)."""
    pairs = zip(("regime", "method", "allocation", "mode"), curve, strict=True)
    rows = np.all([table[name] == value for name, value in pairs], axis=0)
    return rows if sparsity is None else rows & (table["sparsity"] == sparsity)


def warnings_in(report: str) -> list[str]:
    """The items below that heading."""
    section = report.split("## Warnings\n\n")[1].split("\n\n")[0]
    return [line.removeprefix("- ") for line in section.splitlines()]


def test_the_folder_explains_itself(small_run: Path):
    assert {p.name for p in small_run.iterdir()} == {
        "agents",
        "attacks.parquet",
        "certificates.parquet",
        "certificates.png",
        "cells.parquet",
        "diagnosis.parquet",
        "experiment.json",
        "regret.png",
        "report.html",
        "report.md",
        "returns.parquet",
        "returns.png",
        "seconds.parquet",
        "sparsity.parquet",
        "training.parquet",
        "training.png",
    }
    described = json.loads((small_run / "experiment.json").read_text())
    assert set(described["programs"]) == {"init", "train", "evaluate"}
    assert described["settings"]["env"] == "cartpole"
    report = (small_run / "report.md").read_text()
    assert report.count("|") > 100
    assert warnings_in(report) == [FEW_SEEDS]


def test_every_cell_of_the_grid_is_in_the_tables(small_run: Path):
    table = read_table(small_run, "returns")
    # 2 seeds x (1 dense + 3 methods x 20 sparsities) x 3 attacks x 4 episodes
    assert len(table["return"]) == 2 * 61 * 3 * 4
    assert np.isfinite(table["return"]).all()
    assert not table["diverged"].any()
    kernels = 4 * 64 + 64 * 64 + 64 * 2
    counts = table["sparsity_achieved"] * kernels
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-6)
    np.testing.assert_allclose(table["sparsity_achieved"], table["sparsity"], atol=0.5 / kernels)

    certificates = read_table(small_run, "certificates")
    # 122 cells x (4 global bounds x (D, TV, vacuity, value gap in two forms)
    # + the attack and crown x (D and TV, maximum and mean)
    # + crown's check, actions that stay, and floors of two returns, estimated and certain)
    assert len(certificates["value"]) == 122 * (4 * 5 + 2 * 4 + 2 + 4)
    assert not np.any(certificates["value"][certificates["quantity"] == "exceeded"])
    probabilities = certificates["value"][certificates["unit"] == "probability"]
    assert ((probabilities >= 0) & (probabilities <= 1)).all()


def test_training_is_on_record(small_run: Path):
    table = read_table(small_run, "training")
    iterations = -(-2048 // (8 * 64))
    assert len(table["kl"]) == (2 + 2 * 20) * iterations
    assert table["env_steps"].max() == iterations * 8 * 64
    assert np.isfinite(table["value_loss"]).all()
    assert not table["diverged"].any()
    micro = (table["method"] == "micro") & (table["iteration"] == iterations)
    np.testing.assert_allclose(
        table["sparsity_now"][micro], table["sparsity"][micro], atol=0.5 / (4 * 64 + 64 * 66)
    )


def test_the_folder_says_where_its_seconds_went(small_run: Path, tmp_path: Path, capsys):
    described, returns = (
        json.loads((small_run / "experiment.json").read_text()),
        read_table(small_run, "returns"),
    )
    lanes = described["lanes"]
    # What a mask after training leaves whole is the dense agent, and is not played once more.
    again = (returns["mode"] == "after") & (returns["sparsity"] == 0)
    assert again.any()
    assert lanes["counted"] == returns["length"][~again].sum() <= lanes["simulated"]
    assert profile.main([str(small_run)]) == 0
    told = capsys.readouterr().out
    rows = [line.strip("| ").split(" | ") for line in told.splitlines() if line.startswith("| ")]
    shares = {row[0]: float(row[3]) for row in rows if len(row) == 4 and row[1][0].isdigit()}
    assert set(shares) == {"train", "attack", "certify", "diagnose", "account", "all"}
    assert shares.pop("all") == 100 == pytest.approx(sum(shares.values()), abs=3)
    assert [row[0] for row in rows if len(row) == 7] == ["attack", "---", "none", "random", "mad"]
    assert f"in {described['compilations']} programs" in told

    (tmp_path / "experiment.json").write_text(json.dumps(described | {"cpu": None}))
    assert profile.main([str(tmp_path)]) == 2
    assert "does not say where its seconds went" in capsys.readouterr().err


def test_sparsity_zero_of_every_method_is_the_dense_agent(small_run: Path):
    table = read_table(small_run, "returns")

    def returns(method: str) -> np.ndarray:
        rows = (table["method"] == method) & (table["sparsity"] == 0)
        order = np.lexsort([table[k][rows] for k in ("episode", "seed", "attack")])
        return table["return"][rows][order]

    for method in ("magnitude", "random", "micro"):
        np.testing.assert_array_equal(returns(method), returns("none"))


def test_the_agents_that_were_saved_are_the_ones_in_the_table(small_run: Path):
    policy, masks = jaxprune.load_agents(small_run / "agents")
    assert policy.params.actor["layer_0"]["kernel"].shape == (2 + 2 * 20, 4, 64)
    removed = sum(
        (~masks["micro"].actor[f"layer_{i}"]["kernel"]).sum((1, 2)) for i in range(3)
    )  # cells of seed 0 by sparsity, then of seed 1
    kernels = 4 * 64 + 64 * 64 + 64 * 2
    expected = [round(0.05 * i * kernels) for i in range(20)]
    np.testing.assert_array_equal(removed, expected * 2)


def test_a_grid_of_40_compiles_as_many_programs_and_20_points_repeat(
    small_run: Path, tmp_path: Path
):
    forty = tmp_path / "forty"
    assert start(f"{THREE_METHODS} --sparsity-grid 0:0.975:40 --out {forty}").returncode == 0
    small, large = (json.loads((f / "experiment.json").read_text()) for f in (small_run, forty))
    assert small["compilations"] == large["compilations"] > 0
    assert set(small["programs"]) == set(large["programs"])


def test_every_curve_that_was_asked_for_is_in_the_tables(wide: Path):
    table, training = read_table(wide, "returns"), read_table(wide, "training")
    trained = [("none", "none", "dense"), ("narrow", "none", "endpoint")]
    for allocation in ("global", "erk"):
        trained.append(("set", allocation, "endpoint"))  # before training, so no trajectory
        for mode in ("endpoint", "trajectory"):
            trained.append(("lamp/cubic", allocation, mode))
    after = [("magnitude", "global", "after"), ("magnitude", "erk", "after")]
    after.append(("rescaled", "none", "after"))
    regimes = ("ppo", "sa_ppo")
    assert set(curve_names(table)) == {(r, *c) for r in regimes for c in trained + after}
    assert set(curve_names(training)) == {(r, *c) for r in regimes for c in trained}
    for curve in curve_names(table):
        levels = [0.0] if curve[1] == "none" else [0.0, 0.5, 0.75]
        for level in levels:  # 2 seeds, 2 attacks, 4 episodes
            assert rows_of(table, curve, level).sum() == 2 * 2 * 4, (curve, level)
        assert rows_of(table, curve).sum() == len(levels) * 16
    iterations = 2048 // (8 * 32)
    for curve in curve_names(training):  # of a trajectory only one agent per seed is trained
        agents = 2 if curve[1] == "none" or curve[3] == "trajectory" else 2 * 3
        assert rows_of(training, curve).sum() == agents * iterations, curve
    assert np.isfinite(table["return"]).all()


def test_sparsities_are_exact_and_controls_have_theirs(wide: Path):
    table = read_table(wide, "returns")
    for curve in curve_names(table):
        rows = rows_of(table, curve)
        asked, achieved = table["sparsity"][rows], table["sparsity_achieved"][rows]
        if curve[1] == "rescaled":
            assert not achieved.any()
        elif curve[1] == "narrow":  # whole units
            assert (np.abs(achieved - asked) < 0.02).all()
            assert not achieved[asked == 0].any()
        else:
            counts = np.round(asked * KERNELS)
            np.testing.assert_allclose(achieved * KERNELS, counts, atol=1e-3, err_msg=str(curve))
        nested = curve[1] in ("none", "magnitude")
        assert set(table["nested"][rows]) == {nested}, curve


def test_regimes_are_other_trainings_from_the_same_weights(wide: Path):
    table = read_table(wide, "training")
    robust = {x: table["robust"][table["regime"] == x] for x in ("ppo", "sa_ppo")}
    assert not np.array_equal(robust["ppo"], robust["sa_ppo"])
    dense = {
        x: table["value_loss"][rows_of(table, (x, "none", "none", "dense"))]
        for x in ("ppo", "sa_ppo")
    }
    assert dense["ppo"].shape == dense["sa_ppo"].shape
    assert not np.array_equal(dense["ppo"], dense["sa_ppo"])
    # The radius of the regulariser rises from 0: the first iteration is the same in both.
    first = (table["iteration"] == 1) & (table["mode"] == "dense")
    for name in ("episode_return", "episodes", "value_loss"):
        one, two = (table[name][first & (table["regime"] == x)] for x in ("ppo", "sa_ppo"))
        np.testing.assert_allclose(one, two, rtol=1e-4, err_msg=name)


def test_sparsity_zero_is_the_dense_agent_of_the_regime(wide: Path):
    """But for snapshots, taken before the end; what SET drops there grows back at once."""
    table = read_table(wide, "returns")

    def returns(curve: Curve) -> np.ndarray:
        part = rows_of(table, curve, 0.0)
        order = np.lexsort([table[k][part] for k in ("episode", "seed", "attack")])
        return table["return"][part][order]

    compared = [c for c in curve_names(table) if c[3] != "trajectory"]
    assert len(compared) == 2 * 9
    for curve in compared:
        dense = returns((curve[0], "none", "none", "dense"))
        np.testing.assert_array_equal(returns(curve), dense, err_msg=str(curve))
    assert not np.array_equal(*(returns((x, "none", "none", "dense")) for x in ("ppo", "sa_ppo")))


def test_the_table_of_sparsity_adds_up(wide: Path):
    table, returns = read_table(wide, "sparsity"), read_table(wide, "returns")
    assert set(curve_names(table)) == set(curve_names(returns))
    layers = [f"{network}/layer_{i}/kernel" for network in ("actor", "critic") for i in range(3)]
    lines = [*layers, "actor", "critic", "all"]
    cells = 2 * (2 + (2 + 2 + 4 + 2) * 3 * 2)
    assert table["layer"].tolist() == lines * cells
    size, kept = (table[name].reshape(cells, len(lines)) for name in ("size", "kept"))
    assert size[0].tolist() == [256, 4096, 128, 256, 4096, 64, KERNELS, 4416, 9155]
    assert (size == size[0]).all()
    for counts in (size, kept):
        np.testing.assert_array_equal(counts[:, :3].sum(1), counts[:, 6])
        np.testing.assert_array_equal(counts[:, 3:6].sum(1), counts[:, 7])
    np.testing.assert_array_equal(kept[:, 3:6], size[:, 3:6])  # the critic is not pruned
    achieved = table["sparsity_achieved"].reshape(cells, -1)[:, 0]
    np.testing.assert_allclose(KERNELS - kept[:, 6], achieved * KERNELS, atol=1e-3)
    # Beside kernels there are biases, and a narrow actor lacks those of its absent units.
    narrow = table["method"].reshape(cells, -1)[:, 0] == "narrow"
    gone = (size - kept)[:, [6, 8]]
    np.testing.assert_array_equal(gone[~narrow, 0], gone[~narrow, 1])
    assert (gone[narrow, 1] >= gone[narrow, 0]).all()
    share = table["layer_sparsity"].reshape(cells, -1)
    np.testing.assert_allclose(share, 1 - kept / size, atol=1e-9)
    compact = table["compact"].reshape(cells, -1)[:, 6]
    np.testing.assert_array_equal(compact[achieved == 0], 256 + 4096 + 128 + 64 + 64 + 2)
    # A narrow network's absent units are what compacting takes out.
    left = (kept[:, 8] - kept[:, 7] - 64 - 64 - 1)[narrow]
    np.testing.assert_array_equal(compact[narrow], left)


CURVES = ("magnitude erk", "lamp/cubic global (trajectory)", "set erk", "narrow", "rescaled")


def test_the_report_speaks_of_every_regime(wide: Path):
    report = (wide / "report.md").read_text()
    for regime in ("ppo", "sa_ppo"):
        assert f"\n- {regime} magnitude global: " in report
        for name in CURVES:
            assert f"### {regime} {name}\n" in report
    assert warnings_in(report) == [FEW_SEEDS]
    _, masks = jaxprune.load_agents(wide / "agents")
    assert "sa_ppo lamp-cubic erk (trajectory)" in masks


def test_a_policy_file_skips_training(here: Main, tmp_path: Path):
    file, out = tmp_path / "policy.npz", tmp_path / "out"
    save_policy(file, drawn_policy(4, 2, discrete=True))
    words = f"--env cartpole --policy {file} --sparsity-grid 0,0.5 --attacks random --bounds path"
    assert here(f"{words} --out {out}") == 0
    described = json.loads((out / "experiment.json").read_text())
    assert set(described["programs"]) == {"evaluate"}
    table = read_table(out, "returns")
    assert set(table["regime"]) == {"file"}
    assert set(table["seed"]) == {0}


def test_a_policy_file_is_trained_further_by_a_method_of_training(here: Main, tmp_path: Path):
    """Steps so small that where they began is still to be seen."""
    file, out = tmp_path / "policy.npz", tmp_path / "out"
    policy = drawn_policy(4, 2, discrete=True)
    save_policy(file, policy)
    words = f"{SMALL} --policy {file} --methods micro --learning-rate 1e-6 --bounds path"
    assert here(f"{words} --attacks random --sparsity-grid 0,0.5 --out {out}") == 0
    table, training = read_table(out, "returns"), read_table(out, "training")
    micro = ("ppo", "micro", "global", "endpoint")
    dense = [(regime, "none", "none", "dense") for regime in ("file", "ppo")]
    assert curve_names(table) == [*dense, micro]
    assert set(table["seed"][table["regime"] == "file"]) == {0}
    assert set(table["seed"][table["regime"] == "ppo"]) == {0, 1}
    assert curve_names(training) == [dense[1], micro]
    assert training["env_steps"].max() == 2048

    agents, _ = jaxprune.load_agents(out / "agents")
    kernels, given = (x.params.actor["layer_1"]["kernel"] for x in (agents, policy))
    np.testing.assert_array_equal(kernels[0], given)  # the file, then what came of it
    assert (np.abs(kernels[1:3] - given).max((1, 2)) > 0).all()
    for kernel in kernels[1:]:
        np.testing.assert_allclose(kernel[kernel != 0], given[kernel != 0], atol=1e-4)
    assert [int((kernel != 0).sum()) == 4096 for kernel in kernels] == [True] * 3 + [
        bool(i % 2 == 0) for i in range(4)
    ]


def in_one_line(error: str, named: str) -> None:
    assert error.count("\n") == 1
    assert error.startswith("error: ")
    assert named in error


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("--methods wanda --sparsity-grid 0,0.9", "sparsity 0.9 empties a layer"),
        ("--methods micro --modes trajectory --sparsity-grid 0:0.9:7", "7 sparsities"),
    ],
)
def test_what_no_network_can_reach_is_refused_before_training(
    words: str, named: str, here: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert here(f"{SMALL} {words} --out {tmp_path / 'out'}") == 2
    told = capsys.readouterr()
    in_one_line(told.err, named)
    assert told.out == ""  # no plan, no progress
    assert not list(tmp_path.iterdir())


def test_a_dry_run_writes_nothing(here: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert here(f"{SMALL} --methods magnitude,micro --dry-run --out {tmp_path / 'out'}") == 0
    assert not (tmp_path / "out").exists()
    told = capsys.readouterr().out
    for part in ("42 agents", "82 cells", "programs: init, train, evaluate", "min and"):
        assert part in told


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("--env hoper", "'hoper'"),
        ("--sparsity-grid 0:1.5:4", "'0:1.5:4'"),
        ("--policy nowhere.npz", "nowhere.npz"),
        ("--policy {hopper}", "cartpole"),
        ("--out {run}", "another experiment"),
        ("--shard auto", "finds no scheduler"),
        ("--mesh globe", "unknown mesh 'globe'"),
        ("--mesh global --shard 0/2", "leave out --shard and --engine"),
        ("--mesh global --env cartpole,acrobot", "computes one task, and 2 are given"),
        ("--require gpu", "require 'gpu' is not met, because JAX computes on a cpu"),
        ("--require xpu", "'xpu'"),
        ("--shard 0/2", "0/2 needs 2 blocks of seeds"),
        ("--out /proc/nowhere", "/proc/nowhere cannot be written"),
    ],
)
def test_bad_input_ends_in_one_line_with_status_2(
    words: str,
    named: str,
    here: Main,
    small_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    hopper = tmp_path / "hopper.npz"
    save_policy(hopper, drawn_policy(11, 3))
    before = contents(small_run)
    task = "" if "--env" in words else "--env cartpole "
    assert here(task + words.format(run=small_run, hopper=hopper)) == 2
    in_one_line(capsys.readouterr().err, named)
    assert contents(small_run) == before


def test_a_process_ends_with_that_status_too(tmp_path: Path):
    """Where it finds no others, which it looks for before it touches a device."""
    result = start(f"--env cartpole --mesh global --out {tmp_path / 'out'}")
    assert result.returncode == 2
    in_one_line(result.stderr, "mesh 'global' finds no other processes")
    assert not list(tmp_path.iterdir())
