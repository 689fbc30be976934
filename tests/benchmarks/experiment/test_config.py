"""The command line: grids, presets, identity of an experiment, and one line for every bad input."""

import re
from dataclasses import fields, replace
from pathlib import Path

import pytest

from benchmarks import run
from benchmarks.experiment import PRESETS, Experiment, check, parse, parse_grid
from benchmarks.experiment.config import RunOptions, parse_tasks
from jaxprune.attacks import ATTACKS, AttackConfig, MADConfig
from jaxprune.envs import make_env
from jaxprune.losses import Hyper
from jaxprune.ppo import REGIMES
from jaxprune.pruning import Scope
from jaxprune.validation import InputError


def test_a_grid_includes_its_ends_and_is_exact():
    assert parse_grid("0:0.95:20") == tuple(round(0.05 * i, 2) for i in range(20))
    assert parse_grid("0:0.9:4") == (0.0, 0.3, 0.6, 0.9)
    assert parse_grid("0.5:0.9:1") == (0.5,)


def test_a_list_is_sorted_and_without_repeats():
    assert parse_grid("0.9,0,0.5,0.50") == (0.0, 0.5, 0.9)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("0:1:5", "1"),
        ("-0.1:0.5:3", "-0.1"),
        ("0,1.5", "1.5"),
        ("0:0.9:0", "count outside 1 .. 1000"),
        ("0:0.9:-2", "count outside 1 .. 1000"),
        ("0:0.9", "malformed"),
        ("0:0.9:3:4", "malformed"),
        ("a,b", "malformed"),
        ("", "malformed"),
        ("0:0.9:2.5", "malformed"),
        ("nan", "malformed"),
        ("1/0", "malformed"),
        ("0:0.9:10000", "count outside 1 .. 1000"),
        ("0,1e-999999999", "malformed"),
        ("0:1e999999999:3", "malformed"),
        ("1/3333333333333333333333333333333333333333", "malformed"),
    ],
)
def test_a_bad_grid_is_named_with_the_remedy(text: str, named: str):
    with pytest.raises(InputError) as error:
        parse_grid(text)
    assert named in str(error.value)
    assert repr(text) in str(error.value)


def test_presets_are_starting_points():
    assert parse([]) == (PRESETS["laptop"], RunOptions())
    assert parse(["--preset", "smoke"])[0] == PRESETS["smoke"]
    smoke = parse(["--preset=smoke", "--seeds", "3", "--no-resume"])
    assert smoke == (replace(PRESETS["smoke"], seeds=3), RunOptions(resume=False))


def test_a_preset_may_have_settings_of_its_own_for_a_task():
    laptop, paper = PRESETS["laptop"].ppo, PRESETS["paper"].ppo
    assert (laptop.num_envs, laptop.epochs, paper.num_envs, paper.epochs) == (16, 8, 32, 10)
    assert (laptop.hyper.learning_rate, paper.hyper.learning_rate) == (6e-4, 3e-4)
    assert laptop.hyper.kappa == paper.hyper.kappa == 0.3  # of the task, in any preset
    assert parse(["--env", "gym/Hopper-v4"])[0].ppo == laptop
    assert parse(["--preset", "paper", "--env", "gym/Hopper-v4"])[0].ppo == paper
    assert parse(["--env", "walker2d"])[0].ppo.num_envs == 32


def test_each_of_several_tasks_is_a_run_in_a_folder_of_its_own():
    words = ["--preset", "smoke", "--env=cartpole,gym/Hopper-v4", "--out", "there"]
    (one, here), (other, there) = parse_tasks(words)
    assert (one.env, other.env) == ("cartpole", "gym/Hopper-v4")
    assert one == parse(["--preset", "smoke"])[0]
    assert other == parse(["--preset", "smoke", "--env", "gym/Hopper-v4"])[0]
    assert (here.out, there.out) == (Path("there/cartpole"), Path("there/gym-Hopper-v4"))
    assert [o.out for _, o in parse_tasks(words[:-2])] == [None, None]
    assert parse_tasks(["--out", "there"])[0][1].out == Path("there")


