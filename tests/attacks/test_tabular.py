"""Learned adversaries reach the exact optimum of small tasks, and no attack goes beyond it.

The task has four states on a line. A linear policy with three actions looks at the line, so that
the actions to which a state can be moved are read off a fine grid of its ball; dynamic programming
over these is the strongest adversary there is. What is greedy is wrong in it:

* at the fork the largest KL and the lowest reward lead to a place where nothing can be attacked;
  the move that pays the victim most leads to the swamp, where it can be made to earn 0 for ever;
* at the far state the attack that costs the victim most now lets it earn more later.
"""

from dataclasses import dataclass
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.attacks import (
    ATTACKS,
    AdversaryConfig,
    AttackConfig,
    MADConfig,
    SarsaConfig,
    SearchConfig,
    SelectionConfig,
    Victims,
)
from jaxprune.cells import Cell
from jaxprune.evaluation.episodes import EpisodeSet
from jaxprune.evaluation.evaluator import Evaluator
from jaxprune.policy import init_policy
from jaxprune.rollout import Play
from jaxprune.types import Array, EnvState, Key, Policy, TimeStep
from tests.probes import Drift, probe_spec

FORK, DETOUR, SWAMP, FAR = range(4)
PLACE = np.array([0.05, 2.5, 1.4, -1.7], np.float32)
NEXT = np.array([[SWAMP, FORK, DETOUR], [FORK] * 3, [FORK, SWAMP, FORK], [FORK, DETOUR, FORK]])
REWARD = np.array([[1.2, 1.0, 0.5], [1.0] * 3, [1.0, 0.0, 1.0], [1.0, 0.2, 1.0]], np.float32)
EPS = 1.2
HORIZON = 12
EPISODES = 24


@dataclass(frozen=True)
class Line:
    """The four states; an episode starts in any of them and is cut after so many steps."""

    spec = probe_spec(
        "line",
        horizon=HORIZON,
        action_size=3,
        discrete=True,
        eps=EPS,
        reward_range=(0.0, 1.2),
    )

    def reset(self, key: Key) -> tuple[EnvState, Array]:
        state = jax.random.randint(key, (), 0, len(PLACE))
        return EnvState(state, jnp.int32(0)), jnp.asarray(PLACE)[state, None]

    def step(self, state: EnvState, action: Array) -> tuple[EnvState, TimeStep]:
        after, time = jnp.asarray(NEXT)[state.physics, action], state.time + 1
        return EnvState(after, time), TimeStep(
            jnp.asarray(PLACE)[after, None],
            jnp.asarray(REWARD)[state.physics, action],
            terminated=jnp.bool_(False),
            truncated=time >= HORIZON,
        )


@cache
def line_policy() -> Policy:
    """Action 0 below -1, action 2 above 1, action 1 in between."""
    policy = init_policy(jax.random.key(0), 1, 3, discrete=True, hidden=())
    layer = policy.params.actor["layer_0"]
    layer["kernel"] = jnp.array([[-2.0, 0.0, 2.0]])
    layer["bias"] = jnp.array([-2.0, 0.0, -2.0])
    return policy


def line_actions(x: np.ndarray) -> np.ndarray:
    """What that policy does, by the definition."""
    return np.digitize(x, [-1.0, 1.0])


def optimal_returns() -> np.ndarray:
    """The undiscounted return of the strongest adversary from every state, `[4]`."""
    around = PLACE[:, None] + np.linspace(-EPS, EPS, 20_001)
    reachable = np.array([np.isin(range(3), line_actions(x)) for x in around])
    values = np.zeros(len(PLACE))
    for _ in range(HORIZON):
        values = np.where(reachable, REWARD + values[NEXT], np.inf).min(axis=1)
    return values


def clean_returns() -> np.ndarray:
    """The same without an adversary, `[4]`."""
    values, states = np.zeros(len(PLACE)), np.arange(len(PLACE))
    action = line_actions(PLACE)
    for _ in range(HORIZON):
        values = REWARD[states, action] + values[NEXT[states, action]]
    return values


