"""LipLT, ECLipsE-Fast and LipSDP: golden values, a solver as oracle, order, rounding, soundness."""

import itertools
import math
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune.certify import BOUNDS, certify
from jaxprune.certify.activations.swish import BEND
from jaxprune.certify.certificates import holds_for
from jaxprune.certify.lipschitz import (
    _certified,
    _value_and_slopes,
    eclipse_fast,
    inverse_root,
    liplt,
    lipsdp_first_order,
)
from jaxprune.certify.norms import spectral
from jaxprune.certify.query import make_query
from jaxprune.policy import Affine, action_distribution
from jaxprune.pruning import prune
from jaxprune.validation import InputError
from tests.certify.networks import bound, network, policy_of

TIGHT = {"liplt": liplt, "eclipse_fast": eclipse_fast, "lipsdp_first_order": lipsdp_first_order}
HEADS = ["normal", "categorical"]
GRAM = 5e-6  # excess of the Gram iteration where singular values tie
# Few shapes: compilation is what costs.
ONE, TWO, THREE = (5, 12, 3), (5, 12, 10, 3), (3, 8, 8, 8, 4)  # hidden layers


def kernels(seed: int, sizes: tuple[int, ...], sparsity: float = 0.0) -> list[np.ndarray]:
    """Of a reference network, without the smallest weights of every layer."""
    weights = [w for w, _ in network(seed, sizes)]
    return [np.where(np.abs(w) >= np.quantile(np.abs(w), sparsity), w, 0) for w in weights]


def affine(weights) -> list[Affine]:
    return [Affine(np.asarray(w, np.float64), np.zeros(len(w))) for w in weights]


@jax.jit
def of_weights(weights, eps, inv_std):
    layers = [Affine(w, jnp.zeros(len(w), w.dtype)) for w in weights]
    query = make_query(layers, eps, inv_std)
    return {name: fn(query) for name, fn in {**TIGHT, "spectral": spectral}.items()}


def tight_bounds(weights, eps=1.0, inv_std=1.0, dtype="float64") -> dict[str, np.ndarray]:
    """All bounds of this module, and the product of the spectral norms."""
    with jax.enable_x64(True):
        eps = np.broadcast_to(np.asarray(eps, dtype), weights[0].shape[1])
        inv_std = np.full(len(weights[-1]), inv_std, dtype)
        return jax.device_get(of_weights([np.asarray(w, dtype) for w in weights], eps, inv_std))


def in_use(weights) -> list[np.ndarray]:
    """The network that is left without inputs and units that are on no path."""
    reached, read = [np.ones(weights[0].shape[1], bool)], [np.ones(len(weights[-1]), bool)]
    for w in weights:
        reached.append(np.any(w[:, reached[-1]] != 0, axis=1))
    for w in weights[::-1]:
        read.append(np.any(w[read[-1]] != 0, axis=0))
    keep = [a & b for a, b in zip(reached, read[::-1], strict=True)]
    return [w[after][:, before] for w, before, after in zip(weights, keep, keep[1:], strict=False)]


def root(weights) -> float:
    """sqrt(d), that the l_2 bounds are multiplied by for the l_inf ball."""
    return math.sqrt(in_use(weights)[0].shape[1])


def numpy_liplt(weights) -> float:
    """The recursion as printed in certificates.md 3.2, a = b = 1/2."""
    reached = []
    for k in range(len(weights)):
        product, total = weights[k], 0.0
        for j in reversed(range(k)):
            total += 0.5 * 0.5 ** (k - 1 - j) * np.linalg.norm(product, 2) * reached[j]
            product = product @ weights[j]
        reached.append(total + 0.5**k * np.linalg.norm(product, 2))
    return reached[-1]


def numpy_eclipse_fast(weights) -> float:
    inverse = np.eye(weights[0].shape[1])
    for w in weights[:-1]:
        a = w @ inverse @ w.T
        lam = 2 / np.linalg.eigvalsh(a)[-1]
        inverse = np.linalg.inv(lam * np.eye(len(w)) - lam**2 / 4 * a)
    return math.sqrt(np.linalg.eigvalsh(weights[-1] @ inverse @ weights[-1].T)[-1])


