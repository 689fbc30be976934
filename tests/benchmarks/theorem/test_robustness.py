"""F along pruning: of a linear policy in closed form, and its counts on made-up values."""

from pathlib import Path

import numpy as np
import pytest
from scipy.special import erf

from benchmarks.theorem.measure import Network, Options, follow
from benchmarks.theorem.robustness import (
    BOUND,
    Along,
    Seen,
    enclosed,
    f_columns,
    f_rows,
    meaning_table,
    rises_of,
    robustness,
    sentences,
)
from jaxprune.envs import make_env
from tests.benchmarks.theorem.test_theorem import linear_policy

WEIGHT, STD, EPS = np.array([[0.5, -2.0, 1.0]]), 0.6, 0.3
LEFT = np.array([3.5, 3.0, 2.0])  # sum of |w| after the smallest went


@pytest.fixture(scope="module")
def linear() -> Along:
    """A linear policy of the pendulum, at three sparsities."""
    options = Options(
        out=Path(), eps=EPS, sparsity_grid="0,0.34,0.67", episodes=5, visits=3, steps=3,
        restarts=2, bounds=("path", "crown"),
    )  # fmt: skip
    policy, env = linear_policy(WEIGHT, STD), make_env("pendulum")
    return follow(Network("line", "line", policy, None, env), env, options)


def test_f_of_a_linear_policy(linear):
    """TV_max = erf(eps ||w||_1 / sigma / (2 sqrt 2)) at every state, whoever visits it."""
    truth = erf(EPS * LEFT / STD / 8**0.5)
    for seen in (linear.own, linear.fixed):
        for side in ("attack", BOUND):
            f = robustness(seen, side)
            np.testing.assert_allclose(f, [truth] * 3, rtol=1e-5)
        np.testing.assert_allclose(enclosed(seen), [truth] * 3, rtol=1e-5)
        assert rises_of(seen, BOUND)[:2] == (2, 0)
        np.testing.assert_allclose(seen.monotone["path"], truth, rtol=1e-7)
        for moved in seen.actions.values():
            expected = np.broadcast_to(EPS * LEFT[:, None, None], (3, 5, 3))
            np.testing.assert_allclose(moved, expected, rtol=1e-5)


def test_sensitivity_per_behaviour_is_d_over_what_the_policy_does(linear):
    """The weights removed, the action of the last level is -2 times one observation."""
    outputs = linear.own.outputs[..., 0].reshape(3, -1)  # episodes of one length
    np.testing.assert_allclose(linear.spread, outputs.std(-1), rtol=1e-6)
    assert np.all(linear.spread > 0)
    np.testing.assert_allclose(linear.sensitivity, EPS * LEFT / outputs.std(-1), rtol=1e-5)
    # Other masks visit other states, and the dense policy's are looked at with every mask.
    np.testing.assert_array_equal(linear.own.outputs[0], linear.fixed.outputs[0])
    assert not np.allclose(linear.own.outputs[2], linear.fixed.outputs[2])


def test_what_is_shown(linear):
    header, rows = f_rows(linear)
    assert len(rows) == 3 and {len(row) for row in rows} == {len(header)}
    assert rows[1][:2] == ["0.34", f"{linear.returns[1].mean():.0f}"]
    first = next(iter(f_columns([linear])))
    assert first["F_own_at_most"] == pytest.approx(erf(EPS * 3.5 / STD / 8**0.5), rel=1e-5)
    _, meaning = meaning_table(linear)
    # D is 1.75, 1.5 and 1: TV 0.62, 0.55 and 0.38.
    assert [row[:2] for row in meaning] == [["path", "0.67"], ["best of these", "0.67"]]
    assert meaning[0][2] == f"{linear.returns[2].mean():.0f}"


def made_up(tv: list[float], noise: float) -> Along:
    """A policy of which the F at its own states is given, at each of 20 episodes of 3 states."""
    shape = (len(tv), 20, 3)
    values = np.array(tv)[:, None, None] + noise * np.random.default_rng(0).standard_normal(shape)
    still = np.broadcast_to(np.array(tv[:1])[:, None, None], shape)
    outputs = np.random.default_rng(1).standard_normal((*shape, 1))
    length, monotone = np.full(shape[:2], 50), {"path": np.array([1.0, 0.8, 0.4, 0.2])}
    own, fixed = (
        Seen(length, {"attack": x, BOUND: x + 0.1}, {"attack": x}, outputs, monotone)
        for x in (values, still)
    )
    return Along("net", [0.0, 0.3, 0.6, 0.9], np.full(shape[:2], 100.0), own, fixed)


def test_rises_beyond_the_interval_are_told_from_noise():
    clear = made_up([0.5, 0.4, 0.6, 0.3], noise=0.01)
    assert rises_of(clear.own, "attack") == (3, 1, 1)
    assert rises_of(clear.fixed, "attack") == (3, 0, 0)
    noisy = made_up([0.5, 0.4, 0.41, 0.3], noise=0.5)
    assert rises_of(noisy.own, BOUND).certainly == 0
    told, behaviour = sentences([clear])
    assert "at its own states 1 raised what the attack found (1 beyond" in told
    assert "at the dense policy's 0 raised" in told
    assert "No monotone bound proves TV < 0.5 below sparsity 0.6, where it returns 100" in behaviour
