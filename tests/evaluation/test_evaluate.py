"""`evaluate`: shapes, pairing, determinism and independence of what else is in the batch."""

import math
from dataclasses import replace
from functools import cache

import jax
import numpy as np
import pytest

from jaxprune.attacks import (
    AttackConfig,
    MADConfig,
    SarsaConfig,
    SelectionConfig,
    Victims,
    make_attack,
)
from jaxprune.cells import as_cells
from jaxprune.devices import Mapped
from jaxprune.envs import make_env
from jaxprune.evaluation import Evaluator, evaluate, visited
from jaxprune.evaluation.episodes import (
    EpisodeSet,
    cell_program,
    check_evaluation,
    episode_keys,
)
from jaxprune.policy import init_policy
from jaxprune.pruning import dense, mask_policy
from jaxprune.rollout import Play
from jaxprune.types import Masks, Policy
from jaxprune.validation import InputError
from tests.probes import Breakdown, Drift, ObservationReward, Treadmill

CARTPOLE, DRIFT = make_env("cartpole"), Drift()
COLUMNS = {"return", "return_discounted", "length", "terminated", "diverged", "distance"}


@cache
def drawn(env) -> Policy:
    """Six policies with last kernels large enough to act on the observation."""
    spec = env.spec

    def one(key):
        policy = init_policy(
            key, spec.obs_size, spec.action_size, discrete=spec.discrete, hidden=(8, 8)
        )
        actor = dict(policy.params.actor)
        actor["layer_2"] = jax.tree.map(lambda w: 100 * w, actor["layer_2"])
        return replace(policy, params=policy.params._replace(actor=actor))

    return jax.device_get(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(7), 6)))


def policies(env, *shape: int) -> Policy:
    """The first of them, `[*shape]`."""
    few = math.prod(shape)
    return jax.tree.map(lambda x: x[:few].reshape((*shape, *x.shape[1:])), drawn(env))


def random_masks(policy: Policy, *more: int) -> Masks:
    """Half of every leaf removed, differently in every cell: leading axes those of the policy."""
    batch = policy.params.log_std.ndim - 1
    rng = np.random.default_rng(11)

    def half(w):
        return rng.random((*w.shape[:batch], *more, *w.shape[batch:])) < 0.5

    return jax.tree.map(half, policy.params)


def at(tree, *index: int):
    return jax.tree.map(lambda x: x[index], tree)


# --- shapes


@pytest.mark.parametrize(
    ("agents", "cells"),
    [((), None), ((), ()), ((), (3,)), ((2,), None), ((2,), ()), ((2,), (3,)), ((2, 1), (3, 2))],
    ids=str,
)
def test_leading_axes_are_those_of_the_masks(agents, cells):
    policy = policies(DRIFT, *agents)
    masks = None if cells is None else random_masks(policy, *cells)
    table = evaluate(DRIFT, policy, masks, episodes=3)
    assert set(table) == COLUMNS
    assert {x.shape for x in table.values()} == {(*agents, *(cells or ()), 3)}
    assert all(isinstance(x, np.ndarray) for x in table.values())
    assert table["return"].dtype == table["distance"].dtype == np.float32
    assert table["length"].dtype == np.int32
    assert table["terminated"].dtype == table["diverged"].dtype == bool


def test_probes_have_their_analytic_returns():
    for terminates in (False, True):
        env = Treadmill(terminates, length=3)
        table = evaluate(env, policies(env, 2), attack="random", episodes=2)
        assert np.all(table["return"] == 3.0)
        np.testing.assert_allclose(table["return_discounted"], 1 + 0.99 + 0.99**2, rtol=1e-6)
        assert np.all(table["length"] == 3)
        assert np.all(table["terminated"] == terminates)
        assert not np.any(table["diverged"])


def test_gamma_and_the_stochastic_victim():
    env = Treadmill(terminates=True, length=3)
    discounted = evaluate(env, policies(env), episodes=1, gamma=0.5)["return_discounted"]
    assert discounted.tolist() == [1.75]
    table = evaluate(DRIFT, policies(DRIFT), episodes=3)
    drawn = evaluate(DRIFT, policies(DRIFT), episodes=3, victim="stochastic")
    assert np.all(table["return"] != drawn["return"])
    with pytest.raises(InputError, match="did you mean 'stochastic'"):
        evaluate(DRIFT, policies(DRIFT), victim="stochastc")


