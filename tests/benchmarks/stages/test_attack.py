"""The attack stage: what is prepared against whom, which member is chosen, and what is told."""

from dataclasses import replace
from types import SimpleNamespace
from typing import NamedTuple

import jax
import numpy as np
import pytest

from benchmarks.experiment import PRESETS, attack_names
from benchmarks.experiment.design import Case, expand
from benchmarks.experiment.plan import learned
from benchmarks.report.contents import contents
from benchmarks.report.markdown import sections
from benchmarks.runtime.schemas import SCHEMAS
from benchmarks.stages import attack, pipeline
from benchmarks.stages.attack import BlockUnderAttack
from benchmarks.stages.base import Population, distinct
from benchmarks.stages.evaluator import BlockEvaluator
from benchmarks.stages.victims import sources, victims_of, warmed
from jaxprune.attacks import (
    ATTACKS,
    AdversaryConfig,
    Attack,
    AttackConfig,
    MADConfig,
    SarsaConfig,
    SearchConfig,
    Victims,
    make_attack,
    none,
)
from jaxprune.attacks.base import nothing
from jaxprune.evaluation.gradient_masking import Diagnosis
from jaxprune.policy import action_distribution, normalise
from jaxprune.ppo import PPOConfig
from jaxprune.validation import InputError
from tests.policies import drawn_policy
from tests.probes import Drift
from tests.quiet import quiet_work

ENV = Drift()
TINY = AttackConfig(
    mad=MADConfig(restarts=20),
    rs=SarsaConfig(
        steps=256, num_envs=8, epochs=1, batch=64, radii=(0.05, 0.3), weights=(1.0,), rounds=1
    ),
)
BRIEF = replace(
    TINY,
    search=SearchConfig(clone_steps=256, clone_epochs=1),
    adversary=AdversaryConfig(
        steps=64, num_envs=4, unroll=16, epochs=1, minibatches=1, log_stds=(-0.5,)
    ),
)
SMALL = replace(
    PRESETS["smoke"],
    methods=("magnitude",),
    attacks=("mad", "rs", "transfer"),
    attack=TINY,
    bounds=("path",),
    sparsity_grid=(0.0, 0.5, 0.9),
    eps_sweep=(0.0, 1.0, 2.0),
    seeds=2,
    episodes=4,
    ppo=PPOConfig(steps=320, num_envs=8, unroll=10, epochs=1, minibatches=1, hidden=(8,)),
).resolved(ENV)


@pytest.fixture(scope="module")
def prepared_for() -> list[tuple[int, float]]:
    """(members, eps) of what was prepared, in order; filled by `run`."""
    return []


class Run(NamedTuple):
    """What the stages leave behind, and what they were about."""

    tables: dict
    population: Population


@pytest.fixture(scope="module")
def run(prepared_for, tmp_path_factory) -> Run:
    original, make = attack.prepared, pipeline.make_population
    populations = []

    def counting(attack, victims):
        if attack.prepare is not None:
            prepared_for.append((attack.members(victims.env.spec), victims.eps))
        return original(attack, victims)

    def keeping(*about):
        populations.append(make(*about))
        return populations[-1]

    attack.prepared, pipeline.make_population = counting, keeping
    try:
        tables = pipeline.run(
            expand(SMALL), ENV, None, quiet_work(tmp_path_factory.mktemp("run"))
        ).tables
    finally:
        attack.prepared, pipeline.make_population = original, make
    return Run(tables, *populations)


def test_every_attack_radius_and_cell_has_its_rows(run):
    cells = len(run.population.rows)
    assert cells == 2 + 2 * 3
    attacks, returns = run.tables["attacks"], run.tables["returns"]
    assert set(attacks) == set(SCHEMAS["attacks"].names)
    assert len(attacks["attack"]) == cells * (1 + 3 * 2)
    assert len(returns["attack"]) == cells * (1 + 3 * 2) * SMALL.episodes
    assert set(attacks["eps"]) == {0.0, 0.1, 0.2}
    assert not attacks["warm_start"].any()
    for name in ("none", *SMALL.attacks):
        rows = attacks["attack"] == name
        cost = make_attack(name, TINY).cost
        for what, spent in cost.spent(np.zeros(1)).items():
            assert set(attacks[what][rows]) == set(np.ravel(spent))


