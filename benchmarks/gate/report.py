"""What a gate found: for a terminal, a person on the web, a test reporter and a history of values.

Sources: the JUnit XML that CI servers read has no owner; written here are the elements and
attributes that all of them know. github-action-benchmark's custom format is a list of objects with
name, unit, value, range and extra.
"""

import json
import math
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rich.markup import escape
from rich.table import Table

from benchmarks.gate.baseline import Run
from benchmarks.gate.pairing import EPISODES, EQUAL, EXACT, LEVEL, RETURN, SEEDS, TOO_FEW
from benchmarks.gate.permutation_test import Compared, Window
from benchmarks.runtime.tables import markdown_table, plain, terminal_table
from jaxprune.validation import MESSAGE, shown

BASES = {
    EQUAL: "the same in both runs",
    EXACT: "the same policies, so that any change beyond rounding counts",
    EPISODES: "the same policies, over episodes",
    SEEDS: "other policies, over seeds",
    TOO_FEW: "not judged: too few seeds or episodes",
}
NOTES = f"""\
*Worse* and *better* are changes that chance alone shows in at most {100 * LEVEL:.0f} % of
comparisons, anywhere among the curves that are judged by the same; *p* is that share. They are
looked for in all contiguous windows of the sparsity grid, and *at sparsity* is where a curve
changed most. *Tolerance* is the change of the mean over the grid that would be one. Curves of the
same policies are judged over episodes; where training went another way the seeds are the
replicates, and only large losses can be told from chance. Only what is worse fails."""


class Verdict(NamedTuple):
    """Everything that the outputs tell."""

    baseline: Run
    run: Run
    compared: list[Compared]

    @property
    def worse(self) -> list[Compared]:
        """Curves that fail the gate, the surest first."""
        return sorted((c for c in self.compared if c.worse), key=lambda c: _p(c.worst))

    @property
    def better(self) -> list[Compared]:
        """Curves that improved, the surest first."""
        return sorted((c for c in self.compared if c.better), key=lambda c: _p(c.best))

    @property
    def unjudged(self) -> list[Compared]:
        """Curves with too few seeds or episodes to tell a change from chance."""
        return [c for c in self.compared if c.basis == TOO_FEW]

    def sentence(self) -> str:
        """What came out, in one line."""
        total, worse, better = (len(x) for x in (self.compared, self.worse, self.better))
        text = f"{worse} of {total} curves got worse, {better} better"
        return text + (f", {len(self.unjudged)} could not be judged" if self.unjudged else "")


def _p(window: Window | None) -> float:
    return 1.0 if window is None else window.probability


# --- for people -----------------------------------------------------------------------------------


def change_text(window: Window) -> str:
    """A window's change in words: `1000 to 900 (-10.0 %) at sparsity 0.3 to 0.6`."""
    where = f"{window.first:.3g}" + (f" to {window.last:.3g}" if window.last > window.first else "")
    percent = f" ({100 * window.change:+.1f} %)" if math.isfinite(window.change) else ""
    return f"{window.baseline:.5g} to {window.run:.5g}{percent} at sparsity {where}"


def rich_tables(verdict: Verdict) -> Iterator[Table]:
    """What got worse and what got better."""
    changes = (("worse", verdict.worse, "red"), ("better", verdict.better, "green"))
    for name, compared, colour in changes:
        if not compared:
            continue
        header, rows = ("curve", "change", "p", "judged by"), []
        for c in compared:
            window = c.worst if name == "worse" else c.best
            assert window is not None
            curve, chance = escape(shown(c.key)), f"{window.probability:.2g}"
            rows.append((curve, change_text(window), chance, c.basis))
        yield terminal_table(name, header, rows, left=header, fold=True, style=colour)


def markdown(verdict: Verdict) -> str:
    """A summary for a pull request."""
    passed = "passed" if not verdict.worse else "FAILED"
    task = plain(verdict.run.settings.get("env"))
    lines = [f"## Robustness gate {passed}: {task}", "", f"{verdict.sentence()}."]
    for name, compared in (("Worse", verdict.worse), ("Better", verdict.better)):
        if compared:
            rows = [_change_row(c, c.worst if name == "Worse" else c.best) for c in compared]
            header = ["curve", "unit", "change", "p", "judged by"]
            lines += ["", f"### {name}", "", *markdown_table(header, rows)]
    header = ["curve", "baseline", "run", "change", "tolerance", "p worse", "judged by"]
    rows = [_area_row(c) for c in verdict.compared]
    lines += ["", "<details><summary>All curves, means over the grid</summary>", ""]
    lines += [*markdown_table(header, rows), "", "</details>", "", NOTES, "", *_provenance(verdict)]
    return "\n".join(lines) + "\n"