def test_diverged_episodes_are_marked_and_leave_the_others_alone():
    """Half of this probe's episodes break at step 3 of 5; each step earns 1."""
    table = evaluate(Breakdown(), policies(Breakdown(), 2), attack="mad", episodes=16)
    diverged = table["diverged"]
    assert 0 < diverged.sum() < diverged.size
    assert np.array_equal(table["return"], np.where(diverged, 2.0, 5.0))
    assert np.array_equal(table["length"], np.where(diverged, 3, 5))
    assert np.array_equal(table["terminated"], diverged)
    assert np.isfinite(table["distance"]).all()


# Without a memory and with one; those that learn have a test of their own.
ATTACKS = ("none", "random", "mad", "mad_coupled")
LEARNING = AttackConfig(
    selection=SelectionConfig(final_episodes=2),  # as the other rounds: one shape
    rs=SarsaConfig(
        steps=256, num_envs=8, epochs=2, batch=64, radii=(0.05, 0.3), weights=(1.0,), rounds=1
    ),
)


# --- a cell is the same whatever else is computed


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_cell_alone_is_the_cell_in_the_batch(attack):
    """[2 agents, 3 masks] against one policy and one mask; the attacks are random but keyed."""
    policy = policies(DRIFT, 2)
    masks = random_masks(policy, 3)
    settings = {"attack": attack, "eps": 0.2, "episodes": 3, "key": jax.random.key(3)}
    batch = evaluate(DRIFT, policy, masks, **settings)
    for i, j in ((0, 0), (1, 2)):
        alone = evaluate(DRIFT, at(policy, i), at(masks, i, j), **settings)
        for name in COLUMNS:
            np.testing.assert_allclose(batch[name][i, j], alone[name], rtol=1e-5, atol=1e-6)
    assert len(np.unique(batch["return"][..., 0])) == 6  # the cells do differ


def test_an_attack_that_learns_meets_every_cell_as_if_it_were_alone():
    """Critics are trained against each cell, and each cell meets the one that did best."""
    policy = policies(DRIFT, 2)
    masks = random_masks(policy, 2)
    settings = {"attack": "rs", "eps": 0.3, "episodes": 3, "config": LEARNING}
    batch = evaluate(DRIFT, policy, masks, **settings)
    assert batch["return"].shape == (2, 2, 3)
    assert np.all(batch["distance"] > 0)
    alone = evaluate(DRIFT, at(policy, 1), at(masks, 1, 0), **settings)
    np.testing.assert_allclose(batch["return"][1, 0], alone["return"], rtol=1e-3)
    again = evaluate(DRIFT, policy, masks, **settings)
    assert np.array_equal(batch["return"], again["return"])


def test_an_episode_does_not_depend_on_how_many_there_are():
    few, many = (evaluate(DRIFT, policies(DRIFT), episodes=n)["return"] for n in (3, 5))
    np.testing.assert_allclose(many[:3], few, rtol=1e-5)
    assert len(np.unique(many)) == 5


def test_masking_inside_is_masking_before():
    """Removed weights are zeros, and all-true masks are no masks."""
    policy = policies(DRIFT)
    masks = random_masks(policy)
    pruned = mask_policy(policy, masks)
    unmasked = evaluate(DRIFT, policy, episodes=3)["return"]
    inside = evaluate(DRIFT, policy, masks, episodes=3)["return"]
    np.testing.assert_allclose(inside, evaluate(DRIFT, pruned, episodes=3)["return"], rtol=1e-5)
    everything = evaluate(DRIFT, policy, dense(policy.params), episodes=3)["return"]
    np.testing.assert_allclose(everything, unmasked, rtol=1e-5)
    assert np.all(inside != unmasked)


# --- keys


def test_the_key_determines_everything():
    policy = policies(DRIFT, 2)
    results = [
        evaluate(DRIFT, policy, attack="random", eps=0.3, episodes=3, key=jax.random.key(seed))
        for seed in (0, 0, 1)
    ]
    default = evaluate(DRIFT, policy, attack="random", eps=0.3, episodes=3)
    for name in COLUMNS:
        assert np.array_equal(results[0][name], results[1][name])
        assert np.array_equal(results[0][name], default[name])
    assert np.all(results[0]["return"] != results[2]["return"])
    assert np.all(results[0]["distance"] != results[2]["distance"])


