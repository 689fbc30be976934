"""Actor-critic policies: networks, observation normaliser, action distributions.

A policy acts on *normalised* observations, x = clip((obs - mean) / (std + offset), -c, c). That is
where perturbations live too, so `normalise` and `action_distribution` are separate steps.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.scipy.special import erf

from jaxprune.types import ActionBox, Array, Key, ObsStats, Params, Policy, PyTree
from jaxprune.validation import InputError, lookup

ACTIVATIONS = {"tanh": jnp.tanh, "relu": jax.nn.relu, "swish": jax.nn.swish}

# What keeps divergences finite in float32. Within these limits they are the plain formulas.
RAREST = -(2.0**127)  # log probability
LIKELIER = 40.0  # log ratio of probabilities: e^40 is finite where 1 + 40 is lost beside it
WIDER = 80.0  # log ratio of variances
FARTHEST = 2.0**60  # deviations, whose square is finite
STEEPEST = 1e30  # gradient, with room for the layers behind it


class Affine(NamedTuple):
    """One layer y = W x + b, in the orientation of the certificates' formulas."""

    weight: Array  # [out, in]
    bias: Array  # [out]


class Gaussian(NamedTuple):
    """A diagonal normal distribution, its deviation independent of the state."""

    mean: Array  # [action_size]
    log_std: Array  # [action_size]

    unit = "standard deviations"  # of D
    discrete = False
    stochastic = True

    @classmethod
    def from_output(cls, output: Array, log_std: Array) -> "Gaussian":
        """Returns the distribution of an actor's output, `[action_size]` each."""
        return cls(output, log_std)

    def mode(self) -> Array:
        """The mean, `[action_size]`."""
        return self.mean

    def sample(self, key: Key) -> Array:
        """A draw, `[action_size]`; the key is consumed."""
        noise = jax.random.normal(key, self.mean.shape, self.mean.dtype)
        return self.mean + jnp.exp(self.log_std) * noise

    def log_prob(self, action: Array) -> Array:
        """Log density of `action`, `[]`."""
        z = (action - self.mean) * jnp.exp(-self.log_std)
        return jnp.sum(-0.5 * z**2 - self.log_std - 0.5 * jnp.log(2 * jnp.pi))

    def entropy(self) -> Array:
        """Differential entropy in nats, `[]`."""
        return jnp.sum(self.log_std + 0.5 * jnp.log(2 * jnp.pi * jnp.e))

    def kl(self, other: "Gaussian") -> Array:
        """KL(self || other) in nats, `[]`; see `deviations` for what is beyond the numbers."""
        ratio = jnp.exp(jnp.minimum(2 * (self.log_std - other.log_std), WIDER))
        z = deviations(self.mean - other.mean, other.log_std)
        return 0.5 * jnp.sum((ratio - 1) + z**2) + jnp.sum(other.log_std - self.log_std)

    def distance(self, other: "Gaussian") -> Array:
        """D = ||Sigma^(-1/2) (mu - mu')||_2, the quantity that certificates bound, `[]`."""
        z = (self.mean - other.mean) * jnp.exp(-_no_narrower(self.log_std))
        plain = jnp.linalg.norm(z)
        # Squares overflow long before their root does.
        sizes = jnp.minimum(jnp.abs(z), jnp.finfo(z.dtype).max)
        largest = jnp.max(sizes)
        return jnp.where(jnp.isfinite(plain), plain, largest * jnp.linalg.norm(sizes / largest))

    def total_variation(self, other: "Gaussian") -> Array:
        """TV of two distributions with this deviation, erf(D / (2 sqrt 2)), `[]`."""
        return erf(self.distance(other) / 8**0.5)

    def change(self, other: "Gaussian") -> Array:
        """||mu - mu'||_2^2, the change without sigma, `[]`."""
        return jnp.sum((other.mean - self.mean) ** 2)

    def likelihood(self, action: Array) -> Array:
        """log pi(action) but for constants, finite however small sigma is, `[]`."""
        return -self._replace(mean=action).kl(self)

    def support(self) -> tuple[Array, Array]:
        """The actions at which a value is asked, `[m, action_size]`, and their weights, `[m]`."""
        return self.mean[None], jnp.ones(1, self.mean.dtype)


