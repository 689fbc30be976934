"""Training regimes: what a way of training adds to PPO. Plain PPO adds nothing.

All that have a surrogate of their own minimise one loss (without critic and entropy),

    L = -w_clean E[psi(rho(s))] + w_robust E[defence]

in which psi is PPO's clipped surrogate. A regime may also change what the actor sees in rollouts,
and the kernels after each of Adam's steps. What it adds is compiled; its settings are traced, so
that every agent has its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from jaxprune.losses import Hyper, Sample
from jaxprune.ppo import opponent, surrogates, worst_critic
from jaxprune.ppo.robust import REGULARISERS, STEPS, perturbed
from jaxprune.ppo.surrogates import Ball, Defence
from jaxprune.types import Array, Key, Policy

if TYPE_CHECKING:
    from jaxprune.ppo.learner import PPOConfig

# (key, policy, obs_norm [obs_size], eps []) -> what the actor sees in a rollout, [obs_size]
Disturb: TypeAlias = Callable[[Key, Policy, Array, Array], Array]
# (kernel, learning rate [], hyper) -> the kernel after a step, +0 where it was
Prox: TypeAlias = Callable[[Array, Array, Hyper], Array]
# hyper -> (w_clean, w_robust)
Weights: TypeAlias = Callable[[Hyper], tuple[Array | float, Array | float]]


def mean(values: Array, hyper: Hyper) -> Array:
    """The mean of a minibatch `[B]`."""
    del hyper
    return values.mean()


class Opponent(NamedTuple):
    """An adversary that learns with the agent; its state is part of the learner's."""

    start: Callable[..., Any]  # (learner, key, policy) -> its state
    learn: Callable[..., Any]  # (learner, agent, hyper, directive, eps) -> its state
    disturb: Callable[..., Array]  # (its state, key, policy, obs_norm, eps) -> what the actor sees


class SecondCritic(NamedTuple):
    """A critic that learns from a rollout before the agent does, and moves its advantages."""

    start: Callable[[Policy], Any]  # -> its state, which is part of the learner's
    # (key, learner, agent, hyper, directive, eps, steps [unroll, N]) -> its state
    learn: Callable[..., Any]
    # (its state, policy, hyper, directive, Sample [rows]) -> Sample [rows]
    advise: Callable[..., Sample]


class Additions(NamedTuple):
    """What is compiled into the learner; None adds nothing."""

    defence: Defence | None = None
    weights: Weights = lambda hyper: (1.0, 1.0)
    average: Callable[[Array, Hyper], Array] = mean  # of the defence over a minibatch
    disturb: Disturb | None = None
    prox: Prox | None = None  # of the kernels that pruning may act on
    opponent: Opponent | None = None
    second_critic: SecondCritic | None = None
    row_passes: int = 0  # forward and backward passes of the actor per row and gradient step,
    step_passes: int = 0  # and per env step, beside PPO's
    turns: int = 0  # iterations of PPO by an opponent per iteration of the agent


@dataclass(frozen=True)
class Regime:
    """How agents are trained."""

    adds: Callable[["PPOConfig"], Additions]
    """Static settings -> what is compiled. Regimes that add the same share a program."""
    about: str
    """For people, on one line."""
    needs: tuple[str, ...] = ()
    """Fields of `Hyper` that are its own and have to be above 0, or it is plain PPO."""
    uses: tuple[str, ...] = ()
    """Further ones that may be 0."""

    @property
    def own(self) -> tuple[str, ...]:
        """Settings that are 0 for the agents of all other regimes."""
        return self.needs + self.uses


def ball_at(progress: Array, hyper: Hyper) -> Ball:
    """The ball at `progress` (0 .. 1) of training; its radius grows linearly over `sa_ramp`.

    Source: Zhang et al. 2020 (arXiv 2003.08938), over the first 75 % of training.
    """
    assert hyper.sa_eps is not None  # the task's is in its place by now
    over = hyper.sa_ramp
    grown = jnp.where(over > 0, jnp.minimum(progress / jnp.where(over > 0, over, 1.0), 1.0), 1.0)
    return Ball(hyper.sa_eps * grown, grown)


# --- on the kernels -------------------------------------------------------------------------------


def soft_threshold(kernel: Array, rate: Array, hyper: Hyper) -> Array:
    """The proximal step of rate * l1 * |w|: sign(w) max(|w| - rate * l1, 0).

    A subgradient under Adam never reaches 0 and takes the same step on all weights.

    Source: Parikh and Boyd 2014, "Proximal Algorithms", section 6.5.2.
    """
    return jnp.sign(kernel) * jnp.maximum(jnp.abs(kernel) - rate * hyper.l1, 0.0)


def spectral_limit(kernel: Array, rate: Array, hyper: Hyper) -> Array:
    """The kernel scaled down to a largest singular value of `spectral_norm`, if it is larger.

    The singular value is that of POWER_STEPS steps of power iteration, which is never too large.

    Source: Miyato et al. 2018 (arXiv 1802.05957); as a projection: Gouk et al. 2021 (arXiv
    1804.04368).
    """
    del rate
    most = hyper.spectral_norm
    scale = jnp.minimum(1.0, most / jnp.maximum(largest_singular(kernel), 1e-12))
    return jnp.where(most > 0, scale, 1.0) * kernel


