"""One program on the devices of all processes: each computes its share, and the first one writes.

All of them walk through the same stages and read the same chunks, so they meet in every call of a
program. A process that ends early ends them all: the same command starts them again.
"""

import os
import sys
import threading
from collections.abc import Sequence

import jax
from rich.console import Console

from benchmarks.engines.process import Ready
from benchmarks.experiment.config import Experiment, RunOptions
from benchmarks.experiment.sharding import blocks_of
from benchmarks.runtime.checkpoints import OthersChunks, Work
from benchmarks.runtime.console import Display
from benchmarks.runtime.preemption import Stopping
from benchmarks.runtime.run_folder import CHUNKS
from benchmarks.stages import pipeline
from benchmarks.stages.pipeline import list_chunks
from jaxprune.devices import agreed
from jaxprune.validation import InputError, lookup

GLOBAL = "global"
MESHES = ("process", GLOBAL)
# A process that failed waits so long for the others to fail alike.
ALIKE_SECONDS = 5.0


def is_global(asked: Sequence[tuple[Experiment, RunOptions]]) -> bool:
    """Returns whether one program computes on the devices of all processes.

    Raises:
        InputError: an unknown mesh, or a global one with what it does not go with.
    """
    options = asked[0][1]
    lookup(dict.fromkeys(MESHES), options.mesh, "mesh")
    if options.mesh != GLOBAL:
        return False
    if options.shard is not None or options.engine != "none":
        raise InputError(
            f"mesh {GLOBAL!r} computes one run on all devices: leave out --shard and --engine"
        )
    if len(asked) > 1:
        raise InputError(f"mesh {GLOBAL!r} computes one task, and {len(asked)} are given: give one")
    return True


def accompany(ready: Ready) -> None:
    """Computes what the first process computes, and writes nothing."""
    folder, design = ready.folder, ready.design
    if ready.options.dry_run or not agreed(False):  # the first one knows whether there is work
        return
    Stopping().install()
    chunks = OthersChunks(folder.path / CHUNKS, folder.identity)
    count = len(list_chunks(design, blocks_of(design.blocks, ready.shard)))
    with Display(Console(quiet=True), count) as display:
        pipeline.run(design, ready.env, ready.loaded, Work(chunks, display), ready.shard)


def ended(status: int) -> int:
    """Returns the exit status; one of several processes that failed ends here.

    JAX would wait five minutes for the others, which wait for this one in a computation, and then
    abort.
    """
    if status and jax.distributed.is_initialized():
        together = threading.Thread(target=jax.distributed.shutdown, daemon=True)
        together.start()
        together.join(ALIKE_SECONDS)  # of what all of them say, such as wrong input
        sys.stdout.flush()
        os._exit(status)
    return status
