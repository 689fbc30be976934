"""Policies that leave: the same actions as here, in a file that says nothing about this machine."""

from dataclasses import replace
from pathlib import Path

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from jaxprune.policy import action_distribution, normalise
from jaxprune.policy_io import (
    export_policy,
    load_exported,
    load_policy,
    numpy_policy,
    save_policy,
)
from jaxprune.pruning import mask_policy, prune
from jaxprune.validation import InputError
from tests.policy_io.policies import policy_of

DATA = Path(__file__).parents[1] / "data"
OBS = np.random.default_rng(1).normal(0, 3, (50, 4)).astype(np.float32)


@jax.jit
def actions_of(policy, obs):
    """The mode at raw observations `[b, obs]`, by the library's own functions."""
    return jax.vmap(lambda x: action_distribution(policy, normalise(policy, x)).mode())(obs)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("discrete", [False, True])
def test_an_exported_policy_acts_like_the_policy(discrete, masked, tmp_path):
    policy = policy_of(discrete=discrete)
    masks = prune(policy, "random", 0.5) if masked else None
    export_policy(tmp_path / "policy.bin", policy, masks)
    act = load_exported(tmp_path / "policy.bin")
    for obs in (OBS, OBS[:1], jnp.asarray(OBS), OBS.astype(np.float64)):
        actions = act(obs)
        expected = actions_of(mask_policy(policy, masks), np.asarray(obs, np.float32))
        assert actions.dtype == expected.dtype == (np.int32 if discrete else np.float32)
        np.testing.assert_allclose(actions, expected, rtol=1e-6, atol=1e-7)
    assert not masked or not np.allclose(actions, actions_of(policy, OBS))


def test_jax_alone_can_read_it(tmp_path):
    export_policy(tmp_path / "policy.bin", policy_of())
    artefact = export.deserialize(bytearray((tmp_path / "policy.bin").read_bytes()))
    assert artefact.platforms == ("cpu", "cuda", "tpu")
    (obs,), (actions,) = artefact.in_avals, artefact.out_avals
    assert (str(obs), str(actions)) == ("float32[b,4]", "float32[b,3]")
    program = artefact.mlir_module()
    products = program.count("stablehlo.dot_general")  # one per layer and platform
    assert products == program.count("precision = [HIGHEST, HIGHEST]") >= 3


def test_the_file_is_the_same_every_time_and_holds_no_paths(tmp_path):
    limit = jax.config.jax_traceback_in_locations_limit
    for name in ("a", "b"):
        export_policy(tmp_path / name, policy_of())
    content = (tmp_path / "a").read_bytes()
    assert content == (tmp_path / "b").read_bytes()
    assert b".py" not in content and b"export_policy" not in content
    assert jax.config.jax_traceback_in_locations_limit == limit


def test_a_failed_export_leaves_the_old_file_alone(tmp_path, monkeypatch):
    path = tmp_path / "policy.bin"
    export_policy(path, policy_of())
    before = path.read_bytes()

    class Full:
        def serialize(self):
            raise OSError("No space left on device")

    monkeypatch.setattr(export, "export", lambda *_, **__: lambda *_: Full())
    with pytest.raises(OSError, match="No space"):
        export_policy(path, policy_of(discrete=True))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["policy.bin"]


def test_other_shapes_are_refused(tmp_path):
    export_policy(tmp_path / "policy.bin", policy_of())
    act = load_exported(tmp_path / "policy.bin")
    for wrong in (OBS[0], OBS[:, :3], OBS[None]):
        with pytest.raises(InputError, match=r"give \[b, 4\]"):
            act(wrong)
    act = numpy_policy(policy_of())
    for wrong in (OBS[0, :3], OBS[:, :3], OBS[None], np.float32(0)):
        with pytest.raises(InputError, match=r"give \[4\] or \[n, 4\]"):
            act(wrong)


def test_files_that_are_no_exported_policy(tmp_path):
    path = tmp_path / "policy.bin"
    with pytest.raises(InputError, match=r"no exported policy at .*export_policy"):
        load_exported(path)
    export_policy(path, policy_of())
    content = path.read_bytes()
    for broken in (b"", b"hello", content[: len(content) // 2], content[:-100]):
        path.write_bytes(broken)
        with pytest.raises(InputError, match=r"truncated or none: .*export_policy"):
            load_exported(path)
    other = export.export(jax.jit(lambda x, y: x + y))(1.0, 2.0)
    path.write_bytes(other.serialize())
    with pytest.raises(InputError, match="truncated or none"):
        load_exported(path)


def test_nothing_is_written_where_there_is_no_folder(tmp_path):
    for write in (export_policy, save_policy):
        with pytest.raises(InputError, match=r"cannot write .*missing.*No such file.*folder"):
            write(tmp_path / "missing" / "policy.bin", policy_of())
    assert list(tmp_path.iterdir()) == []


def test_what_no_device_can_express():
    policy = policy_of()
    for field, value in (("activation", "gelu"), ("distribution", "squashed")):
        with pytest.raises(InputError, match=rf"'{value}' cannot be exported: (tanh|normal), "):
            numpy_policy(replace(policy, **{field: value}))
    lost = jax.tree.map(lambda x: x * jnp.nan, policy)
    with pytest.raises(InputError, match="not finite"):
        numpy_policy(lost)


@pytest.mark.parametrize("out", [lambda p, m: export_policy("nowhere", p, m), numpy_policy])
def test_populations_are_refused(out):
    policy = policy_of()
    with pytest.raises(InputError, match=r"population \(2,\)"):
        out(policy, prune(policy, sparsity=[0.1, 0.5]))


@pytest.mark.parametrize("activation", ["tanh", "relu", "swish"])
@pytest.mark.parametrize("discrete", [False, True])
def test_a_policy_for_numpy(discrete, activation):
    policy = policy_of(discrete=discrete, activation=activation)
    masks = prune(policy, "random", 0.5)
    act = numpy_policy(policy, masks)
    expected = actions_of(mask_policy(policy, masks), OBS)
    many, one = act(OBS), act(OBS[0].astype(np.float64))
    assert type(many) is np.ndarray and many.dtype == expected.dtype
    np.testing.assert_allclose(many, expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(one, expected[0], rtol=1e-6, atol=1e-7)
    assert np.shape(one) == (() if discrete else (3,))


def test_numpy_alone_acts(monkeypatch):
    """Nothing of JAX is called."""
    policy = policy_of()
    act = numpy_policy(policy)
    expected = actions_of(policy, OBS)
    for name in ("jit", "vmap", "device_put", "device_get"):
        monkeypatch.delattr(jax, name)
    np.testing.assert_allclose(act(OBS), expected, rtol=1e-6, atol=1e-7)


def test_the_gymnasium_loop_of_the_docstring():
    """Stable-Baselines3's own cartpole policy, which learned for 512 steps."""
    env = gymnasium.make("CartPole-v1")
    act = numpy_policy(load_policy(DATA / "sb3_cartpole.zip"))
    obs, _ = env.reset(seed=0)
    done, steps = False, 0
    while not done:
        obs, _, terminated, truncated, _ = env.step(act(obs))
        done, steps = terminated or truncated, steps + 1
    assert 8 <= steps <= 500
