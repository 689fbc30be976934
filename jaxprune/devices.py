"""Populations on devices: the only module that knows how many there are.

One code path for CPU cores, GPUs and TPU chips: the population axis is split by `shard_map` over
the devices, and each walks through its share: in chunks of `width` items, or in another way such as
`jaxprune.queue`. Processes share nothing, unless they joined `jax.distributed`: then devices are
those of all, and every process calls the same functions with the same arguments.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.extend.backend import clear_backends
from jax.sharding import NamedSharding, PartitionSpec

from jaxprune.types import AnyArray, Array, PyTree
from jaxprune.validation import InputError, lookup

# Environments (or episodes) that one device steps together before it gets slower per lane: caches
# on a CPU core, occupancy on an accelerator. Measured by `python -m benchmarks.throughput`.
LANES = {"cpu": 64, "gpu": 16384, "tpu": 16384}
# What `check_platform` may ask for.
ANY = "any"
PLATFORMS = (ANY, "gpu", "tpu")
# The axis of the mesh.
POPULATION = "population"

# Switches under which JAX refuses what is done here, and their values under which it does not.
LENIENT = {
    "jax_numpy_dtype_promotion": "standard",
    "jax_numpy_rank_promotion": "allow",
    "jax_debug_nans": False,  # a mean over no episode is NaN
    "jax_debug_infs": False,
}


def configure(
    cpu_devices: int | None = None, cache_dir: str | Path | None = None, join: bool = False
) -> None:
    """Prepare JAX for populations. Call once, before anything else touches a device.

    * One XLA device per CPU core: many small kernels run 2 to 4 times faster on two one-thread
      devices than on one two-thread device.
    * Full float32 matrix products: TF32 would make a certificate unsound.
    * The persistent compilation cache, with no threshold, in the user's cache folder.

    Args:
        cpu_devices: default: `_usable_cores()`. Accelerators are not affected.
        cache_dir: default: `$JAX_COMPILATION_CACHE_DIR`, else `~/.cache/jaxprune/xla`.
        join: the processes that a launcher started together, for one program on the devices of all.
            JAX asks Slurm, Open MPI or the TPU slice who they are; `JAX_COORDINATOR_ADDRESS`,
            `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID` say it elsewhere.

    Raises:
        InputError: no such device, a strict switch of JAX's, no folder for the cache, or no
            other processes.
    """
    jax.config.update("jax_num_cpu_devices", cpu_devices or _usable_cores())
    jax.config.update("jax_default_matmul_precision", "highest")
    cache = cache_dir or os.environ.get("JAX_COMPILATION_CACHE_DIR") or default_cache()
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    if join:
        _join()
    check_devices()
    agreed(True)  # CPUs connect while all are here: Gloo waits 30 s for that, and later 30 min


def _join() -> None:
    """Joins the processes that a launcher started together; raises `InputError` without them."""
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM for itself
    told = (os.environ.get(name) for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"))
    try:
        count, index = (None if text is None else int(text) for text in told)
        jax.distributed.initialize(num_processes=count, process_id=index)
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise InputError(
            f"mesh 'global' finds no other processes ({reason}): start it with srun, mpirun or on "
            "a TPU slice, set JAX_COORDINATOR_ADDRESS=HOST:PORT, JAX_NUM_PROCESSES and "
            "JAX_PROCESS_ID, or leave out --mesh"
        ) from None


def leave() -> None:
    """Waits for the slowest of the processes that joined, and parts: each has its CPUs left.

    What a process alone writes or computes comes after it: Orbax would wait for the others, and so
    would a TPU slice.
    """
    if jax.distributed.is_initialized():
        agreed(True)
        jax.distributed.shutdown()
        clear_backends()
        jax.config.update("jax_platforms", "cpu")


def mesh_devices() -> list[Any]:
    """Returns the devices that a population is split over: of this process, or of all that joined.

    `jax.devices()` of a process on a TPU slice are those of all in any case.
    """
    return jax.devices() if jax.distributed.is_initialized() else jax.local_devices()


def is_first() -> bool:
    """Returns whether this process writes: the first of those that joined, or one of its own."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def agreed(answer: bool) -> bool:
    """Returns what the first process answers. All processes that joined wait for each other."""
    if not jax.distributed.is_initialized():
        return answer
    split = NamedSharding(_mesh(), PartitionSpec(POPULATION))
    of_first = np.full(jax.device_count(), answer and is_first())
    return bool(np.any(fetch(_spread(split, of_first))))


def fetch(tree: PyTree) -> PyTree:
    """Returns arrays on the host. What is split over processes is whole in each of them."""
    if not jax.distributed.is_initialized():
        return jax.device_get(tree)
    return jax.tree.map(_gathered, tree)  # leaf by leaf: every device holds all of it for a moment


def _gathered(x: AnyArray) -> AnyArray:
    if _is_here(x):
        return jax.device_get(x)
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_gathered(jax.random.key_data(x)))
    return multihost_utils.process_allgather(x, tiled=True)


