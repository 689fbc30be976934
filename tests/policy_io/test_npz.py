"""Our own .npz: exact round trips, no surprises from broken files, and nothing executed."""

import pickle
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays as numpy_arrays

from jaxprune.attacks import check_needs
from jaxprune.policy import action_distribution, has_critic, normalise, state_value
from jaxprune.policy_io import load_policy, save_policy
from jaxprune.policy_io.obs_stats import NO_CLIP
from jaxprune.pruning import mask_policy, prune
from jaxprune.types import TASK_BOX, ActionBox, ObsStats
from jaxprune.validation import InputError
from tests.policies import drawn_policy
from tests.policy_io.policies import Payload, assert_refused, assert_same_bits, policy_of
from tests.probes import probe_spec


@pytest.fixture
def saved(tmp_path):
    """A valid file and its arrays, to break."""
    save_policy(tmp_path / "policy.npz", policy_of())
    with np.load(tmp_path / "policy.npz", allow_pickle=False) as archive:
        return tmp_path / "policy.npz", dict(archive)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("hidden", [(8, 6), (8,), (8, 4, 4, 6)])
@pytest.mark.parametrize("discrete", [False, True])
def test_round_trip_is_exact(tmp_path, discrete, hidden, activation):
    policy = policy_of(discrete=discrete, hidden=hidden, activation=activation)
    save_policy(tmp_path / "policy.npz", policy)
    loaded = load_policy(tmp_path / "policy.npz")
    assert_same_bits(policy, loaded)
    for name in ("activation", "distribution", "obs_clip", "obs_std_offset"):
        assert getattr(loaded, name) == getattr(policy, name)


def test_a_network_without_hidden_layers(tmp_path):
    policy = drawn_policy(4, 3, ())
    save_policy(tmp_path / "policy.npz", policy)
    assert_same_bits(policy, load_policy(tmp_path / "policy.npz"))


NUMBERS = st.floats(width=32, allow_nan=False, allow_infinity=False)
POSITIVE = st.floats(2**-100, 2**100, width=32)


@given(
    kernel=numpy_arrays(np.float32, (2, 3), elements=NUMBERS),
    mean=numpy_arrays(np.float32, (2,), elements=NUMBERS),
    std=numpy_arrays(np.float32, (2,), elements=POSITIVE),
    clip=st.floats(1e-30, NO_CLIP),
    offset=st.floats(0, 1e30),
)
def test_any_numbers_round_trip(kernel, mean, std, clip, offset):
    policy = drawn_policy(2, 3, ())
    policy.params.actor["layer_0"]["kernel"] = kernel
    stats = ObsStats(mean, std, np.asarray(7, np.float32))
    policy = replace(policy, obs_stats=stats, obs_clip=clip, obs_std_offset=offset)
    with tempfile.TemporaryDirectory() as folder:
        save_policy(Path(folder) / "policy.npz", policy)
        loaded = load_policy(Path(folder) / "policy.npz")
    assert_same_bits(policy, loaded)
    assert (loaded.obs_clip, loaded.obs_std_offset) == (clip, offset)


def test_masks_are_folded_in(tmp_path):
    policy = policy_of()
    masks = prune(policy, sparsity=0.5)
    save_policy(tmp_path / "policy.npz", policy, masks)
    loaded = load_policy(tmp_path / "policy.npz")
    assert_same_bits(mask_policy(policy, masks), loaded)
    kernels = [loaded.params.actor[f"layer_{i}"]["kernel"] for i in range(3)]
    assert sum(int(np.sum(k == 0)) for k in kernels) == 49  # half of 32 + 48 + 18


@pytest.mark.parametrize("which", ["policy", "masks"])
def test_a_population_is_refused(tmp_path, which):
    policy = policy_of()
    masks = prune(policy, sparsity=[0.1, 0.5]) if which == "masks" else None
    if which == "policy":
        policy = jax.tree.map(lambda x: jnp.stack([x, x]), policy)
    with pytest.raises(InputError, match=r"population \(2,\).*take it first"):
        save_policy(tmp_path / "policy.npz", policy, masks)
    assert not list(tmp_path.iterdir())


