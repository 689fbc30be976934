"""Each score against an oracle that shares no code with it, and the contract of them all.

Derivatives are checked against central differences in float64.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxprune.certify import certify
from jaxprune.losses import Hyper, Sample, ppo_loss
from jaxprune.pgd import ascend
from jaxprune.policy import action_distribution, affine_layers, init_policy, state_value
from jaxprune.pruning import scores
from jaxprune.pruning.scores import SCORES, Batch, dense_gradient
from jaxprune.types import Params
from tests.policies import drawn_policy, stacked

KEY = jax.random.key(7)
OBS, HIDDEN, ACTIONS = 3, 4, 2
M, B = 3, 8
HYPER = Hyper(entropy_weight=0.1)
# Every head and every activation.
KINDS = [("normal", "tanh"), ("categorical", "relu")]
kinds = pytest.mark.parametrize("kind", KINDS, ids="-".join)


def make_policy(distribution="normal", activation="tanh", seed=0, removed=0.0):
    """All leaves random, biases and log_std too; a fraction of every kernel removed."""
    drawn = random_policy(jax.random.key(seed), removed, distribution, activation)
    return jax.device_get(drawn)  # slices and products of it are no programs


@partial(jax.jit, static_argnums=(2, 3))
def random_policy(key, removed, distribution, activation):
    discrete = distribution == "categorical"
    policy = init_policy(
        key, OBS, ACTIONS, discrete=discrete, hidden=(HIDDEN,), activation=activation
    )
    leaves, treedef = jax.tree.flatten(policy.params)
    for i, w in enumerate(leaves):
        key_noise, key_drop = jax.random.split(jax.random.fold_in(key, i))
        drop = (w.ndim == 2) & (jax.random.uniform(key_drop, w.shape) < removed)
        leaves[i] = jnp.where(drop, 0.0, 0.7 * jax.random.normal(key_noise, w.shape))
    return replace(policy, params=jax.tree.unflatten(treedef, leaves))


@cache
def make_case(*arguments):
    """`make_policy(*arguments)` and its batch."""
    policy = make_policy(*arguments)
    sample, movement = jax.device_get(random_samples(policy, jax.random.key(100)))
    return policy, Batch(sample, HYPER, eps=0.1, movement=movement)


@jax.jit
def random_samples(policy, key):
    """On-policy samples, the actor's observations perturbed, and something for a movement."""

    def row(key):
        obs, noise, action, advantage, target = jax.random.split(key, 5)
        obs = jax.random.normal(obs, (OBS,))
        seen = obs + 0.1 * jax.random.normal(noise, (OBS,))
        distribution = action_distribution(policy, seen)
        action = distribution.sample(action)
        return Sample(
            obs_norm=obs,
            seen=seen,
            action=action,
            log_prob=distribution.log_prob(action),
            advantage=jax.random.normal(advantage),
            value_target=jax.random.normal(target),
        )

    key, key_movement = jax.random.split(key)
    movement = jax.tree.map(lambda w: jax.random.normal(key_movement, w.shape), policy.params)
    return jax.vmap(jax.vmap(row))(jax.random.split(key, (M, B))), movement


def score(name, policy, batch, key=KEY) -> Params:
    return jax.jit(SCORES[name].score)(policy, batch, key)


def flat(tree) -> np.ndarray:
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


def together(sample: Sample) -> Sample:
    return jax.tree.map(lambda x: x.reshape(M * B, *x.shape[2:]), sample)


def doubled(tree):
    numpy = jax.tree.map(np.asarray, tree)
    return jax.tree.map(lambda x: x.astype(float) if x.dtype == np.float32 else x, numpy)


def slopes(f: Callable[[Params], jax.Array], params: Params, step=1e-5) -> np.ndarray:
    """Central differences of `f`, float64; `[parameters, ...]`. To be called with x64 enabled."""
    w, unravel = ravel_pytree(doubled(params))
    moves = step * np.eye(len(w))
    values = jax.jit(jax.vmap(lambda x: f(unravel(x))))(np.concatenate([w + moves, w - moves]))
    up, down = np.split(np.asarray(values), 2)
    return (up - down) / (2 * step)


def loss_of(policy, sample):
    return lambda params: ppo_loss(params, policy, HYPER, sample)[0]


def assert_same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert np.array_equal(x, y)