def test_episode_i_starts_from_the_same_state_in_every_cell_and_attack():
    """The return of this probe is its initial observation."""
    env = ObservationReward()
    policy = policies(env, 2)
    masks = random_masks(policy, 2)
    tables = [evaluate(env, policy, masks, attack=a, eps=0.5, episodes=16) for a in ATTACKS]
    first = tables[0]["return"][0, 0]
    assert set(first) == {-1.0, 1.0}
    for table in tables:
        assert np.array_equal(table["return"], np.broadcast_to(first, (2, 2, 16)))


def test_episode_keys_are_distinct_and_independent_of_their_number():
    keys = [jax.random.key_data(episode_keys(jax.random.key(4), n)) for n in (3, 8)]
    assert np.array_equal(keys[0], keys[1][:3])
    assert len(np.unique(keys[1], axis=0)) == 8


# --- attacks and their settings


@pytest.mark.parametrize("attack", ATTACKS)
def test_eps_0_is_the_clean_return_bit_for_bit(attack):
    for env in (CARTPOLE, DRIFT):
        policy = policies(env)
        clean = evaluate(env, policy, episodes=3)
        result = evaluate(env, policy, attack=attack, eps=0.0, episodes=3)
        for name in COLUMNS:
            assert np.array_equal(result[name], clean[name])
        assert np.all(result["distance"] == 0.0)


def test_eps_defaults_to_that_of_the_task():
    policy = policies(DRIFT)
    default, explicit, other = (
        evaluate(DRIFT, policy, attack="random", eps=eps, episodes=3)
        for eps in (None, DRIFT.spec.eps, 2 * DRIFT.spec.eps)
    )
    assert np.array_equal(default["return"], explicit["return"])
    assert np.all(default["return"] != other["return"])


def test_mad_config_reaches_the_attack():
    """One step shorter than the ball cannot leave the start; more reach further."""
    policy = policies(DRIFT)
    distances = [
        evaluate(DRIFT, policy, attack="mad", eps=0.3, episodes=3, config=config)["distance"]
        for config in (
            AttackConfig(mad=MADConfig(steps=1, step_scale=0.01, restarts=1)),
            AttackConfig(),
            None,
        )
    ]
    assert np.all(distances[0] < distances[1])
    assert np.array_equal(distances[1], distances[2])


def test_an_attack_may_be_an_object_that_compiles_once():
    policy, config = policies(DRIFT), AttackConfig(mad=MADConfig(steps=2, restarts=1))
    mad = make_attack("mad", config)
    before = cell_program.cache_info().misses
    own = [evaluate(DRIFT, policy, attack=mad, eps=0.3, episodes=3) for _ in range(2)]
    assert cell_program.cache_info().misses == before + 1
    named = evaluate(DRIFT, policy, attack="mad", eps=0.3, episodes=3, config=config)
    for table in own:
        np.testing.assert_array_equal(table["return"], named["return"])


def test_an_evaluator_plays_all_its_attacks_by_one_program():
    policy = policies(DRIFT, 2)
    config = AttackConfig(mad=MADConfig(steps=2, restarts=1))
    evaluator = Evaluator(DRIFT, ("none", "mad"), config)
    _, flat, cells = as_cells(*jax.device_get((policy, None)))
    victims = Victims(DRIFT, flat, cells, 0.3, jax.random.key(0))
    play, key = Play(times=np.zeros((3, 0), np.int32)), jax.random.key(0)
    for name in evaluator.attacks:
        params = evaluator.arm(name, victims, play).params
        found = evaluator.play(name, victims, params, EpisodeSet(key, play.times), play)
        alone = evaluate(DRIFT, policy, attack=name, eps=0.3, episodes=3, key=key, config=config)
        np.testing.assert_allclose(found.return_, alone["return"], rtol=1e-5)
    assert evaluator.program.compilations == 1


