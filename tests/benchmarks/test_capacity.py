"""Capacity: lines through measured sizes, what fits by them, and the program."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import capacity
from benchmarks.capacity import Capacity, Device, Evaluation, Size, Training, fit
from benchmarks.experiment import parse
from jaxprune import devices
from jaxprune.ppo import initial_policy

# The smallest programs that still have every part.
SMALL = "--num-envs 4 --unroll 8 --steps 64 --epochs 1 --minibatches 1 --hidden 8"
SMALL += " --methods magnitude --attacks none,random --episodes 2"


@pytest.fixture(autouse=True)
def devices_are_set(monkeypatch):
    """The tests' own devices stay."""
    monkeypatch.setattr(capacity.devices, "configure", lambda: None)


@pytest.fixture(scope="module")
def measured():
    experiment, env = capacity.task_of("cartpole", SMALL.split())
    return env, capacity.capacity(experiment, env)


# --- lines ----------------------------------------------------------------------------------------


def test_a_line_through_its_own_points_is_itself():
    training, evaluation = Training(1000, 30, 70), Evaluation(500, 20)
    sizes = [Size(n, w, 1000 + 30 * n + 70 * w) for n, w in ((2, 1), (4, 2), (8, 2))]
    np.testing.assert_allclose(capacity.fit_training(sizes), training)
    sizes = [Size(n, n, 500 + 20 * n) for n in (10, 20)]
    np.testing.assert_allclose(capacity.fit_evaluation(sizes), evaluation)


def test_sizes_that_were_not_measured_are_on_the_line(measured):
    """Within 2 %: XLA rounds buffers, and reuses them as it likes."""
    env, found = measured
    size = capacity.training_size(found.experiment, env, 6, 12)
    assert (size.items, size.width) == (12, 6)  # an agent a seed
    line = found.training
    predicted = line.fixed + line.kept * size.items + line.working * size.width
    assert predicted == pytest.approx(size.bytes, rel=0.02)
    size = capacity.evaluation_size(found.experiment, env, 12)
    assert size.items == 24
    predicted = found.evaluation.fixed + found.evaluation.lane * size.items
    assert predicted == pytest.approx(size.bytes, rel=0.02)


def test_an_agent_takes_at_least_its_state_and_its_data(measured):
    """Weights, two moments and masks of them, before and after a call; a rollout meanwhile."""
    env, found = measured
    config = found.experiment.ppo
    policy = jax.eval_shape(lambda key: initial_policy(config, env.spec, key), jax.random.key(0))
    weights = sum(x.size for x in jax.tree.leaves(policy.params))
    least = 2 * weights * (3 * 4 + 1)
    assert least < found.training.kept < 4 * least
    assert found.training.working > config.batch * (env.spec.obs_size + 3) * 4
    assert found.evaluation.lane > env.spec.horizon * env.spec.obs_size * 4  # keeps what is visited


# --- what fits ------------------------------------------------------------------------------------


CARTPOLE = replace(parse(["--env", "cartpole"])[0], backend="analytic")


def planted(training: Training, evaluation: Evaluation) -> Capacity:
    return Capacity(CARTPOLE, training, evaluation, [], [])


def test_what_fits_by_hand():
    """A tenth of 10 GiB is left; 2,048 agents of 8 environments are at work, others wait."""
    gib = capacity.GIB
    found = planted(Training(gib, gib / 1024, gib / 1024), Evaluation(gib, gib / 100))
    device = Device("accelerator", 10.001, "tpu")
    # 8 GiB for agents of 2 MiB: 4,096 would be more than are at work, so 2,048 of them take 2 GiB
    # to work, and the other 6 GiB keep 6,144.
    assert fit(found, device) == (6144, 2048, 800)
    # 2 GiB for agents of 2 MiB: 1,024.
    assert fit(found, device._replace(gib=3.334)) == (1024, 1024, 200)
    assert fit(found, device._replace(gib=1)) == (0, 0, 0)


