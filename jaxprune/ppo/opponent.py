"""An opponent that learns in turns with the agent: it decides what the agent sees (ATLA).

    s' = s + eps tanh(u),  u ~ N(m(s), tau^2)

The opponent nu = (m, tau) sees the true normalised observation and is trained by PPO on minus the
reward, one iteration before each of the agent's. While it learns the agent stands still, weights
and statistics alike; while the agent learns nu stands still and draws its decisions.

In the reference u is clipped, so that tau has hardly a gradient once most draws are, and grows
until the perturbation is a random corner. Here u is squashed and log tau stays in LOG_TAU. The
radius grows over its ramp; there it is constant. The critic of the agent sees the true observation;
there it sees the perturbed one.

Source: Zhang et al. 2021 (ATLA, arXiv 2101.08452), section 3, and
github.com/huanzhang12/ATLA_robust_RL.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from jaxprune.adversarial_mdp import AdversarialMDP
from jaxprune.losses import Hyper
from jaxprune.policy import action_distribution
from jaxprune.pruning.directives import Directive
from jaxprune.pruning.masks import dense
from jaxprune.pruning.methods import METHODS
from jaxprune.types import Array, Key, ObsStats, Params, Policy

if TYPE_CHECKING:
    from jaxprune.ppo.learner import Learner, TrainState

# Where log tau stays, and where it starts.
LOG_TAU, FIRST_LOG_TAU = (-3.0, 0.0), -0.5


def start(learner: "Learner", key: Key, policy: Policy) -> "TrainState":
    """Returns the opponent of an agent before its first iteration; the key is consumed."""
    key_workers, key = jax.random.split(key)
    nu = opponent_of(policy)
    against = facing(learner, policy, jnp.zeros(()))
    return against.unpruned(key_workers, key, nu, dense(nu.params))


def opponent_of(policy: Policy) -> Policy:
    """Returns what nu starts from: the hidden layers of the agent with a head of zeros.

    Its statistics are 0 and 1 and stay so: what it sees is normalised already.
    """
    *hidden, last = policy.params.actor
    size = policy.obs_stats.mean.size
    width = policy.params.actor[last]["kernel"].shape[0]
    head = {"kernel": jnp.zeros((width, size)), "bias": jnp.zeros(size)}
    actor = {name: policy.params.actor[name] for name in hidden} | {last: head}
    params = Params(actor, policy.params.critic, jnp.full(size, FIRST_LOG_TAU))
    unit = ObsStats(jnp.zeros(size), jnp.ones(size), jnp.zeros(()))
    return Policy(params, unit, policy.activation)


def learn(
    learner: "Learner", agent: "TrainState", hyper: Hyper, directive: Directive, eps: Array
) -> "TrainState":
    """Returns the opponent after an iteration of PPO against the agent, which has its masks.

    Its rewards are minus the agent's, divided by the deviation of the agent's returns.
    """
    nu = agent.opponent._replace(return_stats=agent.return_stats)
    own = replace(hyper, learning_rate=hyper.adversary_rate, entropy_weight=hyper.adversary_entropy)
    after, _ = facing(learner, agent.policy, eps).iterate(nu, own, directive)
    params = after.policy.params
    params = params._replace(log_std=jnp.clip(params.log_std, *LOG_TAU))
    policy = replace(after.policy, params=params, obs_stats=nu.policy.obs_stats)
    return after._replace(policy=policy)


def facing(learner: "Learner", policy: Policy, eps: Array) -> "Learner":
    """Returns the learner of an opponent of a policy, which draws its actions: plain PPO."""
    size = learner.env.spec.obs_size
    task = AdversarialMDP(learner.env, policy, eps, shift, size, stochastic=True)
    none, nothing = (METHODS["none"],), type(learner.additions)()
    return replace(learner, env=task, methods=none, snapshots=0, additions=nothing)


def disturb(nu: Any, key: Key, policy: Policy, obs_norm: Array, eps: Array) -> Array:
    """Returns what the agent sees in a rollout, `[obs_size]`: a drawn decision of nu."""
    decision = action_distribution(nu.policy, obs_norm).sample(key)
    return shift(key, policy, obs_norm, eps, decision)


def shift(key: Key, victim: Policy, obs_norm: Array, eps: Array, decision: Array) -> Array:
    """Returns s + eps tanh(u), `[obs_size]`."""
    del key, victim
    return obs_norm + eps * jnp.tanh(decision)
