"""Populations on two fake devices equal a plain `vmap`."""

import os
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune import devices
from jaxprune.devices import LANES, Mapped, lane_width, layout, map_population


def affine(shared, item):
    return {"y": shared["scale"] * item["x"] + item["n"], "n": item["n"]}


def population(size: int):
    x = np.random.default_rng(size).normal(size=(size, 3)).astype(np.float32)
    return {"x": jnp.asarray(x), "n": jnp.arange(size, dtype=jnp.int32)}


def mapped(fn, shared, items, width: int):
    """The results of a population in chunks of this width (of a smaller one if it is small)."""
    return map_population(Mapped(fn), shared, items, lanes_per_item=1, lanes=width)


def test_the_suite_runs_on_two_devices():
    assert len(jax.devices()) == 2


def test_layout_by_hand():
    """5 items, 2 devices, 2 at a time: 8 positions, even items on device 0, the last one padded."""
    width, order, place = layout(5, 2)
    assert width == 2
    assert order.tolist() == [0, 2, 4, 4, 1, 3, 4, 4]
    assert place.tolist() == [0, 4, 1, 5, 2]


@given(size=st.integers(1, 200), width=st.integers(1, 20))
def test_layout_finds_every_item_again_with_the_least_padding(size, width):
    _, order, place = layout(size, width)
    assert np.array_equal(order[place], np.arange(size))
    assert len(order) % (2 * width) == 0
    assert 0 <= len(order) - size < 2 * width
    assert np.array_equal(place // (len(order) // 2), np.arange(size) % 2)  # item i: device i % 2


@settings(deadline=None, max_examples=12)
@given(size=st.integers(1, 13), width=st.integers(1, 4))
def test_any_size_and_width_equal_a_plain_vmap_in_order(size, width):
    shared, items = {"scale": jnp.float32(1.5)}, population(size)
    ours = mapped(affine, shared, items, width)
    plain = jax.vmap(affine, in_axes=(None, 0))(shared, items)
    assert np.array_equal(ours["n"], np.arange(size))
    assert ours["y"].dtype == plain["y"].dtype
    # Sums of terms of order 1: another order of addition costs a few of their ulps, 1e-7 each.
    np.testing.assert_allclose(ours["y"], plain["y"], rtol=1e-6, atol=1e-6)


def test_shared_reaches_every_call_unbatched():
    """Its leading axis, 4 like the population's, is left alone; a switch stays a switch."""
    shapes = []

    def fn(shared, item):
        shapes.append((shared["table"].shape, item.shape))
        chosen = jax.lax.switch(shared["index"], [jnp.sin, jnp.cos], item)
        return jnp.sum(shared["table"]) + chosen

    shared = {"table": jnp.arange(4.0), "index": jnp.int32(1)}
    result = mapped(fn, shared, jnp.arange(4.0), 2)
    np.testing.assert_allclose(result, 6 + np.cos(np.arange(4.0)), rtol=1e-6)
    assert set(shapes) == {((4,), ())}


def test_every_device_takes_its_share():
    """Item i runs on device i % 2: a population sorted by cost is balanced."""

    def device(_, item):
        return jax.lax.axis_index("population") + 0 * item

    assert mapped(device, (), jnp.arange(7), 2).tolist() == [0, 1, 0, 1, 0, 1, 0]


def test_items_that_finish_early_keep_their_result():
    """A vectorised `while` runs until its slowest lane is done; the others must not move on."""

    def loop(_, item):
        return jax.lax.while_loop(lambda n: n < item, lambda n: n + 1, jnp.int32(0))

    for width in (1, 3):
        result = mapped(loop, (), jnp.array([5, 1, 4, 2, 3]), width)
        assert result.tolist() == [5, 1, 4, 2, 3]


def test_results_may_be_pytrees_with_axes_of_their_own():
    def fn(shared, item):
        return (jnp.outer(item, shared), jnp.sum(item) > 0)

    items = population(5)["x"]
    outer, positive = mapped(fn, jnp.ones(2), items, 2)
    assert outer.shape == (5, 3, 2)
    np.testing.assert_array_equal(outer[..., 1], items)
    assert positive.dtype == bool
    assert np.array_equal(positive, np.sum(items, 1) > 0)


def test_arrays_without_elements_are_kept_from_the_compiler():
    """jax 0.11.2 crashes where `shard_map` is given one; the function sees them all the same."""
    seen = []

    def shapes(shared, item):
        seen.append((shared["none"].shape, shared["nobody"], item["empty"].shape))
        return item["x"].sum(), item["empty"]

    items = population(4) | {"empty": jnp.zeros((4, 0, 2), jnp.int32)}
    shared = {"none": jnp.zeros((3, 0)), "nobody": None}
    sums, empty = mapped(shapes, shared, items, width=1)
    np.testing.assert_allclose(sums, population(4)["x"].sum(axis=-1), rtol=1e-6)
    assert seen[0] == ((3, 0), None, (0, 2))
    assert empty.shape == (4, 0, 2) and empty.dtype == np.int32

    laid = layout(4, 1)
    jaxpr = jax.make_jaxpr(partial(Mapped(shapes), width=1))(shared, laid.deal(items))
    mapped_once = next(
        e for e in jaxpr.eqns[-1].params["jaxpr"].eqns if "shard" in str(e.primitive)
    )
    assert all(x.aval.size for x in mapped_once.invars)


def test_typed_keys_are_items_too():
    keys = jax.random.split(jax.random.key(0), 3)
    result = mapped(lambda _, key: jax.random.normal(key), (), keys, 1)
    np.testing.assert_allclose(result, jax.vmap(jax.random.normal)(keys), rtol=1e-6)


def test_results_stay_split_over_the_devices():
    """A chain of calls moves nothing through the host."""
    double = Mapped(lambda _, item: 2 * item)
    result = double((), double((), jnp.arange(4), 1), 1)
    assert result.tolist() == [0, 4, 8, 12]
    assert [len(shard.data) for shard in result.addressable_shards] == [2, 2]


@pytest.mark.parametrize(
    ("lanes_per_item", "size", "width"),
    [
        (1, 1000, 64),  # 64 lanes of 1
        (10, 1000, 6),  # 60 of 64 lanes
        (64, 1000, 1),
        (65, 1000, 1),  # never zero
        (1, 7, 4),  # 7 items on 2 devices: no padding to 64
        (10, 1, 1),
    ],
)
def test_lane_width_fills_the_lanes_but_not_with_padding(lanes_per_item, size, width):
    assert lane_width(lanes_per_item, size, lanes=64) == width


def test_lane_width_knows_the_lanes_of_the_device():
    assert lane_width(1, 10**9) == LANES[jax.devices()[0].platform]


# --- several processes ----------------------------------------------------------------------------


def drawn(shared, item):
    value = shared["by"] * item["x"] + jax.random.normal(item["key"])
    return {"x": value, "key": jax.random.fold_in(item["key"], 1), "none": shared["none"]}


def told() -> str:
    """What a program, and agreement, make of everything that a population may hold."""
    program, laid = Mapped(drawn), layout(7, 2)
    items = {"x": np.arange(7, dtype=np.float32), "key": jax.random.split(jax.random.key(0), 7)}
    shared = {"by": 2.0, "none": np.zeros(0)}
    split = program(shared, laid.deal(items), 2)  # stays where it is
    found = laid.collect(program(shared, {"x": split["x"], "key": split["key"]}, 2))
    keys = np.asarray(jax.random.key_data(found["key"]))
    answers = devices.agreed(devices.is_first()), devices.agreed(False)
    shape, values = found["none"].shape, found["x"].tobytes() + keys.tobytes()
    return f"{len(devices.mesh_devices())} {answers} {shape} {values.hex()}"


JOINED = """
from jaxprune import devices
devices.configure(cpu_devices=1, join=True)
from tests.test_devices import told
print(told())
devices.leave()
print(len(devices.mesh_devices()))
"""


def test_processes_that_join_compute_what_one_does_with_as_many_devices():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    others = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", JOINED],
            cwd=Path(__file__).parents[1],
            env=os.environ | others | {"JAX_PROCESS_ID": str(i)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    for process in running:
        *_, joined, alone = process.communicate()[0].splitlines()
        assert process.returncode == 0
        assert joined == told() and joined.startswith("2 (True, False) (7, 0) ")
        assert alone == "1"


@pytest.mark.parametrize(("size", "widest"), [(1, 4), (3, 4), (7, 3), (8, 4)])
def test_a_map_in_equal_batches_is_a_vmap_and_traces_its_function_once(size, widest):
    traced = []

    def fn(item):
        traced.append(item)
        return affine({"scale": 2.0}, item)

    items = population(size)
    found = jax.jit(partial(devices.map_evenly, fn, widest=widest))(items)
    np.testing.assert_array_equal(found["y"], 2 * items["x"] + items["n"][:, None])
    np.testing.assert_array_equal(found["n"], items["n"])
    assert len(traced) == 1


@pytest.mark.parametrize("widest", [2, 8])
def test_results_without_elements_are_mapped_too(widest):
    """A task may track nothing, as the inverted pendulum does."""
    found = jax.jit(partial(devices.map_evenly, lambda x: (x, x[:0]), widest=widest))(np.eye(5))
    np.testing.assert_array_equal(found[0], np.eye(5))
    assert found[1].shape == (5, 0)
