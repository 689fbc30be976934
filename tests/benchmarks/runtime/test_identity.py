"""What determines results beside the settings, and how users' own members count."""

import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import pytest

from benchmarks.runtime.identity import differences, fingerprint, identity, switches
from jaxprune.attacks import ATTACKS, Kind, none
from jaxprune.attacks.base import memoryless

ROOT = Path(__file__).parents[3]
MODULE = """
    from jaxprune.attacks import ATTACKS
    from jaxprune.attacks import Kind
    from jaxprune.attacks.base import memoryless
    from helper import scaled

    def flicker(key, victim, obs_norm, eps):
        return scaled(obs_norm, eps)

    ATTACKS["flicker"] = Kind(lambda _: memoryless(flicker), "one coordinate at a time")
"""
HELPER = """
    def scaled(obs_norm, eps):
        return obs_norm + {factor} * eps
"""


def members(folder: Path, factor: float) -> str:
    """The digest of the attacks in a fresh process that imports a user's module."""
    (folder / "mine.py").write_text(textwrap.dedent(MODULE))
    (folder / "helper.py").write_text(textwrap.dedent(HELPER.format(factor=factor)))
    program = "import mine, benchmarks.runtime.identity as i; print(i.identity()['members'])"
    paths = [str(folder), str(ROOT)]
    done = subprocess.run(
        [sys.executable, "-B", "-c", f"import sys; sys.path[:0] = {paths}; {program}"],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_a_users_attack_counts_with_what_it_imports(tmp_path: Path):
    """The same in every process; another after an edit of a module that it calls."""
    first = members(tmp_path, 1.0)
    assert members(tmp_path, 1.0) == first
    assert members(tmp_path, 2.0) != first


def made(factor: float, text: str = "obs_norm + factor * eps"):
    """A function without a source file, as in a notebook."""
    names = {"factor": factor}
    exec(f"def flicker(key, victim, obs_norm, eps):\n    return {text}", names)
    return names["flicker"]


@pytest.mark.parametrize(
    "other", [made(2.0), made(1.0, "obs_norm - factor * eps")], ids=["a global", "its code"]
)
def test_a_function_of_a_notebook_counts_by_what_it_does(other):
    kind = lambda flicker: Kind(lambda _: memoryless(flicker), "")  # noqa: E731
    assert fingerprint(kind(made(1.0))) == fingerprint(kind(made(1.0)))
    assert fingerprint(kind(made(1.0))) != fingerprint(kind(other))


def test_a_member_that_is_added_makes_another_run(monkeypatch):
    before = identity()
    monkeypatch.setitem(ATTACKS, "mine", Kind(lambda _: none(), ""))
    assert differences(before, identity()) == ["source of the attacks"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("jax_enable_x64", True),
        ("jax_default_prng_impl", "rbg"),
        ("jax_threefry_partitionable", not jax.config.jax_threefry_partitionable),
    ],
)
def test_switches_that_change_random_numbers_make_another_run(name, value):
    before, held = identity(), getattr(jax.config, name)
    try:
        jax.config.update(name, value)
        assert differences(before, identity()) == [name]
    finally:
        jax.config.update(name, held)
    assert switches() == before["switches"]