def numpy_bound(weights, lambdas) -> float:
    """||W_L X^(-1/2)||_2 of any Lambda, inf unless every X_k is positive definite."""
    inverse = np.eye(weights[0].shape[1])
    for w, lam in zip(weights, lambdas, strict=False):
        x = np.diag(lam) - lam[:, None] * (w @ inverse @ w.T) * lam / 4
        if np.linalg.eigvalsh(x)[0] <= 0:
            return math.inf
        inverse = np.linalg.inv(x)
    return math.sqrt(np.linalg.eigvalsh(weights[-1] @ inverse @ weights[-1].T)[-1])


@cache
def solved(sizes: tuple[int, ...], seed: int, sparsity: float) -> float:
    """LipSDP-neuron by an interior-point solver: the bound that its multipliers T prove.

    min rho over diagonal T >= 0 such that the block tridiagonal

        [rho I, -W_1' T_1; 2 T_1, -W_2' T_2; ...; 2 T_{L-1} - W_L' W_L] >= 0
    """
    cp = pytest.importorskip("cvxpy")
    weights = kernels(seed, sizes, sparsity)
    ends = np.cumsum([0, *sizes[:-1]])
    blocks = [np.eye(ends[-1])[i:j] for i, j in itertools.pairwise(ends)]
    rho, ts = cp.Variable(), [cp.Variable(n, nonneg=True) for n in sizes[1:-1]]
    output = weights[-1] @ blocks[-1]
    matrix = rho * (blocks[0].T @ blocks[0]) - output.T @ output
    for w, t, before, after in zip(weights, ts, blocks, blocks[1:], strict=False):
        row = after.T @ cp.diag(t) @ (after - w @ before)
        matrix = matrix + row + row.T
    cp.Problem(cp.Minimize(rho), [(matrix + matrix.T) / 2 >> 0]).solve(solver="CLARABEL")
    return numpy_bound(weights, [2 * t.value / rho.value for t in ts])


def printed(text: str):
    """A number known to the printed digits."""
    return pytest.approx(float(text), rel=0, abs=0.5 * 10.0 ** -len(text.split(".")[1]))


def test_golden_values():
    """27-64-64-8 of certificates.md 4.2, printed without sqrt(d); 11-64-64-3 is below."""
    layers = network(0, (27, 64, 64, 8))
    assert bound(liplt, layers) / math.sqrt(27) == printed("3.41352")
    assert bound(eclipse_fast, layers) / math.sqrt(27) == printed("3.37125")


def test_all_devices_certify_many_masks_at_once():
    """64 masks of 11-64-64-3 on both devices, as a run does it; every lane has its own mask.

    The first agent has hidden gain 1, the second sqrt 2: golden values of certificates.md 4.2.
    """
    nets = [policy_of(network(0, (11, 64, 64, 3), gain)) for gain in (1.0, 2**0.5)]
    policies = jax.tree.map(lambda *x: np.stack(x), *nets)
    masks = jax.device_get(prune(policies, "magnitude", list(np.linspace(0, 0.97, 32))))
    found = certify(policies, masks, eps=1.0, bounds=list(TIGHT))
    values = {name: certificate.value / math.sqrt(11) for name, certificate in found.items()}
    assert all(v.shape == (2, 32) and np.all(np.isfinite(v)) for v in values.values())
    assert values["liplt"][0, 0] == printed("3.9765") and values["liplt"][1, 0] == printed("7.953")
    assert values["eclipse_fast"][0, 0] == printed("4.04581")
    assert values["eclipse_fast"][1, 0] == printed("8.09162")
    # An interior-point solver finds 2.5457816 for it, in minutes.
    assert 2.54578 < values["lipsdp_first_order"][0, 0] < 2.5457816 * 1.003
    ratio = values["lipsdp_first_order"][:, :30] / values["eclipse_fast"][:, :30]
    assert np.all(ratio <= 1) and np.mean(ratio) < 0.7
    actor = jax.tree.map(lambda x, m: x[:, None] * m, policies.params.actor, masks.actor)
    for index in ((0, 10), (1, 25)):
        weights = [layer["kernel"][index].T.astype(np.float64) for layer in actor.values()]
        left, share = in_use(weights), root(weights) / math.sqrt(11)
        for name, reference in (("liplt", numpy_liplt), ("eclipse_fast", numpy_eclipse_fast)):
            assert values[name][index] == pytest.approx(reference(left) * share, rel=GRAM)


