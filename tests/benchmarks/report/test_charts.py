"""The descriptions of charts, and that both renderers draw what they say."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.report import html_figures, png_figures
from benchmarks.report.charts import (
    HEIGHT,
    MOST_DOTS,
    Chart,
    Facet,
    Shade,
    Trace,
    charts,
    measured,
    places,
    returns,
    smoothed,
)
from benchmarks.report.contents import Contents, Line, gather
from jaxprune.statistics import Interval
from tests.benchmarks.made_up import DENSE, LEVELS, LOSS, write_run

X = np.array([0.0, 50.0, 90.0])


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> Contents:
    path = tmp_path_factory.mktemp("charts") / "run"
    return gather(write_run(path, attacks=("mad", "rs"), radii=(0.1, 0.2)).path)


def line(seeds: list[list[float]], half: float = 9.0) -> Line:
    values = np.array(seeds)
    mean = values.mean(0)
    return Line("clean", Interval(mean, mean - half, mean + half), values)


# --- what is described ----------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 4, 5])
def test_few_seeds_are_dots_with_their_range_and_more_have_an_interval(count: int):
    seeds = [[float(i), 2.0 * i] for i in range(count)]
    trace = measured(np.array([0, 0.5]), line(seeds), "clean", "#000000")
    few = count in (2, 4)
    assert len(trace.dots) == (count if few else 0)
    half = (trace.high - trace.low) / 2
    np.testing.assert_allclose(half, np.ptp(seeds, axis=0) / 2 if few else 9.0)
    np.testing.assert_array_equal(trace.x, [0, 50])


def test_the_main_chart_is_in_per_cent_of_the_dense_clean_return(contents: Contents):
    chart = returns(contents)
    assert (chart.y, chart.right) == ("return, % of dense clean", "return")
    clean = DENSE + 1  # the mean of three seeds
    for facet, eps in zip(chart.facets, (0.1, 0.2), strict=True):
        assert [t.name for t in facet.traces] == ["clean", "MAD", "worst of 2 attacks"]
        assert facet.level == pytest.approx(95)
        of_dense, mad, _ = (trace.y[0] for trace in facet.traces)
        assert of_dense == pytest.approx(100)
        assert mad == pytest.approx(100 * (clean - 10 * LOSS * eps) / clean)
        assert mad * facet.unit == pytest.approx(clean - 10 * LOSS * eps)
        assert facet.title.startswith(f"magnitude, eps {eps}: 0 % of the weights can go\n")


@pytest.mark.parametrize("agents", [2, MOST_DOTS, MOST_DOTS + 1])
def test_many_agents_are_not_shown_one_by_one(contents: Contents, agents: int):
    many = line([[float(i), 2.0 * i] for i in range(agents)])
    panel = contents.panels[0]._replace(clean=many, main={"clean": many})
    panel = panel._replace(levels=np.array([0, 0.5]))
    chart = returns(contents._replace(panels=[panel]))
    (facet,) = chart.facets
    dots = len(facet.traces[0].dots)
    assert dots == (agents if agents <= MOST_DOTS else 0)
    assert ("dots, with their range" in chart.title) == bool(dots)


def test_negative_returns_are_shown_as_they_are(contents: Contents):
    below = Interval(*(np.asarray(x) - 2 * DENSE for x in contents.panels[0].dense_clean))
    panels = [panel._replace(dense_clean=below) for panel in contents.panels]
    chart = returns(contents._replace(panels=panels))
    assert (chart.y, chart.right) == ("return", "")
    mean = float(below.mean)
    assert chart.facets[0].level == pytest.approx(1.05 * mean)  # 5 % worse
    assert chart.facets[0].traces[0].y[0] == pytest.approx(DENSE + 1)


def test_curves_that_begin_pruned_begin_with_the_dense_agents(contents: Contents):
    """The levels of the made-up run begin with 0 as it is."""
    for panel in contents.panels:
        np.testing.assert_array_equal(panel.levels, LEVELS)
        assert all(len(line.interval.mean) == len(LEVELS) for line in panel.main.values())


def test_a_run_without_pruning_has_no_chart_against_sparsity(tmp_path: Path):
    contents = gather(write_run(tmp_path / "run", methods=()).path)
    assert set(charts(contents)) == {"training"}


def test_no_title_is_none(contents: Contents):
    for chart in charts(contents).values():
        assert all("none" not in facet.title for facet in chart.facets)


def test_a_log_axis_shows_what_is_positive():
    trace = Trace("bound", X, np.array([0.01, np.nan, 100.0]), "#000000")
    chart = Chart("", [Facet("", [trace])], "D", log=True)
    low, high = chart.y_range
    assert -2.5 < low < -2 and 2 < high < 2.5


@given(st.lists(st.floats(0, 1), min_size=2, max_size=4), st.randoms())
def test_names_on_lines_stay_in_view_and_apart(starts: list[float], random):
    traces = [
        Trace(f"name {i}", X, np.array([start, random.random(), random.random()]), "#000000")
        for i, start in enumerate(starts)
    ]
    facet = Facet("", traces)
    chart = Chart("", [facet], "return")
    found = places(chart, facet)
    (left, right), (bottom, top) = chart.x_range, chart.y_range
    assert all(left <= x <= right and bottom - 0.1 <= y <= top + 0.1 for x, y in found)
    assert len(set(found)) == len(traces)


def test_a_name_is_beside_its_line_and_not_on_another():
    upper = Trace("upper", X, np.full(3, 1.0), "#000000")
    lower = Trace("lower", X, np.zeros(3), "#000000")
    facet = Facet("", [upper, lower])
    chart = Chart("", [facet], "return")
    height = np.ptp(chart.y_range) * HEIGHT
    for (_, y), own in zip(places(chart, facet), (1.0, 0.0), strict=True):
        assert abs(y - own) == pytest.approx(0.75 * height)


def test_a_training_curve_passes_over_the_iterations_in_which_no_episode_ended():
    """Two seeds of six iterations; all episodes last three of them."""
    ends = np.array([0, 0, 4, 0, 0, 4])
    returns = np.where(ends > 0, np.arange(6.0), np.nan)
    training = {
        "seed": np.repeat([1, 0], 6),
        "iteration": np.tile(np.arange(1, 7), 2),
        "env_steps": np.tile(np.arange(1, 7) * 100, 2),
        "episodes": np.tile(ends, 2),
        "episode_return": np.concatenate([returns + 10, returns]),
    }
    steps, found = smoothed(training, np.ones(12, bool))
    np.testing.assert_array_equal(steps, [300, 600])
    np.testing.assert_array_equal(found, [[2, 5], [12, 15]])


# --- what is drawn --------------------------------------------------------------------------------

TRACE = Trace(
    "clean", X, np.array([3.0, 2.0, 1.0]), "#0072B2", "dashed", X * 0, X * 0 + 4, np.ones((2, 3))
)
HIDDEN = TRACE._replace(name="hidden", shown=False)
FACET = Facet("panel", [TRACE, HIDDEN], Shade(0, 50, "#009E73"), 2.5, 10.0)
CHART = Chart("title", [FACET], "return, %", right="return")


def test_the_png_shows_what_is_described():
    figure = png_figures.render(CHART)
    (ax,) = figure.axes
    mean, *dots = [line for line in ax.lines if len(line.get_xdata()) == 3]
    np.testing.assert_array_equal(mean.get_ydata(), TRACE.y)
    assert mean.get_linestyle() == "--" and len(dots) == 2
    assert ax.get_ylim() == pytest.approx(CHART.y_range)
    assert ax.get_title() == "panel"
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["clean"]  # what is not shown is not named
    (right,) = ax.child_axes
    figure.canvas.draw()
    assert right.get_ylim() == pytest.approx([10 * y for y in CHART.y_range])
    plt.close(figure)


def test_the_interactive_chart_shows_the_same():
    figure = html_figures.render(CHART, CHART.facets[0])
    curves = [trace for trace in figure.data if trace.mode == "lines+markers"]
    assert [trace.name for trace in curves] == ["clean", "hidden"]
    assert [trace.visible for trace in curves] == [True, "legendonly"]
    np.testing.assert_array_equal(curves[0].y, TRACE.y)
    assert curves[0].line.dash == "dash"
    assert figure.layout.yaxis.range == pytest.approx(CHART.y_range)
    assert figure.layout.yaxis2.range == pytest.approx([10 * y for y in CHART.y_range])
    assert [shape.type for shape in figure.layout.shapes] == ["rect", "line"]


def test_names_on_lines_take_the_place_of_the_legend():
    chart = CHART._replace(on_lines=True, facets=[Facet("panel", [TRACE])])
    page, paper = html_figures.render(chart, chart.facets[0]), png_figures.render(chart)
    (place,) = places(chart, chart.facets[0])
    (note,) = page.layout.annotations
    assert (note.text, note.x, note.y) == ("clean", *place)
    assert [text.get_position() for text in paper.axes[0].texts] == [place]
    assert not paper.legends and not page.layout.showlegend
    plt.close(paper)
