"""Populations and their masks: exact round trips through Orbax."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from jaxprune.policy import action_distribution
from jaxprune.policy_io import load_agents, save_agents
from jaxprune.pruning import prune
from jaxprune.types import TASK_BOX, ActionBox
from jaxprune.validation import InputError
from tests.policy_io.policies import assert_same_bits, policy_of


def stack(policy, count):
    return jax.tree.map(lambda x: np.stack([x + np.float32(i) for i in range(count)]), policy)


@pytest.mark.parametrize("discrete", [False, True])
def test_agents_round_trip_with_their_masks(tmp_path, discrete):
    agents = stack(policy_of(discrete=discrete), 3)
    masks = {
        "magnitude": prune(agents, "magnitude", [0.1, 0.5]),
        "random": prune(agents, "random", 0.5),
    }
    save_agents(tmp_path / "agents", agents, masks)
    loaded, loaded_masks = load_agents(tmp_path / "agents")
    assert_same_bits(loaded, agents)
    assert set(loaded_masks) == set(masks)
    for name, mask in masks.items():
        assert_same_bits(loaded_masks[name], mask)
    for name in ("activation", "distribution", "obs_clip", "obs_std_offset"):
        assert getattr(loaded, name) == getattr(agents, name)
    assert [p.name for p in tmp_path.iterdir()] == ["agents"]


@pytest.mark.parametrize("box", [None, TASK_BOX, ActionBox((-np.inf, -1.0, 0.1), (np.inf,) * 3)])
def test_agents_keep_what_their_actions_are_clipped_to(tmp_path, box):
    save_agents(tmp_path / "agents", replace(stack(policy_of(), 2), action_box=box), {})
    assert load_agents(tmp_path / "agents")[0].action_box == box


def test_agents_without_masks_and_overwritten(tmp_path):
    save_agents(tmp_path / "agents", stack(policy_of(), 2), {"none": prune(stack(policy_of(), 2))})
    save_agents(tmp_path / "agents", stack(policy_of(), 5), {})
    loaded, masks = load_agents(tmp_path / "agents")
    assert_same_bits(loaded, stack(policy_of(), 5))
    assert masks == {}


def test_loaded_agents_can_be_pruned_and_evaluated(tmp_path):
    """Loaded leaves are arrays that the rest of the library takes."""
    agents = stack(policy_of(), 2)
    save_agents(tmp_path / "agents", agents, {})
    loaded, _ = load_agents(tmp_path / "agents")
    assert_same_bits(prune(loaded, "random", [0.5]), prune(agents, "random", [0.5]))
    mean = jax.vmap(lambda p: action_distribution(p, jnp.ones(4)).mode())(loaded)
    assert mean.shape == (2, 3)


@pytest.mark.parametrize("kind", ["nothing", "empty folder", "file", "another"])
def test_no_agents_there(tmp_path, kind):
    path = tmp_path / "agents"
    if kind == "file":
        path.write_text("hello")
    elif kind == "empty folder":
        path.mkdir()
    elif kind == "another":
        ocp.save(str(path), {"params": np.ones(2)})
    with pytest.raises(InputError, match="no checkpoint of agents") as error:
        load_agents(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
