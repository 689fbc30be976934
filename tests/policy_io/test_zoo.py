"""Policies that come with the package: names, files, and what they are for."""

import jax
import numpy as np
import pytest

from jaxprune.envs import make_env
from jaxprune.policy import affine_layers
from jaxprune.policy_io import load_policy, save_policy, zoo, zoo_policies
from jaxprune.validation import InputError
from tests.policies import drawn_policy


def test_a_name_is_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "FOLDER", tmp_path)
    policy = drawn_policy(4, 2, (8,), discrete=True)
    (tmp_path / "cartpole/ppo").mkdir(parents=True)
    save_policy(tmp_path / "cartpole/ppo/3.npz", policy)
    assert list(zoo_policies()) == ["zoo:cartpole/ppo/3"]
    found = load_policy("zoo:cartpole/ppo/3")
    jax.tree.map(np.testing.assert_array_equal, found.params, policy.params)
    with pytest.raises(InputError, match=r"'zoo:cartpole/ppo/4' in the zoo: .* zoo:cartpole/ppo/3"):
        load_policy("zoo:cartpole/ppo/4")


def test_every_policy_fits_its_task():
    assert "zoo:hopper/ppo/0" in zoo_policies()
    for name in zoo_policies():
        spec, policy = make_env(name.removeprefix("zoo:").rsplit("/", 2)[0]).spec, load_policy(name)
        assert policy.obs_stats.mean.shape == (spec.obs_size,), name
        assert affine_layers(policy)[-1].bias.shape == (spec.action_size,), name
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(policy.params)), name
