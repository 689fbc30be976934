"""An experiment in blocks of one seed, each of which takes a second: programs are compiled once for
the tests of chunks, of shards, of victims and of stores.
"""

from dataclasses import replace

from benchmarks.experiment import PRESETS
from jaxprune.attacks import AttackConfig, SarsaConfig
from jaxprune.ppo import PPOConfig
from tests.probes import Drift

ENV = Drift()
BLOCKS = replace(
    PRESETS["smoke"],
    victim=("deterministic", "stochastic"),
    methods=("magnitude", "micro"),
    attacks=("mad", "rs"),
    attack=AttackConfig(
        rs=SarsaConfig(
            steps=256, num_envs=8, epochs=1, batch=64, radii=(0.05, 0.3), weights=(1.0,), rounds=1
        ),
    ),
    bounds=("path", "crown"),
    sparsity_grid=(0.0, 0.5),
    seeds=2,
    chunk_seeds=1,
    episodes=4,
    states=16,
    ppo=PPOConfig(steps=320, num_envs=8, unroll=10, epochs=1, minibatches=1, hidden=(8,)),
).resolved(ENV)
