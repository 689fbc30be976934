"""What the lines of a figure go through."""

import numpy as np

from benchmarks.figures import _smoothed


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
