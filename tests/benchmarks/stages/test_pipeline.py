"""What an experiment is broken down into, without running it: cells, keys, counts, blocks."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks.experiment import PRESETS, check, parse_grid
from benchmarks.experiment.design import (
    ATTACK,
    CERTIFY,
    PRUNE,
    TRAIN,
    Agent,
    expand,
    key_for,
)
from benchmarks.experiment.plan import make_plan
from benchmarks.experiment.validate import read_file
from benchmarks.stages import train
from benchmarks.stages.base import blocks
from benchmarks.stages.pipeline import policy_shapes
from benchmarks.stages.prune import make_population
from jaxprune.devices import take
from jaxprune.envs import make_env
from jaxprune.ppo import Snapshot, make_learner
from jaxprune.pruning import dense
from jaxprune.pruning.controls import quantised
from jaxprune.validation import InputError
from tests.policies import drawn_agents

ENV = make_env("cartpole")
SMOKE = replace(PRESETS["smoke"], seeds=3, sparsity_grid=parse_grid("0:0.9:4")).resolved(ENV)


def agents_of(block, spec=ENV.spec) -> train.Agents:
    """Fresh agents in place of trained ones."""
    sizes = (spec.obs_size, spec.action_size)
    policy = drawn_agents((len(block.agents),), *sizes, discrete=spec.discrete)
    return train.Agents(policy, jax.device_get(dense(policy.params)), {})


def people(experiment):
    """The cells of untrained agents of all seeds, and the block that they are of."""
    block = expand(experiment).first(experiment.seeds)
    return make_population(experiment, block, ENV, agents_of(block)), block


def test_cells_are_as_many_as_announced_and_carry_exact_sparsities():
    population, block = people(SMOKE)
    assert len(population.rows) == len(block.cells) == 3 + 3 * 3 * 4
    assert len(population.policy.params.log_std) == len(block.policies) == 3 + 3 * 4
    weights = 4 * 64 + 64 * 64 + 64 * 2
    for i, row in enumerate(population.rows):
        removed = sum(
            int((~population.cells.masks.actor[f"layer_{k}"]["kernel"][i]).sum()) for k in range(3)
        )
        # The masks of "micro" come from training, of which there was none.
        asked = 0 if row.method == "micro" else round(row.sparsity * weights)
        assert removed == asked
        assert row.sparsity_achieved == pytest.approx(asked / weights)
        assert row.nested == (row.method != "micro")
    assert [row.method for row in population.rows] == ["none"] * 3 + [
        method for method in ("magnitude", "random", "micro") for _ in range(12)
    ]
    micro = [
        a
        for a, row in zip(population.cells.agent, population.rows, strict=True)
        if row.method == "micro"
    ]
    assert micro == list(range(3, 15))


def test_cells_of_every_regime_allocation_and_control_are_as_many_as_announced():
    asked = replace(
        SMOKE,
        seeds=2,
        sparsity_grid=(0.0, 0.5),
        methods=("micro", "magnitude", "wanda"),
        allocations=("global", "uniform"),
        regimes=("ppo", "sa_ppo"),
        controls=("rescaled", "narrow", "int8"),
    )
    population, block = people(asked)
    # Per regime: dense, micro and magnitude by two allocations, wanda by one, three controls.
    expected = 2 * (2 + (2 + 2 + 1 + 3) * 4)
    assert len(population.rows) == len(block.cells) == expected
    # Trained ones, and a policy per rescaled and per int8 cell.
    policies = 2 * (2 + (2 + 1) * 4 + 2 * 4)
    assert len(population.policy.params.log_std) == len(block.policies) == policies
    shapes = policy_shapes(asked.ppo, len(block.policies), ENV, None)
    assert jax.tree.map(jax.numpy.shape, shapes) == jax.tree.map(jax.numpy.shape, population.policy)
    order = ["none", "micro", "magnitude", "wanda", "rescaled", "narrow", "int8"]
    assert list(dict.fromkeys(row.method for row in population.rows)) == order
    assert {(r.method, r.nested) for r in population.rows} == {
        ("none", True),
        ("micro", False),
        ("magnitude", True),
        ("wanda", True),
        ("rescaled", False),
        ("narrow", False),
        ("int8", False),
    }


def test_int8_cells_are_what_magnitude_leaves_on_few_levels():
    grid = (0.0, 0.75)
    asked = replace(SMOKE, seeds=2, sparsity_grid=grid, methods=("magnitude",), controls=("int8",))
    population, _ = people(asked)
    for i, row in enumerate(population.rows):
        if row.method != "int8":
            continue
        key = (row.seed, row.sparsity)
        (pruned,) = (
            j
            for j, other in enumerate(population.rows)
            if other.method == "magnitude" and (other.seed, other.sparsity) == key
        )
        here, there = (take(population.cells, j) for j in (i, pruned))
        jax.tree.map(np.testing.assert_array_equal, here.masks, there.masks)
        policy = take(population.policy, here.agent)
        expected = quantised(take(population.policy, there.agent), there.masks)
        jax.tree.map(np.testing.assert_array_equal, policy, expected)
        assert row.sparsity_achieved == pytest.approx(row.sparsity)
    assert [row.method for row in population.rows].count("int8") == 4


def test_rescaled_cells_keep_all_weights_at_the_norms_that_magnitude_leaves():
    asked = replace(
        SMOKE, seeds=2, sparsity_grid=(0.0, 0.75), methods=("magnitude",), controls=("rescaled",)
    )
    population, _ = people(asked)

    def kernels(method: str) -> dict[tuple[int, float], list[np.ndarray]]:
        """What acts, by seed and sparsity."""
        found = {}
        for i, row in enumerate(population.rows):
            if row.method == method:
                agent = population.cells.agent[i]
                found[row.seed, row.sparsity] = [
                    np.where(
                        population.cells.masks.actor[name]["kernel"][i], layer["kernel"][agent], 0
                    )
                    for name, layer in population.policy.params.actor.items()
                ]
        return found

    pruned, scaled = kernels("magnitude"), kernels("rescaled")
    assert pruned.keys() == scaled.keys() == {(s, x) for s in (0, 1) for x in (0.0, 0.75)}
    for at, layers in pruned.items():
        for ours, other in zip(layers, scaled[at], strict=True):
            np.testing.assert_allclose(np.linalg.norm(other), np.linalg.norm(ours), rtol=1e-6)
            assert np.all(other != 0)
            assert at[1] > 0 or np.array_equal(ours, other)
    assert {r.sparsity_achieved for r in population.rows if r.method == "rescaled"} == {0}


def test_a_narrow_network_starts_as_the_dense_agent_does_where_nothing_is_removed():
    key = key_for(SMOKE.seed, TRAIN, 1)
    policy = jax.device_get(jax.jit(make_learner(SMOKE.ppo, ENV).fresh)(key))

    def start(level):
        agent = Agent(1, "ppo", "narrow", "none", "endpoint", level)
        return train.starting_policy(SMOKE.ppo, ENV, agent, key, policy)

    same, masks = start(0.0)
    jax.tree.map(np.testing.assert_array_equal, same.params, policy.params)
    assert all(mask.all() for mask in jax.tree.leaves(masks))
    narrow, masks = start(0.75)
    jax.tree.map(np.testing.assert_array_equal, narrow.params.critic, policy.params.critic)
    hidden = masks.actor["layer_1"]["kernel"]
    assert 0 < hidden[0].sum() == hidden[:, 0].sum() < 64
    for layer, kept in zip(narrow.params.actor.values(), masks.actor.values(), strict=True):
        assert np.all((layer["kernel"] != 0) == kept["kernel"])


@pytest.mark.parametrize("grid", [(0.0, 0.5), (0.5,)])
def test_a_trajectory_ends_with_the_agent_and_passes_through_its_snapshots(grid):
    """One that goes straight to its only sparsity has none to keep on the way."""
    asked = replace(SMOKE, seeds=2, methods=("micro",), modes=("trajectory",), sparsity_grid=grid)
    block = expand(asked).first(2)
    todo = block.trainings
    policy, masks, _ = agents_of(block)
    final = jax.tree.map(lambda x: x[: len(todo)], (policy, masks))
    on_the_way = jax.tree.map(lambda x: np.stack([x + 1] * len(grid), 1), final[0])
    snapshots = Snapshot(on_the_way, jax.tree.map(lambda m: np.stack([m] * len(grid), 1), final[1]))
    if len(grid) == 1:
        snapshots = jax.tree.map(np.zeros_like, snapshots)
    agents = train.with_file(block, grid, None, (*final, snapshots), {})
    given, found = (x.params.actor["layer_1"]["kernel"] for x in (policy, agents.policy))
    assert len(found) == len(block.agents) == 2 + 2 * len(grid)
    for i, arm in enumerate(block.agents):
        row = arm.seed + (2 if arm.mode == "trajectory" else 0)
        expected = given[row] + (1 if arm not in todo else 0)
        np.testing.assert_array_equal(found[i], expected)
        assert agents.masks.actor["layer_1"]["kernel"][i].all()


def test_a_policy_file_is_one_seed():
    loaded = replace(PRESETS["smoke"], policy=Path("p.npz"), methods=("magnitude",)).resolved(ENV)
    assert loaded.seeds == 1
    assert len(expand(loaded).block(0).cells) == 1 + 4


def test_a_policy_of_another_library_gets_its_statistics(tmp_path):
    policy = Path(__file__).parents[2] / "data" / "sb3_cartpole.zip"
    np.savez(tmp_path / "stats.npz", obs_mean=np.arange(4.0), obs_var=np.full(4, 0.25))
    raw = replace(SMOKE, policy=policy, methods=("magnitude",), eps=(0.1,))
    normalised = replace(raw, policy_stats=tmp_path / "stats.npz")
    for experiment, mean, std in ((raw, np.zeros(4), 1.0), (normalised, np.arange(4.0), 0.5)):
        file = read_file(experiment, ENV)
        assert file is not None
        np.testing.assert_array_equal(file.policy.obs_stats.mean, mean)
        np.testing.assert_allclose(file.policy.obs_stats.std, np.full(4, std), rtol=1e-6)
    assert read_file(SMOKE, ENV) is None


def test_the_plan_tells_what_was_assumed_about_a_policy_file():
    policy = Path(__file__).parents[2] / "data" / "cleanrl_discrete.pt"
    asked = replace(SMOKE, policy=policy, methods=("magnitude",), eps=(0.1,))
    for activation, words in ((None, "tanh (assumed"), ("relu", "relu (as given")):
        experiment = replace(asked, policy_activation=activation)
        file = read_file(experiment, ENV)
        plan = str(make_plan(expand(experiment.resolved(ENV)), ENV, Path("results/x"), file=file))
        (line,) = (line for line in plan.splitlines() if line.startswith("policy "))
        for said in (str(policy), words, "actions are choices", "raw observations"):
            assert said in line
    settings = [replace(asked, policy_activation=a).settings() for a in (None, "relu")]
    assert settings[0] != settings[1]
    with pytest.raises(InputError, match="belongs to no policy"):
        check(replace(SMOKE, policy_activation="relu"))


def test_the_clean_run_is_always_there_and_every_radius_is_attacked():
    victims = ("stochastic", "deterministic")
    asked = replace(SMOKE, attacks=("mad",), eps=(0.1, 0.2), victim=victims)
    assert expand(asked).cases == [
        (name, eps, victim)
        for victim in victims
        for name, eps in (("none", 0.0), ("mad", 0.1), ("mad", 0.2))
    ]


def test_the_window_says_when_weights_go():
    todo = [Agent(0, "ppo", "none", "none", "dense", 0.0)]
    todo += [Agent(0, "ppo", "micro", "global", "endpoint", 0.5)]
    shapes = policy_shapes(SMOKE.ppo, 1, ENV, None).params

    def counts(window):
        design = expand(replace(SMOKE, prune_window=window))
        told = [train.orders(design, agent, shapes) for agent in todo]
        return np.stack([directive.counts.sum((1, 2)) for directive in told])

    early, late = counts((0.0, 0.5)), counts((0.5, 1.0))
    target = round(0.5 * (4 * 64 + 64 * 64 + 64 * 2))
    assert (early[0] == 0).all()
    assert early[1, -1] == late[1, -1] == target
    half = early.shape[1] // 2
    assert early[1, half - 1] == target
    assert (late[1, : half - 1] == 0).all()


def test_keys_depend_on_seed_purpose_and_index():
    keys = [
        key_for(seed, purpose, index)
        for seed in (0, 1)
        for purpose in (TRAIN, PRUNE, ATTACK, CERTIFY)
        for index in (0, 1)
    ]
    assert len({tuple(jax.random.key_data(key).tolist()) for key in keys}) == len(keys)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"methods": ("wanda",)}, "sparsity 0.9 empties a layer"),
        ({"methods": ("micro",), "modes": ("trajectory",), "steps": 2048}, "cannot stop at 4"),
        ({"methods": ("magnitude/cubic/n_of_8",)}, "N:8 does not divide the 4 inputs"),
    ],
)
def test_a_sparsity_out_of_reach_is_refused_before_anything_is_computed(changes, words):
    steps = changes.get("steps", SMOKE.ppo.steps)
    changes = {name: value for name, value in changes.items() if name != "steps"}
    experiment = replace(SMOKE, ppo=replace(SMOKE.ppo, steps=steps), **changes)
    with pytest.raises(InputError, match=words):
        train.check_orders(expand(experiment), ENV, None)


def test_blocks_have_one_shape_and_lose_nothing():
    found = list(blocks(7, 3))
    assert [size for _, size in found] == [3, 3, 1]
    assert all(len(index) == 3 for index, _ in found)
    np.testing.assert_array_equal(np.concatenate([i[:n] for i, n in found]), np.arange(7))


def test_the_plan_counts_what_the_pipeline_will_do():
    plan = make_plan(expand(SMOKE), ENV, Path("results/x"))
    amounts = plan.amounts
    assert (amounts.agents, amounts.cells) == (15, 39)
    assert amounts.training_steps == 15 * expand(SMOKE).learner.steps
    # A director's 8 calls of 8 episodes, of which each is taken to last a third of the horizon.
    assert amounts.learning_steps == 39 * round(8 * 8 * 500 / 3)
    assert amounts.episodes == 39 * len(SMOKE.attacks) * SMOKE.episodes
    assert plan.programs == ("init", "train", "evaluate", "director")
    assert plan.seconds > 0
    assert plan.gib > 0
    assert "results/x" in str(plan)
