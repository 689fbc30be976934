"""Policies that other libraries trained: the same numbers as there, refusals, nothing executed.

The files in tests/data are real ones; make_fixtures.py there wrote them and what they compute.
"""

import base64
import io
import json
import pickle
import shutil
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxprune.envs import make_env
from jaxprune.evaluation import evaluate
from jaxprune.policy import action_distribution, has_critic, normalise, state_value
from jaxprune.policy_io import load_policy, numpy_policy, read_policy_file, save_policy
from jaxprune.types import TASK_BOX, ActionBox
from jaxprune.validation import InputError
from tests.policy_io.policies import Payload, assert_refused, assert_same_bits, torch_file

DATA = Path(__file__).parents[1] / "data"
PENDULUM = DATA / "sb3_pendulum.zip"
CLEANRL = DATA / "cleanrl_continuous.cleanrl_model"
SAFETENSORS = DATA / "cleanrl_continuous.safetensors"
VEC_NORMALIZE = DATA / "sb3_pendulum.vecnormalize.pkl"
STATISTICS = DATA / "cleanrl_continuous.stats.npz"

# file, statistics, hidden widths of actor and critic, activation, distribution
FILES = [
    (PENDULUM, VEC_NORMALIZE, [8, 8], [8, 8], "tanh", "normal"),
    (DATA / "sb3_cartpole.zip", None, [8], [8, 4], "relu", "categorical"),
    (CLEANRL, STATISTICS, [8, 8], [8, 8], "tanh", "normal"),
    (SAFETENSORS, STATISTICS, [8, 8], [8, 8], "tanh", "normal"),
    (DATA / "cleanrl_discrete.pt", None, [8, 8], [8, 8], "tanh", "categorical"),
]


@pytest.mark.parametrize(
    ("file", "stats", "actor", "critic", "activation", "distribution"),
    FILES,
    ids=[path.name for path, *_ in FILES],
)
def test_the_numbers_are_those_of_the_other_library(
    file, stats, actor, critic, activation, distribution
):
    policy = load_policy(file, stats)
    assert (policy.activation, policy.distribution) == (activation, distribution)
    for network, widths in ((policy.params.actor, actor), (policy.params.critic, critic)):
        assert [network[f"layer_{i}"]["bias"].size for i in range(len(network) - 1)] == widths
    with np.load(DATA / f"{file.stem}.expected.npz") as archive:
        expected = dict(archive)

    def compute(obs, action):
        seen = normalise(policy, obs)
        pi = action_distribution(policy, seen)
        output = pi.mean if distribution == "normal" else pi.logits
        value = state_value(policy, seen)
        return {
            "seen": seen,
            "output": output,
            "mode": pi.mode(),
            "value": value,
            "log_prob": pi.log_prob(action),
        }

    ours = jax.jit(jax.vmap(compute))(expected["obs"], expected["action"])
    for name, numbers in ours.items():
        np.testing.assert_allclose(
            numbers, expected[name], rtol=1e-5, atol=1e-5, err_msg=name, strict=name != "mode"
        )


def test_statistics_of_the_files_are_used_and_count_for_something():
    with np.load(DATA / "sb3_pendulum.expected.npz") as archive:
        clipped = np.abs(archive["seen"]) == 3  # clip_obs of that file
        assert clipped.any() and not clipped.all()
    policy = load_policy(PENDULUM, VEC_NORMALIZE)
    assert policy.obs_clip == 3.0 and policy.obs_std_offset == 0.0
    assert float(policy.obs_stats.count) == pytest.approx(512 + 2 + 1e-4)  # two at the reset
    with np.load(STATISTICS) as archive:
        policy = load_policy(CLEANRL, STATISTICS)
        std = np.sqrt(archive["obs_var"].astype(np.float64) + 1e-8)
        np.testing.assert_allclose(policy.obs_stats.std, std, rtol=1e-7)
        assert (policy.obs_clip, policy.obs_std_offset) == (10.0, 0.0)


