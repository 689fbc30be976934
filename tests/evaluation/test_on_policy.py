"""Data for scores: on-policy, in minibatches, one per policy and mask."""

import jax
import numpy as np
import pytest

from jaxprune import collect_batch, prune
from jaxprune.losses import Hyper
from jaxprune.policy import action_distribution, init_policy, normalise
from jaxprune.pruning import mask_policy
from jaxprune.validation import InputError
from tests.probes import Drift, Treadmill

DRIFT = Drift()
POLICIES = jax.vmap(lambda k: init_policy(k, 2, 2, hidden=(8, 8)))(
    jax.random.split(jax.random.key(0), 3)
)


def test_samples_are_those_of_the_masked_policy():
    """Log-probabilities of the actions at what was seen, under the policy with its mask."""
    masks = prune(POLICIES, "random", [0.0, 0.8])
    batch = collect_batch(DRIFT, POLICIES, masks, steps=512, hyper=Hyper(gamma=0.9))
    assert batch.sample.obs_norm.shape == (3, 2, 32, 16, 2)
    assert batch.eps.shape == (3, 2) and np.all(batch.eps == np.float32(DRIFT.spec.eps))
    assert np.all(batch.hyper.gamma == np.float32(0.9))
    policy = mask_policy(
        jax.tree.map(lambda x: x[1], POLICIES), jax.tree.map(lambda x: x[1, 1], masks)
    )
    sample = jax.tree.map(lambda x: x[1, 1].reshape(512, *x.shape[4:]), batch.sample)
    found = jax.vmap(lambda x, a: action_distribution(policy, x).log_prob(a))(
        sample.seen, sample.action
    )
    np.testing.assert_allclose(found, sample.log_prob, rtol=1e-4, atol=1e-4)
    assert np.array_equal(sample.seen, sample.obs_norm)
    first = np.asarray(jax.vmap(lambda x: normalise(policy, x))(sample.obs_norm))
    np.testing.assert_allclose(first, sample.obs_norm, rtol=1e-5)  # a fresh normaliser is neutral


def test_every_policy_of_a_population_is_the_one_alone():
    together = collect_batch(DRIFT, POLICIES, steps=512)
    alone = collect_batch(DRIFT, jax.tree.map(lambda x: x[2], POLICIES), steps=512)
    for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(a[2], b, rtol=1e-4, atol=1e-5)


def test_steps_are_rounded_up_and_keys_differ():
    env = Treadmill(terminates=False)
    policy = init_policy(jax.random.key(0), 1, 1, hidden=(8,))
    first = collect_batch(env, policy, steps=513)
    assert first.sample.advantage.shape == (32, 32)
    again, other = (collect_batch(env, policy, key=jax.random.key(i)) for i in (0, 1))
    assert again.sample.advantage.shape == (32, 128)
    assert not np.array_equal(again.sample.action, other.sample.action)


def test_a_score_that_looks_at_data_uses_it():
    """The whole way by hand: collect, prune by the Fisher information, exact counts."""
    batch = collect_batch(DRIFT, POLICIES, steps=512)
    masks = prune(POLICIES, "fisher", 0.5, batch=batch)
    gone = sum((~masks.actor[f"layer_{i}"]["kernel"]).sum((1, 2)) for i in range(3))
    assert gone.tolist() == [round(0.5 * (16 + 64 + 16))] * 3
    magnitude = prune(POLICIES, "magnitude", 0.5)
    assert any(
        np.any(a != b)
        for a, b in zip(jax.tree.leaves(masks), jax.tree.leaves(magnitude), strict=True)
    )


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"eps": -1.0}])
def test_bad_input_is_named(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        collect_batch(DRIFT, POLICIES, **wrong)
