"""Policies, and ways to look at what became of them, for the tests of this folder."""

import struct
import zipfile
from dataclasses import replace
from functools import cache

import jax
import numpy as np
import pytest

from jaxprune.policy_io import load_policy
from jaxprune.types import ObsStats
from jaxprune.validation import InputError
from tests.policies import drawn_policy


@cache
def policy_of(*, discrete=False, hidden=(8, 6), activation="tanh"):
    """A policy whose every number is odd: subnormal, negative zero, full mantissa."""
    rng = np.random.default_rng(0)
    policy = drawn_policy(4, 3, hidden, discrete=discrete, activation=activation)
    stats = ObsStats(
        mean=rng.standard_normal(4).astype("float32"),
        std=rng.uniform(0.1, 3, 4).astype("float32"),
        count=np.asarray(12345.0, "float32"),
    )
    policy.params.actor["layer_0"]["bias"][:] = [-0.0, 1e-42, 1 / 3, *[0.1] * 5]
    return replace(policy, obs_stats=stats, obs_clip=7.5, obs_std_offset=3e-7)


def lively_policy(**kind):
    """A policy whose actions differ widely from observation to observation."""
    policy, rng = policy_of(**kind), np.random.default_rng(9)
    actor = jax.tree.map(lambda w: rng.standard_normal(w.shape, np.float32), policy.params.actor)
    return replace(policy, params=policy.params._replace(actor=actor))


def assert_same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype and x.shape == y.shape
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def assert_refused(path, *words: str, obs_stats=None):
    """One line that names the path and what to do about it."""
    with pytest.raises(InputError) as error:
        load_policy(path, obs_stats)
    message = str(error.value)
    assert "\n" not in message and str(path) in message
    for word in words:
        assert word in message


class Payload:
    """Unpickling this creates the file."""

    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return (open, (str(self.witness), "w"))


def torch_file(path, tensors, *, item="FloatStorage", change=lambda pickled: pickled):
    """A file as torch.save writes it, float32 in C order; `change` edits its pickle."""

    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    def numbers(*values: int) -> bytes:
        return b"(" + b"".join(b"J" + struct.pack("<i", value) for value in values) + b"t"

    ordered = b"ccollections\nOrderedDict\n)R"
    pickled = b"\x80\x02" + ordered + b"("
    for key, (name, array) in enumerate(tensors.items()):
        storage = b"ctorch\n" + item.encode() + b"\n" + text(str(key)) + text("cpu")
        strides = [step // 4 for step in np.zeros(array.shape, np.float32).strides]
        pickled += text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n(("
        pickled += text("storage") + storage + b"J" + struct.pack("<i", array.size) + b"tQK\x00"
        pickled += numbers(*array.shape) + numbers(*strides) + b"\x89" + ordered + b"tR"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", change(pickled + b"u."))
        archive.writestr("archive/byteorder", "little")
        for key, array in enumerate(tensors.values()):
            archive.writestr(f"archive/data/{key}", np.asarray(array, "<f4").tobytes())
