"""report.html in a real browser: whole on a phone and on a screen, and silent."""

import csv
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.report.html import page
from benchmarks.report.markdown import Section
from benchmarks.report.write import write_report
from tests.benchmarks.chromium import BINARY, Chromium
from tests.benchmarks.made_up import LEVELS, write_run

EVIL = "<img src=http://127.0.0.1/x onerror=alert(1)>"
WIDTHS = (1280, 390)
needs_chromium = pytest.mark.skipif(BINARY is None, reason="no chromium on this machine")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run with two methods, six attacks and two radii."""
    attacks = ("mad", "rs", "random", "fgsm", "critic", EVIL)
    folder = write_run(
        tmp_path_factory.mktemp("html") / "run",
        methods=("magnitude", "random"),
        attacks=attacks,
        radii=(0.1, 0.2),
    )
    write_report(folder, Console(quiet=True))
    return folder.path / "report.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with Chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@needs_chromium
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", WIDTHS)
def test_it_opens_offline_without_a_complaint(
    report: Path, browser: Chromium, width: int, dark: bool
):
    browser.open(report.as_uri(), width, dark=dark)
    browser.wait("document.querySelectorAll('.chart .main-svg').length > 0")
    assert browser.complaints == []
    assert browser.requests == []
    assert browser.evaluate("window.innerWidth") == width
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    # Two methods at two radii are drawn at once, all else when it is unfolded.
    drawn = "document.querySelectorAll('.chart .main-svg:first-child').length"
    assert browser.evaluate(drawn) == 4
    browser.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    # returns, attacks, certificates and regret; change by radius; layers and sweep; training
    browser.wait(f"{drawn} === {4 * 4 + 2 + 2 + 2 + 1}")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.complaints == []
    wide = "[...document.querySelectorAll('.chart')].every(c => c.getBoundingClientRect().right"
    assert browser.evaluate(f"{wide} <= window.innerWidth)")


@needs_chromium
def test_tables_scroll_in_their_boxes_and_charts_follow_the_window(report: Path, browser: Chromium):
    browser.open(report.as_uri(), 390)
    browser.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    boxes = "[...document.querySelectorAll('.scroll')]"
    assert browser.evaluate(f"{boxes}.some(b => b.scrollWidth > b.clientWidth)")
    assert browser.evaluate("document.documentElement.scrollWidth") <= 390
    browser.call(
        "Emulation.setDeviceMetricsOverride",
        width=700,
        height=900,
        deviceScaleFactor=1,
        mobile=True,
    )
    first = "document.querySelector('.chart .main-svg').getBoundingClientRect().width"
    browser.wait(f"{first} > 600")


@needs_chromium
def test_the_first_chart_is_seen_without_scrolling(report: Path, browser: Chromium):
    browser.open(report.as_uri(), 1280, 800)
    browser.wait("document.querySelectorAll('.chart .main-svg').length > 0")
    chart, verdict = (
        browser.evaluate(f"document.querySelector('{name}').getBoundingClientRect().toJSON()")
        for name in (".chart", ".verdict")
    )
    assert 0 <= chart["top"] < chart["bottom"] <= 800
    assert 0 <= verdict["top"] < 800 and verdict["right"] <= chart["left"]


@needs_chromium
def test_charts_and_tables_can_be_saved(report: Path, browser: Chromium, tmp_path: Path):
    browser.open(report.as_uri(), 1280)
    browser.wait("document.querySelectorAll('.chart .main-svg').length > 0")
    browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    for format in ("png", "svg", "csv"):
        browser.evaluate(f"document.querySelector('[data-save={format}]').click()")
        end = time.monotonic() + 30
        while not list(tmp_path.glob(f"*.{format}")):
            assert time.monotonic() < end
            time.sleep(0.05)
    (png,), (svg,), (table,) = (list(tmp_path.glob(f"*.{x}")) for x in ("png", "svg", "csv"))
    assert png.read_bytes().startswith(b"\x89PNG") and "<svg" in svg.read_text()
    assert table.name == "magnitude-eps-0-1.csv"
    header, *rows = csv.reader(table.read_text().splitlines())
    assert header == ["sparsity", "clean", "MAD", "worst of 6 attacks", "change"]
    assert [float(row[0]) for row in rows] == list(LEVELS)
    assert browser.complaints == [] and browser.requests == []


@needs_chromium
def test_an_error_is_seen(tmp_path: Path, browser: Chromium):
    """The test of the tests: a page that breaks, asks and overflows is caught."""
    file = tmp_path / "bad.html"
    file.write_text("<img src=missing.png><p style='width: 999px'>wide<script>nothing()</script>")
    browser.open(file.as_uri(), 390)
    assert any("nothing" in line for line in browser.complaints)
    assert browser.requests == [(tmp_path / "missing.png").as_uri()]
    assert browser.evaluate("document.documentElement.scrollWidth") > 390


def test_names_from_tables_are_text(report: Path):
    text = report.read_text()
    assert EVIL not in text
    assert "&lt;img src=http://127.0.0.1/x onerror=alert(1)&gt;" in text
    assert "benchmarks.run --env &lt;task&gt;" in text


def test_foreign_pictures_links_and_scripts_stay_text():
    lines = ["![x](http://127.0.0.1/x.png)", "", "[y](http://127.0.0.1/y) </script>"]
    text = page("Title", [Section("Verdict", lines)], {}, {})
    body = text.split("<main>")[1].split("</main>")[0]
    assert "<img" not in body and "<a" not in body and "</script>" not in body
    assert "<title>Title</title>" in text


def test_a_picture_is_embedded():
    section = Section("Film", ["![film](policies.gif)"])
    text = page("Title", [section], {}, {"policies.gif": b"GIF89a"})
    assert '<img alt="film" src="data:image/gif;base64,R0lGODlh">' in text
