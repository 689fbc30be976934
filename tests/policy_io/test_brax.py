"""Policies of Brax and SAC: actions as those libraries take them, and what bounds are about.

Brax writes its files here, and its own inference function says what the actions are.
"""

import functools
import json
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brax.io import model
from brax.training.acme import running_statistics, specs
from brax.training.agents.ppo import checkpoint
from brax.training.agents.ppo import networks as ppo
from brax.training.agents.sac import networks as sac
from brax.training.distribution import NormalDistribution

from jaxprune import certify, evaluate, make_env
from jaxprune.policy import action_distribution, clip_action, has_critic, normalise, state_value
from jaxprune.policy_io import (
    export_policy,
    load_agents,
    load_exported,
    load_policy,
    numpy_policy,
    read_policy_file,
    save_agents,
    save_policy,
)
from jaxprune.types import TASK_BOX, ActionBox
from jaxprune.validation import InputError
from tests.policy_io.policies import Payload, assert_refused, assert_same_bits

DATA = Path(__file__).parents[1] / "data"
SAC = DATA / "sb3_sac.zip"
OBS, ACTIONS = 5, 3
SIZES = {"policy_hidden_layer_sizes": (8, 6), "value_hidden_layer_sizes": (7,)}
# Arguments of Brax's networks, and (distribution, squash) of what is read.
PPO = {
    "tanh_normal": ({}, ("deterministic", True)),
    "normal": ({"distribution_type": "normal", "init_noise_std": 0.3}, ("normal", False)),
    "normal_log": (
        {"distribution_type": "normal", "noise_std_type": "log", "init_noise_std": 0.3},
        ("normal", False),
    ),
    "normal_of_state": (
        {"distribution_type": "normal", "state_dependent_std": True},
        ("deterministic", False),
    ),
}


def statistics(key, shape):
    """What Brax keeps after a batch of observations `shape`."""
    state = running_statistics.init_state(specs.Array(shape, jnp.float32))
    return running_statistics.update(state, 3 * jax.random.normal(key, (64, *shape)) + 1)


def ppo_factory(**settings):
    return functools.partial(ppo.make_ppo_networks, **SIZES, **settings)


def trained(**settings):
    """(networks, parameters) of PPO, as after training, with biases that are not 0."""
    make = ppo_factory(**settings)
    networks = make(OBS, ACTIONS, preprocess_observations_fn=running_statistics.normalize)
    keys = jax.random.split(jax.random.key(0), 3)
    parts = [networks.policy_network.init(keys[0]), networks.value_network.init(keys[1])]
    noise = functools.partial(jax.random.uniform, keys[2], minval=0.01, maxval=0.2)
    parts = jax.tree.map(lambda x: x + noise(x.shape), parts)
    return networks, (statistics(keys[2], (OBS,)), *parts)


def observations(rows=20, size=OBS):
    return 4 * np.random.default_rng(0).standard_normal((rows, size)).astype(np.float32)


def mean(policy, row):
    return action_distribution(policy, normalise(policy, row)).mode()


means = jax.jit(jax.vmap(mean, (None, 0)))


@jax.jit
def actions(policy, obs):
    """What the simulator gets of the deterministic policy, `[n, act]`."""
    return jax.vmap(lambda row: clip_action(policy, mean(policy, row), None))(obs)


@jax.jit
def values_of(policy, obs):
    return jax.vmap(lambda row: state_value(policy, normalise(policy, row)))(obs)


