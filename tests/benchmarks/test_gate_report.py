"""The outputs of a gate, read back as their readers would."""

import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from made_up_runs import EPS, GRID, Made, changed, settings
from rich.console import Console

from benchmarks import gate_report
from benchmarks.baselines import COLUMNS, Run
from benchmarks.comparison import Window
from benchmarks.gate import judge
from benchmarks.gate_report import Verdict, change_text


def run_of(tables, path) -> Run:
    trimmed = {name: {c: tables[name][c] for c in kept} for name, kept in COLUMNS.items()}
    facts = {"command": "python -m benchmarks.run --env hopper", "versions": {"jax": "1.2"}}
    return Run(path, settings(tables), facts, trimmed)


@pytest.fixture(scope="module")
def verdict(tmp_path_factory) -> Verdict:
    """MAD got worse by 10 % at two sparsities, random noise better by 20 % at one."""
    made = Made(np.random.default_rng(0), methods=("magnitude",))
    tables = made.tables(np.random.default_rng(1))
    worse = changed(tables, 0.9, attack="mad", sparsity=GRID[2:4])
    both = changed(worse, 1.2, attack="random", sparsity=GRID[5])
    path = tmp_path_factory.mktemp("run")
    return judge(run_of(tables, path), run_of(both, path))


MAD = f"return/magnitude/mad@{EPS:g}"


def test_the_junit_xml_has_a_case_for_every_curve(verdict):
    root = ET.fromstring(gate_report.junit(verdict))
    assert root.tag == "testsuites"
    (suite,) = root
    assert suite.tag == "testsuite" and suite.get("name") == "hopper"
    cases = list(suite)
    assert [case.tag for case in cases] == ["testcase"] * len(verdict.compared)
    assert [case.get("name") for case in cases] == [str(c.key) for c in verdict.compared]
    assert len({(case.get("classname"), case.get("name")) for case in cases}) == len(cases)
    outcomes = [child for case in cases for child in case]
    assert {child.tag for child in outcomes} == {"failure"}
    for element in (root, suite):
        assert int(element.get("tests", "")) == len(cases)
        assert int(element.get("failures", "")) == len(outcomes)
        assert element.get("errors") == element.get("skipped") == "0"
        assert {*element.attrib} <= {"name", "tests", "failures", "errors", "skipped", "time"}
    for case in cases:
        assert {*case.attrib} == {"classname", "name", "time"}


def test_a_failure_says_where_and_by_how_much(verdict):
    root = ET.fromstring(gate_report.junit(verdict))
    (failure,) = root.findall(f"./testsuite/testcase[@name='{MAD}']/failure")
    assert failure.get("type") == "regression"
    assert "(-10.0 %) at sparsity 0.3 to 0.45" in failure.get("message", "")
    lines = (failure.text or "").splitlines()
    assert [line.split(":")[0] for line in lines[1:]] == [f"sparsity {s:.3g}" for s in GRID]


def test_the_history_is_in_the_format_of_github_action_benchmark(verdict):
    returns = json.loads(gate_report.history(verdict.compared, returns=True))
    certificates = json.loads(gate_report.history(verdict.compared, returns=False))
    for entry in (*returns, *certificates):
        assert {"name", "unit", "value", "extra"} <= entry.keys()
        assert entry.keys() <= {"name", "unit", "value", "range", "extra"}
        assert isinstance(entry["value"], float)
        assert all(isinstance(entry[key], str) for key in entry.keys() - {"value"})
    names = [entry["name"] for entry in (*returns, *certificates)]
    assert len(set(names)) == len(names)
    assert {name.split("/")[0] for name in names[: len(returns)]} == {"return"}
    assert {name.split("/")[0] for name in names[len(returns) :]} == {"D", "TV"}
    (compared,) = (c for c in verdict.compared if str(c.key) == MAD)
    values = {entry["name"]: entry["value"] for entry in returns}
    for sparsity, value in zip(GRID, compared.run, strict=True):
        assert values[f"{MAD}/sparsity={sparsity:g}"] == value
    assert values[f"{MAD}/mean"] == pytest.approx(compared.run.mean())


def test_the_summary_shows_both_directions(verdict):
    text = gate_report.markdown(verdict)
    assert text.startswith("## Robustness gate FAILED: hopper\n")
    worse, better = text.index("### Worse"), text.index("### Better")
    assert MAD in text[worse:better]
    assert f"return/magnitude/random@{EPS:g}" in text[better : text.index("<details>")]
    for c in verdict.compared:
        assert f"| `{c.key}` |" in text
    assert "python -m benchmarks.run --env hopper" in text
    assert "jax 1.2" in text


def test_the_summary_of_a_run_like_its_baseline_has_no_changes(verdict):
    same = judge(verdict.baseline, verdict.baseline)
    text = gate_report.markdown(same)
    assert text.startswith("## Robustness gate passed: hopper\n")
    assert "### Worse" not in text and "### Better" not in text
    assert list(gate_report.rich_tables(same)) == []


def test_the_terminal_shows_both_directions(verdict):
    console = Console(width=110)
    with console.capture() as capture:
        for table in gate_report.rich_tables(verdict):
            console.print(table)
    printed = capture.get()
    assert printed.index("worse") < printed.index(MAD) < printed.index("better")


@pytest.mark.parametrize(
    ("window", "words"),
    [
        (Window(0.01, 0.3, 0.6, 1000, 900), "1000 to 900 (-10.0 %) at sparsity 0.3 to 0.6"),
        (Window(0.01, 0.5, 0.5, -200, -220), "-200 to -220 (-10.0 %) at sparsity 0.5"),
        (Window(0.01, 0, 0.5, 0, 1), "0 to 1 at sparsity 0 to 0.5"),
    ],
)
def test_a_change_in_words(window, words):
    assert change_text(window) == words
