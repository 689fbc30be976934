"""Populations on devices: the only module that knows how many there are.

One code path for CPU cores, GPUs and TPU chips: the population axis is split over `jax.devices()`
by `shard_map`, and each device walks through its share in chunks of `width` lanes.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

# Environments (or episodes) that one device steps together before it gets slower per lane: caches
# on a CPU core, occupancy on an accelerator. Measured by `python -m benchmarks.throughput`.
LANES = {"cpu": 64, "gpu": 16384, "tpu": 16384}


def configure(cpu_devices: int | None = None, cache_dir: str | Path | None = None) -> None:
    """Prepare JAX for populations. Call once, before anything else touches a device.

    * One XLA device per CPU core: many small kernels run 2 to 4 times faster on two one-thread
      devices than on one two-thread device.
    * Full float32 matrix products: TF32 would make a certificate unsound.
    * The persistent compilation cache, with no threshold, in the user's cache folder.

    Args:
        cpu_devices: default: the cores this process may use. Ignored on accelerators.
        cache_dir: default: `$JAX_COMPILATION_CACHE_DIR`, else `~/.cache/jaxprune/xla`.
    """
    jax.config.update("jax_num_cpu_devices", cpu_devices or len(os.sched_getaffinity(0)))
    jax.config.update("jax_default_matmul_precision", "highest")
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    cache = cache_dir or os.environ.get("JAX_COMPILATION_CACHE_DIR") or home / "jaxprune" / "xla"
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def lane_width(lanes_per_item: int, lanes: int | None = None) -> int:
    """How many items of `lanes_per_item` lanes each a device should process together.

    Args:
        lanes_per_item: environments per agent, or episodes per cell.
        lanes: lanes per device; default: `LANES` of the kind of device in use.
    """
    return max(1, (lanes or LANES[jax.devices()[0].platform]) // lanes_per_item)


def over_population(fn: Callable[..., Any], *, width: int) -> Callable[..., Any]:
    """Map `fn` over the leading axis of a population, on all devices.

    Item i goes to device `i % devices`, so that a sorted population is balanced. The population
    is padded with copies of its last item to a multiple of `devices * width`; `fn` may be called
    on padding, whose results are dropped.

    Args:
        fn: `(shared, item) -> result`, for one item; pytrees.
        width: items that one device processes in one vectorised call.

    Returns:
        `(shared, items) -> results`, jitted; the leaves of items and results have the leading
        axis, `shared` has none and reaches every call unbatched.
    """
    devices = len(jax.devices())
    mesh = jax.make_mesh((devices,), ("population",), (jax.sharding.AxisType.Auto,))
    split = PartitionSpec("population")

    def on_device(shared: Any, items: Any) -> Any:
        chunks = jax.tree.map(lambda x: x.reshape(len(x) // width, width, *x.shape[1:]), items)
        one_chunk = jax.vmap(fn, in_axes=(None, 0))
        results = jax.lax.map(lambda chunk: one_chunk(shared, chunk), chunks)
        return jax.tree.map(lambda x: x.reshape(len(x) * width, *x.shape[2:]), results)

    sharded = jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(PartitionSpec(), split),
        out_specs=split,
        check_vma=False,  # lax.switch on a shared index has no replication rule
    )

    @jax.jit
    def mapped(shared: Any, items: Any) -> Any:
        size = jax.tree.leaves(items)[0].shape[0]
        padded = -(-size // (devices * width)) * devices * width
        # Position p of the sharded axis holds item order[p]: device d gets d, d + devices, ...
        order = np.arange(padded).reshape(-1, devices).T.ravel()
        place = np.argsort(order)[:size]
        items = jax.tree.map(lambda x: x[jnp.minimum(order, size - 1)], items)
        return jax.tree.map(lambda x: x[place], sharded(shared, items))

    return mapped