def check_actions(policy, expected, obs):
    np.testing.assert_allclose(actions(policy, obs), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(numpy_policy(policy)(obs), expected, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module", params=PPO)
def saved(request, tmp_path_factory):
    """(networks, parameters, folder with all formats, what is read) of a kind of policy."""
    settings, read = PPO[request.param]
    networks, params = trained(**settings)
    folder = tmp_path_factory.mktemp(request.param)
    model.save_params(str(folder / "params"), params)
    config = checkpoint.network_config(OBS, ACTIONS, True, ppo_factory(**settings))
    checkpoint.save(str(folder), 7, params, config)
    return networks, params, folder, read


def test_actions_are_those_of_brax(saved):
    networks, params, folder, read = saved
    obs = observations()
    act = ppo.make_inference_fn(networks)(params, deterministic=True)
    expected, _ = act(jnp.asarray(obs), jax.random.key(0))
    values = networks.value_network.apply(params[0], params[2], jnp.asarray(obs))
    for file in (folder / "params", folder / f"{7:012d}"):
        policy = load_policy(file)
        assert (policy.distribution, policy.squash) == read and policy.activation == "swish"
        check_actions(policy, expected, obs)
        np.testing.assert_allclose(values_of(policy, obs), values, rtol=1e-4, atol=1e-5)


def test_deviations_are_those_of_brax(saved):
    networks, params, folder, (distribution, _) = saved
    policy = load_policy(folder / "params")
    if distribution == "deterministic":
        np.testing.assert_array_equal(policy.params.log_std, np.zeros(ACTIONS))
        return
    obs, action = observations(), np.random.default_rng(1).standard_normal((20, ACTIONS))
    theirs = NormalDistribution(ACTIONS).log_prob(
        networks.policy_network.apply(params[0], params[1], jnp.asarray(obs)), jnp.asarray(action)
    )
    log_prob = lambda x, a: action_distribution(policy, normalise(policy, x)).log_prob(a)  # noqa: E731
    ours = jax.jit(jax.vmap(log_prob))(obs, action)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)


def test_all_formats_hold_the_same(saved, tmp_path):
    """Pickle, checkpoint, the checkpoint without its configuration; our own formats and back."""
    _, params, folder, _ = saved
    policy = load_policy(folder / "params")
    assert float(policy.obs_stats.count) == 64
    step = folder / f"{7:012d}"
    assert_same_bits(load_policy(step), policy)
    (step / "ppo_network_config.json").rename(tmp_path / "away.json")
    assert_same_bits(load_policy(step), policy)
    (tmp_path / "away.json").rename(step / "ppo_network_config.json")
    model.save_params(str(tmp_path / "numpy"), jax.device_get(params))
    assert_same_bits(load_policy(tmp_path / "numpy"), policy)
    save_policy(tmp_path / "policy.npz", policy)
    assert_same_bits(load_policy(tmp_path / "policy.npz"), policy)
    save_agents(tmp_path / "agents", jax.tree.map(lambda x: x[None], policy), {})
    agents, _ = load_agents(tmp_path / "agents")
    assert_same_bits(jax.tree.map(lambda x: jnp.asarray(x[0]), agents), policy)
    obs = observations()
    export_policy(tmp_path / "policy.stablehlo", policy)
    exported = load_exported(tmp_path / "policy.stablehlo")(obs)
    np.testing.assert_allclose(exported, actions(policy, obs), rtol=1e-5, atol=1e-6)


def test_paths_may_be_relative(saved, monkeypatch):
    _, _, folder, _ = saved
    monkeypatch.chdir(folder)
    assert_same_bits(load_policy(f"{7:012d}"), load_policy(folder / "params"))


def test_the_line_about_a_file_says_what_was_assumed(saved):
    _, _, folder, (distribution, squash) = saved
    line = str(read_policy_file(folder / "params"))
    assert "swish (assumed" in line and "its own statistics" in line
    assert ("bounds are about the outputs" in line) == squash
    assert ("no deviation is read" in line) == (distribution == "deterministic")
    assert "swish (the file says so)" in str(read_policy_file(folder / f"{7:012d}"))
    assert load_policy(folder / "params", activation="relu").activation == "relu"


def test_policies_that_see_one_of_several_observations(tmp_path):
    """A value network that sees another one is left out."""
    sizes = {"state": OBS, "privileged_state": 9}
    networks = ppo.make_ppo_networks(
        sizes,
        ACTIONS,
        preprocess_observations_fn=running_statistics.normalize,
        value_obs_key="privileged_state",
        **SIZES,
    )
    keys = jax.random.split(jax.random.key(1), 4)
    shapes = {name: specs.Array((size,), jnp.float32) for name, size in sizes.items()}
    batch = {
        name: 2 * jax.random.normal(key, (32, size))
        for (name, size), key in zip(sizes.items(), keys[2:], strict=True)
    }
    stats = running_statistics.update(running_statistics.init_state(shapes), batch)
    params = (stats, networks.policy_network.init(keys[0]), networks.value_network.init(keys[1]))
    model.save_params(str(tmp_path / "params"), params)
    policy, obs = load_policy(tmp_path / "params"), observations()
    rows = {"state": jnp.asarray(obs), "privileged_state": jnp.zeros((len(obs), 9))}
    act = ppo.make_inference_fn(networks)(params, deterministic=True)
    check_actions(policy, act(rows, jax.random.key(0))[0], obs)
    assert not has_critic(policy)


def test_sac_of_brax(tmp_path):
    networks = sac.make_sac_networks(
        OBS,
        ACTIONS,
        preprocess_observations_fn=running_statistics.normalize,
        hidden_layer_sizes=(8, 8),
    )
    params = (
        statistics(jax.random.key(2), (OBS,)),
        networks.policy_network.init(jax.random.key(3)),
    )
    model.save_params(str(tmp_path / "params"), params)
    policy, obs = load_policy(tmp_path / "params"), observations()
    assert policy.activation == "relu" and not has_critic(policy)
    act = sac.make_inference_fn(networks)(params, deterministic=True)
    check_actions(policy, act(jnp.asarray(obs), jax.random.key(0))[0], obs)


def test_sac_of_stable_baselines3():
    with np.load(DATA / "sb3_sac.expected.npz") as archive:
        obs, output, taken = (archive[name] for name in ("obs", "output", "taken"))
    policy = load_policy(SAC)
    assert (policy.distribution, policy.activation) == ("deterministic", "relu") and policy.squash
    assert policy.action_box == ActionBox((-2.0,), (2.0,)) and not has_critic(policy)
    np.testing.assert_allclose(means(policy, obs), output, rtol=1e-5, atol=1e-5)
    check_actions(policy, taken, obs)


# --- what a policy without a deviation is asked ---------------------------------------------------


def test_bounds_are_about_the_mean_before_tanh():
    policy = load_policy(SAC)
    obs, rng = 2 * observations(4, 3), np.random.default_rng(0)
    found = certify(policy, eps=0.05, obs=obs, bounds=["path", "liplt", "crown"])
    moved = obs + 0.05 * rng.choice([-1.0, 1.0], (300, *obs.shape)).astype(np.float32)
    found_there = np.reshape(means(policy, moved.reshape(-1, 3)), (300, 4))
    change = np.abs(found_there - means(policy, obs)[:, 0]).max(axis=0)
    for name, bound in found.items():
        assert bound.unit == "units of the action" and np.all(bound.total_variation == 1), name
        assert bound.action_distance is not None
        np.testing.assert_allclose(bound.action_distance, bound.value, rtol=1e-12)
        assert np.all(change <= bound.value + 1e-6), name  # the change is computed in float32


def test_such_a_policy_acts_in_its_task_and_draws_nothing():
    env, policy = make_env("pendulum"), load_policy(SAC)
    table = evaluate(env, policy, attack="mad", eps=0.1, episodes=2)
    assert table["return"].shape == (2,) and np.all(table["distance"] > 0)
    with pytest.raises(InputError, match=r"victim 'stochastic' draws actions.*'deterministic'"):
        evaluate(env, policy, episodes=2, victim="stochastic")


# --- refusals -------------------------------------------------------------------------------------


def rewritten(tmp_path, **settings):
    """A checkpoint whose configuration says something else."""
    _, params = trained()
    config = checkpoint.network_config(OBS, ACTIONS, True, ppo_factory())
    checkpoint.save(str(tmp_path), 7, params, config)
    file = tmp_path / f"{7:012d}" / "ppo_network_config.json"
    said = json.loads(file.read_text())
    said["network_factory_kwargs"] |= settings
    file.write_text(json.dumps(said))
    return file.parent


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"activation": "gelu"}, ["'gelu'", "swish"]),
        ({"mean_clip_scale": 2.0}, ["mean_clip_scale 2.0"]),
    ],
)
def test_configurations_that_cannot_be_expressed(settings, words, tmp_path):
    assert_refused(rewritten(tmp_path, **settings), *words)