def test_no_bound_below_the_spectral_product_is_monotone():
    """[[1, 1], [1, -1]], then the identity: zeroing the -1 raises sqrt 2 to the golden ratio."""
    weights = [np.zeros((after, before)) for before, after in itertools.pairwise(ONE)]
    weights[1][:2, :2] = np.eye(2)
    for corner, exact in (([[1, 1], [1, -1]], 2**0.5), ([[1, 1], [1, 0]], (1 + 5**0.5) / 2)):
        weights[0][:2, :2] = corner
        found = tight_bounds(weights)
        for name in TIGHT:
            assert found[name] / 2**0.5 == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("sizes", [ONE, TWO])
def test_lipsdp_is_exact_for_non_negative_weights(sizes):
    """All units can be active at once: the constant is the norm of the product."""
    weights = [np.abs(w) for w in kernels(0, sizes)]
    exact = np.linalg.norm(np.linalg.multi_dot(weights[::-1]), 2) * root(weights)
    found = tight_bounds(weights)
    assert exact <= found["lipsdp_first_order"] <= 1.003 * exact
    assert found["eclipse_fast"] > 1.01 * exact and found["liplt"] > 1.003 * exact


@pytest.mark.parametrize(("shape", "distribution"), [((6, 2), "normal"), ((3, 5), "categorical")])
def test_a_linear_policy_has_the_spectral_norm(shape, distribution):
    w = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    found = certify(policy_of(affine([w]), distribution), eps=0.5, bounds=list(TIGHT))
    for certificate in found.values():
        exact = 0.5 * math.sqrt(shape[1]) * np.linalg.norm(w.astype(np.float64), 2)
        assert exact <= certificate.value <= exact * (1 + GRAM)
        assert not certificate.monotone and certificate.scope == "global"


CASES = [
    (ONE, 0, 0.0),
    (TWO, 1, 0.0),
    (TWO, 1, 0.7),
    (TWO, 2, 0.4),
    (THREE, 1, 0.0),
    (THREE, 1, 0.7),
    (THREE, 4, 0.4),
]


@pytest.mark.parametrize(("sizes", "seed", "sparsity"), CASES)
def test_bounds_agree_with_their_references_and_are_in_order(sizes, seed, sparsity):
    """numpy for the closed forms, a solver for the descent, which starts far from the optimum."""
    weights = kernels(seed, sizes, sparsity)
    found = {name: value / root(weights) for name, value in tight_bounds(weights).items()}
    left = in_use(weights)
    assert found["liplt"] == pytest.approx(numpy_liplt(left), rel=GRAM)
    assert found["eclipse_fast"] == pytest.approx(numpy_eclipse_fast(left), rel=GRAM)
    assert all(value <= found["spectral"] for value in found.values())
    oracle = solved(sizes, seed, sparsity)
    assert oracle * (1 - 1e-5) <= found["lipsdp_first_order"] <= oracle * 1.005
    assert found["lipsdp_first_order"] < 0.9 * found["eclipse_fast"]


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(8, 32, 32, 6), (2, 20, 20, 6), (6, 16, 16, 1), THREE])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.8])
def test_first_order_lipsdp_is_within_a_percent_of_the_solver(sizes, sparsity):
    for seed in range(4):
        weights = kernels(seed, sizes, sparsity)
        value = float(tight_bounds(weights)["lipsdp_first_order"]) / root(weights)
        assert 1 - 1e-5 <= value / solved(sizes, seed, sparsity) <= 1.01


