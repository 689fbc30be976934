"""Choose a pruned policy of a run within limits, and write it for a device.

python -m benchmarks.select results/RUN --clean-loss 5% --attacked-loss 5% --out policy.h
python -m benchmarks.select results/RUN --method magnitude --out policy.onnx
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import tyro
from rich.console import Console

from benchmarks.runtime.command_line import SharePercent, read_options
from benchmarks.runtime.console import make_console
from benchmarks.runtime.guard import guarded
from benchmarks.runtime.tables import terminal_table
from jaxprune.envs import make_env
from jaxprune.policy_io import (
    Run,
    Selection,
    export_c,
    export_onnx,
    export_policy,
    load_run,
    save_policy,
)
from jaxprune.policy_io.runs import SHARE
from jaxprune.pruning.compact import compact
from jaxprune.pruning.storage import storage_bytes
from jaxprune.statistics import Interval
from jaxprune.statistics.choice import TOLERATED_LOSS, Measured
from jaxprune.types import TASK_BOX, Policy
from jaxprune.validation import RADIUS, SEED, InputError, check_ranges, lookup


@dataclass(frozen=True)
class Options:
    """Choose a pruned policy of a run within limits, and write it for a device."""

    run: tyro.conf.Positional[Path]
    """Folder of a run, local or an address."""
    clean_loss: Annotated[float, SharePercent, SHARE] = TOLERATED_LOSS
    """Share of the clean return of the dense agents that may be lost, e.g. 5%."""
    attacked_loss: Annotated[float, SharePercent, SHARE] = TOLERATED_LOSS
    """Share of their return under the strongest attack that may be lost."""
    method: str | None = None
    """Pruning method, or a curve such as "sa_ppo magnitude"; default: the sparsest of all."""
    eps: Annotated[float | None, RADIUS] = None
    """Radius of the attacks; default: the smallest of the run."""
    seed: Annotated[int | None, SEED] = None
    """Agent to write; default: the best under attack."""
    out: Path | None = None
    """File to write: .npz (ours), .onnx, .h (C99) or .stablehlo; default: none."""
    layout: str = "dense"
    """How a C header holds the weights: dense, or rows (compressed sparse rows)."""
    dtype: str = "float"
    """Numbers of a C header: float or int8."""
    compact: bool = True
    """Leave out units that do nothing; the function stays the same."""


class Target(NamedTuple):
    """A file to write."""

    path: Path
    write: Callable[[Path, Policy], None]


@guarded("nothing was written")
def main(argv: Sequence[str]) -> int:
    """The command; returns its exit status."""
    options = read_options(Options, argv, "benchmarks.select", addresses=True)
    check_ranges(options)
    run = load_run(options.run)
    target = None if options.out is None else _target_of(options, run)
    losses = options.clean_loss, options.attacked_loss
    selection = run.best(*losses, options.method, options.eps, options.seed)
    console = make_console()
    show(selection, losses, console)
    if target is not None:
        policy = selection.policy
        target.write(target.path, compact(policy) if options.compact else policy)
        size = target.path.stat().st_size
        console.print(f"wrote {target.path}, {size:,} bytes", soft_wrap=True, markup=False)
    return 0


# --- files ----------------------------------------------------------------------------------------


def _target_of(options: Options, run: Run) -> Target:
    """Returns how to write the file that is asked for.

    Raises:
        InputError: its name does not end as a format does.
    """
    assert options.out is not None
    task = str(run.returns["env"][0])
    writers = {
        ".npz": save_policy,
        ".onnx": partial(_boxed, export_onnx, task),
        ".stablehlo": partial(_boxed, export_policy, task),
        ".h": partial(
            _boxed,
            partial(export_c, layout=options.layout, dtype=options.dtype, task=task),
            task,
        ),
    }
    return Target(options.out, lookup(writers, options.out.suffix, "format of --out"))


def _boxed(write: Callable[..., None], task: str, path: Path, policy: Policy) -> None:
    """Writes a policy with the box of its task, if that is what it clips its actions to."""
    box = make_env(task).spec.action_box if policy.action_box == TASK_BOX else None
    write(path, policy, action_box=box)


# --- words ----------------------------------------------------------------------------------------


def show(selection: Selection, losses: tuple[float, float], console: Console) -> None:
    """Prints what was chosen, what it loses, what it takes and what is proved of it."""
    found, agent = selection, selection.agent
    console.print(
        f"{found.label} at sparsity {found.sparsity:g}, agent of seed {agent.seed}", markup=False
    )
    chosen = " and ".join(f"{x:g}" for x in found.choice.sparsities)
    console.print(
        f"(the halves of the {found.replicates} chose {chosen}, and judged each other's choice)"
    )
    header = ["return", "dense", "loss", "95 % interval", "allowed"]
    rows = list(_rows(selection, losses))
    console.print(terminal_table(f"eps {found.eps:g}", header, rows, left=("return",)))
    try:
        policy = selection.policy
    except InputError:
        console.print("the run has no agents/: there is no policy to count or to write")
    else:
        sizes = storage_bytes(policy)._asdict().items()
        told = ", ".join(f"{name.replace('_', ' ')} {size:,}" for name, size in sizes)
        console.print(f"bytes of the actor: {told}")
    for line in certificates(selection):
        console.print(line, markup=False)
    for line in warnings(selection, losses):
        console.print(line, markup=False)


def _rows(selection: Selection, losses: tuple[float, float]) -> Iterator[list[str]]:
    """Yields clean and attacked, of the choice and of the agent."""
    choice, agent = selection.choice, selection.agent
    n = len(choice.clean.each)
    yield _row(
        f"clean, {n} {selection.replicates}",
        float(choice.dense_clean.interval.mean),
        choice.clean_change,
        losses[0],
    )
    yield _row(
        f"attacked, {n} {selection.replicates}",
        float(choice.dense_attacked.interval.mean),
        choice.attacked_change,
        losses[1],
    )
    episodes = len(agent.clean_change.each)
    dense = agent.clean - float(agent.clean_change.interval.mean)
    yield _row(f"clean, this agent, {episodes} episodes", dense, agent.clean_change, losses[0])
    dense = agent.attacked - float(agent.attacked_change.interval.mean)
    yield _row(
        f"attacked, this agent, {episodes} episodes", dense, agent.attacked_change, losses[1]
    )


def _row(name: str, dense: float, change: Measured, allowed: float) -> list[str]:
    loss = _share_of(change.interval, dense)
    ends = f"{_percent(loss.low)} .. {_percent(loss.high)}" if loss.available else "too few"
    return [name, f"{dense:.1f}", _percent(loss.mean), ends, f"{100 * allowed:g} %"]


def _percent(share: float) -> str:
    return f"{round(100 * float(share), 1) + 0.0:.1f} %"


def _share_of(change: Interval, dense: float) -> Interval:
    """Returns a change as a loss, in shares of the dense return."""
    unit = abs(dense) or 1.0
    return Interval(-change.mean / unit, -change.high / unit, -change.low / unit)


def certificates(selection: Selection) -> Iterator[str]:
    """Yields a line per certified quantity."""
    words = {
        "D": "an attack moves the action by at most {value:.4g} {unit}",
        "TV": "the action distribution changes by a total variation of at most {value:.4g}",
        "return_floor": "the mean return under any attack is at least {value:.4g}",
        "discounted_return_floor": "its discounted mean return is at least {value:.4g}",
    }
    places = {"global": "at every state", "local": "at the visited states"}
    for one in selection.certified:
        sure = "proved" if one.confidence == 1 else f"with {one.confidence:.0%} confidence"
        what = words[one.quantity].format(value=one.value, unit=one.unit)
        where = "" if "floor" in one.quantity else f" {places[one.scope]}"
        yield f"{sure}: {what}{where} ({one.bound})"


def warnings(selection: Selection, losses: tuple[float, float]) -> Iterator[str]:
    """Yields where the half that judges finds more of a loss than the half that chose allowed."""
    choice = selection.choice
    for name, dense, change, allowed in (
        ("clean", choice.dense_clean, choice.clean_change, losses[0]),
        ("attacked", choice.dense_attacked, choice.attacked_change, losses[1]),
    ):
        loss = _share_of(change.interval, float(dense.interval.mean)).mean
        if loss > allowed:
            told = f"a {name} loss of {_percent(loss)}, beyond the limit"
            yield f"warning: judged by the other half, it has {told}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