def test_a_mask_that_removes_nothing_is_the_dense_agent(run):
    """It is not attacked once more: two agents with two masks that remove something."""
    first, kind = distinct(run.population.cells)
    dense, pruned = [0, 1], [2, 3, 4, 5, 6, 7]  # agent after agent: sparsity 0, 0.5, 0.9
    assert sorted(first) == [0, 1, 3, 4, 6, 7]
    assert expand(SMALL).block(0).distinct == len(first)  # the program is made for so many
    assert kind[[2, 5]].tolist() == kind[dense].tolist()
    assert len(set(kind[pruned])) == 6
    returns = run.tables["returns"]
    for name in ("none", "mad", "rs"):
        rows = (returns["attack"] == name) & (returns["sparsity"] == 0)
        of = {x: returns["return"][rows & (returns["mode"] == x)] for x in ("dense", "after")}
        assert of["after"].size
        np.testing.assert_array_equal(of["dense"], of["after"])


def test_critics_serve_every_radius_and_sources_each_their_own(run, prepared_for):
    """Two members of rs once; transfer once for each radius."""
    del run
    assert sorted(prepared_for) == [(1, 0.1), (1, 0.2), (2, 0.1)]


def test_the_member_that_did_best_is_named_with_its_return(run):
    attacks = run.tables["attacks"]
    rs = attacks["attack"] == "rs"
    assert set(attacks["member"][rs]) <= {0, 1}
    assert np.all(np.isfinite(attacks["chosen_return"][rs]))
    assert np.all(np.isnan(attacks["chosen_return"][~rs]))


def test_a_pruned_policy_is_attacked_through_the_dense_one_and_back(run):
    """At sparsity 0 the dense policy is its own source, so that transfer is MAD."""
    population = run.population
    found = sources(population)
    rows = population.rows
    obs = np.array([0.3, -0.2], np.float32)

    def mean_of(policy, i):
        one = jax.tree.map(lambda x: x[i], policy)
        return np.asarray(action_distribution(one, normalise(one, obs)).mean)

    for i, row in enumerate(rows):
        dense = next(j for j, r in enumerate(rows) if r.mode == "dense" and r.seed == row.seed)
        if row.mode != "dense":
            np.testing.assert_allclose(
                mean_of(found, i), mean_of(population.policy, population.cells.agent[dense])
            )
        else:
            assert not np.allclose(mean_of(found, i), mean_of(population.policy, i))
    returns = run.tables["returns"]
    zero = (returns["method"] == "magnitude") & (returns["sparsity"] == 0)
    mad, transfer = (
        returns["return"][zero & (returns["attack"] == name)] for name in ("mad", "transfer")
    )
    np.testing.assert_allclose(mad, transfer, rtol=1e-4)


def test_without_a_pruned_policy_nothing_is_transferred():
    alone = replace(SMALL, methods=("none",))
    with pytest.raises(InputError, match="'transfer' needs a policy whose attack is transferred"):
        attack_names(alone, ENV.spec, None)
    names = attack_names(replace(alone, attacks=("all",)), ENV.spec, None)
    assert set(names) == ATTACKS.keys() - {"transfer", "worst_policy"}


def test_a_critic_attack_on_a_policy_without_a_critic():
    policy = drawn_policy(2, 2)
    critic = jax.tree.map(np.zeros_like, policy.params.critic)
    policy = policy.replace(params=policy.params._replace(critic=critic))
    with pytest.raises(InputError, match=r"'critic' needs the critic of the victim.*rs"):
        attack_names(replace(SMALL, attacks=("critic",)), ENV.spec, policy)
    names = attack_names(replace(SMALL, attacks=("all",)), ENV.spec, policy)
    assert set(names) == ATTACKS.keys() - {"critic", "lookahead", "worst_policy"}


