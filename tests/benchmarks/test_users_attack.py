"""A run with an attack of the user's own, whose source changes afterwards."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = (
    "--preset smoke --steps 2048 --num-envs 8 --unroll 64 --epochs 1 --minibatches 2 --seeds 2 "
    "--methods magnitude --sparsity-grid 0,0.5 --episodes 4 --attacks flicker --bounds path"
)
# A program that registers the attack of the module beside it, as the README of attacks says.
PROGRAM = """
import sys
import flickering
from benchmarks.run import main
from jaxprune.attacks import ATTACKS, Kind
from jaxprune.attacks.base import memoryless

ATTACKS["flicker"] = Kind(lambda _: memoryless(flickering.flicker), "flicker", "noise")
sys.exit(main(sys.argv[1:]))
"""
ATTACK = """
SIZE = 0.5

def flicker(key, victim, obs_norm, eps):
    return obs_norm.at[0].add(SIZE * eps)
"""


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "program.py", *SMALL.split(), "--out", "out"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_a_run_with_an_edited_attack_is_not_taken_for_complete(tmp_path: Path):
    """The same attack: complete, nothing is computed. Edited: computed again, with the reason."""
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "flickering.py").write_text(ATTACK)
    first = run(tmp_path)
    assert first.returncode == 0, first.stderr
    returns = tmp_path / "out" / "returns.parquet"
    before = returns.read_bytes(), returns.stat().st_mtime_ns

    again = run(tmp_path)
    assert again.returncode == 0 and "out is complete (--no-resume" in again.stdout
    assert (returns.read_bytes(), returns.stat().st_mtime_ns) == before

    (tmp_path / "flickering.py").write_text(ATTACK.replace("0.5", "1.0"))
    edited = run(tmp_path)
    assert edited.returncode == 0, edited.stderr
    assert "not complete: another source of the attacks" in edited.stdout
    assert "is complete" not in edited.stdout and returns.read_bytes() != before[0]
