"""Train, prune, attack, certify and report from one command.

python -m benchmarks.run --sparsity-grid 0:0.95:20
python -m benchmarks.run --preset smoke
python -m benchmarks.run --env hopper,walker2d    # a run each
python -m benchmarks.run --policy policy.npz --env hopper
python -m benchmarks.run --policy ppo.zip --policy-stats vecnormalize.pkl --env hopper
python -m benchmarks.run --seeds 8 --chunk-seeds 2 --shard 0/4    # and 1/4, 2/4, 3/4; then merge

The same command goes on where a killed run was.
"""

import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from benchmarks.experiment.config import Experiment, RunOptions, parse_tasks
from benchmarks.experiment.design import Design, expand
from benchmarks.experiment.plan import make_plan
from benchmarks.experiment.sharding import Shard, blocks_of, find_shard, where
from benchmarks.experiment.validate import check
from benchmarks.report.sinks import Sink, make_sink
from benchmarks.report.write import write_report
from benchmarks.runtime.atomic import sweep
from benchmarks.runtime.checkpoints import Chunks, Work
from benchmarks.runtime.console import Display, make_console
from benchmarks.runtime.guard import guarded
from benchmarks.runtime.preemption import Stopping
from benchmarks.runtime.run_folder import CHUNKS, EMPTY, RunFolder
from benchmarks.stages import pipeline
from benchmarks.stages.pipeline import list_chunks
from benchmarks.stages.results import finish
from benchmarks.stages.train import check_orders, read_file
from jaxprune import devices
from jaxprune.envs import Environment
from jaxprune.types import Policy

AGAIN = "the same command goes on from there"


class Ready(NamedTuple):
    """An experiment that was checked; nothing is computed or written yet."""

    design: Design
    options: RunOptions
    whole: Path  # the folder of the run
    env: Environment
    loaded: Policy | None  # the policy of `--policy`
    shard: Shard
    plan: str


@guarded(f"what was finished is kept, and when the cause is gone {AGAIN}")
def main(argv: Sequence[str]) -> int:
    """The command; returns its exit status."""
    command = shlex.join(["python", "-m", "benchmarks.run", *argv])
    asked = parse_tasks(argv)
    devices.configure()
    console = make_console()
    for ready in [prepared(*one) for one in asked]:  # all are checked before one is computed
        run(ready, command, console)
    return 0


def prepared(asked: Experiment, options: RunOptions) -> Ready:
    """Returns one experiment, or one shard of it, ready to be computed.

    Raises:
        InputError: it cannot be computed as it was asked for.
    """
    env = check(asked)
    file = read_file(asked, env)
    loaded = None if file is None else file.policy
    experiment = asked.resolved(env, loaded)
    design, shard = expand(experiment), find_shard(options, experiment)
    whole = options.folder(experiment)
    plan = make_plan(design, env, where(whole, shard), shard, file)
    check_orders(design, env, loaded)
    return Ready(design, options, whole, env, loaded, shard, str(plan))


def run(ready: Ready, command: str, console: Console) -> None:
    """One experiment, or one shard of it, from the plan to the report.

    Raises:
        InputError: before any training, with nothing written.
        OSError: a file could not be written; those that are there are whole.
        Stopped: after SIGTERM, at the end of a chunk.
    """
    started = time.monotonic()
    design, options, whole, env, loaded, shard, plan = ready
    folder = RunFolder(where(whole, shard), design.experiment.settings())
    sink = make_sink(options.sink, folder.path, folder.settings)
    console.print(plan, markup=False)
    if options.dry_run:
        return
    with folder.locked():
        complete = options.resume and not folder.missing()
        if complete:
            console.print(f"{folder.path} is complete (--no-resume computes it again)")
        if complete or not options.resume:
            Chunks(folder.path / CHUNKS, {}).clear()
        if not complete:
            facts = {"command": command, "shard": str(shard)}
            compute(design, env, loaded, shard, folder, facts, sink, console)
        if shard.count > 1:
            console.print(
                f"wrote {folder.path}; when all {shard.count} shards are there, unite them: "
                f"python -m benchmarks.merge {whole}"
            )
            return
        write_report(folder, console)
    seconds = round(time.monotonic() - started, 1)
    console.print(f"wrote {folder.path}/report.html, report.md, tables and figures in {seconds} s")


def compute(
    design: Design,
    env: Environment,
    loaded: Policy | None,
    shard: Shard,
    folder: RunFolder,
    facts: dict[str, Any],
    sink: Sink,
    console: Console,
) -> None:
    """Computes what is not in the chunks of a locked folder, and writes the tables and agents."""
    started, chunks_at = time.monotonic(), folder.path / CHUNKS
    missing = folder.missing()
    if missing and missing != [EMPTY]:
        console.print(f"not complete: {', '.join(missing)}", markup=False)
    sweep(chunks_at)
    folder.begin(facts)
    stopping = Stopping(lambda: sweep(folder.path, chunks_at))
    stopping.install()
    chunks = Chunks(chunks_at, folder.identity, stopping.boundary)
    count = len(list_chunks(design, blocks_of(design.blocks, shard)))
    with Display(console, count) as display, closing(sink):
        work = Work(chunks, display, sink.record)
        results = pipeline.run(design, env, loaded, work, shard)
    facts |= {**results.facts, "stages": display.seconds(), "damaged_chunks": chunks.damaged}
    facts |= {"seconds": round(time.monotonic() - started, 1)}
    finish(folder, results, facts, is_shard=shard.count > 1)
    chunks.clear()
    if display.resumed():
        console.print(display.resumed())
    for name in chunks.damaged:
        console.print(f"warning: the chunk {name} was damaged and has been computed again")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
