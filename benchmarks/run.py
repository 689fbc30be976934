"""Train, prune, attack, certify and report from one command.

python -m benchmarks.run --sparsity-grid 0:0.95:20
python -m benchmarks.run --preset smoke
python -m benchmarks.run --env hopper,walker2d    # a run each
python -m benchmarks.run --policy policy.npz --env hopper
python -m benchmarks.run --policy ppo.zip --policy-stats vecnormalize.pkl --env hopper
python -m benchmarks.run --seeds 8 --chunk-seeds 2 --shard 0/4    # and 1/4, 2/4, 3/4; then merge
python -m benchmarks.run --seeds 8 --chunk-seeds 2 --engine ray   # four tasks, of a cluster
srun python -m benchmarks.run --mesh global    # one program on the devices of all processes

The same command goes on where a killed run was.
"""

import sys
import time
from collections.abc import Sequence

from rich.console import Console

from benchmarks.engines.mesh import accompany, ended, is_global
from benchmarks.engines.process import Ready, begin, compute, prepared
from benchmarks.engines.ray import RAY, check_engine, run_on_ray
from benchmarks.experiment.config import parse_tasks
from benchmarks.report.sinks import make_sink
from benchmarks.report.write import write_report
from benchmarks.runtime.atomic import sweep
from benchmarks.runtime.command_line import command
from benchmarks.runtime.console import make_console
from benchmarks.runtime.guard import guarded
from benchmarks.runtime.preemption import Stopping
from benchmarks.runtime.run_folder import CHUNKS
from jaxprune import devices

AGAIN = "the same command goes on from there"


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit status."""
    return ended(_main(argv))


@guarded(f"what was finished is kept, and when the cause is gone {AGAIN}")
def _main(argv: Sequence[str]) -> int:
    told = command("run", *argv)
    asked = parse_tasks(argv)
    for _, options in asked:
        check_engine(options)
    devices.configure(join=is_global(asked))
    if asked[0][1].engine != RAY:  # whose workers look for themselves
        devices.check_platform(asked[0][1].require)
    console = make_console()
    for ready in [prepared(*one) for one in asked]:  # all are checked before one is computed
        if devices.is_first():
            run(ready, told, console)
        else:
            accompany(ready)
    devices.leave()
    return 0


def run(ready: Ready, told: str, console: Console) -> None:
    """One experiment, or one shard of it, from the plan to the report.

    Raises:
        InputError: before any training, with nothing written.
        OSError: a file could not be written; those that are there are whole.
        Stopped: after SIGTERM, at the end of a chunk.
    """
    started, options, shard, folder = time.monotonic(), ready.options, ready.shard, ready.folder
    sink = make_sink(options.sink, folder.path, folder.settings)
    console.print(ready.plan, markup=False)
    if options.dry_run:
        return
    facts = {"command": told, "shard": str(shard)}
    stopping = Stopping(lambda: sweep(folder.path, folder.path / CHUNKS))
    with folder.locked():
        if options.engine == RAY:
            run_on_ray(ready, facts, console, stopping)
        elif devices.agreed(begin(ready, folder, facts, console)):
            stopping.install()
            compute(ready, folder, facts, sink, console, stopping.boundary)
        if shard.count > 1:
            console.print(
                f"wrote {folder.path}; when all {shard.count} shards are there, unite them: "
                f"{command('merge', str(ready.whole))}"
            )
            return
        write_report(folder, console)
        sink.report(folder.path)
    seconds = round(time.monotonic() - started, 1)
    wrote = f"wrote {folder.path}/report.html, report.md, tables and figures in {seconds} s"
    console.print(wrote, soft_wrap=True)  # a path stays whole


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