def pattern_norm(rng, weights) -> float:
    """The largest ||W_L D_{L-1} ... D_1 W_1||_2 of 200 diagonals D_k of zeros and ones.

    Every pattern of slopes is a network that the bounds cover: none can be below this.
    """
    product = np.broadcast_to(weights[0], (200, *weights[0].shape))
    for w in weights[1:]:
        slopes = rng.random((200, w.shape[1], 1)) < rng.choice([0.5, 0.9], (200, 1, 1))
        slopes[0] = True
        product = w @ (slopes * product)
    return float(np.max(np.linalg.norm(product, 2, axis=(1, 2))))


@given(
    st.sampled_from([(ONE, "float64"), (TWO, "float64"), (TWO, "float32")]),
    st.integers(0, 10**6),
    st.tuples(*[st.floats(-4, 4)] * 3),
    st.sampled_from([0.0, 0.3, 0.8]),
    st.sampled_from(["gaussian", "rank one", "orthogonal"]),
)
@settings(deadline=None, derandomize=True, max_examples=150)
def test_bounds_hold_for_any_network(case, seed, decades, sparsity, kind):
    """Layers of 1e-4 to 1e4 and of any rank: above all slope patterns, below the spectral norms."""
    (sizes, dtype), rng, weights = case, np.random.default_rng(seed), []
    for (fan_in, fan_out), decade in zip(itertools.pairwise(sizes), decades, strict=False):
        w = rng.standard_normal((fan_out, fan_in))
        if kind == "rank one":
            w = np.outer(w[:, 0], rng.standard_normal(fan_in))
        if kind == "orthogonal":
            left, _, right = np.linalg.svd(w, full_matrices=False)
            w = left @ right
        w = w * (rng.random(w.shape) >= sparsity)
        weights.append((w * 10**decade).astype(dtype))
    found = tight_bounds(weights, dtype=dtype)
    weights = [w.astype(np.float64) for w in weights]
    below = pattern_norm(rng, weights) * root(weights)
    excess = 1e-3 if dtype == "float32" else GRAM
    for name in TIGHT:
        assert found[name].dtype == dtype and np.isfinite(found[name])
        assert below * (1 - 1e-14) <= found[name] <= found["spectral"] * (1 + excess), name
    assert found["lipsdp_first_order"] <= found["eclipse_fast"]


def test_float32_rounds_outward():
    """Never below float64 of the same formula, and at most 0.1 % above it."""
    for seed in range(20):
        weights = [w.astype(np.float32) for w in kernels(seed, TWO, 0.2)]
        low, high = tight_bounds(weights, dtype="float32"), tight_bounds(weights)
        for name in ("liplt", "eclipse_fast"):
            assert high[name] <= low[name] <= high[name] * 1.001
        # Two descents need not end at the same Lambda.
        assert low["lipsdp_first_order"] == pytest.approx(high["lipsdp_first_order"], rel=0.01)


of_scales = jax.jit(lambda weights, scales: _certified(weights, lambda k, _: scales[k])[0])


@given(st.integers(0, 10**6), st.floats(0.5, 1.05), st.sampled_from(["float32", "float64"]))
@settings(deadline=None, derandomize=True, max_examples=200)
def test_any_lambda_is_certified_or_refused(seed, reach, dtype):
    """Near the boundary of the feasible and beyond: never below the exact bound of that Lambda."""
    rng, inverse = np.random.default_rng(seed), np.eye(4)
    weights, scales = [w.astype(dtype) for w in kernels(seed % 9, (4, 9, 7, 2))], []
    exact = [w.astype(np.float64) for w in weights]
    for w, radius in zip(exact[:-1], (min(reach, 0.9), reach), strict=True):
        # The largest eigenvalue of D A D / 4 becomes radius^2, feasible below 1.
        d = np.exp(0.5 * rng.standard_normal(len(w)))
        a = w @ inverse @ w.T
        d = (d * radius / np.linalg.norm(d[:, None] * a * d / 4, 2) ** 0.5).astype(dtype)
        scales.append(d)
        lam = d.astype(np.float64) ** 2
        inverse = np.linalg.inv(np.diag(lam) - lam[:, None] * a * lam / 4)
    with jax.enable_x64(True):
        value = float(of_scales(weights, scales))
    truth = numpy_bound(exact, [d.astype(np.float64) ** 2 for d in scales])
    assert value >= min(truth, 1e3) * (1 - 1e-9)  # the truth itself is uncertain where it is large
    if reach < 0.95:
        assert value <= truth * (1.01 if dtype == "float32" else 1 + GRAM)
    if reach > 1.001:
        assert value == math.inf