def test_without_statistics_observations_are_raw():
    policy = load_policy(PENDULUM)
    obs = jnp.array([[1e30, -3e38, 0.1], [-1e-37, 123456.7, -0.0]], jnp.float32)
    np.testing.assert_array_equal(jax.vmap(lambda x: normalise(policy, x))(obs), obs)


@pytest.mark.parametrize("file", [path for path, *_ in FILES], ids=lambda path: path.name)
def test_what_was_loaded_can_be_saved_as_npz(file, tmp_path):
    policy = load_policy(file)
    save_policy(tmp_path / "policy.npz", policy)
    assert_same_bits(policy, load_policy(tmp_path / "policy.npz"))


def test_both_formats_of_cleanrl_hold_the_same():
    assert_same_bits(load_policy(CLEANRL), load_policy(SAFETENSORS))


@pytest.mark.parametrize("file", [path for path, *_ in FILES], ids=lambda path: path.name)
@pytest.mark.parametrize("name", ["policy.npz", "policy.zip", "policy"])
def test_the_content_tells_the_kind(file, name, tmp_path):
    shutil.copy(file, tmp_path / name)
    assert_same_bits(load_policy(tmp_path / name), load_policy(file))


# --- broken and hostile files ---------------------------------------------------------------------


@pytest.mark.parametrize("file", [PENDULUM, CLEANRL, SAFETENSORS], ids=lambda path: path.name)
@pytest.mark.parametrize("kept", [9, 100, 0.5, 0.9, -1])
def test_truncated_files(file, kept, tmp_path):
    data = file.read_bytes()
    path = tmp_path / file.name
    path.write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    assert_refused(path, "truncated", "save_policy", "torch.save", "safetensors")


@pytest.mark.parametrize("file", [PENDULUM, CLEANRL, SAFETENSORS], ids=lambda path: path.name)
def test_flipped_bytes_never_escape_as_another_error(file, tmp_path):
    data, rng, path = file.read_bytes(), np.random.default_rng(0), tmp_path / "policy"
    for _ in range(60):
        broken = bytearray(data)
        for _ in range(int(rng.integers(1, 4))):
            broken[rng.integers(len(broken))] = rng.integers(256)
        path.write_bytes(broken)
        try:
            load_policy(path)
        except InputError as error:
            assert "\n" not in str(error)


