"""The global bounds: golden values, counter-examples, monotonicity bit for bit, and soundness."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import bound, network, policy_of

from jaxprune.certify import BOUNDS, certify
from jaxprune.certify.norms import frobenius, path, spectral, spectral_norm
from jaxprune.certify.query import make_query
from jaxprune.policy import Affine, action_distribution
from jaxprune.pruning import prune
from jaxprune.types import Policy

MONOTONE = [name for name, bound in BOUNDS.items() if bound.monotone]
GLOBAL = [name for name, bound in BOUNDS.items() if bound.scope == "global"]
HEADS = ["normal", "categorical"]


GOLDEN = {  # sizes, gain of the hidden layers, values as printed in certificates.md 4.2
    "11-64-64-3": ((11, 64, 64, 3), 1.0, "112.7384", "199.9273", "7.13938"),
    "hidden gain sqrt 2": ((11, 64, 64, 3), 2**0.5, "225.4768", "399.8546", "14.27876"),
    "27-64-64-8": ((27, 64, 64, 8), 1.0, "177.1759", "468.2642", "5.71654"),
}


def printed(text: str, scale: float = 1.0):
    """A number known to the printed digits."""
    return pytest.approx(float(text), rel=0, abs=0.5 * scale * 10.0 ** -len(text.split(".")[1]))


@pytest.mark.parametrize("case", GOLDEN)
def test_golden_values(case):
    """Printed without sqrt(d): the l_2 products take it in for the l_inf ball."""
    sizes, gain, frobenius_, path_, spectral_ = GOLDEN[case]
    layers, root = network(0, sizes, gain), math.sqrt(sizes[0])
    # Twice the golden 112.7384 is known to two units of the last digit.
    assert bound(frobenius, layers) / root == printed(frobenius_, 2.0 if gain > 1 else 1.0)
    assert bound(path, layers) == printed(path_)
    assert bound(spectral, layers) / root == printed(spectral_)


def test_golden_values_for_logits_and_for_a_small_ball():
    layers = network(0, (11, 64, 64, 3))
    assert bound(path, layers, inv_std=None) == printed("119.7097")  # inf -> inf
    assert bound(path, layers, eps=0.01) == printed("1.99927")
    assert bound(frobenius, layers, eps=0.01) == printed("3.7391")  # sqrt(11) F eps


def test_spectral_counter_example():
    """[[1, 1], [1, -1]] is sqrt(2) times a rotation; [[1, 1], [1, 0]] has the golden ratio."""
    with jax.enable_x64(True):
        full = float(spectral_norm(jnp.array([[1.0, 1.0], [1.0, -1.0]])))
        masked = float(spectral_norm(jnp.array([[1.0, 1.0], [1.0, 0.0]])))
    assert full == pytest.approx(math.sqrt(2), rel=1e-6)
    assert masked == pytest.approx((1 + math.sqrt(5)) / 2, rel=1e-6)


@pytest.mark.parametrize("distribution", HEADS)
def test_certify_reports_that_pruning_raised_the_spectral_bound(distribution):
    """A linear 2-2 policy, eps = 1 / sqrt(2) per coordinate, so that sqrt(d) eps = 1."""
    weight = np.array([[1.0, 1.0], [1.0, -1.0]])
    policy = policy_of([Affine(weight, np.zeros(2))], distribution)
    masks = prune(policy, "none", [0.0, 0.0])
    masks.actor["layer_0"]["kernel"] = masks.actor["layer_0"]["kernel"].at[1, 1, 1].set(False)
    bounds = certify(policy, masks, eps=2**-0.5)
    golden_ratio = (1 + 5**0.5) / 2
    np.testing.assert_allclose(bounds["spectral"].value, [2**0.5, golden_ratio], rtol=1e-6)
    np.testing.assert_allclose(bounds["frobenius"].value, [2, 3**0.5], rtol=1e-12)
    # Path: the unit outputs move by (2, 2) and (2, 1), over sqrt(2).
    expected = [2, 2.5**0.5] if distribution == "normal" else [2**0.5, 2**0.5]
    np.testing.assert_allclose(bounds["path"].value, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("size", "ratio"), [(4, "1.366"), (8, "1.707"), (16, "2.225"), (64, "4.121")]
)
def test_masking_a_hadamard_matrix_raises_the_spectral_norm(size, ratio):
    """Keep only the +1 entries: the ratio grows like sqrt(n) / 2 (certificates.md 2.2)."""
    hadamard = np.ones((1, 1))
    while len(hadamard) < size:
        hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
    with jax.enable_x64(True):
        full = float(spectral_norm(jnp.asarray(hadamard)))
        masked = float(spectral_norm(jnp.asarray(np.maximum(hadamard, 0))))
    assert full == pytest.approx(size**0.5, rel=1e-5)
    # The denominator is an upper bound by up to 2e-6, which moves the last printed digit little.
    assert masked / size**0.5 == printed(ratio, 1.02)


SHAPES = [(1, 1), (1, 7), (7, 1), (2, 2), (3, 5), (12, 4), (16, 16)]
KINDS = ["gaussian", "rank one", "ill-conditioned", "orthogonal", "sparse", "one entry"]
gram64 = jax.jit(spectral_norm)


def matrix(kind: str, shape: tuple[int, int], seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    w = rng.standard_normal(shape)
    left, values, right = np.linalg.svd(w, full_matrices=False)
    if kind == "rank one":
        return np.outer(rng.standard_normal(shape[0]), rng.standard_normal(shape[1]))
    if kind == "ill-conditioned":
        return left * np.logspace(0, -12, len(values)) @ right
    if kind == "orthogonal":  # all singular values equal: the worst case of the Gram iteration
        return left @ right
    if kind == "sparse":
        return w * (rng.random(shape) < 0.3)
    if kind == "one entry":
        return w * (np.arange(w.size).reshape(shape) == seed % w.size)
    return w


@given(
    st.sampled_from(KINDS), st.sampled_from(SHAPES), st.integers(0, 10**6), st.integers(-100, 100)
)
@settings(deadline=None, derandomize=True, max_examples=600)
def test_spectral_norm_is_above_the_svd_and_close_to_it(kind, shape, seed, exponent):
    """In float64, at any scale: never below numpy's largest singular value, and within 1e-5."""
    w = matrix(kind, shape, seed) * 10.0**exponent
    with jax.enable_x64(True):
        value = float(gram64(jnp.asarray(w)))
    sigma = np.linalg.svd(w, compute_uv=False)[0]
    assert value >= sigma
    assert value <= sigma * (1 + 1e-5)


