"""`certify`: axes, metadata, errors, and the contract of every bound."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from jaxprune.certify import BOUNDS, TOTAL_VARIATION, Bound, Certificate, certify
from jaxprune.certify.certificates import CHUNK, UNITS
from jaxprune.certify.query import length, make_query
from jaxprune.policy import action_distribution, affine_layers, init_policy, inverse_std, normalise
from jaxprune.pruning import mask_policy, prune
from jaxprune.validation import InputError

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
QUICK = [name for name in GLOBAL if not BOUNDS[name].slow]  # what `certify` does by default
MONOTONE = [name for name in GLOBAL if BOUNDS[name].monotone]


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
        for name in QUICK:
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
        for name in QUICK:
            assert batch[name].value[index] == pytest.approx(alone[name].value[0], rel=1e-12)
    # And they differ from each other: no axis is mixed up.
    assert len(np.unique(batch["path"].value)) == 18


def test_no_masks_is_the_mask_that_keeps_everything():
    policy = agents(2)
    without, with_masks = certify(policy, eps=0.1), certify(policy, prune(policy, "none"), eps=0.1)
    for name in QUICK:
        np.testing.assert_array_equal(without[name].value, with_masks[name].value)


def test_a_single_policy_needs_no_axis():
    """The three lines of the README: one policy, one mask."""
    policy = agents()
    expected = certify(jax.tree.map(lambda x: x[None], policy), eps=0.1)
    for masks in (None, prune(policy, "none")):
        bounds = certify(policy, masks, eps=0.1)
        for name in QUICK:
            assert bounds[name].value.shape == ()
            assert bounds[name].value == expected[name].value[0]


@pytest.mark.parametrize("count", [3, CHUNK - 1, CHUNK + 1, 2 * CHUNK + 37])
def test_equal_masks_get_equal_bits_across_chunks(count):
    """Monotone "bit for bit" needs one order of addition for full and for partial chunks."""
    policy = init_policy(jax.random.key(0), 11, 3, hidden=(64, 64))
    base = prune(policy, "random", [0.0, 0.2, 0.4, 0.6, 0.8])
    which = np.arange(count) % 5
    masks = jax.tree.map(lambda m: m[which], base)
    for certificate in certify(policy, masks, eps=0.1, bounds=MONOTONE).values():
        assert certificate.value.shape == (count,)
        assert np.array_equal(certificate.value, certificate.value[which])


def test_global_bounds_are_repeated_at_every_observation():
    policy = agents(2)
    obs = np.random.default_rng(0).standard_normal((7, 5))
    at_rows, without = certify(policy, eps=0.1, obs=obs), certify(policy, eps=0.1)
    for name in QUICK:
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
    for name in QUICK:
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


def test_bounds_of_ones_own_have_names_of_their_own():
    mine = {"mine": BOUNDS["path"], "twice": Bound(twice_the_path, True, "global", "linf")}
    found = certify(agents(1), eps=0.1, bounds=mine)
    path = certify(agents(1), eps=0.1, bounds=["path"])["path"]
    assert list(found) == ["mine", "twice"]
    np.testing.assert_array_equal(found["mine"].value, path.value)
    np.testing.assert_allclose(found["twice"].value, 2 * path.value, rtol=1e-12)
    with pytest.raises(InputError, match="'here' holds at given observations only"):
        certify(agents(1), eps=0.1, bounds={"here": BOUNDS["ibp"]})


def twice_the_path(query):
    return 2 * BOUNDS["path"].bound(query)


def test_unknown_bound():
    with pytest.raises(InputError, match="did you mean 'spectral'"):
        certify(agents(1), eps=0.1, bounds=["spectrl"])


@pytest.mark.parametrize("eps", [-0.1, float("nan"), np.array([0.1, 0.1, -1e-9, 0.1, 0.1])])
def test_negative_eps(eps):
    with pytest.raises(InputError, match=r"^eps \S+ is outside \[0, inf\)"):
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


# --- at given observations

LOCAL = [name for name, bound in BOUNDS.items() if bound.scope == "local"]
OBS = np.random.default_rng(1).standard_normal((6, 5))


def masked(policy, masks, *index: int):
    """One policy, pruned: `index` first into the axes of the agents, then of the masks."""
    agent = jax.tree.map(lambda x: x[index[: policy.params.log_std.ndim - 1]], policy)
    return mask_policy(agent, jax.tree.map(lambda m: m[index], masks))


def outputs(policy, obs_norm):
    """Mean or logits in float64, `[obs_size] -> [outputs]`."""
    with jax.enable_x64(True):
        policy = jax.tree.map(lambda x: jnp.asarray(x, "float64"), policy)
        head = jax.jit(lambda x: action_distribution(policy, x))
        at = head(jnp.asarray(obs_norm, "float64"))
        return np.asarray(at.mean if policy.distribution == "normal" else at.logits)


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("name", LOCAL)
def test_local_certificates_hold_at_their_observations(name, discrete, precision):
    """Axes, boxes in action units, D, TV, and actions that stay: against corners of the ball."""
    policy = agents(2, discrete=discrete)
    masks = prune(policy, "magnitude", [0.0, 0.5])
    found = certify(policy, masks, 0.05, OBS, [name], precision)[name]
    assert found.value.shape == found.total_variation.shape == (2, 2, 6)
    assert found.low.shape == found.high.shape == (2, 2, 6, 3)
    assert (found.fixed_action is not None) == discrete
    assert precision in found.sound and found.value.dtype == precision
    rng = np.random.default_rng(2)
    for i, j, row in [(0, 0, 0), (1, 1, 3), (0, 1, 5)]:
        one = masked(policy, masks, i, j)
        here = np.asarray(normalise(one, jnp.asarray(OBS[row], jnp.float32)), np.float64)
        moves = np.concatenate([rng.choice([-1, 1], (40, 5)), rng.uniform(-1, 1, (10, 5))]) * 0.05
        clean, moved = outputs(one, here), np.stack([outputs(one, here + m) for m in moves])
        at = (i, j, row)
        assert np.all((found.low[at] <= moved) & (moved <= found.high[at]))
        change = np.abs(moved - clean)
        if discrete:
            assert change.max() <= found.value[at]
            p, q = (np.exp(z - special.logsumexp(z, -1, keepdims=True)) for z in (clean, moved))
            assert 0.5 * np.abs(p - q).sum(-1).max() <= found.total_variation[at]
            if found.fixed_action[at]:
                assert np.all(moved.argmax(-1) == clean.argmax())
        else:
            inv_std = np.exp(-np.asarray(one.params.log_std, np.float64))
            assert np.linalg.norm(change * inv_std, axis=-1).max() <= found.value[at]


@pytest.mark.parametrize("name", LOCAL)
def test_observations_of_every_cell(name):
    """`[2, 3, 6, 5]`: the same as one cell at a time."""
    policy, obs = agents(2), np.random.default_rng(3).standard_normal((2, 3, 6, 5))
    masks = prune(policy, "random", LEVELS)
    batch = certify(policy, masks, 0.1, obs, [name])[name]
    for i, j in ((0, 0), (1, 2)):
        one = jax.tree.map(lambda x, i=i: x[i], policy)
        mask = jax.tree.map(lambda m, i=i, j=j: m[i, j], masks)
        alone = certify(one, mask, 0.1, obs[i, j], [name])[name]
        np.testing.assert_allclose(batch.value[i, j], alone.value, rtol=1e-9)
        np.testing.assert_allclose(batch.low[i, j], alone.low, rtol=1e-9)


@pytest.mark.parametrize("name", LOCAL)
def test_an_action_is_certain_without_a_ball_and_uncertain_in_a_large_one(name):
    policy = agents(discrete=True)
    still, wide = (certify(policy, None, eps, OBS, [name])[name] for eps in (0.0, 5.0))
    assert still.fixed_action.all() and np.all(still.value < 1e-9)
    assert not wide.fixed_action.any()


def test_ties_between_actions_are_not_certain():
    policy = agents(discrete=True)
    last = policy.params.actor["layer_1"]
    last["kernel"], last["bias"] = jnp.zeros_like(last["kernel"]), jnp.zeros_like(last["bias"])
    assert not certify(policy, None, 0.0, OBS, ["ibp"])["ibp"].fixed_action.any()


@pytest.mark.parametrize("discrete", [False, True])
def test_float32_is_a_little_looser(discrete):
    policy = agents(2, discrete=discrete)
    names = [name for name, bound in BOUNDS.items() if not bound.slow]
    double, single = (
        certify(policy, None, 0.1, OBS, names, precision) for precision in ("float64", "float32")
    )
    for name in names:
        assert np.all(single[name].value >= double[name].value * (1 - 1e-7)), name
        np.testing.assert_allclose(single[name].value, double[name].value, rtol=1e-2)


def test_default_matmul_precision_does_not_matter():
    """TF32 or bfloat16 products as the default of the process reach no certificate."""
    policy = agents(2)
    with jax.default_matmul_precision("bfloat16"):
        low = certify(policy, None, 0.1, OBS, precision="float32")
    high = certify(policy, None, 0.1, OBS, precision="float32")
    for name in low:
        np.testing.assert_array_equal(low[name].value, high[name].value)


def test_a_local_bound_needs_observations():
    with pytest.raises(InputError, match="pass obs, or choose from frobenius"):
        certify(agents(1), eps=0.1, bounds=["path", "ibp"])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_observations_that_are_not_finite(bad):
    obs = OBS.copy()
    obs[2, 3] = bad
    with pytest.raises(InputError, match="obs has entries that are not finite"):
        certify(agents(1), eps=0.1, obs=obs)


def test_a_ball_larger_than_the_clip_range():
    with pytest.raises(InputError, match=r"larger than the range.*\+-10"):
        certify(agents(1), eps=10.5)


def test_unknown_precision():
    with pytest.raises(InputError, match="choose from float64, float32"):
        certify(agents(1), eps=0.1, precision="float16")


# --- axes that do not fit


def test_masks_of_other_agents():
    masks = prune(agents(3), sparsity=LEVELS)
    for other in (agents(2), agents(3, 2)):
        with pytest.raises(InputError, match="leading axes"):
            certify(other, masks, eps=0.1)


@pytest.mark.parametrize("name", ["path", "spectral", "crown"])
def test_action_units_are_those_of_the_mean_whatever_the_deviations(name):
    """Equal deviations divide D; unequal ones stay between the smallest and the largest."""
    policy = init_policy(jax.random.key(0), 4, 3, hidden=(8,))
    policy = replace(policy, params=policy.params._replace(log_std=jnp.log(jnp.full(3, 0.5))))
    obs = np.zeros((2, 4), np.float32)
    equal = certify(policy, None, 0.1, obs, (name,))[name]
    np.testing.assert_allclose(equal.action_distance, 0.5 * equal.value, rtol=1e-6)
    other = policy.params._replace(log_std=jnp.log(jnp.array([0.1, 1.0, 3.0])))
    unequal = certify(replace(policy, params=other), None, 0.1, obs, (name,))[name]
    np.testing.assert_allclose(unequal.action_distance, equal.action_distance, rtol=1e-6)
    assert np.all(unequal.action_distance <= 3 * unequal.value * (1 + 1e-6))
    assert np.all(unequal.action_distance >= 0.1 * unequal.value)


def test_logits_have_no_action_units():
    policy = init_policy(jax.random.key(0), 4, 3, hidden=(8,), discrete=True)
    found = certify(policy, None, 0.1, np.zeros((2, 4)), ("path", "ibp"))
    assert [x.action_distance for x in found.values()] == [None, None]
