"""Action values Q(s, a) of a victim as networks, and where in the ball an adversary lowers them.

The critic sees the *true* normalised observation s and the action a that the victim takes because
it is shown s': what the adversary lowers is the value of doing in s what it makes the victim do.
"""

from typing import TypeAlias

import jax
import jax.numpy as jnp

from jaxprune.attacks.config import MADConfig
from jaxprune.attacks.gradient import climb
from jaxprune.envs import EnvSpec
from jaxprune.pgd import usable
from jaxprune.policy import MLP, Affine, action_distribution
from jaxprune.types import Array, Key, Policy, PyTree

HIDDEN = (64, 64)
ACTIVATION = "tanh"
# Of the attack as published: steps, each eps / PUBLISHED_STEPS long.
PUBLISHED_STEPS = 10

# {"layer_i": {"kernel": [in, out], "bias": [out]}}, one output.
Critic: TypeAlias = dict[str, dict[str, Array]]


def init_critic(key: Key, spec: EnvSpec) -> Critic:
    """A fresh critic of `obs_size + action_size` inputs, orthogonal; the key is consumed."""
    inputs = jnp.zeros(spec.obs_size + spec.action_size)
    variables: PyTree = _network().init(key, inputs)
    return variables["params"]


def blank_critic(spec: EnvSpec) -> Critic:
    """The critic that is 0 everywhere."""
    shapes = jax.eval_shape(lambda: init_critic(jax.random.key(0), spec))
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def critic_layers(critic: Critic) -> list[Affine]:
    """The layers in order, for bounds."""
    layers = [critic[f"layer_{i}"] for i in range(len(critic))]
    return [Affine(layer["kernel"].T, layer["bias"]) for layer in layers]


def critic_inputs(spec: EnvSpec, obs_norm: Array, action: Array) -> Array:
    """Returns (s, phi(a)), `[obs_size + action_size]`."""
    return jnp.concatenate([obs_norm, action_features(spec, action)])


def action_features(spec: EnvSpec, action: Array) -> Array:
    """Returns phi(a), `[action_size]`: the action itself, or one-hot for a choice.

    A Gaussian action is taken as drawn, before the policy or the task clips it.
    """
    return jax.nn.one_hot(action, spec.action_size) if spec.discrete else action


def action_value(critic: Critic, inputs: Array) -> Array:
    """Q at (s, phi(a)), `[obs_size + action_size] -> []`."""
    return jnp.asarray(_network().apply({"params": critic}, inputs))[0]


def expected_value(critic: Critic, victim: Policy, obs_norm: Array, seen: Array) -> Array:
    """The value in s of what the victim does when it sees s', `[]`.

        Gaussian     Q(s, mu(s'))
        categorical  sum_a pi(a | s') Q(s, a)

    Args:
        critic: of the victim.
        victim: the policy.
        obs_norm: s, `[obs_size]`.
        seen: s', `[obs_size]`.
    """
    actions, weights = action_distribution(victim, seen).support()
    values = jax.vmap(lambda a: action_value(critic, jnp.concatenate([obs_norm, a])))(actions)
    return weights @ values


def descend(
    config: MADConfig, critic: Critic, key: Key, victim: Policy, obs_norm: Array, eps: Array
) -> Array:
    """The s' of the ball that leaves the victim the least `expected_value`, `[obs_size]`.

    Source: Zhang et al. 2020 (arXiv 2003.08938), section 3.5, with random restarts, longer steps
    and the best iterate.
    """
    return climb(config, key, lambda x: -expected_value(critic, victim, obs_norm, x), obs_norm, eps)


def descend_published(
    critic: Critic, key: Key, victim: Policy, obs_norm: Array, eps: Array
) -> Array:
    """The last of K = 10 sign-gradient steps t = eps / K, from a start close to s, `[obs_size]`.

        s_0 ~ U(s - t, s + t)
        s_{k+1} = clip(s_k - t sign(grad E_{a ~ pi(s_k)} Q(s, a)), s - eps, s + eps)

    Source: github.com/huanzhang12/SA_PPO.
    """
    step = eps / PUBLISHED_STEPS
    gradient = jax.grad(lambda x: expected_value(critic, victim, obs_norm, x))

    def move(x: Array, _: None) -> tuple[Array, None]:
        x = x - step * jnp.sign(usable(gradient(x)))
        return jnp.clip(x, obs_norm - eps, obs_norm + eps), None

    noise = jax.random.uniform(key, obs_norm.shape, obs_norm.dtype, -1.0, 1.0)
    last, _ = jax.lax.scan(move, obs_norm + step * noise, length=PUBLISHED_STEPS)
    return last


def _network() -> MLP:
    return MLP(HIDDEN, 1, ACTIVATION)
