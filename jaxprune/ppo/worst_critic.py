"""A second critic, of the worst case: it learns with the agent and advises it (WocaR).

    Q_w(s, a) = r + gamma min over A(s') of Q_w(s', .)

A(s') is what the policy can be pushed to from the ball around s'. With [low, high] a bound on the
actor's outputs over that ball, by CROWN-IBP and IBP,

    Gaussian     A = [low, high], the noise aside; the minimum is that of sign-gradient descent
    categorical  min over z in [low, high] of sum_i softmax(z)_i Q_w(s', i), exactly

Once per iteration Q_w is fitted to the rollout, and then moves the advantages from which the agent
learns:

    A <- A + w_t A_w std(A) / std(Q_w),    A_w = Q_w(s, a) - E Q_w(s, .)

with E at the mean of a Gaussian, and std over the rollout; w_t grows linearly from 0 to
`wocar_weight`. In units of std(A_w), what Q_w mistakes about an action would weigh as much as what
the agent learns: agents of hopper then did not learn to walk.

In the reference the bound is that of a network whose layers are in the wrong order, and misses the
mean at nearly all states; Q_w itself takes the place of A_w; time limits count as ends of the task.
The sum is not normalised there; here all advantages are. The paper's weights of states, by how much
the action matters, are in neither.

Source: Liang et al. 2022 (WocaR-RL, arXiv 2210.05927), sections 4.1 and 4.2, and
github.com/umd-huang-lab/WocaR-RL.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from jaxprune.certify.boxes import Box
from jaxprune.certify.crown_ibp import output_changes
from jaxprune.certify.query import make_query
from jaxprune.losses import Hyper, Sample
from jaxprune.pgd import ascend_from_corner
from jaxprune.policy import action_distribution, affine_layers, normalise, state_value
from jaxprune.ppo.advantages import earned
from jaxprune.pruning.directives import Directive
from jaxprune.rollout import Transition
from jaxprune.types import Array, Key, Policy, PyTree

if TYPE_CHECKING:
    from jaxprune.ppo.learner import Learner, TrainState

ADAM = optax.scale_by_adam(eps=1e-5)
# Of the target network towards the other one, at every gradient step.
POLYAK = 1e-3
# Gradients of the inner minimum, and its step in units of the half-width of the box.
STEPS = 5
STEP = 2.5 / STEPS

# phi(a) [action_size] -> Q_w(s, a), at some s
Value: TypeAlias = Callable[[Array], Array]


class WorstCritic(NamedTuple):
    """Q_w in training; its networks are critics of (s, phi(a)), shaped like the agent's."""

    network: PyTree
    target: PyTree
    opt_state: optax.OptState


class Lesson(NamedTuple):
    """One step as Q_w learns from it."""

    obs_norm: Array  # [obs_size], s
    action: Array  # [action_size], phi(a)
    reward: Array  # [], as the agent's critic has it
    discount: Array  # [], of what follows: gamma, or 0 where the task ended
    next_norm: Array  # [obs_size], s', before any reset
    reach: Box  # [action_size], of the actor's outputs over the ball around s'


def start(policy: Policy) -> WorstCritic:
    """Returns what Q_w starts from: the agent's critic, which does not look at the action."""
    critic = policy.params.critic
    first = critic["layer_0"]
    size = affine_layers(policy)[-1].bias.size
    blind = jnp.zeros((size, first["bias"].size), first["kernel"].dtype)
    kernel = jnp.concatenate([first["kernel"], blind])
    network = critic | {"layer_0": first | {"kernel": kernel}}
    return WorstCritic(network, network, ADAM.init(network))


def learn(
    key: Key,
    learner: "Learner",
    agent: "TrainState",
    hyper: Hyper,
    directive: Directive,
    eps: Array,
    steps: Transition,
) -> WorstCritic:
    """Returns Q_w after as many epochs and minibatches of a rollout as PPO has.

    What follows a step is valued anew in every epoch, by the target network.

    Args:
        key: consumed.
        learner: how the agent learns.
        agent: which acted, with its Q_w.
        hyper: traced settings.
        directive: of this iteration.
        eps: the radius in force, `[]`.
        steps: `[unroll, N]`.
    """
    rewards = earned(steps, hyper, learner.normalising(agent))
    lessons = lessons_of(agent.policy, hyper.gamma, eps, steps, rewards)
    rate = hyper.wocar_rate * (1 - (1 - hyper.final_learning_rate) * directive.progress)
    value = partial(action_value, agent.policy)
    rows, minibatches = learner.config.batch, learner.config.minibatches

    def epoch(critic: WorstCritic, key: Key) -> tuple[WorstCritic, None]:
        def goal(row: Lesson) -> Array:
            after = partial(value, critic.target, row.next_norm)
            return row.reward + row.discount * LEAST[agent.policy.distribution](after, row.reach)

        order = jax.random.permutation(key, rows).reshape(minibatches, -1)
        data = jax.tree.map(lambda x: x[order], (lessons, jax.vmap(goal)(lessons)))
        return jax.lax.scan(partial(fit, value, rate), critic, data)

    return jax.lax.scan(epoch, agent.second_critic, jax.random.split(key, learner.config.epochs))[0]


