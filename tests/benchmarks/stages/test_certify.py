"""The certify stage: which statements a task gets, their numbers, and what a broken agent costs."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from benchmarks.analysis.bounds import behaviour
from benchmarks.experiment import PRESETS
from benchmarks.runtime.arrays import part
from benchmarks.stages.base import Population, Row
from benchmarks.stages.certify import certified
from benchmarks.stages.visitation import collect, visit_times
from jaxprune.attacks import Victims
from jaxprune.cells import Cell
from jaxprune.certify import BOUNDS
from jaxprune.envs import make_env
from jaxprune.evaluation import Evaluator
from jaxprune.evaluation.episodes import VICTIMS, EpisodeSet
from jaxprune.pruning import prune
from jaxprune.rollout import Play
from tests.policies import drawn_agents
from tests.probes import Drift
from tests.quiet import Silent

CARTPOLE = make_env("cartpole")
SETTINGS = replace(
    PRESETS["smoke"], bounds=("path", "spectral", "ibp"), eps=(0.05,), episodes=4, states=16
)


def table_of(settings, env, broken: bool = False):
    """The table of two agents, dense and at 0.5, and their unattacked episodes."""
    spec = env.spec
    policy = drawn_agents((2,), spec.obs_size, spec.action_size, (8,), discrete=spec.discrete)
    masks = prune(policy, "magnitude", [0.0, 0.5])
    flat = jax.tree.map(lambda m: m.reshape(4, *m.shape[2:]), masks)
    cells = Cell(np.repeat(np.arange(2), 2), flat)
    cells, policy = jax.device_get((cells, policy))
    rows = [
        Row(seed, "ppo", "magnitude", "global", "after", s, s, True)
        for seed in range(2)
        for s in (0.0, 0.5)
    ]
    play = Play(VICTIMS[settings.victim[0]], times=visit_times(settings, spec))
    victims = Victims(env, policy, cells, 0.0, jax.random.key(0))
    episodes = EpisodeSet(jax.random.key(1), play.times)
    clean = Evaluator(env, ("none",)).play("none", victims, (), episodes, play)
    visits = collect(play.times, float(settings.ppo.hyper.gamma), spec, clean)
    if broken:
        policy.params.actor["layer_1"]["bias"] = policy.params.actor["layer_1"]["bias"].copy()
        policy.params.actor["layer_1"]["bias"][1] = np.nan
    population = Population(policy, rows, cells, 0)
    rows_of_radius = certified(settings, spec, population, visits, settings.eps[0], Silent())
    return part("certificates", rows_of_radius), clean


def rows(table, **wanted):
    """Values of the rows with these entries."""
    keep = np.ones(len(table["value"]), bool)
    for name, value in wanted.items():
        keep &= (
            np.isclose(table[name], value, equal_nan=True)
            if name == "confidence"
            else (table[name] == value)
        )
    return table["value"][keep]


def test_statements_of_the_deterministic_discrete_victim():
    table, clean = table_of(SETTINGS, CARTPOLE)
    assert set(table["bound"]) == {"path", "spectral", "ibp", "attack"}
    for name in ("D", "TV", "vacuity", "value_gap"):
        assert rows(table, bound="path", quantity=name, confidence=1.0).shape == (4,)
    # The attack is below the bound, at the same states.
    for quantity in ("D", "D_mean", "TV", "TV_mean"):
        reached = rows(table, bound="attack", quantity=quantity)
        bound = rows(table, bound="ibp", quantity=quantity) + 1e-6
        assert np.all((reached > 0) & (reached <= bound))
    assert np.all(rows(table, bound="ibp", quantity="exceeded") == 0)
    rate = rows(table, bound="ibp", quantity="fixed_action")
    assert np.all((rate >= 0) & (rate <= 1))
    estimate = rows(table, bound="ibp", quantity="return_floor", confidence=np.nan)
    floor = rows(table, bound="ibp", quantity="return_floor", confidence=0.95)
    assert np.all((floor <= estimate) & (estimate <= clean.return_.mean(-1)))
    assert rows(table, quantity="value_gap_on_policy").size == 0


def test_no_ball_no_loss():
    """eps 0: every action is certain, and the floor is the clean return."""
    table, clean = table_of(replace(SETTINGS, eps=(0.0,)), CARTPOLE)
    floor = rows(table, bound="ibp", quantity="return_floor", confidence=np.nan)
    np.testing.assert_allclose(floor, clean.return_.mean(-1))
    assert np.all(rows(table, bound="ibp", quantity="fixed_action") == 1)
    assert np.all(rows(table, bound="path", quantity="value_gap") == 0)


@pytest.mark.parametrize("env", [CARTPOLE, Drift(length=6)], ids=["cartpole", "drift"])
def test_statements_of_the_stochastic_victim(env):
    """F times range / (1 - gamma)^2, for estimates and for statements."""
    settings = replace(SETTINGS, victim=("stochastic", "deterministic"))
    table, clean = table_of(settings, env)
    quantity = "value_gap_on_policy" + ("" if env.spec.reward_range else "_clipped")
    low, high = env.spec.reward_clip
    trivial = (high - low) / 0.01
    estimate = rows(table, bound="ibp", quantity=quantity, confidence=np.nan)
    gap = rows(table, bound="ibp", quantity=quantity, confidence=0.95)
    assert np.all((estimate > 0) & (estimate <= gap) & (gap <= trivial * (1 + 1e-6)))
    assert rows(table, quantity="return_floor").size == 0
    floors = rows(table, quantity="discounted_return_floor")
    if env.spec.reward_range is None:  # no confidence bound of the clean return
        assert floors.size == 0
        return
    # Hoeffding at 2.5 % for the clean return, over the three bounds of which the best is shown.
    low, high = (x * (1 - 0.99**env.spec.horizon) / 0.01 for x in env.spec.reward_range)
    width = (high - low) * np.sqrt(np.log(2 * 3 / 0.05) / (2 * settings.episodes))
    certain = clean.discounted.mean(-1) - width
    path_gap = rows(table, bound="path", quantity="value_gap")
    path_floor = rows(table, bound="path", quantity="discounted_return_floor", confidence=0.95)
    np.testing.assert_allclose(path_floor, np.maximum(np.maximum(certain, low) - path_gap, low))
    ibp_floor = rows(table, bound="ibp", quantity="discounted_return_floor", confidence=0.95)
    assert np.all(ibp_floor <= np.maximum(np.maximum(certain, low) - gap, low))


def test_a_deterministic_continuous_victim_has_no_certificate_and_the_reason():
    table, _ = table_of(SETTINGS, Drift(length=6))
    missing = np.char.startswith(table["quantity"].astype(str), "value_gap_on_policy")
    assert missing.sum() == 4
    assert np.isnan(table["value"][missing]).all()
    assert all("total variation 1" in note for note in table["note"][missing])


def test_global_bounds_alone_need_no_states():
    table, _ = table_of(replace(SETTINGS, bounds=("path",)), CARTPOLE)
    assert set(table["bound"]) == {"path"}


def test_actions_are_told_in_their_units_beside_what_the_policy_does():
    """The attack below the local bound, and F of a behaviour between the same two."""
    settings = replace(SETTINGS, victim=("stochastic",))
    table, _ = table_of(settings, Drift(length=6))
    for quantity in ("D_action", "D_action_mean"):
        reached = rows(table, bound="attack", quantity=quantity)
        assert np.all(reached > 0) and reached.shape == (4,)
        assert np.all(reached <= rows(table, bound="ibp", quantity=quantity) * (1 + 1e-4))
    assert np.all(rows(table, bound="attack", quantity="action_sd") >= 0)
    found = behaviour(table, "magnitude", 0.05)
    assert found is not None and np.all(found.f[0] <= found.f[1] + 1e-6)
    spread = rows(table, bound="attack", quantity="action_sd").reshape(2, 2).mean(0)
    np.testing.assert_allclose(found.spread, spread)
    discrete, _ = table_of(SETTINGS, CARTPOLE)
    assert behaviour(discrete, "magnitude", 0.05) is None


def test_an_agent_that_diverged_costs_only_its_own_certificates():
    table, _ = table_of(SETTINGS, CARTPOLE, broken=True)
    numbers = np.isin(table["quantity"], ["D", "TV", "vacuity", "value_gap"])
    numbers &= np.isin(table["bound"], list(BOUNDS))
    diverged = table["seed"] == 1
    assert np.isnan(table["value"][numbers & diverged]).all()
    assert np.isfinite(table["value"][numbers & ~diverged]).all()


@pytest.mark.parametrize(
    ("task", "quantity", "unit", "width"),
    [
        ("cartpole", "value_gap", "discounted return", 1.0),
        (
            "mountain_car_continuous",  # no lower bound: it pays for actions outside +-1 too
            "value_gap_clipped",
            "discounted return of rewards clipped to [-0.1, 100]",
            100.1,
        ),
    ],
)
def test_every_task_has_a_value_certificate_that_names_its_rewards(task, quantity, unit, width):
    """The vacuity times the trivial bound, (r_hi - r_lo) / (1 - gamma)."""
    table, _ = table_of(replace(SETTINGS, bounds=("path",)), make_env(task))
    undiscounted = quantity.replace("value_gap", "value_gap_undiscounted")
    action = {"D_action"} if task == "mountain_car_continuous" else set()
    assert set(table["quantity"]) == {"D", "TV", "vacuity", quantity, undiscounted} | action
    horizon = make_env(task).spec.horizon
    assert np.all(rows(table, quantity=undiscounted) <= width * horizon * (1 + 1e-9))
    mine = table["quantity"] == quantity
    assert set(table["unit"][mine]) == {unit}
    trivial = width / (1 - SETTINGS.ppo.hyper.gamma)
    np.testing.assert_allclose(
        table["value"][mine], trivial * rows(table, quantity="vacuity"), rtol=1e-6
    )
