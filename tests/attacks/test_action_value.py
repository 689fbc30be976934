"""What Q is asked and where its gradient leads, against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.attacks import MADConfig, SarsaConfig
from jaxprune.attacks.action_value import (
    blank_critic,
    critic_inputs,
    descend,
    descend_published,
    expected_value,
    init_critic,
)
from jaxprune.attacks.gradient import mad
from jaxprune.attacks.robust_sarsa import (
    SHARES,
    Mix,
    few,
    grid,
    q_attack,
    rs,
    rs_adversarial,
    rs_mad,
    rs_reference,
)
from jaxprune.policy import action_distribution, init_policy
from jaxprune.validation import InputError
from tests.attacks.linear import linear_critic, monotone_policy
from tests.probes import probe_spec

SPECS = {
    head: probe_spec("any", 5, obs_size=3, action_size=2, discrete=head == "categorical")
    for head in ("normal", "categorical")
}
DIRECTION = np.array([0.5, -0.2, 0.1], np.float32)
STATES = jnp.asarray(np.random.default_rng(0).standard_normal((16, 3)) / 3, jnp.float32)
KEYS = jax.random.split(jax.random.key(1), len(STATES))
EPS = 0.1


def numpy_value(critic, x: np.ndarray) -> np.ndarray:
    """Q by hand, `[..., in] -> [...]`."""
    for i in range(2):
        x = np.tanh(x @ np.asarray(critic[f"layer_{i}"]["kernel"]) + critic[f"layer_{i}"]["bias"])
    return (x @ np.asarray(critic["layer_2"]["kernel"]) + critic["layer_2"]["bias"])[..., 0]


@pytest.mark.parametrize("head", SPECS)
def test_expected_value_is_that_of_what_the_victim_does_elsewhere(head):
    """Q at the true state, weighed by hand with the actions at the state that the victim sees."""
    spec = SPECS[head]
    critic = init_critic(jax.random.key(3), spec)
    policy = init_policy(jax.random.key(4), 3, 2, discrete=spec.discrete, hidden=(8, 8))
    run = jax.jit(expected_value)
    for s, seen in zip(STATES[:4], STATES[4:8], strict=True):
        pi = action_distribution(policy, seen)
        if spec.discrete:
            p = np.exp(np.asarray(pi.logits)) / np.exp(np.asarray(pi.logits)).sum()
            wanted = sum(p[a] * numpy_value(critic, np.r_[s, np.eye(2)[a]]) for a in range(2))
        else:
            wanted = numpy_value(critic, np.r_[s, pi.mean])
        np.testing.assert_allclose(run(critic, policy, s, seen), wanted, atol=1e-5)


def test_inputs_are_the_action_as_drawn_or_one_hot():
    s = jnp.array([1.0, 2.0, 3.0])
    drawn = critic_inputs(SPECS["normal"], s, jnp.array([-5.0, 0.5]))
    assert drawn.tolist() == [1.0, 2.0, 3.0, -5.0, 0.5]
    assert critic_inputs(SPECS["categorical"], s, jnp.int32(1)).tolist() == [1, 2, 3, 0, 1]


def lowered(head: str, attack):
    """(a monotone victim, a critic that it must fear, s' by `attack(critic, key, victim, s)`)."""
    policy = monotone_policy(DIRECTION, np.array([0.0, 1.0], np.float32), SPECS[head].discrete)
    critic = linear_critic(SPECS[head], np.array([0.3, 0.1, -0.2, 0.0, 0.7]))
    run = jax.jit(jax.vmap(attack, in_axes=(None, 0, None, 0)))
    return policy, critic, np.asarray(run(critic, KEYS, policy, STATES))


@pytest.mark.parametrize("head", SPECS)
def test_descent_finds_the_worst_corner(head):
    """Q rises with the second action, and that with `DIRECTION @ s'`: its corner is the answer."""

    def attack(critic, key, victim, s):
        return descend(MADConfig(), critic, key, victim, s, EPS)

    _, _, moved = lowered(head, attack)
    np.testing.assert_allclose(moved, STATES - EPS * np.sign(DIRECTION), atol=1e-6)


@pytest.mark.parametrize("head", SPECS)
def test_published_descent_ends_up_to_a_step_short_of_the_corner(head):
    """From s + U(-step, step), ten steps of eps / 10 reach the boundary half of the time."""
    _, _, moved = lowered(head, lambda *a: descend_published(*a, EPS))
    reached = (np.asarray(STATES) - moved) * np.sign(DIRECTION) / EPS
    assert reached.max() <= 1 + 1e-5 and reached.min() >= 0.9 - 1e-5
    short = np.mean(reached < 1 - 1e-4)
    assert 0.2 < short < 0.8  # 48 draws, 0.5 expected


def test_where_the_critic_is_flat_the_observation_stays():
    policy = monotone_policy(DIRECTION, np.ones(2, np.float32))
    blank, x = blank_critic(SPECS["normal"]), STATES[0]
    moved = jax.jit(lambda: descend(MADConfig(), blank, KEYS[0], policy, x, EPS))()
    assert np.array_equal(moved, STATES[0])


@pytest.mark.parametrize("head", SPECS)
def test_mixture_is_mad_at_one_end_and_the_critic_attack_at_the_other(head):
    config = MADConfig(steps=5, restarts=1)
    policy = init_policy(
        jax.random.key(4), 3, 2, discrete=SPECS[head].discrete, hidden=(8, 8), init_log_std=-3.0
    )
    critic = init_critic(jax.random.key(3), SPECS[head])
    attack = rs_mad(SarsaConfig(), config)
    mixed = jax.jit(lambda share: attack.perturb(Mix(critic, share), (), KEYS[0], policy, x, EPS))
    x = STATES[0]
    only_kl, _ = jax.jit(lambda: mad(config).perturb((), (), KEYS[0], policy, x, EPS))()
    only_q = jax.jit(lambda: descend(config, critic, KEYS[0], policy, x, EPS))()
    assert np.max(np.abs(only_kl - only_q)) > 0.01
    np.testing.assert_allclose(mixed(1.0)[0], only_kl, atol=1e-6)
    np.testing.assert_allclose(mixed(0.0)[0], only_q, atol=1e-6)


def test_members_and_what_they_cost():
    """30 critics share 61 440 steps; under attack each of three needs its own.

    Four rounds of 480 steps in each of 32 environments are 7 segments of 68 steps each.
    """
    config, ascent = SarsaConfig(), MADConfig(steps=7, restarts=2)
    attacks = {
        "critic_q": q_attack(config, ascent),
        "rs": rs(config, ascent),
        "rs_adversarial": rs_adversarial(config, ascent),
        "rs_mad": rs_mad(config, ascent),
        "rs_reference": rs_reference(config),
    }
    members = [a.members(SPECS["normal"]) for a in attacks.values()]
    assert members == [1, 30, 3, 9, 30]
    assert len(set(grid(config))) == 30
    assert few(config) == [(0.02, 1.0), (0.15, 1.0), (0.3, 1.0)]
    assert few(SarsaConfig(radii=(0.1,), weights=(2.0,))) == [(0.1, 2.0)]
    data = {name: a.cost.env_steps for name, a in attacks.items()}
    own = data.pop("rs_adversarial")
    assert set(data.values()) == {61_440} and own == 3 * 4 * 32 * 7 * 68
    assert attacks["rs"].cost[:2] == (3, 14)  # at s, at the end of each restart; 2 x 7
    assert attacks["rs_mad"].cost[:2] == (4, 14)
    assert attacks["rs_reference"].cost[:2] == (0, 10)
    assert [name for name, a in attacks.items() if a.per_eps] == ["rs_adversarial"]
    assert len(SHARES) * len(few(config)) == members[3]


@pytest.mark.parametrize("make", [q_attack, rs, rs_adversarial, rs_mad])
def test_settings_are_checked_where_the_attack_is_made(make):
    with pytest.raises(InputError, match="rs steps 100"):
        make(SarsaConfig(steps=100), MADConfig())
    with pytest.raises(InputError, match="mad steps 0"):
        make(SarsaConfig(), MADConfig(steps=0))


def test_settings_of_the_reference_are_checked():
    with pytest.raises(InputError, match="rs epochs 0"):
        rs_reference(SarsaConfig(epochs=0))