def test_networks_that_cannot_be_expressed(tmp_path):
    _, (stats, policy, value) = trained()
    policy["params"]["LayerNorm_0"] = {"scale": jnp.ones(8), "bias": jnp.zeros(8)}
    model.save_params(str(tmp_path / "params"), (stats, policy, value))
    assert_refused(tmp_path / "params", "'LayerNorm_0'", "fully connected")


def test_a_pickle_of_parts_that_repeat_is_refused_at_once(tmp_path):
    """2^60 leaves in a few hundred bytes."""
    parts = ("x",)
    for _ in range(60):
        parts = (parts, parts)
    (tmp_path / "params").write_bytes(pickle.dumps(parts))
    assert_refused(tmp_path / "params", "damaged")


def test_outputs_that_are_no_means_and_deviations(tmp_path):
    _, (stats, policy, value) = trained()
    last = policy["params"]["hidden_2"]
    policy["params"]["hidden_2"] = {name: x[..., 1:] for name, x in last.items()}
    model.save_params(str(tmp_path / "params"), (stats, policy, value))
    assert_refused(tmp_path / "params", "5 outputs", "tanh_normal")


def test_folders_that_are_no_checkpoint(tmp_path):
    step = rewritten(tmp_path)
    assert_refused(tmp_path, f"give {step}")
    (tmp_path / "empty").mkdir()
    assert_refused(tmp_path / "empty", "no checkpoint of Brax")
    (step / "_METADATA").write_text("{")
    assert_refused(step, "damaged")


