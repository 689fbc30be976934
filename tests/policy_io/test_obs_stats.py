"""Statistics from files of their own: exact conversions, inert pickles."""

import collections
import pickle
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from jaxprune.policy_io import load_policy, save_policy
from jaxprune.policy_io.obs_stats import NO_CLIP, read_normaliser
from jaxprune.validation import InputError
from tests.policy_io.policies import Payload, assert_refused, policy_of

DATA = Path(__file__).parents[1] / "data"
PENDULUM = DATA / "sb3_pendulum.zip"

MEAN, VAR = np.array([0.1, -2.0, 3e4]), np.array([1e-12, 0.25, 7.0])


class RunningMeanStd:
    """Stands for SB3's class of that name: a pickle only says what it is called."""

    def __init__(self, mean=MEAN, var=VAR, count=10.0):
        self.mean, self.var, self.count = mean, var, count


class VecNormalize:
    """Stands for SB3's class of that name, with attributes of all sorts around the needed ones."""

    def __init__(self, **changed):
        self.action_space = collections.OrderedDict(a=collections.deque([1, {2}], 3))
        self.generator = np.random.default_rng(0)
        self.norm_obs, self.obs_rms = True, RunningMeanStd()
        self.clip_obs, self.epsilon = 10.0, 1e-8
        self.__dict__.update(changed)


class NormalizeObservation:
    """Stands for Gymnasium's wrapper of that name."""

    def __init__(self):
        self.env, self.obs_rms, self.epsilon = object(), RunningMeanStd(), 1e-4


class Stranger:
    """Stands for anything else."""

    def __init__(self):
        self.mean = MEAN


def pickled(path, value, protocol=4):
    path.write_bytes(pickle.dumps(value, protocol))
    return path


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_vec_normalize(protocol, tmp_path):
    """x = clip((obs - mean) / sqrt(var + epsilon), +-clip_obs), so the root goes into the std."""
    stats, clip, offset = read_normaliser(pickled(tmp_path / "v.pkl", VecNormalize(), protocol))
    np.testing.assert_array_equal(stats.mean, MEAN.astype(np.float32))
    np.testing.assert_array_equal(stats.std, np.sqrt(VAR + 1e-8).astype(np.float32))
    assert (float(stats.count), clip, offset) == (10.0, 10.0, 0.0)


@pytest.mark.parametrize(
    ("saved", "epsilon"), [(RunningMeanStd(), 1e-8), (NormalizeObservation(), 1e-4)]
)
def test_statistics_of_gymnasium(saved, epsilon, tmp_path):
    """Its wrapper divides by sqrt(var + epsilon) and leaves the clip at 10 to CleanRL."""
    stats, clip, offset = read_normaliser(pickled(tmp_path / "s.pkl", saved))
    np.testing.assert_array_equal(stats.mean, MEAN.astype(np.float32))
    np.testing.assert_array_equal(stats.std, np.sqrt(VAR + epsilon).astype(np.float32))
    assert (float(stats.count), clip, offset) == (10.0, 10.0, 0.0)


def test_statistics_of_the_real_gymnasium(tmp_path):
    saved = gymnasium.wrappers.utils.RunningMeanStd(shape=(3,))
    saved.update(np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]]))
    stats, *_ = read_normaliser(pickled(tmp_path / "s.pkl", saved))
    np.testing.assert_allclose(stats.mean, saved.mean, rtol=1e-6)
    np.testing.assert_allclose(stats.std, np.sqrt(saved.var + 1e-8), rtol=1e-6)


@pytest.mark.parametrize("number", [5, np.float32(5), np.float64(5), np.array(5.0)])
def test_numbers_of_every_type(number, tmp_path):
    saved = VecNormalize(
        clip_obs=number,
        epsilon=number,
        obs_rms=RunningMeanStd(MEAN.astype(">f4"), np.asfortranarray(VAR), number),
    )
    stats, clip, _ = read_normaliser(pickled(tmp_path / "v.pkl", saved))
    np.testing.assert_array_equal(stats.mean, MEAN.astype(np.float32))
    np.testing.assert_array_equal(stats.std, np.sqrt(VAR + 5).astype(np.float32))
    assert clip == 5.0 and float(stats.count) == 5.0


def test_no_clipping_is_a_number_too(tmp_path):
    saved = pickled(tmp_path / "v.pkl", VecNormalize(clip_obs=np.inf))
    assert read_normaliser(saved).clip == NO_CLIP == np.finfo(np.float32).max


@pytest.mark.parametrize("place", ["whole", "attribute", "obs_rms", "mean"])
def test_nothing_is_executed(place, tmp_path):
    witness = tmp_path / "executed"
    payload = Payload(witness)
    saved = {
        "whole": payload,
        "attribute": VecNormalize(spec=payload),
        "obs_rms": VecNormalize(obs_rms=payload),
        "mean": VecNormalize(obs_rms=RunningMeanStd(mean=payload)),
    }[place]
    path = pickled(tmp_path / "v.pkl", saved)
    if place == "attribute":  # of no interest, so it does not matter what it is
        assert read_normaliser(path).clip == 10.0
    else:
        with pytest.raises(InputError, match=r"io\.open" if place == "whole" else "VecNormalize"):
            read_normaliser(path)
    assert not witness.exists()
    pickle.loads(pickle.dumps(payload)).close()  # and this is what it would have done
    assert witness.exists()


