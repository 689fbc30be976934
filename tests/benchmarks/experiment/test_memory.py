"""What cannot fit or end is refused from the plan, before anything is computed."""

from dataclasses import replace
from pathlib import Path

import jax
import pytest

from benchmarks import run
from benchmarks.experiment import PRESETS, memory, parse
from benchmarks.experiment.design import expand
from benchmarks.experiment.memory import GIB, check_memory, needs, network_size
from benchmarks.experiment.plan import make_plan
from benchmarks.experiment.sharding import Shard
from jaxprune.envs import make_env
from jaxprune.ppo import initial_policy
from jaxprune.validation import InputError

ENV = make_env("cartpole")
SMOKE = PRESETS["smoke"].resolved(ENV)


def asked(words: str):
    return parse(["--preset", "smoke", *words.split()])[0].resolved(ENV)


def test_the_size_of_networks_is_that_of_real_ones():
    for hidden in ((64, 64), (3,), (5, 7, 2)):
        policy = initial_policy(replace(SMOKE.ppo, hidden=hidden), ENV.spec, jax.random.key(0))
        networks = (policy.params.actor, policy.params.critic)
        held = sum(x.size for x in jax.tree.leaves(networks))
        assert network_size(hidden, ENV.spec) == held


def test_amounts_grow_with_their_settings():
    """Twice the seeds: twice the masks and returns, counted without a list of the agents."""
    one, two, most = (
        {need.remedy: need.bytes for need in needs(expand(SMOKE), ENV.spec, seeds)}
        for seeds in (2, 4, 2 * 10**9)
    )
    masks = "smaller --hidden, a shorter --sparsity-grid, fewer --seeds, or more shards"
    assert two[masks] == 2 * one[masks]
    assert most[masks] == 10**9 * one[masks]


@pytest.fixture
def small_machine(monkeypatch):
    """A machine of 64 GiB without an accelerator, whatever this one is."""
    monkeypatch.setattr(memory, "host_bytes", lambda: 64 * GIB)
    monkeypatch.setattr(memory, "device_bytes", lambda: None)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("--episodes 2147483647", ["states", "--episodes"]),
        ("--num-envs 1000000000", ["rollouts", "--num-envs"]),
        ("--unroll 2147483647", ["rollouts", "--unroll"]),
        ("--hidden 1000000 1000000", ["2,000,015,000,003 parameters", "--hidden"]),
        ("--seeds 2147483647", ["GiB", "--seeds"]),
        ("--steps 1000000000000", ["976,562,500 iterations", "--steps"]),
        (
            "--attacks sa_rl --adversary.seeds 2 --selection.episodes 2147483647",
            ["--selection.episodes"],
        ),
        ("--attacks rs --rs.steps 2147483647", ["2,147,483,647 steps", "--rs.steps"]),
        ("--attacks snooping --search.clone-steps 2147483647", ["--search.clone-steps"]),
        ("--mad.steps 1000000 --mad.restarts 1000000", ["years", "--mad.steps"]),
        ("--attacks lookahead --search.simulated 1000000 --episodes 100000", ["years"]),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_estimate(small_machine, words, named):
    with pytest.raises(InputError) as error:
        make_plan(expand(asked(words)), ENV, Path("out"))
    for part in named:
        assert part in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("words", ["", "--seeds 1000", "--preset paper --env cartpole"])
def test_what_is_done_today_is_not_refused(small_machine, words):
    make_plan(expand(asked(words)), ENV, Path("out"))


def test_a_shard_is_compared_by_what_it_computes(small_machine):
    design = expand(asked("--seeds 5000000 --chunk-seeds 10"))
    with pytest.raises(InputError, match="more shards"):
        make_plan(design, ENV, Path("out"))
    make_plan(design, ENV, Path("out"), Shard(3, 500_000))


def test_accelerators_are_compared_with_what_is_on_them(monkeypatch):
    found = [memory.Need("a", "less a", 3, True), memory.Need("b", "less b", 9, False)]
    monkeypatch.setattr(memory, "host_bytes", lambda: 10)
    monkeypatch.setattr(memory, "device_bytes", lambda: None)
    with pytest.raises(InputError, match=r"this machine has.*less b"):
        check_memory(found)
    monkeypatch.setattr(memory, "device_bytes", lambda: 3)
    check_memory(found)
    monkeypatch.setattr(memory, "device_bytes", lambda: 2)
    with pytest.raises(InputError, match=r"its devices have.*less a"):
        check_memory(found)


def test_the_command_refuses_and_writes_nothing(small_machine, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["--preset", "smoke", "--hidden", "1000000", "1000000", "--out", str(out)]
    assert run.main(words) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: at least ") and told.count("\n") == 1
    assert not out.exists()
