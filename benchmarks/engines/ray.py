"""Ray as the engine of a run: a task per block fills the chunks, a last one makes the tables.

Ray brings the queue, the retries and the recovery of lost workers. The chunks remain the truth: a
task that is started again goes on where it was, and so does a driver. All workers have the code,
the versions, the switches and the devices of the one that began; others are refused.
"""

import importlib
import os
import platform
import socket
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import jax
from rich.console import Console

from benchmarks.engines.process import Ready, begin, compute, prepared, warn_of_damage
from benchmarks.experiment.config import Experiment, RunOptions
from benchmarks.experiment.sharding import Shard, blocks_of
from benchmarks.report.sinks import NoSink
from benchmarks.runtime.checkpoints import Chunks, Work
from benchmarks.runtime.console import Display, make_console
from benchmarks.runtime.identity import differences
from benchmarks.runtime.preemption import Stopping
from benchmarks.runtime.run_folder import CHUNKS, Json, read_json
from benchmarks.stages import pipeline
from benchmarks.stages.pipeline import list_chunks
from jaxprune import devices
from jaxprune.validation import InputError, check_ranges, lookup

RAY = "ray"
ENGINES = ("none", RAY)
# Of a task whose worker was lost.
RETRIES = 50
CONNECT_SECONDS = 10.0
# Between two looks at what was asked for meanwhile.
SECONDS = 1.0


def check_engine(options: RunOptions) -> None:
    """Raises `InputError` for an unknown engine, or options that it does not go with."""
    check_ranges(options)
    lookup(dict.fromkeys(ENGINES), options.engine, "engine")
    if options.engine != RAY:
        return
    if options.shard is not None:
        raise InputError("engine 'ray' deals out the blocks itself: leave out --shard")
    if options.sink != "none":
        raise InputError(
            f"sink {options.sink!r} is fed by one process, and engine 'ray' has many: choose sink "
            "'none'"
        )


def run_on_ray(ready: Ready, facts: Json, console: Console, stopping: Stopping) -> None:
    """Computes an experiment in the tasks of a cluster; its folder is locked.

    Raises:
        InputError: Ray is not installed or not reachable, or workers differ.
        OSError: a file could not be written, or a worker was lost too often.
    """
    count = len(ready.design.blocks)
    options = ready.options.at(ready.whole)
    with cluster() as ray:
        stopping.install()  # in place of what Ray does on a signal
        run = _Tasks(ray, options, stopping.boundary)
        if not run(begin_task, [(ready.asked, options, facts)])[0]:
            return
        blocks = [(ready.asked, options, Shard(index, count)) for index in range(count)]
        run(block_task, blocks, lambda done: console.print(f"block {done} of {count} done"))
        run(finish_task, [(ready.asked, options, facts)])


class _Tasks:
    """Runs functions on the workers of a cluster, and waits for them."""

    def __init__(self, ray: Any, options: RunOptions, boundary: Callable[[], None]):
        self._ray, self._boundary = ray, boundary
        self._needs: dict[str, Any] = {"num_cpus": options.task_cpus, "max_retries": RETRIES}
        self._needs |= {"num_gpus": options.task_gpus} if options.task_gpus else {}
        self._needs |= {"resources": {"TPU": options.task_tpus}} if options.task_tpus else {}

    def __call__(
        self,
        function: Callable[..., Any],
        arguments: Sequence[tuple[object, ...]],
        told: Callable[[int], None] = lambda done: None,
    ) -> list[Any]:
        """What the function returns for all arguments; of the first error its cause is raised."""
        remote = self._ray.remote(**self._needs)(function)
        tasks = [remote.remote(*each) for each in arguments]
        left = tasks
        try:
            while left:
                done, left = self._ray.wait(left, timeout=SECONDS)
                self._boundary()
                if done:
                    self._ray.get(done)
                    told(len(tasks) - len(left))
            return self._ray.get(tasks)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except self._ray.exceptions.RayError as error:
            raise OSError(f"Ray: {str(error).splitlines()[0]}") from error


@contextmanager
def cluster() -> Iterator[Any]:
    """The module `ray`, connected to `RAY_ADDRESS` or to a cluster of this machine.

    Raises:
        InputError: it is not installed, or nobody answers there.
    """
    try:
        ray = importlib.import_module("ray")
    except ImportError:
        raise InputError(
            "engine 'ray' needs the package ray, which is not installed: pip install "
            "'jaxprune[ray]', or leave out --engine"
        ) from None
    address = os.environ.get("RAY_ADDRESS", "local")
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if port.isdecimal():  # Ray itself tries for minutes
            socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
        dashboard = False if address == "local" else None
        with warnings.catch_warnings():  # it forks only to execute other programs
            warnings.filterwarnings("ignore", r"os\.fork", RuntimeWarning)
            ray.init(address, include_dashboard=dashboard, logging_level="ERROR")
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(
            f"engine 'ray' cannot reach RAY_ADDRESS={address} ({str(error).splitlines()[0]}): "
            "start that cluster, or unset it for one of this machine"
        ) from None
    try:
        yield ray
    finally:
        ray.shutdown()


# --- in a worker ----------------------------------------------------------------------------------


def begin_task(asked: Experiment, options: RunOptions, facts: Json) -> bool:
    """Describes the folder by what this worker is; returns whether something is to be computed."""
    ready = _prepared(asked, options)
    return begin(ready, ready.folder, facts, make_console())


def block_task(asked: Experiment, options: RunOptions, one: Shard) -> None:
    """Computes what is not there of one block.

    Raises:
        InputError: this worker is not like the one that began.
    """
    ready = _prepared(asked, options)
    folder, design = ready.folder, ready.design
    different = differences(folder.identity, read_json(folder.path / "experiment.json"))
    if different:
        raise InputError(
            f"the worker on {platform.node()} differs from the one that began {folder.path} in "
            f"{', '.join(different)}: give all nodes the same image and kind of device"
        )
    chunks = Chunks(folder.path / CHUNKS, folder.identity)
    console, count = make_console(), len(list_chunks(design, blocks_of(design.blocks, one)))
    with Display(console, count) as shown:
        pipeline.run(design, ready.env, ready.loaded, Work(chunks, shown), one)
    warn_of_damage(chunks, console)
    jax.clear_caches()  # a worker computes many blocks


def finish_task(asked: Experiment, options: RunOptions, facts: Json) -> None:
    """Makes the tables and agents of the chunks; one that was damaged is computed again."""
    ready = _prepared(asked, options)
    compute(ready, ready.folder, facts, NoSink(), make_console())


def _prepared(asked: Experiment, options: RunOptions) -> Ready:
    _configure(options.task_cpus)
    devices.check_platform(options.require)
    return prepared(asked, options)


@cache
def _configure(cpus: int) -> None:
    """Once per worker: the number of devices cannot be changed any more."""
    devices.configure(cpu_devices=cpus)
