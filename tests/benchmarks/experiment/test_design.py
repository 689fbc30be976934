"""Who is trained: arms by method, allocation, mode, regime and control, and their settings."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.experiment import PRESETS, Experiment, design
from benchmarks.experiment.design import FILE, NARROW, Agent
from jaxprune.envs import make_env
from jaxprune.ppo import REGIMES

ENV = make_env("cartpole")
BASE = replace(PRESETS["smoke"], seeds=2, sparsity_grid=(0.0, 0.5, 0.75), methods=("magnitude",))
GRID, SEEDS = BASE.sparsity_grid, range(2)


def asked(**changes) -> Experiment:
    """A resolved experiment; settings of the learner are those of the preset."""
    return replace(BASE, **changes).resolved(ENV)


def learning(**changes) -> Experiment:
    """Likewise, with other settings of the learner."""
    hyper = {k: changes.pop(k) for k in ("kappa", "sa_eps", "weight_decay") if k in changes}
    regimes = changes.pop("regimes", ("ppo",))
    ppo = replace(BASE.ppo, **changes, hyper=replace(BASE.ppo.hyper, **hyper))
    return asked(ppo=ppo, regimes=regimes)


def block(experiment: Experiment) -> design.Block:
    """The first block of its design."""
    return design.expand(experiment).block(0)


def curves(found: list[Agent]) -> list[tuple[str, str, str, str]]:
    """What the arms are besides seed and sparsity, once each."""
    return list(dict.fromkeys((a.regime, a.method, a.allocation, a.mode) for a in found))


def dense(regime: str, seeds=SEEDS) -> list[Agent]:
    return [Agent(seed, regime, "none", "none", "dense", 0.0) for seed in seeds]


def test_methods_are_told_apart_by_when_they_prune():
    methods = ("none", "magnitude", "micro", "fisher/after", "lamp/cubic", "snip", "set")
    experiment = asked(methods=methods)
    assert design.training_methods(experiment.methods) == ["micro", "lamp/cubic", "snip", "set"]
    curves = design.posthoc_curves(experiment.methods, ["global"])
    assert curves == [("magnitude", "global"), ("fisher/after", "global")]


def test_pruning_after_training_needs_the_dense_agents_alone():
    experiment = asked(methods=("none", "magnitude", "wanda"), allocations=("global", "erk"))
    assert block(experiment).agents == block(experiment).trainings == dense("ppo")


def test_an_arm_per_method_allocation_mode_seed_and_sparsity():
    experiment = asked(
        methods=("micro", "magnitude", "lamp/cubic"),
        allocations=("global", "erk"),
        modes=("endpoint", "trajectory"),
    )
    found = block(experiment).agents
    assert found[:2] == dense("ppo")
    assert found[2:8] == [
        Agent(seed, "ppo", "micro", "global", "endpoint", level) for seed in SEEDS for level in GRID
    ]
    assert curves(found[2:]) == [
        ("ppo", method, allocation, mode)
        for method in ("micro", "lamp/cubic")
        for allocation in ("global", "erk")
        for mode in ("endpoint", "trajectory")
    ]
    assert len(set(found)) == len(found) == 2 + 8 * 2 * 3


def test_a_trajectory_is_one_training_that_ends_at_the_last_sparsity():
    experiment = asked(methods=("micro",), modes=("trajectory", "endpoint"))
    found, trained = block(experiment).agents, block(experiment).trainings
    assert [a for a in trained if a.mode != "trajectory"] == [
        a for a in found if a.mode != "trajectory"
    ]
    assert [a for a in trained if a.mode == "trajectory"] == [
        Agent(seed, "ppo", "micro", "global", "trajectory", 0.75) for seed in SEEDS
    ]
    assert [a.sparsity for a in found if a.mode == "trajectory"] == [*GRID] * 2


@pytest.mark.parametrize(
    ("method", "honoured"),
    [
        ("magnitude", ["global", "uniform", "erk"]),
        ("lamp/cubic", ["global", "uniform", "erk"]),
        ("wanda", ["uniform", "erk"]),
        ("n_of_4", ["uniform", "erk"]),
        ("neurons", ["global", "uniform"]),
        ("magnitude/cubic/neurons", ["global", "uniform"]),
    ],
)
def test_allocations_are_those_that_a_method_honours_once_each(method: str, honoured: list[str]):
    experiment = asked(methods=(method,), allocations=("global", "uniform", "erk"))
    assert design.honoured_by(method, experiment.allocations) == honoured
    pruned = [a for a in block(experiment).agents if a.mode != "dense"]
    assert {a.allocation for a in pruned} == (set(honoured) if "cubic" in method else set())


@pytest.mark.parametrize("method", ["static", "snip", "synflow", "set", "rigl", "lamp/at_start"])
def test_what_is_pruned_before_training_has_no_trajectory(method: str):
    for modes in (("endpoint", "trajectory"), ("trajectory",)):
        experiment = asked(methods=(method,), modes=modes)
        assert curves(block(experiment).agents)[1:] == [("ppo", method, "global", "endpoint")]
        assert len(block(experiment).trainings) == 2 + 2 * 3


def test_every_regime_has_dense_agents_first_and_then_all_methods():
    experiment = asked(methods=("micro", "set"), regimes=("ppo", "sa_ppo"))
    found = block(experiment).agents
    assert found[:4] == dense("ppo") + dense("sa_ppo")
    assert curves(found[4:]) == [
        (regime, method, "global", "endpoint")
        for regime in ("ppo", "sa_ppo")
        for method in ("micro", "set")
    ]
    assert block(experiment).trainings == found


def test_a_policy_file_is_one_dense_agent_and_nothing_is_trained():
    experiment = asked(policy=Path("p.npz"), methods=("magnitude", "wanda"), controls=("rescaled",))
    assert experiment.seeds == 1
    assert design.regimes(experiment) == [FILE]
    assert block(experiment).agents == dense(FILE, [0])
    assert block(experiment).trainings == []


def test_a_policy_file_is_trained_further_by_methods_that_prune_in_training():
    experiment = asked(
        policy=Path("p.npz"), methods=("magnitude", "micro"), regimes=("ppo", "sa_ppo")
    )
    assert experiment.seeds == 2
    assert design.regimes(experiment) == [FILE, "ppo", "sa_ppo"]
    found = block(experiment).agents
    assert found[:5] == dense(FILE, [0]) + dense("ppo") + dense("sa_ppo")
    assert curves(found[5:]) == [
        (regime, "micro", "global", "endpoint") for regime in ("ppo", "sa_ppo")
    ]
    assert block(experiment).trainings == found[1:]  # all but the file's


def test_narrow_networks_are_trained_in_every_regime_and_rescaled_ones_are_not():
    experiment = asked(controls=(NARROW, "rescaled"), regimes=("ppo", "sa_ppo"))
    found = block(experiment).agents
    assert found[4:] == [
        Agent(seed, regime, NARROW, "none", "endpoint", level)
        for regime in ("ppo", "sa_ppo")
        for seed in SEEDS
        for level in GRID
    ]
    assert block(experiment).trainings == found
    assert block(asked(controls=("rescaled",))).agents == dense("ppo")


def test_narrow_networks_beside_a_policy_file_have_regimes_to_be_trained_in():
    experiment = asked(policy=Path("p.npz"), controls=(NARROW,))
    assert experiment.seeds == 2
    assert curves(block(experiment).trainings) == [
        ("ppo", "none", "none", "dense"),
        ("ppo", NARROW, "none", "endpoint"),
    ]


def test_a_regime_has_its_own_settings_and_none_of_the_others():
    experiment = learning(kappa=0.3, weight_decay=0.01, regulariser="convex")
    shared = experiment.ppo.hyper
    plain, robust, decayed = (
        design.hyper_of(shared, regime, ENV.spec.eps) for regime in ("ppo", "sa_ppo", "ppo_decay")
    )
    neutral = replace(shared, **{name: 0.0 for regime in REGIMES.values() for name in regime.own})
    assert plain == neutral
    assert robust == replace(neutral, kappa=0.3, sa_eps=ENV.spec.eps)
    assert decayed == replace(neutral, weight_decay=0.01)


def test_the_radius_of_the_regulariser_is_the_tasks_unless_it_is_given():
    experiment = learning(kappa=0.3, sa_eps=0.02)
    assert design.hyper_of(experiment.ppo.hyper, "sa_ppo", ENV.spec.eps).sa_eps == 0.02
    assert design.hyper_of(experiment.ppo.hyper, "ppo", ENV.spec.eps).sa_eps == 0.0


def test_all_regimes_together_are_one_program_each_but_for_decay():
    experiment = learning(regimes=tuple(REGIMES))
    block = design.expand(experiment).first(1)
    assert list(block.families) == [name for name in REGIMES if name != "ppo_decay"]
    assert len(set(block.programs)) == len(block.families) == len(REGIMES) - 1


def test_regimes_that_are_one_program_are_one_family():
    """Weight decay is a traced setting; what a defence adds is compiled."""
    experiment = learning(kappa=0.3, regimes=("ppo", "sa_ppo", "ppo_decay", "mad_rollouts"))
    block = design.expand(experiment).first(2)
    found = {name: [a.regime for a in agents] for name, agents in block.families.items()}
    assert found == {
        "ppo": ["ppo", "ppo", "ppo_decay", "ppo_decay"],
        "sa_ppo": ["sa_ppo", "sa_ppo"],
        "mad_rollouts": ["mad_rollouts", "mad_rollouts"],
    }


def test_training_is_rounded_up_to_whole_calls_by_less_than_one_call():
    for steps in (1, 1024, 20 * 1024 + 1, 150_000):
        experiment = learning(steps=steps)
        config = design.expand(experiment).learner
        calls = min(design.TRAINING_CALLS, experiment.ppo.iterations)
        assert config.iterations % calls == 0
        assert 0 <= config.iterations - experiment.ppo.iterations < calls
