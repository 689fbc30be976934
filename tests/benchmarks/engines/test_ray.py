"""Ray: whoever computed what, and whoever was killed, the tables are those of a single process."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import psutil
import pytest

from benchmarks import run
from benchmarks.engines import ray as engines
from benchmarks.engines.process import prepared
from benchmarks.experiment import parse
from benchmarks.experiment.sharding import Shard, blocks_of
from benchmarks.runtime.run_folder import CHUNKS, read_json
from jaxprune.policy_io.addresses import as_path, files_below
from jaxprune.validation import InputError
from tests.benchmarks.test_resume import TABLES
from tests.stores import s3

ROOT = Path(__file__).parents[3]
SMALL = "--preset smoke --steps 20480 --methods magnitude --sparsity-grid 0,0.5 --episodes 4"
WORDS = [*SMALL.split(), "--attacks", "random,mad", "--seeds", "3", "--chunk-seeds", "1"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--engine rya", "engine 'rya'"),
        ("--engine ray --shard 0/3", "leave out --shard"),
        ("--engine ray --mesh global", "leave out --shard and --engine"),
        ("--engine ray --sink wandb", "sink 'wandb' is fed by one process"),
        ("--engine ray --task-cpus 0", "task_cpus"),
    ],
)
def test_an_engine_that_cannot_be_used_so_is_refused(options: str, words: str, capsys: Any):
    assert run.main([*WORDS, *options.split()]) == 2
    assert words in capsys.readouterr().err


def test_an_engine_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'jaxprune\[ray\]'"), engines.cluster():
        pass


def test_a_cluster_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch):
    class Ray:
        @staticmethod
        def init(address: str, **_: Any) -> None:
            raise ConnectionError(f"no cluster at {address}\nand much more")

    monkeypatch.setitem(sys.modules, "ray", Ray)
    for address, reason in (("127.0.0.1:1", ".*refused"), ("auto", "no cluster at auto")):
        monkeypatch.setenv("RAY_ADDRESS", address)
        named = rf"RAY_ADDRESS={address} \({reason}\): start that cluster"
        with pytest.raises(InputError, match=named), engines.cluster():
            pass


def test_a_worker_with_other_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Before it computes anything; devices are not configured again in this process."""
    monkeypatch.setattr(engines, "_configure", lambda cpus: None)
    asked, options = parse([*WORDS, "--out", str(tmp_path / "run")])
    with pytest.raises(InputError, match="require 'tpu' is not met"):
        engines.begin_task(asked, replace(options, require="tpu"), {})
    assert engines.begin_task(asked, options, {"command": "run"})
    folder = prepared(asked, options).folder
    file = folder.path / "experiment.json"
    folder.write_json(file.name, read_json(file) | {"code": "other", "device": "8 x TPU"})
    with pytest.raises(InputError, match=r"differs from the one that began .* in code, device"):
        engines.block_task(asked, options, engines.Shard(0, 3))
    assert not (folder.path / CHUNKS).exists()


# --- no worker idles ------------------------------------------------------------------------------


Span: TypeAlias = tuple[float, float]


def asleep(seconds: float) -> Span:
    """From when to when a task was at work."""
    began = time.monotonic()
    time.sleep(seconds)
    return began, time.monotonic()


def busy(spans: Sequence[Span]) -> float:
    """The share of the time of two workers in which they computed."""
    wall = max(end for _, end in spans) - min(began for began, _ in spans)
    return sum(end - began for began, end in spans) / (2 * wall)


@pytest.mark.slow
def test_no_worker_idles_while_blocks_are_left(record_property: Callable[[str, object], None]):
    """Eight blocks, one of them three times as long, on two workers: 100 % at best."""
    pytest.importorskip("ray", reason="ray, of the extra `ray`, is not installed")
    blocks = [3.0 if block != 3 else 9.0 for block in range(8)]
    shards = [[sum(blocks[i] for i in blocks_of(range(8), Shard(shard, 2)))] for shard in range(2)]
    with engines.cluster() as ray:
        cpus = int(ray.cluster_resources()["CPU"]) // 2
        _, options = parse([*WORDS, "--engine", "ray", "--task-cpus", str(cpus)])
        run = engines._Tasks(ray, options, lambda: None)
        run(asleep, [[1.0]] * 4)  # the workers have started
        queued = busy(run(asleep, [[block] for block in blocks]))
        static = busy(run(asleep, shards))
    record_property("busy", {"queue": queued, "shards": static})
    assert static == pytest.approx(30 / 36, abs=0.02)
    assert queued > 0.9


