"""Mutated files of every format that is read, each loaded under limits of memory and time.

    python -m tests.policy_io.fuzz 20000        # prints a line of JSON about what came out

A file either loads or is refused in one line. Anything else ends the program: another error, a
crash, 2 seconds, 1 GB more than before, and an audit event of something executed.
"""

import faulthandler
import io
import json
import pickle
import pickletools
import resource
import signal
import sys
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np

from jaxprune.policy_io import load_policy, save_policy
from jaxprune.policy_io.obs_stats import read_normaliser
from jaxprune.validation import InputError
from tests.policy_io.policies import policy_of
from tests.policy_io.test_obs_stats import VecNormalize

DATA = Path(__file__).parents[1] / "data"
POLICIES = ("*.zip", "*.cleanrl_model", "*.pt", "*.safetensors")
STATISTICS = ("*.stats.npz", "*.vecnormalize.pkl")
SECONDS, KILOBYTES = 2.0, 10**6
# Operations that a mutation puts into a pickle: memo indices, lengths, calls, marks, keys.
OPERATIONS = [
    b"r\xff\xff\xff\x0f", b"j\xff\xff\xff\x0f", b"q\xff", b"h\x05", b"\x94", b"2", b"0", b"1",
    b"(", b"t", b"\x85", b"\x86", b"\x87", b"]", b"}", b")", b"N", b"l", b"d", b"a", b"e", b"s",
    b"u", b"b", b"R", b"\x81", b"\x92", b"o", b"Q", b"\x8f", b"\x90", b"\x91", b"\x97", b"\x98",
    b"B\xff\xff\xff\x7f", b"\x8e" + b"\xff" * 8, b"\x8d" + b"\xff" * 7 + b"\x7f",
    b"\x95" + b"\xff" * 8, b"\x8b\xff\xff\xff\x7f", b"J\xff\xff\xff\x7f", b"\x8a\x08" + b"\x7f" * 8,
    b"cos\nsystem\n", b"cbuiltins\neval\n", b"iposix\nabort\n", b"I99999999999999999999\n",
    b"X\x03\x00\x00\x00a\x1bb", b"F1e999\n", b"P1\n", b"S'\\x1b'\n", b"2\x86" * 40,
]  # fmt: skip
EXECUTED = {"os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "pickle.find_class"}


def originals(folder: Path) -> list[tuple[bytes, bool]]:
    """Valid files, and whether each is one of statistics."""
    for name, discrete in (("ours", False), ("discrete", True)):
        save_policy(folder / name, policy_of(discrete=discrete))
    found = [((folder / name).read_bytes(), False) for name in ("ours", "discrete")]
    for patterns, statistics in ((POLICIES, False), (STATISTICS, True)):
        files = [file for pattern in patterns for file in sorted(DATA.glob(pattern))]
        found += [(file.read_bytes(), statistics) for file in files]
    return [*found, *((pickle.dumps(VecNormalize(), protocol), True) for protocol in (3, 4, 5))]


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """One to three changes: of a member where it is an archive, of operations in a pickle."""
    for _ in range(rng.integers(1, 3)):
        if data[:4] == b"PK\x03\x04" and rng.random() < 0.7:
            data = _changed_archive(data, rng)
        elif data[:1] == b"\x80" and rng.random() < 0.6:
            data = _changed_pickle(data, rng)
        else:
            data = _changed_bytes(data, rng)
    return data


def _changed_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    at, length = (int(rng.integers(len(data) + 1)) for _ in range(2))
    match rng.integers(6):
        case 0:
            return data[:at]
        case 1:
            return data[:at] + rng.bytes(int(rng.integers(1, 9))) + data[at:]
        case 2:
            return data[:at] + data[at + length % 64 :]
        case 3:  # a length or an offset
            return data[:at] + rng.choice([b"\xff", b"\x00", b"\x7f"]) * 4 + data[at + 4 :]
        case 4:
            return data[:at] + data[length : length + 64] + data[at:]
        case _:
            return data[:at] + bytes([rng.integers(256)]) + data[at + 1 :]


def _changed_pickle(data: bytes, rng: np.random.Generator) -> bytes:
    """An operation in another's place or between two."""
    try:
        starts = [at for _, _, at in pickletools.genops(data)]
    except Exception:  # an earlier change broke it
        return _changed_bytes(data, rng)
    first = int(rng.integers(len(starts)))
    end = starts[min(first + int(rng.integers(2)), len(starts) - 1)]
    return data[: starts[first]] + OPERATIONS[rng.integers(len(OPERATIONS))] + data[end:]


def _changed_archive(data: bytes, rng: np.random.Generator) -> bytes:
    """A member changed, given twice, left out or named otherwise; whole again, checksums too."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(name, archive.read(name)) for name in archive.namelist()]
    except Exception:  # an earlier change broke it
        return _changed_bytes(data, rng)
    if not members:
        return _changed_bytes(data, rng)
    chosen = int(rng.integers(len(members)))
    name, content = members[chosen]
    match rng.integers(8):
        case 0:
            members.append((name, content[::-1]))
        case 1:
            del members[chosen]
        case 2:
            members[chosen] = (name + "\x1b[31m\n::error::", content)
        case 3:
            members.append(("a/data.pkl", content))
        case _:
            members[chosen] = (name, mutated(content, rng))
    file = io.BytesIO()
    how = int(rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA]))
    with zipfile.ZipFile(file, "w", how) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, how)
    return file.getvalue()


def read(path: Path, statistics: bool) -> None:
    """Loads a file as what it was before it was changed."""
    if statistics:
        read_normaliser(path)
    else:
        load_policy(path)


def _audit(event: str, arguments: tuple) -> None:
    if event in EXECUTED:
        raise SystemExit(f"executed: {event} {arguments}")


def main(count: int, seed: int = 0) -> None:
    """Tries so many files, those of each original in turn."""
    faulthandler.enable()
    rng, outcomes, slowest = np.random.default_rng(seed), Counter(), 0.0
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends a reader that hangs in C too
    with tempfile.TemporaryDirectory() as folder:
        path, sources = Path(folder) / "file", originals(Path(folder))
        for data, statistics in sources:  # warms up, and they are valid
            path.write_bytes(data)
            read(path, statistics)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        warnings.simplefilter("ignore")  # of zipfile, over names that are there twice
        sys.addaudithook(_audit)
        for i in range(count):
            data, statistics = sources[i % len(sources)]
            path.write_bytes(mutated(data, rng))
            signal.setitimer(signal.ITIMER_REAL, 10 * SECONDS)
            cpu = time.process_time()
            try:
                read(path, statistics)
                outcomes["loaded"] += 1
            except InputError as error:
                message = str(error)
                assert message.isprintable(), message
                outcomes["refused"] += 1
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            slowest = max(slowest, time.process_time() - cpu)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert slowest < SECONDS and grown < KILOBYTES, (slowest, grown)
    json.dump({**outcomes, "slowest_s": round(slowest, 3), "grown_MB": grown // 1000}, sys.stdout)


if __name__ == "__main__":
    main(int(sys.argv[1]))