def assert_close(found, expected, rtol=1e-4):
    """Up to `rtol` of the largest: float32 sums cancel."""
    found, expected = flat(found), np.ravel(expected)
    assert np.max(np.abs(expected)) > 0
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol * np.max(np.abs(expected)))


# --- The contract -----------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize("name", SCORES)
def test_contract(name, kind):
    """Real numbers, one per parameter; a function of its arguments; `vmap` is the loop."""
    function = SCORES[name].score
    cases = [make_case(*kind, seed, removed) for seed, removed in enumerate((0.5, 0.0, 1.0))]
    policies, batches = zip(*cases, strict=True)
    keys = jax.random.split(KEY, 3)
    one, many = jax.jit(function), jax.jit(jax.vmap(function))
    all_together = many(stacked(*policies), stacked(*batches), keys)
    for i, (policy, batch, key) in enumerate(zip(policies, batches, keys, strict=True)):
        found = one(policy, batch, key)
        assert jax.tree.structure(found) == jax.tree.structure(policy.params)
        for x, w in zip(jax.tree.leaves(found), jax.tree.leaves(policy.params), strict=True):
            assert x.shape == w.shape and x.dtype == jnp.float32
            assert np.all(np.isfinite(x))
        assert_same(found, one(policy, batch, key))
        for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(all_together), strict=True):
            np.testing.assert_allclose(y[i], x, rtol=1e-4, atol=1e-6 * np.max(np.abs(x), initial=0))


def test_the_neutral_member_comes_first():
    assert next(iter(SCORES)) == "constant"


@pytest.mark.parametrize("name", SCORES)
def test_needs(name):
    policy, batch = make_case()
    assert SCORES[name].needs in ("nothing", "data", "training")
    if SCORES[name].needs == "nothing":
        assert_same(score(name, policy, None), score(name, policy, batch))
    else:
        with pytest.raises((AttributeError, AssertionError)):
            SCORES[name].score(policy, None, KEY)


# --- Weights alone ----------------------------------------------------------------------------


def test_constant_and_magnitude():
    policy = make_policy()
    assert np.all(flat(score("constant", policy, None)) == 0)
    assert_same(score("magnitude", policy, None), jax.tree.map(abs, policy.params))


def test_random_repeats_no_leaf_and_follows_the_key():
    policy = drawn_policy(5, 3, (8, 8))
    draws = flat(score("random", policy, None))
    assert np.all((draws >= 0) & (draws < 1))
    assert len(np.unique(draws)) > 0.99 * draws.size
    assert not np.array_equal(draws, flat(score("random", policy, None, jax.random.key(8))))


def with_kernel(policy, kernel):
    actor = {**policy.params.actor, "layer_0": {**policy.params.actor["layer_0"], "kernel": kernel}}
    return replace(policy, params=policy.params._replace(actor=actor))


def first_kernel(tree: Params) -> np.ndarray:
    return np.asarray(tree.actor["layer_0"]["kernel"])


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_layer_magnitude_is_the_share_of_the_norm(scale):
    policy = make_policy(removed=0.5)
    policy = replace(policy, params=jax.tree.map(lambda w: w * scale, policy.params))
    found = score("layer_magnitude", policy, None)
    for x, w in zip(jax.tree.leaves(found), jax.tree.leaves(policy.params), strict=True):
        w = np.asarray(w, np.float64)
        np.testing.assert_allclose(x, np.abs(w) / np.linalg.norm(w), rtol=1e-6)
    empty = with_kernel(policy, np.zeros((OBS, HIDDEN), "float32"))
    assert np.all(first_kernel(score("layer_magnitude", empty, None)) == 0)


def test_lamp_by_hand():
    """Squares 9, 4, 4, 1: the equal ones are in each other's denominator."""
    policy = with_kernel(make_policy(), np.array([[3.0, -1.0], [2.0, -2.0], [0.0, 0.0]], "float32"))
    expected = [[9 / 9, 1 / 18], [4 / 17, 4 / 17], [0, 0]]
    found = first_kernel(score("lamp", policy, None))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found[1, 0] == found[1, 1]
    empty = with_kernel(policy, np.zeros((OBS, HIDDEN), "float32"))
    assert np.all(first_kernel(score("lamp", empty, None)) == 0)


