"""`certify`: axes, metadata, errors, and the contract of every bound."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.certify import BOUNDS, TOTAL_VARIATION, Certificate, certify
from jaxprune.certify.certificates import CHUNK, UNITS
from jaxprune.certify.query import length, make_query
from jaxprune.families import InputError
from jaxprune.policy import affine_layers, init_policy, inverse_std
from jaxprune.pruning import mask_policy, prune

LEVELS = [0.0, 0.3, 0.6]


def agents(*shape: int, discrete: bool = False):
    """Policies 5-8-3 with leading axes `shape`, their last layers of ordinary size."""
    return jax.tree.map(lambda x: x, _agents(shape, discrete))  # the caller may alter its dicts


@cache
def _agents(shape: tuple[int, ...], discrete: bool):
    make = lambda key: init_policy(key, 5, 3, hidden=(8,), discrete=discrete)  # noqa: E731
    for _ in shape:
        make = jax.vmap(make)
    policy = make(jax.random.split(jax.random.key(0), shape))
    policy.params.actor["layer_1"]["kernel"] = 100 * policy.params.actor["layer_1"]["kernel"]
    return policy


GLOBAL = [name for name, bound in BOUNDS.items() if bound.scope == "global"]


def distance_at(name, policy, eps):
    """The bound on D of a policy that is at the origin, whatever the scope of the bound."""
    query = make_query(affine_layers(policy), eps, inverse_std(policy))
    found = BOUNDS[name].bound(query)
    return found if BOUNDS[name].scope == "global" else length(query, (found.high - found.low) / 2)


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("name", BOUNDS)
def test_contract(name, discrete):
    """Metadata; 0 without a ball, nondecreasing in eps, finite, and jit and vmap agree."""
    bound = BOUNDS[name]
    assert bound.scope in ("global", "local") and isinstance(bound.monotone, bool)
    assert bound.norm in ("l2", "linf")
    policy = agents(discrete=discrete)
    radii = jnp.array([0.0, 0.01, 0.1, 1.0])[:, None] * jnp.ones(5)
    values = np.array([distance_at(name, policy, eps) for eps in radii])
    assert values.shape == (4,) and values.dtype == np.float32
    assert 0 <= values[0] < 1e-4 and np.all(np.diff(values) > 0) and np.all(np.isfinite(values))
    batch = jax.jit(jax.vmap(lambda eps: distance_at(name, policy, eps)))(radii)
    np.testing.assert_allclose(batch, values, rtol=1e-5)
    # One coordinate more can only help the adversary.
    fewer = distance_at(name, policy, radii[2].at[0].set(0.0))
    assert 0 < fewer < values[2]


@pytest.mark.parametrize("name", GLOBAL)
def test_a_policy_that_sees_nothing_cannot_be_moved(name):
    """All kernels of a layer removed: D = 0, and no 0 / 0 on the way."""
    policy = agents()
    for layer in ("layer_0", "layer_1"):
        masks = prune(policy, "none", [0.0])
        masks.actor[layer]["kernel"] = jnp.zeros_like(masks.actor[layer]["kernel"])
        certificate = certify(policy, masks, eps=0.1, bounds=[name])[name]
        assert certificate.value.tolist() == [0.0]
        assert certificate.total_variation.tolist() == [0.0]


@pytest.mark.parametrize("agent_axes", [(), (2,), (2, 3)])
@pytest.mark.parametrize("levels", [None, 0.3, LEVELS])
@pytest.mark.parametrize("rows", [None, 4])
def test_axes(agent_axes, levels, rows):
    policy = agents(*agent_axes)
    masks = None if levels is None else prune(policy, sparsity=levels)
    obs = None if rows is None else np.zeros((rows, 5))
    shape = (*agent_axes, *((3,) if isinstance(levels, list) else ()), *((rows,) if rows else ()))
    for name, certificate in certify(policy, masks, eps=0.1, obs=obs).items():
        assert isinstance(certificate, Certificate) and name in BOUNDS
        for values in (certificate.value, certificate.total_variation):
            assert isinstance(values, np.ndarray)
            assert values.shape == shape and values.dtype == np.float64


def test_more_mask_axes_than_one():
    """Methods and levels: `[agents, 2, 3]`."""
    policy = agents(4)
    masks = [prune(policy, method, LEVELS) for method in ("magnitude", "random")]
    stacked = jax.tree.map(lambda *m: jnp.stack(m, axis=1), *masks)
    together = certify(policy, stacked, eps=0.1)
    for m in range(2):
        alone = certify(policy, masks[m], eps=0.1)
        for name in GLOBAL:
            assert together[name].value.shape == (4, 2, 3)
            np.testing.assert_array_equal(together[name].value[:, m], alone[name].value)


@pytest.mark.parametrize("discrete", [False, True])
def test_every_cell_is_the_certificate_of_its_policy(discrete):
    policy = agents(2, 3, discrete=discrete)
    masks = prune(policy, "random", LEVELS)
    batch = certify(policy, masks, eps=0.1)
    for index in [(0, 0, 0), (0, 2, 1), (1, 1, 2)]:
        one = jax.tree.map(lambda x, i=index: x[i[:2]], policy)
        pruned = mask_policy(one, jax.tree.map(lambda m, i=index: m[i], masks))
        alone = certify(jax.tree.map(lambda x: x[None], pruned), eps=0.1)
        for name in GLOBAL:
            assert batch[name].value[index] == pytest.approx(alone[name].value[0], rel=1e-12)
    # And they differ from each other: no axis is mixed up.
    assert len(np.unique(batch["path"].value)) == 18


def test_no_masks_is_the_mask_that_keeps_everything():
    policy = agents(2)
    without, with_masks = certify(policy, eps=0.1), certify(policy, prune(policy, "none"), eps=0.1)
    for name in GLOBAL:
        np.testing.assert_array_equal(without[name].value, with_masks[name].value)


def test_a_single_policy_needs_no_axis():
    """The three lines of the README: one policy, one mask."""
    policy = agents()
    expected = certify(jax.tree.map(lambda x: x[None], policy), eps=0.1)
    for masks in (None, prune(policy, "none")):
        bounds = certify(policy, masks, eps=0.1)
        for name in GLOBAL:
            assert bounds[name].value.shape == ()
            assert bounds[name].value == expected[name].value[0]


@pytest.mark.parametrize("count", [3, CHUNK - 1, CHUNK + 1, 2 * CHUNK + 37])
def test_equal_masks_get_equal_bits_across_chunks(count):
    """Monotone "bit for bit" needs one order of addition for full and for partial chunks."""
    policy = init_policy(jax.random.key(0), 11, 3, hidden=(64, 64))
    base = prune(policy, "random", [0.0, 0.2, 0.4, 0.6, 0.8])
    which = np.arange(count) % 5
    masks = jax.tree.map(lambda m: m[which], base)
    for certificate in certify(policy, masks, eps=0.1).values():
        assert certificate.value.shape == (count,)
        assert np.array_equal(certificate.value, certificate.value[which])


def test_global_bounds_are_repeated_at_every_observation():
    policy = agents(2)
    obs = np.random.default_rng(0).standard_normal((7, 5))
    at_rows, without = certify(policy, eps=0.1, obs=obs), certify(policy, eps=0.1)
    for name in GLOBAL:
        expected = np.repeat(without[name].value[:, None], 7, axis=1)
        np.testing.assert_array_equal(at_rows[name].value, expected)


@pytest.mark.parametrize("discrete", [False, True])
def test_metadata_and_total_variation(discrete):
    policy = agents(3, discrete=discrete)
    for name, certificate in certify(policy, eps=0.1).items():
        assert certificate.monotone is BOUNDS[name].monotone
        assert certificate.scope == BOUNDS[name].scope
        assert certificate.unit == UNITS[policy.distribution]
        assert certificate.unit == ("logits" if discrete else "standard deviations")
        assert "float64" in certificate.sound
        with jax.enable_x64(True):
            expected = TOTAL_VARIATION[policy.distribution](jnp.asarray(certificate.value))
        np.testing.assert_allclose(certificate.total_variation, expected, rtol=1e-14)
        assert np.all((certificate.total_variation > 0) & (certificate.total_variation <= 1))


def test_float64_stays_inside():
    policy = agents(1)
    certify(policy, prune(policy), eps=0.1)
    assert jnp.ones(1).dtype == jnp.float32
    assert policy.params.log_std.dtype == jnp.float32


def test_eps_per_coordinate():
    policy = agents(2)
    one, same = certify(policy, eps=0.1), certify(policy, eps=np.full(5, 0.1))
    for name in GLOBAL:
        np.testing.assert_array_equal(one[name].value, same[name].value)
    listed = certify(policy, eps=jnp.array([0.1, 0.0, 0.2, 0.0, 0.0]))
    assert np.all(listed["path"].value > 0)


def test_the_default_ball_is_a_point():
    assert np.all(certify(agents(1))["path"].value == 0)


def test_bounds_are_chosen_by_name_in_the_order_asked():
    quick = [name for name, bound in BOUNDS.items() if not bound.slow]
    assert list(certify(agents(1), eps=0.1, obs=np.zeros((1, 5)))) == quick
    assert list(certify(agents(1), eps=0.1)) == [name for name in quick if name in GLOBAL]
    chosen = certify(agents(1), eps=0.1, bounds=("spectral", "path"))
    assert list(chosen) == ["spectral", "path"]


def test_unknown_bound():
    with pytest.raises(InputError, match="did you mean 'spectral'"):
        certify(agents(1), eps=0.1, bounds=["spectrl"])


@pytest.mark.parametrize("eps", [-0.1, float("nan"), np.array([0.1, 0.1, -1e-9, 0.1, 0.1])])
def test_negative_eps(eps):
    with pytest.raises(InputError, match="is negative"):
        certify(agents(1), eps=eps)


@pytest.mark.parametrize("eps", [np.ones(3), np.ones((5, 1)), np.ones((2, 5))])
def test_eps_that_does_not_fit(eps):
    with pytest.raises(InputError, match="eps"):
        certify(agents(2), eps=eps)


@pytest.mark.parametrize("obs", [np.zeros((4, 6)), np.zeros(5)])
def test_obs_that_do_not_fit(obs):
    with pytest.raises(InputError, match="obs"):
        certify(agents(2), eps=0.1, obs=obs)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("leaf", ["kernel", "bias", "log_std"])
def test_weights_that_are_not_finite(leaf, bad):
    policy = agents(2)
    if leaf == "log_std":
        log_std = policy.params.log_std.at[1, 0].set(bad)
        policy = replace(policy, params=policy.params._replace(log_std=log_std))
    else:
        layer = policy.params.actor["layer_1"]
        layer[leaf] = layer[leaf].at[(1,) + (0,) * (layer[leaf].ndim - 1)].set(bad)
    with pytest.raises(InputError, match="not finite"):
        certify(policy, eps=0.1)


def test_the_critic_is_not_certified():
    """It does not act: what it holds does not matter."""
    policy = agents(1)
    policy.params.critic["layer_0"]["bias"] = jnp.full_like(
        policy.params.critic["layer_0"]["bias"], jnp.nan
    )
    assert np.isfinite(certify(policy, eps=0.1)["path"].value).all()


def test_masks_of_other_agents():
    masks = prune(agents(3), sparsity=LEVELS)
    for other in (agents(2), agents(3, 2)):
        with pytest.raises(InputError, match="leading axes"):
            certify(other, masks, eps=0.1)