def no_obs_rms():
    saved = VecNormalize(norm_obs=False)
    del saved.obs_rms
    return saved


@pytest.mark.parametrize(
    ("saved", "words"),
    [
        (VecNormalize(norm_obs=False), ["normalises no observations"]),
        (no_obs_rms(), ["normalises no observations"]),
        (VecNormalize(obs_rms={"a": RunningMeanStd()}), ["dictionary", "flat"]),
        (Stranger(), ["Stranger", "VecNormalize.save", "RunningMeanStd"]),
        ({"mean": 0}, ["pickle of dict", "VecNormalize.save"]),
        (VecNormalize(obs_rms=RunningMeanStd(mean="x")), ["truncated"]),
        (VecNormalize(obs_rms=RunningMeanStd(mean=np.array([None]))), ["truncated"]),
        (VecNormalize(obs_rms=RunningMeanStd(np.zeros(4), np.ones(4))), ["(4,)", "(3,)"]),
        (VecNormalize(obs_rms=RunningMeanStd(var=np.ones(2))), ["inconsistent"]),
        (VecNormalize(obs_rms=RunningMeanStd(mean=MEAN * np.nan)), ["not finite"]),
        (VecNormalize(epsilon=0.0, obs_rms=RunningMeanStd(var=0 * VAR)), ["not positive"]),
    ],
    ids=[str(i) for i in range(11)],
)
def test_pickles_of_something_else(saved, words, tmp_path):
    path = pickled(tmp_path / "v.pkl", saved)
    with pytest.raises(InputError) as error:
        policy_with(path)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def policy_with(path):
    return load_policy(PENDULUM, path)


@pytest.mark.parametrize("kept", [0, 1, 50, -1])
def test_truncated_pickles(kept, tmp_path):
    data = (DATA / "sb3_pendulum.vecnormalize.pkl").read_bytes()
    (tmp_path / "v.pkl").write_bytes(data[:kept])
    with pytest.raises(InputError, match=r"truncated.*VecNormalize"):
        read_normaliser(tmp_path / "v.pkl")


def test_missing_statistics(tmp_path):
    with pytest.raises(InputError, match=r"no statistics file at .*nowhere.*VecNormalize\.save"):
        policy_with(tmp_path / "nowhere.pkl")


def arrays(path, **values):
    np.savez(path, **values)
    return path


def test_npz_with_variances_gets_the_wrappers_offset_and_clip(tmp_path):
    path = arrays(tmp_path / "s.npz", obs_mean=MEAN, obs_var=VAR, obs_count=7)
    stats, clip, offset = read_normaliser(path)
    np.testing.assert_array_equal(stats.std, np.sqrt(VAR + 1e-8).astype(np.float32))
    assert (float(stats.count), clip, offset) == (7.0, 10.0, 0.0)


def test_npz_with_deviations_divides_by_them(tmp_path):
    path = arrays(tmp_path / "s.npz", obs_mean=MEAN, obs_std=VAR, obs_clip=4)
    stats, clip, offset = read_normaliser(path)
    np.testing.assert_array_equal(stats.std, VAR.astype(np.float32))
    assert (float(stats.count), clip, offset) == (0.0, 4.0, 0.0)


def test_a_policy_of_our_own_can_lend_its_statistics(tmp_path):
    lender = policy_of()
    save_policy(tmp_path / "policy.npz", lender)
    stats, clip, offset = read_normaliser(tmp_path / "policy.npz")
    np.testing.assert_array_equal(stats.std, lender.obs_stats.std)
    assert (clip, offset) == (lender.obs_clip, lender.obs_std_offset)
    assert_refused(tmp_path / "policy.npz", "carries its own", obs_stats=tmp_path / "policy.npz")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"obs_mean": MEAN}, "obs_std, obs_var"),
        ({"obs_var": VAR}, "exactly one of obs_mean"),
        ({"obs_mean": MEAN, "obs_var": VAR, "obs_std": VAR}, "exactly one of obs_std, obs_var"),
        ({"a": MEAN}, "holds a"),
        ({}, "holds nothing"),
        ({"obs_mean": MEAN, "obs_var": VAR, "obs_clip": MEAN}, "truncated"),
        (
            {"obs_mean": MEAN, "obs_var": np.array(["a", "b", "c"])},
            "'obs_var' holds str",
        ),
        ({"obs_mean": MEAN + 1j, "obs_var": VAR}, "'obs_mean' holds complex128"),
        ({"obs_mean": MEAN, "obs_var": VAR, "obs_count": -1}, "obs_count -1 is negative"),
        ({"obs_mean": MEAN, "obs_var": np.array([{}])}, "truncated"),
        ({"obs_mean": MEAN, "obs_std": VAR - 1}, "not positive"),
        ({"obs_mean": MEAN, "obs_var": VAR, "obs_clip": -1.0}, "not positive"),
    ],
    ids=[str(i) for i in range(12)],
)
def test_npz_of_something_else(values, words, tmp_path):
    with pytest.raises(InputError, match=words):
        policy_with(arrays(tmp_path / "s.npz", **values))
