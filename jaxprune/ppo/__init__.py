"""PPO with masks: the learner, its advantages, and the SA regulariser."""

from jaxprune.ppo.advantages import gae, make_batch, update_stats
from jaxprune.ppo.learner import (
    Metrics,
    PPOConfig,
    Snapshot,
    TrainState,
    dense_directives,
    initial_policy,
    keep_masks,
    make_learner,
    make_train,
    summarise,
    update,
)

__all__ = [
    "Metrics",
    "PPOConfig",
    "Snapshot",
    "TrainState",
    "dense_directives",
    "gae",
    "initial_policy",
    "keep_masks",
    "make_batch",
    "make_learner",
    "make_train",
    "summarise",
    "update",
    "update_stats",
]
