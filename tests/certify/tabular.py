"""Small state-adversarial MDPs, all of them finite, and their strongest adversaries, exactly.

At state s the adversary shows one of the states in the ball of s, and the policy acts on what it is
shown. The policy is fixed, so the adversary faces an MDP of its own, whose actions are the states
it may show: dynamic programming solves it, and no memory or randomness does better.

All functions work on one problem or on many, with leading axes `[...]`.
"""

from typing import NamedTuple

import numpy as np


class Tabular(NamedTuple):
    """State-adversarial MDPs with a stochastic policy."""

    transition: np.ndarray  # [..., S, A, S]
    reward: np.ndarray  # [..., S, A, S]
    policy: np.ndarray  # [..., S, A], pi(. | shown state)
    ball: np.ndarray  # bool [..., S, S], ball[s, o]: the adversary may show o at s


def discounted_values(mdp: Tabular, gamma: float, shown: np.ndarray | None = None) -> np.ndarray:
    """V of the policy that is shown `shown[s]` at s, by a linear solve, `[..., S]`.

    `shown` is int `[..., S]`; None for the truth.
    """
    acting = mdp.policy if shown is None else _acting(mdp, shown)
    transition = np.einsum("...sa,...sat->...st", acting, mdp.transition)
    reward = np.einsum("...sa,...sat,...sat->...s", acting, mdp.transition, mdp.reward)
    system = np.eye(transition.shape[-1]) - gamma * transition
    return np.linalg.solve(system, reward[..., None])[..., 0]


def worst_adversary(mdp: Tabular, gamma: float) -> tuple[np.ndarray, np.ndarray]:
    """(V, shown) of the strongest adversary, by policy iteration, `[..., S]` each."""
    shown = np.broadcast_to(np.arange(mdp.ball.shape[-1]), mdp.ball.shape[:-1])
    while True:
        values = discounted_values(mdp, gamma, shown)
        attacked = attacked_values(mdp, gamma * values)
        current = np.take_along_axis(attacked, shown[..., None], axis=-1)[..., 0]
        better = attacked.min(axis=-1) < current - 1e-10  # beyond the rounding of the solve
        if not better.any():
            return values, shown
        shown = np.where(better, attacked.argmin(axis=-1), shown)


def finite_values(mdp: Tabular, horizon: int, *, attacked: bool) -> np.ndarray:
    """V of so many undiscounted steps, with no or the strongest adversary, `[..., S]`."""
    values = np.zeros(mdp.ball.shape[:-1])
    for _ in range(horizon):
        if attacked:
            values = attacked_values(mdp, values).min(axis=-1)
        else:
            values = np.einsum("...sa,...sa->...s", mdp.policy, action_values(mdp, values))
    return values


def action_values(mdp: Tabular, after: np.ndarray) -> np.ndarray:
    """r plus what is expected `after` the step, `[..., S] -> [..., S, A]`."""
    return np.einsum("...sat,...sat->...sa", mdp.transition, mdp.reward + _rows(after))


def attacked_values(mdp: Tabular, after: np.ndarray) -> np.ndarray:
    """The same by what is shown, `[..., S, S]`; inf for what may not be shown."""
    by_shown = np.einsum("...sa,...oa->...so", action_values(mdp, after), mdp.policy)
    return np.where(mdp.ball, by_shown, np.inf)


def local_tv(mdp: Tabular) -> np.ndarray:
    """delta(s): the largest total variation over the ball of s, `[..., S]`."""
    apart = 0.5 * np.abs(mdp.policy[..., :, None, :] - mdp.policy[..., None, :, :]).sum(axis=-1)
    return np.where(mdp.ball, apart, 0).max(axis=-1)


def visits(mdp: Tabular, start: int, steps: int) -> np.ndarray:
    """P(s_t = s) without an adversary, t < steps, `[..., steps, S]`."""
    transition = np.einsum("...sa,...sat->...st", mdp.policy, mdp.transition)
    now = np.broadcast_to(np.eye(mdp.ball.shape[-1])[start], mdp.ball.shape[:-1])
    seen = []
    for _ in range(steps):
        seen.append(now)
        now = np.einsum("...s,...st->...t", now, transition)
    return np.stack(seen, axis=-2)


class Play(NamedTuple):
    """Sampled episodes."""

    states: np.ndarray  # int [..., episodes, steps]
    rewards: np.ndarray  # [..., episodes, steps]


def play(
    mdp: Tabular,
    start: int,
    episodes: int,
    steps: int,
    rng: np.random.Generator,
    shown: np.ndarray | None = None,
) -> Play:
    """Episodes of the policy that is shown `shown[s]` at s; None for the truth."""
    axes = mdp.ball.shape[:-2]
    acting = mdp.policy if shown is None else _acting(mdp, shown)
    at = np.full((*axes, episodes), start)
    batch = np.indices((*axes, episodes), sparse=True)[:-1]  # which problem
    seen, rewards = [], []
    for _ in range(steps):
        action = _draw(rng, acting[(*batch, at)])
        after = _draw(rng, mdp.transition[(*batch, at, action)])
        seen.append(at)
        rewards.append(mdp.reward[(*batch, at, action, after)])
        at = after
    return Play(np.stack(seen, axis=-1), np.stack(rewards, axis=-1))


