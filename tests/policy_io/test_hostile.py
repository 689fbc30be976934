"""Files made to exhaust memory or time, to hang, or to write to a terminal."""

import io
import json
import os
import pickle
import socket
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from benchmarks.run import main
from jaxprune.policy_io import load_exported, load_policy, save_policy
from jaxprune.policy_io.obs_stats import read_normaliser
from jaxprune.validation import InputError
from tests.policy_io.policies import assert_same_bits, policy_of, torch_file
from tests.policy_io.test_obs_stats import RunningMeanStd, VecNormalize

MEGABYTE = 10**6


def assert_refused_cheaply(read, path):
    """One printable line that names the file, for at most 20 MB."""
    tracemalloc.start()
    try:
        with pytest.raises(InputError) as error:
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 20 * MEGABYTE
    finally:
        tracemalloc.stop()
    assert str(error.value).isprintable() and str(path) in str(error.value)


# --- pickles --------------------------------------------------------------------------------------


def nested(number_of_levels: int) -> list:
    """2 to the power of this many numbers, in as many lists."""
    held = [0.0, 0.0]
    for _ in range(number_of_levels):
        held = [held, held]
    return held


BOMBS = {
    "memo index": b"\x80\x02Nr\xff\xff\xff\x0f.",
    "memo index in text": b"Np268435455\n.",
    "length": b"\x80\x04B\xff\xff\xff\x7f.",
    "long length": b"\x80\x04\x8d" + b"\xff" * 7 + b"\x0f.",
    "frame": b"\x80\x04\x95" + b"\xff" * 7 + b"\x0fN.",
    "tuples as keys": b"\x80\x02})" + b"2\x86" * 60 + b"Ns.",
    "tuples in a set": b"\x80\x04\x8f()" + b"2\x86" * 60 + b"\x90.",
    "depth": b"\x80\x02" + b"]" * 10**5 + b"a" * (10**5 - 1) + b".",
    "operations": b"\x80\x02" + b"N0" * 10**6 + b"N.",
    "copied arguments": (
        b"\x80\x02(" + b"N" * 9000 + b"tq\x000ca\nb\nq\x01" + b"h\x01h\x00R0" * 2500 + b"N."
    ),
    "numbers in lists": pickle.dumps(VecNormalize(obs_rms=RunningMeanStd(mean=nested(40)))),
}


@pytest.mark.parametrize("name", BOMBS)
def test_pickle_bombs(name, tmp_path):
    path = tmp_path / "statistics.pkl"
    path.write_bytes(BOMBS[name])
    assert_refused_cheaply(read_normaliser, path)
    torch_file(tmp_path / "policy.pt", {}, change=lambda _: BOMBS[name])
    assert_refused_cheaply(load_policy, tmp_path / "policy.pt")


def test_a_tensor_whose_size_is_no_size(tmp_path):
    """The product of this size would repeat the inner tuple a hundred million times."""
    size = b"(J\x02\x00\x00\x00J\x03\x00\x00\x00t"

    def change(pickled):
        assert size in pickled
        return pickled.replace(size, b"J\x00\xe1\xf5\x05N\x85\x86")

    torch_file(tmp_path / "policy.pt", {"a": np.zeros((2, 3))}, change=change)
    assert_refused_cheaply(load_policy, tmp_path / "policy.pt")


# --- archives and arrays --------------------------------------------------------------------------


def rewritten(path: Path, **members: bytes) -> Path:
    """A policy of our own in which these members differ or are added."""
    save_policy(path, policy_of())
    with zipfile.ZipFile(path) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (held | members).items():
            archive.writestr(name, content)
    return path


def npy(dtype: str, shape: tuple[int, ...], data: bytes) -> bytes:
    file = io.BytesIO()
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + data


def bomb(path: Path, name: str) -> Path:
    """A policy with a member of 320 MB of zeros, which take 1.4 MB in the file."""
    rewritten(path)
    with zipfile.ZipFile(path) as archive:
        held = {n: archive.read(n) for n in archive.namelist() if n != name}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for member, content in held.items():
            archive.writestr(member, content)
        with archive.open(name, "w", force_zip64=True) as file:
            for _ in range(20):
                file.write(bytes(2**24))
    return path


