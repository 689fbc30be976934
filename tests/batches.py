"""Data for scores: random observations, actions of the policy, random advantages."""

from functools import partial

import jax
import jax.numpy as jnp

from jaxprune.losses import Hyper, Sample
from jaxprune.policy import action_distribution
from jaxprune.pruning import Batch
from jaxprune.types import Policy


@partial(jax.jit, static_argnames=("minibatches", "rows", "seed"))
def random_batch(policy: Policy, minibatches: int = 2, rows: int = 8, seed: int = 0) -> Batch:
    """On-policy samples `[minibatches, rows]`, and weights that moved at random."""
    size = policy.obs_stats.mean.size

    def row(key):
        key_obs, key_action, key_advantage, key_target = jax.random.split(key, 4)
        obs = jax.random.normal(key_obs, (size,))
        distribution = action_distribution(policy, obs)
        action = distribution.sample(key_action)
        numbers = (jax.random.normal(k) for k in (key_advantage, key_target))
        return Sample(obs, obs, action, distribution.log_prob(action), *numbers)

    keys = jax.random.split(jax.random.key(seed), (minibatches, rows))
    movement = jax.tree.map(lambda w: jax.random.normal(keys[0, 0], w.shape), policy.params)
    return Batch(jax.vmap(jax.vmap(row))(keys), Hyper(), jnp.float32(0.1), movement)