@kinds
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_lamp_by_brute_force(kind, scale):
    policy = make_policy(*kind, removed=0.3)
    policy = replace(policy, params=jax.tree.map(lambda w: w * scale, policy.params))
    found = score("lamp", policy, None)
    for x, w in zip(jax.tree.leaves(found), jax.tree.leaves(policy.params), strict=True):
        square = np.asarray(w, np.float64).ravel() ** 2
        expected = [s / np.sum(square[square >= s]) if s else 0 for s in square]
        np.testing.assert_allclose(np.ravel(x), expected, rtol=1e-5)


@kinds
def test_synflow_is_what_every_removal_takes_from_the_flow(kind):
    """R is linear in each single |w|: removing the weight takes exactly its score from R."""
    policy = make_policy(*kind, removed=0.3)
    params, unravel = np.abs(flat(policy.params)), ravel_pytree(policy.params)[1]

    def flow(w) -> float:
        tree = unravel(w)
        total = 0.0
        for network in (tree.actor, tree.critic):
            x = np.ones(OBS)
            for i in range(2):
                layer = network[f"layer_{i}"]
                x = np.asarray(layer["kernel"], float).T @ x + np.asarray(layer["bias"], float)
            total += x.sum()
        return total

    keep = 1 - np.eye(len(params))
    expected = [flow(params) - flow(params * k) for k in keep]
    assert_close(score("synflow", policy, None), expected, rtol=1e-5)


# --- Gradients of the loss --------------------------------------------------------------------


@kinds
def test_dense_gradient_and_saliency(kind):
    """The mean over minibatches, each with its own normalisation of the advantages."""
    policy, batch = make_case(*kind, 0, 0.5)
    with jax.enable_x64(True):
        samples = [doubled(jax.tree.map(lambda x, i=i: x[i], batch.sample)) for i in range(M)]
        exact = doubled(policy)
        gradient = np.mean([slopes(loss_of(exact, s), policy.params) for s in samples], axis=0)
    found = jax.jit(dense_gradient)(policy, batch)
    assert_close(found, gradient)
    removed = np.asarray(policy.params.actor["layer_0"]["kernel"]) == 0
    assert np.any(removed) and np.any(first_kernel(found)[removed] != 0)  # not masked
    assert_close(score("saliency", policy, batch), np.abs(flat(policy.params) * gradient))


@kinds
def test_snip_is_the_normalised_sensitivity_on_one_big_batch(kind):
    policy, batch = make_case(*kind)
    with jax.enable_x64(True):
        gradient = slopes(loss_of(doubled(policy), doubled(together(batch.sample))), policy.params)
    expected = np.abs(flat(policy.params) * gradient)
    found = score("snip", policy, batch)
    assert_close(found, expected / expected.sum())
    assert np.isclose(flat(found).sum(), 1)


@kinds
def test_grasp_against_the_full_hessian_and_its_sign(kind):
    """Removing w changes ||g||^2 by -2 times the score: high scores carry the gradient flow."""
    policy, batch = make_case(*kind)
    with jax.enable_x64(True):
        loss = loss_of(doubled(policy), doubled(together(batch.sample)))
        w, unravel = ravel_pytree(doubled(policy.params))
        on_vector = lambda x: loss(unravel(x))  # noqa: E731
        gradient_of = jax.jit(jax.grad(on_vector))
        hessian, gradient = (
            np.asarray(jax.jit(jax.hessian(on_vector))(w)),
            np.asarray(gradient_of(w)),
        )
        flow = lambda params: jnp.sum(gradient_of(ravel_pytree(params)[0]) ** 2)  # noqa: E731
        change = -np.asarray(w) * slopes(flow, policy.params)
    found = score("grasp", policy, batch)
    assert_close(found, np.asarray(w) * (hessian @ gradient), rtol=1e-3)
    assert_close(found, change / -2, rtol=1e-3)


# --- Statistics of the networks ---------------------------------------------------------------


