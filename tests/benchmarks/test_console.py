"""The console command: every program by its name, and lists of what there is."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import __main__ as console
from benchmarks import list as list_program
from benchmarks.runtime.command_line import CONSOLE, MODULES, command, started_by
from jaxprune.attacks import ATTACKS
from jaxprune.certify import BOUNDS
from jaxprune.envs import TASKS
from jaxprune.pruning import METHODS

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _as_before():
    yield
    started_by(MODULES)


def test_every_program_is_there_with_a_line():
    told = console.help_text()
    for name in console.PROGRAMS:
        assert callable(importlib.import_module(console.module_of(name)).main)
        assert f"  {name} " in told
    assert max(map(len, told.splitlines())) <= 80


def test_programs_call_themselves_as_they_were_called(capsys):
    assert command("merge", "a b") == "python -m benchmarks.merge 'a b'"
    with pytest.raises(SystemExit):
        console.main(["select", "--help"])
    assert capsys.readouterr().out.startswith("usage: jaxprune select")
    assert command("merge", "x") == f"{CONSOLE}merge x"


def test_a_wrong_program_is_refused_in_one_line(capsys):
    assert console.main(["lits"]) == 2
    told = capsys.readouterr().err
    assert "unknown program 'lits': did you mean 'list'" in told and told.count("\n") == 1


@pytest.mark.parametrize(
    ("family", "names"),
    [("envs", TASKS), ("methods", METHODS), ("attacks", ATTACKS), ("bounds", BOUNDS)],
)
def test_lists_have_a_line_for_each(family, names, capsys):
    assert console.main(["list", family]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(names)
    assert all(len(line.split()) > 1 for line in lines)


def test_every_list_has_something():
    assert all(list(lines()) for lines in list_program.LISTS.values())


def test_a_package_of_the_same_name_in_the_folder_is_not_ours(tmp_path):
    """The console command is no `python -m`: the folder that one is in is not searched."""
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "__init__.py").write_text("raise SystemExit('not ours')")
    script = tmp_path / "bin" / "jaxprune"
    script.parent.mkdir()
    script.write_text("import sys; from benchmarks.__main__ import main; sys.exit(main())")
    done = subprocess.run(
        [sys.executable, str(script), "list", "regimes"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and "sa_ppo" in done.stdout, done.stderr