@given(st.sampled_from(KINDS), st.sampled_from(SHAPES), st.integers(0, 10**6), st.integers(-25, 25))
@settings(deadline=None, derandomize=True, max_examples=300)
def test_spectral_norm_in_float32(kind, shape, seed, exponent):
    """The outward rounding of float32 is 2 (n^1.5 + m + 16) half-ulps: below 2e-5 here."""
    w = (matrix(kind, shape, seed) * 10.0**exponent).astype(np.float32)
    value = float(gram64(jnp.asarray(w)))
    sigma = np.linalg.svd(w.astype(np.float64), compute_uv=False)[0]
    assert value >= sigma
    assert value <= sigma * (1 + 3e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_spectral_norm_of_one_number_is_never_below_it(dtype):
    """1 x 1: the norm is |w| exactly, so every rounding error shows."""
    with jax.enable_x64(True):
        exponents = np.linspace(-30, 30, 4001)
        w = (np.random.default_rng(0).uniform(1, 10, 4001) * 10.0**exponents).astype(dtype)
        values = np.asarray(jax.vmap(spectral_norm)(jnp.asarray(w)[:, None, None]))
    assert values.dtype == dtype
    assert np.all(values >= w)
    assert np.all(values <= w * (1 + 1e-5))


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (5, 3)])
def test_spectral_norm_of_zero_is_zero(shape):
    assert float(spectral_norm(jnp.zeros(shape))) == 0


