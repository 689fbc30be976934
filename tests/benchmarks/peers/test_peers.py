"""Programs of others beside ours: the pipe between, the ratios, and who is left out."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import throughput
from benchmarks.peers import __main__ as environments
from benchmarks.peers import sides
from benchmarks.peers.compare import rates_of, table_of, take_turns
from benchmarks.peers.process import PeerError, PeerProcess, Turn
from benchmarks.peers.registry import (
    HERE,
    MADE_FROM,
    PEERS,
    Comparison,
    Peer,
    default_folder,
    missing,
    program_of,
    requirements_of,
)
from benchmarks.rates import calls

BEGIN = f"import sys; sys.path.insert(0, {str(HERE / 'programs')!r})\n"
BEGIN += "from serve import read_settings, turns\n"
# Interval bounds of actors with tanh, in NumPy.
INTERVALS = """
import numpy as np
settings = read_settings()

def box(layers):
    low, high = (np.array(settings["obs"]) + sign * settings["eps"] for sign in (-1, 1))
    for i, (weight, bias) in enumerate(layers):
        positive, negative = np.maximum(weight, 0), np.minimum(weight, 0)
        if i:
            low, high = np.tanh(low), np.tanh(high)
        low, high = (
            low @ positive.T + high @ negative.T + bias,
            high @ positive.T + low @ negative.T + bias,
        )
    return low, high

low, high = (np.stack(ends).tolist() for ends in zip(*map(box, settings["actors"])))
for _ in turns(len(low) * len(low[0]), ("numpy",), low=low, high=high):
    box(settings["actors"][0])
"""


@pytest.fixture(autouse=True)
def devices_are_set(monkeypatch):
    """The tests' own devices and cores stay."""
    monkeypatch.setattr(throughput.devices, "configure", lambda: None)
    monkeypatch.setattr(sides, "on_one_core", lambda: None)


@pytest.fixture
def write(tmp_path):
    """Writes a peer's program, and returns its command."""

    def program(text: str) -> list[str]:
        (tmp_path / "program.py").write_text(BEGIN + text)
        return [sys.executable, str(tmp_path / "program.py")]

    return program


@pytest.fixture
def register(tmp_path, monkeypatch):
    """Makes programs the only peers; they compute one bound of cartpole's policies."""

    def register(own_environment: bool = False, **programs: str) -> None:
        bound = Comparison("bound by ibp", "bounds", {"env": "cartpole", "bounds": ("ibp",)}, {})
        for name in list(PEERS):
            monkeypatch.delitem(PEERS, name)
        for name, text in programs.items():
            (tmp_path / f"{name}.py").write_text(BEGIN + text)
            peer = Peer(str(tmp_path / f"{name}.py"), (bound,), own_environment)
            monkeypatch.setitem(PEERS, name, peer)

    return register


SMALL = ["--masks", "3", "--states", "4", "--hidden", "8", "--repeats", "3"]


def test_a_program_answers_each_request_and_what_its_libraries_print_is_no_answer(write):
    text = "import os\nsettings = read_settings()\nprint('loading')\nos.system('echo loading')\n"
    text += "for _ in turns(settings['steps'], ('numpy',), seen=settings):\n    print('working')\n"
    with PeerProcess(write(text), {"steps": 12}) as peer:
        assert peer.facts["seen"] == {"steps": 12}
        assert list(peer.facts["versions"]) == ["numpy"]
        turns = [peer.turn(), peer.turn()]
    assert all(turn.work == 12 and turn.seconds > 0 <= turn.cpu_seconds for turn in turns)
    assert peer._process.returncode == 0


@pytest.mark.parametrize(
    "text",
    [
        "raise ValueError('broken')",
        "read_settings()\nfor _ in turns(1, ()):\n    raise ValueError('broken')",
    ],
    ids=["before it is ready", "in a turn"],
)
def test_a_program_that_ends_is_told_by_its_last_line(write, text):
    with (
        pytest.raises(PeerError, match=r"^ValueError: broken$"),
        PeerProcess(write(text), {}) as peer,
    ):
        peer.turn()


def test_an_environment_without_its_python_is_told(tmp_path):
    with pytest.raises(PeerError, match=r"python does not start \(No such file or directory\)"):
        PeerProcess([str(tmp_path / "python")], {})


