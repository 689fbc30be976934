"""What an experiment is broken down into, without running it: arms, cells, keys, counts, blocks."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks import pipeline
from benchmarks.cells import ATTACK, CERTIFY, PRUNE, TRAIN, blocks, key_for
from benchmarks.experiment import PRESETS, parse_grid
from benchmarks.plan import make_plan
from jaxprune.envs import make_env
from jaxprune.policy import init_policy
from jaxprune.pruning import dense

ENV = make_env("cartpole")
SMOKE = replace(PRESETS["smoke"], seeds=3, sparsity_grid=parse_grid("0:0.9:4")).resolved(ENV)


class Silent:
    """Progress that nobody watches."""

    def stage(self, name: str, total: int) -> None: ...
    def advance(self, units: int) -> None: ...


def agents_of(experiment, spec=ENV.spec) -> pipeline.Agents:
    """Fresh agents in place of trained ones."""
    todo = pipeline.arms(experiment)
    keys = jax.random.split(jax.random.key(0), len(todo))
    make = partial(init_policy, obs_size=spec.obs_size, action_size=spec.action_size)
    make = partial(make, discrete=spec.discrete)
    policy = jax.device_get(jax.vmap(make)(keys))
    return pipeline.Agents(todo, policy, jax.device_get(dense(policy.params)), None)


def test_arms_are_dense_agents_then_one_per_method_seed_and_sparsity():
    todo = pipeline.arms(SMOKE)
    assert todo[:3] == [pipeline.Arm(seed, "none", 0.0) for seed in range(3)]
    assert todo[3:7] == [pipeline.Arm(0, "micro", s) for s in (0.0, 0.3, 0.6, 0.9)]
    assert len(todo) == 3 + 3 * 4


def test_cells_are_as_many_as_announced_and_carry_exact_sparsities():
    population = pipeline.make_population(SMOKE, agents_of(SMOKE))
    assert len(population.rows) == pipeline.cell_count(SMOKE) == 3 + 3 * 3 * 4
    weights = 4 * 64 + 64 * 64 + 64 * 2
    for i, row in enumerate(population.rows):
        removed = sum(
            int((~population.cells.masks.actor[f"layer_{k}"]["kernel"][i]).sum()) for k in range(3)
        )
        if row.method != "micro":  # those masks come from training
            assert removed == round(row.sparsity * weights)
        assert row.sparsity_achieved == pytest.approx(round(row.sparsity * weights) / weights)
    micro = [
        a
        for a, row in zip(population.cells.agent, population.rows, strict=True)
        if row.method == "micro"
    ]
    assert micro == list(range(3, 15))


def test_a_policy_file_is_one_seed():
    loaded = replace(PRESETS["smoke"], policy=Path("p.npz"), methods=("magnitude",)).resolved(ENV)
    assert loaded.seeds == 1
    assert pipeline.cell_count(loaded) == 1 + 4


def test_a_policy_of_another_library_gets_its_statistics(tmp_path):
    policy = Path(__file__).parents[1] / "data" / "sb3_cartpole.zip"
    np.savez(tmp_path / "stats.npz", obs_mean=np.arange(4.0), obs_var=np.full(4, 0.25))
    raw = replace(SMOKE, policy=policy, methods=("magnitude",), eps=(0.1,))
    normalised = replace(raw, policy_stats=tmp_path / "stats.npz")
    for experiment, mean, std in ((raw, np.zeros(4), 1.0), (normalised, np.arange(4.0), 0.5)):
        loaded = pipeline.load_agents(experiment, ENV)
        assert loaded is not None
        np.testing.assert_array_equal(loaded.policy.obs_stats.mean, [mean])
        np.testing.assert_allclose(loaded.policy.obs_stats.std, np.full((1, 4), std), rtol=1e-6)


def test_the_clean_run_is_always_there_and_every_radius_is_attacked():
    assert pipeline.attack_plan(replace(SMOKE, attacks=("mad",), eps=(0.1, 0.2))) == [
        ("none", 0.0),
        ("mad", 0.1),
        ("mad", 0.2),
    ]


def test_the_window_says_when_weights_go():
    todo = [pipeline.Arm(0, "none", 0.0), pipeline.Arm(0, "micro", 0.5)]
    shapes = pipeline.policy_shapes(SMOKE, ENV).params

    def counts(window):
        config = pipeline.rounded(SMOKE.ppo)
        return pipeline.prune_counts(replace(SMOKE, prune_window=window), config, todo, shapes)

    early, late = counts((0.0, 0.5)), counts((0.5, 1.0))
    target = round(0.5 * (4 * 64 + 64 * 64 + 64 * 2))
    assert (early[0] == 0).all()
    assert early[1, -1] == late[1, -1] == target
    half = early.shape[1] // 2
    assert early[1, half - 1] == target
    assert (late[1, : half - 1] == 0).all()


def test_keys_depend_on_seed_purpose_and_index():
    keys = [
        key_for(replace(SMOKE, seed=seed), purpose, index)
        for seed in (0, 1)
        for purpose in (TRAIN, PRUNE, ATTACK, CERTIFY)
        for index in (0, 1)
    ]
    assert len({tuple(jax.random.key_data(key).tolist()) for key in keys}) == len(keys)


def test_training_is_rounded_up_to_whole_calls_by_less_than_one_call():
    for steps in (1, 1024, 20 * 1024 + 1, 150_000):
        asked = replace(SMOKE.ppo, steps=steps)
        config = pipeline.rounded(asked)
        calls = min(pipeline.TRAINING_CALLS, asked.iterations)
        assert config.iterations % calls == 0
        assert 0 <= config.iterations - asked.iterations < calls


def test_blocks_have_one_shape_and_lose_nothing():
    found = list(blocks(7, 3))
    assert [size for _, size in found] == [3, 3, 1]
    assert all(len(index) == 3 for index, _ in found)
    np.testing.assert_array_equal(np.concatenate([i[:n] for i, n in found]), np.arange(7))


def test_the_plan_counts_what_the_pipeline_will_do():
    plan = make_plan(SMOKE, ENV, Path("results/x"))
    assert (plan.agents, plan.cells) == (15, 39)
    assert plan.training_steps == 15 * pipeline.rounded(SMOKE.ppo).steps
    assert plan.episodes == 39 * 3 * SMOKE.episodes
    assert plan.programs == ("init", "train", "evaluate")
    assert plan.seconds > 0
    assert plan.gib > 0
    assert "results/x" in str(plan)
