"""Policies for tests, drawn in numpy: `init_policy` compiles a program for every shape."""

import itertools
import math

import jax
import numpy as np

from jaxprune.types import ObsStats, Params, Policy


def drawn_policy(
    obs_size: int,
    action_size: int,
    hidden: tuple[int, ...] = (64, 64),
    *,
    discrete: bool = False,
    activation: str = "tanh",
    seed: int = 0,
) -> Policy:
    """Gaussian numbers everywhere, the kernels over sqrt(fan in); the caller may alter them."""
    rng = np.random.default_rng(seed)

    def network(*sizes: int) -> dict[str, dict[str, np.ndarray]]:
        return {
            f"layer_{i}": {
                "kernel": rng.standard_normal((fan_in, fan_out)) / fan_in**0.5,
                "bias": 0.1 * rng.standard_normal(fan_out),
            }
            for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes))
        }

    actor, critic = (network(obs_size, *hidden, outputs) for outputs in (action_size, 1))
    log_std = 0.3 * rng.standard_normal(0 if discrete else action_size)
    stats = ObsStats(np.zeros(obs_size), np.ones(obs_size), np.zeros(()))
    distribution = "categorical" if discrete else "normal"
    policy = Policy(Params(actor, critic, log_std), stats, activation, distribution)
    return jax.tree.map(lambda x: np.asarray(x, "float32"), policy)


def drawn_agents(shape: tuple[int, ...], *sizes, **options) -> Policy:
    """Different policies with leading axes `shape`."""
    policies = stacked(*(drawn_policy(*sizes, seed=i, **options) for i in range(math.prod(shape))))
    return jax.tree.map(lambda x: x.reshape((*shape, *x.shape[1:])), policies)


def stacked(*trees):
    """Trees of the same shapes as one with a leading axis, in numpy."""
    return jax.tree.map(lambda *x: np.stack(x), *trees)
