"""On-policy data of trained policies, for the scores that look at data."""

from functools import lru_cache
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.cells import Cell, as_cells, masked_policy
from jaxprune.devices import Mapped, map_population
from jaxprune.envs import Environment
from jaxprune.evaluation.episodes import check_evaluation
from jaxprune.losses import Hyper
from jaxprune.ppo.advantages import make_batch, no_returns, update_stats
from jaxprune.pruning import Batch
from jaxprune.rollout import fresh_workers, rollout
from jaxprune.types import AnyArray, Key, Masks, Policy
from jaxprune.validation import ANY_RADIUS, COUNT, check_arguments

ENVS = 16  # per policy
MINIBATCHES = 32


class Shared(NamedTuple):
    """What all policies of a call have in common."""

    policies: Policy  # [agents]
    hyper: Hyper
    eps: AnyArray  # []


def collect_batch(
    env: Environment,
    policy: Policy,
    masks: Masks | None = None,
    steps: Annotated[int, COUNT] = 4096,
    key: Key | None = None,
    eps: Annotated[float | None, ANY_RADIUS] = None,
    hyper: Hyper | None = None,
) -> Batch:
    """Steps of the stochastic policy with their advantages, in 32 minibatches: `batch` of `prune`.

    Gradients of a trained policy are almost all noise, so scores average over all minibatches.

    Args:
        env: from `make_env`.
        policy: leading axes `[...]` are agents.
        masks: leading axes are those of the policy, then any number more; None for no pruning.
        steps: per policy, rounded up to a multiple of 512.
        key: default `jax.random.key(0)`; consumed. The same for every policy.
        eps: radius of the adversary-aware score, in normalised units; None for the task's.
        hyper: of the loss whose gradient is taken; default: that of PPO.

    Returns:
        `Batch` with the leading axes of the masks (of the policy without masks).

    Raises:
        InputError: no step, or a policy that does not fit the task.
    """
    check_arguments(collect_batch, locals())
    eps = env.spec.eps if eps is None else eps
    check_evaluation(env, policy, eps)
    shape, policies, cells = as_cells(*jax.device_get((policy, masks)))
    keys = jax.random.key(0) if key is None else key
    shared = Shared(policies, hyper or Hyper(), np.float32(eps))
    unroll = -(-steps // (ENVS * MINIBATCHES)) * MINIBATCHES
    found = map_population(_program(env, unroll), (shared, keys), cells, ENVS)
    return jax.tree.map(lambda x: np.reshape(x, (*shape, *np.shape(x)[1:])), found)


@lru_cache(maxsize=16)
def _program(env: Environment, unroll: int) -> Mapped:
    """`((Shared, key), Cell) -> Batch`."""

    def of_cell(shared_and_key: tuple[Shared, Key], cell: Cell) -> Batch:
        shared, key = shared_and_key
        policy = masked_policy(shared.policies, cell)
        key_reset, key_act = jax.random.split(key)
        workers = fresh_workers(key_reset, env, ENVS)
        _, steps = rollout(key_act, env, policy, shared.hyper.gamma, workers, unroll)
        stats = update_stats(no_returns(), steps.discounted_return)
        sample = make_batch(policy, steps, shared.hyper, stats)
        split = lambda x: x.reshape(MINIBATCHES, -1, *x.shape[1:])  # noqa: E731
        arrays = jax.tree.map(jnp.asarray, (shared.hyper, shared.eps))
        return Batch(jax.tree.map(split, sample), *arrays)

    return Mapped(of_cell)
