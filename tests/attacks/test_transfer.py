"""Attacks through another policy: the source's gradients, the victim's actions."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.attacks import AttackConfig, MADConfig, SearchConfig, Victims, make_attack
from jaxprune.attacks.members import prepared
from jaxprune.attacks.transfer import fit_clone
from jaxprune.cells import as_cells
from jaxprune.evaluation import evaluate
from jaxprune.policy import MLP, action_distribution
from jaxprune.validation import InputError
from tests.attacks.victims import tanh_policy
from tests.probes import Wander

ENVS = {"normal": Wander(), "categorical": Wander(discrete=True)}
CONFIG = AttackConfig(search=SearchConfig(clone_steps=2048, clone_epochs=40))
STATES = jax.random.normal(jax.random.key(9), (64, 4))


def victims_of(head: str, policies, source=None) -> Victims:
    _, flat, cells = as_cells(*jax.device_get((policies, None)))
    return Victims(ENVS[head], flat, cells, 0.1, jax.random.key(4), source=source)


def stacked(*policies):
    return jax.tree.map(lambda *x: np.stack(x), *policies)


@jax.jit
def acting(policy, states):
    """Actions without a draw, `[n, ...]`."""
    return jax.vmap(lambda x: action_distribution(policy, x).mode())(states)


@pytest.mark.parametrize("head", ENVS)
def test_a_policy_is_its_own_source(head):
    """MAD through the victim itself is MAD, with the same keys."""
    policy = tanh_policy(head)
    through, own, other = (
        evaluate(ENVS[head], policy, attack=name, eps=0.2, episodes=4, source=source)["distance"]
        for name, source in (
            ("transfer", policy),
            ("mad", None),
            ("transfer", tanh_policy(head, seed=1)),
        )
    )
    np.testing.assert_allclose(through, own, rtol=1e-5)
    assert not np.any(np.isclose(other, own, rtol=1e-3))


def test_every_victim_has_its_own_source():
    a, b = tanh_policy("normal", 0), tanh_policy("normal", 1)
    crossed = evaluate(
        ENVS["normal"],
        stacked(a, b),
        attack="transfer",
        eps=0.2,
        episodes=4,
        source=stacked(b, a),
    )
    alone = [
        evaluate(ENVS["normal"], victim, attack="transfer", eps=0.2, episodes=4, source=source)
        for victim, source in ((a, b), (b, a))
    ]
    for i, table in enumerate(alone):
        np.testing.assert_allclose(crossed["distance"][i], table["distance"], rtol=1e-5)


def test_transfer_without_a_source_is_refused():
    with pytest.raises(InputError, match="needs a policy whose attack is transferred: give source"):
        evaluate(ENVS["normal"], tanh_policy("normal"), attack="transfer", episodes=2)


@pytest.mark.parametrize("head", ENVS)
def test_a_clone_learns_to_act_as_its_victim(head):
    """From 2048 steps; one that has seen nothing does not."""
    policy = tanh_policy(head)
    attack = make_attack("snooping", CONFIG)
    found = jax.tree.map(lambda x: x[0, 0], prepared(attack, victims_of(head, policy)))

    def agreement(params) -> float:
        clone = replace(policy, params=policy.params._replace(actor=params))
        wanted, got = (np.asarray(acting(p, STATES)) for p in (policy, clone))
        if head == "categorical":
            return float(np.mean(wanted == got))
        return 1 - float(np.sum((wanted - got) ** 2) / np.sum((wanted - wanted.mean(0)) ** 2))

    fresh = MLP((64, 64), 3).init(jax.random.key(0), jnp.zeros(4))["params"]
    assert agreement(found) > 0.85
    assert agreement(found) > agreement(fresh) + 0.2


def test_a_clone_of_two_victims_is_that_of_each():
    policies = [tanh_policy("normal", seed) for seed in (0, 1)]
    attack = make_attack("snooping", CONFIG)
    both = prepared(attack, victims_of("normal", stacked(*policies)))
    for i, policy in enumerate(policies):
        alone = prepared(attack, victims_of("normal", policy))
        for x, y in zip(jax.tree.leaves(both), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(x[i, 0], y[0, 0], atol=1e-4)


def test_fewer_rows_than_a_minibatch_are_one():
    policy = tanh_policy("normal")
    fresh = MLP((64, 64), 3).init(jax.random.key(0), jnp.zeros(4))["params"]
    fit = jax.jit(fit_clone, static_argnums=5)
    found = fit(jax.random.key(1), policy, fresh, STATES, acting(policy, STATES), 2)
    assert not np.array_equal(found["layer_0"]["kernel"], fresh["layer_0"]["kernel"])


def test_a_stronger_ascent_is_used_on_the_clone():
    config = replace(CONFIG, mad=MADConfig(steps=1, step_scale=0.01))
    weak, strong = (
        evaluate(
            ENVS["normal"], tanh_policy("normal"), attack="snooping", eps=0.3, episodes=4, config=c
        )["distance"].mean()
        for c in (config, CONFIG)
    )
    assert weak < strong
