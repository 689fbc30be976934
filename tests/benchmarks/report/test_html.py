"""report.html in a real browser: whole on a phone and on a screen, and silent."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.report.html import page
from benchmarks.report.write import write_report
from tests.benchmarks.chromium import BINARY, Chromium
from tests.benchmarks.made_up import write_run

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
    # returns, certificates, regret, layers and sweep of two methods, worst and change of all
    drawn = "document.querySelectorAll('.chart .main-svg:first-child').length"
    assert browser.evaluate(drawn) == 5 * 2 + 2
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
def test_the_menu_shows_another_radius(report: Path, browser: Chromium):
    browser.open(report.as_uri(), 1280)
    browser.wait("document.querySelectorAll('.chart .main-svg').length > 0")
    visible = (
        "document.querySelector('.chart').data.filter(t => t.name === 'MAD (PGD on KL)' && "
        "t.mode === 'lines+markers').map(t => t.visible === true)"
    )
    assert browser.evaluate(visible) == [True, False]
    buttons = "document.querySelector('.chart').layout.updatemenus[0].buttons"
    assert browser.evaluate(f"{buttons}.map(b => b.label)") == ["eps = 0.1", "eps = 0.2"]
    chart = "document.querySelector('.chart')"
    browser.evaluate(f"void Plotly.restyle({chart}, {buttons}[1].args[0])")
    assert browser.evaluate(visible) == [False, True]


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
    lines = ["# Title", "", "![x](http://127.0.0.1/x.png)", "", "[y](http://127.0.0.1/y) </script>"]
    text = page(lines, {}, {})
    body = text.split("<main>")[1].split("</main>")[0]
    assert "<img" not in body and "<a" not in body and "</script>" not in body
    assert "<title>Title</title>" in text


def test_a_picture_is_embedded():
    text = page(["![film](policies.gif)"], {}, {"policies.gif": b"GIF89a"})
    assert '<img alt="film" src="data:image/gif;base64,R0lGODlh">' in text
