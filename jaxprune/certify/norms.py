"""Global bounds from products of norms: one number per policy, valid at every state.

They ask of the activation only slopes in [0, 1] and element-wise action (tanh, ReLU). Biases do
not enter.

`frobenius` and `path` are nondecreasing functions of every |w_ij|, term by term and in floating
point too, so masking can only lower them. `spectral` is tighter and is not: zeroing the -1 of
[[1, 1], [1, -1]] raises the norm from 1.41421 to 1.61803.
"""

import jax
import jax.numpy as jnp

from jaxprune.certify.query import Query, length, unit_ball_weights
from jaxprune.certify.rounding import outward
from jaxprune.types import Array

# Squarings of the Gram iteration; the excess over sigma_max is at most rank^(2^-21), 2e-6 at 64.
GRAM_ITERATIONS = 20


def frobenius(query: Query) -> Array:
    """sqrt(obs_size) * prod_k ||W_k||_F, eps and 1 / sigma folded in.

    The l_inf ball lies in the l_2 ball of radius sqrt(obs_size) * eps, and ||W||_2 <= ||W||_F.
    """
    weights = unit_ball_weights(query)
    bound = jnp.sqrt(jnp.asarray(query.eps.size, query.eps.dtype))
    for w in weights:
        bound = bound * jnp.sqrt(jnp.sum(w * w))
    return outward(bound, sum(w.size for w in weights))


def path(query: Query) -> Array:
    """|| |W_L| ... |W_1| eps ||, l_2 for a Gaussian policy and l_inf for logits.

    The inf -> 2 (inf -> inf) path norm: never above the Frobenius product, for one chain of
    matrix-vector products. The cheapest good monotone bound.
    """
    weights = unit_ball_weights(query)
    reach = jnp.ones_like(query.eps)  # how far each unit can move
    for w in weights:
        # Sums of products rather than a matrix product: one order of addition on every device.
        reach = jnp.sum(jnp.abs(w) * reach, axis=-1)
    return outward(length(query, reach), sum(w.shape[1] for w in weights) + weights[-1].shape[0])


def spectral(query: Query) -> Array:
    """sqrt(obs_size) * prod_k ||W_k||_2, each factor an upper bound by Gram iteration."""
    weights = unit_ball_weights(query)
    bound = jnp.sqrt(jnp.asarray(query.eps.size, query.eps.dtype))
    for w in weights:
        bound = bound * spectral_norm(w)
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
    return jnp.where(jnp.any(w != 0), outward(scale * jnp.exp(log_norm), n**1.5 + m), zero)


def _frobenius_norm(w: Array) -> Array:
    """||W||_F, at least the smallest normal number: dividing by it is safe."""
    return jnp.maximum(jnp.sqrt(jnp.sum(w * w)), jnp.finfo(w.dtype).tiny)
