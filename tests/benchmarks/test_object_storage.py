"""Runs on object stores: the tables of a local run, byte by byte, or an error with the address."""

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jaxprune
from benchmarks import merge
from benchmarks.experiment import Experiment, parse
from benchmarks.experiment.design import expand
from benchmarks.experiment.sharding import ALONE, Shard, check_partition
from benchmarks.gate import __main__ as gate
from benchmarks.report import __main__ as report
from benchmarks.report.sinks import make_sink
from benchmarks.runtime.atomic import write_whole
from benchmarks.runtime.checkpoints import Chunks, Work
from benchmarks.runtime.run_folder import SHARDS, RunFolder, checksum
from benchmarks.stages import pipeline
from jaxprune import load_policy
from jaxprune.policy_io.addresses import (
    as_path,
    contents,
    copy_folder,
    files_below,
    reaching,
    remove_folder,
)
from jaxprune.validation import InputError
from tests.benchmarks import many_chunks
from tests.benchmarks.blocks import ENV
from tests.benchmarks.made_up_runs import Made, write_run
from tests.benchmarks.test_merge import THREE, leave, leave_all
from tests.benchmarks.test_resume import SMALL, TABLES
from tests.policies import drawn_policy
from tests.quiet import Silent, quiet_work
from tests.stores import KEYS, Memory, memory, s3

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3() as (address, _):
        yield address


