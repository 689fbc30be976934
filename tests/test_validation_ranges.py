"""Ranges of settings and arguments: which numbers are let through, and what the others are told."""

import math
from dataclasses import dataclass, field, is_dataclass
from fractions import Fraction
from typing import Annotated, get_args, get_origin, get_type_hints

import jax
import numpy as np
import pytest

import jaxprune
from benchmarks import capacity, merge, parity, run, select, status, throughput, tightness, zoo
from benchmarks import list as list_program
from benchmarks.experiment import Experiment
from benchmarks.gate import __main__ as gate
from benchmarks.peers import __main__ as peers
from benchmarks.render import __main__ as render
from benchmarks.report import __main__ as report
from benchmarks.theorem import __main__ as theorem
from benchmarks.theorem import measure
from jaxprune.attacks import AttackConfig, MADConfig, make_attack
from jaxprune.losses import Hyper
from jaxprune.ppo import PPOConfig, make_train
from jaxprune.pruning import dense
from jaxprune.validation import InputError, Range, at_least, check_ranges
from tests.policies import drawn_policy


@dataclass(frozen=True)
class Inner:
    share: Annotated[float, Range(0, 1, "[)")] = 0.5
    pairs: Annotated[tuple[tuple[str, float], ...], Range(0, 1)] = ()


@dataclass(frozen=True)
class Outer:
    count: Annotated[int, at_least(1, 9)] = 1
    maybe: Annotated[int | None, at_least(1)] = None
    some: Annotated[tuple[float, ...], Range(0, 1, "(]", most=3)] = (1.0,)
    name: str = "x"
    inner: Inner = field(default_factory=Inner)


@pytest.mark.parametrize(
    "good",
    [
        Outer(),
        Outer(9, 3, (1e-9, 1), "", Inner(0, (("a", 1.0),))),
        Outer(np.int32(2), some=(np.float32(0.5),), inner=Inner(Fraction(1, 2))),
    ],
)
def test_what_is_inside_passes(good):
    check_ranges(good)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (Outer(0), r"^count 0 is below 1: give one in 1 \.\. 9$"),
        (Outer(10), r"^count 10 is outside 1 \.\. 9: give one inside$"),
        (Outer(1.0), r"^count 1\.0 is no integer: give one in 1 \.\. 9$"),
        (Outer(True), r"^count True is no integer"),
        (Outer("1"), r"^count '1' is no integer"),
        (Outer(None), r"^count None is no integer"),
        (Outer(maybe=-1), r"^maybe -1 is below 1"),
        (Outer(some=(0.5, 0.0)), r"^some 0\.0 is outside \(0, 1\]: give one inside$"),
        (Outer(some=(math.nan,)), r"^some nan is outside"),
        (Outer(some=(math.inf,)), r"^some inf is outside"),
        (Outer(some=()), r"^some is empty: give one or more"),
        (Outer(some=(1.0,) * 4), r"^some has 4 elements: give at most 3$"),
        (Outer(some=[0.5]), r"^some \[0\.5\] is a list: give a tuple$"),
        (Outer(some=0.5), r"^some 0\.5 is a float: give a tuple$"),
        (Outer(name=3), r"^name 3 is a int: give a str$"),
        (Outer(inner=Inner(1.0)), r"^inner share 1\.0 is outside \[0, 1\): give one inside$"),
        (Outer(inner=Inner(pairs=(("a", 2.0),))), r"^inner pairs 2\.0 is outside"),
    ],
)
def test_what_is_outside_is_named_with_its_remedy(bad, message):
    with pytest.raises(InputError, match=message):
        check_ranges(bad)


OPTIONS = (Experiment, measure.Options, tightness.Options, parity.Options, throughput.Options)


def without_range(config):
    for name, hint in get_type_hints(config, include_extras=True).items():
        kind, *notes = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        if is_dataclass(kind):
            yield from without_range(kind)
        elif {int, float} & set(parts(kind)) and not any(isinstance(x, Range) for x in notes):
            yield f"{config.__name__}.{name}"


def parts(hint):
    return [hint, *(part for inner in get_args(hint) for part in parts(inner))]


@pytest.mark.parametrize("config", OPTIONS, ids=lambda c: c.__module__)
def test_every_number_of_every_program_has_a_range(config):
    assert list(without_range(config)) == []


# --- of the library


POLICY = drawn_policy(4, 2, discrete=True)
ENV = jaxprune.make_env("cartpole")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sparsity": "0.5"}, r"sparsity '0\.5' is no number: give one in \[0, 1\)"),
        ({"sparsity": None}, "sparsity None is no number"),
        ({"sparsity": [0.1, "0.5"]}, r"sparsity '0\.5' is no number"),
        ({"sparsity": 1.0}, r"sparsity 1\.0 is outside"),
        ({"sparsity": math.nan}, "sparsity nan is outside"),
        ({"sparsity": 0.5j}, "sparsity 0.5j is no number"),
        ({"method": None}, "method None is a NoneType: give a str"),
        ({"allocation": 3}, "allocation 3 is a int: give a str"),
        ({"key": 0}, r"key 0 is no key: give jax\.random\.key\(0\)"),
        ({"key": jax.random.PRNGKey(0)}, "is no key"),
        ({"key": jax.random.split(jax.random.key(0))}, "is no key"),
        ({"scope": jaxprune.Scope(min_weights=-1)}, "min_weights -1 is below 0"),
        ({"policy": "policy.npz"}, r"policy 'policy\.npz' is a str: give a Policy"),
        ({"policy": jax.tree.map(np.int32, POLICY)}, "array of int32: give float"),
    ],
    ids=lambda x: "-".join(x) if isinstance(x, dict) else "",
)
def test_prune_names_a_wrong_argument(change, message):
    with pytest.raises(InputError, match=message) as error:
        jaxprune.prune(**{"policy": POLICY, **change})
    assert "\n" not in str(error.value)


