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

from benchmarks.experiment.design import expand
from benchmarks.runtime.preemption import RESTART
from benchmarks.stages import pipeline, train
from tests.benchmarks.blocks import BLOCKS, ENV
from tests.benchmarks.small_run import ROOT, THREE_METHODS, command, start
from tests.quiet import quiet_work

SMALL = "--preset smoke --steps 20480 --methods magnitude,micro --sparsity-grid 0,0.5 --episodes 4"
# Everything but the clock's.
TABLES = ("attacks", "cells", "certificates", "diagnosis", "returns", "sparsity", "training")
TWO = replace(BLOCKS, victim=("deterministic",))


def finished(words: str, out: Path) -> float:
    """Run to the end; how long that took."""
    began = time.monotonic()
    result = start(f"{words} --out {out}")
    assert result.returncode == 0, result.stderr
    return time.monotonic() - began


def assert_same(out: Path, other: Path) -> None:
    for name in TABLES:
        ours, theirs = ((x / f"{name}.parquet").read_bytes() for x in (out, other))
        assert ours == theirs, name
    names = {p.name for p in other.iterdir()}
    assert {p.name for p in out.iterdir()} == names
    assert not [name for name in names if name.startswith(".") or name == "chunks"]


def started(words: str, out: Path) -> subprocess.Popen[bytes]:
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command(f"{words} --out {out}"), cwd=ROOT, **silent)


def ended_at(chunks: int, out: Path, how: signal.Signals) -> int:
    """Start a run and end it when it has written so many chunks; its status."""
    process = started(THREE_METHODS, out)
    while len(list(out.glob("chunks/*.chunk"))) < chunks:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(how)
    return process.wait(timeout=10)


def test_killed_stopped_and_started_again(small_run: Path, tmp_path: Path):
    """Each process goes on after the chunks of those before it, 7 in all.

    SIGTERM ends a run soon, with the status that means: start me again. The tables are those of
    another process that was given the same seed, to the last byte.
    """
    out = tmp_path / "run"
    assert ended_at(1, out, signal.SIGKILL) == -signal.SIGKILL
    assert ended_at(5, out, signal.SIGTERM) == RESTART
    finished(THREE_METHODS, out)
    assert_same(out, small_run)


@pytest.mark.slow
def test_killed_at_20_random_moments(tmp_path: Path):
    undisturbed = tmp_path / "undisturbed"
    finished(SMALL, tmp_path / "first")  # compiles
    seconds, moments = finished(SMALL, undisturbed), random.Random(0)
    for i in range(20):
        out = tmp_path / str(i)
        process = started(SMALL, out)
        time.sleep(moments.uniform(0, seconds))
        process.kill()
        process.wait()
        finished(SMALL, out)
        assert_same(out, undisturbed)


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
    words = f"{SMALL} --chunk-seeds 1"
    one, two = tmp_path / "one", tmp_path / "two"
    finished(words, one)
    if how == "shards":
        each = [["--shard", f"{i}/2"] for i in range(2)]
        told: list[dict[str, str]] = [{}, {}]
    else:
        each = [["--shard", "auto"], ["--shard", "auto"]]
        told = [{"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": str(i)} for i in range(2)]
    together([[*command(f"{words} --out {two}"), *mine] for mine in each], told)
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


def test_a_complete_run_computes_nothing_again(small_run: Path):
    before = {p: p.stat().st_mtime_ns for p in small_run.glob("*.parquet")}
    assert "is complete" in start(f"{THREE_METHODS} --out {small_run}").stdout
    assert {p: p.stat().st_mtime_ns for p in small_run.glob("*.parquet")} == before


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