def random_mdps(
    rng: np.random.Generator,
    count: int,
    states: int,
    actions: int,
    *,
    deterministic: bool = False,
    ends: bool = False,
) -> Tabular:
    """So many problems, `[count]`, with rewards in [-1, 1].

    Policies are from nearly constant to nearly deterministic; or, like the transitions,
    `deterministic`. If it `ends`, the last state is where episodes stop: nothing leaves it, pays
    there or can be shown there.
    """
    if deterministic:
        transition = np.eye(states)[rng.integers(0, states, (count, states, actions))]
        # Most states share an action, so that some cannot be made to act differently.
        usual = rng.integers(0, actions, (count, 1))
        chosen = rng.integers(0, actions, (count, states))
        policy = np.eye(actions)[np.where(rng.random((count, states)) < 0.7, usual, chosen)]
    else:
        transition = rng.dirichlet(np.full(states, 0.3), (count, states, actions))
        base = rng.dirichlet(np.ones(actions), (count, 1))
        mix = 10 ** rng.uniform(-3, 0, (count, 1, 1))
        policy = (1 - mix) * base + mix * rng.dirichlet(np.full(actions, 0.3), (count, states))
    reward = rng.uniform(-1, 1, (count, states, actions, states))
    ball = (rng.random((count, states, states)) < 0.5) | np.eye(states, dtype=bool)
    if ends:
        transition[:, -1] = np.eye(states)[-1]
        reward[:, -1] = 0
        ball[:, -1] = np.eye(states, dtype=bool)[-1]
    return Tabular(transition, reward, policy, ball)


def many_random_mdps(seed: int, count: int, **kind: bool) -> list[Tabular]:
    """So many problems in all, 3 to 6 states and 2 or 3 actions, by size."""
    rng = np.random.default_rng(seed)
    sizes = [(states, actions) for states in (3, 4, 5, 6) for actions in (2, 3)]
    return [random_mdps(rng, -(-count // len(sizes)), *size, **kind) for size in sizes]


def three_states(delta: float) -> Tabular:
    """certificates.md 1.1: good g, absorbing bad b, and an unreachable s^ that g can be taken for.

    At g "good" stays and pays 1, "bad" leads to b; everything about b pays -1. The policy is
    certain at g and takes "bad" with probability delta at s^.
    """
    transition = np.zeros((3, 2, 3))
    transition[0, 0, 0] = transition[0, 1, 1] = 1
    transition[1, :, 1] = transition[2, :, 1] = 1
    reward = np.full((3, 2, 3), -1.0)
    reward[0, 0, 0] = 1
    policy = np.array([[1, 0], [1, 0], [1 - delta, delta]])
    ball = np.eye(3, dtype=bool)
    ball[0, 2] = True
    return Tabular(transition, reward, policy, ball)


def crossroads() -> Tabular:
    """The adversary chooses the way, and the way decides what it can do next.

    At 0 action 0 pays 1 and leads to 1, action 1 pays 0 and leads to 2. At 1 everything pays 1; at
    2 action 0 does. Then it is over (3). The policy tosses a coin at 0, takes action 0 at 1 and 2;
    it can be made to take action 1 at 0 (delta 1/2) and at 2 (delta 1), not at 1.
    """
    transition, reward = np.zeros((4, 2, 4)), np.zeros((4, 2, 4))
    transition[0, 0, 1] = transition[0, 1, 2] = 1
    transition[1:, :, 3] = 1
    reward[0, 0], reward[1], reward[2, 0] = 1, 1, 1
    policy = np.array([[0.5, 0.5], [1, 0], [1, 0], [0, 1]])
    ball = np.eye(4, dtype=bool)
    ball[0, 3] = ball[2, 3] = True
    return Tabular(transition, reward, policy, ball)


def neighbours(mdp: Tabular, rng: np.random.Generator, count: int) -> Tabular:
    """So many random problems near this one, `[count]`, where bounds are nearly attained."""
    share = 10 ** rng.uniform(-4, -1, (2, count, 1, 1))
    noise = [rng.dirichlet(np.ones(x.shape[-1]), (count, *x.shape[:-1])) for x in mdp[::2]]
    transition = (1 - share[0, ..., None]) * mdp.transition + share[0, ..., None] * noise[0]
    policy = (1 - share[1]) * mdp.policy + share[1] * noise[1]
    return Tabular(
        transition,
        np.broadcast_to(mdp.reward, (count, *mdp.reward.shape)),
        policy,
        np.broadcast_to(mdp.ball, (count, *mdp.ball.shape)),
    )


def _acting(mdp: Tabular, shown: np.ndarray) -> np.ndarray:
    """pi(. | shown[s]), `[..., S, A]`."""
    return np.take_along_axis(mdp.policy, shown[..., None], axis=-2)


def _rows(values: np.ndarray) -> np.ndarray:
    """`[..., S]` as values of the next state, `[..., 1, 1, S]`."""
    return values[..., None, None, :]


def _draw(rng: np.random.Generator, probability: np.ndarray) -> np.ndarray:
    """An index along the last axis of `[..., n]`."""
    edges = np.cumsum(probability, axis=-1)[..., :-1]
    return (rng.random((*probability.shape[:-1], 1)) >= edges).sum(axis=-1)