def test_the_paper_preset_is_its_three_tasks_by_two_ways_of_training():
    asked = [experiment for experiment, _ in parse_tasks(["--preset", "paper"])]
    assert [experiment.env for experiment in asked] == ["hopper", "walker2d", "halfcheetah"]
    assert {experiment.regimes for experiment in asked} == {("ppo", "sa_ppo")}
    (alone,) = parse_tasks(["--preset", "paper", "--env", "walker2d"])
    assert alone[0] == asked[1]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("--env cartpole,cartpole", "'cartpole,cartpole' holds a task twice"),
        ("--env cartpole, --dry-run", "unknown env ''"),
        ("--env cartpole,hoper --dry-run", "hoper"),
    ],
)
def test_a_list_of_tasks_is_checked_before_the_first_is_computed(words, named, capsys):
    assert run.main(words.split()) == 2
    streams = capsys.readouterr()
    assert named in streams.err
    assert streams.err.count("\n") == 1
    assert not streams.out


def test_every_preset_is_named_after_its_key_and_valid():
    for name, preset in PRESETS.items():
        assert preset.preset == name
        asked, _ = parse(["--preset", name, "--env", "cartpole"])
        assert check(asked).env.spec.name == "cartpole"


def test_options_reach_every_part():
    experiment, _ = parse(
        [
            "--methods",
            "magnitude,micro",
            "--attacks",
            "mad",
            "--eps",
            "0.05,0.1",
            "--steps",
            "4096",
            "--learning-rate",
            "1e-4",
            "--mad.steps",
            "7",
            "--allocations",
            "uniform,erk",
            "--modes",
            "trajectory",
            "--regimes",
            "ppo,sa_ppo",
            "--controls",
            "narrow",
            "--networks",
            "both",
            "--min-weights",
            "3",
            "--regulariser",
            "convex",
            "--kappa",
            "0.3",
            "--sparsity-grid",
            "0,0.5",
            "--episodes",
            "3",
        ]
    )
    assert experiment.methods == ("magnitude", "micro")
    assert experiment.attacks == ("mad",)
    assert experiment.eps == (0.05, 0.1)
    assert experiment.ppo.steps == 4096
    assert experiment.ppo.hyper.learning_rate == 1e-4
    assert experiment.allocations == ("uniform", "erk")
    assert experiment.modes == ("trajectory",)
    assert experiment.regimes == ("ppo", "sa_ppo")
    assert experiment.controls == ("narrow",)
    assert experiment.ppo.scope == Scope("both", min_weights=3)
    assert experiment.ppo.regulariser == "convex"
    assert experiment.ppo.hyper.kappa == 0.3
    assert experiment.attack.mad.steps == 7
    assert experiment.sparsity_grid == (0.0, 0.5)
    assert experiment.episodes == 3


# One other value per field; a new field without one fails the test below.
OTHER = {
    "chunk_seeds": 1,
    "preset": "smoke",
    "env": "hopper",
    "backend": "spring",
    "sparsity_grid": (0.0, 0.5),
    "seeds": 3,
    "methods": ("micro",),
    "allocations": ("erk",),
    "modes": ("trajectory",),
    "regimes": ("ppo_decay",),
    "controls": ("narrow",),
    "attacks": ("mad",),
    "eps": (0.2,),
    "victim": ("stochastic",),
    "bounds": ("path",),
    "states": 64,
    "episodes": 9,
    "prune_window": (0.1, 0.5),
    "policy": Path("policy.npz"),
    "policy_stats": Path("stats.npz"),
    "policy_activation": "relu",
    "policy_clip": "none",
    "reference": 2000.0,
    "seed": 5,
    "lanes": 8,
    "attack": AttackConfig(mad=MADConfig(steps=3)),
    "eps_sweep": (0.0, 1.0),
    "ppo": replace(PRESETS["smoke"].ppo, steps=2048),
}
# Of the learner, what decides who is pruned and trained how.
OTHER_LEARNER = {
    "scope": Scope(layer_sparsity=(("actor/layer_0/kernel", 0.5),)),
    "prune_unit": "epoch",
    "regulariser": "sgld",
}


def test_every_field_identifies_the_experiment():
    assert {f.name for f in fields(Experiment)} == OTHER.keys()
    base = Experiment(env="cartpole")
    for name, value in OTHER.items():
        assert replace(base, **{name: value}).folder() != base.folder(), name
    for field, value in {**OTHER_LEARNER, "hyper": Hyper(kappa=0.3)}.items():
        other = replace(base, ppo=replace(base.ppo, **{field: value}))
        assert other.folder() != base.folder(), field


def test_settings_come_back_as_they_were():
    every = replace(Experiment(env="cartpole"), **OTHER)
    for experiment in (*PRESETS.values(), every):
        settings = experiment.settings()
        assert Experiment.from_settings(settings) == experiment
        assert Experiment.from_settings(settings).settings() == settings
    older = {k: v for k, v in every.settings().items() if k != "policy_activation"}
    assert Experiment.from_settings(older) == replace(every, policy_activation=None)
    del older["attack"]["rs"]
    with pytest.raises(InputError, match="lack 'rs': another version wrote them"):
        Experiment.from_settings(older)