def test_slopes_are_those_of_the_smoothed_bound():
    """Against differences of log(trace G^129) / 129 - barrier sum_k log det Z_k."""
    sizes, rng = (3, 6, 7, 5, 2), np.random.default_rng(0)
    weights = kernels(1, sizes)
    logs = [-1.5 * k + 0.2 * rng.standard_normal(n) for k, n in enumerate(sizes[1:-1], 1)]
    with jax.enable_x64(True):
        value, slopes = jax.device_get(jax.jit(_value_and_slopes)(weights, logs, 0.1))
    assert value == pytest.approx(numpy_bound(weights, [np.exp(x) for x in logs]), rel=GRAM)

    def smoothed(flat):
        parts, inverse, barrier = np.split(flat, np.cumsum(sizes[1:-2])), np.eye(sizes[0]), 0.0
        for w, x in zip(weights, parts, strict=False):
            d = np.exp(x / 2)
            z = np.eye(len(w)) - d[:, None] * (w @ inverse @ w.T) * d / 4
            barrier -= 0.1 * np.linalg.slogdet(z)[1]
            inverse = np.linalg.inv(d[:, None] * z * d)
        eigenvalues = np.linalg.eigvalsh(weights[-1] @ inverse @ weights[-1].T)
        largest = eigenvalues[-1]
        return math.log(largest) + math.log(np.sum((eigenvalues / largest) ** 129)) / 129 + barrier

    flat = np.concatenate(logs)
    for i, slope in enumerate(np.concatenate(slopes)):
        move = 1e-5 * (np.arange(len(flat)) == i)
        difference = (smoothed(flat + move) - smoothed(flat - move)) / 2e-5
        assert slope == pytest.approx(difference, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [3, 20])
def test_inverse_root(n, dtype):
    """Of a matrix of condition 1e3, and of one that is not positive definite."""
    left = np.linalg.qr(np.random.default_rng(n).standard_normal((n, n)))[0]
    eigenvalues, unit = np.logspace(0, -3, n), np.finfo(dtype).eps
    z = (left * eigenvalues @ left.T).astype(dtype)
    shifted = (left * (eigenvalues - 1.01 * eigenvalues[-1]) @ left.T).astype(dtype)
    with jax.enable_x64(True):
        found, none = np.asarray(jax.jit(jax.vmap(inverse_root))(np.stack([z, shifted])))
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, np.tril(found))
    np.testing.assert_allclose(found @ z @ found.T, np.eye(n), atol=1e3 * n * unit)
    assert np.any(np.isnan(none))


def test_units_and_inputs_on_no_path_do_not_count():
    """Unread units, units that see nothing, and an input that only they read."""
    weights = kernels(5, TWO)
    weights[0][2], weights[1][:, 3], weights[1][1], weights[2][:, 5] = 0, 0, 0, 0
    weights[0][:, 1] = np.where(np.arange(12) == 3, weights[0][:, 1], 0)
    assert [w.shape for w in in_use(weights)] == [(10, 4), (8, 10), (3, 8)]
    found, left = tight_bounds(weights), in_use(weights)
    for name, reference in (("liplt", numpy_liplt), ("eclipse_fast", numpy_eclipse_fast)):
        assert found[name] == pytest.approx(2 * reference(left), rel=GRAM)
        assert reference(left) < 0.99 * reference(weights)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_without_a_path_the_bound_is_exactly_zero(dtype):
    """A layer of zeros, or layers that miss each other."""
    apart = kernels(6, TWO)
    apart[0][4:], apart[1][:, :4] = 0, 0
    zeroed = [[w * (i != k) for i, w in enumerate(kernels(6, TWO))] for k in range(3)]
    for weights in (apart, *zeroed):
        found = tight_bounds(weights, dtype=dtype)
        assert [found[name] for name in TIGHT] == [0.0] * 3