def test_both_sides_take_turns():
    order = []

    class Theirs:
        def turn(self):
            order.append("theirs")
            return Turn(6, 2.0, 1.0)

    pairs = take_turns(lambda: order.append("ours"), 5, Theirs(), 2)
    assert order == ["ours", "theirs"] * 2
    assert [ours.work for ours, _ in pairs] == [5, 5]
    assert [theirs for _, theirs in pairs] == [Turn(6, 2.0, 1.0)] * 2


def test_a_ratio_is_that_of_neighbours():
    """The machine became 10 times slower on the way; ours stayed twice as fast but for one pair."""
    pairs = [
        (Turn(10, 1.0, 0.5), Turn(20, 4.0, 4.0)),
        (Turn(10, 10.0, 0.5), Turn(20, 40.0, 4.0)),
        (Turn(10, 20.0, 0.5), Turn(20, 40.0, 4.0)),
    ]
    rates = rates_of(pairs, "seconds")
    assert rates["ours"] == {"median": 1.0, "low": 0.5, "high": 10.0}
    assert rates["theirs"] == {"median": 0.5, "low": 0.5, "high": 5.0}
    assert rates["ratio"] == {"median": 2.0, "low": 1.0, "high": 2.0}
    by_cpu = rates_of(pairs, "cpu_seconds")
    assert by_cpu["ratio"] == {"median": 4.0, "low": 4.0, "high": 4.0}


def test_the_table_has_room_on_a_terminal():
    pairs = [(Turn(1_234_567, 1.0, 1.0), Turn(10**6, 1.0, s)) for s in (1.0, 1.0, 1.1)]
    rates = rates_of(pairs, "cpu_seconds")
    what = max((c.what for peer in PEERS.values() for c in peer.comparisons), key=len)
    rows = [{"peer": name, "what": what, "per_cpu_second": rates} for name in PEERS]
    console = throughput.make_console()
    console.width = 80
    with console.capture() as told:
        console.print(table_of(rows, 3))
    lines = told.get().splitlines()
    assert max(map(len, lines)) <= 80
    assert sum("1,234,567" in x and "1.23 [1.23, 1.36]" in x for x in lines) == len(PEERS)


def test_a_peer_computes_the_same_bounds_and_is_timed(register, tmp_path, capsys):
    register(intervals=INTERVALS)
    figures = tmp_path / "figures.json"
    assert throughput.main(["--peers", *SMALL, "--json", str(figures)]) == 0
    assert "bound by ibp: bounds differ by at most" in capsys.readouterr().out
    written = json.loads(figures.read_text())
    (row,) = written["peers"]
    assert (row["peer"], row["what"], row["unit"]) == (
        "intervals",
        "bound by ibp",
        calls.PAIRS,
    )
    assert row["largest_difference"] < 1e-9 and list(row["versions"]) == ["numpy"]
    for clock in ("per_second", "per_cpu_second"):
        assert all(x["low"] <= x["median"] <= x["high"] for x in row[clock].values())
    assert written["skipped"] == {} and written["settings"]["repeats"] == 3
    assert written["cores"] and written["versions"]["jax"]


def test_bounds_of_other_weights_differ(register, tmp_path):
    register(intervals=INTERVALS.replace("+ bias", "+ 1.001 * np.array(bias) + 1e-3"))
    figures = tmp_path / "figures.json"
    assert throughput.main(["--peers", *SMALL, "--json", str(figures)]) == 0
    (row,) = json.loads(figures.read_text())["peers"]
    assert row["largest_difference"] > 1e-4


def test_a_broken_peer_is_left_out_with_a_reason_and_the_others_are_measured(
    register, tmp_path, capsys
):
    register(broken="import nothing_of_that_name", intervals=INTERVALS)
    figures = tmp_path / "figures.json"
    assert throughput.main(["--peers", *SMALL, "--json", str(figures)]) == 0
    told = capsys.readouterr().err.splitlines()
    reason = "its program failed: ModuleNotFoundError: No module named 'nothing_of_that_name'"
    assert told == ["beside broken ...", "beside intervals ...", f"broken is left out: {reason}"]
    written = json.loads(figures.read_text())
    assert written["skipped"] == {"broken": reason}
    assert [row["peer"] for row in written["peers"]] == ["intervals"]