def test_what_the_file_says_is_not_said_again(tmp_path):
    _, params = trained()
    model.save_params(str(tmp_path / "params"), params)
    assert_refused(
        tmp_path / "params", "its own statistics", obs_stats=DATA / "sb3_pendulum.vecnormalize.pkl"
    )
    for file in (tmp_path / "params", SAC, DATA / "cleanrl_discrete.pt"):
        with pytest.raises(InputError, match="leave the clip 'task' out"):
            load_policy(file, clip="task")
    with pytest.raises(InputError, match=r"clip of actions 'box'.*none, task"):
        load_policy(tmp_path / "params", clip="box")


def test_the_clip_of_a_file_that_does_not_say_it():
    cleanrl = DATA / "cleanrl_continuous.cleanrl_model"
    assert load_policy(cleanrl).action_box == TASK_BOX
    assert load_policy(cleanrl, clip="none").action_box is None
    assert "(assumed" in str(read_policy_file(cleanrl)).split("actions")[1]
    assert "are not clipped (as given" in str(read_policy_file(cleanrl, clip="none"))


def test_nothing_in_a_pickle_is_executed(tmp_path):
    _, params = trained()
    (tmp_path / "params").write_bytes(pickle.dumps((Payload(tmp_path / "witness"), *params[1:])))
    assert_refused(tmp_path / "params", "damaged or holds pickled objects")
    (tmp_path / "list").write_bytes(pickle.dumps([1, 2]))
    assert_refused(tmp_path / "list", "parameters of Brax")
    assert not (tmp_path / "witness").exists()


def test_sbx_is_refused_with_a_remedy(tmp_path):
    data = {"policy_class": {"__module__": "sbx.sac.policies"}, "use_sde": False}
    with zipfile.ZipFile(tmp_path / "sbx.zip", "w") as archive:
        archive.writestr("data", json.dumps(data))
        archive.writestr("pytorch_variables.pth", b"")
    assert_refused(tmp_path / "sbx.zip", "SBX", "safetensors")


def test_a_squashed_policy_needs_a_box(tmp_path):
    save_policy(tmp_path / "policy.npz", replace(load_policy(SAC), action_box=None))
    assert_refused(tmp_path / "policy.npz", "squashes actions, but into no box")
