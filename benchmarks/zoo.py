"""Put dense agents of finished runs into the zoo, with a table of what they score.

python -m benchmarks.zoo results/study/hopper-ppo results/study/cartpole --agents 10

Writes jaxprune/zoo/TASK/REGIME/NUMBER.npz and the table of jaxprune/zoo/README.md, which name all
policies of the zoo: give all runs whose agents are in it. Where two have a task and regime, the
first counts.
"""

import shutil
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import tyro

from benchmarks.analysis.curves import USUAL, collect
from benchmarks.analysis.worst_case import worst_of
from benchmarks.runtime.atomic import write_text
from benchmarks.runtime.command_line import read_options
from benchmarks.runtime.console import make_console
from benchmarks.runtime.guard import guarded
from benchmarks.runtime.run_folder import read_table
from benchmarks.runtime.tables import markdown_table, plain
from jaxprune.policy_io import load_run, save_policy
from jaxprune.policy_io.labels import Labels
from jaxprune.policy_io.zoo import FOLDER, PREFIX
from jaxprune.ppo import REGIMES
from jaxprune.types import Policy
from jaxprune.validation import COUNT, InputError, check_ranges, lookup

HEADER = ("policy", "run", "clean", "MAD", "worst of")
# After which the table of the README follows.
MARK = "<!-- The table is written by benchmarks.zoo. -->\n"


@dataclass(frozen=True)
class Options:
    """Put dense agents of finished runs into the zoo, with a table of what they score."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of finished runs, with their agents."""
    agents: Annotated[int, COUNT] = 10
    """How many of every task and regime: the first seeds, good and bad ones."""
    regimes: tuple[str, ...] = ()
    """Only the agents of these; default: of all."""
    out: Path = FOLDER
    """Folder of the zoo."""


class Entry(NamedTuple):
    """One policy of the zoo."""

    name: str  # TASK/REGIME/NUMBER
    policy: Policy
    cells: list[str]  # of the table


@guarded("the zoo is as it was")
def main(argv: Sequence[str]) -> int:
    """The command; returns its exit status."""
    options = read_options(Options, argv, "benchmarks.zoo")
    check_ranges(options)
    for name in options.regimes:
        lookup(dict.fromkeys(REGIMES), name, "regime")
    entries: dict[str, Entry] = {}
    for run in options.runs:
        for entry in entries_of(run, options.agents, options.regimes):
            entries.setdefault(entry.name, entry)
    if not entries:
        raise InputError(f"no agents of {', '.join(options.regimes)} in these runs: name others")
    introduction, _, _ = (options.out / "README.md").read_text(encoding="utf-8").partition(MARK)
    for folder in {(options.out / name).parent for name in entries}:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    for name, entry in entries.items():
        save_policy(options.out / f"{name}.npz", entry.policy)
    table = markdown_table(HEADER, [entry.cells for entry in entries.values()], left=2)
    write_text(options.out / "README.md", "\n".join([introduction + MARK, *table, ""]))
    make_console().print(f"wrote {len(entries)} policies to {options.out}", soft_wrap=True)
    return 0


def entries_of(path: Path, agents: int, regimes: Collection[str] = ()) -> Iterator[Entry]:
    """Yields the first agents of every regime of a run, or of some, with their mean returns.

    Raises:
        InputError: the run is not finished, its agents are not there, or MAD was not played.
    """
    run, table = load_run(path), read_table(path, "returns")
    results, labels, task = collect(table), Labels(table), str(table["env"][0])
    eps = results.radii[0]
    if (USUAL, eps) not in results.adversaries:
        raise InputError(
            f"{path} has no returns under {USUAL}, which the table tells: attack with it"
        )
    for regime in dict.fromkeys(map(str, table["regime"])):
        if regimes and regime not in regimes:
            continue
        label = labels.dense(regime)
        worst = worst_of(results, label, eps).curve
        curves = [results.clean(label), results.by_key[label, USUAL, eps], worst]
        means = [curve.returns[:, 0].mean(-1) for curve in curves]  # [seeds] each
        seeds = sorted({int(seed) for seed in table["seed"]})[:agents]
        for i, seed in enumerate(seeds):
            name = f"{task}/{regime}/{i}"
            told = [f"`{PREFIX}{name}`", plain(path.name), *(f"{mean[i]:.0f}" for mean in means)]
            yield Entry(name, run.policy("none", 0.0, seed, regime=regime), told)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