def _change_row(compared: Compared, window: Window | None) -> list[str]:
    assert window is not None
    told = change_text(window), f"{window.probability:.2g}", compared.basis
    return [f"`{plain(compared.key)}`", plain(compared.unit), *told]


def _area_row(compared: Compared) -> list[str]:
    baseline, run = compared.baseline.mean(), compared.run.mean()
    tolerance = compared.area_tolerance
    return [
        f"`{plain(compared.key)}`",
        f"{baseline:.5g}",
        f"{run:.5g}",
        f"{run - baseline:+.3g}",
        "" if math.isnan(tolerance) else f"{tolerance:.3g}",
        f"{_p(compared.worst):.2g}",
        compared.basis,
    ]


def _provenance(verdict: Verdict) -> Iterator[str]:
    facts = verdict.baseline.facts, verdict.run.facts
    header = ["", "baseline", "run"]
    names = ("git", "python", "device", "versions")
    rows = [[name, *(plain(_short(f.get(name)), MESSAGE) for f in facts)] for name in names]
    yield from markdown_table(header, rows)
    yield from ("", f"Command of the baseline: `{plain(facts[0].get('command'), MESSAGE)}`")


def _short(fact: object) -> str:
    if isinstance(fact, dict):
        return ", ".join(f"{name} {value}" for name, value in fact.items())
    return str(fact)


# --- for machines ---------------------------------------------------------------------------------


def junit(verdict: Verdict) -> str:
    """JUnit XML: a suite for the task, a case for every curve."""
    failures, skipped = len(verdict.worse), len(verdict.unjudged)
    counts = {"tests": len(verdict.compared), "failures": failures, "errors": 0, "skipped": skipped}
    attributes = {name: str(count) for name, count in counts.items()}
    root = ET.Element("testsuites", {"name": "benchmarks.gate", **attributes})
    task = shown(verdict.run.settings.get("env"))
    suite = ET.SubElement(root, "testsuite", {"name": task, **attributes, "time": "0"})
    for c in verdict.compared:
        named = {"classname": shown(f"{task}.{c.key.method}"), "name": shown(c.key), "time": "0"}
        case = ET.SubElement(suite, "testcase", named)
        if c.worse and c.worst is not None:
            message = f"{change_text(c.worst)}, p = {c.worst.probability:.2g}"
            failure = ET.SubElement(case, "failure", {"message": message, "type": "regression"})
            failure.text = "\n".join(_points(c))
        elif c.basis == TOO_FEW:
            ET.SubElement(case, "skipped", {"message": BASES[TOO_FEW]})
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _points(compared: Compared) -> Iterator[str]:
    yield f"{shown(compared.unit)}; judged by: {BASES[compared.basis]}"
    columns = (compared.sparsity, compared.baseline, compared.run, compared.tolerance)
    for sparsity, one, other, tolerance in zip(*columns, strict=True):
        yield (
            f"sparsity {sparsity:.3g}: {one:.5g} to {other:.5g} (tolerance of this point alone "
            f"{tolerance:.3g})"
        )


def history(compared: Sequence[Compared], *, returns: bool) -> str:
    """github-action-benchmark's JSON: of the returns, or of the certificates."""
    entries: list[dict[str, str | float]] = []
    for c in compared:
        if (c.key.quantity == RETURN) != returns:
            continue
        points = zip(c.sparsity, c.run, c.baseline, c.tolerance, strict=True)
        rows = [(f"{shown(c.key)}/sparsity={s:g}", *rest) for s, *rest in points]
        rows.append((f"{shown(c.key)}/mean", c.run.mean(), c.baseline.mean(), c.area_tolerance))
        for name, value, baseline, tolerance in rows:
            entry = {"name": name, "unit": shown(c.unit), "value": float(value)}
            if not math.isnan(tolerance):
                entry["range"] = f"± {tolerance:.3g}"
            entries.append(entry | {"extra": f"baseline {baseline:.6g}; {BASES[c.basis]}"})
    return json.dumps(entries, indent=1, allow_nan=False) + "\n"
