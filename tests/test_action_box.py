"""Actions of a policy are clipped as its library clips them, wherever they reach a simulator."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune
from jaxprune.adversarial_mdp import AdversarialMDP
from jaxprune.attacks import make_attack
from jaxprune.envs import Moment
from jaxprune.envs.base import conclude
from jaxprune.policy import action_distribution
from jaxprune.rollout import fresh_workers, rollout
from jaxprune.types import TASK_BOX, ActionBox, EnvState
from jaxprune.validation import InputError
from tests.policies import drawn_policy
from tests.probes import probe_spec

MEAN, STEPS = 5.0, 2
OWN, TASK = ActionBox((-2.0,), (2.0,)), ActionBox((-3.0,), (3.0,))
# What a policy clips to, and what a mean of 5 then is in a task whose box is +-3.
CASES = [(None, 5.0), (OWN, 2.0), (TASK_BOX, 3.0), (ActionBox((-np.inf,), (np.inf,)), 5.0)]


@dataclass(frozen=True)
class Toll:
    """Every step shows 0 and earns what `reward` says of the action as it was given."""

    reward: Callable = lambda action: action
    box: ActionBox | None = TASK

    @property
    def spec(self):
        return probe_spec("toll", horizon=STEPS, action_box=self.box)

    def reset(self, key):
        del key  # there is one state
        return EnvState((), jnp.int32(0)), jnp.zeros(1)

    def step(self, state, action):
        after = EnvState((), state.time + 1)
        reward = self.reward(action[0])
        return after, conclude(self.spec, after.time, jnp.zeros(1), reward, False)


class TollInGymnasium(gymnasium.Env):
    """The same for Gymnasium."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,))
    action_space = gymnasium.spaces.Box(-3, 3, (1,))

    def reset(self, *, seed=None, options=None):
        self.time = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.time += 1
        return np.zeros(1, np.float32), float(action[0]), False, self.time == STEPS, {}


ENV = Toll()


def policy_of(box, slope=0.0, mean=MEAN):
    """mean + slope * observation, with hardly any noise."""
    policy = drawn_policy(1, 1, ())
    layer = policy.params.actor["layer_0"]
    layer["kernel"][:], layer["bias"][:], policy.params.log_std[:] = slope, mean, -6.0
    return replace(policy, action_box=box)


@pytest.mark.parametrize(("box", "taken"), CASES)
def test_every_simulator_gets_the_clipped_action(box, taken):
    policy = policy_of(box)
    exact = pytest.approx(STEPS * taken, abs=1e-6)
    assert jaxprune.evaluate(ENV, policy, episodes=1)["return"][0] == exact
    assert jaxprune.evaluate(ENV, policy, attack="random", episodes=1)["return"][0] == exact
    there = jaxprune.evaluate_in_gymnasium(TollInGymnasium, ENV, policy, episodes=1)
    assert there["return"][0] == exact
    drawn = jaxprune.evaluate(ENV, policy, victim="stochastic", episodes=1)["return"][0]
    assert drawn == pytest.approx(STEPS * taken, abs=0.1)
    assert (drawn == STEPS * taken) == (taken < MEAN)  # drawn first, clipped afterwards

    mdp = AdversarialMDP(ENV, policy, 0.1, lambda key, victim, x, eps, decision: x, 1)
    state, _ = mdp.reset(jax.random.key(0))
    assert float(mdp.step(state, jnp.zeros(1))[1].reward) == pytest.approx(-taken)


@pytest.mark.parametrize(("box", "taken"), CASES)
def test_what_is_learned_from_is_the_draw_before_it_is_clipped(box, taken):
    policy = policy_of(box)
    workers = fresh_workers(jax.random.key(0), ENV, 2)
    _, steps = rollout(jax.random.key(1), ENV, policy, 0.99, workers, 3)
    assert np.ptp(steps.action) > 0
    np.testing.assert_allclose(steps.action, MEAN, atol=0.02)
    np.testing.assert_allclose(steps.reward, taken, atol=0.02 if taken == MEAN else 1e-6)
    log_prob = jax.vmap(jax.vmap(action_distribution(policy, jnp.zeros(1)).log_prob))
    np.testing.assert_allclose(steps.log_prob, log_prob(steps.action), rtol=1e-6)