def test_a_peer_without_an_environment_is_told_how_it_is_made(tmp_path, capsys):
    assert throughput.main(["--peers", "brax", "--peer-folder", str(tmp_path)]) == 2
    first, last = capsys.readouterr().err.splitlines()
    remedy = f"python -m benchmarks.peers brax --folder {tmp_path}"
    assert first == f"brax is left out: it has no environment: {remedy}"
    assert last.startswith("error: no peer was measured")


def test_a_wrong_peer_is_refused_in_one_line(capsys):
    for program in (throughput.main, environments.main):
        words = ["--peers", "braks"] if program is throughput.main else ["braks"]
        assert program(words) == 2
        told = capsys.readouterr().err
        assert "unknown peer 'braks': did you mean 'brax'?" in told and told.count("\n") == 1


class Pip:
    """In place of venv and pip: notes what is to be installed."""

    def __init__(self, monkeypatch, status=0):
        self.status, self.installed = status, []
        monkeypatch.setattr(environments.venv, "create", self.create)
        monkeypatch.setattr(environments.subprocess, "run", self.run)

    def create(self, folder, clear, with_pip):
        assert clear and with_pip
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MADE_FROM).unlink(missing_ok=True)

    def run(self, words, check):
        del check
        assert words[1:5] == ["-m", "pip", "install", "--quiet"]
        self.installed.append(words[5:])
        return subprocess.CompletedProcess(words, self.status)


def test_an_environment_is_made_once_and_again_for_other_versions(tmp_path, monkeypatch, capsys):
    pip, words = Pip(monkeypatch), ["auto_lirpa", "--folder", str(tmp_path)]
    assert environments.main(words) == environments.main(words) == 0
    assert f"auto_lirpa is ready: {tmp_path / 'auto_lirpa'}" in capsys.readouterr().out
    requirements = ["-r", str(requirements_of("auto_lirpa"))]
    assert pip.installed == [requirements, ["--no-deps", "auto_LiRPA==0.3"]]
    assert missing("auto_lirpa", tmp_path) is None

    (tmp_path / "auto_lirpa" / MADE_FROM).write_text("torch==1.0\n")
    assert "its environment is of other versions" in str(missing("auto_lirpa", tmp_path))
    assert environments.main(words) == 0 and len(pip.installed) == 4


def test_an_environment_that_pip_could_not_fill_is_none(tmp_path, monkeypatch, capsys):
    Pip(monkeypatch, status=1)
    assert environments.main(["rejax", "--folder", str(tmp_path)]) == 2
    assert "pip could not install what rejax needs" in capsys.readouterr().err
    assert "it has no environment" in str(missing("rejax", tmp_path))


def test_every_peer_has_its_program_and_exact_versions():
    for name, peer in PEERS.items():
        assert program_of(peer).exists()
        assert {x.kind for x in peer.comparisons} <= sides.SIDES.keys()
        if peer.own_environment:
            lines = requirements_of(name).read_text().splitlines()
            packages = [*peer.without_dependencies, *(x for x in lines if x[0] != "#")]
            assert all(package.count("==") == 1 for package in packages)
    listed = {f"requirements-{name}.txt" for name, peer in PEERS.items() if peer.own_environment}
    assert listed == {path.name for path in Path(HERE).glob("*.txt")}


@pytest.mark.slow
@pytest.mark.parametrize("name", PEERS)
def test_a_real_peer_takes_turns_with_ours(name, tmp_path, capsys):
    """Where its environment was made, in the user's cache."""
    if reason := missing(name, default_folder()):
        pytest.skip(reason)
    figures = tmp_path / "figures.json"
    settings = "--repeats 1 --bare-steps 20 --steps 4096 --masks 3 --states 16 --hidden 16"
    words = ["--peers", name, *settings.split(), "--json", str(figures)]
    assert throughput.main(words) == 0
    assert "left out" not in capsys.readouterr().err
    rows = json.loads(figures.read_text())["peers"]
    assert [row["what"] for row in rows] == [x.what for x in PEERS[name].comparisons]
    differences = [row["largest_difference"] for row in rows]
    assert all(x is None or x < 1e-3 for x in differences)
    assert all(row["per_cpu_second"]["ratio"]["low"] > 0 for row in rows)