# --- errors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eps": -0.1}, r"eps -0\.1 is outside \[0, inf\): give one inside"),
        ({"eps": float("nan")}, r"eps nan is"),
        ({"episodes": 0}, r"episodes 0 is below 1: give one in 1 "),
        (
            {"attack": "madd"},
            r"attack 'madd': did you mean 'mad' or .*jaxprune list attacks",
        ),
    ],
    ids=["eps", "nan", "episodes", "attack"],
)
def test_a_bad_setting_is_named_with_its_remedy(change, message):
    arguments = {"policy": policies(DRIFT), "episodes": 2, "eps": 0.1, **change}
    with pytest.raises(InputError, match=message):
        evaluate(DRIFT, **arguments)


def test_a_policy_of_another_task_is_refused():
    needs = r"but env 'drift' needs 2 to 2 \(normal\): choose the env"
    with pytest.raises(InputError, match=rf"4 observations to 2 outputs \(categorical\), {needs}"):
        evaluate(DRIFT, policies(CARTPOLE))
    with pytest.raises(InputError, match=rf"2 observations to 3 outputs \(normal\), {needs}"):
        evaluate(DRIFT, init_policy(jax.random.key(0), 2, 3))
    with pytest.raises(InputError, match=rf"2 observations to 2 outputs \(categorical\), {needs}"):
        evaluate(DRIFT, init_policy(jax.random.key(0), 2, 2, discrete=True))


def test_masks_of_another_population_are_refused():
    with pytest.raises(InputError, match=r"masks have leading axes \(2,\), the policy \(3,\)"):
        evaluate(DRIFT, policies(DRIFT, 3), random_masks(policies(DRIFT, 2)))


def test_check_evaluation_accepts_batches():
    check_evaluation(DRIFT, policies(DRIFT, 2, 3), eps=0.0)


def test_agents_fresh_from_training_may_live_on_all_devices():
    """What `Mapped` returns is split over the devices; the numbers are the same."""
    keys = jax.random.split(jax.random.key(0), 2)
    split = Mapped(lambda _, key: init_policy(key, 4, 2, discrete=True))((), keys, width=1)
    env = make_env("cartpole")
    ours = evaluate(env, split, episodes=3)
    host = evaluate(env, jax.device_get(split), episodes=3)
    np.testing.assert_array_equal(ours["return"], host["return"])


# --- visited states


def test_visited_states_have_the_axes_of_the_masks_and_are_of_their_episodes():
    """The treadmill shows one observation; the drifting probe another one in every cell."""
    env = Treadmill(terminates=True, length=3, obs=0.7)
    assert np.all(visited(env, policies(env, 2), states=5, episodes=2) == np.float32(0.7))
    policy = policies(DRIFT, 2)
    masks = random_masks(policy, 3)
    states = visited(DRIFT, policy, masks, states=7, episodes=3, key=jax.random.key(1))
    assert states.shape == (2, 3, 7, DRIFT.spec.obs_size)
    assert len(np.unique(states[..., 0])) > 6
    again = visited(DRIFT, policy, masks, states=7, episodes=3, key=jax.random.key(1))
    np.testing.assert_array_equal(states, again)
    every = visited(DRIFT, policies(DRIFT), states=3 * DRIFT.spec.horizon, episodes=3)
    assert len(np.unique(every, axis=0)) == 3 * DRIFT.spec.horizon  # each once


def test_visited_states_end_where_their_episodes_ended():
    """Pendulum: (cos, sin, speed). Cartpole: nothing after the pole has fallen, no zeros."""
    env = make_env("pendulum")
    every = visited(env, policies(env), states=8 * env.spec.horizon, episodes=8)
    np.testing.assert_allclose(np.hypot(every[:, 0], every[:, 1]), 1, rtol=1e-5)
    assert len(np.unique(every, axis=0)) == 8 * env.spec.horizon
    seen = visited(CARTPOLE, policies(CARTPOLE), states=8 * CARTPOLE.spec.horizon, episodes=8)
    assert len(np.unique(seen, axis=0)) < 8 * CARTPOLE.spec.horizon
    assert np.all(np.abs(seen[:, 2]) < 0.5) and np.all(seen.any(-1))


@pytest.mark.parametrize("wrong", [{"states": 0}, {"episodes": 0}])
def test_visited_needs_states_and_episodes(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        visited(DRIFT, policies(DRIFT), **wrong)
