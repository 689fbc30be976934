"""Checkpoints of SA-PPO's code, written with the names and classes of that code."""

import io
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.policy import action_distribution, normalise, state_value
from jaxprune.policy_io import load_policy, read_policy_file
from tests.policy_io.policies import Payload, assert_refused

OBS, ACT, COUNT = 5, 2, 100


def defined(monkeypatch, module: str, **members: type) -> types.ModuleType:
    """A module that pickles can name."""
    made = types.ModuleType(module)
    for name, member in members.items():
        member.__module__, member.__qualname__ = module, name
        setattr(made, name, member)
    monkeypatch.setitem(sys.modules, module, made)
    return made


def a_class() -> type:
    return type("Class", (), {})


@pytest.fixture
def reference(monkeypatch):
    """The classes of the reference and of torch, as far as their pickles name them."""
    utils = {name: a_class() for name in ("RunningStat", "ZFilter", "Identity", "StateWithTime")}
    found = vars(defined(monkeypatch, "policy_gradients.torch_utils", **utils)) | vars(
        defined(monkeypatch, "policy_gradients.custom_env", Env=a_class())
    )
    for package in ("policy_gradients", "torch"):
        defined(monkeypatch, package)
    defined(monkeypatch, "torch", FloatStorage=a_class(), LongStorage=a_class())

    def _rebuild_tensor_v2(*args):
        raise AssertionError(args)

    defined(monkeypatch, "torch._utils", _rebuild_tensor_v2=_rebuild_tensor_v2)  # type: ignore
    return types.SimpleNamespace(**found)


class Tensor:
    """A tensor to be pickled as torch does."""

    def __init__(self, numbers):
        self.numbers = np.asarray(numbers, np.float32)


class Storage:
    """What a pickled tensor points at."""

    def __init__(self, tensor: Tensor):
        self.tensor = tensor


def save(path: Path, checkpoint) -> Path:
    """Write a file as torch.save does, by pickle's protocol 2."""
    kept = []

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            if not isinstance(obj, Storage):
                return None
            kept.append(obj.tensor.numbers)
            kind = sys.modules["torch"].FloatStorage
            return ("storage", kind, str(len(kept) - 1), "cuda:0", obj.tensor.numbers.size)

        def reducer_override(self, obj):
            if not isinstance(obj, Tensor):
                return NotImplemented
            shape = obj.numbers.shape
            strides = tuple(step // 4 for step in obj.numbers.strides)
            made = (Storage(obj), 0, shape, strides, False, OrderedDict())
            return sys.modules["torch._utils"]._rebuild_tensor_v2, made

    pickled = io.BytesIO()
    Pickler(pickled, 2).dump(checkpoint)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled.getvalue())
        for key, numbers in enumerate(kept):
            archive.writestr(f"archive/data/{key}", numbers.tobytes())
    return path


def made(kind: type, **state):
    thing = kind()
    thing.__dict__.update(state)
    return thing


def network(rng, sizes, last: str) -> dict[str, np.ndarray]:
    names = [*(f"affine_layers.{i}" for i in range(len(sizes) - 2)), last]
    found = {}
    for name, size, width in zip(names, sizes, sizes[1:], strict=False):
        found[f"{name}.weight"] = rng.normal(size=(width, size)).astype(np.float32)
        found[f"{name}.bias"] = rng.normal(size=width).astype(np.float32)
    return found


@pytest.fixture
def parts():
    """Numbers of an agent, by the names of the checkpoint."""
    rng = np.random.default_rng(0)
    policy = network(rng, (OBS, 64, 64, ACT), "final_mean")
    policy["log_stdev"] = rng.normal(size=ACT).astype(np.float32)
    value = network(rng, (OBS, 64, 64, 1), "final")
    return {"policy_model": policy, "val_model": value}


def environment(reference, **changes):
    rng = np.random.default_rng(1)
    rs = made(reference.RunningStat, _n=COUNT, _M=rng.normal(size=OBS), _S=rng.uniform(9, 99, OBS))
    state = {"center": True, "scale": True, "clip": 10.0, "rs": rs, "read_only": True}
    state |= {"prev_filter": reference.Identity()} | changes
    inner = {"env": a_class, "np_random": np.random.RandomState(0), "total_true_reward": 1.5}
    inner.pop("env")
    return made(reference.Env, state_filter=made(reference.ZFilter, **state), **inner)


def checkpoint(parts, envs):
    """With what the reference saves beside: moments of Adam, an adversary, a second critic."""
    tensors = {
        part: OrderedDict((name, Tensor(x)) for name, x in named.items())
        for part, named in parts.items()
    }
    moments = {"step": 7, "exp_avg": Tensor(np.ones(3))}
    optimiser = {"state": {140_000_000_000_001: moments}, "param_groups": [{"lr": 3e-4}]}
    rest = {"policy_opt": optimiser, "adversary_policy_model": tensors["policy_model"]}
    return tensors | rest | {"q_model": tensors["val_model"], "envs": envs}