def test_parts_share_what_python_leaves():
    gib = capacity.GIB
    found = planted(Training(0, gib / 64, gib / 64), Evaluation(0, gib / 64))
    base = capacity.BASE_GIB["analytic"]
    device = Device("laptop", (base + 2.001) / 0.9, "cpu", parts=2, hosts=True)
    # Just over 1 GiB each: 8 agents of 8 environments at work take 8 / 64, the rest keeps 56.
    assert fit(found, device) == (2 * 56, 2 * 8, 2 * 64)


@given(
    fixed=st.integers(0, 10**9),
    kept=st.integers(1, 10**7),
    working=st.integers(0, 10**9),
    gib=st.floats(0.01, 100),
)
def test_what_fits_fits_and_one_more_does_not(fixed, kept, working, gib):
    found = planted(Training(fixed, kept, working), Evaluation(fixed, kept))
    agents, at_a_time, lanes = fit(found, Device("one", gib, "gpu"))
    share = 0.9 * gib * capacity.GIB
    most = devices.LANES["gpu"] // found.experiment.ppo.num_envs

    def needs(n: int) -> int:
        return fixed + kept * n + working * min(n, most)

    assert at_a_time == min(agents, most)
    assert agents == 0 or needs(agents) <= share + 1
    assert needs(agents + 1) > share - 1
    assert lanes == 0 or fixed + kept * lanes <= share + 1
    assert fixed + kept * (lanes + 1) > share - 1


def test_counts_for_people_are_rounded_down():
    assert [capacity.about(x) for x in (0, 7, 99, 1999)] == ["0", "7", "99", "1,900"]


def test_bytes_for_people():
    told = [capacity.human(x) for x in (12, 2048, 3.5 * 2**20, 2**31)]
    assert told == ["12 B", "2 KiB", "3.5 MiB", "2 GiB"]


# --- the program ----------------------------------------------------------------------------------


def test_the_program_writes_what_it_prints(measured, tmp_path: Path, capsys, monkeypatch):
    _, found = measured
    monkeypatch.setattr(capacity, "capacity", lambda experiment, env: found)
    out = tmp_path / "new" / "folder"
    arguments = f"--env cartpole:analytic cartpole {SMALL} --out {out}"
    assert capacity.main(arguments.split()) == 0
    assert "cartpole (analytic)" in capsys.readouterr().out
    written = json.loads((out / "capacity.json").read_text())
    assert written["command"].endswith(arguments)
    assert written["measured"].startswith("Memory as XLA assigns buffers for cpu, not measured on")
    assert {"versions", "device", "cores"} <= written.keys()
    assert [task["env"] for task in written["tasks"]] == ["cartpole", "cartpole"]
    task = written["tasks"][0]
    assert task["training"] == found.training._asdict()
    assert task["settings"]["ppo"]["num_envs"] == 4
    laptop = fit(found, capacity.DEVICES[0])
    assert task["fits"][capacity.DEVICES[0].name] == laptop._asdict()
    text = (out / "capacity.md").read_text()
    agents, lanes = capacity.about(laptop.agents), capacity.about(laptop.lanes)
    cell = f"{agents} ({laptop.at_a_time:,}) / {lanes}"
    assert text.count(cell) == 2
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in tables} == {6, 7}
    assert {p.name for p in out.iterdir()} == {"capacity.json", "capacity.md"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--env cartpol", "unknown env 'cartpol'"),
        ("--env cartpole:mjx", "'mjx'"),
        ("--env cartpole --unrol 3", "--unrol"),
        ("--env cartpole --num-envs 0", "num_envs 0 is below 1"),
        ("--env cartpole --methods magnitude --policy policy.npz", "leave out --policy"),
    ],
)
def test_bad_settings_end_in_one_line_before_anything_is_compiled(
    arguments: str, words: str, tmp_path: Path, capsys, monkeypatch
):
    monkeypatch.setattr(capacity, "capacity", None)
    out = tmp_path / "out"
    assert capacity.main([*arguments.split(), "--out", str(out)]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and told.count("\n") == 1
    assert words in told
    assert not out.exists()