# --- a cluster ------------------------------------------------------------------------------------


# Starts a program on one device: the tasks have a CPU each.
ON_ONE_DEVICE = """
import os, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
os.execv(sys.executable, sys.argv[1:])
"""


# How often each store is tried, e.g. 20.
REPETITIONS = int(os.environ.get("JAXPRUNE_REPETITIONS", "1"))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a single process leaves."""
    pytest.importorskip("ray", reason="ray, of the extra `ray`, is not installed")
    out = tmp_path_factory.mktemp("alone") / "run"
    words = [sys.executable, "-m", "benchmarks.run", *WORDS, "--out", str(out)]
    command = [sys.executable, "-c", ON_ONE_DEVICE, *words]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return out


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Where nothing is yet."""
    if request.param == "local":
        yield tmp_path / "run"
    else:
        with s3() as (address, _):
            yield as_path(address) / "run"


def started(command: list[str], log: Path) -> subprocess.Popen:
    """A driver whose cluster computes."""
    with log.open("w") as file:
        driver = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
    until(lambda: tasks_of(driver), driver)
    return driver


def kill_workers(driver: subprocess.Popen, moments: random.Random, kills: int) -> int:
    """Kill workers at so many random moments; at how many there was one that computed."""
    killed = 0
    for _ in range(kills):
        time.sleep(moments.uniform(0, 6))
        with suppress(psutil.NoSuchProcess, IndexError):  # it has just ended, or there is none
            moments.choice(tasks_of(driver)).kill()
            killed += 1
    return killed


def tasks_of(driver: subprocess.Popen) -> list[psutil.Process]:
    """The workers of a driver's own cluster that compute; not the agents, which end their node."""
    with suppress(psutil.NoSuchProcess):
        below = psutil.Process(driver.pid).children(recursive=True)
        return [one for one in below if re.match(r"ray::\w+_tas", one.name())]  # cut by the kernel
    return []


def written(out: Path) -> int:
    return len(list((out / CHUNKS).glob("*.chunk")))


def workers(log: Path) -> list[int]:
    return [int(pid) for pid in re.findall(r"block_task pid=(\d+)", log.read_text())]


def until(reached: Any, process: subprocess.Popen) -> None:
    while not reached():
        assert process.poll() is None
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("repetition", range(REPETITIONS))
def test_kills_at_random_moments_lose_nothing(
    repetition: int,
    store: Path,
    alone: Path,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
):
    """Workers and once the driver; what is left is what a single process leaves."""
    moments = random.Random(repetition)
    words = [*WORDS, "--out", str(store), "--engine", "ray"]
    command = [sys.executable, "-m", "benchmarks.run", *words]
    first = started(command, tmp_path / "first.log")
    killed = kill_workers(first, moments, kills=moments.randint(1, 4))
    first.kill()
    record_property("driver", first.wait())
    again = started(command, tmp_path / "again.log")
    record_property("workers", killed + kill_workers(again, moments, kills=moments.randint(0, 1)))
    assert again.wait() == 0, (tmp_path / "again.log").read_text()
    for name in TABLES:
        ours, theirs = ((x / f"{name}.parquet").read_bytes() for x in (store, alone))
        assert ours == theirs, name
    left, expected = (
        {file.relative_to(run).parts[0] for file in files_below(run)} for run in (store, alone)
    )
    assert left == expected


@pytest.mark.slow
def test_a_killed_worker_and_a_killed_driver_lose_nothing(alone: Path, tmp_path: Path):
    out, log = tmp_path / "ray", tmp_path / "log"
    command = [sys.executable, "-m", "benchmarks.run", *WORDS, "--out", str(out)]
    command += ["--engine", "ray"]
    with log.open("w") as file:
        driver = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
        until(lambda: written(out) >= 2 and workers(log), driver)
        os.kill(workers(log)[0], signal.SIGKILL)
        before = written(out)
        until(lambda: written(out) >= before + 3, driver)
        driver.kill()
        driver.wait()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "resumed" in done.stdout, done.stderr
    for name in TABLES:
        ours, theirs = ((x / f"{name}.parquet").read_bytes() for x in (out, alone))
        assert ours == theirs, name
    assert {path.name for path in out.iterdir()} == {path.name for path in alone.iterdir()}
