"""The speed measurement, as a program; how fast anything is, it does not say."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import throughput
from benchmarks.rates import calls
from jaxprune.envs import make_env
from jaxprune.policy_io import save_policy
from tests.policies import drawn_policy


@pytest.fixture(autouse=True)
def devices_are_set(monkeypatch):
    """The tests' own devices stay."""
    monkeypatch.setattr(throughput.devices, "configure", lambda: None)


def test_chosen_rates_are_timed_and_written(tmp_path, capsys):
    figures = tmp_path / "figures.json"
    settings = "--rates stepping bounds --repeats 2 --bare-steps 5 --masks 4 --states 3"
    settings += " --bounds path ibp"
    arguments = f"--env cartpole {settings} --json {figures}"
    assert throughput.main(arguments.split()) == 0
    assert "bare stepping" in capsys.readouterr().out
    written = json.loads(figures.read_text())
    names = [rate["name"] for rate in written["rates"]]
    assert names == ["bare stepping", "forward pass", "bound path", "bound ibp"]
    units = [rate["unit"] for rate in written["rates"]]
    assert units == ["env steps/s", calls.PAIRS, "masks/s", calls.PAIRS]
    assert written["rates"][0]["ratio_to_bare"] == 1
    assert all(rate["low"] <= rate["median"] <= rate["high"] for rate in written["rates"])


def test_without_stepping_there_is_no_ratio(tmp_path):
    figures = tmp_path / "figures.json"
    settings = "--rates bounds --bounds path --repeats 1 --masks 4 --states 3"
    arguments = f"--env cartpole {settings} --json {figures}"
    assert throughput.main(arguments.split()) == 0
    rates = json.loads(figures.read_text())["rates"]
    assert [rate["ratio_to_bare"] for rate in rates] == [None] * len(rates)


def test_training_is_timed_by_regime_method_and_allocation(tmp_path):
    figures = tmp_path / "figures.json"
    learner = "--steps 64 --num-envs 4 --unroll 8 --epochs 1 --minibatches 1 --hidden 8"
    settings = "--rates training --repeats 1 --methods set --allocation erk --regimes ppo radial"
    arguments = f"--env cartpole {settings} {learner} --json {figures}"
    assert throughput.main(arguments.split()) == 0
    rates = json.loads(figures.read_text())["rates"]
    names = ["ppo training, set", "radial training, set", "radial training, set: time"]
    assert [rate["name"] for rate in rates] == names
    units = ["env steps/s", "env steps/s", "% of the time of ppo"]
    assert [rate["unit"] for rate in rates] == units
    plain, radial, time = (rate["median"] for rate in rates)
    assert time == pytest.approx(100 * plain / radial) and radial > 0


def test_an_evaluation_tells_how_many_of_its_steps_count(tmp_path):
    save_policy(tmp_path / "policy.npz", drawn_policy(4, 2, discrete=True))
    figures = tmp_path / "figures.json"
    settings = f"--rates evaluation --attacks none --repeats 1 --policy {tmp_path / 'policy.npz'}"
    settings += " --sparsity-grid 0,0.3,0.6,0.9 --episodes 3"
    assert throughput.main(f"--env cartpole {settings} --json {figures}".split()) == 0
    rate, share = json.loads(figures.read_text())["rates"]
    assert rate["name"] == "evaluation, clean" and rate["median"] > 0
    assert share["unit"] == "% of those simulated" and 0 < share["median"] <= 100


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--attacks pdg", "did you mean 'pgd'"),
        ("--num-envs 1000000000", "--num-envs"),
        ("--rates jumping", "unknown rate 'jumping'"),
        ("--rates mjx", "rate mjx times gym/ tasks, not 'cartpole'"),
        ("--repeats 0", "repeats 0 is below 1"),
        ("--rates evaluation --policy nowhere.npz", "nowhere.npz"),
        ("--rates training --methods mikro", "unknown pruning method 'mikro'"),
        ("--rates training --regimes radical", "unknown regime 'radical'"),
        ("--rates training --allocation erk2", "unknown allocation 'erk2'"),
        ("--rates bounds --bounds pth", "unknown bound 'pth'"),
        ("--rates bounds --precision float16", "unknown precision 'float16'"),
    ],
)
def test_bad_settings_end_in_one_line(arguments, words, capsys):
    assert throughput.main(["--env", "cartpole", *arguments.split()]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("caps", [{}, {"mjx_iterations": 4, "mjx_ls_iterations": 4}])
def test_what_is_compared_is_the_same_step(caps):
    """MJX's own program and ours, from one state in contact."""
    env = make_env("gym/Hopper-v4")
    plain = calls.PlainMJX(env.physics, throughput.Options(**caps))
    at = (jnp.zeros(6).at[1].set(1.2), jnp.full(6, 0.1), jnp.zeros(6), jnp.array([0.5, -0.5, 1.0]))
    ours, theirs = (jax.jit(physics.simulate)(*at) for physics in (env.physics, plain))
    np.testing.assert_allclose(ours.qpos, theirs.qpos, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ours.qvel, theirs.qvel, rtol=1e-4, atol=1e-5)


def test_what_an_attack_trains_is_timed(tmp_path, capsys):
    """None of mad, which learns nothing; one rate of rs, by the steps of its data."""
    figures = tmp_path / "figures.json"
    settings = "--env cartpole --rates preparation --attacks mad rs --repeats 1"
    settings += " --rs.steps 256 --rs.num-envs 8 --rs.epochs 1 --rs.batch 64 --rs.rounds 1"
    settings += " --rs.radii 0.1 --rs.weights 1 3"
    assert throughput.main([*settings.split(), "--json", str(figures)]) == 0
    (rate,) = json.loads(figures.read_text())["rates"]
    assert rate["name"] == "preparation of rs, 2 members"
    assert rate["unit"] == "env steps/s" and rate["median"] > 0
