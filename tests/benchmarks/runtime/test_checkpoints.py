"""Chunks: what is kept comes back as it was, and what is damaged does not come back at all."""

import errno
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.runtime import checkpoints
from benchmarks.runtime.arrays import decoded, encoded, packed, skeleton, unpacked
from benchmarks.runtime.atomic import sweep, write_whole
from benchmarks.runtime.checkpoints import Chunks, OthersChunks, Work, env_steps
from jaxprune.rollout import Episode

ARRAYS = {
    "numbers": np.array([1.5, np.nan, -0.0, np.inf]),
    "names": np.array(["", "mad", "Ä, b", "mad"]),
    "flags": np.array([True, False]),
    "empty": np.zeros((0, 3), np.float32),
    "one": np.array(7),
    "repeated": np.broadcast_to([1.0, 2.0], (3, 2)),
    "turned": np.arange(6).reshape(2, 3).T,
}


def same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    """Bit by bit, with types and shapes."""
    assert first.keys() == second.keys()
    return all(
        first[k].dtype.kind == second[k].dtype.kind
        and first[k].shape == second[k].shape
        and (first[k].tolist() == second[k].tolist() or first[k].tobytes() == second[k].tobytes())
        for k in first
    )


def file_of(chunks: Chunks) -> Path:
    (file,) = chunks.path.glob("*.chunk")
    return file


def test_a_chunk_comes_back_as_it_was(tmp_path: Path):
    chunks = Chunks(tmp_path / "chunks", {"settings": {"seed": 1}})
    assert chunks.get(stage="attack", eps=0.1) is None
    chunks.put(ARRAYS, stage="attack", eps=0.1)
    again = Chunks(tmp_path / "chunks", {"settings": {"seed": 1}})
    held = again.get(stage="attack", eps=0.1)
    assert held is not None and same(held, ARRAYS)
    assert again.get(stage="attack", eps=0.2) is None
    again.drop(stage="attack", eps=0.1)
    assert chunks.get(stage="attack", eps=0.1) is None


def test_another_identity_has_other_chunks(tmp_path: Path):
    Chunks(tmp_path, {"code": "a"}).put(ARRAYS, stage="train")
    assert Chunks(tmp_path, {"code": "b"}).get(stage="train") is None
    assert Chunks(tmp_path, {"code": "a"}).get(stage="train") is not None


@pytest.mark.parametrize("damage", ["empty", "truncated", "header"])
def test_a_damaged_chunk_is_absent_and_named(tmp_path: Path, damage: str):
    chunks = Chunks(tmp_path, {})
    chunks.put(ARRAYS, stage="certify", eps=0.5)
    content = file_of(chunks).read_bytes()
    broken = {"empty": b"", "truncated": content[:-1], "header": b"{" + content}[damage]
    file_of(chunks).write_bytes(broken)
    assert chunks.get(stage="certify", eps=0.5) is None
    assert chunks.damaged == ["certify 0.5"]
    chunks.put(ARRAYS, stage="certify", eps=0.5)
    assert chunks.get(stage="certify", eps=0.5) is not None


def test_processes_agree_on_which_chunks_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The first of them decides, and it alone writes."""
    chunks = OthersChunks(tmp_path, {})
    chunks.put(ARRAYS, stage="train")
    assert not list(tmp_path.iterdir())
    Chunks(tmp_path, {}).put(ARRAYS, stage="train")
    chunks.drop(stage="train")
    assert chunks.get(stage="train") is not None
    monkeypatch.setattr(checkpoints, "agreed", lambda held: not held)
    assert chunks.get(stage="train") is None
    with pytest.raises(FileNotFoundError, match="give an --out that all processes share"):
        chunks.get(stage="attack")


def test_no_flipped_bit_goes_unnoticed(tmp_path: Path):
    """One at each of 300 places: nothing else than what was written comes back."""
    chunks = Chunks(tmp_path, {})
    chunks.put(ARRAYS, stage="diagnose")
    file, content = file_of(chunks), file_of(chunks).read_bytes()
    for place in np.linspace(0, len(content) - 1, 300).astype(int):
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(place) % 8
        file.write_bytes(flipped)
        held = chunks.get(stage="diagnose")
        assert held is None or same(held, ARRAYS)
    assert len(chunks.damaged) > 290


def test_the_run_may_stop_after_every_chunk_and_the_chunk_stays(tmp_path: Path):
    class EnoughError(Exception):
        pass

    def stop() -> None:
        raise EnoughError

    with pytest.raises(EnoughError):
        Chunks(tmp_path, {}, stop).put(ARRAYS, stage="train")
    assert Chunks(tmp_path, {}).get(stage="train") is not None


def test_a_stage_computes_a_piece_once_and_reports_it(tmp_path: Path):
    told, done, pieces = [], [], []

    class Counting:
        def stage(self, name: str, total: int) -> None: ...
        def advance(self, units: int) -> None:
            done.append(units)

        def chunk(self, resumed: bool, steps: int = 0) -> None:
            pieces.append((resumed, steps))

    work = Work(Chunks(tmp_path, {}), Counting(), lambda stage, table: told.append((stage, table)))

    def compute() -> dict[str, np.ndarray]:
        return {"returns/length": np.array([3, 4]), "clean/x": np.zeros(2)}

    first = work.piece(compute, 5, "returns", stage="attack")
    second = work.piece(lambda: pytest.fail("computed again"), 5, "returns", stage="attack")
    assert same(first, second)
    assert pieces == [(False, 7), (True, 0)]
    assert done == [5]  # the second time: `compute` reports for itself
    ((name, table),) = told
    assert name == "returns" and list(table) == ["length"]


def test_training_counts_the_steps_of_every_agent_once():
    """Two agents; the table counts their steps up from iteration to iteration."""
    rows = {"iteration": np.array([1, 2, 1, 2]), "env_steps": np.array([10, 20, 10, 30])}
    assert env_steps(rows) == 50
    assert env_steps({"value": np.ones(3)}) == 0


def test_trees_with_keys_and_tuples_come_back():
    tree = {"key": jax.random.split(jax.random.key(3), 2), "pair": (jnp.arange(3), np.float32(2))}
    shapes = jax.eval_shape(lambda: tree)
    back = unpacked(shapes, packed(tree))
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    assert jnp.array_equal(jax.random.key_data(back["key"]), jax.random.key_data(tree["key"]))
    np.testing.assert_array_equal(back["pair"][0], [0, 1, 2])
    episode = Episode(*(np.full(2, i) for i in range(len(Episode._fields))))
    again = unpacked(skeleton(Episode), packed(episode))
    assert jax.tree.all(jax.tree.map(np.array_equal, again, episode))


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))))
def test_text_columns_come_back(words: list[str]):
    column = np.array(words, str)
    assert decoded(encoded({"a": column}))["a"].tolist() == words


# --- files ----------------------------------------------------------------------------------------


def test_a_full_disk_leaves_the_old_file(tmp_path: Path):
    file = tmp_path / "table"
    file.write_text("old")

    def fail(partial: Path) -> None:
        partial.write_text("half of the n")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space left"):
        write_whole(file, fail)
    assert file.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["table"]


def test_what_a_killed_process_left_half_written_is_swept_away(tmp_path: Path):
    (tmp_path / ".table.partial").write_text("half")
    (tmp_path / "notes.partial").write_text("a person's")
    sweep(tmp_path, tmp_path / "absent")
    assert [p.name for p in tmp_path.iterdir()] == ["notes.partial"]
