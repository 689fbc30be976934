"""Two processes, one folder."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.runtime.lock import LOCK, hold
from benchmarks.runtime.run_folder import RunFolder
from jaxprune.validation import InputError

HOLDER = """
import sys, time
from pathlib import Path
from benchmarks.runtime.lock import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_process_is_told_who_writes_and_the_kernel_lets_go(tmp_path: Path):
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    process = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    with pytest.raises(InputError, match=rf"written by process {process.pid} on \S+ since 20"):
        hold(tmp_path)
    with pytest.raises(InputError, match="choose another --out"):
        RunFolder(tmp_path, {}).locked().__enter__()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with hold(tmp_path):
        assert f"process {os.getpid()} " in (tmp_path / LOCK).read_text()
    assert not list(tmp_path.iterdir())


def test_a_lock_that_its_holder_removes_meanwhile_is_made_anew(tmp_path: Path, monkeypatch):
    """A process that opened the file just before must not hold a lock that no other sees."""
    stat, removed = os.stat, []

    def first_removed(path, **options):
        if path == tmp_path / LOCK and not removed:
            removed.append(path)
            os.unlink(path)
        return stat(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", first_removed)
        lock = hold(tmp_path)
    with lock, pytest.raises(InputError, match="is being written by"):
        hold(tmp_path)
    assert removed == [tmp_path / LOCK]


def test_without_locks_of_the_file_system_nobody_is_kept_out(tmp_path: Path, monkeypatch):
    fcntl = pytest.importorskip("fcntl", reason="no locks on this system")

    def unsupported(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with hold(tmp_path), hold(tmp_path):
        assert (tmp_path / LOCK).exists()
    assert not list(tmp_path.iterdir())
