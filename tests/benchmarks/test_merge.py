"""Shards and their union: the tables of a single process, or an error that names the shard."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jaxprune
from benchmarks import merge
from benchmarks.experiment.design import expand
from benchmarks.experiment.sharding import ALONE, Shard
from benchmarks.runtime.run_folder import SHARDS, RunFolder
from benchmarks.stages import pipeline
from benchmarks.stages.results import finish
from jaxprune.validation import InputError
from tests.benchmarks.blocks import BLOCKS, ENV
from tests.quiet import quiet_work

THREE = replace(BLOCKS, seeds=3, victim=("stochastic", "deterministic"))


def leave(path: Path, shard: Shard, work: Any, settings: dict[str, Any] | None = None) -> None:
    """What benchmarks.run leaves behind, without its report."""
    folder = RunFolder(path, settings or THREE.settings())
    facts = {"command": f"run --shard {shard}", "shard": str(shard), "seconds": 1.0, "stages": {}}
    folder.begin(facts)
    finish(
        folder, pipeline.run(expand(THREE), ENV, None, work, shard), facts, is_shard=shard != ALONE
    )


def leave_all(path: Path) -> Path:
    """`whole`, and `shards/0-of-2` and `shards/1-of-2` of the same experiment."""
    leave(path / "whole", ALONE, quiet_work(path / "work"))
    for i in range(2):
        leave(path / SHARDS / f"{i}-of-2", Shard(i, 2), quiet_work(path / f"work{i}"))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return leave_all(tmp_path_factory.mktemp("merge"))


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    """A copy of the shards that a test may break."""
    shutil.copytree(made / SHARDS, tmp_path / "run" / SHARDS)
    return tmp_path / "run"


def unite(out: Path, *names: str) -> None:
    merge.merge(out, [out / SHARDS / name for name in names])


def change(folder: Path, **changes: Any) -> None:
    file = folder / "experiment.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_the_union_is_what_one_process_writes(made: Path, out: Path):
    assert merge.main([str(out)]) == 0
    tables = {p.name for p in (made / "whole").glob("*.parquet")}
    assert len(tables) == 8
    for name in tables - {"seconds.parquet"}:
        assert (out / name).read_bytes() == (made / "whole" / name).read_bytes(), name
    (ours, our_masks), (theirs, their_masks) = (
        jaxprune.load_agents(x / "agents") for x in (out, made / "whole")
    )
    assert list(our_masks) == list(their_masks) == ["magnitude", "micro", "none"]
    jax.tree.map(np.testing.assert_array_equal, (ours, our_masks), (theirs, their_masks))
    assert (out / "report.md").exists()
    described = json.loads((out / "experiment.json").read_text())
    assert described["seconds"] == 2 and len(described["merged"]) == 2


def test_the_table_of_cells_finds_policy_and_mask(made: Path):
    """Their sparsity by the masks is that of the table, and seeds have agents of their own."""
    policy, masks = jaxprune.load_agents(made / "whole" / "agents")
    table = merge.read_table(made / "whole", "cells")
    kernels = ("layer_0", "layer_1")
    for i, curve in enumerate(table["curve"]):
        kept = [masks[curve].actor[k]["kernel"][table["index"][i]] for k in kernels]
        removed = 1 - np.mean(np.concatenate([x.ravel() for x in kept]))
        assert removed == pytest.approx(table["sparsity_achieved"][i])
    assert len(policy.params.log_std) == table["agent"].max() + 1
    dense = table["mode"] == "dense"
    weights = policy.params.actor["layer_0"]["kernel"][table["agent"][dense]]
    assert len({w.tobytes() for w in weights}) == dense.sum() == 3
    after = table["mode"] == "after"
    owner = dict(zip(table["seed"][dense], table["agent"][dense], strict=True))
    assert [owner[s] for s in table["seed"][after]] == table["agent"][after].tolist()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "holds no shards"),
        (("0-of-2",), "shards 1/2 are missing"),
        (("0-of-2", "0-of-2"), "are both shard 0/2"),
        (("nowhere",), r"experiment\.json is missing"),
    ],
)
def test_a_set_that_is_not_complete(out: Path, names: tuple[str, ...], message: str):
    with pytest.raises(InputError, match=message):
        unite(out, *names)
    assert [p.name for p in out.iterdir()] == [SHARDS]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": THREE.settings() | {"seeds": 9}}, r"mixed: they differ in seeds \(3 and 9\)"),
        ({"code": "other"}, "mixed: they differ in code"),
        ({"versions": {"jax": "0"}}, r"mixed: .*jax \(.* and 0\)"),
        ({"shard": "1/3"}, "unite shards of one count"),
        ({"files": {}}, "1-of-2 is not finished.*run --shard 1/2"),
    ],
)
def test_shards_of_different_runs(out: Path, changes: dict[str, Any], message: str):
    change(out / SHARDS / "1-of-2", **changes)
    with pytest.raises(InputError, match=message):
        unite(out, "0-of-2", "1-of-2")
    assert [p.name for p in out.iterdir()] == [SHARDS]


@pytest.mark.parametrize("name", ["returns.parquet", "agents.npz"])
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "flipped"])
def test_a_damaged_file_is_named_with_what_to_do(out: Path, name: str, damage: str):
    file = out / SHARDS / "0-of-2" / name
    content = file.read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]
    file.write_bytes({"empty": b"", "truncated": content[:-9]}.get(damage, flipped))
    if damage == "missing":
        file.unlink()
    with pytest.raises(InputError, match=f"{name} is missing or damaged.*command again"):
        unite(out, "0-of-2", "1-of-2")


def test_a_run_that_is_no_shard(made: Path, out: Path):
    with pytest.raises(InputError, match=r"is shard 0/1.*unite shards of one count"):
        merge.merge(out, [out / SHARDS / "0-of-2", made / "whole"])
