"""The GitHub workflows: well-formed, and they run what was committed and all that is supported."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from benchmarks.experiment import parse
from benchmarks.gate import __main__ as gate
from benchmarks.gate.baseline import read_baseline
from benchmarks.runtime.command_line import read_options

ROOT = Path(__file__).parents[2]


# YAML 1.1 reads the key "on" as true; this loader leaves every scalar as it is written.
WORKFLOWS = {
    path.stem: yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    for path in sorted((ROOT / ".github" / "workflows").glob("*.yml"))
}


@pytest.fixture(scope="module")
def workflow() -> dict:
    return WORKFLOWS["robustness"]


def commands(job: dict) -> list[str]:
    return [step["run"] for step in job["steps"] if "run" in step]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_it_has_what_github_expects(name):
    workflow = WORKFLOWS[name]
    assert {"name", "on", "permissions", "jobs"} <= workflow.keys()
    assert {"pull_request", "push"} <= workflow["on"].keys()
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert job["runs-on"] == "ubuntu-latest"
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)
            assert "@" in step.get("uses", "@")


def test_every_supported_python_is_proved():
    """Those of the classifiers, which are those that may be installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = " ".join(project["classifiers"])
    versions = WORKFLOWS["tests"]["jobs"]["versions"]
    pythons = versions["strategy"]["matrix"]["python"]
    assert pythons == re.findall(r"Python :: (3\.\d+)", named)
    first, last = (int(x.split(".")[1]) for x in (pythons[0], pythons[-1]))
    assert project["requires-python"] == f">=3.{first},<3.{last + 1}"
    assert commands(versions) == ["make versions PYTHONS=python${{ matrix.python }}"]
    assert commands(WORKFLOWS["tests"]["jobs"]["tests"]) == ["make lint", "make test"]


def test_it_sets_up_python_and_keeps_the_report(workflow):
    steps = workflow["jobs"]["gate"]["steps"]
    (python,) = (s for s in steps if s.get("uses", "").startswith("actions/setup-python@"))
    assert python["with"]["python-version"] == "3.11"
    (upload,) = (s for s in steps if s.get("uses", "").startswith("actions/upload-artifact@"))
    assert upload["if"] == "${{ !cancelled() }}"
    assert {"results/gate/", "results/quick/report.md"} <= set(upload["with"]["path"].split())


def test_it_runs_the_command_of_the_baseline_and_gates_its_folder(workflow):
    _, run, base, compare = commands(workflow["jobs"]["gate"])
    baseline = ROOT / workflow["env"]["BASELINE"]
    assert run == read_baseline(baseline).facts["command"]
    folder = parse(run.split()[3:])[1].out
    assert compare.startswith(f'python -m benchmarks.gate --baseline "$BASELINE" {folder} ')
    assert {"--junit", "--json"} <= set(compare.split())
    run_base, update, export = base.replace("\\\n", "").splitlines()
    assert run_base.split() == run.split()
    assert update == f"python -m benchmarks.gate --update --baseline results/base {folder}"
    assert export == 'echo "BASELINE=base/results/base" >> "$GITHUB_ENV"'


def test_base_and_head_share_the_compiled_programs(workflow):
    (cache,) = (s for s in workflow["jobs"]["gate"]["steps"] if "cache@" in s.get("uses", ""))
    assert cache["with"]["path"] == "~/.cache/jaxprune"
    assert cache["with"]["key"].startswith(cache["with"]["restore-keys"])


# --- the action for other repositories ------------------------------------------------------------


@pytest.fixture(scope="module")
def action() -> dict:
    return yaml.load((ROOT / "action.yml").read_text(encoding="utf-8"), Loader=yaml.BaseLoader)


def test_the_action_is_composite_and_uses_its_inputs(action):
    assert action.keys() == {"name", "description", "inputs", "runs"}
    assert action["runs"]["using"] == "composite"
    for step in action["runs"]["steps"]:
        assert ("uses" in step) != ("run" in step)
        assert step.get("shell", "bash") == "bash" and ("shell" in step) == ("run" in step)
        assert "inputs." not in step.get("run", "")  # only by the environment: text is no code
    used = set(re.findall(r"inputs\.(\w+)", str(action["runs"])))
    assert used == action["inputs"].keys()
    assert all(held.keys() == {"description", "default"} for held in action["inputs"].values())


def test_the_action_calls_programs_as_they_are(action, tmp_path: Path):
    """Its scripts, with the program that they start replaced by one that shows its words."""
    python = tmp_path / "python"
    python.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    told = {"OPTIONS": action["inputs"]["options"]["default"], "OUT": "a b", "BASELINE": "base"}
    lines = {}
    for step in action["runs"]["steps"]:
        if step.get("name") in ("Run", "Compare"):
            env = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", **told}
            command = ["bash", "-e", "-c", step["run"]]
            done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
            lines[step["name"]] = done.stdout.splitlines()
    flag, _, module, *words = lines["Run"]
    assert (flag, module) == ("-P", "benchmarks.run")
    experiment, options = parse(words)
    assert (experiment.preset, options.out) == ("smoke", Path("a b"))
    _, _, module, *words = lines["Compare"]
    assert module == "benchmarks.gate"
    held = read_options(gate.Options, words, "benchmarks.gate")
    assert (held.baseline, held.run) == (Path("base"), Path("a b"))


def test_the_history_has_both_directions(workflow):
    history = workflow["jobs"]["history"]
    assert history["permissions"] == {"contents": "write"}
    assert "refs/heads/main" in history["if"]
    tools = {entry["tool"]: entry["file"] for entry in history["strategy"]["matrix"]["include"]}
    assert tools == {
        "customBiggerIsBetter": "history.json",
        "customSmallerIsBetter": "history-certificates.json",
    }
    (action,) = (s for s in history["steps"] if "github-action-benchmark" in s["uses"])
    assert action["with"]["output-file-path"] == "results/gate/${{ matrix.file }}"
    assert action["with"]["tool"] == "${{ matrix.tool }}"
