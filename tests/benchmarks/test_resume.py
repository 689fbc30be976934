"""A run that is killed, stopped or damaged ends with the tables of one that was left alone."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.experiment import PRESETS
from benchmarks.experiment.design import expand
from benchmarks.runtime.preemption import RESTART
from benchmarks.stages import pipeline, train
from jaxprune.ppo import PPOConfig
from tests.probes import Drift
from tests.quiet import quiet_work

ROOT = Path(__file__).parents[2]
SMALL = "--preset smoke --steps 20480 --methods magnitude,micro --sparsity-grid 0,0.5 --episodes 4"
# Everything but the clock's.
TABLES = ("attacks", "cells", "certificates", "diagnosis", "returns", "sparsity", "training")
ENV = Drift()
TWO = replace(
    PRESETS["smoke"],
    methods=("magnitude",),
    attacks=("random", "mad"),
    sparsity_grid=(0.0, 0.5),
    seeds=2,
    chunk_seeds=1,
    episodes=4,
    ppo=PPOConfig(steps=320, num_envs=8, unroll=10, epochs=1, minibatches=1, hidden=(8,)),
).resolved(ENV)


def command(out: Path) -> list[str]:
    return [sys.executable, "-m", "benchmarks.run", *SMALL.split(), "--out", str(out)]


def finished(out: Path) -> float:
    """Run to the end; how long that took."""
    began = time.monotonic()
    result = subprocess.run(command(out), cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return time.monotonic() - began


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A run that was left alone, and how long it takes with its programs compiled."""
    path = tmp_path_factory.mktemp("undisturbed")
    finished(path / "first")
    return path / "second", finished(path / "second")


def assert_same(out: Path, other: Path) -> None:
    for name in TABLES:
        ours, theirs = ((x / f"{name}.parquet").read_bytes() for x in (out, other))
        assert ours == theirs, name
    names = {p.name for p in other.iterdir()}
    assert {p.name for p in out.iterdir()} == names
    assert not [name for name in names if name.startswith(".") or name == "chunks"]


def killed_after(seconds: float, out: Path, how: signal.Signals) -> int:
    """Start a run and end it after a while; its status."""
    process = subprocess.Popen(
        command(out), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    time.sleep(seconds)
    process.send_signal(how)
    began = time.monotonic()
    status = process.wait()
    assert time.monotonic() - began < 10
    return status


def test_killed_and_started_again(undisturbed: tuple[Path, float], tmp_path: Path):
    """Twice in one folder, at a third and at two thirds of what the run takes."""
    other, seconds = undisturbed
    for share in (0.35, 0.7):
        killed_after(share * seconds, tmp_path / "run", signal.SIGKILL)
    finished(tmp_path / "run")
    assert_same(tmp_path / "run", other)


@pytest.mark.slow
def test_killed_at_20_random_moments(undisturbed: tuple[Path, float], tmp_path: Path):
    other, seconds = undisturbed
    moments = random.Random(0)
    for i in range(20):
        out = tmp_path / str(i)
        killed_after(moments.uniform(0, seconds), out, signal.SIGKILL)
        finished(out)
        assert_same(out, other)


def together(commands: list[list[str]], environments: list[dict[str, str]]) -> None:
    """Run processes at once; all have to succeed."""
    running = [
        subprocess.Popen(words, cwd=ROOT, env=os.environ | env, stdout=subprocess.DEVNULL)
        for words, env in zip(commands, environments, strict=True)
    ]
    assert [process.wait() for process in running] == [0] * len(running)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["shards", "processes"])
