"""The command of a small run on cartpole, which several modules start."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# As little training as still goes through every stage.
SMALL = "--env cartpole --steps 2048 --num-envs 8 --unroll 64 --epochs 1 --minibatches 2"
SMALL += " --episodes 4 --seeds 2 --attacks random,mad"
# With a method of each kind and, by default, a grid of 20.
THREE_METHODS = f"{SMALL} --methods magnitude,random,micro"


def command(words: str) -> list[str]:
    """The program as a person starts it."""
    return [sys.executable, "-m", "benchmarks.run", *words.split()]


def start(words: str) -> subprocess.CompletedProcess[str]:
    """What came of it, in a process of its own."""
    return subprocess.run(command(words), cwd=ROOT, capture_output=True, text=True)
