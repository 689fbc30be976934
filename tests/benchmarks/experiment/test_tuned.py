"""Data files of tuned settings."""

import tomllib
from pathlib import Path

import pytest

from benchmarks.experiment.design import hyper_of
from benchmarks.experiment.tuned import FOLDER, tuned
from jaxprune.ppo import REGIMES, PPOConfig
from jaxprune.validation import check_ranges

# Tasks for which every regime has its settings; of ppo_decay, a control, the command line has them.
TASKS = ("hopper", "walker2d", "halfcheetah", "cartpole", "gym/Hopper-v4", "gym/Walker2d-v5")


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("preset", ["", "laptop"])
def test_every_regime_has_settings_within_their_ranges(task, preset):
    hyper = tuned(task, PPOConfig(), preset).hyper
    check_ranges(hyper)
    for name, regime in REGIMES.items():
        if name != "ppo_decay":
            own = hyper_of(hyper, name, eps=0.1)
            assert all(getattr(own, field) > 0 for field in regime.needs), name


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.toml")), ids=lambda path: path.stem)
def test_every_file_is_of_settings_that_the_learner_has(path: Path):
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    for task in content["tasks"]:
        config = tuned(task, PPOConfig())
        config.check()
        for part, settings in (("learner", config), ("hyper", config.hyper)):
            found = {name: getattr(settings, name) for name in content.get(part, {})}
            assert found == content.get(part, {})
    assert all(entry["regime"] in REGIMES for entry in content["reached"])