class Deterministic(Gaussian):
    """An action without a deviation; in KL and likelihood it is a normal one of deviation 1.

    So attacks that maximise the KL maximise how far the action moves.
    """

    unit = "units of the action"  # of D
    stochastic = False

    def sample(self, key: Key) -> Array:
        """The action, `[action_size]`."""
        del key
        return self.mean

    def total_variation(self, other: Gaussian) -> Array:
        """1 for two actions that differ at all, `[]`."""
        return jnp.where(jnp.any(self.mean != other.mean), 1.0, 0.0)


class Categorical(NamedTuple):
    """A choice among `action_size` actions."""

    logits: Array  # [action_size]

    unit = "logits"  # of D
    discrete = True
    stochastic = True

    @classmethod
    def from_output(cls, output: Array, log_std: Array) -> "Categorical":
        """Returns the distribution of an actor's output, `[action_size]`; log_std is empty."""
        del log_std
        return cls(output)

    def mode(self) -> Array:
        """The likeliest action, int `[]`."""
        return jnp.argmax(self.logits)

    def sample(self, key: Key) -> Array:
        """A draw, int `[]`; the key is consumed."""
        return jax.random.categorical(key, self.logits)

    def log_prob(self, action: Array) -> Array:
        """Log probability of `action`, `[]`."""
        return _log_probabilities(self.logits)[action]

    def entropy(self) -> Array:
        """Entropy in nats, `[]`."""
        log_p = _log_probabilities(self.logits)
        return -jnp.sum(jnp.exp(log_p) * log_p)

    def kl(self, other: "Categorical") -> Array:
        """KL(self || other) in nats, `[]`."""
        log_p, log_q = (_log_probabilities(x.logits) for x in (self, other))
        d = log_q - log_p
        # p (e^d - 1 - d) is q to rounding from here on, and p vanishes where e^d is infinite.
        likelier = d > LIKELIER
        log_p, d = jnp.where(likelier, log_q - LIKELIER, log_p), jnp.where(likelier, LIKELIER, d)
        # sum p (e^d - 1) = 0, and adding it makes every term positive: small KLs do not cancel.
        return jnp.sum(jnp.exp(log_p) * (jnp.expm1(d) - d))

    def distance(self, other: "Categorical") -> Array:
        """The largest logit change, the quantity that certificates bound, `[]`."""
        return jnp.max(jnp.abs(self.logits - other.logits))

    def total_variation(self, other: "Categorical") -> Array:
        """TV = 1/2 sum |p - q|, `[]`."""
        p, q = jax.nn.softmax(self.logits), jax.nn.softmax(other.logits)
        return 0.5 * jnp.sum(jnp.abs(p - q))

    def change(self, other: "Categorical") -> Array:
        """KL(self || other) in nats, `[]`."""
        return self.kl(other)

    def likelihood(self, action: Array) -> Array:
        """Log probability of `action`, `[]`."""
        return self.log_prob(action)

    def support(self) -> tuple[Array, Array]:
        """The actions, one-hot `[action_size, action_size]`, and their probabilities."""
        return jnp.eye(len(self.logits)), jax.nn.softmax(self.logits)


def _log_probabilities(logits: Array) -> Array:
    """log softmax, `[n]`, of finite logits finite: what vanishes must not meet its log of -inf."""
    return jnp.maximum(jax.nn.log_softmax(logits), RAREST)


def _no_narrower(log_std: Array) -> Array:
    """At least e times the smallest normal number, which has an inverse too, as a log: `[n]`."""
    return jnp.maximum(log_std, float(np.log(jnp.finfo(log_std.dtype).tiny)) + 1)


