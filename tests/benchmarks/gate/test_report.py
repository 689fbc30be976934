"""The outputs of a gate, read back as their readers would."""

import io
import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from rich.console import Console

from benchmarks.gate import report
from benchmarks.gate.__main__ import judge
from benchmarks.gate.baseline import COLUMNS, Run
from benchmarks.gate.permutation_test import Window
from benchmarks.gate.report import Verdict, change_text
from benchmarks.runtime.tables import plain
from tests.benchmarks.made_up_runs import EPS, GRID, Made, changed, settings


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
    root = ET.fromstring(report.junit(verdict))
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
    root = ET.fromstring(report.junit(verdict))
    (failure,) = root.findall(f"./testsuite/testcase[@name='{MAD}']/failure")
    assert failure.get("type") == "regression"
    assert "(-10.0 %) at sparsity 0.3 to 0.45" in failure.get("message", "")
    lines = (failure.text or "").splitlines()
    assert [line.split(":")[0] for line in lines[1:]] == [f"sparsity {s:.3g}" for s in GRID]


def test_the_history_is_in_the_format_of_github_action_benchmark(verdict):
    returns = json.loads(report.history(verdict.compared, returns=True))
    certificates = json.loads(report.history(verdict.compared, returns=False))
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
    text = report.markdown(verdict)
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
    text = report.markdown(same)
    assert text.startswith("## Robustness gate passed: hopper\n")
    assert "### Worse" not in text and "### Better" not in text
    assert list(report.rich_tables(same)) == []


def test_the_terminal_shows_both_directions(verdict):
    console = Console(width=110)
    with console.capture() as capture:
        for table in report.rich_tables(verdict):
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


HOSTILE = "x\x1b[2J\x00\n::error::\u202e\ufffe\ud800]]>&<script>|`[y](z)" + "w" * 10**4


def test_names_from_tables_and_settings_are_text_everywhere(verdict):
    """Whatever they hold; no output has a longer line for it, or another number of lines."""
    named = [c._replace(key=c.key._replace(method=HOSTILE), unit=HOSTILE) for c in verdict.compared]
    settings_, facts = (
        {**verdict.run.settings, "env": HOSTILE},
        {"command": HOSTILE, "git": HOSTILE},
    )
    run = verdict.run._replace(settings=settings_, facts=facts)
    hostile = Verdict(run, run, named)
    root = ET.fromstring(report.junit(hostile).encode())
    assert len(root.findall("./testsuite/testcase")) == len(named)
    console = Console(width=100, record=True, file=io.StringIO())
    for table in report.rich_tables(hostile):
        console.print(table)
    texts = [report.junit(hostile), report.markdown(hostile), console.export_text()]
    texts += [report.history(named, returns=returns) for returns in (True, False)]
    for text in texts:
        assert all(line.isprintable() for line in text.split("\n")) and len(text) < 10**5
    summary, before = texts[1], report.markdown(verdict)
    assert summary.count("\n") == before.count("\n")
    assert "<script" not in summary and "[y]" not in summary
    assert [line.count("|") for line in summary.split("\n")] == [
        line.count("|") for line in before.split("\n")
    ]


def test_usual_names_are_shown_as_they_are():
    for name in ("gym/HalfCheetah-v4", "TV/iterative (layers)/mad@0.1", "--grid 0:0.9:10 --x a=b"):
        assert plain(name) == name
