"""ONNX files: what ONNX Runtime makes of them is what the policy does."""

import sys
from dataclasses import replace

import jax
import numpy as np
import pytest

from jaxprune import compact
from jaxprune.policy_io import export_onnx, numpy_policy
from jaxprune.pruning import prune
from jaxprune.types import ActionBox
from jaxprune.validation import InputError
from tests.policy_io.policies import lively_policy, policy_of

REASON = "pip install -e '.[onnx]'"
BOX = ActionBox((-2.0, 0.0, -1.0), (2.0, 3.0, 0.0))
OBS = np.random.default_rng(1).normal(0, 3, (50, 4)).astype(np.float32)


def executed(path, obs):
    """What ONNX Runtime answers to raw observations `[batch, 4]`."""
    runtime = pytest.importorskip("onnxruntime", reason=REASON)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (action,) = session.run(["action"], {"obs": obs})
    return action


@pytest.mark.parametrize("activation", ["tanh", "relu", "swish"])
@pytest.mark.parametrize("discrete", [False, True])
def test_a_graph_acts_like_the_policy(discrete, activation, tmp_path):
    pytest.importorskip("onnx", reason=REASON)
    policy = lively_policy(discrete=discrete, activation=activation)
    masks = prune(policy, "random", 0.5)
    export_onnx(tmp_path / "policy.onnx", policy, masks)
    act = numpy_policy(policy, masks)
    for obs in (OBS, OBS[:1], OBS[:0]):
        action = executed(tmp_path / "policy.onnx", obs)
        np.testing.assert_allclose(action, act(obs), atol=1e-5, strict=True)
    assert len(np.unique(act(OBS))) > 1


def test_a_compacted_policy_and_its_box(tmp_path):
    pytest.importorskip("onnx", reason=REASON)
    policy = lively_policy()
    masks = jax.tree.map(np.array, prune(policy, "magnitude", 0.0))
    masks.actor["layer_1"]["kernel"][3:] = False
    low, high = (-0.1, -0.2, -np.inf), (0.1, np.inf, 0.2)
    small = replace(compact(policy, masks), action_box=ActionBox(low, high))
    export_onnx(tmp_path / "policy.onnx", small)
    action, mean = executed(tmp_path / "policy.onnx", OBS), numpy_policy(policy, masks)(OBS)
    np.testing.assert_allclose(action, np.clip(mean, low, high), atol=1e-5)
    assert (action != mean).any()
    export_onnx(tmp_path / "squashed.onnx", replace(policy, action_box=BOX, squash=True))
    action = executed(tmp_path / "squashed.onnx", OBS)
    expected = numpy_policy(replace(policy, action_box=BOX, squash=True))(OBS)
    np.testing.assert_allclose(action, expected, atol=1e-5)


def test_the_file_is_the_same_every_time(tmp_path):
    pytest.importorskip("onnx", reason=REASON)
    for name in ("a", "b"):
        export_onnx(tmp_path / name, policy_of())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_what_is_refused_writes_nothing(tmp_path, monkeypatch):
    path, policy = tmp_path / "policy.onnx", policy_of()
    with pytest.raises(InputError, match="'gelu' cannot be exported: tanh, relu, swish can"):
        export_onnx(path, replace(policy, activation="gelu"))
    monkeypatch.setitem(sys.modules, "onnx", None)  # not installed
    with pytest.raises(InputError, match=r"needs the package onnx: pip install -e '\.\[onnx\]'"):
        export_onnx(path, policy)
    assert list(tmp_path.iterdir()) == []
