"""The bad policies are bad, and the victim is moved towards what they do."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.attacks import AdversaryConfig, MADConfig, Victims
from jaxprune.attacks.training import Size, blank
from jaxprune.attacks.worst_policy import _program, worst_policy
from jaxprune.cells import Cell
from jaxprune.devices import take
from jaxprune.policy import action_distribution, init_policy, normalise
from jaxprune.types import Array, ObsStats, Policy
from jaxprune.validation import InputError
from tests.probes import DiscreteAction

ENV = DiscreteAction()
CONFIG = AdversaryConfig(
    steps=4096,
    num_envs=16,
    unroll=16,
    epochs=4,
    minibatches=4,
    learning_rates=(3e-3,),
)
MAD = MADConfig(steps=10, restarts=4)
ATTACK = worst_policy(CONFIG, MAD)
EPS = 0.8
KEYS = jax.random.split(jax.random.key(5), 32)


def signed_victim(scale: float = 4.0) -> Policy:
    """Of `DiscreteAction`: action 0 below -0.5, action 2 above 0.5, action 1 in between.

    At -1 and 1 that is the best action; 0.8 away it is not.
    """
    policy = init_policy(jax.random.key(0), 1, 3, discrete=True, hidden=())
    layer = policy.params.actor["layer_0"]
    layer["kernel"] = scale * jnp.array([[-1.0, 0.0, 1.0]])
    layer["bias"] = scale * jnp.array([-0.5, 0.0, -0.5])
    return policy


def population(*policies: Policy, eps: float = EPS, key: int = 0) -> Victims:
    stacked = jax.tree.map(lambda *x: np.stack(x), *policies)
    cells = Cell(np.arange(len(policies)), None)
    return Victims(ENV, stacked, cells, eps, jax.random.key(key))


def prepare(victims: Victims) -> Policy:
    assert ATTACK.prepare is not None
    return ATTACK.prepare(victims)


def shown_by(params: Policy, victim: Policy, states: np.ndarray, eps=EPS) -> np.ndarray:
    """What the victim sees, `[n, obs_size]`."""
    every = np.float32(np.resize(states, (len(KEYS), states.shape[1])))  # one shape, one program
    return np.asarray(_shown(params, victim, KEYS, every, eps))[: len(states)]


@jax.jit
def _shown(params, victim, keys, states, eps):
    perturb = lambda key, x: ATTACK.perturb(params, (), key, victim, x, eps)[0]  # noqa: E731
    return jax.vmap(perturb)(keys, states)


@jax.jit
def action(policy: Policy, obs) -> Array:
    """Without a draw, at a raw observation."""
    return action_distribution(policy, normalise(policy, obs)).mode()


def linear(kernel: np.ndarray, bias: np.ndarray, log_std: float = 0.0) -> Policy:
    """mu = kernel^T x + bias."""
    policy = init_policy(jax.random.key(0), *kernel.shape, hidden=(), init_log_std=log_std)
    layer = policy.params.actor["layer_0"]
    layer["kernel"], layer["bias"] = (jnp.asarray(x, jnp.float32) for x in (kernel, bias))
    return policy


def test_bad_policies_fail_and_so_does_the_victim_that_is_told_so():
    """One step, reward 1 for the right action: every bad policy earns 0, and so does the victim."""
    bad, victim = prepare(population(signed_victim())), signed_victim()
    assert bad.params.log_std.shape == (1, 2, 0)
    right = np.array([0, 2])
    states = np.array([[-1.0], [1.0]])
    for member in range(2):
        params = jax.tree.map(lambda x, m=member: x[0, m], bad)
        wrong = [action(params, np.float32(x)) for x in states]
        assert np.all(np.asarray(wrong) != right)
        shown = shown_by(params, victim, states)
        assert np.max(np.abs(shown - states)) <= EPS + 1e-6
        taken = [action(victim, x) for x in shown]
        assert np.all(np.asarray(taken) != right)


def test_all_victims_and_radii_share_them():
    """They know nothing of the victim; the key decides, members differ, nothing compiles anew."""
    base = prepare(population(signed_victim()))
    program = _program(ENV, CONFIG)
    before = _program.cache_info().misses, program.compilations
    shared = prepare(population(signed_victim(), signed_victim(2.0), eps=0.1))
    for i in range(2):
        jax.tree.map(np.testing.assert_array_equal, take(shared, i), take(base, 0))
    kernels = base.params.actor["layer_0"]["kernel"][0]
    assert not np.array_equal(kernels[0], kernels[1])
    other = prepare(population(signed_victim(), key=1))
    assert not np.array_equal(kernels, other.params.actor["layer_0"]["kernel"][0])
    assert (_program.cache_info().misses, program.compilations) == before
    assert ATTACK.members(ENV.spec) == 2 and not ATTACK.per_eps
    assert ATTACK.cost.env_steps == 2 * 4096
    assert worst_policy(replace(CONFIG, seeds=5), MAD).members(ENV.spec) == 5


def test_a_target_out_of_reach_is_a_direction():
    """mu = w x per action with observations of its own: the corner sign(w (target - mu)) eps."""
    w = np.array([0.5, -2.0, 1.0])
    kernel = np.diag(w)
    bad = linear(np.zeros((3, 3)), np.array([9.0, 9.0, -9.0]))
    states = np.random.default_rng(0).normal(0, 1, (16, 3))
    shown = shown_by(bad, linear(kernel, np.zeros(3), -1.0), states, 0.1)
    corner = 0.1 * np.sign(w * np.array([1, 1, -1]))
    np.testing.assert_allclose(shown, states + corner, atol=1e-6)


def test_a_target_in_reach_is_approached_at_the_true_observation():
    """The bad policy sees raw observations through its own statistics, the victim through its own.

    mu = x for the victim and mu_bad = z: the target is z = (2 x + 3 - 1) / 4, at most 0.4 away.
    """
    stats = lambda mean, std: ObsStats(jnp.full(1, mean), jnp.full(1, std), jnp.float32(9))  # noqa: E731
    identity = linear(np.eye(1), np.zeros(1))
    victim, bad = (
        replace(identity, obs_stats=stats(3.0, 2.0)),
        replace(identity, obs_stats=stats(1.0, 4.0)),
    )
    states = np.linspace(0.3, 1.7, 32)[:, None]
    target = (2 * states + 2) / 4
    shown = shown_by(bad, victim, states, 0.5)
    error = np.abs(shown - target)
    assert np.all(error <= np.abs(states - target) + 1e-6)
    assert np.mean(error) < 0.2 * np.mean(np.abs(states - target))


@pytest.mark.parametrize("discrete", [False, True])
def test_a_blank_one_and_no_ball(discrete):
    spec = replace(ENV.spec, discrete=discrete)
    victim = init_policy(jax.random.key(1), 1, 3, discrete=discrete, hidden=(8,))
    shapes = jax.eval_shape(lambda v: ATTACK.blank(v, spec), victim)
    assert shapes.params.log_std.shape == (0 if discrete else 3,)
    params = blank(Size(1, 3, discrete))
    states = np.linspace(-1, 1, 8)[:, None].astype(np.float32)
    assert np.max(np.abs(shown_by(params, victim, states) - states)) <= EPS + 1e-6
    assert np.array_equal(shown_by(params, victim, states, 0.0), states)


def test_settings_that_make_no_sense():
    with pytest.raises(InputError, match="too few to train"):
        worst_policy(replace(CONFIG, steps=3), MAD)
    with pytest.raises(InputError, match="mad steps 0"):
        worst_policy(CONFIG, MADConfig(steps=0))
