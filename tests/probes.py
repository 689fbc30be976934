"""Probe environments: tasks so small that returns and values can be computed by hand.

After Andy Jones, "Debugging RL, without the agonizing pain": each probe isolates one thing that a
learner must get right, so that the first probe that fails names the part that is broken.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxprune.envs import EnvSpec
from jaxprune.envs.base import conclude
from jaxprune.types import Array, EnvState, Key, TimeStep


def probe_spec(name: str, horizon: int, **changes) -> EnvSpec:
    """One observation, one continuous action, unless `changes` says otherwise."""
    facts = {"obs_size": 1, "action_size": 1, "discrete": False, "eps": 0.1, "reward_range": None}
    facts |= {"backend": "analytic", "reward_clip": changes.get("reward_range") or (-1.0, 1.0)}
    return EnvSpec(name=name, horizon=horizon, **{**facts, **changes})


def random_sign(key: Key) -> Array:
    """-1 or 1 with equal probability, `[1]`."""
    return jax.random.rademacher(key, (1,), jnp.float32)


def last_step(state: EnvState, reward: Array, obs: Array) -> tuple[EnvState, TimeStep]:
    """The step after which the task terminates."""
    return EnvState(obs, state.time + 1), TimeStep(
        obs, reward, terminated=jnp.bool_(True), truncated=jnp.bool_(False)
    )


class OneState:
    """A task with one initial state, observed as 0."""

    def reset(self, key: Key) -> tuple[EnvState, Array]:
        del key  # there is one initial state
        return EnvState(jnp.zeros(1), jnp.int32(0)), jnp.zeros(1)


class TwoStates:
    """A task with two initial states, observed as -1 or 1."""

    def reset(self, key: Key) -> tuple[EnvState, Array]:
        obs = random_sign(key)
        return EnvState(obs, jnp.int32(0)), obs


class ConstantReward(OneState):
    """One step, reward 1: V = 1."""

    spec = probe_spec("constant_reward", horizon=1, reward_range=(0.0, 1.0))

    def step(self, state: EnvState, action: Array) -> tuple[EnvState, TimeStep]:
        del action  # nothing to decide
        return last_step(state, jnp.float32(1.0), jnp.zeros(1))


class ObservationReward(TwoStates):
    """One step, the reward is the observation, -1 or 1: V(x) = x."""

    spec = probe_spec("observation_reward", horizon=1, reward_range=(-1.0, 1.0))

    def step(self, state: EnvState, action: Array) -> tuple[EnvState, TimeStep]:
        del action  # nothing to decide
        return last_step(state, state.physics[0], state.physics)


class DelayedReward(OneState):
    """Observations 0, 1, 2; reward 1 at the second step, which terminates: V(0) = gamma, V(1) = 1.

    The terminal observation 2 tells a pre-reset observation from one after the reset.
    """

    spec = probe_spec("delayed_reward", horizon=2, reward_range=(0.0, 1.0))

    def step(self, state: EnvState, action: Array) -> tuple[EnvState, TimeStep]:
        del action  # nothing to decide
        obs, time = state.physics + 1, state.time + 1
        last = time == 2
        return EnvState(obs, time), TimeStep(obs, last.astype(jnp.float32), last, jnp.bool_(False))


class ContinuousAction(TwoStates):
    """One step, observation x is -1 or 1, reward -(a - x / 2)^2: the best action is x / 2."""

    spec = probe_spec("continuous_action", horizon=1)

    def step(self, state: EnvState, action: Array) -> tuple[EnvState, TimeStep]:
        reward = -((action[0] - state.physics[0] / 2) ** 2)
        return last_step(state, reward, state.physics)


class DiscreteAction(TwoStates):
    """One step, three actions; reward 1 for action 2 at observation 1 and action 0 at -1."""

    spec = probe_spec(
        "discrete_action", horizon=1, action_size=3, discrete=True, reward_range=(0.0, 1.0)
    )

    def step(self, state: EnvState, action: Array) -> tuple[EnvState, TimeStep]:
        reward = (action == state.physics[0].astype(jnp.int32) + 1).astype(jnp.float32)
        return last_step(state, reward, state.physics)


@dataclass(frozen=True)
class Treadmill:
    """Reward 1 and the same observation at each of `length` steps; then the episode is cut or over.

    Nothing but the flag distinguishes the two endings. Cut by the time limit, the walk would have
    gone on for ever: V = 1 / (1 - gamma). Over, V is what the remaining steps earn.
    """

    terminates: bool
    length: int = 4
    obs: float = 1.0

    @property
    def spec(self) -> EnvSpec:
        return probe_spec("treadmill", horizon=self.length, reward_range=(0.0, 1.0))

    def reset(self, key: Key) -> tuple[EnvState, Array]:
        del key  # there is one initial state
        obs = jnp.full(1, self.obs)
        return EnvState(obs, jnp.int32(0)), obs

    def step(self, state: EnvState, action: Array) -> tuple[EnvState, TimeStep]:
        del action  # nothing to decide
        time = state.time + 1
        last, terminates = time >= self.length, jnp.bool_(self.terminates)
        return EnvState(state.physics, time), TimeStep(
            state.physics, jnp.float32(1.0), last & terminates, last & ~terminates
        )


@dataclass(frozen=True)
class Drift:
    """The state moves by the action: obs' = obs + 0.1 clip(a), reward -obs'^2, a time limit.

    Two observations from N(0, 1), two actions: enough to tell settings and attacks apart.
    """

    length: int = 5

    @property
    def spec(self) -> EnvSpec:
        return probe_spec("drift", horizon=self.length, obs_size=2, action_size=2)

    def reset(self, key: Key) -> tuple[EnvState, Array]:
        obs = jax.random.normal(key, (2,))
        return EnvState(obs, jnp.int32(0)), obs

    def step(self, state: EnvState, action: Array) -> tuple[EnvState, TimeStep]:
        obs = state.physics + 0.1 * jnp.clip(action, -1.0, 1.0)
        time = state.time + 1
        return EnvState(obs, time), TimeStep(
            obs, -jnp.sum(obs**2), terminated=jnp.bool_(False), truncated=time >= self.length
        )


@dataclass(frozen=True)
class Wander:
    """Four observations that three actions, or a choice of three, push about.

    obs' = 0.9 obs + 0.1 push, reward 1 - |obs'|^2 / 4, a time limit. For everything that must work
    for both heads alike.
    """

    discrete: bool = False
    length: int = 6

    @property
    def spec(self) -> EnvSpec:
        name = "wander_choice" if self.discrete else "wander"
        return probe_spec(name, self.length, obs_size=4, action_size=3, discrete=self.discrete)

    def reset(self, key: Key) -> tuple[EnvState, Array]:
        obs = jax.random.normal(key, (4,))
        return EnvState(obs, jnp.int32(0)), obs

    def step(self, state: EnvState, action: Array) -> tuple[EnvState, TimeStep]:
        push = jax.nn.one_hot(action, 3) if self.discrete else jnp.clip(action, -1.0, 1.0)
        obs = 0.9 * state.physics + 0.1 * jnp.append(push, -push.sum())
        time = state.time + 1
        reward = 1 - jnp.sum(obs**2) / 4
        return EnvState(obs, time), TimeStep(
            obs, reward, terminated=jnp.bool_(False), truncated=time >= self.length
        )


WHERE = ("obs", "reward")


@dataclass(frozen=True)
class Breakdown(TwoStates):
    """Observation 1, and reward 1 a step up to a time limit; every other simulator breaks before.

    Those whose first observation is -1 do, at step `at`: `broken` takes the place of the reward or
    the observation, and the state is lost too. Their return is what the steps before it earned.
    """

    where: str = "obs"
    broken: float = float("nan")
    at: int = 3
    length: int = 5

    @property
    def spec(self) -> EnvSpec:
        return probe_spec("breakdown", horizon=self.length, reward_range=(0.0, 1.0))

    def step(self, state: EnvState, action: Array) -> tuple[EnvState, TimeStep]:
        del action  # nothing to decide
        time = state.time + 1
        breaks = (state.physics[0] < 0) & (time >= self.at)
        obs, reward = (jnp.where(breaks & (self.where == x), self.broken, 1.0) for x in WHERE)
        state = EnvState(jnp.where(breaks, jnp.nan, state.physics), time)
        return state, conclude(self.spec, time, obs[None], reward, False)


# Breakdown is not among them: its states do not stay finite.
PROBES = [
    ConstantReward(),
    ObservationReward(),
    DelayedReward(),
    ContinuousAction(),
    DiscreteAction(),
    Treadmill(terminates=True),
    Treadmill(terminates=False),
    Drift(),
    Wander(),
    Wander(discrete=True),
]
