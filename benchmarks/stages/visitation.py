"""The states that policies visit: which steps of an episode are kept, and means over them.

The paper's robustness measure is a mean over the discounted visitation,

    F = E_{s ~ d^pi} [delta(s)],    d^pi(s) = (1 - gamma) sum_t gamma^t P(s_t = s).

Either every step of an episode is kept and weighted by (1 - gamma) gamma^t, or k steps are drawn
from that geometric distribution, one in each of k strata of equal mass. Both are unbiased, episode
by episode, so that the episodes are independent samples of F in [0, 1].
"""

from typing import NamedTuple

import jax
import numpy as np

from benchmarks.experiment.config import Experiment
from benchmarks.experiment.design import CERTIFY, key_for
from benchmarks.stages.base import Columns
from jaxprune.envs import EnvSpec
from jaxprune.rollout import Episode
from jaxprune.types import AnyArray


class Visits(NamedTuple):
    """What the unattacked episodes of every cell showed at the steps that were kept."""

    obs: AnyArray  # raw [cells, episodes, k, obs_size]
    earned: AnyArray  # [cells, episodes, k], the reward of those steps
    alive: AnyArray  # bool [cells, episodes, k], the episode had not ended
    weight: AnyArray  # [k], of a step in F
    beyond: AnyArray  # [cells, episodes], of F, past the time limit of an episode that did not end
    discounted: AnyArray  # [cells, episodes], the discounted return


def visit_times(experiment: Experiment, spec: EnvSpec) -> np.ndarray:
    """Steps to keep, int32 `[episodes, k]`; the horizon and beyond are never reached.

    Tasks with discrete actions keep every step: a certificate of theirs needs the first state at
    which the action could change.
    """
    episodes = experiment.episodes
    if spec.discrete:
        return np.broadcast_to(np.arange(spec.horizon, dtype=np.int32), (episodes, spec.horizon))
    k = max(-(-experiment.states // episodes) - 1, 1)
    within = np.asarray(jax.random.uniform(key_for(experiment.seed, CERTIFY), (episodes, k)))
    drawn = geometric_steps((np.arange(k) + within) / k, float(experiment.ppo.hyper.gamma))
    # The first step is always there, however short the episode, and has no part in F.
    return np.concatenate([np.zeros((episodes, 1), np.int32), drawn], axis=1)


def geometric_steps(quantile: np.ndarray, gamma: float) -> np.ndarray:
    """The steps t with P(t) = (1 - gamma) gamma^t at these quantiles in [0, 1), int32."""
    if gamma == 0:
        return np.zeros(quantile.shape, np.int32)
    steps = np.floor(np.log1p(-quantile) / np.log(gamma))
    return np.minimum(steps, np.iinfo(np.int32).max).astype(np.int32)


def collect(times: np.ndarray, gamma: float, spec: EnvSpec, clean: Episode) -> Visits:
    """Returns the visits of `Episode [cells, episodes]` played with these `visit_times`."""
    unfinished = ~clean.terminated
    alive = times < clean.length[..., None]
    if spec.discrete:
        weight = (1 - gamma) * gamma ** np.arange(spec.horizon)
        beyond = unfinished * gamma**spec.horizon
    else:
        drawn = times.shape[1] - 1
        weight = np.concatenate([[0.0], np.full(drawn, 1 / drawn)])
        beyond = unfinished * (~alive @ weight)
    return Visits(clean.visited, clean.earned, alive, weight, beyond, clean.discounted)


def discounted(visits: Visits, values: np.ndarray, past_the_limit: float) -> np.ndarray:
    """Per episode, (1 - gamma) sum_t gamma^t values_t, `[cells, episodes, k] -> [cells, episodes]`.

    Nothing after the end of an episode; `past_the_limit` for what the time limit cut off.
    """
    return np.where(visits.alive, values, 0) @ visits.weight + past_the_limit * visits.beyond


def summary(visits: Visits, values: np.ndarray) -> Columns:
    """Mean under the discounted visitation and maximum over what was visited, `[cells]` each."""
    weight = shares(visits)
    mean = (weight * values).sum((1, 2)) / weight.sum((1, 2))
    return {"mean": mean, "max": np.where(visits.alive, values, -np.inf).max((1, 2))}


def shares(visits: Visits) -> np.ndarray:
    """What every step that was kept weighs under the discounted visitation, as `visits.alive`.

    Episodes may end before the first step that was drawn: then their first states are all.
    """
    return np.where(visits.alive, np.maximum(visits.weight, 1e-12), 0)
