"""What `benchmarks.throughput` is asked."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from benchmarks.experiment.config import Grid, parse_grid
from jaxprune.attacks import AttackConfig
from jaxprune.ppo import PPOConfig
from jaxprune.validation import COUNT, SPARSITY, at_least


@dataclass(frozen=True)
class Options:
    """What to measure."""

    env: str = "hopper"
    """Task."""
    backend: str | None = None
    """Simulator; default: the task's own."""
    agents: Annotated[int, at_least(1, 1_000_000)] = 2
    """Agents that train together."""
    methods: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ("none", "micro")
    """Pruning methods to train with; none is dense."""
    regimes: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ("ppo",)
    """Training regimes; the time of the others is also given in percent of that of the first."""
    allocation: str = "global"
    """Of the weights that they remove."""
    bare_steps: Annotated[int, at_least(1, 1_000_000_000)] = 500
    """Bare steps of every environment, in one call."""
    policy: Path | None = None
    """Policy of the evaluation, a file; default: a fresh one, which falls at once."""
    sparsity_grid: Annotated[Grid, SPARSITY] = field(
        default_factory=lambda: parse_grid("0:0.95:20")
    )
    """Fractions of its weights that magnitude pruning removes: a cell of the evaluation each."""
    episodes: Annotated[int, at_least(1, 1_000_000)] = 10
    """Episodes per cell of the evaluation."""
    attacks: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ("none", "mad")
    """Attacks of the evaluation, unprepared: learned ones act with fresh parameters."""
    bounds: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ()
    """Bounds to time; default: all of them. The widths are those of --hidden."""
    masks: Annotated[int, at_least(1, 1_000_000)] = 64
    """Masks bounded in one call."""
    states: Annotated[int, at_least(1, 1_000_000)] = 256
    """Observations of each mask at which local bounds are computed."""
    precision: str = "float64"
    """Of the bounds: float64, or float32 with its larger margins."""
    repeats: Annotated[int, at_least(1, 10_000)] = 5
    """Timed calls of everything."""
    rates: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = (
        "stepping",
        "training",
        "evaluation",
        "bounds",
    )
    """What to time, of these, `preparation` (of the --attacks that train something, without
    pruning) and `mjx`: a gym/ task stepped by MJX's own program."""
    mjx_iterations: Annotated[int | None, COUNT] = None
    """For `mjx`: the most solver iterations; default: the model's."""
    mjx_ls_iterations: Annotated[int | None, COUNT] = None
    """For `mjx`: line search iterations of each; default: the model's."""
    peers: Annotated[tuple[str, ...] | None, tyro.conf.arg(metavar="NAME ...")] = None
    """Time these peers beside ours, on one core, and nothing else; without a name: all of them."""
    peer_folder: Path | None = None
    """Where `python -m benchmarks.peers` made their environments; default: in the user's cache."""
    json: Path | None = None
    """File for the figures."""
    attack: Annotated[AttackConfig, tyro.conf.arg(name="")] = field(default_factory=AttackConfig)
    """Of the adversaries."""
    ppo: Annotated[PPOConfig, tyro.conf.OmitArgPrefixes] = field(
        default_factory=lambda: PPOConfig(
            steps=40_960, num_envs=64, unroll=32, epochs=4, minibatches=4
        )
    )
    """The learner; `steps` are those of one call."""