NUMBERS = jax.tree.map(lambda x: x.astype(float), dense(POLICY.params))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"env": "cartpole"}, "env 'cartpole' is a str: give a Environment"),
        ({"policy": None}, "policy None is a NoneType: give a Policy"),
        ({"masks": [True]}, "masks .* is a list: give a Params"),
        ({"masks": NUMBERS}, r"masks .* is an array of float\d\d: give booleans"),
        ({"eps": "0.1"}, r"eps '0\.1' is no number"),
        ({"episodes": "5"}, "episodes '5' is no integer"),
        ({"episodes": 5.0}, r"episodes 5\.0 is no integer"),
        ({"attack": None}, "attack None is a NoneType: give a str"),
        ({"victim": 1}, "victim 1 is a int: give a str"),
        ({"noise": -1.0}, r"noise -1\.0 is outside"),
        ({"gamma": 1.5}, r"gamma 1\.5 is outside"),
        ({"key": 7}, "key 7 is no key"),
        ({"config": {"mad": 3}}, "config .* is a dict: give a AttackConfig"),
        ({"config": AttackConfig(mad=MADConfig(step_scale=math.inf))}, "mad step_scale inf"),
    ],
    ids=lambda x: "-".join(x) if isinstance(x, dict) else "",
)
def test_evaluate_names_a_wrong_argument(change, message):
    """Before it computes anything, whatever the attack uses of its settings."""
    with pytest.raises(InputError, match=message):
        jaxprune.evaluate(**{"env": ENV, "policy": POLICY, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eps": "0.1"}, r"eps '0\.1' is no number"),
        ({"eps": None}, "eps None is no number"),
        ({"eps": np.array([0.1, -1, 0, 0])}, r"eps -1\.0 is outside"),
        ({"eps": math.inf}, "eps inf is outside"),
        ({"obs": np.array([["a"] * 4])}, "obs .* is no array of numbers"),
        ({"bounds": 3}, "bounds 3 is a int: give a Sequence"),
        ({"precision": None}, "precision None is a NoneType"),
        ({"masks": NUMBERS}, "give booleans"),
    ],
    ids=lambda x: "-".join(x) if isinstance(x, dict) else "",
)
def test_certify_names_a_wrong_argument(change, message):
    with pytest.raises(InputError, match=message):
        jaxprune.certify(**{"policy": POLICY, "eps": 0.1, **change})


@pytest.mark.parametrize(
    "call",
    [
        lambda: jaxprune.visited(ENV, POLICY, states=0),
        lambda: jaxprune.visited(ENV, POLICY, episodes=-1),
        lambda: jaxprune.collect_batch(ENV, POLICY, steps=0),
        lambda: jaxprune.collect_batch(ENV, POLICY, eps=math.nan),
        lambda: make_train(PPOConfig(epochs=0), ENV),
        lambda: make_train(PPOConfig(), ENV)(jax.random.key(0), Hyper(learning_rate=math.nan)),
        lambda: make_attack("mad", AttackConfig(mad=MADConfig(steps=0))),
        lambda: jaxprune.account(POLICY, NUMBERS),
        lambda: jaxprune.compact(POLICY, NUMBERS),
    ],
)
def test_other_functions_check_too(call):
    with pytest.raises(InputError, match=r"below 1|outside|booleans"):
        call()


def test_an_alias_of_an_attack_is_the_attack():
    ours, theirs = (
        jaxprune.evaluate(ENV, POLICY, attack=name, eps=0.1, episodes=2) for name in ("mad", "pgd")
    )
    assert np.array_equal(ours["return"], theirs["return"])
    assert np.array_equal(ours["distance"], theirs["distance"])


# --- of the programs


PROGRAMS = (
    capacity,
    gate,
    list_program,
    merge,
    parity,
    peers,
    render,
    report,
    run,
    select,
    status,
    theorem,
    throughput,
    tightness,
    zoo,
)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.__name__)
def test_every_program_answers_help(program, capsys):
    with pytest.raises(SystemExit) as stop:
        program.main(["--help"])
    assert not stop.value.code
    told = capsys.readouterr().out
    assert told.startswith(f"usage: python -m {program.__name__.removesuffix('.__main__')}")


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.__name__)
def test_every_program_refuses_an_unknown_option_in_one_line(program, capsys):
    assert program.main(["--nonsense", "3"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and told.count("\n") == 1
    assert "nonsense" in told or "Missing" in told


@pytest.mark.parametrize(
    ("program", "words", "message"),
    [
        (theorem, "--random 5 --seed 4294967296", "seed 4294967296"),
        (theorem, "--random 5 --seed 4294967295", "4294967295 .. 4294967299"),
        (theorem, "--random 5 --eps nan", "eps nan"),
        (theorem, "--random 5 --sizes 11 0 3", "sizes 0"),
        (theorem, "--random 1000000000000", "random 1000000000000"),
        (tightness, "--policies p.npz --seed -1", "seed -1"),
        (tightness, "--policies p.npz --eps=-0.1", "eps -0.1"),
        (tightness, "--policies p.npz --noise inf", "noise inf"),
        (tightness, "--policies p.npz --noise-eps 0.1 nan", "noise_eps nan"),
        (parity, "--states 1", "states 1"),
        (parity, "--mad.step-scale nan", "mad step_scale nan"),
    ],
)
def test_programs_compare_their_options_with_ranges(program, words, message, tmp_path, capsys):
    out = tmp_path / "out"
    assert program.main([*words.split(), "--out", str(out)]) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1
    assert not out.exists()