def test_runs_that_differ_in_names_alone_may_be_compared():
    base = Experiment(env="cartpole")
    for name, value in OTHER.items():
        material = Experiment.material(replace(base, **{name: value}).settings())
        label = name in {"preset", "lanes", "policy", "policy_stats", "reference"}
        assert (material == Experiment.material(base.settings())) == label, name


@pytest.mark.parametrize(("task", "methods"), [("cartpole", "magnitude"), ("hopper", "none")])
def test_all_attacks_are_those_that_the_task_allows(task, methods):
    """A choice of actions excludes two published attacks, and nothing pruned excludes transfer.

    Nothing includes the worst policy, which raised returns, unless it is named.
    """
    asked, _ = parse(["--env", task, "--attacks", "all", "--methods", methods])
    excluded = {"rs_reference", "paad_reference"} if task == "cartpole" else {"transfer"}
    named = replace(asked, attacks=("all", "worst_policy")).resolved(make_env(task)).attacks
    assert set(named) == ATTACKS.keys() - excluded
    assert set(asked.resolved(make_env(task)).attacks) == set(named) - {"worst_policy"}


def test_a_sweep_multiplies_the_tasks_own_radius():
    env = make_env("cartpole")
    asked, _ = parse(["--env", "cartpole", "--eps-sweep", "2,0,0.5,1"])
    assert asked.resolved(env).eps == tuple(env.spec.eps * x for x in (0.5, 1.0, 2.0))


def test_critics_have_the_discount_of_the_learner_unless_told_or_unknown():
    env = make_env("cartpole")
    asked, _ = parse(["--env", "cartpole", "--gamma", "0.9"])
    told, _ = parse(["--env", "cartpole", "--gamma", "0.9", "--rs.gamma", "0.8"])
    given = replace(asked, policy=Path("given.npz"), methods=("none",))
    discounts = [x.resolved(env).attack.rs.discount for x in (asked, told, given)]
    assert discounts == [0.9, 0.8, 0.99]


def test_a_task_of_a_suite_has_one_folder_and_not_one_inside_another():
    for env, name in (("gym/Hopper-v4", "gym-Hopper-v4"), ("hopper", "hopper")):
        folder = Experiment(env=env).folder()
        assert folder.parent == Path("results")
        assert re.fullmatch(rf"{name}-[0-9a-f]{{8}}", folder.name)
        assert Experiment(env=env).settings()["env"] == env