def orthogonal_step(kernel: Array, rate: Array, hyper: Hyper) -> Array:
    """A step of gradient descent on orthogonal ||W^T W - I||_F^2, of the smaller Gram matrix.

        W <- W - c W (W^T W - I),  c = min(4 rate orthogonal, 1 / ||W||_F^2)

    The gradient is 4 W (W^T W - I); within the bound on c no singular value changes its sign.

    Source: Brock et al. 2017 (arXiv 1609.07093), decoupled from Adam as weight decay is.
    """
    wide = kernel.shape[0] < kernel.shape[1]
    w = kernel.T if wide else kernel
    step = jnp.minimum(4 * rate * hyper.orthogonal, 1 / jnp.maximum(jnp.sum(w**2), 1e-12))
    moved = w - step * w @ (w.T @ w - jnp.eye(w.shape[1]))
    return jnp.where(hyper.orthogonal > 0, moved.T if wide else moved, kernel)


POWER_STEPS = 20


def largest_singular(kernel: Array) -> Array:
    """The largest singular value, from below, `[]`."""
    v = jax.random.normal(jax.random.key(0), kernel.shape[1:], kernel.dtype)
    for _ in range(POWER_STEPS):
        v = kernel.T @ (kernel @ v)
        v = v / jnp.maximum(jnp.linalg.norm(v), 1e-12)
    return jnp.linalg.norm(kernel @ v)


# --- the registry ---------------------------------------------------------------------------------


def plain(config: "PPOConfig") -> Additions:
    """Adds nothing."""
    del config
    return Additions()


def sa_ppo(config: "PPOConfig") -> Additions:
    """Adds kappa times the SA regulariser; see `jaxprune.ppo.robust`."""
    return Additions(
        surrogates.divergence(REGULARISERS[config.regulariser]),
        weights=lambda hyper: (1.0, hyper.kappa),
        row_passes=0 if config.regulariser == "convex" else STEPS + 1,
    )


def atla(config: "PPOConfig") -> Additions:
    """SA-PPO against an opponent; see `jaxprune.ppo.opponent`."""
    against = Opponent(opponent.start, opponent.learn, opponent.disturb)
    return sa_ppo(config)._replace(opponent=against, turns=1)


def wocar(config: "PPOConfig") -> Additions:
    """SA-PPO with a critic of the worst case; see `jaxprune.ppo.worst_critic`."""
    added = sa_ppo(config)
    return added._replace(
        second_critic=SecondCritic(worst_critic.start, worst_critic.learn, worst_critic.advise),
        # In each epoch the descent, the value that it ends at, and a step of Q_w; once the box.
        row_passes=added.row_passes + worst_critic.STEPS + 2,
        step_passes=2,
    )


def shares(weight: Array | float) -> tuple[Array | float, Array | float]:
    """1 and `weight` over their sum, so that PPO's gradient keeps its scale."""
    return 1 / (1 + weight), weight / (1 + weight)


def barpo(hyper: Hyper) -> tuple[float, float]:
    """BARPO's clean surrogate is part of its defence."""
    del hyper
    return 0.0, 1.0


REGIMES: dict[str, Regime] = {
    "ppo": Regime(plain, "PPO, the neutral member"),
    "sa_ppo": Regime(sa_ppo, "PPO with the SA regulariser", ("kappa", "sa_eps")),
    "ppo_decay": Regime(plain, "PPO with decoupled weight decay", ("weight_decay",)),
    "noise": Regime(
        lambda config: Additions(disturb=surrogates.uniform),
        "PPO on observations with uniform noise",
        ("sa_eps",),
    ),
    "mad_rollouts": Regime(
        lambda config: Additions(disturb=perturbed, step_passes=STEPS),
        "PPO on observations that the MAD attack chose",
        ("sa_eps",),
    ),
    "l1": Regime(
        lambda config: Additions(prox=soft_threshold),
        "PPO with proximal L1 on the kernels",
        ("l1",),
    ),
    "car": Regime(
        lambda config: Additions(
            surrogates.adversarial,
            lambda hyper: shares(hyper.car_weight),
            surrogates.soft_worst,
            row_passes=STEPS + 1,
        ),
        "CAR-PPO: a surrogate at the observation that is worst for it",
        ("car_weight", "sa_eps"),
        ("car_temperature",),
    ),
    "barpo": Regime(
        lambda config: Additions(
            surrogates.bilevel, barpo, disturb=perturbed, row_passes=STEPS + 2, step_passes=STEPS
        ),
        "BARPO: acts and learns where the policy moves most, guided by the clean surrogate",
        ("sa_eps",),
        ("barpo_weight",),
    ),
    "radial": Regime(
        lambda config: Additions(
            surrogates.certified,
            lambda hyper: (1 - hyper.radial_weight, hyper.radial_weight),
            row_passes=2,
        ),
        "RADIAL-PPO: a surrogate at the certified worst probability ratio",
        ("radial_weight", "sa_eps"),
    ),
    "atla": Regime(
        atla,
        "ATLA-SA-PPO: in turns with an opponent that decides what the agent sees",
        ("adversary_rate", "sa_eps"),
        ("adversary_entropy", "kappa"),
    ),
    "wocar": Regime(
        wocar,
        "WocaR-PPO: advantages of a critic of the worst case, and the SA regulariser",
        ("wocar_weight", "wocar_rate", "sa_eps"),
        ("kappa",),
    ),
    "spectral": Regime(
        lambda config: Additions(prox=spectral_limit),
        "PPO with kernels of limited spectral norm",
        ("spectral_norm",),
    ),
    "orthogonal": Regime(
        lambda config: Additions(prox=orthogonal_step),
        "PPO with kernels that are drawn to orthogonal ones",
        ("orthogonal",),
    ),
}
