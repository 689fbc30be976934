"""Linear systems of a symmetric positive definite matrix, without LAPACK.

On CPU, JAX hands Cholesky factors and triangular solves of a batch to LAPACK, and LAPACK's calls to
the threads on which XLA also runs the devices. Where there are as many devices as threads, as
`jaxprune.devices.configure` makes them, and a batch is worth splitting, every thread can come to
wait for pieces that no thread is left to compute, forever. What is written here is part of the
compiled program and calls nothing. For the sizes of robots it is not slower.
"""

import jax.numpy as jnp

from jaxprune.types import Array


def solve_positive(matrix: Array, right: Array) -> Array:
    """x `[n]` with A x = b, by the factors A = L D L' (L unit lower triangular, D diagonal).

    Step j takes row and column j from what is left of A: D_j = A_jj, L_ij = A_ij / D_j and
    A <- A - L_j D_j L_j'. With b as one more column, the rows taken are D L' and D L' x; back
    substitution leaves x. Unrolled, as a loop could not shrink what is left.

    Args:
        matrix: A `[n, n]`, symmetric positive definite: pivots need no choice.
        right: b `[n]`.
    """
    left = jnp.concatenate([matrix, right[:, None]], axis=1)
    rows = []
    for _ in range(len(right)):
        row = left[0]
        rows.append(row)
        left = left[1:, 1:] - jnp.outer(left[1:, 0] / row[0], row[1:])
    x = right[:0]
    for row in reversed(rows):
        x = jnp.concatenate([(row[-1:] - row[1:-1] @ x) / row[0], x])
    return x