def test_the_format_is_the_published_one(saved):
    """Raw arrays with the keys of shared/published/README.md, nothing pickled."""
    path, arrays = saved
    layers = [
        f"{net}/{i}/{leaf}"
        for net in ("policy", "value")
        for i in range(3)
        for leaf in ("kernel", "bias")
    ]
    head = ["obs_mean", "obs_std", "obs_count", "obs_clip", "obs_std_offset"]
    assert set(arrays) == {*head, "activation", "distribution", "log_std", *layers}
    assert arrays["policy/0/kernel"].shape == (4, 8)
    assert all(a.dtype.kind in "fU" for a in arrays.values())
    assert zipfile.is_zipfile(path)


def test_saving_leaves_one_file_and_replaces_an_old_one(tmp_path):
    path = tmp_path / "policy.npz"
    save_policy(path, policy_of())
    save_policy(path, policy_of(discrete=True))
    assert [p.name for p in tmp_path.iterdir()] == ["policy.npz"]
    assert load_policy(path).distribution == "categorical"


def test_a_failed_save_leaves_the_old_file_alone(tmp_path, monkeypatch):
    """The disk fills up after the first bytes: the old policy is still there, and whole."""
    path = tmp_path / "policy.npz"
    save_policy(path, policy_of())

    def full(file, **arrays):
        file.write(b"PK")
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space"):
        save_policy(path, policy_of(discrete=True))
    assert_same_bits(load_policy(path), policy_of())
    assert [p.name for p in tmp_path.iterdir()] == ["policy.npz"]


@pytest.mark.parametrize("name", ["policy", "policy.v2"])
def test_any_file_name_will_do(tmp_path, name):
    save_policy(tmp_path / name, policy_of())
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert_same_bits(load_policy(str(tmp_path / name)), policy_of())


