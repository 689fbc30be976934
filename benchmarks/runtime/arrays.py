"""Pytrees as named arrays, and back: what a file without pickles can hold."""

from collections.abc import Mapping
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa

from jaxprune.types import AnyArray, PyTree

Arrays: TypeAlias = dict[str, np.ndarray]

# Text is stored once per value, as code points: a column of names repeats a few of them.
_CODES, _VALUES = "|codes", "|values"


def packed(tree: PyTree) -> Arrays:
    """The leaves by their paths, on the host; typed keys as their data."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): _plain(leaf) for path, leaf in leaves}


def unpacked(like: PyTree, arrays: Mapping[str, np.ndarray]) -> PyTree:
    """The tree that `packed` took apart.

    Args:
        like: a tree of the same structure; its leaves need a `dtype` only.
        arrays: by path.
    """

    def find(path: jax.tree_util.KeyPath, leaf: AnyArray) -> PyTree:
        found = arrays[jax.tree_util.keystr(path)]
        return jax.random.wrap_key_data(jnp.asarray(found)) if _is_key(leaf) else found

    return jax.tree_util.tree_map_with_path(find, like)


def skeleton(kind: type) -> PyTree:
    """What `unpacked` takes for a NamedTuple of arrays, given its class."""
    return kind(*kind._fields)


def under(name: str, arrays: Mapping[str, object]) -> Arrays:
    """The arrays with names below `name`."""
    return {f"{name}/{key}": np.asarray(value) for key, value in arrays.items()}


def part(name: str, arrays: Mapping[str, np.ndarray]) -> Arrays:
    """The arrays whose names are below `name`, by the rest of their names."""
    return {
        key.removeprefix(f"{name}/"): value
        for key, value in arrays.items()
        if key.startswith(f"{name}/")
    }


def encoded(arrays: Mapping[str, np.ndarray]) -> Arrays:
    """Numbers alone, without gaps: text columns as codes and values, all others as they are."""
    found: Arrays = {}
    for name, values in arrays.items():
        if values.dtype.kind not in "OU":
            found[name] = np.asarray(values, order="C")
            continue
        column = pa.array(values.tolist(), pa.string()).dictionary_encode()
        found[name + _CODES] = column.indices.to_numpy()
        words = np.array(column.dictionary.to_pylist(), str)
        found[name + _VALUES] = words[:, None].view(np.uint32)
    return found


def decoded(arrays: Mapping[str, np.ndarray]) -> Arrays:
    """What `encoded` was given, text as fixed-width strings."""
    found: Arrays = {}
    for name, values in arrays.items():
        if name.endswith(_CODES):
            column = name.removesuffix(_CODES)
            points = arrays[column + _VALUES]
            found[column] = points.view(f"U{points.shape[1]}")[:, 0][values]
        elif not name.endswith(_VALUES):
            found[name] = values
    return found


def joined(tables: list[Arrays]) -> Arrays:
    """Tables with the same columns, one below the other."""
    return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}


def _is_key(leaf: AnyArray) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(leaf: AnyArray) -> np.ndarray:
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
