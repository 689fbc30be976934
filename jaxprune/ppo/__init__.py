"""PPO with masks: the learner, its advantages, and the regimes of robust training."""

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
from jaxprune.ppo.regimes import REGIMES, Additions, Regime, ball_at
from jaxprune.ppo.surrogates import Ball

__all__ = [
    "REGIMES",
    "Additions",
    "Ball",
    "Metrics",
    "PPOConfig",
    "Regime",
    "Snapshot",
    "TrainState",
    "ball_at",
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