# So small that all attacks can be tried, but for the adversaries, which are to learn. All members
# play all rounds of the choice, which then have one shape.
CONFIG = AttackConfig(
    selection=SelectionConfig(episodes=4, finalists=32, final_episodes=4),
    mad=MADConfig(steps=3, restarts=16),
    search=SearchConfig(queries=16, generations=2),
    rs=SarsaConfig(
        steps=2_048, num_envs=16, epochs=1, batch=64, radii=(0.1,), weights=(1.0,), rounds=2
    ),
    adversary=AdversaryConfig(
        steps=60_000,
        num_envs=16,
        unroll=32,
        epochs=4,
        minibatches=4,
        learning_rates=(3e-3,),
        log_stds=(-0.5, 0.5),
    ),
)
# One program plays them; a choice among members has other shapes, and a program of its own.
ALLOWED = tuple(name for name, kind in ATTACKS.items() if "continuous" not in kind.needs)
FIRST = Play(
    np.bool_(False), np.float32(0), np.float32(0.99), np.zeros((EPISODES, 1), np.int32)
)  # keeps the first observation of an episode


def one(policy: Policy) -> tuple[Policy, Cell]:
    """The population of this policy alone."""
    return jax.tree.map(lambda x: np.asarray(x)[None], policy), Cell(np.zeros(1, np.int32), None)


@cache
def on_the_line(name: str) -> tuple[np.ndarray, np.ndarray]:
    """(first states, returns) of the linear policy under an attack, `[EPISODES]` each.

    As `evaluate`, which chooses the member on other episodes.
    """
    policies, cells = one(line_policy())
    other = jax.tree.map(lambda x: 0.5 * x, policies)  # whose attack is transferred
    victims = Victims(Line(), policies, cells, EPS, jax.random.key(0), source=other)
    params = Evaluator(Line(), (name,), CONFIG).arm(name, victims, FIRST).params
    episodes = EpisodeSet(jax.random.key(1), FIRST.times)
    result = Evaluator(Line(), ALLOWED, CONFIG).play(name, victims, params, episodes, FIRST)
    return np.argmin(np.abs(result.visited[0, :, 0] - PLACE), axis=1), result.return_[0]


@pytest.mark.parametrize(("name", "at_most"), [("none", 0.0), ("mad", 0.35)])
def test_the_oracle_is_the_task_and_greed_is_not_enough(name, at_most):
    """No attack earns what the table says, and MAD takes a third of what can be taken."""
    optimal, clean = optimal_returns(), clean_returns()
    np.testing.assert_allclose(optimal, [1.2, 2.2, 0.0, 2.2], atol=1e-6)
    start, found = on_the_line(name)
    assert len(np.unique(start)) == len(PLACE)
    taken = (clean[start] - found) / (clean - optimal)[start]
    assert taken[start != SWAMP].max() <= at_most + 1e-6


@pytest.mark.parametrize("name", ["sa_rl", "paad"])
def test_a_learned_adversary_reaches_the_optimum(name):
    """The mean return is within 5 % of the gap between the clean and the optimal one."""
    optimal, clean = optimal_returns(), clean_returns()
    start, found = on_the_line(name)
    gap = (clean - optimal)[start].mean()
    assert found.mean() - optimal[start].mean() < 0.05 * gap


def test_a_learned_adversary_reaches_the_optimum_of_a_continuous_task():
    """The victim steers each coordinate to 0, mu = -x: to be shown x - eps sign(x) is the worst.

    The next |x| grows with |x|, so that this is optimal at every step; to the KL all corners are
    equal.
    """
    eps, steps = 0.5, 10
    policy = init_policy(jax.random.key(0), 2, 2, hidden=())
    policy.params.actor["layer_0"]["kernel"] = -jnp.eye(2)
    victims = Victims(Drift(steps), *one(policy), eps, jax.random.key(0))
    evaluator = Evaluator(Drift(steps), ("sa_rl",), CONFIG)
    params = evaluator.arm("sa_rl", victims, FIRST).params
    episodes = EpisodeSet(jax.random.key(1), FIRST.times)
    result = evaluator.play("sa_rl", victims, params, episodes, FIRST)
    first, found = result.visited[0, :, 0], np.asarray(result.return_[0])

    def returns(radius: float) -> np.ndarray:
        x, total = np.asarray(first), np.zeros(EPISODES)
        for _ in range(steps):
            x = x + 0.1 * np.clip(radius * np.sign(x) - x, -1, 1)
            total = total - np.sum(x**2, axis=-1)
        return total

    optimal = returns(eps)
    assert np.all(found >= optimal - 1e-4)
    assert found.mean() - optimal.mean() < 0.05 * (returns(0.0) - optimal).mean()


@pytest.mark.parametrize("name", ALLOWED)
def test_no_attack_goes_beyond_the_optimum(name):
    start, found = on_the_line(name)
    assert np.all(found >= optimal_returns()[start] - 1e-4)
