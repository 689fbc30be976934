"""The public surface, as a person meets it: a plain Python process and the documentation."""

import importlib.metadata
import inspect
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import jaxprune
from jaxprune.certify import BOUNDS
from tests.policies import drawn_policy


def start_python(program: str, *arguments: str, cwd: Path | None = None):
    """A fresh interpreter's `CompletedProcess`; its complaints if it fails."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=cwd,
    )
    assert done.returncode == 0, done.stderr
    return done


def run_python(program: str, *arguments: str) -> str:
    """What a fresh interpreter prints; its complaints if it fails."""
    return start_python(program, *arguments).stdout


def test_the_snippet_of_the_documentation(tmp_path):
    """The five lines of `jaxprune.__doc__`, on a random cartpole policy."""
    policy = drawn_policy(4, 2, (8, 8), discrete=True)
    jaxprune.save_policy(tmp_path / "policy.npz", policy)
    program = """
        import json, sys
        import jax
        import jaxprune

        key = jax.random.key(0)
        env = jaxprune.make_env("cartpole")
        policy = jaxprune.load_policy(sys.argv[1])
        masks = jaxprune.prune(
            policy, method="magnitude", sparsity=0.5, allocation="global", key=key
        )
        bounds = jaxprune.certify(policy, masks, eps=0.075, obs=None)
        table = jaxprune.evaluate(
            env, policy, masks, attack="mad", eps=0.075, episodes=3, key=key
        )
        print(json.dumps({
            "bounds": {k: [float(b.value), b.monotone, b.scope] for k, b in bounds.items()},
            "table": {k: v.tolist() for k, v in table.items()},
        }))
    """
    result = json.loads(run_python(program, str(tmp_path / "policy.npz")))
    everywhere = {n for n, b in BOUNDS.items() if b.scope == "global" and not b.slow}
    assert set(result["bounds"]) == everywhere
    for name, (value, monotone, scope) in result["bounds"].items():
        assert np.isfinite(value) and value > 0
        assert (monotone, scope) == (BOUNDS[name].monotone, BOUNDS[name].scope)
    table = result["table"]
    columns = {"return", "return_discounted", "length", "terminated", "diverged", "distance"}
    assert set(table) == columns
    assert table["diverged"] == [False] * 3
    assert all(len(column) == 3 for column in table.values())
    # Cartpole pays 1 a step and a random policy fails within seconds.
    assert table["return"] == table["length"] and table["terminated"] == [True] * 3
    assert min(table["length"]) >= 8 and max(table["length"]) < 500
    assert max(table["distance"]) <= min(value for value, *_ in result["bounds"].values())


def test_importing_does_not_start_a_device():
    """`population.configure` must come after the import and before the first array."""
    program = """
        import importlib, pkgutil
        import jax
        import jaxprune

        for module in pkgutil.walk_packages(jaxprune.__path__, "jaxprune."):
            if module.name != "jaxprune.envs.brax":  # imported when first needed
                importlib.import_module(module.name)
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", 3)  # refused once a backend is up
        print(len(jax.devices()))
    """
    assert run_python(program).split() == ["3"]


def test_importing_does_not_load_a_simulator():
    program = """
        import sys
        import jaxprune

        jaxprune.make_env("cartpole")
        heavy = ("brax", "mujoco", "matplotlib", "benchmarks")
        print([name for name in heavy if name in sys.modules])
    """
    assert run_python(program).strip() == "[]"


def test_making_an_environment_says_nothing_and_writes_nothing(tmp_path):
    """MuJoCo's compiler complains about these two models, into a file in the working directory."""
    program = """
        import sys
        import jaxprune

        for name in sys.argv[1:]:
            jaxprune.make_env(name)
    """
    done = start_python(program, "halfcheetah", "gym/HalfCheetah-v4", cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_all_is_sorted_and_there():
    assert jaxprune.__all__ == sorted(set(jaxprune.__all__))
    assert all(hasattr(jaxprune, name) for name in jaxprune.__all__)
    imported = {
        name
        for name, value in vars(jaxprune).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert imported == set(jaxprune.__all__)  # nothing public by accident


@pytest.mark.parametrize("name", jaxprune.__all__)
def test_every_public_name_is_documented(name):
    """A docstring of its own (not the generated signature of a dataclass or a named tuple)."""
    member = getattr(jaxprune, name)
    doc = inspect.getdoc(member) or ""
    assert len(doc.split()) >= 4
    assert not doc.startswith(f"{member.__name__}(")
    if inspect.isfunction(member) and "Args:" in doc:
        for parameter in inspect.signature(member).parameters:
            assert f"{parameter}:" in doc, parameter
        assert inspect.signature(member).return_annotation is not inspect.Signature.empty


def test_the_module_docstring_shows_every_step():
    for call in ("make_env(", "load_policy(", "prune(", "certify(", "evaluate("):
        assert f"jaxprune.{call}" in jaxprune.__doc__


def test_the_package_has_a_version_and_its_types_are_for_others_to_check():
    assert jaxprune.__version__ == importlib.metadata.version("jaxprune")
    assert (Path(jaxprune.__file__).parent / "py.typed").is_file()