def lessons_of(
    policy: Policy, gamma: Array | float, eps: Array, steps: Transition, rewards: Array
) -> Lesson:
    """Returns `Lesson [unroll * N]` of steps and rewards `[unroll, N]`, in their order."""

    def lesson(step: Transition, reward: Array) -> Lesson:
        obs_norm, next_norm = normalise(policy, step.obs), normalise(policy, step.next_obs)
        discount = jnp.where(step.terminated, 0.0, gamma)
        reach = reach_of(policy, next_norm, eps)
        return Lesson(obs_norm, _features(policy, step.action), reward, discount, next_norm, reach)

    lessons = jax.vmap(jax.vmap(lesson))(steps, rewards)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), lessons)


def fit(
    value: Callable[..., Array], rate: Array, critic: WorstCritic, data: tuple[Lesson, Array]
) -> tuple[WorstCritic, None]:
    """Returns Q_w after one Adam step on the squared error of a minibatch `[B]`, for a scan."""
    lessons, goals = data

    def loss(network: PyTree) -> Array:
        values = jax.vmap(partial(value, network))(lessons.obs_norm, lessons.action)
        return jnp.mean((values - goals) ** 2)

    direction, opt_state = ADAM.update(jax.grad(loss)(critic.network), critic.opt_state)
    network = jax.tree.map(lambda w, d: w - rate * d, critic.network, direction)
    target = optax.incremental_update(network, critic.target, POLYAK)
    return WorstCritic(network, target, opt_state), None


def advise(
    critic: WorstCritic, policy: Policy, hyper: Hyper, directive: Directive, sample: Sample
) -> Sample:
    """Returns `Sample [rows]` with advantages that Q_w has moved."""

    def worst(row: Sample) -> tuple[Array, Array]:
        value = partial(action_value, policy, critic.target, row.obs_norm)
        actions, weights = action_distribution(policy, row.obs_norm).support()
        return value(_features(policy, row.action)), weights @ jax.vmap(value)(actions)

    (own, usual), advantage = jax.vmap(worst)(sample), sample.advantage
    weight = hyper.wocar_weight * directive.progress * advantage.std() / (own.std() + 1e-8)
    return sample._replace(advantage=advantage + weight * (own - usual))


def action_value(policy: Policy, network: PyTree, obs_norm: Array, action: Array) -> Array:
    """Returns Q_w(s, phi(a)), `[]`, of a network with the activation of a policy."""
    critic = replace(policy, params=policy.params._replace(critic=network))
    return state_value(critic, jnp.concatenate([obs_norm, action]))


def _features(policy: Policy, action: Array) -> Array:
    """phi(a), `[action_size]`: the action itself, or one-hot for a choice."""
    if policy.distribution == "normal":
        return action
    return jax.nn.one_hot(action, affine_layers(policy)[-1].bias.size)


# --- the worst case -------------------------------------------------------------------------------


def reach_of(policy: Policy, obs_norm: Array, eps: Array) -> Box:
    """Returns a box around the actor's outputs over the ball, `[action_size]`.

    Not rounded outward.
    """
    radius = jnp.full_like(obs_norm, eps)
    query = make_query(affine_layers(policy), radius, None, policy.activation, obs_norm)
    outputs, _, change = output_changes(query)
    return Box(outputs + change.low, outputs + change.high)


def least_at_a_mean(value: Value, reach: Box) -> Array:
    """Returns the smallest value of an action of the box that descent finds, `[]`.

    From the corner to which the gradient at the middle points: exact for a linear value.
    """
    middle, half = (reach.low + reach.high) / 2, (reach.high - reach.low) / 2
    loss = lambda u: -value(middle + half * u)  # noqa: E731
    one, zero = jnp.ones((), half.dtype), jnp.zeros_like(half)
    return -loss(ascend_from_corner(loss, zero, one, steps=STEPS, step_size=STEP * one))


def least_of_choices(value: Value, reach: Box) -> Array:
    """Returns the smallest mean value of a softmax of logits in the box, `[]`.

    The mean rises with the logit of an action whose value is above it and falls with the others:
    at the minimum the k actions of the least value have their highest logits and the rest their
    lowest, for some k in 0 .. K.
    """
    size = reach.low.size
    values = jax.vmap(value)(jnp.eye(size))
    order = jnp.argsort(values)
    raised = jnp.arange(size) < jnp.arange(size + 1)[:, None]
    logits = jnp.where(raised, reach.high[order], reach.low[order])
    return jnp.min(jax.nn.softmax(logits) @ values[order])


# The least value over what the policy can be pushed to, by `Policy.distribution`.
LEAST: dict[str, Callable[[Value, Box], Array]] = {
    "normal": least_at_a_mean,
    "categorical": least_of_choices,
}
