"""One experiment, or one shard of it, in this process: checked, then computed."""

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from benchmarks.experiment.config import Experiment, RunOptions
from benchmarks.experiment.design import Design, expand
from benchmarks.experiment.plan import make_plan
from benchmarks.experiment.sharding import Shard, blocks_of, find_shard, where
from benchmarks.experiment.validate import check
from benchmarks.report.sinks import Sink
from benchmarks.runtime.atomic import sweep
from benchmarks.runtime.checkpoints import Chunks, Work
from benchmarks.runtime.console import Display
from benchmarks.runtime.run_folder import CHUNKS, EMPTY, Json, RunFolder
from benchmarks.stages import pipeline
from benchmarks.stages.pipeline import list_chunks
from benchmarks.stages.results import finish
from benchmarks.stages.train import check_orders
from jaxprune import devices
from jaxprune.envs import Environment
from jaxprune.types import Policy


class Ready(NamedTuple):
    """An experiment that was checked; nothing is computed or written yet."""

    asked: Experiment  # as on the command line
    design: Design
    options: RunOptions
    whole: Path  # the folder of the run
    env: Environment
    loaded: Policy | None  # the policy of `--policy`
    shard: Shard
    plan: str

    @property
    def folder(self) -> RunFolder:
        """Returns where the results go. Raises `InputError` if others are there."""
        return RunFolder(where(self.whole, self.shard), self.design.experiment.settings())


def prepared(asked: Experiment, options: RunOptions) -> Ready:
    """Returns one experiment, or one shard of it, ready to be computed.

    Raises:
        InputError: it cannot be computed as it was asked for.
    """
    experiment, env, file = check(asked)
    loaded = None if file is None else file.policy
    whole = options.out or experiment.folder()
    shard = find_shard(options, whole, experiment.seeds, experiment.block_seeds)
    design = expand(experiment)
    plan = make_plan(design, env, where(whole, shard), shard, file)
    check_orders(design, env, loaded)
    return Ready(asked, design, options, whole, env, loaded, shard, str(plan))


def begin(ready: Ready, folder: RunFolder, facts: Json, console: Console) -> bool:
    """Describes a locked folder, unless it is complete, and removes what is of no use there.

    Returns:
        Whether something is to be computed.
    """
    missing = folder.missing()
    complete = ready.options.resume and not missing
    if complete or not ready.options.resume:
        Chunks(folder.path / CHUNKS, {}).clear()
    if complete:
        console.print(f"{folder.path} is complete (--no-resume computes it again)")
        return False
    if missing and missing != [EMPTY]:
        console.print(f"not complete: {', '.join(missing)}", markup=False)
    sweep(folder.path / CHUNKS)
    folder.begin(facts)
    return True


def compute(
    ready: Ready,
    folder: RunFolder,
    facts: Json,
    sink: Sink,
    console: Console,
    boundary: Callable[[], None] = lambda: None,
) -> None:
    """Computes what is not in the chunks of a begun folder, and writes the tables and agents.

    Raises:
        OSError: a file could not be written; those that are there are whole.
    """
    started, design, shard = time.monotonic(), ready.design, ready.shard
    chunks = Chunks(folder.path / CHUNKS, folder.identity, boundary)
    count = len(list_chunks(design, blocks_of(design.blocks, shard)))
    with Display(console, count) as display, closing(sink):
        work = Work(chunks, display, sink.record)
        results = pipeline.run(design, ready.env, ready.loaded, work, shard)
    devices.leave()  # the others have nothing to write
    facts |= {**results.facts, **display.seconds(), "damaged_chunks": chunks.damaged}
    facts |= {"seconds": round(time.monotonic() - started, 1)}
    finish(folder, results, facts, is_shard=shard.count > 1)
    chunks.clear()
    if display.resumed():
        console.print(display.resumed())
    warn_of_damage(chunks, console)


def warn_of_damage(chunks: Chunks, console: Console) -> None:
    """Names the chunks that were there, but not whole."""
    for name in chunks.damaged:
        console.print(f"warning: the chunk {name} was damaged and has been computed again")