def test_an_agent_acts_as_in_its_code(reference, parts, tmp_path):
    """tanh layers on clip((s - M) / (sqrt(S / (n - 1)) + 1e-8), -10, 10)."""
    env = environment(reference)
    path = save(tmp_path / "agent.model", checkpoint(parts, [env]))
    policy, rs = load_policy(path), env.state_filter.rs
    obs = 30 * np.random.default_rng(2).normal(size=(50, OBS))
    seen = np.clip((obs - rs._M) / (np.sqrt(rs._S / (COUNT - 1)) + 1e-8), -10, 10)
    assert np.any(np.abs(seen) == 10)

    def forward(named, last):
        x = seen
        for name in ("affine_layers.0", "affine_layers.1"):
            x = np.tanh(x @ named[f"{name}.weight"].T + named[f"{name}.bias"])
        return x @ named[f"{last}.weight"].T + named[f"{last}.bias"]

    for i, row in enumerate(obs):
        x = normalise(policy, jnp.asarray(row))
        head = action_distribution(policy, x)
        mean, value = (
            forward(parts["policy_model"], "final_mean"),
            forward(parts["val_model"], "final"),
        )
        np.testing.assert_allclose(head.mode(), mean[i], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(state_value(policy, x), value[i, 0], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(policy.params.log_std, parts["policy_model"]["log_stdev"])
    assert policy.obs_stats.count == COUNT and policy.action_box is None
    said = str(read_policy_file(path))
    assert "tanh (assumed" in said and "not clipped" in said and "its own statistics" in said


def test_choices_and_an_actor_alone(reference, parts, tmp_path):
    """A DiscPolicy has a layer `final`; a converted agent has no critic."""
    policy = network(np.random.default_rng(3), (OBS, 64, 64, 3), "final")
    path = save(tmp_path / "agent.model", checkpoint(parts | {"policy_model": policy}, []))
    assert_refused(path, "'envs'", "get_best_pickle.py")
    held = {"policy_model": {name: Tensor(x) for name, x in policy.items()}}
    path = save(path, held | {"envs": [environment(reference)]})
    assert load_policy(path).distribution == "categorical"


def test_agents_with_memory_are_refused(reference, parts, tmp_path):
    """They keep an untrained network by the names of one without."""
    parts["policy_model"]["lstm.weight_ih_l0"] = np.zeros((4, 4))
    path = save(tmp_path / "agent.model", checkpoint(parts, [environment(reference)]))
    assert_refused(path, "recurrent", "'lstm.weight_ih_l0'", "give an MLP")


def test_squashed_actions_are_refused(reference, parts, tmp_path):
    parts["policy_model"] |= network(np.random.default_rng(0), (OBS, 400, 300, ACT), "final_mean")
    path = save(tmp_path / "agent.model", checkpoint(parts, [environment(reference)]))
    assert_refused(path, "(400, 300)", "CtsPolicyLarger")


def test_filters(reference, parts, tmp_path):
    """None at all, one that never clips, and those that are not read."""
    path = tmp_path / "agent.model"

    def saved(env):
        return save(path, checkpoint(parts, [env]))

    raw = load_policy(saved(made(reference.Env, state_filter=reference.Identity())))
    obs = jnp.full(OBS, 1e6)
    np.testing.assert_array_equal(normalise(raw, obs), obs)
    unclipped = load_policy(saved(environment(reference, clip=None)))
    assert float(jnp.abs(normalise(unclipped, obs)).min()) > 1e4
    assert_refused(saved(environment(reference, center=False)), "centres and scales")
    timed = made(reference.Env, state_filter=made(reference.StateWithTime, horizon=1000))
    assert_refused(saved(timed), "StateWithTime")
    few = environment(reference)
    few.state_filter.rs._n = 1
    assert_refused(saved(few), "statistics of 1 observations")
    stats = tmp_path / "stats.npz"
    np.savez(stats, obs_mean=np.zeros(OBS), obs_var=np.ones(OBS))
    assert_refused(saved(environment(reference)), "carries its own statistics", obs_stats=stats)


def test_nothing_of_a_checkpoint_is_executed(reference, parts, tmp_path):
    held = checkpoint(parts, [environment(reference)])
    witness = tmp_path / "executed"
    path = save(tmp_path / "agent.model", held | {"metadata": Payload(witness)})
    assert load_policy(path).params.log_std.shape == (ACT,)
    assert not witness.exists()


def test_broken_checkpoints_are_refused(reference, parts, tmp_path):
    path = save(tmp_path / "agent.model", checkpoint(parts, [made(reference.Env, other=1)]))
    assert_refused(path, "damaged")
    del parts["policy_model"]["log_stdev"]
    path = save(path, checkpoint(parts, [environment(reference)]))
    assert_refused(path, "lacks 'policy_model.log_stdev'")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert_refused(path, "truncated")
