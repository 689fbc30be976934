"""The GitHub workflow: well-formed, and it runs what the committed baseline was made with."""

from pathlib import Path

import pytest
import yaml

from benchmarks.experiment import parse
from benchmarks.gate.baseline import read_baseline

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def workflow() -> dict:
    # YAML 1.1 reads the key "on" as true; this loader leaves every scalar as it is written.
    text = (ROOT / ".github" / "workflows" / "robustness.yml").read_text(encoding="utf-8")
    return yaml.load(text, Loader=yaml.BaseLoader)


def commands(job: dict) -> list[str]:
    return [step["run"] for step in job["steps"] if "run" in step]


def test_it_has_what_github_expects(workflow):
    assert {"name", "on", "permissions", "jobs"} <= workflow.keys()
    assert {"pull_request", "push"} <= workflow["on"].keys()
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert job["runs-on"] == "ubuntu-latest"
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)
            assert "@" in step.get("uses", "@")


def test_it_sets_up_python_and_keeps_the_report(workflow):
    steps = workflow["jobs"]["gate"]["steps"]
    (python,) = (s for s in steps if s.get("uses", "").startswith("actions/setup-python@"))
    assert python["with"]["python-version"] == "3.11"
    (upload,) = (s for s in steps if s.get("uses", "").startswith("actions/upload-artifact@"))
    assert upload["if"] == "${{ !cancelled() }}"
    assert {"results/gate/", "results/quick/report.md"} <= set(upload["with"]["path"].split())


def test_it_runs_the_command_of_the_baseline_and_gates_its_folder(workflow):
    _, run, gate = commands(workflow["jobs"]["gate"])
    baseline = ROOT / workflow["env"]["BASELINE"]
    assert run == read_baseline(baseline).facts["command"]
    folder = parse(run.split()[3:])[1].out
    assert gate.startswith(f'python -m benchmarks.gate --baseline "$BASELINE" {folder} ')
    assert {"--junit", "--json"} <= set(gate.split())


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
