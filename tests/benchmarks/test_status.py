"""How far a run is: counted from the names of its chunks, and timed by their times."""

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import status
from benchmarks.experiment import PRESETS
from benchmarks.experiment.design import expand
from benchmarks.experiment.sharding import ALONE, Shard, blocks_of, where
from benchmarks.runtime.checkpoints import Chunks
from benchmarks.runtime.run_folder import CHUNKS, RunFolder
from benchmarks.stages.pipeline import list_chunks
from jaxprune.policy_io.addresses import as_path
from tests.probes import Drift
from tests.stores import memory

FOUR = replace(PRESETS["smoke"], attacks=("mad",), seeds=4, chunk_seeds=1).resolved(Drift())
DESIGN = expand(FOUR)
# Of a block: train, the clean run, mad, certify, diagnose, account.
STAGES = ["train", "attack", "attack", "certify", "diagnose", "account"]


def begin(out: Path, shard: Shard, chunks: int) -> tuple[RunFolder, list[Path]]:
    """A folder in which so many chunks are written."""
    folder = RunFolder(where(out, shard), FOUR.settings())
    folder.begin({"shard": str(shard), "command": "run"})
    store, files = Chunks(folder.path / CHUNKS, folder.identity), []
    for what in list_chunks(DESIGN, blocks_of(DESIGN.blocks, shard))[:chunks]:
        store.put({"x": np.arange(2)}, **what)
        files.append(store.file(**what))
    return folder, files


def timed(folder: RunFolder, files: list[Path], seconds: list[float]) -> None:
    """Says that chunks took so long, one after the other."""
    for path, time in zip(
        [folder.path / "experiment.json", *files], np.cumsum([1e9, *seconds]), strict=True
    ):
        os.utime(path, (time, time))


def test_a_run_is_counted_by_stage_and_timed_by_stage(tmp_path: Path, capsys):
    """One block and the training of the second are there: the rest takes as long as they did."""
    folder, files = begin(tmp_path, ALONE, 7)
    timed(folder, files, [100, 10, 20, 5, 6, 7, 200])
    (part,) = status.read_parts(tmp_path)
    assert part.total == Counter({name: 4 * STAGES.count(name) for name in STAGES})
    assert part.done == Counter([*STAGES, "train"])
    seconds = status.seconds_per_chunk([part])
    assert seconds == {"train": 150, "attack": 15, "certify": 5, "diagnose": 6, "account": 7}
    left = 2 * 150 + 6 * 15 + 3 * (5 + 6 + 7)
    assert status.seconds_left(part, seconds) == left == 444
    assert status.main([str(tmp_path)]) == status.UNFINISHED
    said = capsys.readouterr().out
    assert "7 of 24 chunks done, 17 left, about 0:07:24" in said and "2/4" in said and "2/8" in said


def test_a_pause_between_two_processes_is_no_time_of_a_chunk(tmp_path: Path):
    folder, files = begin(tmp_path, ALONE, 3)
    timed(folder, files, [100, 10, 20])
    os.utime(folder.path / "experiment.json", (2e9, 2e9))  # it has begun again
    (part,) = status.read_parts(tmp_path)
    assert status.seconds_per_chunk([part]) == {"attack": 15}


def test_what_is_unknown_is_not_guessed(tmp_path: Path, capsys):
    begin(tmp_path, ALONE, 0)
    assert status.main([str(tmp_path)]) == status.UNFINISHED
    assert "0 of 24 chunks done, 24 left, no time known yet" in capsys.readouterr().out


def test_shards_are_counted_those_that_have_not_begun_too(tmp_path: Path, capsys):
    done, _ = begin(tmp_path, Shard(0, 3), 12)
    done.describe({"shard": "0/3", "files": {"returns.parquet": "sum"}})
    begin(tmp_path, Shard(2, 3), 2)
    parts = status.read_parts(tmp_path)
    assert [sum(part.total.values()) for part in parts] == [12, 6, 6]
    assert [sum(part.done.values()) for part in parts] == [12, 0, 2]
    assert status.main([str(tmp_path)]) == status.UNFINISHED
    assert "14 of 24 chunks done, 10 left" in capsys.readouterr().out


def test_nothing_left_is_0(tmp_path: Path, capsys):
    for index in range(2):
        folder, _ = begin(tmp_path, Shard(index, 2), 12)
        folder.describe({"shard": f"{index}/2", "files": {"returns.parquet": "sum"}})
    assert status.main([str(tmp_path)]) == 0
    assert "24 of 24 chunks done, 0 left\n" in capsys.readouterr().out


def test_a_run_of_another_version_is_complete_too(tmp_path: Path, capsys):
    folder, _ = begin(tmp_path, ALONE, 0)
    folder.describe({"settings": {"of": "old"}, "files": {"returns.parquet": "sum"}})
    assert status.main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == "complete: nothing is left to be computed\n"


def test_chunks_of_other_code_are_not_counted(tmp_path: Path):
    folder, _ = begin(tmp_path, ALONE, 2)
    other = Chunks(folder.path / CHUNKS, folder.identity | {"code": "other"})
    for what in list_chunks(DESIGN, DESIGN.blocks)[2:5]:
        other.put({"x": np.arange(2)}, **what)
    (part,) = status.read_parts(tmp_path)
    assert part.done == Counter(["train", "attack"])


def test_a_folder_without_a_run_is_named(tmp_path: Path, capsys):
    assert status.main([str(tmp_path)]) == 2
    assert "holds no run and no shards" in capsys.readouterr().err


@pytest.mark.parametrize("shard", [ALONE, Shard(1, 2)])
def test_a_bucket_is_read_like_a_folder(shard: Shard):
    with memory() as address:
        out = as_path(address) / "run"
        begin(out, shard, 3)
        part = status.read_parts(out)[shard.index]
        assert part.done == Counter(STAGES[:3]) and len(part.written) == 3
