"""The bytes that a network takes on a device: dense, as compressed rows, as 8-bit integers.

Kernels here are numpy arrays `[in, out]`, float32; a row is the weights of one output.
"""

from typing import NamedTuple

import jax
import numpy as np

from jaxprune.pruning.accounting import Network, in_order
from jaxprune.pruning.compact import compact
from jaxprune.pruning.masks import masked_on_host
from jaxprune.types import Masks, Policy
from jaxprune.validation import lookup

# Levels of an 8-bit integer on each side of 0.
LEVELS = 127


class Rows(NamedTuple):
    """A kernel without its zeros; row j is `values[starts[j] : starts[j + 1]]`.

    Indices are of the smallest unsigned type that holds all of the kernel's.
    """

    values: np.ndarray  # [kept]
    columns: np.ndarray  # [kept], the input that each value is for
    starts: np.ndarray  # [out + 1]


class Int8(NamedTuple):
    """A kernel as whole numbers: W[i, j] is about `levels[i, j] * scale[j]`."""

    levels: np.ndarray  # [..., in, out], whole numbers in [-127, 127], of the kernel's float type
    scale: np.ndarray  # [..., out]


class Sizes(NamedTuple):
    """Bytes of the layers of one network; biases and scales are float32 everywhere."""

    dense: int  # float32
    rows: int  # float32 as compressed rows
    compact: int  # float32, dense, without the units that do nothing (`jaxprune.compact`)
    int8: int  # 8-bit integers with a scale per output
    int8_rows: int  # the same as compressed rows


def compressed(kernel: np.ndarray) -> Rows:
    """Returns the compressed sparse rows (CSR) of a kernel `[in, out]`."""
    rows, columns = np.nonzero(kernel.T)
    starts = np.searchsorted(rows, np.arange(kernel.shape[1] + 1))
    index = np.min_scalar_type(max(kernel.shape[0] - 1, 0))
    return Rows(
        kernel[columns, rows],
        columns.astype(index),
        starts.astype(np.min_scalar_type(len(rows))),
    )


def as_int8(kernel: np.ndarray) -> Int8:
    """Returns the symmetric quantisation of a kernel, one scale per output.

    s_j = max_i |W_ij| / 127 and q_ij = round(W_ij / s_j), halves to even. Zeros stay 0, and
    |q_ij s_j - W_ij| <= s_j / 2 to rounding.
    """
    scale = np.max(np.abs(kernel), axis=-2) / np.float32(LEVELS)
    wide = scale[..., None, :]
    levels = np.divide(kernel, wide, out=np.zeros_like(kernel), where=wide > 0)
    return Int8(np.clip(np.rint(levels), -LEVELS, LEVELS), scale)


def storage_bytes(policy: Policy, masks: Masks | None = None, network: str = "actor") -> Sizes:
    """Returns what the layers of a network take on a device.

    Args:
        policy: one agent, of finite numbers.
        masks: of that agent, True = keep; None keeps everything. Weights that are 0 for another
            reason need no place in compressed rows either.
        network: "actor" or "critic".

    Raises:
        InputError: several agents at once, masks of other shapes, or an unknown network.
    """
    layers, small = (
        _float32(lookup(each.params._asdict(), network, "network"))
        for each in (masked_on_host(policy, masks), compact(policy, masks))
    )
    biases = _bytes(*(layer["bias"] for layer in layers))
    kernels = [layer["kernel"] for layer in layers]
    quantised = [as_int8(kernel) for kernel in kernels]
    levels = [q.levels.astype(np.int8) for q in quantised]
    scales = _bytes(*(q.scale for q in quantised))
    return Sizes(
        dense=biases + _bytes(*kernels),
        rows=biases + _bytes(*(x for kernel in kernels for x in compressed(kernel))),
        compact=_bytes(*(x for layer in small for x in layer.values())),
        int8=biases + scales + _bytes(*levels),
        int8_rows=biases + scales + _bytes(*(x for q in levels for x in compressed(q))),
    )


def _float32(network: Network) -> list[dict[str, np.ndarray]]:
    return jax.tree.map(lambda x: np.asarray(x, np.float32), in_order(network))


def _bytes(*arrays: np.ndarray) -> int:
    return sum(array.nbytes for array in arrays)