@pytest.mark.parametrize(
    "name", ["ppo-hopper-median", "sappo-convex-hopper-median", "sappo-sgld-hopper-median"]
)
def test_published_policies_load(published, name):
    """Against the arrays themselves: 11-64-64-3 tanh, and the mean of one action by numpy."""
    path = published / f"{name}.npz"
    policy = load_policy(path)
    assert (policy.activation, policy.distribution) == ("tanh", "normal")
    assert (policy.obs_clip, policy.obs_std_offset) == (10.0, 1e-8)
    with np.load(path, allow_pickle=False) as archive:
        raw = {k: archive[k].astype(np.float64) for k in archive if archive[k].dtype.kind == "f"}
    obs = raw["obs_mean"] + np.linspace(-2, 12, 11) * raw["obs_std"]
    x = np.clip((obs - raw["obs_mean"]) / (raw["obs_std"] + 1e-8), -10, 10)
    outputs = {}
    for net in ("policy", "value"):
        y = x
        for i in range(3):
            y = y @ raw[f"{net}/{i}/kernel"] + raw[f"{net}/{i}/bias"]
            y = np.tanh(y) if i < 2 else y
        outputs[net] = y
    seen = normalise(policy, jnp.asarray(obs, jnp.float32))
    np.testing.assert_allclose(seen, x, rtol=1e-4, atol=1e-4)
    pi = action_distribution(policy, jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(pi.mode(), outputs["policy"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(pi.log_std, raw["log_std"], rtol=1e-6)
    value = state_value(policy, jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(value, outputs["value"][0], rtol=1e-4, atol=1e-4)


def test_missing_file(tmp_path):
    assert_refused(tmp_path / "nowhere.npz", "no policy file", "give the path")


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.9, -1])
def test_truncated_file(saved, kept):
    path, _ = saved
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    assert_refused(path, "truncated", "save_policy")


def test_flipped_bytes_never_escape_as_another_error(saved):
    """300 files with up to three random bytes: refused, or read as a whole policy."""
    path, _ = saved
    data, rng = path.read_bytes(), np.random.default_rng(0)
    outcomes = set()
    for _ in range(300):
        broken = bytearray(data)
        for _ in range(int(rng.integers(1, 4))):
            broken[rng.integers(len(broken))] = rng.integers(256)
        path.write_bytes(broken)
        try:
            load_policy(path)
            outcomes.add("read")
        except InputError as error:
            assert "\n" not in str(error)
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def test_pickles_are_refused_and_nothing_is_executed(saved, tmp_path):
    path, arrays = saved
    witness = tmp_path / "executed"
    payload = Payload(witness)

    path.write_bytes(pickle.dumps(payload))  # a raw pickle named .npz
    assert_refused(path, "pickled", "save_policy")

    for name in ("policy/0/kernel", "activation", "extra"):  # an object array in a .npz
        with open(path, "wb") as file:
            np.savez(file, **{**arrays, name: np.array([payload], object)})
        assert_refused(path, "pickled", "save_policy")

    assert not witness.exists()
    pickle.loads(pickle.dumps(payload)).close()  # and this is what it would have done
    assert witness.exists()


@pytest.mark.parametrize("content", ["npy", "text", "zip", "folder"])
def test_other_kinds_of_file(tmp_path, content):
    path = tmp_path / "policy.npz"
    if content == "npy":
        with open(path, "wb") as file:
            np.save(file, np.zeros(3))
    elif content == "text":
        path.write_text("obs_mean: 0\n")
    elif content == "folder":
        path.mkdir()
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("readme.txt", "hello")
    assert_refused(path, "save_policy")


def rewrite(path, arrays):
    with open(path, "wb") as file:
        np.savez(file, **arrays)


@pytest.mark.parametrize("discrete", [False, True])
def test_a_missing_key(tmp_path, discrete):
    """Every key in turn."""
    path = tmp_path / "policy.npz"
    save_policy(path, policy_of(discrete=discrete))
    with np.load(path, allow_pickle=False) as archive:
        arrays = dict(archive)
    for name in arrays:
        rewrite(path, {k: v for k, v in arrays.items() if k != name})
        assert_refused(path)


@pytest.mark.parametrize(
    "name", ["obs_mean", "activation", "log_std", "policy/0/kernel", "value/1/bias"]
)
def test_the_message_names_the_missing_key(saved, name):
    path, arrays = saved
    rewrite(path, {k: v for k, v in arrays.items() if k != name})
    assert_refused(path, f"lacks {name!r}", "save_policy")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("obs_mean", np.zeros(3)),
        ("obs_mean", np.zeros((4, 1))),
        ("obs_std", np.ones(5)),
        ("obs_count", np.zeros(3)),
        ("obs_clip", np.ones(2)),
        ("obs_clip", np.array("wide")),
        ("log_std", np.zeros(2)),
        ("log_std", np.zeros((3, 1))),
        ("policy/0/kernel", np.zeros((8, 4))),  # transposed
        ("policy/0/kernel", np.zeros((4, 8, 1))),
        ("policy/1/bias", np.zeros(5)),
        ("policy/1/bias", np.zeros(())),
        ("policy/2/kernel", np.zeros((6, 2))),
        ("value/2/kernel", np.zeros((6, 3))),
    ],
)
def test_wrong_shapes(saved, name, value):
    path, arrays = saved
    rewrite(path, {**arrays, name: value})
    assert_refused(path, "inconsistent")


def test_a_critic_with_several_outputs(saved):
    path, arrays = saved
    rewrite(path, {**arrays, "value/2/kernel": np.zeros((6, 3)), "value/2/bias": np.zeros(3)})
    assert_refused(path, "inconsistent")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "name", ["policy/1/kernel", "value/0/bias", "log_std", "obs_mean", "obs_std", "obs_clip"]
)
def test_numbers_that_are_not_finite(saved, name, value):
    path, arrays = saved
    bad = np.array(arrays[name])
    bad[(0,) * bad.ndim] = value
    rewrite(path, {**arrays, name: bad})
    assert_refused(path, "not finite")


@pytest.mark.parametrize(
    ("name", "value"), [("obs_std", -0.5), ("obs_std", -3e-7), ("obs_clip", 0.0), ("obs_clip", -1)]
)
def test_normalisers_that_divide_by_nothing_or_let_nothing_through(saved, name, value):
    path, arrays = saved  # whose offset is 3e-7
    rewrite(path, {**arrays, name: np.full_like(arrays[name], value)})
    assert_refused(path, "not positive")


