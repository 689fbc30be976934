"""From what an adversary can do to the actions to what it can do to the return.

Couple the attacked process with the clean one: same noise of the environment, actions that agree
as often as possible. Rewards agree until the actions first differ, and

    J - J~ <= (r_hi - r_lo) sum_t gamma^t P(some action up to t differed).

Total variation bounds that probability, for the *stochastic* policy: two different deterministic
actions have total variation 1, and only "the action cannot change" helps there. All of it holds for
adversaries that remember and randomise too.

The rewards lie in an a-priori range (r_lo, r_hi). An episode that terminates stays where it is with
reward 0 ever after, so 0 must be in the range if episodes can terminate. NaN stays NaN.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxprune.statistics.concentration import ROUNDING, mean_lower, mean_upper, tail_probability
from jaxprune.types import AnyArray, Array
from jaxprune.validation import InputError

Numbers = float | Array | np.ndarray

# --- from a bound at every state ------------------------------------------------------------------


def value_gap(delta: Numbers, gamma: float, reward_range: tuple[float, float]) -> np.ndarray:
    """V^pi(s) - V^{pi o nu}(s) <= (r_hi - r_lo) delta / ((1 - gamma) (1 - gamma (1 - delta))).

    If TV(pi(.|s), pi(.|s')) <= delta over the ball at every s, some action up to t differed with
    probability at most 1 - (1 - delta)^(t + 1). Attained by a two-state MDP; the constant published
    with SA-MDP is not always enough, see `sa_mdp_published`.

    Args:
        delta: bound on the total variation, in [0, 1].
        gamma: discount in [0, 1).
        reward_range: a-priori (r_lo, r_hi), 0 included if episodes can terminate.

    Raises:
        InputError: delta outside [0, 1], gamma outside [0, 1), or an empty or infinite reward
            range.
    """
    low, high = _check_range(reward_range)
    _check_gamma(gamma)
    return (high - low) / (1 - gamma) * vacuity(delta, gamma)


def vacuity(delta: Numbers, gamma: float) -> np.ndarray:
    """The bound of `value_gap` over the trivial one, (r_hi - r_lo) / (1 - gamma): in [0, 1].

        delta / (1 - gamma (1 - delta))

    Near 1 the certificate says nothing; it says something only if delta << 1 - gamma.
    """
    _check_gamma(gamma)
    delta = _check_delta(delta)
    return delta / (1 - gamma * (1 - delta))


def finite_value_gap(delta: Numbers, horizon: int, reward_range: tuple[float, float]) -> np.ndarray:
    """As `value_gap`, for the undiscounted return of `horizon` steps.

        (r_hi - r_lo) sum_{t < horizon} (1 - (1 - delta)^(t + 1))

    Raises:
        InputError: delta outside [0, 1], horizon < 1, or an empty or infinite reward range.
    """
    low, high = _check_range(reward_range)
    return (high - low) * horizon * finite_vacuity(delta, horizon)


def finite_vacuity(delta: Numbers, horizon: int) -> np.ndarray:
    """The bound of `finite_value_gap` over the trivial one, (r_hi - r_lo) horizon: in [0, 1]."""
    if horizon < 1:
        raise InputError(f"horizon {horizon} is below 1: give the steps of an episode")
    delta = _check_delta(delta)
    differed = total = np.zeros_like(delta)
    for _ in range(horizon):  # the closed form cancels for small delta
        differed = differed + (1 - differed) * delta
        total = total + differed
    return total / horizon


def sa_mdp_published(delta: Numbers, gamma: float, largest_reward: float) -> np.ndarray:
    """2 (1 + gamma / (1 - gamma)^2) max|R| delta: published, for comparison; *not* a certificate.

    Three states exceed it: at g "good" stays and pays 1, "bad" leads to an absorbing b where
    everything pays -1; the policy is certain at g, and takes "bad" with probability delta at an
    unreachable state that g can be taken for. With gamma = 1/2 and delta = 0.01 the gap is
    0.079208, the published bound 0.06. The 1 in it should be 1 / (1 - gamma).

    Source: Zhang et al. 2020 (arXiv 2003.08938), Theorem 5.
    """
    _check_gamma(gamma)
    return 2 * (1 + gamma / (1 - gamma) ** 2) * largest_reward * _check_delta(delta)


# --- from the states of clean episodes ------------------------------------------------------------


class ValueBound(NamedTuple):
    """A bound on the return from sampled episodes, `[...]` each."""

    bound: np.ndarray  # holds with probability >= level over the episodes
    estimate: np.ndarray  # the same without the allowance for chance
    vacuity: np.ndarray  # 0: nothing can be lost; 1: `bound` is the trivial bound


def on_policy_value_gap(
    visited_delta: Numbers, gamma: float, reward_range: tuple[float, float]
) -> np.ndarray:
    """J(pi) - J(pi o nu) <= (r_hi - r_lo) / (1 - gamma)^2 E_{s ~ d^pi} [delta(s)].

    d^pi(s) = (1 - gamma) sum_t gamma^t P(s_t = s) without an adversary. At most the trivial bound.

    Args:
        visited_delta: E[delta(s)], delta(s) the bound on the total variation over the ball at s; or
            an upper confidence bound for it.
        gamma: discount in [0, 1).
        reward_range: a-priori (r_lo, r_hi), 0 included if episodes can terminate.

    Raises:
        InputError: delta outside [0, 1], gamma outside [0, 1), or an empty or infinite reward
            range.
    """
    low, high = _check_range(reward_range)
    _check_gamma(gamma)
    delta = _check_delta(visited_delta)
    return (high - low) / (1 - gamma) * np.minimum(delta / (1 - gamma), 1)


def expected_value_gap(
    differed: np.ndarray, gamma: float | None, reward_range: tuple[float, float]
) -> np.ndarray:
    """J - J~ <= (r_hi - r_lo) sum_t gamma^t min(1, differed_t), `[..., T] -> [...]`.

    With differed_t = sum_{i <= t} E[delta(s_i)] without an adversary (a union bound), or the
    expectation of `differing`. The minimum must stay outside the expectation: dropping actions
    changes which states follow, and E[min(1, sum_{i <= t} delta(s_i))] is *not* a bound.

    Args:
        differed: bounds the probability that some action up to t differed, t < T.
        gamma: discount in [0, 1), beyond T all actions counted as different; None for the
            undiscounted return of T steps.
        reward_range: a-priori (r_lo, r_hi), 0 included if episodes can terminate.

    Raises:
        InputError: gamma outside [0, 1), or an empty or infinite reward range.
    """
    low, high = _check_range(reward_range)
    steps = np.shape(differed)[-1]
    weights = _weights(gamma, steps)
    return (high - low) * (np.minimum(differed, 1) @ weights[:steps] + weights[steps:].sum())


def differing(delta: np.ndarray) -> np.ndarray:
    """Of one episode each, `[..., T]`: the mean bounds P(some action up to t differed).

        C_t = sum_{i <= t} delta(s_i),  tau = min {t: C_t >= 1},
        C_t before tau,  C_{tau - 1} + 1 from tau on

    Either the actions differed before tau, or the clean episode reached tau: any stopping time
    would do. Unlike C_t it stays below 2, and unlike min(1, C_t) it is a bound.
    """
    total = np.cumsum(delta, axis=-1)
    stopped = total >= 1
    return np.maximum.accumulate(np.where(stopped, 0.0, total), axis=-1) + stopped


def sampled_value_gap(
    delta: np.ndarray,
    lengths: np.ndarray | None = None,
    *,
    gamma: float | None,
    reward_range: tuple[float, float],
    level: float = 0.95,
    method: str = "bernstein",
    comparisons: int = 1,
    cut: int | None = None,
) -> ValueBound:
    """A bound on J(pi) - J(pi o nu) from clean episodes of the *stochastic* policy.

    The mean over the episodes of

        (r_hi - r_lo) sum_{t < T} gamma^t differing_t

    with its confidence width; beyond T an unfinished episode counts as different. `estimate` has
    the tight sum_t gamma^t min(1, mean of differing_t).

    Args:
        delta: bounds on the total variation over the ball at the visited true states,
            `[..., episodes, T]`; what lies beyond the end of an episode is not read.
        lengths: steps of every episode, int `[..., episodes]`, broadcasts; fewer than T: it
            terminated. None: all have T.
        gamma: discount in [0, 1); None for the undiscounted return of T steps.
        reward_range: a-priori (r_lo, r_hi), 0 included if episodes can terminate.
        level: of the statement; of all of them together if there are `comparisons`.
        method: see `jaxprune.statistics.concentration.mean_upper`.
        comparisons: how many such statements (policies, radii) are to hold at once.
        cut: from this step on count actions as different. Tighter if they probably are; choose it
            before seeing the episodes.

    Returns:
        `ValueBound` of `[...]`; `vacuity` is over (r_hi - r_lo) sum_t gamma^t.

    Raises:
        InputError: delta outside [0, 1], gamma outside [0, 1), an empty or infinite reward range or
            one without 0 although an episode terminated, lengths that do not fit, fewer than two
            episodes, or what `mean_upper` refuses.
    """
    low, high = _check_range(reward_range)
    alive = _alive(lengths, np.shape(delta), (low, high))
    weights = _weights(gamma, alive.shape[-1])
    delta = _check_delta(np.where(alive, delta, 0))
    if gamma is not None:
        delta = _append(delta, alive[..., -1])
    differed = differing(delta)
    counted = weights * (np.arange(weights.size) < (weights.size if cut is None else cut))
    # After step t at most t + 1 actions, and never 2.
    most = float(counted @ np.minimum(1 + np.arange(weights.size), 2))
    samples = differed @ counted
    upper = mean_upper(samples, (0.0, most), level, method=method, comparisons=comparisons)
    trivial = weights.sum()
    share = np.minimum((upper + (weights - counted).sum()) / trivial, 1)
    estimate = np.minimum(differed.mean(axis=-2), 1) @ weights
    return ValueBound((high - low) * trivial * share, (high - low) * estimate, share)


def certified_return(
    rewards: np.ndarray,
    fixed: np.ndarray,
    lengths: np.ndarray | None = None,
    *,
    gamma: float | None,
    reward_range: tuple[float, float],
    level: float = 0.95,
    method: str = "bernstein",
    comparisons: int = 1,
) -> ValueBound:
    """A lower bound on J(pi o nu) from clean episodes of the *deterministic* policy.

        E [sum_{t < tau} gamma^t r_t + sum_{t >= tau} gamma^t r_lo]

    tau is the first step at whose state the action could change: up to there every attacked
    episode is the clean one.

    Args:
        rewards: of the clean episodes, `[..., episodes, T]`; what lies beyond the end of an episode
            is not read.
        fixed: bool, same shape: no observation in the ball changes the action, as in
            `Certificate.fixed_action`.
        lengths: steps of every episode, int `[..., episodes]`, broadcasts; fewer than T: it
            terminated. None: all have T.
        gamma: discount in [0, 1), beyond T all actions counted as different; None for the
            undiscounted return of T steps.
        reward_range: a-priori (r_lo, r_hi), 0 included if episodes can terminate.
        level: of the statement; of all of them together if there are `comparisons`.
        method: see `jaxprune.statistics.concentration.mean_lower`.
        comparisons: how many such statements (policies, radii) are to hold at once.

    Returns:
        `ValueBound` of `[...]`; `vacuity` is how far the bound is from the best conceivable return,
        1 at the worst.

    Raises:
        InputError: rewards outside their range, gamma outside [0, 1), an empty or infinite reward
            range or one without 0 although an episode terminated, shapes or lengths that do not
            fit, fewer than two episodes, or what `mean_lower` refuses.
    """
    low, high = _check_range(reward_range)
    alive = _alive(lengths, np.shape(rewards), (low, high))
    if np.shape(fixed) != alive.shape:
        raise InputError(
            f"fixed has shape {np.shape(fixed)}, but rewards {alive.shape}: give one flag per step"
        )
    weights = _weights(gamma, alive.shape[-1])
    earned = np.where(alive, rewards, 0).astype(float)
    margin = ROUNDING * max(abs(low), abs(high))
    outside = alive & (np.less(earned, low - margin) | np.greater(earned, high + margin))
    if np.any(outside):
        raise InputError(
            f"a reward of {earned[outside][0]:g} is outside the reward range ({low:g}, {high:g}): "
            "give a range that all rewards are known to lie in, or clip them"
        )
    earned, safe = np.clip(earned, low, high), np.asarray(fixed, bool) | ~alive
    if gamma is not None:
        earned, safe = _append(earned, 0.0), _append(safe, ~alive[..., -1])
    kept = np.where(np.logical_and.accumulate(safe, axis=-1), earned, low) @ weights
    worst, best = low * weights.sum(), high * weights.sum()
    bound = mean_lower(kept, (worst, best), level, method=method, comparisons=comparisons)
    lost = (best - bound) / (best - worst) if best > worst else np.zeros_like(bound)
    return ValueBound(bound, kept.mean(axis=-1), lost)


def attacked_return(
    returns: np.ndarray,
    gap: Callable[[float], np.ndarray],
    *,
    gamma: float,
    horizon: int,
    reward_range: tuple[float, float],
    level: float = 0.95,
    method: str = "bernstein",
    comparisons: int = 1,
) -> np.ndarray:
    """A lower bound on J(pi o nu) from clean episodes and a bound on J(pi) - J(pi o nu), `[...]`.

            J~ >= low - gap  where J >= low and J - J~ <= gap, each but for half of 1 - level

    The mean of the returns is no bound on J: less any gap, it is above J~ in up to half of all
    repetitions.

    Args:
        returns: discounted, of the clean episodes, `[..., episodes]`.
        gap: level -> what J~ is below J at most with that probability, `[...]`.
        gamma: discount in [0, 1).
        horizon: most steps of an episode.
        reward_range: a-priori (r_lo, r_hi) of every reward.
        level: of the statement; of all of them together if there are `comparisons`.
        method: see `jaxprune.statistics.concentration.mean_lower`.
        comparisons: how many such statements (bounds, policies) are to hold at once.

    Raises:
        InputError: gamma outside [0, 1), an empty or infinite reward range, or what `mean_lower`
            refuses.
    """
    _check_gamma(gamma)
    low, high = _check_range(reward_range)
    weight = (1 - gamma**horizon) / (1 - gamma)
    limits = min(low, 0.0) * weight, max(high, 0.0) * weight  # it can end, and earn 0 from then on
    both = 1 - tail_probability(level, 2 * comparisons)
    clean = mean_lower(np.clip(returns, *limits), limits, both, method=method)  # float32 figures
    return np.maximum(clean - gap(both), limits[0])


# --- shared ---------------------------------------------------------------------------------------


def _weights(gamma: float | None, steps: int) -> np.ndarray:
    """gamma^t for t < steps, then all that is beyond, `[steps + 1]`; ones `[steps]` for None."""
    if gamma is None:
        return np.ones(steps)
    _check_gamma(gamma)
    weights = float(gamma) ** np.arange(steps + 1)
    weights[-1] /= 1 - gamma
    return weights


def _append(values: np.ndarray, last: AnyArray) -> np.ndarray:
    """One more step, `[..., T] -> [..., T + 1]`."""
    last = np.broadcast_to(np.asarray(last, values.dtype), values.shape[:-1])
    return np.concatenate([values, last[..., None]], axis=-1)


def _alive(
    lengths: np.ndarray | None, shape: tuple[int, ...], reward_range: tuple[float, float] | None
) -> np.ndarray:
    """Which steps were taken, bool `[..., episodes, T]`."""
    if len(shape) < 2 or shape[-1] < 1:
        raise InputError(f"steps of shape {shape}: give [..., episodes, T] with T of at least 1")
    if lengths is None:
        return np.ones(shape, bool)
    try:
        lengths, steps = np.broadcast_to(lengths, shape[:-1]), shape[-1]
    except ValueError:
        raise InputError(
            f"lengths of shape {np.shape(lengths)} do not fit steps {shape}: give one per episode"
        ) from None
    if np.any(lengths < 1) or np.any(lengths > steps):
        raise InputError(
            f"lengths from {lengths.min()} to {lengths.max()}: an episode has 1 to {steps} steps"
        )
    if reward_range is not None and np.any(lengths < steps):
        low, high = reward_range
        if not low <= 0 <= high:
            raise InputError(
                f"episodes terminated, and 0 is outside the reward range ({low}, {high}): "
                "extend it to 0, which is what they earn from then on"
            )
    return np.arange(steps) < lengths[..., None]


def _check_gamma(gamma: float) -> None:
    if not 0 <= gamma < 1:
        raise InputError(f"gamma {gamma} is outside [0, 1): the discounted bound needs gamma < 1")


def _check_delta(delta: AnyArray) -> np.ndarray:
    delta = np.asarray(delta, float)
    if np.any((delta < 0) | (delta > 1)):
        worst = delta.ravel()[np.nanargmax(np.abs(delta - 0.5))]
        raise InputError(f"delta {worst:g} is outside [0, 1]: give a bound on the total variation")
    return delta


def _check_range(reward_range: tuple[float, float] | None) -> tuple[float, float]:
    low, high = (float("-inf"), float("inf")) if reward_range is None else reward_range
    if not float("-inf") < low <= high < float("inf"):
        raise InputError(
            f"reward range ({low}, {high}) is not a finite interval: a value certificate needs "
            "a-priori reward bounds low <= high"
        )
    return low, high
