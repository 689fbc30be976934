"""The last step: a checkpoint that cannot be written is an error about files, and leaves none."""

from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks.stages import results
from jaxprune.policy_io import load_agents
from jaxprune.pruning import dense
from tests.policies import drawn_agents

POLICY = drawn_agents((2,), 3, 2, discrete=True)
MASKS = {"magnitude-global (endpoint)": jax.device_get(dense(POLICY.params))}


def test_a_shard_keeps_its_agents_in_one_file(tmp_path: Path):
    results.write_shard_agents(tmp_path / "agents.npz", POLICY, MASKS)
    policy, masks = results.read_shard_agents(tmp_path / "agents.npz")
    jax.tree.map(np.testing.assert_array_equal, (policy, masks), (POLICY, MASKS))
    assert [p.name for p in tmp_path.iterdir()] == ["agents.npz"]


def test_what_a_killed_process_left_of_a_checkpoint_is_removed(tmp_path: Path):
    (tmp_path / "agents.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    results.write_agents(tmp_path / "agents", POLICY, MASKS)
    assert [p.name for p in tmp_path.iterdir()] == ["agents"]
    policy, _ = load_agents(tmp_path / "agents")
    jax.tree.map(np.testing.assert_array_equal, policy, POLICY)


def test_a_full_disk_is_an_error_about_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(path: Path, *_: object) -> None:
        path.with_name("agents.orbax-checkpoint-tmp").mkdir()
        raise ValueError("RESOURCE_EXHAUSTED: no space\nand a long story")

    monkeypatch.setattr(results, "save_agents", fail)
    with pytest.raises(OSError, match=r"RESOURCE_EXHAUSTED: no space.*agents"):
        results.write_agents(tmp_path / "agents", POLICY, MASKS)
    assert not list(tmp_path.iterdir())