@pytest.fixture(params=["memory", "s3"])
def bucket(request: pytest.FixtureRequest) -> Iterator[Path]:
    """An empty folder in a bucket."""
    if request.param == "memory":
        with memory() as address:
            yield as_path(address) / "folder"
    else:
        folder = as_path(request.getfixturevalue("server")) / request.node.originalname
        yield folder
        remove_folder(folder)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `whole`, and the two shards of the same experiment."""
    return leave_all(tmp_path_factory.mktemp("local"))


# --- paths ----------------------------------------------------------------------------------------


def test_a_folder_of_a_bucket_is_used_like_a_local_one(bucket: Path):
    assert not bucket.exists() and checksum(bucket / "a") is None
    remove_folder(bucket)  # not there, and no error
    for name in ("a", "deep/er/b"):
        write_whole(bucket / name, lambda file: file.write_bytes(b"content"))
    assert bucket.is_dir() and (bucket / "a").read_bytes() == b"content"
    assert files_below(bucket) == [bucket / "a", bucket / "deep/er/b"]
    assert sorted(path.name for path in bucket.iterdir()) == ["a", "deep"]
    write_whole(bucket / "a", lambda file: file.write_bytes(b"other"))
    assert (bucket / "a").read_bytes() == b"other"
    remove_folder(bucket / "deep")
    assert files_below(bucket) == [bucket / "a"]


def test_a_folder_has_the_checksum_of_its_copy(bucket: Path, tmp_path: Path):
    (tmp_path / "deep").mkdir()
    for name in ("b", "a", "deep/c"):
        (tmp_path / name).write_text(name)
    copy_folder(tmp_path, bucket)
    assert checksum(bucket) == checksum(tmp_path)
    copy_folder(bucket, tmp_path / "back")
    assert checksum(tmp_path / "back") == checksum(bucket)


def test_what_fails_to_be_written_leaves_the_old_object(bucket: Path):
    write_whole(bucket / "a", lambda file: file.write_bytes(b"old"))

    def fail(file: Path) -> None:
        file.write_bytes(b"half of the n")
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        write_whole(bucket / "a", fail)
    assert files_below(bucket) == [bucket / "a"] and (bucket / "a").read_bytes() == b"old"


def test_whatever_a_client_raises_names_the_address():
    with pytest.raises(OSError, match=r"odd: 's3://bucket/x'"), reaching(as_path("s3://bucket/x")):
        raise RuntimeError("odd\nand long")
    with pytest.raises(FileNotFoundError), reaching(Path("x")):
        raise FileNotFoundError("no bucket")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ftp://host/run", "is a ftp address: give a local path or gs://, s3://"),
        ("file:///run", "is a file address"),
        ("memory://run", "is a memory address"),
        ("s3://bucket/run*", "holds a wildcard"),
    ],
)
def test_an_address_that_nobody_opens_is_refused(text: str, words: str):
    with pytest.raises(InputError, match=words):
        as_path(text)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch):
    def absent(protocol: str) -> None:
        raise ImportError

    monkeypatch.setattr("fsspec.get_filesystem_class", absent)
    with pytest.raises(InputError, match=r"pip install 'jaxprune\[cloud\]'"):
        as_path("s3://bucket/run")


# --- runs -----------------------------------------------------------------------------------------


def test_chunks_come_back_and_damaged_ones_do_not(bucket: Path):
    arrays = {"numbers": np.arange(3.0), "names": np.array(["a", "b"])}
    Chunks(bucket, {}).put(arrays, stage="train", block=0)
    chunks = Chunks(bucket, {})
    held = chunks.get(stage="train", block=0)
    assert held is not None and held["names"].tolist() == ["a", "b"]
    (file,) = bucket.glob("*.chunk")
    write_whole(file, lambda to: to.write_bytes(b"{}\n"))
    assert chunks.get(stage="train", block=0) is None and chunks.damaged == ["train 0"]
    assert not files_below(bucket)
    chunks.put(arrays, stage="train", block=0)
    chunks.clear()
    assert not files_below(bucket)


def test_chunks_are_listed_once_and_each_is_read_once(monkeypatch: pytest.MonkeyPatch):
    """Whatever their number: the time that a resumed run takes to read them is linear in it."""
    asked: Counter[str] = Counter()

    def counted(name: str) -> Any:
        real = getattr(Memory, name)

        def request(*words: Any, **options: Any) -> Any:
            asked[name] += 1
            return real(*words, **options)

        return request

    with memory() as address:
        work = Work(Chunks(as_path(address) / "chunks", {}), Silent())
        design = expand(THREE)
        first = pipeline.run(design, ENV, None, work).tables
        for name in ("cat_file", "find", "ls"):
            monkeypatch.setattr(Memory, name, counted(name))
        again = pipeline.run(design, ENV, None, work).tables
        chunks = pipeline.list_chunks(design, design.blocks)
    assert asked["cat_file"] == len(chunks) and asked["find"] == 1
    assert asked["ls"] <= 1 + len(design.blocks)  # of the listing, and of what training leaves
    np.testing.assert_array_equal(first["returns"]["return"], again["returns"]["return"])


def test_an_object_of_s3_is_read_by_one_request(server: str, monkeypatch: pytest.MonkeyPatch):
    """Its client would ask for the size of each one first."""
    s3fs, asked = pytest.importorskip("s3fs"), []
    chunks = Chunks(as_path(server) / "requests", {})
    for block in range(5):
        chunks.put({"x": np.arange(3)}, block=block)
    real = s3fs.S3FileSystem._call_s3

    async def counted(self: Any, method: str, *words: Any, **options: Any) -> Any:
        asked.append(method)
        return await real(self, method, *words, **options)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", counted)
    with chunks.listed([{"block": block} for block in range(6)]) as absent:
        assert absent == [{"block": 5}]
        assert all(chunks.get(block=block) for block in range(5))
    assert Counter(asked)["get_object"] == 5 and len(asked) <= 5 + 2  # and of the listing


def test_shards_in_a_bucket_unite_to_the_tables_of_one_local_process(local: Path, bucket: Path):
    copy_folder(local / SHARDS, bucket / SHARDS)
    with pytest.raises(InputError, match="this is shard 0/3"):
        check_partition(bucket, Shard(0, 3))
    assert merge.main([str(bucket)]) == 0
    for name in TABLES:
        ours, theirs = ((x / f"{name}.parquet").read_bytes() for x in (bucket, local / "whole"))
        assert ours == theirs, name
    agents = [jaxprune.load_agents(path / "agents") for path in (bucket, local / "whole")]
    jax.tree.map(np.testing.assert_array_equal, *agents)
    assert b"<html" in (bucket / "report.html").read_bytes()
    assert not [path for path in files_below(bucket) if "partial" in path.name]


def test_a_whole_run_in_a_bucket_is_complete_or_names_what_is_damaged(local: Path, bucket: Path):
    leave(bucket, ALONE, quiet_work(local / "work"))
    folder = RunFolder(bucket, THREE.settings())
    assert folder.missing() == []
    assert report.main([str(bucket)]) == 0 and (bucket / "report.md").exists()
    for file in (bucket / "returns.parquet", files_below(bucket / "agents")[0]):
        write_whole(file, lambda to: to.write_bytes(b"x"))
    assert folder.missing() == [f"{x} is missing or damaged" for x in ("returns.parquet", "agents")]
    with pytest.raises(InputError, match="holds another experiment"):
        RunFolder(bucket, {"seeds": 7})


def test_a_baseline_in_a_bucket_gates_a_run_in_a_bucket(bucket: Path, tmp_path: Path):
    made = Made(np.random.default_rng(0), methods=("magnitude",))
    run = write_run(tmp_path / "run", made.tables(np.random.default_rng(1)))
    copy_folder(run, bucket / "run")
    words = ["--baseline", str(bucket / "baseline"), str(bucket / "run")]
    assert gate.main([*words, "--update"]) == 0
    assert gate.main(words) == 0
    assert {path.name for path in (bucket / "baseline").iterdir()} == {
        "experiment.json",
        "returns.parquet",
        "certificates.parquet",
    }


def test_a_policy_of_a_bucket_is_the_local_one(bucket: Path, tmp_path: Path):
    policy = drawn_policy(2, 2, (4,))
    jaxprune.save_policy(tmp_path / "policy.npz", policy)
    copy_folder(tmp_path, bucket)
    words = ["--preset", "smoke", "--policy", str(bucket / "policy.npz")]
    experiment, _ = parse(words)
    assert experiment.policy == bucket / "policy.npz"
    jax.tree.map(np.testing.assert_array_equal, load_policy(experiment.policy), policy)
    settings = experiment.settings()
    assert settings["policy_sha256"] == checksum(tmp_path / "policy.npz")
    assert Experiment.from_settings(settings).policy == bucket / "policy.npz"
    with pytest.raises(InputError, match="no policy file at"):
        load_policy(bucket / "other.npz")


# --- bad input ------------------------------------------------------------------------------------


def test_a_bucket_that_is_not_there_is_named_and_not_made(server: str):
    address = server.replace("bucket", "nowhere")
    with pytest.raises(InputError, match=r"nowhere/run cannot be written \(The specified bucket"):
        RunFolder(as_path(address) / "run", {}).begin({})
    for main, words in ((merge.main, []), (gate.main, ["--baseline", address])):
        assert main([f"{address}/run", *words]) == 2
    assert not as_path(address).exists()


def test_a_bucket_that_refuses_writing_loses_nothing():
    with memory() as address:
        chunks = Chunks(as_path(address) / "chunks", {})
        chunks.put({"x": np.arange(3)}, stage="train")
        Memory.puts = 0
        with pytest.raises(PermissionError, match=r"Forbidden: 'gs://bucket/chunks"):
            chunks.put({"x": np.arange(4)}, stage="attack")
        with pytest.raises(InputError, match=r"gs://bucket/run cannot be written \(Forbidden\)"):
            RunFolder(as_path(address) / "run", {}).begin({})
        assert chunks.get(stage="train") is not None and chunks.get(stage="attack") is None


def test_a_store_that_nobody_answers_at_is_named(monkeypatch: pytest.MonkeyPatch, capsys):
    def silent(path: Any) -> bool:
        raise RuntimeError("Could not connect to the endpoint")

    with memory() as address:
        monkeypatch.setattr(Memory, "exists", lambda self, path: silent(path))
        assert merge.main([f"{address}/run"]) == 2
    assert "'gs://bucket/run' cannot be reached (Could not connect" in capsys.readouterr().err


def test_missing_credentials_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    s3fs = pytest.importorskip("s3fs", reason="s3fs, of the extra `cloud`, is not installed")
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3fs.S3FileSystem.clear_instance_cache()  # what was told other credentials
    with pytest.raises(OSError, match=r"Unable to locate credentials: 's3://bucket/run/x'"):
        contents(as_path("s3://bucket/run/x"))
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_sink_of_files_needs_a_local_folder():
    with memory() as address, pytest.raises(InputError, match="gs://bucket is an address"):
        make_sink("tensorboard", as_path(address), {})


# --- the whole program ----------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_in_the_bucket(tmp_path: Path):
    """With the report of a local one, and nothing left but its files."""
    words = [sys.executable, "-m", "benchmarks.run", *SMALL.split(), "--out"]
    subprocess.run([*words, str(tmp_path / "run")], cwd=ROOT, check=True, capture_output=True)
    with s3() as (address, told):
        bucket = as_path(address)
        command, env = [*words, f"{address}/run"], os.environ | told
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL)
        while len(list((bucket / "run" / "chunks").glob("*.chunk"))) < 3:
            assert process.poll() is None
            time.sleep(0.1)
        process.kill()
        process.wait()
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
        assert done.returncode == 0 and "resumed" in done.stdout, done.stderr
        ours, theirs = (
            {x.relative_to(run).as_posix() for x in files_below(run) if "agents" not in x.parts}
            for run in (bucket / "run", tmp_path / "run")
        )
        assert ours == theirs
        for name in TABLES:
            table = f"{name}.parquet"
            left, right = ((x / table).read_bytes() for x in (bucket / "run", tmp_path / "run"))
            assert left == right, name


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["local", "s3"])
def test_ten_thousand_chunks_unite_in_little_memory(
    kind: str, tmp_path: Path, record_property: Callable[[str, object], None]
):
    """In 2 GiB; the seconds are told, not tested."""
    with s3() as (address, told):
        out, env = f"{address}/run" if kind == "s3" else str(tmp_path / "run"), os.environ | told
        make = [sys.executable, "-m", "tests.benchmarks.many_chunks", out, "278"]
        subprocess.run(make, cwd=ROOT, env=env, check=True, capture_output=True)
        assert len(files_below(as_path(out) / "chunks")) == 10_008
        began, unite = time.monotonic(), [sys.executable, "-m", "benchmarks.run"]
        process = subprocess.Popen(
            [*unite, *many_chunks.words(out, 278)], cwd=ROOT, env=env, stdout=subprocess.DEVNULL
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        record_property("seconds", round(time.monotonic() - began))
        record_property("GiB", used.ru_maxrss / 2**20)
        assert used.ru_maxrss < 2 * 2**20
