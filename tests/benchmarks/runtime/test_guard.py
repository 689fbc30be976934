"""How programs end: what their status says, and never a traceback."""

import json
import shutil
import signal
import subprocess
import sys
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from benchmarks import merge
from benchmarks.gate import __main__ as gate
from benchmarks.report import __main__ as report
from benchmarks.runtime import console
from benchmarks.runtime.console import Display
from benchmarks.runtime.guard import guarded
from benchmarks.runtime.preemption import Stopped
from jaxprune.validation import InputError
from tests.benchmarks.made_up_runs import Made, write_run

ROOT = Path(__file__).parents[3]
# Starts Python where a signal counts: nohup and shells have some ignored.
HEEDING = """
import os, signal, sys
signal.signal(int(sys.argv[1]), signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (InputError("eps -1"), 2, "error: eps -1\n"),
        (PermissionError(13, "Permission denied", "x"), 74, "Permission denied: 'x'; kept"),
        (BrokenPipeError(32, "Broken pipe", "of a store"), 74, "Broken pipe: 'of a store'; kept"),
        (Stopped(), 75, "stopped: kept\n"),
        (KeyboardInterrupt(), 130, "interrupted: kept\n"),
        (KeyError("a\nb"), 2, "error: unforeseen KeyError: 'a\\nb' ("),
        (RecursionError("deep"), 2, "JAXPRUNE_TRACEBACK=1 shows where"),
    ],
)
def test_every_end_is_one_line_and_a_status(error, status, words, capsys):
    @guarded("kept")
    def main(argv):
        raise error

    assert main([]) == status
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


def test_a_page_of_help_whose_reader_leaves_ends_in_silence():
    command = [sys.executable, "-m", "benchmarks.compare", "--help"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_the_traceback_is_shown_to_who_asks_for_it(monkeypatch, capsys):
    @guarded("kept")
    def main(argv):
        return 1 // 0

    monkeypatch.setenv("JAXPRUNE_TRACEBACK", "1")
    assert main([]) == 2
    assert "Traceback" in capsys.readouterr().err


def damaged(path: Path, how: str) -> None:
    described = path / "experiment.json"
    if how == "list":
        described.write_text("[]")
    elif how == "number":
        described.write_text(json.dumps({"settings": 7}))
    elif how == "utf-8":
        described.write_bytes(b"\xff\xfe{")
    elif how == "folder":
        (path / "returns.parquet").unlink()
        (path / "returns.parquet").mkdir()
    elif how == "files":
        held = json.loads(described.read_text())
        described.write_text(json.dumps(held | {"files": 3}))


@pytest.mark.parametrize("how", ["list", "number", "utf-8", "folder", "files"])
def test_a_damaged_run_is_never_called_worse(how, tmp_path, capsys):
    made = Made(np.random.default_rng(0), methods=("magnitude",))
    run = write_run(tmp_path / "run", made.tables(np.random.default_rng(1)))
    words = ["--baseline", str(tmp_path / "baseline"), str(run)]
    assert gate.main([*words, "--update"]) == 0
    shutil.copytree(run, tmp_path / "broken")
    damaged(tmp_path / "broken", how)
    words[-1] = str(tmp_path / "broken")
    for main, argv in ((gate.main, words), (report.main, words[-1:]), (merge.main, words[-1:])):
        capsys.readouterr()
        assert main(argv) == 2
        assert capsys.readouterr().err.startswith("error: ")


def test_a_summary_that_cannot_be_written_is_no_verdict(tmp_path, monkeypatch, capsys):
    made = Made(np.random.default_rng(0), methods=("magnitude",))
    run = write_run(tmp_path / "run", made.tables(np.random.default_rng(1)))
    words = ["--baseline", str(tmp_path / "baseline"), str(run)]
    assert gate.main([*words, "--update"]) == 0
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path))
    assert gate.main(words) == 2
    assert "cannot write GITHUB_STEP_SUMMARY" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 75), (signal.SIGHUP, 75), (signal.SIGINT, 130)]
)
def test_a_signal_during_the_imports_ends_without_a_traceback(number, status):
    """As soon as the package is imported, and the modules are not."""
    words = [str(int(number)), "-v", "-m", "benchmarks.run", "--help"]
    process = subprocess.Popen(
        [sys.executable, "-c", HEEDING, *words],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    with process.stderr as said:
        next(line for line in said if "import 'jax'" in line or "import 'rich" in line)
        process.send_signal(number)
        rest = said.read()
    assert process.wait() == status
    assert "Traceback" not in rest and "stopped before it began" in rest


def test_who_reads_the_first_line_only_does_not_stop_the_work():
    words = "from benchmarks.runtime.console import make_console; console = make_console()\n"
    words += "for i in range(3000): console.print('line', i)\n"
    words += "import sys; print('done', file=sys.stderr)"
    process = subprocess.Popen(
        [sys.executable, "-c", words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    with process.stderr:
        said = process.stderr.read()
    process.wait()
    assert (process.returncode, said.split()) == (0, [b"done"])


# --- what is printed ------------------------------------------------------------------------------


def test_a_pipe_is_told_of_every_chunk(monkeypatch: pytest.MonkeyPatch):
    """Ten seconds per computed chunk, of which the first is 20,000 env steps."""
    clock = iter([0.0, 0.0, 10.0, 20.0, 30.0]).__next__
    clocks = SimpleNamespace(monotonic=lambda: now, process_time=lambda: now)
    monkeypatch.setattr(console, "time", clocks)
    file, now = StringIO(), clock()
    with Display(Console(file=file, width=110), 4) as display:
        for stage, resumed, steps in (
            ("train", True, 0),
            ("attack", False, 20_000),
            ("certify", False, 0),
        ):
            display.stage(stage, 1)
            now = clock()
            display.chunk(resumed, steps)
    assert file.getvalue().splitlines() == [
        "train    1 of 4 chunks, resumed",
        "attack   2 of 4 chunks, 2,000 steps/s, about 0:00:20 left",
        "certify  3 of 4 chunks, about 0:00:10 left",
    ]
    assert display.resumed() == "resumed 1 of 4 chunks"