def _spread(sharding: NamedSharding, x: AnyArray) -> AnyArray:
    """Returns what every process holds split over the devices of all."""
    if not _is_here(x):
        return x
    held = x if isinstance(x, Array) else np.asarray(x)
    return jax.make_array_from_callback(held.shape, sharding, lambda index: held[index])


def _is_here(x: AnyArray) -> bool:
    return not isinstance(x, Array) or x.is_fully_addressable


def _mesh() -> jax.sharding.Mesh:
    devices = mesh_devices()
    return jax.make_mesh(
        (len(devices),), (POPULATION,), (jax.sharding.AxisType.Auto,), devices=devices
    )


def default_cache() -> Path:
    """`$XDG_CACHE_HOME/jaxprune/xla`, or that of `~/.cache`. Raises `InputError` without either."""
    folder = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(folder) if folder else Path.home() / ".cache") / "jaxprune" / "xla"
    except RuntimeError:
        raise InputError(
            "compiled programs are kept in the home directory, and there is none: set "
            "JAX_COMPILATION_CACHE_DIR, XDG_CACHE_HOME or HOME to a folder"
        ) from None


def check_devices() -> None:
    """Raises `InputError` unless JAX finds devices and is not stricter than this code."""
    for name, lenient in LENIENT.items():
        value = getattr(jax.config, name)
        if value not in (lenient, "warn"):
            raise InputError(
                f"{name.upper()}={value} makes JAX refuse what is correct here: unset it, or set "
                f"it to {lenient}"
            )
    try:
        jax.local_devices()
    except (RuntimeError, AssertionError) as error:  # the latter of CUDA without its libraries
        reason = str(error).partition(" (set JAX")[0] or "it has no device"
        raise InputError(
            f"JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')} cannot be used ({reason}): unset "
            "it, set it to cpu, or install JAX for that accelerator, e.g. pip install 'jax[cuda12]'"
        ) from None


def check_platform(required: str) -> None:
    """Raises `InputError` unless the devices are of a kind: gpu, tpu, or any."""
    lookup(dict.fromkeys(PLATFORMS), required, "require")
    found = mesh_devices()[0].platform
    if required not in (ANY, found):
        raise InputError(
            f"require {required!r} is not met, because JAX computes on a {found} here: start this "
            f"on a machine with a {required}, install JAX for it, or leave out --require"
        )