BAD = [
    ("--preset huge", ["'huge'", "smoke, laptop, paper"]),
    ("--env hoper", ["'hoper'", "hopper", "did you mean"]),
    ("--env cartpole --backend mjx", ["'mjx'", "analytic"]),
    ("--env swimmer --backend mjx", ["'mjx'", "generalized"]),
    ("--methods magnitud", ["'magnitud'", "jaxprune list methods", "did you mean 'magnitude'"]),
    ("--methods lamb/cubic", ["score 'lamb'", "did you mean 'lamp'"]),
    ("--methods lamp/cubed", ["schedule 'cubed'", "cubic", "after"]),
    ("--methods lamp/cubic/rows", ["structure 'rows'", "weights, outputs"]),
    ("--methods lamp/cubic/weights/2", ["4 parts", "SCORE/SCHEDULE/STRUCTURE"]),
    ("--methods movement/after", ["'movement/after'", "during training", "cubic"]),
    ("--methods movement/at_start", ["'movement/at_start'", "during training"]),
    ("--modes endpoints", ["mode 'endpoints'", "endpoint, trajectory"]),
    ("--regimes ppo,sappo", ["regime 'sappo'", "did you mean 'sa_ppo'", "jaxprune list regimes"]),
    ("--controls wide", ["control 'wide'", "narrow, rescaled"]),
    ("--weight-decay 0.01", ["0.01", "ppo_decay"]),
    ("--regimes sa_ppo --regulariser convex --kappa 0", ["'sa_ppo'", "--kappa above 0"]),
    ("--kappa 0.2", ["0.2", "add sa_ppo to --regimes"]),
    ("--regimes radial --radial-weight -1", ["radial_weight -1", "[0, 1]"]),
    ("--regimes atla --adversary-rate nan", ["adversary_rate nan", "[0, 1]"]),
    ("--kappa nan --regimes sa_ppo", ["kappa nan", "[0, 1000]"]),
    ("--regulariser cubic", ["'cubic'", "choose from pgd, sgld, convex"]),
    ("--prune-unit step", ["'step'", "iteration, epoch"]),
    ("--networks value", ["'value'", "actor, critic, both"]),
    ("--min-weights -1", ["min_weights -1"]),
    ("--layer-sparsity actor/layer_0/kernel 1.5", ["layer_sparsity 1.5", "[0, 1)"]),
    ("--attacks PGD", ["'PGD'", "jaxprune list attacks", "did you mean 'pgd'"]),
    ("--attacks none", ["'none'", "random, corners"]),
    ("--attacks all,mda", ["'mda'", "did you mean 'mad'"]),
    ("--env cartpole --attacks paad_reference", ["'paad_reference'", "continuous", "paad"]),
    ("--env cartpole --attacks transfer --methods none", ["'transfer'", "source"]),
    ("--eps-sweep 0.5,1", ["0.5,1", "lacks 0", "clean run"]),
    ("--eps-sweep 0", ["'0'", "positive multiples"]),
    ("--eps-sweep=-1,0", ["eps_sweep -1", "[0, 1000]"]),
    ("--eps-sweep 0,1 --eps 0.1,0.2", ["0,1", "2"]),
    ("--eps-sweep 0,1000 --eps 0.1", ["eps 100", "[0, 10]"]),
    ("--selection.episodes 0", ["selection episodes 0"]),
    ("--rs.steps 100", ["rs steps 100", "too few to train"]),
    ("--adversary.steps 100", ["adversary steps 100", "too few to train"]),
    ("--adversary.minibatches 3", ["minibatches 3", "divisor of 2048"]),
    ("--adversary.learning-rates 0", ["learning_rates 0", "(0, 1]"]),
    ("--search.queries 3", ["queries 3", "at least 16"]),
    ("--mad.restarts 0", ["restarts 0"]),
    ("--eps -0.1", ["-0.1"]),
    ("--eps nan", ["nan"]),
    ("--eps 11", ["eps 11", "[0, 10]"]),
    ("--bounds spectrl", ["'spectrl'", "did you mean 'spectral'"]),
    ("--victim random", ["'random'", "deterministic, stochastic"]),
    ("--victim deterministic,drawn", ["'drawn'", "deterministic, stochastic"]),
    ("--victim deterministic,", ["victim ''", "deterministic, stochastic"]),
    ("--victim stochastic,stochastic", ["'stochastic' more than once", "about first"]),
    ("--states 0", ["states 0"]),
    ("--episodes 1 --bounds ibp", ["episodes 1", "'ibp'", "at least 2"]),
    ("--episodes 1 --bounds path", ["episodes 1", "--episodes 2 or more"]),
    ("--episodes 3 --seeds 1", ["episodes 3 of a single agent", "--episodes 4 or more"]),
    ("--reference nan", ["reference nan", "(-inf, inf)"]),
    ("--reference high", ["--reference", "'high'"]),
    ("--eps x", ["eps", "'x'"]),
    ("--sparsity-grid 0:1:3", ["'0:1:3'", "[0, 1)"]),
    ("--seeds 0", ["seeds 0"]),
    ("--episodes 0", ["episodes 0"]),
    ("--steps 0", ["steps 0"]),
    ("--lanes 0", ["lanes 0"]),
    ("--seeds many", ["seeds", "'many'"]),
    ("--minibatches 7", ["minibatches", "divisor"]),
    ("--mad.steps 0", ["mad", "0"]),
    ("--activation gelu", ["'gelu'", "tanh, relu"]),
    ("--allocations erk2", ["'erk2'", "global, uniform, erk"]),
    ("--prune-window 0.8 0.2 --methods micro", ["(0.8, 0.2)"]),
    ("--policy-stats s.pkl", ["s.pkl", "--policy"]),
    ("--nonsense 3", ["--nonsense"]),
    ("--seed 4294967296", ["seed 4294967296", "0 .. 4294967295"]),
    ("--seed -1", ["seed -1", "0 .. 4294967295"]),
    ("--gamma 1", ["gamma 1", "[0, 1)"]),
    ("--gamma nan", ["gamma nan", "[0, 1)"]),
    ("--learning-rate 1e308", ["learning_rate 1e+308", "(0, 1]"]),
    ("--learning-rate inf", ["learning_rate inf", "(0, 1]"]),
    ("--clip 0", ["clip 0", "(0, 10]"]),
    ("--gae-lambda -0.1", ["gae_lambda -0.1", "[0, 1]"]),
    ("--entropy-weight -1", ["entropy_weight -1", "[0, 1000]"]),
    ("--value-weight nan", ["value_weight nan", "[0, 1000]"]),
    ("--max-grad-norm inf", ["max_grad_norm inf", "(0, 1000]"]),
    ("--reward-scale 0", ["reward_scale 0", "(0, 1000]"]),
    ("--init-log-std inf", ["init_log_std inf", "[-10, 5]"]),
    ("--rs.polyak 0", ["rs polyak 0", "(0, 1]"]),
    ("--rs.weights 0.1 nan", ["rs weights nan", "[0, 1000]"]),
    ("--mad.step-scale inf", ["mad step_scale inf", "(0, 1000]"]),
    ("--adversary.log-stds 0 1e308", ["log_stds 1e+308", "[-10, 5]"]),
    ("--prune-window 0 nan", ["prune_window nan", "[0, 1]"]),
    ("--hidden", ["hidden is empty"]),
    (f"--hidden {'64 ' * 17}", ["hidden has 17 elements", "at most 16"]),
    ("--episodes 1000000000000000000", ["episodes 1000000000000000000", "2147483647"]),
    ("--search.queries 1000000000000", ["search queries", "1000000"]),
    ("--seeds 1000000007 --chunk-seeds 7", ["does not divide", "1, 1000000007"]),
]


