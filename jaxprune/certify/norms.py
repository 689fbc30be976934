"""Global bounds from norms of the weights: one number per policy, valid at every state.

They ask of the activation only element-wise action and its steepest slope, 1 for tanh and ReLU:
sigma / 1.1 of swish has slopes of at most 1, and the 1.1 of every layer widens the ball.
`centre_free` asks which of them it is. Biases do not enter.

All but `spectral` are nondecreasing functions of every |w_ij|, term by term and in floating point
too, so masking can only lower them:

    path <= path_22 <= abs_spectral <= frobenius
    path <= path_infinf <= inf_product
    centre_free <= path

`spectral` is tighter and is not: zeroing the -1 of [[1, 1], [1, -1]] raises the norm from 1.41421
to 1.61803. No sound bound that is never above it can be monotone.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import reduce

import jax
import jax.numpy as jnp

from jaxprune.certify.activations import activation_rules
from jaxprune.certify.activations.tanh import ROUNDINGS
from jaxprune.certify.query import Query, length, unit_ball_weights
from jaxprune.certify.rounding import outward, product
from jaxprune.types import Array

# Squarings of the Gram iteration; the excess over sigma_max is at most rank^(2^-21), 2e-6 at 64.
GRAM_ITERATIONS = 20
# The same for non-negative matrices, whose largest singular value mostly stands apart: the excess
# is below 1e-6 at 64 if the second is 0.95 of it, and at most rank^(2^-8), 1.7 % at 64.
SQUARINGS = 7
# Rows per step of a matrix product.
UNROLL = 8


def frobenius(query: Query) -> Array:
    """sqrt(obs_size) * prod_k ||W_k||_F, eps and 1 / sigma folded in.

    The l_inf ball lies in the l_2 ball of radius sqrt(obs_size) * eps, and ||W||_2 <= ||W||_F.
    """
    weights = _sizes(query)
    bound = _root_size(query)
    for w in weights:
        bound = product(bound, jnp.sqrt(jnp.sum(product(w, w))))
    return outward(bound, sum(w.size for w in weights))


def abs_spectral(query: Query) -> Array:
    """sqrt(obs_size) * prod_k || |W_k| ||_2: ||W||_2 <= || |W| ||_2 <= ||W||_F.

    The norm of |W| is within a factor 2 of the largest that ||W||_2 can take under any mask: no
    monotone bound of one layer can be much tighter.
    """
    weights = _sizes(query)
    bound = _root_size(query)
    for w in weights:
        bound = product(bound, nonnegative_norm(w))
    return outward(bound, sum(sum(w.shape) for w in weights))


def path_22(query: Query) -> Array:
    """sqrt(obs_size) * || |W_L| ... |W_1| ||_2: the 2 -> 2 path norm."""
    weights = _sizes(query)
    paths = reduce(lambda p, w: _product(w.T, p, product), weights[1:], weights[0])
    bound = product(_root_size(query), nonnegative_norm(paths))
    return outward(bound, sum(w.shape[1] for w in weights) + sum(paths.shape))


def inf_product(query: Query) -> Array:
    """prod_k ||W_k||_inf, the largest row sums of |W_k|; times sqrt(outputs) for a Gaussian."""
    weights = _sizes(query)
    rows = [jnp.max(jnp.sum(w, axis=-1)) for w in weights]
    return outward(_of_largest(query, reduce(product, rows)), sum(w.shape[1] for w in weights))


def path_infinf(query: Query) -> Array:
    """|| |W_L| ... |W_1| ||_inf, times sqrt(outputs) for a Gaussian; for logits it is `path`."""
    weights = _sizes(query)
    largest = jnp.max(_reach(query, weights))
    return outward(_of_largest(query, largest), sum(w.shape[1] for w in weights))


def path(query: Query) -> Array:
    """|| |W_L| ... |W_1| eps ||, l_2 for a Gaussian policy and l_inf for logits.

    The inf -> 2 (inf -> inf) path norm: never above the Frobenius product, for one chain of
    matrix-vector products. The cheapest good monotone bound.
    """
    weights = _sizes(query)
    reach = _reach(query, weights)
    return outward(length(query, reach), sum(w.shape[1] for w in weights) + reach.size)


def centre_free(query: Query) -> Array:
    """The path bound with saturation, ||q_L|| of

        q_0 = eps,  q_k = 2 tanh(|W_k| q_{k-1} / 2),  q_L = |W_L| q_{L-1}

    |tanh a - tanh b| <= 2 tanh(|a - b| / 2), so |f(x + delta) - f(x)| <= q_L, element by element
    and at every x. Far below `path` for a large ball, where that lets units move by more than 2;
    the same for ReLU and swish, which do not saturate.
    """
    weights = _sizes(query)
    reach = _reach(query, weights, activation_rules(query.activation).increment)
    operations = sum(w.shape[1] + ROUNDINGS for w in weights) + reach.size
    return outward(length(query, reach), operations)


def spectral(query: Query) -> Array:
    """sqrt(obs_size) * prod_k ||W_k||_2, each factor an upper bound by Gram iteration."""
    bound = _root_size(query)
    for w in unit_ball_weights(_widened(query)):
        bound = product(bound, spectral_norm(w))
    return bound


def spectral_norm(w: Array) -> Array:
    """An upper bound of the largest singular value of `[m, n]`, exact to a few parts in 1e6.

        G_0 = W,  G_{t+1} = G_t' G_t,  sigma_max(W) <= ||G_t||_F^(2^-t)

    (power iteration would be a *lower* bound). G is rescaled at every step to stay in range.

    Source: Delattre et al. 2023 (arXiv 2305.16173).
    """
    small = w if w.shape[0] >= w.shape[1] else w.T  # w'w on the shorter side

    def square(_, carry):
        gram, log_scale = carry
        norm = _frobenius_norm(gram)
        gram = gram / norm
        gram = jnp.matmul(gram.T, gram, precision=jax.lax.Precision.HIGHEST)
        return gram, 2 * (log_scale + jnp.log(norm))

    zero = jnp.zeros((), w.dtype)
    # Scaled by the largest entry, products neither overflow nor vanish, and the logarithm stays
    # small: its rounding error would grow with |log sigma|, beyond what `outward` covers.
    scale = jnp.maximum(jnp.max(jnp.abs(w)), jnp.finfo(w.dtype).tiny)
    # The first product changes the shape, so it stands before the loop.
    gram, log_scale = square(0, (small / scale, zero))
    gram, log_scale = jax.lax.fori_loop(1, GRAM_ITERATIONS, square, (gram, log_scale))
    log_norm = (jnp.log(_frobenius_norm(gram)) + log_scale) / 2**GRAM_ITERATIONS
    n, m = small.shape[1], small.shape[0]
    # Squaring t adds at most a relative n^1.5 u, and the root divides it by 2^t: n^1.5 + m in all.
    return jnp.where(jnp.all(w == 0), zero, outward(scale * jnp.exp(log_norm), n**1.5 + m))


def nonnegative_norm(a: Array) -> Array:
    """||A||_2 of a non-negative matrix `[m, n]` from above, nondecreasing in every entry.

        G_0 = A,  G_{t+1} = G_t' G_t,  ||A||_2 <= ||G_T||_F^(2^-T) <= rank^(2^-T / 2) ||A||_2

    Nondecreasing bit for bit, but for rounding outward (`m + n` operations). Sums, products and
    roots of non-negative numbers round monotonically. G is rescaled by powers of two: that is
    exact, so all roundings are those of a G that could grow without limit. What would vanish when
    it is rescaled is raised to a floor, a fixed fraction of the power of two next to the largest
    entry, and that is nondecreasing in the entries too.
    """

    def square(gram: Array, _) -> tuple[Array, Array]:
        gram, scale = _rescaled(gram)
        return _product(gram, gram), scale

    def root(norm: Array, scale: Array) -> tuple[Array, None]:
        return scale * jnp.sqrt(norm), None

    small = a if a.shape[0] >= a.shape[1] else a.T  # a'a on the shorter side
    # The first product changes the shape, so it stands before the loop.
    gram, first = square(small, None)
    gram, scales = jax.lax.scan(square, gram, length=SQUARINGS - 1)
    gram, last = _rescaled(gram)
    norm = last * jnp.sqrt(jnp.sum(gram * gram))
    norm, _ = jax.lax.scan(root, norm, scales, reverse=True)
    norm, _ = root(norm, first)
    return jnp.where(jnp.all(a == 0), jnp.zeros_like(norm), norm)  # NaN is not 0


def _rescaled(gram: Array) -> tuple[Array, Array]:
    """(H, p): H the larger of G / p and a floor, p the power of two next to the largest entry.

    Products of two entries of H are normal numbers.
    """
    info = jnp.finfo(gram.dtype)
    power = jax.lax.reduce_precision(jnp.max(gram), exponent_bits=info.nexp, mantissa_bits=0)
    power = jnp.maximum(power, info.tiny)
    floor = 2.0 ** (info.minexp // 2 + 8)
    return jnp.maximum(gram / power, floor), power


def _product(a: Array, b: Array, times: Callable = jnp.multiply) -> Array:
    """a' b `[n, p]` of `[m, n]` and `[m, p]`, row after row.

    One order of addition on every device, which a matrix product does not promise.
    """
    zero = jnp.zeros((a.shape[1], b.shape[1]), a.dtype)
    add = lambda total, rows: (total + times(rows[0][:, None], rows[1]), None)  # noqa: E731
    return jax.lax.scan(add, zero, (a, b), unroll=UNROLL)[0]


def _sizes(query: Query) -> list[Array]:
    """|W| of every kernel with eps folded into the first; what is not 0 does not become 0."""
    first, *others = (jnp.abs(layer.weight) for layer in query.layers)
    return [product(first, _widened(query).eps), *others]


def _widened(query: Query) -> Query:
    """The query with a ball that makes up for activations taken to have slopes of at most 1."""
    hidden = len(query.layers) - 1
    return replace(query, eps=query.eps * activation_rules(query.activation).steepest ** hidden)


def _reach(query: Query, weights: list[Array], increment=lambda z: z) -> Array:
    """How far each output can move, `[outputs]`, if a hidden unit moves by increment(its input)."""
    *hidden, last = weights
    reach = jnp.ones_like(query.eps)
    for w in hidden:
        # Sums of products rather than a matrix product: one order of addition on every device.
        reach = increment(jnp.sum(product(w, reach), axis=-1))
    return jnp.sum(product(last, reach), axis=-1)


def _of_largest(query: Query, largest: Array) -> Array:
    """A bound on the change of the outputs from one on the largest of its elements."""
    outputs = query.layers[-1].bias.size if query.norm == "l2" else 1
    return largest * jnp.sqrt(jnp.asarray(outputs, largest.dtype))


def _root_size(query: Query) -> Array:
    """sqrt(obs_size): the l_inf ball lies in the l_2 ball that is so many times wider."""
    return jnp.sqrt(jnp.asarray(query.eps.size, query.eps.dtype))


def _frobenius_norm(w: Array) -> Array:
    """||W||_F, at least the smallest normal number: dividing by it is safe."""
    return jnp.maximum(jnp.sqrt(jnp.sum(w * w)), jnp.finfo(w.dtype).tiny)
