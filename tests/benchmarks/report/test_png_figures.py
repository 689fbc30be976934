"""What the lines of a figure go through, and what of it is in view."""

from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes

from benchmarks.report.png_figures import BAND, FAINT, _estimate, _smoothed
from jaxprune.statistics import Interval

SPARSITY = np.array([0.0, 0.5, 0.9])


@pytest.fixture
def axes() -> Iterator[Axes]:
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


def interval(agents: np.ndarray, half: float) -> Interval:
    mean = agents.mean(0)
    return Interval(mean, mean - half, mean + half)


def test_the_view_follows_the_agents_and_not_their_interval(axes: Axes):
    """Between 1 and 9 with matplotlib's margin of 5 %, though the band is at +-1000."""
    agents = np.array([[1.0, 2.0, 5.0], [9.0, 2.5, 6.0]])
    _estimate(axes, SPARSITY, interval(agents, 1000), agents, "clean")
    axes.figure.canvas.draw()
    assert axes.get_ylim() == pytest.approx((0.6, 9.4))
    (band,) = axes.collections
    height = band.get_paths()[0].vertices[:, 1]
    assert (height.min(), height.max()) == (2.25 - 1000, 5.5 + 1000)


def test_every_agent_has_a_thin_line_and_none_of_them_a_label(axes: Axes):
    agents = np.array([[1.0, 2.0, 5.0], [9.0, 2.5, 6.0]])
    _estimate(axes, SPARSITY, interval(agents, 1), agents, "clean", color="#0072B2")
    mean, *others = axes.lines
    np.testing.assert_array_equal(mean.get_ydata(), [5, 2.25, 5.5])
    np.testing.assert_array_equal([line.get_ydata() for line in others], agents)
    assert {line.get_color() for line in axes.lines} == {"#0072B2"}
    assert all(line.get_linewidth() < mean.get_linewidth() for line in others)
    assert axes.get_legend_handles_labels()[1] == ["clean"]


def test_a_single_agent_is_its_mean(axes: Axes):
    agents = np.array([[1.0, 2.0, 5.0]])
    _estimate(axes, SPARSITY, interval(agents, np.nan), agents, "clean")
    assert len(axes.lines) == 1
    np.testing.assert_array_equal(axes.collections[0].get_paths()[0].vertices[:3, 1], agents[0])


@pytest.mark.parametrize(("seeds", "alpha"), [(1, BAND), (2, FAINT), (4, FAINT), (5, BAND)])
def test_the_band_of_a_few_seeds_is_faint(axes: Axes, seeds: int, alpha: float):
    agents = np.arange(3.0 * seeds).reshape(seeds, 3)
    _estimate(axes, SPARSITY, interval(agents, 1), agents, "clean")
    assert axes.collections[0].get_alpha() == alpha


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
    steps, found = _smoothed(training, np.ones(12, bool))
    np.testing.assert_array_equal(steps, [300, 600])
    np.testing.assert_array_equal(found, [[2, 5], [12, 15]])