def nested_masks(rng, layers, chains: int, counts: np.ndarray) -> list[np.ndarray]:
    """Random orders of removal: masks per layer, `[chains, len(counts), out, in]`."""
    sizes = [w.size for w, _ in layers]
    rank = rng.permuted(np.tile(np.arange(sum(sizes)), (chains, 1)), axis=1)
    keep = rank[:, None, :] >= counts[:, None]
    parts = np.split(keep, np.cumsum(sizes)[:-1], axis=-1)
    return [p.reshape(*keep.shape[:2], *w.shape) for p, (w, _) in zip(parts, layers, strict=True)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("distribution", HEADS)
@pytest.mark.parametrize("name", MONOTONE)
def test_monotone_bounds_never_rise_along_nested_masks(name, distribution, dtype):
    """Bit for bit, in one compiled call: 200 chains, single weights and large steps alike."""
    rng, layers = np.random.default_rng(1), network(1, (11, 24, 24, 3))
    total = sum(w.size for w, _ in layers)
    counts = np.sort(np.r_[0:4, 100:103, 500:503, rng.integers(0, total, 5), total - 1])
    keep = nested_masks(rng, layers, 200, counts)
    with jax.enable_x64(True):
        eps = jnp.asarray(rng.uniform(0.01, 0.1, 11), dtype)
        inv_std = jnp.asarray(rng.uniform(1, 3, 3), dtype) if distribution == "normal" else None

        def of_masks(keep):
            masked = [
                Affine(jnp.where(k, jnp.asarray(w, dtype), 0), jnp.asarray(b, dtype))
                for k, (w, b) in zip(keep, layers, strict=True)
            ]
            return BOUNDS[name].bound(make_query(masked, eps, inv_std))

        values = np.asarray(jax.jit(jax.vmap(jax.vmap(of_masks)))(keep))
    assert values.shape == (200, len(counts)) and values.dtype == dtype
    assert np.all(np.diff(values, axis=1) <= 0)
    assert np.all(values[:, 0] == values[0, 0])  # all chains start at the same dense policy
    assert np.all(values[:, -2] < values[:, 0])


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("distribution", HEADS)
def test_certified_monotone_bounds_never_rise_along_nested_masks(distribution, activation):
    """The same through `certify`: 1600 masks of one policy, more than one of its chunks."""
    rng, layers = np.random.default_rng(2), network(2, (6, 12, 12, 2))
    policy = policy_of(layers, distribution, activation)
    counts = np.array([0, 1, 2, 30, 31, 100, 150, 200])
    keep = nested_masks(rng, layers, 200, counts)
    masks = jax.tree.map(lambda m: jnp.broadcast_to(m, (200, 8, *m.shape)), prune(policy, "none"))
    for i, k in enumerate(keep):
        masks.actor[f"layer_{i}"]["kernel"] = jnp.asarray(np.swapaxes(k, -1, -2))
    bounds = certify(policy, masks, eps=0.1, bounds=MONOTONE)
    for name in MONOTONE:
        assert np.all(np.diff(bounds[name].value, axis=1) <= 0)
        assert np.all(np.diff(bounds[name].total_variation, axis=1) <= 0)
        assert np.all(bounds[name].value[:, 0] == bounds[name].value[0, 0])
        assert np.all(bounds[name].value[:, -1] < bounds[name].value[0, 0])


sizes = st.lists(st.integers(1, 12), min_size=2, max_size=4)


@pytest.mark.parametrize("inv_std", [1.7, None])
def test_path_is_at_most_frobenius(inv_std):
    for seed in range(100):
        shape = tuple(np.random.default_rng(seed).integers(2, 12, size=2 + seed % 4))
        layers = network(seed, shape)
        sharp = [np.abs(w) for w, _ in layers]
        value, reach = numpy_frobenius(layers, 0.3, inv_std), 0.3 * np.ones(shape[0])
        for w in sharp:
            reach = w @ reach
        if seed < 12:  # compilation is what costs: the library on a few, the lemma on all
            assert bound(path, layers, 0.3, inv_std) <= bound(frobenius, layers, 0.3, inv_std)
        norm = np.linalg.norm(reach) * inv_std if inv_std else np.max(reach)
        assert norm <= value


def numpy_frobenius(layers, eps, inv_std) -> float:
    weights = fold(layers, eps, inv_std)
    return math.sqrt(weights[0].shape[1]) * math.prod(np.linalg.norm(w) for w in weights)


def numpy_spectral(layers, eps, inv_std) -> float:
    weights = fold(layers, eps, inv_std)
    return math.sqrt(weights[0].shape[1]) * math.prod(np.linalg.norm(w, 2) for w in weights)


def numpy_path(layers, eps, inv_std) -> float:
    reach = np.ones(layers[0].weight.shape[1])
    for w in fold(layers, eps, inv_std):
        reach = np.abs(w) @ reach
    return float(np.max(reach) if inv_std is None else np.linalg.norm(reach))


def fold(layers, eps, inv_std) -> list[np.ndarray]:
    weights = [np.asarray(w, np.float64) for w, _ in layers]
    weights[0] = weights[0] * eps
    if inv_std is not None:
        weights[-1] = weights[-1] * np.asarray(inv_std)[..., None]
    return weights


@pytest.mark.parametrize("distribution", HEADS)
@pytest.mark.parametrize("shape", [(4, 3), (1, 1), (5, 16, 16, 3), (3, 8, 1)])
def test_bounds_agree_with_plain_numpy(shape, distribution):
    """Through `certify`, masked, per-coordinate eps: float64 to 1e-10, spectral to 2e-6 above."""
    rng = np.random.default_rng(3)
    policy = policy_of(network(3, shape), distribution, std=0.3)
    masks = prune(policy, "random", [0.0, 0.3, 0.6])
    eps = rng.uniform(0, 0.2, shape[0])
    bounds = certify(policy, masks, eps=eps)
    log_std = np.asarray(policy.params.log_std, np.float64)
    inv_std = np.exp(-log_std) if distribution == "normal" else None
    for s in range(3):
        layers = []
        for i in range(len(shape) - 1):
            keep = np.asarray(masks.actor[f"layer_{i}"]["kernel"][s])
            kernel = np.asarray(policy.params.actor[f"layer_{i}"]["kernel"], np.float64)
            layers.append(Affine(np.where(keep, kernel, 0).T, np.zeros(shape[i + 1])))
        for name, reference in (("frobenius", numpy_frobenius), ("path", numpy_path)):
            expected = reference(layers, eps, inv_std)
            assert bounds[name].value[s] == pytest.approx(expected, rel=1e-10)
        expected = numpy_spectral(layers, eps, inv_std)
        assert bounds["spectral"].value[s] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", GLOBAL)
@pytest.mark.parametrize("inv_std", [1.0, None])
def test_eps_scales_the_bound(name, inv_std):
    """A power of two scales the path bound in every bit; the others to rounding."""
    layers, fn = network(4, (5, 8, 3)), BOUNDS[name].bound
    one = bound(fn, layers, 0.3, inv_std)
    for factor in (0.25, 2.0, 8.0):
        scaled = bound(fn, layers, 0.3 * factor, inv_std)
        if name == "path":
            assert scaled == factor * one
        assert scaled == pytest.approx(factor * one, rel=1e-12)
    assert bound(fn, layers, 0.0, inv_std) == 0


@pytest.mark.parametrize("name", GLOBAL)
def test_a_coordinate_that_cannot_move_does_not_count(name):
    """eps_j = 0 is the network without input j, but for the sqrt(d) of the l_2 bounds."""
    layers, fn = network(5, (5, 8, 3)), BOUNDS[name].bound
    eps = np.array([0.3, 0.0, 0.1, 0.2, 0.0])
    moving = eps > 0
    cut = [Affine(layers[0].weight[:, moving], layers[0].bias), *layers[1:]]
    root = 1 if name == "path" else math.sqrt(3 / 5)
    value = bound(fn, layers, eps)
    assert bound(fn, cut, eps[moving]) == pytest.approx(root * value, rel=1e-9)


@pytest.mark.parametrize("name", GLOBAL)
def test_halving_sigma_doubles_the_distance(name):
    layers, fn = network(6, (5, 8, 3)), BOUNDS[name].bound
    assert bound(fn, layers, 0.1, 2.0) == pytest.approx(2 * bound(fn, layers, 0.1), rel=1e-12)


@pytest.mark.parametrize("name", GLOBAL)
@pytest.mark.parametrize("inv_std", [1.0, None])
def test_biases_do_not_enter(name, inv_std):
    layers, fn = network(7, (5, 8, 3)), BOUNDS[name].bound
    shifted = [Affine(w, b + 3) for w, b in layers]
    assert bound(fn, layers, 0.1, inv_std) == bound(fn, shifted, 0.1, inv_std)


def largest_distance(policy: Policy, eps: np.ndarray, seed: int) -> float:
    """The largest D found at 64 states: uniform noise, corners, and corners along the gradient."""
    size = policy.obs_stats.mean.size
    rng = np.random.default_rng(seed)
    states = jnp.asarray(2 * rng.standard_normal((64, size)), jnp.float32)
    noise = rng.uniform(-1, 1, (32, size))
    moves = jnp.asarray(np.concatenate([noise, np.sign(noise)]) * eps, jnp.float32)

    def distance(x, move):
        return action_distribution(policy, x).distance(action_distribution(policy, x + move))

    def at_state(x):
        best = jnp.max(jax.vmap(partial(distance, x))(moves))
        uphill = jax.vmap(jax.grad(partial(distance, x)))(moves)
        corners = jnp.sign(uphill) * jnp.asarray(eps, jnp.float32)
        return jnp.maximum(best, jnp.max(jax.vmap(partial(distance, x))(corners)))

    return float(jnp.max(jax.jit(jax.vmap(at_state))(states)))


@pytest.mark.parametrize("radius", ["one", "per coordinate"])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("distribution", HEADS)
def test_no_perturbation_in_the_ball_exceeds_a_bound(distribution, activation, radius):
    rng = np.random.default_rng(8)
    eps = np.full(6, 0.3) if radius == "one" else rng.uniform(0, 0.5, 6)
    policy = policy_of(network(8, (6, 12, 3)), distribution, activation, std=0.4)
    bounds = certify(policy, prune(policy, "magnitude", [0.0]), eps=eps)
    found = largest_distance(policy, eps, 0)
    for name in GLOBAL:
        assert found <= bounds[name].value[0], name
    assert found > 0.05 * bounds["path"].value[0]  # the search is not idle


@pytest.mark.parametrize("distribution", HEADS)
def test_path_is_attained_by_a_non_negative_network(distribution):
    """Non-negative weights and units that stay active: the corner (+eps, ..., +eps) attains it."""
    layers = [Affine(np.abs(w), np.full_like(b, 10.0)) for w, b in network(9, (4, 8, 8, 3))]
    policy = policy_of(layers, distribution, "relu", std=0.5)
    value = certify(policy, prune(policy, "none", [0.0]), eps=0.1)["path"].value[0]
    x = jnp.zeros(4)
    clean, moved = (action_distribution(policy, z) for z in (x, x + 0.1))
    found = float(clean.distance(moved))
    # Outputs near 300 in float32: the difference is known to some 1e-4.
    assert found == pytest.approx(value, rel=1e-3)


@pytest.mark.parametrize("name", GLOBAL)
def test_every_bound_is_attained_by_a_single_weight(name):
    """One input, one action, mu = w x: D = |w| eps / sigma, and no bound is above it."""
    policy = policy_of([Affine(np.array([[-1.5]]), np.zeros(1))], std=0.5)
    value = certify(policy, prune(policy, "none", [0.0]), eps=0.25)[name].value[0]
    assert value == pytest.approx(1.5 * 0.25 / 0.5, rel=1e-7)  # log(0.5) is stored in float32