def deviations(change: Array, log_std: Array) -> Array:
    """z = change / std, `[n]`; of a finite change z^2 and its gradient are finite.

    f sqrt(1 + log(|z| / f) / 64) beyond f = `FARTHEST`: an ascent still sees that a larger change
    is worse.
    """
    log_std = _no_narrower(log_std)
    fixed = jax.lax.stop_gradient(log_std)
    least = float(jnp.finfo(change.dtype).tiny)
    excess = jnp.log(jnp.maximum(jnp.abs(change), least)) - fixed - float(np.log(FARTHEST))
    far = excess > 0
    root = FARTHEST * jnp.sqrt(1 + jnp.where(far, excess, 0.0) / 64)
    change = jnp.where(far, root * jnp.exp(fixed), change)
    return _not_steeper(change) * jnp.exp(-log_std)


@jax.custom_vjp
def _not_steeper(x: Array) -> Array:
    """x, through which no gradient beyond `STEEPEST` passes."""
    return x


_not_steeper.defvjp(lambda x: (x, None), lambda _, slope: (jnp.clip(slope, -STEEPEST, STEEPEST),))


class Distribution(Protocol):
    """What all heads offer; `other` is a distribution of the same head."""

    unit: str
    discrete: bool
    """Whether an action is a choice."""
    stochastic: bool
    """Whether it has a deviation of its own."""

    def mode(self) -> Array: ...  # noqa: D102
    def sample(self, key: Key) -> Array: ...  # noqa: D102
    def log_prob(self, action: Array) -> Array: ...  # noqa: D102
    def entropy(self) -> Array: ...  # noqa: D102
    def kl(self, other: Self) -> Array: ...  # noqa: D102
    def distance(self, other: Self) -> Array: ...  # noqa: D102
    def total_variation(self, other: Self) -> Array: ...  # noqa: D102
    def change(self, other: Self) -> Array: ...  # noqa: D102
    def likelihood(self, action: Array) -> Array: ...  # noqa: D102
    def support(self) -> tuple[Array, Array]: ...  # noqa: D102


# By `Policy.distribution`.
HEADS = {"normal": Gaussian, "categorical": Categorical, "deterministic": Deterministic}


