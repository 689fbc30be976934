"""`certify`: axes, metadata, errors, and the contract of every bound."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from jaxprune.certify import BOUNDS, TOTAL_VARIATION, Bound, Certificate, certify
from jaxprune.certify.certificates import CHUNK
from jaxprune.certify.query import length, make_query
from jaxprune.policy import HEADS, affine_layers, inverse_std
from jaxprune.pruning import mask_policy
from jaxprune.types import Masks, Policy
from jaxprune.validation import InputError
from tests.policies import drawn_agents, drawn_policy

GLOBAL = [name for name, bound in BOUNDS.items() if bound.scope == "global"]
QUICK = [name for name in GLOBAL if not BOUNDS[name].slow]  # what `certify` does by default
MONOTONE = [name for name in GLOBAL if BOUNDS[name].monotone]
LOCAL = [name for name, bound in BOUNDS.items() if bound.scope == "local"]

# Every layout of a population is a program of its own: all bounds are compiled for one cell, and
# for the cells `[2, 2, 4]` of these agents and levels.
AGENTS, LEVELS = (2, 2), [0.0, 0.2, 0.4, 0.6]
OBS = np.random.default_rng(1).standard_normal((6, 5))


def agents(*shape: int, discrete: bool = False) -> Policy:
    """Policies 5-8-3 with leading axes `shape`, in numpy."""
    return drawn_agents(shape, 5, 3, (8,), discrete=discrete)


def pruned(policy: Policy, levels=LEVELS) -> Masks:
    """Masks that remove kernels of the actor at random, in numpy: `prune` would compile too."""
    rng, levels = np.random.default_rng(4), np.asarray(levels)
    axes = policy.params.log_std.shape[:-1]
    shape = (*axes, *levels.shape)
    masks = jax.tree.map(lambda w: np.ones((*shape, *w.shape[len(axes) :]), bool), policy.params)
    for layer in masks.actor.values():
        layer["kernel"] &= rng.random(layer["kernel"].shape) >= levels[..., None, None]
    return masks


def masked(policy: Policy, masks: Masks, *cell: int) -> Policy:
    """One policy, pruned: `cell` first into the axes of the agents, then of the masks."""
    agent = jax.tree.map(lambda x: x[cell[: policy.params.log_std.ndim - 1]], policy)
    return mask_policy(agent, jax.tree.map(lambda m: m[cell], masks))


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
    policy, distance = agents(discrete=discrete), partial(distance_at, name)
    radii = np.array([0.0, 0.01, 0.1, 1.0, 0.1], "float32")[:, None] * np.ones(5, "float32")
    radii[4, 0] = 0  # one coordinate more can only help the adversary
    *values, fewer = np.asarray(jax.jit(jax.vmap(distance, (None, 0)))(policy, radii))
    assert values[0].shape == () and values[0].dtype == np.float32
    assert 0 <= values[0] < 1e-4 and np.all(np.diff(values) > 0) and np.all(np.isfinite(values))
    assert 0 < fewer < values[2]
    if not discrete:  # the head does not matter to that
        alone = [jax.jit(distance)(policy, eps) for eps in radii[:4]]
        np.testing.assert_allclose(values, alone, rtol=1e-5)


@pytest.mark.parametrize("layer", ["layer_0", "layer_1"])
def test_a_policy_that_sees_nothing_cannot_be_moved(layer):
    """All kernels of a layer removed: D = 0, and no 0 / 0 on the way."""
    policy = agents(1)
    masks = pruned(policy, 0.0)
    masks.actor[layer]["kernel"][:] = False
    slow = [name for name in GLOBAL if name not in QUICK]
    found = certify(policy, masks, 0.1, bounds=QUICK) | certify(policy, masks, 0.1, bounds=slow)
    assert list(found) == [*QUICK, *slow]
    for name, certificate in found.items():
        assert certificate.value.tolist() == [0.0], name
        assert certificate.total_variation.tolist() == [0.0], name


@pytest.mark.parametrize("agent_axes", [(), (2,), (2, 3)])
@pytest.mark.parametrize("levels", [None, 0.3, LEVELS])
@pytest.mark.parametrize("bounds", [["path"], ["path", "ibp"]])
def test_axes(agent_axes, levels, bounds):
    check_axes(agent_axes, levels, bounds)


def test_axes_of_every_bound():
    check_axes(AGENTS, LEVELS, [*QUICK, *LOCAL])


def check_axes(agent_axes, levels, bounds):
    """Agents, levels, and observations if there is a bound that looks at them."""
    policy = agents(*agent_axes)
    masks = None if levels is None else pruned(policy, levels)
    obs = OBS if set(bounds) & set(LOCAL) else None
    levels_axis = (len(LEVELS),) if isinstance(levels, list) else ()
    shape = (*agent_axes, *levels_axis, *(() if obs is None else (len(OBS),)))
    found = certify(policy, masks, eps=0.1, obs=obs, bounds=bounds)
    assert list(found) == bounds
    for name, certificate in found.items():
        assert isinstance(certificate, Certificate)
        for values in (certificate.value, certificate.total_variation):
            assert isinstance(values, np.ndarray)
            assert values.shape == shape and values.dtype == np.float64, name


def test_more_mask_axes_than_one():
    """Levels `[2, 2]` instead of `[4]`."""
    policy = agents(*AGENTS)
    masks = pruned(policy)
    folded = jax.tree.map(lambda m: m.reshape(2, 2, 2, 2, *m.shape[3:]), masks)
    found, expected = (certify(policy, m, eps=0.1, bounds=QUICK) for m in (folded, masks))
    for name in QUICK:
        assert found[name].value.shape == (2, 2, 2, 2)
        np.testing.assert_array_equal(found[name].value.reshape(2, 2, 4), expected[name].value)


@pytest.mark.parametrize("discrete", [False, True])
def test_every_cell_is_the_certificate_of_its_policy(discrete):
    policy = agents(*AGENTS, discrete=discrete)
    masks = pruned(policy)
    batch = certify(policy, masks, eps=0.1)
    for cell in [(0, 0, 0), (0, 1, 2), (1, 0, 1), (1, 1, 3)]:
        alone = certify(masked(policy, masks, *cell), eps=0.1)
        for name in QUICK:
            assert batch[name].value[cell] == pytest.approx(alone[name].value, rel=1e-12)
    # And they differ from each other: no axis is mixed up.
    assert len(np.unique(batch["path"].value)) == 16


def test_no_masks_is_the_mask_that_keeps_everything():
    policy = agents(1)
    without = certify(policy, eps=0.1)
    with_masks = certify(policy, pruned(policy, 0.0), eps=0.1)
    for name in QUICK:
        np.testing.assert_array_equal(without[name].value, with_masks[name].value)


def test_a_single_policy_needs_no_axis():
    """The three lines of the README: one policy, one mask."""
    policy = agents()
    expected = certify(agents(1), eps=0.1)
    for masks in (None, pruned(policy, 0.0)):
        bounds = certify(policy, masks, eps=0.1)
        for name in QUICK:
            assert bounds[name].value.shape == ()
            assert bounds[name].value == expected[name].value[0]


@pytest.mark.parametrize("count", [3, CHUNK - 1, CHUNK + 1, 2 * CHUNK + 37])
def test_equal_masks_get_equal_bits_across_chunks(count):
    """Monotone "bit for bit" needs one order of addition for full and for partial chunks."""
    policy = drawn_policy(11, 3, (64, 64))
    which = np.arange(count) % len(LEVELS)
    masks = jax.tree.map(lambda m: m[which], pruned(policy))
    for certificate in certify(policy, masks, eps=0.1, bounds=MONOTONE).values():
        assert certificate.value.shape == (count,)
        assert np.array_equal(certificate.value, certificate.value[which])


def test_global_bounds_are_repeated_at_every_observation():
    policy = agents(*AGENTS)
    at_rows, without = (certify(policy, pruned(policy), 0.1, obs, QUICK) for obs in (OBS, None))
    for name in QUICK:
        expected = np.repeat(without[name].value[..., None], len(OBS), axis=-1)
        np.testing.assert_array_equal(at_rows[name].value, expected)


@pytest.mark.parametrize("discrete", [False, True])
def test_metadata_and_total_variation(discrete):
    policy = agents(*AGENTS, discrete=discrete)
    for name, certificate in certify(policy, pruned(policy), eps=0.1).items():
        assert certificate.monotone is BOUNDS[name].monotone
        assert certificate.scope == BOUNDS[name].scope
        assert certificate.unit == HEADS[policy.distribution].unit
        assert certificate.unit == ("logits" if discrete else "standard deviations")
        assert "float64" in certificate.sound
        with jax.enable_x64(True):
            expected = TOTAL_VARIATION[policy.distribution](jnp.asarray(certificate.value))
        np.testing.assert_allclose(certificate.total_variation, expected, rtol=1e-14)
        assert np.all((certificate.total_variation > 0) & (certificate.total_variation <= 1))


def test_float64_stays_inside():
    policy = agents(1)
    certify(policy, pruned(policy, 0.0), eps=0.1)
    assert jnp.ones(1).dtype == jnp.float32
    assert policy.params.log_std.dtype == jnp.float32


def test_eps_per_coordinate():
    policy = agents(1)
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
        policy.params.log_std[1, 0] = bad
    else:
        policy.params.actor["layer_1"][leaf][1].flat[0] = bad
    with pytest.raises(InputError, match="not finite"):
        certify(policy, eps=0.1)


def test_the_critic_is_not_certified():
    """It does not act: what it holds does not matter."""
    policy = agents(1)
    policy.params.critic["layer_0"]["bias"][:] = np.nan
    assert np.isfinite(certify(policy, eps=0.1)["path"].value).all()


# --- at given observations


def outputs(policy: Policy, masks: Masks, cell: tuple[int, ...], obs_norm: np.ndarray):
    """Mean or logits of one cell in float64, `[..., obs_size] -> [..., outputs]`."""
    agent = cell[: policy.params.log_std.ndim - 1]
    keep = lambda w, m: np.where(m[cell], w[agent], 0).astype("float64")  # noqa: E731
    first, last = jax.tree.map(keep, policy.params.actor, masks.actor).values()
    hidden = np.tanh(obs_norm @ first["kernel"] + first["bias"])
    return hidden @ last["kernel"] + last["bias"]


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("discrete", [False, True])
def test_local_certificates_hold_at_their_observations(discrete, precision):
    """Axes, boxes in action units, D, TV, and actions that stay: against corners of the ball."""
    policy = agents(*AGENTS, discrete=discrete)
    masks = pruned(policy)
    rng = np.random.default_rng(2)
    corners, inside = rng.choice([-1, 1], (40, 5)), rng.uniform(-1, 1, (10, 5))
    moves = 0.05 * np.concatenate([np.zeros((1, 5)), corners, inside])
    std = np.exp(policy.params.log_std.astype("float64"))
    obs_norm = OBS / (1 + policy.obs_std_offset)  # of a fresh normaliser
    for name, found in certify(policy, masks, 0.05, OBS, LOCAL, precision).items():
        assert found.value.shape == found.total_variation.shape == (2, 2, 4, 6), name
        assert found.low.shape == found.high.shape == (2, 2, 4, 6, 3)
        assert (found.fixed_action is not None) == discrete
        assert precision in found.sound and found.value.dtype == precision
        for at in np.ndindex(found.value.shape):
            *cell, row = at
            clean, *moved = outputs(policy, masks, tuple(cell), obs_norm[row] + moves)
            assert np.all((found.low[at] <= moved) & (moved <= found.high[at])), name
            change = np.abs(moved - clean)
            if discrete:
                assert change.max() <= found.value[at], name
                p, q = special.softmax(clean), special.softmax(moved, axis=-1)
                assert 0.5 * np.abs(p - q).sum(-1).max() <= found.total_variation[at], name
                assert not found.fixed_action[at] or np.all(np.argmax(moved, -1) == clean.argmax())
            else:
                assert np.linalg.norm(change / std[at[:2]], axis=-1).max() <= found.value[at], name


def test_observations_of_every_cell():
    """`[2, 2, 4, 6, 5]`: the same as one cell at a time."""
    policy, obs = agents(*AGENTS), np.random.default_rng(3).standard_normal((2, 2, 4, 6, 5))
    masks = pruned(policy)
    batch = certify(policy, masks, 0.1, obs, LOCAL)
    for cell in ((0, 0, 0), (0, 1, 2), (1, 0, 3)):
        one = jax.tree.map(lambda x, agent=cell[:2]: x[agent], policy)
        mask = jax.tree.map(lambda m, cell=cell: m[cell], masks)
        for name, alone in certify(one, mask, 0.1, obs[cell], LOCAL).items():
            np.testing.assert_allclose(batch[name].value[cell], alone.value, rtol=1e-9)
            np.testing.assert_allclose(batch[name].low[cell], alone.low, rtol=1e-9)


def test_an_action_is_certain_without_a_ball_and_uncertain_in_a_large_one():
    policy = agents(discrete=True)
    still, wide = (certify(policy, None, eps, OBS, LOCAL) for eps in (0.0, 5.0))
    for name in LOCAL:
        assert still[name].fixed_action.all() and np.all(still[name].value < 1e-9), name
        assert not wide[name].fixed_action.any(), name


def test_ties_between_actions_are_not_certain():
    policy = agents(discrete=True)
    for leaf in policy.params.actor["layer_1"].values():
        leaf[:] = 0
    for name, found in certify(policy, None, 0.0, OBS, LOCAL).items():
        assert not found.fixed_action.any(), name


@pytest.mark.parametrize("discrete", [False, True])
def test_float32_is_a_little_looser(discrete):
    policy = agents(*AGENTS, discrete=discrete)
    double, single = (
        certify(policy, pruned(policy), 0.1, OBS, [*QUICK, *LOCAL], precision)
        for precision in ("float64", "float32")
    )
    for name in (name for name in double if not BOUNDS[name].slow):
        assert np.all(single[name].value >= double[name].value * (1 - 1e-7)), name
        np.testing.assert_allclose(single[name].value, double[name].value, rtol=1e-2)


def test_default_matmul_precision_does_not_matter():
    """TF32 or bfloat16 products as the default of the process reach no certificate."""
    policy = agents(*AGENTS)
    certified = partial(certify, policy, pruned(policy), 0.1, OBS, [*QUICK, *LOCAL], "float32")
    with jax.default_matmul_precision("bfloat16"):
        low = certified()
    high = certified()
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
    masks = pruned(agents(*AGENTS))
    for other in (agents(4), agents(1, 2)):
        with pytest.raises(InputError, match="leading axes"):
            certify(other, masks, eps=0.1)


def test_action_units_are_those_of_the_mean_whatever_the_deviations():
    """Equal deviations divide D; unequal ones stay between the smallest and the largest."""
    policy = agents()
    masks = pruned(policy, 0.0)

    def of_deviations(*std: float) -> dict[str, Certificate]:
        params = policy.params._replace(log_std=np.log(np.array(std, "float32")))
        return certify(replace(policy, params=params), masks, 0.1, OBS, [*QUICK, *LOCAL])

    equal, unequal = of_deviations(0.5, 0.5, 0.5), of_deviations(0.1, 1.0, 3.0)
    for name in equal:
        mine, other = equal[name], unequal[name]
        np.testing.assert_allclose(mine.action_distance, 0.5 * mine.value, rtol=1e-6)
        np.testing.assert_allclose(other.action_distance, mine.action_distance, rtol=1e-6)
        assert np.all(other.action_distance <= 3 * other.value * (1 + 1e-6))
        if name in ("path_infinf", "inf_product"):  # the product of two maxima attains it
            np.testing.assert_allclose(other.action_distance, 0.1 * other.value, rtol=1e-6)
        else:
            assert np.all(other.action_distance >= 0.1 * other.value)


def test_logits_have_no_action_units():
    found = certify(agents(discrete=True), None, 0.1, OBS, [*QUICK, *LOCAL])
    assert {x.action_distance for x in found.values()} == {None}
