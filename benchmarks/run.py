"""Train, prune, attack, certify and report from one command.

python -m benchmarks.run --sparsity-grid 0:0.95:20
python -m benchmarks.run --preset smoke
python -m benchmarks.run --policy policy.npz --env hopper
python -m benchmarks.run --policy ppo.zip --policy-stats vecnormalize.pkl --env hopper
"""

import shlex
import sys
import time
from collections.abc import Sequence

from rich.console import Console

from benchmarks import pipeline, report
from benchmarks.display import Display, complain, make_console
from benchmarks.experiment import Experiment, check, parse
from benchmarks.plan import make_plan
from benchmarks.store import RunFolder
from benchmarks.training import check_orders, load_file
from jaxprune import population
from jaxprune.families import InputError
from jaxprune.policy_io import save_agents

# The exit status of input that cannot be honoured, and of Ctrl-C.
BAD_INPUT, INTERRUPTED = 2, 130


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit status."""
    console = make_console()
    try:
        run(parse(argv), shlex.join(["python", "-m", "benchmarks.run", *argv]), console)
    except InputError as error:
        complain(error)
        return BAD_INPUT
    except KeyboardInterrupt:
        console.print("interrupted: the files that are there are complete")
        return INTERRUPTED
    return 0


def run(asked: Experiment, command: str, console: Console) -> None:
    """One experiment from the settings to the report.

    Raises:
        InputError: before any training, with nothing written.
    """
    started = time.monotonic()
    population.configure()
    env = check(asked)
    loaded = load_file(asked, env)
    experiment = asked.resolved(env, loaded)
    check_orders(experiment, env, loaded)
    folder = RunFolder(experiment.folder(), experiment.settings())
    console.print(str(make_plan(experiment, env, folder.path)), markup=False)
    if experiment.dry_run:
        return

    with Display(console) as display:
        results = pipeline.run(experiment, env, loaded, display)
        facts = {**results.facts, "stages": display.seconds(), "command": command}
    folder.describe(facts)
    for name, columns in results.tables.items():
        if columns:
            folder.write_table(name, columns)
    save_agents(folder.path / "agents", results.population.policy, results.masks())
    report.write_report(folder, console)

    seconds = round(time.monotonic() - started, 1)
    folder.describe({**facts, "seconds": seconds})
    console.print(f"wrote {folder.path}/report.md and its tables and figures in {seconds} s")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