def test_no_layers_at_all(saved):
    path, arrays = saved
    rewrite(path, {k: v for k, v in arrays.items() if not k.startswith("policy")})
    assert_refused(path, "lacks 'policy/0/kernel'")


def test_a_controller_needs_no_critic(saved):
    """It acts as before; only attacks by its critic are refused, with another one to use."""
    path, arrays = saved
    whole = load_policy(path)
    rewrite(path, {k: v for k, v in arrays.items() if not k.startswith("value")})
    actor = load_policy(path)
    assert has_critic(whole) and not has_critic(actor)
    obs = np.linspace(-1, 1, len(arrays["obs_mean"]))
    for policy in (whole, actor):
        assert np.shape(state_value(policy, normalise(policy, obs))) == ()
    before, after = (action_distribution(p, normalise(p, obs)).mode() for p in (whole, actor))
    np.testing.assert_array_equal(before, after)
    spec = probe_spec("probe", 1)
    check_needs("critic", spec, whole)
    with pytest.raises(InputError, match=r"'critic' needs the critic of the victim.*use rs"):
        check_needs("critic", spec, actor)


@pytest.mark.parametrize("name", ["activation", "distribution"])
def test_unknown_members(saved, name):
    path, arrays = saved
    rewrite(path, {**arrays, name: np.array("gelu")})
    assert_refused(path, f"unknown {name}", "'gelu'", "choose from")


@pytest.mark.parametrize("box", [TASK_BOX, ActionBox((-1.0, -0.4, -np.inf), (1.0, 0.4, np.inf))])
def test_the_box_of_the_actions_is_kept(box, tmp_path):
    path = tmp_path / "policy.npz"
    save_policy(path, replace(policy_of(), action_box=box))
    assert load_policy(path).action_box == box
    with np.load(path) as archive:
        has = archive.files
    assert ("action_box" in has, "action_low" in has) == (box == TASK_BOX, box != TASK_BOX)


WRONG = {
    "complex": (lambda x: x + 1j, "'policy/0/kernel' holds complex64"),
    "text": (lambda x: x.astype(str), "'policy/0/kernel' holds str"),
    "date": (lambda x: x.astype("datetime64[s]"), "'policy/0/kernel' holds datetime64[s]"),
    "duration": (lambda x: x.astype("timedelta64[s]"), "'policy/0/kernel' holds timedelta64[s]"),
    "truth": (lambda x: x > 0, "'policy/0/kernel' holds bool"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_weights_that_are_no_real_numbers(saved, kind):
    path, arrays = saved
    change, words = WRONG[kind]
    np.savez(path, **{**arrays, "policy/0/kernel": change(arrays["policy/0/kernel"])})
    assert_refused(path, words, "real numbers")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"obs_count": np.float32(-1)}, ["obs_count -1 is negative"]),
        ({"obs_mean": np.full(4, 1j)}, ["'obs_mean' holds complex128"]),
        (
            {
                "policy/1/kernel": np.zeros((8, 0)),
                "policy/1/bias": np.zeros(0),
                "policy/2/kernel": np.zeros((0, 3)),
            },
            ["has no entry"],
        ),
        ({"action_low": np.zeros(3)}, ["lacks 'action_high'"]),
        ({"action_low": np.zeros(2), "action_high": np.ones(2)}, ["action_low 2", "(3,)"]),
        ({"action_low": np.ones(3), "action_high": np.zeros(3)}, ["not below"]),
        ({"action_box": np.str_("mine")}, ["not 'task'"]),
    ],
    ids=["count", "statistics", "no units", "half a box", "size", "order", "box"],
)
def test_numbers_that_make_no_policy(saved, changed, words):
    path, arrays = saved
    np.savez(path, **{**arrays, **changed})
    assert_refused(path, *words)


def test_choices_are_not_clipped(tmp_path):
    save_policy(tmp_path / "p.npz", replace(policy_of(discrete=True), action_box=TASK_BOX))
    assert_refused(tmp_path / "p.npz", "actions that are choices")


def test_the_activation_of_our_own_file_is_not_for_others_to_say(saved):
    path, _ = saved
    assert load_policy(path, activation="tanh").activation == "tanh"
    with pytest.raises(InputError, match="says that its activation is 'tanh'"):
        load_policy(path, activation="relu")