def _usable_cores() -> int:
    """Cores that this process may run on; all of them where the system does not tell (macOS)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def lane_width(lanes_per_item: int, size: int, lanes: int | None = None) -> int:
    """How many of `size` items, of `lanes_per_item` lanes each, a device processes together.

    Args:
        lanes_per_item: environments per agent, or episodes per cell.
        size: items of the population; a small one is not padded to the full width.
        lanes: lanes per device; default: `LANES` of the kind of device in use.
    """
    devices = mesh_devices()
    wide = (lanes or LANES[devices[0].platform]) // lanes_per_item
    return max(1, min(wide, -(-size // len(devices))))


class Layout(NamedTuple):
    """Where the items of a population go: padded to whole chunks and dealt out to the devices."""

    width: int  # items that one device processes in one vectorised call
    order: np.ndarray  # [padded], the item at each position; the last one is repeated as padding
    place: np.ndarray  # [size], the position of each item

    def deal(self, items: PyTree) -> PyTree:
        """Deals items `[size]` to their positions, `[padded]`, on the host."""
        return take(jax.device_get(items), self.order)

    def collect(self, results: PyTree) -> PyTree:
        """Fetches the results `[padded]` of the positions in the order of the items, `[size]`."""
        return take(fetch(results), self.place)


def layout(size: int, width: int) -> Layout:
    """Lays out `size` items, at least 1, in chunks of `width` on every device.

    Items are dealt to the devices like cards, so that a sorted population is balanced.
    """
    devices = len(mesh_devices())
    padded = -(-size // (devices * width)) * devices * width
    dealt = np.arange(padded).reshape(-1, devices).T.ravel()  # device d gets d, d + devices, ...
    return Layout(width, np.minimum(dealt, size - 1), np.argsort(dealt)[:size])


def take(tree: PyTree, index: AnyArray | slice | tuple[int, ...]) -> PyTree:
    """The items `index` of the leading axis of every leaf."""
    return jax.tree.map(lambda x: x[index], tree)


class Mapped:
    """A function of one item as a function of populations on all devices.

    It is compiled when it is first called, for each width and each shape of the population.

    Args:
        fn: `(shared, item) -> result`, for one item; pytrees.
        walk: through the items of one device, `(fn, width, shared, items) -> results`; default:
            in chunks of `width`.
    """

    def __init__(self, fn: Callable[..., PyTree], walk: Callable[..., PyTree] | None = None):
        mesh = _mesh()
        whole, split = PartitionSpec(), PartitionSpec(POPULATION)

        def on_device(width: int, shared: PyTree, items: PyTree) -> PyTree:
            share = jax.eval_shape(lambda x: take(x, slice(None, None, mesh.size)), items)

            def on_share(shared_full: PyTree, items_full: PyTree) -> PyTree:
                own = _with_empty(shared_full, shared), _with_empty(items_full, share)
                return (walk or _in_chunks)(fn, width, *own)

            return jax.shard_map(
                on_share,
                mesh=mesh,
                in_specs=(whole, split),
                out_specs=split,
                check_vma=False,  # lax.switch on a shared index has no replication rule
            )(_without_empty(shared), _without_empty(items))

        self._shardings = NamedSharding(mesh, whole), NamedSharding(mesh, split)
        self._jitted: Any = jax.jit(
            on_device,
            static_argnums=0,
            in_shardings=self._shardings,
            out_shardings=self._shardings[1],
        )

    def __call__(self, shared: PyTree, items: PyTree, width: int) -> PyTree:
        """Maps the function over items that are laid out.

        Args:
            shared: reaches every call of the function unbatched.
            items: leaves with a leading axis of a multiple of `devices * width`, see `layout`.
            width: items that one device processes in one vectorised call.

        Returns:
            The results, with the leading axis of the items, which stay split over the devices.
        """
        return self._jitted(width, *self.placed(shared, items))

    def placed(self, shared: PyTree, items: PyTree) -> tuple[PyTree, PyTree]:
        """The arguments on the devices that are to use them.

        A process of several may not leave that to a jitted function.
        """
        if not jax.distributed.is_initialized():
            return jax.device_put((shared, items), self._shardings)
        whole, split = (partial(_spread, x) for x in self._shardings)
        return jax.tree.map(whole, shared), jax.tree.map(split, items)

    def lower(self, shared: PyTree, items: PyTree, width: int) -> jax.stages.Lowered:
        """For arguments of these shapes, as of a jitted function: a `jax.stages.Lowered`.

        What it compiles to takes arguments that are `placed`.
        """
        return self._jitted.lower(width, *jax.eval_shape(lambda *x: x, shared, items))

    def shapes(self, shared: PyTree, items: PyTree, width: int) -> PyTree:
        """Of the results."""
        return jax.eval_shape(partial(self._jitted, width), shared, items)

    @property
    def compilations(self) -> int:
        """For how many shapes of arguments calls have compiled it."""
        return self._jitted._cache_size()


def map_population(
    program: Mapped, shared: PyTree, items: PyTree, lanes_per_item: int, lanes: int | None = None
) -> Any:
    """Maps a function of one item over a population, on all devices.

    Args:
        program: the function; keep it for the next call, because it keeps what it compiled.
        shared: what all items have in common, a pytree.
        items: a pytree whose leaves have a leading axis `[N]`.
        lanes_per_item: environments per agent, or episodes per cell; see `lane_width`.
        lanes: lanes per device; default: `LANES` of the kind of device in use.

    Returns:
        The results, `[N]`, on the host.
    """
    size = len(jax.tree.leaves(items)[0])
    laid = layout(size, lane_width(lanes_per_item, size, lanes))
    return laid.collect(program(shared, laid.deal(items), laid.width))


def map_evenly(fn: Callable[[PyTree], PyTree], items: PyTree, widest: int) -> PyTree:
    """Maps a function of one item over `[N]`, inside a program, in vectorised batches of one size.

    As `jax.lax.map` with a batch size, which compiles the function once more for a remainder; here
    the last item is repeated instead.

    Args:
        fn: item -> result.
        items: a pytree whose leaves have a leading axis `[N]`, N at least 1.
        widest: items of a batch at most.
    """
    size = len(jax.tree.leaves(items)[0])
    count = -(-size // widest)
    width = -(-size // count)
    if count == 1:
        return jax.vmap(fn)(items)
    batches = np.minimum(np.arange(count * width), size - 1).reshape(count, width)
    results = jax.lax.map(jax.vmap(fn), take(items, batches))
    return jax.tree.map(lambda x: x.reshape(count * width, *x.shape[2:])[:size], results)


def _in_chunks(fn: Callable[..., PyTree], width: int, shared: PyTree, items: PyTree) -> PyTree:
    """The items of one device, `width` at a time."""
    if width == 1:  # products of matrices with a batch axis of one are slower than without
        return jax.lax.map(partial(fn, shared), items)
    chunks = jax.tree.map(lambda x: x.reshape(len(x) // width, width, *x.shape[1:]), items)
    results = jax.lax.map(lambda chunk: jax.vmap(fn, (None, 0))(shared, chunk), chunks)
    return jax.tree.map(lambda x: x.reshape(len(x) * width, *x.shape[2:]), results)


def _without_empty(tree: PyTree) -> PyTree:
    """None for each array without elements: jax 0.11.2 crashes while it compiles one of them."""
    return jax.tree.map(lambda x: x if x.size else None, tree)


def _with_empty(tree: PyTree, like: PyTree) -> PyTree:
    """The arrays of `_without_empty`, and those without elements made anew."""

    def one(like: Array, x: Array | None) -> Array:
        return jnp.zeros(like.shape, like.dtype) if x is None else x

    return jax.tree.map(one, like, tree)