@kinds
def test_wanda_is_weight_times_the_size_of_its_input(kind):
    """The actor's inputs are what it saw, the critic's the true observations."""
    policy, batch = make_case(*kind)
    found = score("wanda", policy, batch)
    act = {"tanh": np.tanh, "relu": lambda x: np.maximum(x, 0)}[kind[1]]
    for name, obs in (("actor", batch.sample.seen), ("critic", batch.sample.obs_norm)):
        x = np.asarray(obs, float).reshape(M * B, OBS)
        for i in range(2):
            layer, of_layer = (getattr(t, name)[f"layer_{i}"] for t in (policy.params, found))
            kernel, bias = (np.asarray(layer[k], float) for k in ("kernel", "bias"))
            root_mean_square = np.linalg.norm(x, axis=0) / np.sqrt(len(x))
            np.testing.assert_allclose(
                of_layer["kernel"], np.abs(kernel) * root_mean_square[:, None], rtol=1e-5
            )
            assert np.array_equal(of_layer["bias"], np.abs(layer["bias"]))
            x = act(x @ kernel + bias)
    assert np.all(found.log_std == 0)


@kinds
def test_fisher_against_the_jacobian(kind):
    policy, batch = make_case(*kind)
    with jax.enable_x64(True):
        exact, sample = doubled(policy), doubled(together(batch.sample))

        def log_probs(params):
            at = replace(exact, params=params)
            of = lambda obs, a: action_distribution(at, obs).log_prob(a)  # noqa: E731
            return jax.vmap(of)(sample.seen, sample.action)

        def values(params):
            at = replace(exact, params=params)
            return jax.vmap(lambda obs: state_value(at, obs))(sample.obs_norm)

        information = sum(
            np.mean(slopes(f, policy.params) ** 2, axis=1) for f in (log_probs, values)
        )
    found = score("fisher", policy, batch)
    assert_close(found, 0.5 * flat(policy.params) ** 2 * information)
    if kind[0] == "normal":  # dlog pi / dbias of the mean is z / sigma
        head, std = policy.params.actor["layer_1"]["bias"], np.exp(policy.params.log_std)
        mode = jax.jit(jax.vmap(lambda obs: action_distribution(policy, obs).mode()))
        slope = (sample.action - mode(together(batch.sample).seen)) / std**2
        np.testing.assert_allclose(
            found.actor["layer_1"]["bias"], 0.5 * head**2 * np.mean(slope**2, axis=0), rtol=1e-4
        )


def test_movement_is_what_training_added_up():
    policy, batch = make_case()
    assert_same(score("movement", policy, batch), batch.movement)


# --- Certificate and adversary ----------------------------------------------------------------


def path_norm(policy, kernels) -> float:
    """|| |W_L| ... |W_1| 1 ||, kernels `[in, out]`."""
    reach = np.ones(OBS)
    for kernel in kernels:
        reach = np.abs(kernel).T @ reach
    if policy.distribution == "categorical":
        return np.max(reach)
    return float(np.linalg.norm(reach * np.exp(-np.asarray(policy.params.log_std, float))))


def path_shares(policy) -> list[np.ndarray]:
    """|w| dD/d|w| / D of every kernel, by central differences in the relative size of w."""
    kernels = [np.asarray(layer.weight, float).T for layer in affine_layers(policy)]
    step, shares = 1e-5, []
    for i, kernel in enumerate(kernels):
        share = np.zeros(kernel.shape)
        for at in np.ndindex(*kernel.shape):
            ends = []
            for sign in (1, -1):
                moved = [k.copy() for k in kernels]
                moved[i][at] *= 1 + sign * step
                ends.append(path_norm(policy, moved))
            share[at] = (ends[0] - ends[1]) / (2 * step)
        shares.append(share / path_norm(policy, kernels))
    return shares


@kinds
def test_certificate_is_saliency_per_share_of_the_path_bound(kind):
    policy, batch = make_case(*kind, 0, 0.3)
    kernels = [np.asarray(layer.weight, float).T for layer in affine_layers(policy)]
    bound = certify(policy, eps=1.0, bounds=["path"])["path"].value
    np.testing.assert_allclose(path_norm(policy, kernels), bound, rtol=1e-6)

    assert any(np.any(kernel == 0) for kernel in kernels)
    shares = path_shares(policy)
    assert np.allclose([share.sum() for share in shares], 1, atol=1e-8)
    found, cost = score("certificate", policy, batch), score("saliency", policy, batch)
    least_free, largest = np.inf, 0.0
    for i, (kernel, share) in enumerate(zip(kernels, shares, strict=True)):
        of_layer, wg = (np.asarray(t.actor[f"layer_{i}"]["kernel"]) for t in (found, cost))
        paid = share > 1e-8  # the others are 0 but for rounding
        np.testing.assert_allclose(of_layer[paid], wg[paid] / share[paid], rtol=1e-4)
        assert np.all(of_layer[kernel == 0] == 0)
        free = ~paid & (kernel != 0) & (wg > 0)
        if kind[0] == "categorical" and i == 1:
            assert np.any(free)  # what leads to the smaller logit
        least_free = min(least_free, np.min(of_layer[free], initial=np.inf))
        largest = max(largest, np.max(of_layer[paid]))
    # What costs the bound nothing stays longest: by saliency, far above the rest.
    for leaf, wg in zip(jax.tree.leaves(found.critic), jax.tree.leaves(cost.critic), strict=True):
        np.testing.assert_allclose(leaf, wg * 1e20, rtol=1e-5)
        least_free = min(least_free, np.min(leaf[wg > 0], initial=np.inf))
    assert least_free > 1e6 * largest