@pytest.mark.parametrize(("box", "found"), [(None, 0.0), (OWN, -1.0)])
def test_looking_ahead_is_at_what_the_victim_will_do(box, found):
    """The action -2 earns least: at s' = -1 where +-10 is clipped to +-2, else at s."""
    env = Toll(reward=lambda action: (action + 2.0) ** 2)
    state, obs = env.reset(jax.random.key(0))
    victim = policy_of(box, slope=10.0, mean=0.0)
    blind = jax.tree.map(jnp.zeros_like, victim.params.critic)
    victim = replace(victim, params=victim.params._replace(critic=blind))
    perturb = partial(make_attack("lookahead").perturb, jnp.float32(1.0), ())
    seen, _ = perturb(jax.random.key(0), victim, obs, jnp.float32(1.0), Moment(env, state))
    assert float(seen[0]) == found


@pytest.mark.parametrize(("box", "taken"), CASES)
def test_exports_clip_too(box, taken, tmp_path):
    policy, obs = policy_of(box), np.zeros((2, 1), np.float32)
    space = TollInGymnasium.action_space
    for task in ((space.low, space.high), TASK, (-3, 3)):
        act = jaxprune.numpy_policy(policy, action_box=task)
        np.testing.assert_allclose(act(obs), np.full((2, 1), taken))
    jaxprune.export_policy(tmp_path / "policy.bin", policy, action_box=TASK)
    exported = jaxprune.load_exported(tmp_path / "policy.bin")
    np.testing.assert_allclose(exported(obs), np.full((2, 1), taken))


def test_without_the_task_s_box_it_is_not_silently_unclipped(tmp_path):
    policy = policy_of(TASK_BOX)
    for act in (
        jaxprune.numpy_policy,
        partial(jaxprune.export_policy, tmp_path / "policy.bin"),
        partial(jaxprune.evaluate, Toll(box=None)),
        partial(jaxprune.visited, Toll(box=None)),
        partial(jaxprune.collect_batch, Toll(box=None)),
        partial(jaxprune.evaluate_in_gymnasium, TollInGymnasium, Toll(box=None)),
    ):
        with pytest.raises(InputError, match=r"box of its task.*action_box"):
            act(policy)
    with pytest.raises(InputError, match=r"does not fit actions \(1,\): give \(low, high\)"):
        jaxprune.numpy_policy(policy, action_box=([0.0, 1.0], [2.0, 3.0]))
    assert not list(tmp_path.iterdir())


def test_a_bang_bang_policy_drives_up_the_mountain():
    """It pays 0.1 a step for what its motor does, and not for the 16 times as much that it asks."""
    env = jaxprune.make_env("mountain_car_continuous")
    policy = drawn_policy(2, 1, (1,))
    first, last = policy.params.actor.values()
    first["kernel"][:, 0], last["kernel"][:] = (0.0, 1e6), 4.0
    first["bias"][:] = last["bias"][:] = 0.0
    for box, cost in ((TASK_BOX, 0.1), (None, 1.6)):
        table = jaxprune.evaluate(env, replace(policy, action_box=box), episodes=8)
        assert table["terminated"].all()
        expected = 100 - cost * table["length"]  # and nothing while the car is at rest:
        at_rest = 2.1 * cost  # at the start, and at the wall
        np.testing.assert_allclose(table["return"], expected, atol=at_rest)
        assert (table["return"].mean() > 88) == (box is not None)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("pendulum", "Pendulum-v1"),
        ("mountain_car_continuous", "MountainCarContinuous-v0"),
        ("gym/Swimmer-v5", "Swimmer-v5"),
        ("gym/InvertedPendulum-v5", "InvertedPendulum-v5"),
    ],
)
def test_the_box_of_a_task_is_gymnasium_s(ours, theirs):
    space = gymnasium.make(theirs).action_space
    assert isinstance(space, gymnasium.spaces.Box)
    box = jaxprune.make_env(ours).spec.action_box
    assert box is not None
    np.testing.assert_array_equal(np.float32(box), [space.low, space.high])


def test_tasks_of_choices_have_no_box():
    assert jaxprune.make_env("cartpole").spec.action_box is None


@pytest.mark.slow
def test_a_published_agent_earns_what_its_library_says(published):
    """A2C on HalfCheetah: 2762, 2889 and 2931 there, -150,328 without clipping."""
    files = (published / "sb3" / f"a2c-halfcheetah{end}" for end in (".zip", "-stats.npz"))
    policy = jaxprune.load_policy(*files)
    table = jaxprune.evaluate(jaxprune.make_env("gym/HalfCheetah-v4"), policy, episodes=4)
    assert 2500 < table["return"].mean() < 3400