def test_the_bounds_scale_with_every_layer():
    """Bit for bit in powers of two, beyond what the squares of the entries could hold."""
    weights = kernels(7, TWO)
    one = tight_bounds(weights)
    for exponents in ([3, -2, 0], [-60, 50, 5], [700, -900, 190]):
        scaled = tight_bounds([w * 2.0**e for w, e in zip(weights, exponents, strict=True)])
        for name in TIGHT:
            assert scaled[name] == one[name] * 2.0 ** sum(exponents)
    tiny = tight_bounds([w * 1e-30 for w in weights], dtype="float32")
    assert all(0 < tiny[name] < 1e-37 for name in TIGHT)


@pytest.mark.parametrize("distribution", HEADS)
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_no_perturbation_in_the_ball_exceeds_a_bound(distribution, activation):
    """Corners of the ball at random and along the gradient, at 64 states."""
    rng, layers = np.random.default_rng(8), network(8, ONE)
    eps, std = rng.uniform(0, 0.5, ONE[0]), 0.4
    policy = policy_of(layers, distribution, activation, std)
    states = rng.standard_normal((64, ONE[0])).astype("float32")
    moves = (rng.choice([-1, 1], (32, ONE[0])) * eps).astype("float32")

    def distance(x, move):
        return action_distribution(policy, x).distance(action_distribution(policy, x + move))

    def at_state(x):
        uphill = jax.vmap(jax.grad(partial(distance, x)))(moves)
        corners = jnp.concatenate([moves, jnp.sign(uphill) * moves[0] * jnp.sign(moves[0])])
        return jnp.max(jax.vmap(partial(distance, x))(corners))

    found = np.max(jax.jit(jax.vmap(at_state))(states))
    inv_std = 1 / std if distribution == "normal" else 1.0
    values = tight_bounds([w for w, _ in layers], eps, inv_std)
    assert all(0.1 * values[name] < found <= values[name] for name in TIGHT)


def test_an_activation_that_is_steeper():
    """Units at the steepest slope of swish, 1.0998: only `liplt` allows for it."""
    size = 6
    first = Affine(np.eye(size), np.full(size, BEND))
    layers = [first, Affine(np.ones((1, size)), np.zeros(1))]
    policy = policy_of(layers, activation="swish")
    eps = 1e-3
    ends = np.array([[0.0], [eps]], "float32") * np.ones(size, "float32")
    clean, moved = (action_distribution(policy, x) for x in ends)
    found = float(clean.distance(moved))
    assert found > 1.0998 * size * eps * 0.999
    value = certify(policy, eps=eps, bounds=["liplt"])["liplt"].value
    assert found <= value <= 1.0999 * size * eps
    assert not any(holds_for(BOUNDS[name], "swish") for name in TIGHT if name != "liplt")
    for name in ("eclipse_fast", "lipsdp_first_order"):
        with pytest.raises(InputError, match=rf"{name}.*slopes in \[0, 1\].*'swish'.*liplt"):
            certify(policy, eps=eps, bounds=[name])


def test_nothing_calls_lapack():
    """Its batched calls, inside a loop on two CPU devices at once, block each other."""
    weights = [w.astype("float32") for w in kernels(0, (5, 20, 20, 3))]
    ones = np.ones(5, "float32"), np.ones(3, "float32")
    assert "custom_call" not in of_weights.lower(weights, *ones).as_text()