def test_certificate_of_a_policy_that_is_cut_off():
    """D = 0, and the l_2 norm has no gradient there."""
    policy, batch = make_case()
    found = score("certificate", with_kernel(policy, np.zeros((OBS, HIDDEN), "float32")), batch)
    assert np.all(np.isfinite(flat(found)))
    assert np.all(first_kernel(found) == 0)


@kinds
def test_adversary_against_differences_at_fixed_points(kind, monkeypatch):
    """With the attack replaced by a known one: K(w) alone is differentiated."""
    policy, batch = make_case(*kind)
    shift = np.array([0.1, -0.1, 0.1])
    settings = []

    def known(key, objective, centre, eps, **others):
        settings.append(others)
        return centre + jnp.asarray(shift, centre.dtype)

    monkeypatch.setattr(scores, "ascend", known)
    found = SCORES["adversary"].score(policy, batch, KEY)
    assert settings[0]["steps"] == 10 and settings[0]["restarts"] == 1
    np.testing.assert_allclose(settings[0]["step_size"], 2.5 * 0.1 / 10, rtol=1e-6)
    with jax.enable_x64(True):
        exact, obs = doubled(policy), doubled(together(batch.sample)).obs_norm

        def mean_kl(params):
            at = lambda x: action_distribution(replace(exact, params=params), x)  # noqa: E731
            return jnp.mean(jax.vmap(lambda x: at(x).kl(at(x + shift)))(obs))

        slope = slopes(mean_kl, policy.params)
    assert_close(found, -flat(policy.params) * slope, rtol=1e-3)


def test_adversary_of_a_linear_policy_in_closed_form():
    """One output: the worst corner follows the signs of w, K = (eps sum |w|)^2 / (2 sigma^2).

    The largest weight goes first, zeros last: removing it lowers K most.
    """
    w = np.array([[1.0], [-0.5], [0.0]], "float32")
    policy = with_kernel(drawn_policy(OBS, 1, ()), w)
    policy.params.log_std[:] = -0.3
    batch = make_case()[1]
    batch = batch._replace(sample=batch.sample._replace(action=batch.sample.action[..., :1]))
    found = score("adversary", policy, batch)
    expected = -(0.1**2) * np.abs(w) * np.sum(np.abs(w)) / np.exp(-0.3) ** 2
    np.testing.assert_allclose(first_kernel(found), expected, rtol=1e-4)
    assert np.all(flat(found.critic) == 0)
    nothing = score("adversary", policy, batch._replace(eps=0.0))
    assert np.all(flat(nothing) == 0)


def test_adversary_of_a_policy_that_is_sure_of_itself():
    """Logits of the order of 1e3, whose KL was NaN: every weight had the same score, none."""
    policy, batch = make_case("categorical", "relu")
    policy = with_kernel(policy, 1e3 * policy.params.actor["layer_0"]["kernel"])
    found = flat(score("adversary", policy, batch).actor)
    assert np.all(np.isfinite(found)) and np.any(found != 0)


def test_adversary_draws_another_start_for_every_sample(monkeypatch):
    starts = []

    def spy(key, *args, **settings):
        jax.debug.callback(lambda k: starts.append(int(k[-1])), jax.random.key_data(key))
        return ascend(key, *args, **settings)

    monkeypatch.setattr(scores, "ascend", spy)
    score = jax.jit(lambda policy: SCORES["adversary"].score(policy, make_case()[1], KEY))
    jax.block_until_ready(score(make_case()[0]))
    jax.effects_barrier()
    assert len(set(starts)) == M * B