def test_a_member_that_inflates_without_end(tmp_path):
    assert_refused_cheaply(load_policy, bomb(tmp_path / "used.npz", "policy/0/kernel.npy"))
    unused = bomb(tmp_path / "unused.npz", "unused")
    tracemalloc.start()
    policy = load_policy(unused)
    assert tracemalloc.get_traced_memory()[1] < 20 * MEGABYTE
    tracemalloc.stop()
    assert_same_bits(policy, policy_of())


def test_a_member_that_says_it_is_small(tmp_path):
    path = bomb(tmp_path / "policy.npz", "policy/0/kernel.npy")
    data = path.read_bytes()
    size = struct.pack("<I", 20 * 2**24)
    directory = data.rindex(size)
    path.write_bytes(data[:directory] + struct.pack("<I", 1000) + data[directory + 4 :])
    assert_refused_cheaply(load_policy, path)


@pytest.mark.parametrize(
    "content",
    [
        npy("<f4", (10**12,), bytes(16)),
        npy("<f4", (10**12, 10**12), bytes(16)),
        npy("<U1000000000", (1,), b"tanh"),
        npy("|O", (1,), pickle.dumps([None])),
        npy("<U1", (), b"\x00\x00\x11\x00"),  # one past the last character of Unicode
        npy(">U1", (), b"\xff\xff\xff\xff"),
        npy("<U1", (), b"\x1b\x00\x00\x00"),
        b"\x93NUMPY\x01\x00" + struct.pack("<H", 9999) + b"(" * 9999,
    ],
    ids=["terabyte", "more", "text", "object", "character", "other order", "escape", "depth"],
)
def test_headers_that_promise_what_the_file_does_not_hold(content, tmp_path):
    path = rewritten(tmp_path / "policy.npz", **{"activation.npy": content})
    assert_refused_cheaply(load_policy, path)


def test_two_members_of_one_name(tmp_path):
    path = rewritten(tmp_path / "policy.npz")
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("activation.npy", b"")
    assert_refused_cheaply(load_policy, path)


def test_a_header_of_safetensors_that_is_too_long(tmp_path):
    path, header = tmp_path / "policy", b"{" + b" " * 2**21 + b"}"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    assert_refused_cheaply(load_policy, path)


# --- what is no file ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "socket", "large"])
def test_only_regular_files_of_some_size_are_opened(kind, tmp_path, monkeypatch):
    path = tmp_path / "x"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        monkeypatch.chdir(tmp_path)  # names of sockets are short
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind("x")
    else:
        with open(path, "wb") as file:
            file.truncate(2**40)
    for read in (load_policy, read_normaliser, load_exported):
        assert_refused_cheaply(read, path)


# --- text -----------------------------------------------------------------------------------------


def test_the_command_line_gives_one_printable_line(tmp_path, capsys):
    ugly = "tanh\x1b[2J\n::error::\u202ex\ud800" + "y" * 10**5
    content = npy(f"<U{len(ugly)}", (), np.array([ord(c) for c in ugly], "<u4").tobytes())
    path = rewritten(tmp_path / "policy.npz", **{"activation.npy": content})
    status = main(["--env", "pendulum", "--policy", str(path), "--out", str(tmp_path / "out")])
    captured = capsys.readouterr()
    assert status == 2 and captured.err.count("\n") == 1 and len(captured.err) < 5000
    assert captured.err.strip().isprintable() and "choose from" in captured.err
    assert not captured.out.count("\x1b") and not (tmp_path / "out").exists()


# --- many -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [300, pytest.param(20_000, marks=pytest.mark.slow)])
def test_mutated_files_load_or_are_refused(count):
    program = [sys.executable, "-m", "tests.policy_io.fuzz", str(count)]
    done = subprocess.run(
        program, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["loaded"] > 0 and found["loaded"] + found["refused"] == count
