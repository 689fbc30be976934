"""Global bounds from the whole network at once, l_2 to l_2: tight, and not monotone.

`liplt` and `eclipse_fast` are closed forms, neither above the product of the spectral norms;
`lipsdp_first_order` optimises what `eclipse_fast` fixes. They ask of the activation only
element-wise action, and `eclipse_fast` and `lipsdp_first_order` slopes in [0, 1] (tanh, ReLU, not
swish). Biases do not enter. The l_inf ball is enclosed in the
l_2 ball of radius sqrt(d), d the inputs that reach an output (all of obs_size unless pruned), and
the l_inf change of logits is bounded by the l_2 change.

Masking can raise them: no bound that is never above the spectral product can be monotone. The mask
of `norms`, with the identity behind, raises all three from 1.41421 to 1.61803.

`eclipse_fast` and `lipsdp_first_order` rest on one statement. Let Lambda_k be diagonal, positive,

    X_0 = I,   X_k = Lambda_k - Lambda_k W_k X_{k-1}^-1 W_k' Lambda_k / 4,   k = 1 ... L-1.

If every X_k is positive definite, the outputs move by at most ||W_L X_{L-1}^(-1/2)||_2 per unit of
l_2 change of the inputs. Any Lambda proves a bound, so no solver has to be trusted. The least of
them is the optimum of LipSDP-neuron. The rounding granted to them grows with the square of the
width: in float32 it adds 0.2 % and 10 % for layers of 64 units, and 8 % and 70 % for 256.

Source: Fazlyab et al. 2019 (arXiv 1906.04893), by block elimination.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxprune.certify.activations import activation_rules
from jaxprune.certify.norms import spectral_norm
from jaxprune.certify.query import Query, unit_ball_weights
from jaxprune.certify.rounding import outward, slack
from jaxprune.types import Array, PyTree

# Of `lipsdp_first_order`: within 0.2 % of the optimum for 20 to 128 hidden units.
STEPS = 300
LEARNING_RATE = 0.05  # of log Lambda; falls to 0 along a cosine
GAP = (0.3, 0.01)  # weight of the barrier, first and last: about its share in log L^2
# Several eigenvalues tie at the optimum: the largest is smoothed to the norm of order 2 q + 1.
DOUBLINGS = 6  # q = 2^6
DRAWN_BACK = (0.0, 1e-3, 1e-2, 3e-2, 1e-1)  # delta; float64 hardly ever needs more than 0

# Blocks up to this size are factorised column by column: fewer operations to compile.
SMALLEST_BLOCK = 8


def liplt(query: Query) -> Array:
    """LipLT: sqrt(d) L_n, for kernels W_0 ... W_n and spectral norms.

        sigma(y) = (y + r psi(y)) / 2,  psi 1-Lipschitz
        L_k = 2^-k ||W_k ... W_0|| + r sum_{j<k} 2^(j-k) ||W_k ... W_{j+1}|| L_j

    with r = 1 for slopes in [0, 1], and r = 2 s - 1 for slopes in [1 - s, s].

    Source: Fazlyab et al. 2023 (arXiv 2310.00116).
    """
    spread = 2 * activation_rules(query.activation).steepest - 1
    return _homogeneous(partial(_unrolled, spread), query)


def eclipse_fast(query: Query) -> Array:
    """ECLipsE-Fast: sqrt(d) ||W_L X_{L-1}^(-1/2)||_2, every Lambda_k a multiple of I.

        Lambda_k = (2 / s_k) I,   s_k >= ||W_k X_{k-1}^(-1/2)||_2^2

    With s_k any upper bound, X_k >= I / s_k: no choice can fail.

    Source: Xu and Sivaranjani 2024 (arXiv 2404.04375).
    """
    return _homogeneous(lambda weights: _certified(weights, _eclipse_scale)[0], query)


def lipsdp_first_order(query: Query) -> Array:
    """LipSDP-neuron without a solver: Adam on log Lambda from `eclipse_fast`, and never above it.

    The best iterate is certified afterwards, like any other choice, as it is and drawn back from
    the boundary of the feasible, where rounding can be too large to tell: with
    Lambda_k (1 - delta)^k every Z_k has eigenvalues of at least delta, for (1 - delta)^((1-L)/2)
    times the bound at most.
    """

    def of(weights: list[Array]) -> Array:
        start, scales = _certified(weights, _eclipse_scale)
        if not scales:
            return start  # a single layer: its norm is exact
        logs = _descend(weights, [2 * jnp.log(scale) for scale in scales])

        def drawn_back(delta: Array) -> Array:
            return _certified(
                weights, lambda k, _: jnp.exp(logs[k] / 2) * (1 - delta) ** ((k + 1) / 2)
            )[0]

        found = jax.lax.map(drawn_back, jnp.asarray(DRAWN_BACK, start.dtype))
        return jnp.minimum(jnp.min(found), start)

    return _homogeneous(of, query)


def _homogeneous(of: Callable[[list[Array]], Array], query: Query) -> Array:
    """sqrt(d) * `of` the kernels, for a bound that is of degree 1 in each of them.

    Each kernel is divided by a power of two, exactly, to entries below 1: squares neither overflow
    nor vanish.
    """
    weights = unit_ball_weights(query)
    exponents = [jnp.frexp(jnp.max(jnp.abs(w)))[1] for w in weights]
    weights = _in_use([jnp.ldexp(w, -e) for w, e in zip(weights, exponents, strict=True)])
    inputs = jnp.sum(jnp.any(weights[0] != 0, axis=0), dtype=query.eps.dtype)
    bound = outward(of(weights) * jnp.sqrt(inputs), 4 * len(weights))
    # What is not 0 must not be rounded to it.
    bound = jnp.maximum(jnp.ldexp(bound, sum(exponents)), _tiny(bound.dtype))
    # Without a path from input to output every kernel is 0, and `bound` may be NaN.
    return jnp.where(inputs > 0, bound, 0.0)


def _in_use(weights: list[Array]) -> list[Array]:
    """The kernels without the units that no input reaches or that reach no output."""
    weights = list(weights)
    for k in range(len(weights) - 1):
        weights[k + 1] = jnp.where(jnp.any(weights[k] != 0, axis=1), weights[k + 1], 0)
    for k in reversed(range(len(weights) - 1)):
        weights[k] = jnp.where(jnp.any(weights[k + 1] != 0, axis=0)[:, None], weights[k], 0)
    return weights


def _unrolled(spread: float, weights: list[Array]) -> Array:
    """L_n of `liplt`, rounded outward."""
    reached: list[Array] = []
    for k, last in enumerate(weights):
        factors, product, total = [last], last, jnp.zeros((), last.dtype)
        for j in reversed(range(k)):
            total += spread * 2.0 ** (j - k) * _norm(product, factors) * reached[j]
            factors, product = [*factors, weights[j]], _product(product, weights[j])
        reached.append(total + 2.0**-k * _norm(product, factors))
    return reached[-1]


class Factor(NamedTuple):
    """F = T' / scale, row by row, with X^-1 <= F F'."""

    root: Array  # T [n, n], lower triangular
    scale: Array  # [n]


def _certified(
    weights: list[Array], scale_of: Callable[[int, Array], Array]
) -> tuple[Array, list[Array]]:
    """||W_L X_{L-1}^(-1/2)||_2 rounded outward, and the scales D_k = Lambda_k^(1/2) it holds for.

    If X_{k-1}^-1 <= F F', then with C = D_k W_k F

        X_k >= D_k Z D_k,   Z = I - C C' / 4,

    and if T Z T' = I + E, ||E||_2 < 1, then Z is positive definite, Z^-1 <= T'T / (1 - ||E||_2).
    Nothing else is assumed of the computed T: E is computed too, and its rounding bounded.

    Args:
        weights: entries of ordinary size.
        scale_of: `(k, W_k F [out, in]) -> [out]`, positive.

    Returns:
        inf if some ||E||_2 >= 1: Lambda is not feasible, or this arithmetic cannot tell.
    """
    dtype, inputs = weights[0].dtype, weights[0].shape[1]
    factor = Factor(jnp.eye(inputs, dtype=dtype), jnp.ones(inputs, dtype))
    scales: list[Array] = []
    for k, w in enumerate(weights[:-1]):
        after, before = w.shape
        moved = _product(w / factor.scale, factor.root.T)
        scale = scale_of(k, moved)
        z = _complement(scale[:, None] * moved)
        root = inverse_root(z)
        error = _product(_product(root, z), root.T) - jnp.eye(after, dtype=dtype)
        # T Z T' has the terms T T' and -(T D W F) (T D W F)' / 4.
        terms = _size(root) ** 2
        terms += _size(root, scale[:, None] * w / factor.scale, factor.root.T) ** 2 / 4
        error = outward(_size(error), after) + slack(2 * after + 3 * before, dtype) * terms
        factor = Factor(root, scale * jnp.sqrt(1 - error))  # NaN if error > 1
        scales.append(scale)
    last = weights[-1] / factor.scale
    bound = _norm(_product(last, factor.root.T), [last, factor.root.T])
    return jnp.where(jnp.isfinite(bound), bound, jnp.inf), scales


def _eclipse_scale(k: int, moved: Array) -> Array:
    """(2 / s)^(1/2), s = ||W F||_2^2, for every unit."""
    del k  # the same rule in every layer
    norm = jnp.maximum(spectral_norm(moved), _tiny(moved.dtype))
    return jnp.full(len(moved), 2**0.5 / norm)


def _descend(weights: list[Array], logs: list[Array]) -> list[Array]:
    """log Lambda of the least bound among `STEPS` iterates of Adam."""
    adam, dtype = optax.scale_by_adam(), logs[0].dtype
    units = sum(len(x) for x in logs)
    first, last = GAP

    def step(i, carry):
        logs, state, best, least = carry
        done = jnp.asarray(i, dtype) / STEPS
        barrier = first * (last / first) ** done / units
        value, slopes = _value_and_slopes(weights, logs, barrier)
        feasible, better = ~jnp.isnan(value), value < least
        best, least = _select(better, (logs, value), (best, least))
        updates, state = adam.update(slopes, state)
        rate = LEARNING_RATE * (1 + jnp.cos(jnp.pi * done)) / 2
        moved = jax.tree.map(lambda x, update: x - rate * update, logs, updates)
        # Of an infeasible point nothing is known: halfway back to the best, without momentum.
        halfway = [(x + b) / 2 for x, b in zip(logs, best, strict=True)]
        logs, state = _select(feasible, (moved, state), (halfway, adam.init(logs)))
        return logs, state, best, least

    carry = logs, adam.init(logs), logs, jnp.full((), jnp.inf, dtype)
    return jax.lax.fori_loop(0, STEPS, step, carry)[2]


def _value_and_slopes(
    weights: list[Array], logs: list[Array], barrier: Array
) -> tuple[Array, list[Array]]:
    """L = ||W_L X_{L-1}^(-1/2)||_2, NaN if infeasible, and the slopes of its smoothed logarithm.

        phi = log(trace G^p) / p - barrier * sum_k log det Z_k,   G = W_L X_{L-1}^-1 W_L'

    with p = 2 q + 1, Z_k and F as in `_certified`. Without the barrier, Z_k becomes singular in
    directions that G does not see, and Adam steps across.

    The slopes by hand, with d phi / d X_k = -F_k Y_k F_k' from the outputs back:

        Y_{L-1} = (W_L F)' U (W_L F) + barrier I,   U = G^(2q) / trace G^p
        H_k = T_k' Y_k T_k,   d phi / d log Lambda_k = diag(H_k) - 2 diag(Z_k H_k) + barrier
        Y_{k-1} = C_k' H_k C_k / 4 + barrier I
    """
    factor = jnp.eye(weights[0].shape[1], dtype=weights[0].dtype)
    tape = []
    for w, x in zip(weights[:-1], logs, strict=True):
        scale = jnp.exp(x / 2)[:, None]
        c = scale * _product(w, factor)
        z = _complement(c)
        root = inverse_root(z)
        factor = root.T / scale
        tape.append((c, z, root))
    outputs = _product(weights[-1], factor)
    gram = _product(outputs, outputs.T)
    power = gram / jnp.max(gram)
    for _ in range(DOUBLINGS + 1):
        power = _product(power, power)
        power = power / jnp.max(power)
    adjoint = _product(outputs.T, _product(power / jnp.sum(power * gram), outputs))
    slopes = []
    for c, z, root in reversed(tape):
        adjoint += barrier * jnp.eye(len(adjoint), dtype=adjoint.dtype)
        inner = _product(root.T, _product(adjoint, root))
        slopes.append(jnp.diag(inner) - 2 * jnp.sum(z * inner, axis=1) + barrier)
        adjoint = _product(c.T, _product(inner, c)) / 4
    return spectral_norm(outputs), slopes[::-1]


def inverse_root(z: Array) -> Array:
    """Lower-triangular T with T z T' = I, `[n, n]`; NaN unless z is positive definite.

    Cholesky by halves, in matrix products: batched calls of LAPACK inside a loop block each other
    when two CPU devices run them at once, and cost more for small matrices.
    """
    n = len(z)
    if n <= SMALLEST_BLOCK:
        return _inverse_root_by_columns(z)
    half = n // 2
    first = inverse_root(z[:half, :half])
    below = _product(z[half:, :half], first.T)
    second = inverse_root(z[half:, half:] - _product(below, below.T))
    corner = -_product(second, _product(below, first))
    return jnp.block([[first, jnp.zeros((half, n - half), z.dtype)], [corner, second]])


def _inverse_root_by_columns(z: Array) -> Array:
    """Gaussian elimination of [z, I], every row divided by the root of its pivot."""
    n = len(z)

    def eliminate(j: Array, rows: Array) -> Array:
        row = rows[j] / jnp.sqrt(rows[j, j])
        below = jnp.where(jnp.arange(n) > j, row[:n], 0)
        return (rows - below[:, None] * row).at[j].set(row)

    rows = jnp.concatenate([z, jnp.eye(n, dtype=z.dtype)], axis=1)
    return jax.lax.fori_loop(0, n, eliminate, rows)[:, n:]


def _complement(c: Array) -> Array:
    """I - c c' / 4."""
    return jnp.eye(len(c), dtype=c.dtype) - _product(c, c.T) / 4


def _norm(product: Array, factors: list[Array]) -> Array:
    """An upper bound of the spectral norm of the product of `factors`, computed as `product`."""
    inner = sum(f.shape[1] for f in factors[:-1])
    return spectral_norm(product) + slack(inner, product.dtype) * _size(*factors)


def _size(*factors: Array) -> Array:
    """At least || |A| |B| ... ||_2, by which roundings of the product A B ... are relative.

    sqrt(||.||_1 ||.||_inf), by matrix-vector products.
    """
    rows = jnp.ones(factors[-1].shape[1], factors[-1].dtype)
    for f in reversed(factors):
        rows = jnp.sum(jnp.abs(f) * rows, axis=1)
    columns = jnp.ones(len(factors[0]), factors[0].dtype)
    for f in factors:
        columns = jnp.sum(jnp.abs(f) * columns[:, None], axis=0)
    return jnp.sqrt(jnp.max(rows) * jnp.max(columns))


def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _select(condition: Array, chosen: PyTree, otherwise: PyTree) -> PyTree:
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), chosen, otherwise)


def _tiny(dtype: jnp.dtype) -> float:
    return float(jnp.finfo(dtype).tiny)