def test_two_processes_at_once_write_what_one_does(how: str, tmp_path: Path):
    words = ["--chunk-seeds", "1"]
    one, two = tmp_path / "one", tmp_path / "two"
    subprocess.run(command(one) + words, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    if how == "shards":
        each = [["--shard", f"{i}/2"] for i in range(2)]
        told: list[dict[str, str]] = [{}, {}]
    else:
        each = [["--shard", "auto"], ["--shard", "auto"]]
        told = [{"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": str(i)} for i in range(2)]
    together([command(two) + words + mine for mine in each], told)
    unite = [sys.executable, "-m", "benchmarks.merge", str(two)]
    subprocess.run(unite, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    for name in TABLES:
        ours, theirs = ((x / f"{name}.parquet").read_bytes() for x in (two, one))
        assert ours == theirs, name


# Starts a program on so many devices.
ON_DEVICES = """
import sys
from benchmarks import run
from jaxprune import devices
count = int(sys.argv[1])
devices._usable_cores = lambda: count
sys.exit(run.main(sys.argv[2:]))
"""


def on_devices(count: int, out: Path, *more: str) -> list[str]:
    words = [*SMALL.split(), "--out", str(out), *more]
    return [sys.executable, "-c", ON_DEVICES, str(count), *words]


def started_together(out: Path) -> list[subprocess.Popen[bytes]]:
    """Two processes of two devices each, which are one mesh."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    told = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    words = on_devices(2, out, "--mesh", "global")
    return [
        subprocess.Popen(words, cwd=ROOT, env=os.environ | told | {"JAX_PROCESS_ID": str(i)})
        for i in range(2)
    ]


@pytest.mark.slow
def test_a_mesh_of_two_processes_writes_what_one_with_as_many_devices_does(tmp_path: Path):
    """Killed in the middle, and started again."""
    one, two = tmp_path / "one", tmp_path / "two"
    subprocess.run(on_devices(4, one), cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    killed = started_together(two)
    while len(list(two.glob("chunks/*.chunk"))) < 3:
        assert [process.poll() for process in killed] == [None, None]
        time.sleep(0.1)
    for process in killed:
        process.kill()
        process.wait()
    assert [process.wait() for process in started_together(two)] == [0, 0]
    assert_same(two, one)


@pytest.mark.slow
@pytest.mark.parametrize("told", [0, 1])
def test_sigterm_to_one_of_a_mesh_ends_it_soon(told: int, tmp_path: Path):
    processes = started_together(tmp_path / "run")
    while not list(tmp_path.glob("run/chunks/*.chunk")):
        assert [process.poll() for process in processes] == [None, None]
        time.sleep(0.1)
    processes[told].terminate()
    assert processes[told].wait(timeout=15) == RESTART
    for process in processes:
        process.kill()
        process.wait()


def test_sigterm_ends_it_soon_with_the_status_that_means_again(
    undisturbed: tuple[Path, float], tmp_path: Path
):
    other, _ = undisturbed
    out, chunks = tmp_path / "run", tmp_path / "run" / "chunks"
    process = subprocess.Popen(command(out), cwd=ROOT, stdout=subprocess.DEVNULL)
    while not list(chunks.glob("*.chunk")):  # before there is one, nothing could be lost
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == RESTART
    finished(tmp_path / "run")
    assert_same(tmp_path / "run", other)


def test_a_complete_run_computes_nothing_again(undisturbed: tuple[Path, float]):
    other, _ = undisturbed
    before = {p: p.stat().st_mtime_ns for p in other.glob("*.parquet")}
    result = subprocess.run(command(other), cwd=ROOT, capture_output=True, text=True)
    assert "is complete" in result.stdout
    assert {p: p.stat().st_mtime_ns for p in other.glob("*.parquet")} == before


# --- damage ---------------------------------------------------------------------------------------


def tables_of(folder: Path) -> tuple[dict, list[str]]:
    work = quiet_work(folder)
    return pipeline.run(expand(TWO), ENV, None, work).tables, work.chunks.damaged


def assert_equal(ours: dict, theirs: dict) -> None:
    for name in TABLES:
        for column, values in theirs[name].items():
            np.testing.assert_array_equal(ours[name][column], values, err_msg=f"{name} {column}")


def test_damaged_chunks_are_computed_again(tmp_path: Path):
    """A truncated one, one with a flipped bit, an empty one and a missing one of two blocks."""
    expected, _ = tables_of(tmp_path)
    files = sorted((tmp_path / "chunks").glob("*.chunk"))
    assert len(files) == 2 * (1 + 3 + 1 + 1 + 1)  # train, attack, certify, diagnose, account
    listed = pipeline.list_chunks(expand(TWO), range(2))
    chunks = quiet_work(tmp_path).chunks
    assert files == sorted(chunks.file(**what) for what in listed)
    content = [file.read_bytes() for file in files]
    files[0].write_bytes(content[0][:-20])
    files[3].write_bytes(content[3][:500] + bytes([content[3][500] ^ 1]) + content[3][501:])
    files[6].write_bytes(b"")
    files[9].unlink()
    found, damaged = tables_of(tmp_path)
    assert len(damaged) == 3
    assert_equal(found, expected)
    assert all(file.exists() for file in files)


def test_training_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Interrupted after every call of the learner, one call further each time."""
    expected, _ = tables_of(tmp_path / "undisturbed")
    monkeypatch.setattr(train, "KEEP_SECONDS", 0.0)

    class KilledError(Exception):
        pass

    def stop() -> None:
        raise KilledError

    interruptions = 0
    while interruptions < 100:
        work = quiet_work(tmp_path / "run", stop)
        try:
            found = pipeline.run(expand(TWO), ENV, None, work)
            break
        except KilledError:
            interruptions += 1
    else:
        pytest.fail("no end")
    # Two blocks: 3 states and 1 result of training, 3 attacks, 3 other stages each.
    assert interruptions == 2 * (3 + 1 + 3 + 3)
    assert_equal(found.tables, expected)