def with_entries(path: Path, source: Path, **entries) -> Path:
    """A copy of a zip archive in which some files differ; None leaves one out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        files = {name: old.read(name) for name in old.namelist()} | entries
        for name, content in files.items():
            if content is not None:
                new.writestr(name, content)
    return path


def weights_of(source: Path) -> dict[str, np.ndarray]:
    """The tensors of a real file, by their names there."""
    if source == SAFETENSORS:
        return load_file(source)
    policy = load_policy(PENDULUM)
    tensors = {"log_std": np.asarray(policy.params.log_std)}
    for net, head, layers in (
        ("policy", "action", policy.params.actor),
        ("value", "value", policy.params.critic),
    ):
        names = [f"mlp_extractor.{net}_net.{2 * i}" for i in range(len(layers) - 1)]
        for i, name in enumerate([*names, f"{head}_net"]):
            tensors[f"{name}.weight"] = np.asarray(layers[f"layer_{i}"]["kernel"]).T
            tensors[f"{name}.bias"] = np.asarray(layers[f"layer_{i}"]["bias"])
    return tensors


def sb3_file(path: Path, *, tensors=None, settings=lambda data: None, **how) -> Path:
    """A .zip of Stable-Baselines3 with other weights or settings."""
    weights = io.BytesIO()
    torch_file(weights, weights_of(PENDULUM) if tensors is None else tensors, **how)
    with zipfile.ZipFile(PENDULUM) as archive:
        data = json.loads(archive.read("data"))
    settings(data)
    entries = {"policy.pth": weights.getvalue(), "data": json.dumps(data)}
    return with_entries(path, PENDULUM, **entries)


def test_the_forged_files_are_good_before_they_are_made_bad(tmp_path):
    assert_same_bits(load_policy(sb3_file(tmp_path / "a.zip")), load_policy(PENDULUM))
    torch_file(tmp_path / "a.pt", weights_of(SAFETENSORS))
    assert_same_bits(load_policy(tmp_path / "a.pt"), load_policy(CLEANRL))


class Hostile:
    """Pickles that create the file `witness`: raw, and in place of a tensor in a state dict."""

    def __init__(self, witness: Path):
        self.witness = witness
        self.raw = pickle.dumps(Payload(witness), protocol=2)

    def among_tensors(self, pickled: bytes) -> bytes:
        return pickled[:-2] + b"X\x01\x00\x00\x00x" + self.raw[2:-1] + b"u."


@pytest.mark.parametrize(
    "place", ["plain", "data.pkl", "tensor", "policy.pth", "inside policy.pth"]
)
def test_nothing_is_executed(place, tmp_path):
    hostile = Hostile(tmp_path / "executed")
    path = tmp_path / "policy"
    if place == "plain":
        path.write_bytes(hostile.raw)
    elif place == "data.pkl":
        torch_file(path, {}, change=lambda _: hostile.raw)
    elif place == "tensor":
        torch_file(path, weights_of(SAFETENSORS), change=hostile.among_tensors)
    elif place == "policy.pth":
        with_entries(path, PENDULUM, **{"policy.pth": hostile.raw})
    else:
        sb3_file(path, change=hostile.among_tensors)
    found = {"plain": "pickled", "policy.pth": "damaged"}
    assert_refused(path, found.get(place, f"'{open.__module__}.open'"))  # _io since 3.13
    assert not hostile.witness.exists()
    pickle.loads(hostile.raw).close()  # and this is what it would have done
    assert hostile.witness.exists()


def test_pickles_in_the_settings_are_not_even_decoded(tmp_path):
    hostile = Hostile(tmp_path / "executed")

    def infect(data):
        for value in data.values():
            if isinstance(value, dict) and ":serialized:" in value:
                value[":serialized:"] = base64.b64encode(hostile.raw).decode()

    path = sb3_file(tmp_path / "policy.zip", settings=infect)
    assert_same_bits(load_policy(path), load_policy(PENDULUM))
    assert not hostile.witness.exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: p.replace(b"_rebuild_tensor_v2", b"_rebuild_tensor_v3"), ["_v3", "executed"]),
        (lambda p: p.replace(b"ctorch\nFloatStorage", b"ctorch\nLongStorage"), ["LongStorage"]),
        (lambda p: p.replace(b"ctorch\nFloatStorage", b"ctorc\nFloatStorage"), ["'torc.Float"]),
        (lambda p: p.replace(b"storage", b"stowage"), ["damaged"]),
        (lambda p: p[:-2] + b"X\x01\x00\x00\x00xK\x01u.", ["'x' is no tensor", "state_dict()"]),
        (lambda p: b"\x80\x02K\x01.", ["no state dict", "state_dict()"]),
        (lambda p: p[:-2] + b"ub.", ["damaged"]),  # a state for what cannot have one
        (lambda p: p.replace(b"K\x00(", b"K\x7f("), ["damaged"]),  # an offset past the end
    ],
    ids=["builder", "type", "module", "persistent id", "number", "no dict", "state", "offset"],
)
def test_pickles_of_other_things_than_tensors(change, words, tmp_path):
    torch_file(tmp_path / "policy.pt", weights_of(SAFETENSORS), change=change)
    assert_refused(tmp_path / "policy.pt", *words)


def test_a_pickle_cannot_alter_what_the_next_one_is_read_with(tmp_path):
    """State for the builders themselves, which unpicklers set as attributes unless kept from it."""
    state = b"(N}X\x05\x00\x00\x00buildK\x01st"
    for asked in (b"collections\nOrderedDict", b"torch._utils\n_rebuild_tensor_v2"):
        head = b"\x80\x02c" + asked + b"\n" + state + b"b0"
        torch_file(tmp_path / "policy.pt", {}, change=lambda p, head=head: head + p[2:])
        assert_refused(tmp_path / "policy.pt", "lacks")  # read to the end: an empty state dict
        load_policy(CLEANRL)


def test_torch_s_old_format(tmp_path):
    assert_refused(DATA / "old_format.pth", "before version 1.6", "safetensors")
    content = (DATA / "old_format.pth").read_bytes()
    path = with_entries(tmp_path / "old.zip", PENDULUM, **{"policy.pth": content})
    assert_refused(path, "before version 1.6", "torch.save")


def test_archives_of_other_things(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert_refused(tmp_path / "other.zip", "of no kind that is read", "Baselines3")
    assert_refused(with_entries(tmp_path / "no_data.zip", PENDULUM, data=None), "lacks", "'data'")
    assert_refused(with_entries(tmp_path / "text.zip", PENDULUM, data="{"), "damaged")
    assert_refused(tmp_path, "is a folder", "no checkpoint of Brax", "save_policy")
    assert_refused(tmp_path / "missing.zip", "no policy file", "give the path")


# --- policies that cannot be expressed ------------------------------------------------------------


def class_(name: str) -> str:
    return f"<class '{name}'>"


SETTINGS = [
    (
        {"policy_class": {"__module__": "stable_baselines3.dqn.policies"}},
        ["dqn", "stable_baselines3.sac.policies"],
    ),
    ({"policy_class": {"__module__": "mine"}}, ["'mine'", "stable_baselines3.common.policies"]),
    ({"use_sde": True}, ["use_sde True", "False"]),
    ({"policy_kwargs": {"squash_output": True}}, ["squash_output True"]),
    (
        {"policy_kwargs": {"activation_fn": class_("torch.nn.modules.activation.GELU")}},
        ["GELU", "Tanh", "ReLU"],
    ),
    ({"policy_kwargs": {"activation_fn": class_("mine.Tanh")}}, ["'mine.Tanh'"]),
    ({"policy_kwargs": {"features_extractor_class": class_("mine.CNN")}}, ["'mine.CNN'"]),
    ({"observation_space": {"_shape": [3, 36, 36]}}, ["observation axes 3"]),
    ({"observation_space": {":type:": class_("gymnasium.spaces.dict.Dict")}}, ["'Dict'", "'Box'"]),
    (
        {"action_space": {":type:": class_("gymnasium.spaces.multi_discrete.MultiDiscrete")}},
        ["'MultiDiscrete'", "'Discrete'"],
    ),
]


@pytest.mark.parametrize(("changed", "words"), SETTINGS, ids=[words[0] for _, words in SETTINGS])
def test_settings_that_make_another_function(changed, words, tmp_path):
    def settings(data):
        for name, value in changed.items():
            data[name] = {**data[name], **value} if isinstance(value, dict) else value

    assert_refused(sb3_file(tmp_path / "policy.zip", settings=settings), *words)


def test_a_readable_activation_is_found(tmp_path):
    def settings(data):
        data["policy_kwargs"]["activation_fn"] = class_("torch.nn.modules.activation.ReLU")

    assert load_policy(sb3_file(tmp_path / "policy.zip", settings=settings)).activation == "relu"


SAC = ("actor.latent_pi.0.weight", "actor.mu.weight", "actor.log_std.weight", "critic.qf0.0.weight")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: {name: np.zeros((2, 2)) for name in SAC}, ["holds 'actor.latent_pi.0.weight'"]),
        (lambda t: {**t, "lstm_actor.weight_ih_l0": np.zeros((2, 2))}, ["holds 'lstm_actor"]),
        (lambda t: {**t, "mlp_extractor.policy_net.1.weight": np.ones(8)}, ["policy_net.1"]),
        (lambda t: {**t, "features_extractor.cnn.0.weight": np.ones(8)}, ["features_extractor"]),
        (
            lambda t: {k: v for k, v in t.items() if k != "log_std"},
            ["lacks 'log_std'", "MlpPolicy"],
        ),
        (lambda t: {k: v for k, v in t.items() if k != "action_net.bias"}, ["lacks 'action_net.b"]),
        (lambda t: {**t, "log_std": np.array([[0.1], [0.2]])}, ["(2, 1)", "rows differ"]),
        (lambda t: {**t, "action_net.weight": np.zeros((1, 7))}, ["inconsistent", "policy/2"]),
        (lambda t: {**t, "value_net.weight": np.zeros((8, 1))}, ["inconsistent", "value/2"]),
        (lambda t: {**t, "log_std": np.array([np.nan])}, ["not finite"]),
    ],
    ids=["sac", "lstm", "norm", "cnn", "no log_std", "no bias", "rows", "shape", "turned", "nan"],
)
def test_weights_that_are_no_plain_actor_critic(change, words, tmp_path):
    path = sb3_file(tmp_path / "policy.zip", tensors=change(weights_of(PENDULUM)))
    assert_refused(path, *words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: {"fc1.weight": np.zeros((2, 2))}, ["holds 'fc1.weight'", "actor_mean.*"]),
        (lambda t: {**t, "actor_logstd.weight": np.zeros((1, 8))}, ["holds 'actor_logstd.weight'"]),
        (lambda t: {k: v for k, v in t.items() if k != "critic.0.bias"}, ["lacks 'critic.0.bias'"]),
        (lambda t: {k: v for k, v in t.items() if "actor_mean" not in k}, ["lacks 'actor_mean.0"]),
        (lambda t: {"action_net.weight": np.zeros((1, 8))}, ["Stable-Baselines3", "whole .zip"]),
        (lambda t: {}, ["lacks 'actor_logstd'"]),
    ],
    ids=["sac", "state-dependent std", "half a critic", "no actor", "sb3", "nothing"],
)
@pytest.mark.parametrize("kind", ["torch", "safetensors"])
def test_state_dicts_that_are_no_plain_actor_critic(change, words, kind, tmp_path):
    path, tensors = tmp_path / "policy", change(weights_of(SAFETENSORS))
    if kind == "torch":
        torch_file(path, tensors)
    else:
        save_file(tensors, path)
    assert_refused(path, *words)


def test_rows_of_log_std_that_agree_are_one(tmp_path):
    tensors = weights_of(PENDULUM)
    tensors["log_std"] = np.stack([tensors["log_std"]] * 3)
    path = sb3_file(tmp_path / "policy.zip", tensors=tensors)
    assert_same_bits(load_policy(path), load_policy(PENDULUM))


# --- what the same policies look like elsewhere ---------------------------------------------------


def test_published_agents_of_before_gym_0_20(published):
    """Two that other people trained: their Box, their statistics, and what one of them earns."""
    cheetah, statistics, cartpole = (
        published / "sb3" / name
        for name in ("a2c-halfcheetah.zip", "a2c-halfcheetah-stats.npz", "ppo-cartpole.zip")
    )
    policy = load_policy(cheetah, statistics)
    assert policy.action_box == ActionBox((-1.0,) * 6, (1.0,) * 6)
    assert policy.obs_stats.mean.shape == (17,) and policy.obs_clip == 10.0
    policy = load_policy(cartpole)
    assert (policy.action_box, policy.distribution) == (None, "categorical")
    returns = evaluate(make_env("cartpole"), policy, episodes=4)["return"]
    np.testing.assert_array_equal(returns, 500.0)


@pytest.mark.parametrize("shape", [[3], "(3,)", "(np.int64(3),)"])
def test_spaces_of_all_versions_of_gym(shape, tmp_path):
    def settings(data):
        del data["observation_space"]["_shape"]
        data["observation_space"]["shape"] = shape
        data["action_space"]["shape"] = data["action_space"].pop("_shape")

    found = load_policy(sb3_file(tmp_path / "policy.zip", settings=settings))
    assert_same_bits(found, load_policy(PENDULUM))
    assert found.action_box == ActionBox((-2.0,), (2.0,))


MISSING = {
    "use_sde": ("use_sde",),
    "policy_kwargs": ("policy_kwargs",),
    "policy_class.__module__": ("policy_class", "__module__"),
    "observation_space.shape": ("observation_space", "_shape"),
    "action_space": ("action_space",),
    "action_space.:type:": ("action_space", ":type:"),
    "action_space.low": ("action_space", "low"),
}


@pytest.mark.parametrize("missing", MISSING)
def test_a_missing_setting_is_named(missing, tmp_path):
    def settings(data):
        *above, name = MISSING[missing]
        for key in above:
            data = data[key]
        del data[name]

    path = sb3_file(tmp_path / "policy.zip", settings=settings)
    assert_refused(path, f"lacks the setting {missing!r}", "save method")


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        ("[-2. -2.]", "[2. 2.]", ["action_low 2", "(1,)"]),
        ("[2.]", "[-2.]", ["not below"]),
        ("[nan]", "[2.]", ["not below"]),
        ("[-2. ... -2.]", "[2.]", ["damaged"]),
    ],
)
def test_boxes_that_are_none(low, high, words, tmp_path):
    def settings(data):
        data["action_space"] |= {"low": low, "high": high}

    assert_refused(sb3_file(tmp_path / "policy.zip", settings=settings), *words)


@pytest.mark.parametrize("kind", ["torch", "safetensors"])
@pytest.mark.parametrize(
    "wrapped",
    [
        lambda name: f"_orig_mod.{name}",
        lambda name: f"module.{name}",
        lambda name: f"module._orig_mod.{name}",
        lambda name: name.replace("actor_mean.", "actor_mean._orig_mod."),
    ],
    ids=["compiled", "parallel", "both", "in part"],
)
def test_wrapped_modules(wrapped, kind, tmp_path):
    tensors = {wrapped(name): tensor for name, tensor in weights_of(SAFETENSORS).items()}
    path = tmp_path / "policy"
    torch_file(path, tensors) if kind == "torch" else save_file(tensors, path)
    assert_same_bits(load_policy(path), load_policy(CLEANRL))
    doubled = tensors | weights_of(SAFETENSORS)
    torch_file(path, doubled) if kind == "torch" else save_file(doubled, path)
    assert_refused(path, "more than once", "save one agent alone")


@pytest.mark.parametrize("library", ["cleanrl", "sb3"])
def test_an_actor_alone_has_no_critic(library, tmp_path):
    source = {"cleanrl": SAFETENSORS, "sb3": PENDULUM}[library]
    own = ("critic", "value_net", "mlp_extractor.value_net")
    tensors = {k: v for k, v in weights_of(source).items() if not k.startswith(own)}
    path = tmp_path / "policy"
    torch_file(path, tensors) if library == "cleanrl" else sb3_file(path, tensors=tensors)
    found, whole = load_policy(path), load_policy(source)
    assert not has_critic(found) and has_critic(whole)
    assert_same_bits(found.params.actor, whole.params.actor)
    assert float(state_value(found, jnp.ones(3))) == 0.0


def test_layers_shared_by_actor_and_critic(tmp_path):
    """Before version 1.8: tanh(W x + b) goes into both, and weights are what numpy computes."""
    rng = np.random.default_rng(0)
    sizes = {
        "mlp_extractor.shared_net.0": (5, 3),
        "mlp_extractor.policy_net.0": (4, 5),
        "action_net": (1, 4),
        "value_net": (1, 5),
    }
    tensors = {"log_std": np.zeros(1, np.float32)}
    for name, (rows, columns) in sizes.items():
        tensors[f"{name}.weight"] = rng.standard_normal((rows, columns)).astype(np.float32)
        tensors[f"{name}.bias"] = rng.standard_normal(rows).astype(np.float32)

    def layer(name, x):
        return tensors[f"{name}.weight"] @ x + tensors[f"{name}.bias"]

    obs = np.array([0.3, -0.2, 0.1], np.float32)
    shared, policy_net, action_net, value_net = sizes
    trunk = np.tanh(layer(shared, obs))
    policy = load_policy(sb3_file(tmp_path / "policy.zip", tensors=tensors))
    mean = action_distribution(policy, jnp.asarray(obs)).mode()
    expected = layer(action_net, np.tanh(layer(policy_net, trunk)))
    np.testing.assert_allclose(mean, expected, rtol=1e-5)
    np.testing.assert_allclose(
        state_value(policy, jnp.asarray(obs)), layer(value_net, trunk)[0], rtol=1e-5
    )


def entry(name: str) -> bytes:
    return b"X" + len(name).to_bytes(4, "little") + name.encode()


ARGS = entry("args") + b"}" + entry("seed") + b"K\x01s" + entry("epoch") + b"K\x07"


@pytest.mark.parametrize("name", ["model_weights", "state_dict", "agent"])
def test_a_state_dict_inside_of_a_checkpoint(name, tmp_path):
    """{name: the tensors, "args": {"seed": 1}, "epoch": 7}."""
    torch_file(
        tmp_path / "policy.pt",
        weights_of(SAFETENSORS),
        change=lambda p: b"\x80\x02}(" + entry(name) + p[2:-1] + ARGS + b"u.",
    )
    assert_same_bits(load_policy(tmp_path / "policy.pt"), load_policy(CLEANRL))


def test_checkpoints_that_leave_a_choice_or_none(tmp_path):
    path = tmp_path / "policy.pt"
    twice = lambda p: b"\x80\x02}(" + entry("a") + p[2:-1] + entry("b") + p[2:-1] + b"u."  # noqa: E731
    torch_file(path, weights_of(SAFETENSORS), change=twice)
    assert_refused(path, "'a' is one of several", "torch.save(agent.state_dict(), FILE)")
    torch_file(path, {}, change=lambda p: b"\x80\x02}(" + ARGS + b"u.")
    assert_refused(path, "'args' is no tensor", "torch.save(agent.state_dict(), FILE)")


@pytest.mark.parametrize("dtype", [bool, "complex64"])
def test_tensors_that_are_no_real_numbers(dtype, tmp_path):
    tensors = weights_of(SAFETENSORS)
    tensors["actor_mean.0.weight"] = tensors["actor_mean.0.weight"].astype(dtype)
    try:
        save_file(tensors, tmp_path / "policy")
    except Exception:  # this version of safetensors has no such type
        pytest.skip(f"safetensors writes no {dtype}")
    assert_refused(tmp_path / "policy", "actor_mean.0.weight", "real numbers")


def test_a_hidden_layer_without_units(tmp_path):
    tensors = weights_of(PENDULUM)
    name = "mlp_extractor.policy_net.2"
    tensors[f"{name}.weight"], tensors[f"{name}.bias"] = np.zeros((0, 8)), np.zeros(0)
    tensors["action_net.weight"] = np.zeros((1, 0))
    assert_refused(sb3_file(tmp_path / "policy.zip", tensors=tensors), "has no entry")


# --- what a file says and what is assumed ---------------------------------------------------------


def test_cleanrl_clips_to_the_box_of_the_task():
    policy = load_policy(CLEANRL)
    assert policy.action_box == TASK_BOX
    with np.load(DATA / "cleanrl_continuous.expected.npz") as archive:
        obs, output = archive["seen"], archive["output"]
    limit = np.median(np.abs(output))
    act = numpy_policy(policy, action_box=(-limit, limit))
    np.testing.assert_allclose(act(obs), np.clip(output, -limit, limit), rtol=1e-5, atol=1e-6)
    assert load_policy(DATA / "cleanrl_discrete.pt").action_box is None


def test_activations_are_said_by_the_caller_or_assumed():
    assumed, given = read_policy_file(CLEANRL), read_policy_file(CLEANRL, activation="relu")
    assert assumed.policy.activation == "tanh" and "tanh (assumed" in str(assumed)
    assert given.policy.activation == "relu" and "relu (as given" in str(given)
    assert load_policy(CLEANRL, activation="relu").activation == "relu"
    told = read_policy_file(PENDULUM, VEC_NORMALIZE, activation="tanh")
    assert "tanh (the file says so)" in str(told)
    for words in ("the box in the file", str(VEC_NORMALIZE), "clipped to +-3"):
        assert words in str(told)
    assert "the task's box" in str(assumed) and "raw observations" in str(assumed)
    with pytest.raises(InputError, match=r"says that its activation is 'tanh', not 'relu'"):
        load_policy(PENDULUM, activation="relu")
    with pytest.raises(InputError, match=r"activation 'gelu'"):
        load_policy(CLEANRL, activation="gelu")