class MLP(nn.Module):
    """Fully connected layers `layer_0 ... layer_n` with orthogonal kernels and zero biases."""

    hidden: Sequence[int]
    outputs: int
    activation: str = "tanh"
    final_gain: float = 1.0  # of the last kernel; hidden kernels have gain sqrt(2)

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[in] -> [outputs]`."""
        activation = lookup(ACTIVATIONS, self.activation, "activation")
        for i, width in enumerate(self.hidden):
            x = nn.Dense(width, kernel_init=nn.initializers.orthogonal(2**0.5), name=f"layer_{i}")(
                x
            )
            x = activation(x)
        last = f"layer_{len(self.hidden)}"
        init = nn.initializers.orthogonal(self.final_gain)
        return nn.Dense(self.outputs, kernel_init=init, name=last)(x)


def init_policy(
    key: Key,
    obs_size: int,
    action_size: int,
    *,
    discrete: bool = False,
    hidden: Sequence[int] = (64, 64),
    activation: str = "tanh",
    init_log_std: float = 0.0,
) -> Policy:
    """A fresh policy: small actor outputs (gain 0.01), critic gain 1, unit normaliser.

    Args:
        key: consumed.
        obs_size: length of the observation.
        action_size: length of the action, or number of choices if `discrete`.
        discrete: categorical head instead of the Gaussian one.
        hidden: hidden widths of actor and critic.
        activation: a key of `ACTIVATIONS`.
        init_log_std: of every action dimension (Gaussian head).
    """
    key_actor, key_critic = jax.random.split(key)
    x = jnp.zeros(obs_size)
    actor: PyTree = MLP(hidden, action_size, activation, final_gain=0.01).init(key_actor, x)
    critic: PyTree = MLP(hidden, 1, activation, final_gain=1.0).init(key_critic, x)
    log_std = jnp.full((0 if discrete else action_size,), init_log_std)
    return Policy(
        params=Params(actor["params"], critic["params"], log_std),
        obs_stats=ObsStats(jnp.zeros(obs_size), jnp.ones(obs_size), jnp.zeros(())),
        activation=activation,
        distribution="categorical" if discrete else "normal",
    )


def normalise(policy: Policy, obs: Array) -> Array:
    """Raw observation -> normalised and clipped, `[obs_size]`."""
    stats = policy.obs_stats
    x = (obs - stats.mean) / (stats.std + policy.obs_std_offset)
    return jnp.clip(x, -policy.obs_clip, policy.obs_clip)


def action_distribution(policy: Policy, obs_norm: Array) -> Distribution:
    """pi(. | s) at a *normalised* observation `[obs_size]`."""
    head = HEADS[policy.distribution]
    return head.from_output(actor_output(policy, obs_norm), policy.params.log_std)


def actor_output(policy: Policy, obs_norm: Array) -> Array:
    """What the actor's last layer says: the mean or the logits, `[action_size]`."""
    return _apply(policy, policy.params.actor, obs_norm)


def state_value(policy: Policy, obs_norm: Array) -> Array:
    """The critic's V(s) at a normalised observation, `[]`."""
    return _apply(policy, policy.params.critic, obs_norm)[0]


def action_box(policy: Policy, task: ActionBox | None) -> ActionBox | None:
    """The box that the policy's actions are clipped to in a task with this box; None: they are not.

    Raises:
        InputError: it is the task's, and that is not known.
    """
    if not isinstance(policy.action_box, str):  # the only word is TASK_BOX
        return policy.action_box
    if task is None:
        raise InputError(
            "the policy clips its actions to the box of its task, which is not known here: give "
            "the task's EnvSpec an action_box, or action_box=(low, high) to what takes one"
        )
    return task


def clip_action(policy: Policy, action: Array, task: ActionBox | None) -> Array:
    """What the simulator gets of an action of the policy, `[action_size]` or int `[]`.

        clip(a, low, high),  or low + (high - low) (tanh(a) + 1) / 2 of a policy that squashes

    Args:
        policy: whose `action_box` it is.
        action: the mean, the likeliest choice, or a draw.
        task: the box of the task (`EnvSpec.action_box`).

    Raises:
        InputError: the policy clips to the task's box, and there is none.
    """
    box = action_box(policy, task)
    if box is None:
        return action
    low, high = (jnp.asarray(end, action.dtype) for end in box)
    if policy.squash:
        return low + (high - low) * (jnp.tanh(action) + 1) / 2
    return jnp.clip(action, low, high)


def has_critic(policy: Policy) -> bool:
    """Whether the policy came with a critic; one that is zero everywhere stands for none."""
    return any(np.any(np.asarray(x)) for x in jax.tree.leaves(policy.params.critic))


def no_critic(obs_size: int) -> dict[str, dict[str, Array]]:
    """The critic that is zero everywhere, of a policy that came without one."""
    return {"layer_0": {"kernel": jnp.zeros((obs_size, 1)), "bias": jnp.zeros(1)}}


def affine_layers(policy: Policy) -> list[Affine]:
    """The actor's layers in order, for the certificates."""
    actor = policy.params.actor
    layers = [actor[f"layer_{i}"] for i in range(len(actor))]
    return [Affine(layer["kernel"].T, layer["bias"]) for layer in layers]


def inverse_std(policy: Policy) -> Array | None:
    """1 / sigma of every action dimension, `[action_size]`; None for a categorical policy."""
    return None if HEADS[policy.distribution].discrete else jnp.exp(-policy.params.log_std)


def _apply(policy: Policy, network: dict[str, dict[str, Array]], x: Array) -> Array:
    widths = [network[f"layer_{i}"]["bias"].shape[-1] for i in range(len(network))]
    return jnp.asarray(
        MLP(widths[:-1], widths[-1], policy.activation).apply({"params": network}, x)
    )
