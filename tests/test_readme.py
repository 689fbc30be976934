"""The snippets of the README run as they are printed."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxprune.attacks import ATTACKS
from jaxprune.envs import TASKS, make_env
from jaxprune.pruning.scores import SCORES

ROOT = Path(__file__).parents[1]
HEADING = "## Your own policy, environment, attack, pruning method\n"


def snippets() -> list[str]:
    """The blocks of Python of the section on what is one's own."""
    section = (ROOT / "README.md").read_text().split(HEADING)[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory):
    """What the snippets define, one after the other, beside a policy of Stable-Baselines3."""
    folder, found = tmp_path_factory.mktemp("readme"), {}
    shutil.copy(ROOT / "tests" / "data" / "sb3_cartpole.zip", folder / "ppo.zip")
    before = [(registry, dict(registry)) for registry in (ATTACKS, TASKS, SCORES)]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for text in snippets():
            exec(compile(text, "README.md", "exec"), found)
        yield found
    for registry, content in before:
        registry.clear()
        registry.update(content)


def test_there_is_a_snippet_of_each_in_about_ten_lines():
    lengths = [len([x for x in text.splitlines() if x.strip()]) for text in snippets()]
    assert len(lengths) == 4 and max(lengths) <= 20


def test_a_policy_is_pruned_attacked_and_certified(names: dict[str, Any]):
    assert names["policy"].distribution == "categorical"
    assert names["table"]["return"].shape == (20,)  # of the last one, by the attack below
    assert names["obs"].shape == (3, 64, 4)


def test_an_environment_is_a_task_like_any_other(names: dict[str, Any]):
    env = make_env("drift")
    policy = names["jaxprune"].policy.init_policy(names["jax"].random.key(0), 1, 1)
    found = names["jaxprune"].evaluate(env, policy, episodes=3)
    assert (found["length"] == 50).all() and (found["return"] < 0).all()


def test_a_pruning_method_reaches_its_sparsity(names: dict[str, Any]):
    kernels = [layer["kernel"] for layer in names["masks"].actor.values()]
    kept = sum(int(np.sum(x)) for x in kernels)
    assert kept == round(0.5 * sum(x.size for x in kernels))