@pytest.mark.parametrize(("words", "named"), BAD, ids=[words for words, _ in BAD])
def test_bad_input_is_one_line_that_names_value_and_remedy(words: str, named: list[str]):
    with pytest.raises(InputError) as error:
        check(parse([*words.split()])[0])
    message = str(error.value)
    assert "\n" not in message
    for part in named:
        assert part in message


@pytest.mark.parametrize("value", ["0", "-1", "nan"])
@pytest.mark.parametrize("regime", [name for name, regime in REGIMES.items() if regime.needs])
def test_what_a_regime_needs_is_a_number_above_zero(regime: str, value: str):
    """A ball, a weight or a rate, for every regime; the task has one for whatever is not given."""
    for field in REGIMES[regime].needs:
        word = f"--{field.replace('_', '-')}"
        own = ["--weight-decay", "0.1"] if regime == "ppo_decay" else []
        with pytest.raises(InputError) as error:
            check(parse(["--regimes", regime, *own, word, value])[0])
        message = str(error.value)
        assert "\n" not in message and f"{field} {value}" in message
        assert (f"regime '{regime}'" in message and f"{word} above 0" in message) or value != "0"


def test_an_alias_is_the_same_experiment():
    env = make_env("cartpole")
    words = ["--env", "cartpole", "--attacks"]
    plain, alias = (parse([*words, x])[0].resolved(env) for x in ("none,mad", "none,pgd,mad"))
    assert alias == plain
    assert alias.folder() == plain.folder()


def test_help_is_help(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        parse(["--help-all"])
    assert not stop.value.code
    told = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--sparsity-grid" in told
    for option, allowed in RANGES.items():
        assert f"In {allowed}." in told.partition(f"{option} ")[2].partition("(default")[0], option


def test_the_short_help_is_short_and_its_options_exist(capsys: pytest.CaptureFixture[str]):
    said = []
    for word in ("--help", "--help-all"):
        with pytest.raises(SystemExit):
            parse_tasks([word])
        said.append(capsys.readouterr().out)
    told, everything = said
    lines = told.splitlines()
    assert len(lines) <= 30 and max(map(len, lines)) <= 80
    assert [x for x in lines if x in ("what", "how sure", "where", "examples")] == [
        "what",
        "how sure",
        "where",
        "examples",
    ]
    for option in set(re.findall(r"--[a-z-]+", told)) - {"--help-all"}:
        assert f"{option} " in everything or f"{option}," in everything, option


def test_names_of_the_literature_are_those_of_ours():
    experiment, _ = parse(["--env", "Hopper-v4", "--methods", "l1,magnitude"])
    assert experiment.env == "gym/Hopper-v4" and experiment.methods == ("magnitude",)
    assert experiment == parse(["--env", "gym/Hopper-v4", "--methods", "magnitude"])[0]


RANGES = {
    "--gamma FLOAT": "[0, 1)",
    "--mad.step-scale FLOAT": "(0, 1000]",
    "--seed INT": "0 .. 4294967295",
    "--prune-window FLOAT FLOAT": "[0, 1]",
    "--min-weights INT": "0 .. 2147483647",
}
