"""Bytes on a device: what the arrays take, and that they still say what the kernel says."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune.policy import init_policy
from jaxprune.pruning import mask_policy, prune
from jaxprune.pruning.storage import as_int8, compressed, storage_bytes
from jaxprune.validation import InputError

SHAPES = st.tuples(st.integers(1, 300), st.integers(1, 5))


def sparse_kernel(shape, seed):
    rng = np.random.default_rng(seed)
    kernel = rng.standard_normal(shape).astype(np.float32)
    return np.where(rng.random(shape) < rng.random(), kernel, 0)


@given(SHAPES, st.integers(0, 999))
@settings(max_examples=40)
def test_compressed_rows_hold_the_kernel_and_no_zero(shape, seed):
    kernel = sparse_kernel(shape, seed)
    rows, back = compressed(kernel), np.zeros_like(kernel)
    for j in range(shape[1]):
        row = slice(int(rows.starts[j]), int(rows.starts[j + 1]))
        assert (np.diff(rows.columns[row].astype(int)) > 0).all()
        back[rows.columns[row], j] = rows.values[row]
    np.testing.assert_array_equal(back, kernel)
    assert rows.starts[0] == 0 and rows.starts[-1] == len(rows.values) == np.sum(kernel != 0)
    assert rows.values.all()
    assert rows.columns.dtype == (np.uint8 if shape[0] <= 256 else np.uint16)


@given(SHAPES, st.integers(0, 999), st.floats(-30, 30))
@settings(max_examples=40)
def test_levels_are_the_nearest_and_zeros_stay(shape, seed, log_size):
    kernel = sparse_kernel(shape, seed) * np.float32(10**log_size)
    levels, scale = as_int8(kernel)
    assert levels.dtype == scale.dtype == np.float32
    np.testing.assert_array_equal(levels, np.rint(levels))
    assert not levels[kernel == 0].any()
    assert (np.abs(levels).max(0) == np.where(kernel.any(0), 127, 0)).all()
    error = np.abs(levels.astype(float) * scale - kernel)
    assert (error <= 0.5 * (1 + 1e-4) * scale).all()
    # Whole numbers are quantised to themselves.
    np.testing.assert_array_equal(as_int8(levels * scale).levels, levels)


def hopper_policy():
    """As large as Hopper's: 11-64-64-3 has 4992 weights and 131 biases."""
    policy = init_policy(jax.random.key(0), 11, 3)
    last = policy.params.actor["layer_2"]
    last["kernel"] = 100 * last["kernel"]  # a fresh one is small, and pruning would take it all
    return policy


def test_the_hopper_actor_in_bytes():
    """20.5 KB dense, 13.3 KB at sparsity 0.5, 6.0 KB as 8-bit integers.

    A compressed row has a byte per column and two per start (one in the last kernel, of fewer than
    256 weights). 8-bit integers have a float32 bias and scale per output.
    """
    policy = hopper_policy()
    masks = prune(policy, "magnitude", 0.5)
    sizes, biases, starts = storage_bytes(policy, masks), 4 * 131, 2 * 65 + 2 * 65 + 4
    assert sizes.dense == 4 * 4992 + biases == 20_492
    assert sizes.rows == (4 + 1) * 2496 + biases + starts == 13_268
    assert sizes.int8 == 4992 + 2 * biases == 6_040
    assert sizes.int8_rows == (1 + 1) * 2496 + 2 * biases + starts == 6_304  # more than dense
    assert sizes.compact <= sizes.dense
    assert sizes == storage_bytes(mask_policy(policy, masks))


def test_the_table_in_the_readme():
    """What a device holds of the actor depends on its zeros alone, so that any weights will do."""
    readme = (Path(__file__).parents[2] / "jaxprune/policy_io/README.md").read_text()
    rows = re.findall(r"(?m)^\| ([\d.]+) \| ([\d |]+) \|$", readme)
    assert len(rows) == 3
    for sparsity, cells in rows:
        policy = hopper_policy()
        sizes = storage_bytes(policy, prune(policy, "magnitude", float(sparsity)))
        told = [int(cell.replace(" ", "")) for cell in cells.split("|")]
        assert told == [sizes.dense, sizes.rows, sizes.int8, sizes.int8_rows], sparsity


def test_levels_that_are_0_take_no_bytes_in_rows():
    policy = hopper_policy()
    kernels = [layer["kernel"] for layer in policy.params.actor.values()]
    kept = [np.count_nonzero(as_int8(np.asarray(kernel)).levels) for kernel in kernels]
    assert kept[0] > 256 and sum(kept) < 4992
    starts = 2 * 65 + 2 * 65 + 4
    assert storage_bytes(policy).int8_rows == 2 * sum(kept) + 8 * 131 + starts


def test_units_that_do_nothing_take_no_bytes_when_compacted():
    policy = hopper_policy()
    masks = jax.tree.map(np.array, prune(policy, "magnitude", 0.0))
    masks.actor["layer_1"]["kernel"][8:] = False  # 8 units of the first layer feed the second
    dense, rows, compact, *_ = storage_bytes(policy, masks)
    assert compact == 4 * (11 * 8 + 8 * 64 + 64 * 3 + 8 + 64 + 3)
    assert compact < rows < dense


def test_networks_and_agents():
    policy = hopper_policy()
    critic = storage_bytes(policy, network="critic")
    assert critic.dense == 4 * (11 * 64 + 64 * 64 + 64 + 64 + 64 + 1)
    with pytest.raises(InputError, match="one agent"):
        storage_bytes(jax.tree.map(lambda x: np.stack([x, x]), policy))
    with pytest.raises(InputError, match="network 'value'"):
        storage_bytes(policy, network="value")