def test_the_report_tells_prices_and_the_sweep(run):
    told = {s.title: "\n".join(s.lines) for s in sections(contents(run.tables, {}))}
    assert "eps 0.2" in told["Against eps"]
    assert "gradients exist" in told["Sanity checks"]
    costs = told["What the attacks cost"].splitlines()
    (row,) = [line for line in costs if line.startswith("| rs | 0.1 | Robust Sarsa |")]
    assert "| 2 |" in row and "| 256 |" in row
    assert "### Every attack" not in told["Each attack"]  # three have a column each


def test_the_diagnosis_has_a_row_per_quantity_radius_and_cell(run):
    table = run.tables["diagnosis"]
    assert set(table) == set(SCHEMAS["diagnosis"].names)
    assert len(table["value"]) == len(Diagnosis._fields) * 2 * len(run.population.rows)
    zero = (table["method"] == "magnitude") & (table["sparsity"] == 0)
    gradient, transferred = (
        table["value"][zero & (table["quantity"] == name)] for name in ("gradient", "transferred")
    )
    np.testing.assert_allclose(gradient, transferred, rtol=0.05)


def test_a_warm_start_walks_up_every_curve(run):
    """An attack that counts: the unpruned agents 0, then one more at each sparsity."""

    def count(victims: Victims):
        cells = len(victims.cells.agent)
        return np.zeros((cells, 2)) if victims.start is None else victims.start + 1

    attack = Attack(
        none().perturb, nothing, lambda *_: np.zeros(()), count, lambda _: 2, warms=True
    )
    victims = victims_of(ENV, run.population, Case("mad", 0.1, "deterministic"), 0, None)
    found = warmed(attack, victims, run.population.rows)
    level = {0.0: 1, 0.5: 2, 0.9: 3}
    expected = [0 if r.mode == "dense" else level[r.sparsity] for r in run.population.rows]
    np.testing.assert_array_equal(found, np.repeat(np.array(expected)[:, None], 2, axis=1))


def test_the_plan_counts_what_adversaries_learn_from():
    """Per cell: rs once for both radii; its 2 members play every round at each radius."""

    def counted(*attacks: str) -> tuple[int, int]:
        return learned(expand(replace(SMALL, attacks=attacks)), ENV.spec)

    assert counted(*SMALL.attacks) == (256, 2 * 2 * (2 + 2 + 2 + 8))
    env_steps = make_attack("rs_adversarial", TINY).cost.env_steps
    assert counted("rs_adversarial")[0] == 2 * env_steps
    assert counted("mad") == (0, 0)


def test_every_call_of_a_sorted_population_begins_with_its_longest_episodes():
    """7 cells of 4 episodes, 12 episodes a call: three calls of about as many, no cell twice."""
    evaluator = SimpleNamespace(queued=12, cells=6)
    calls = list(BlockEvaluator._calls(evaluator, 7, 4))
    assert [cells[:size].tolist() for cells, size in calls] == [[0, 3, 6], [1, 4], [2, 5]]
    assert {len(cells) for cells, _ in calls} == {6}


def test_long_episodes_are_expected_of_what_lasted_unattacked_and_before_that_of_dense_policies():
    rows = [SimpleNamespace(sparsity=x) for x in (0.5, 0.0, 0.9)]
    under_attack = SimpleNamespace(clean=None, population=SimpleNamespace(rows=rows))
    expected = BlockUnderAttack._expected_length
    assert np.argsort(-expected(under_attack)).tolist() == [1, 0, 2]
    under_attack.clean = SimpleNamespace(length=np.array([[1, 9], [2, 2], [7, 8]]))
    assert np.argsort(-expected(under_attack)).tolist() == [2, 0, 1]
