"""How many agents and episodes fit on a device, from the memory of the programs of a run.

    python -m benchmarks.capacity --env cartpole hopper hopper:spring --preset paper --out FOLDER

All other options are those of `python -m benchmarks.run`. The training program and the evaluation
program are compiled at a few sizes and not run: XLA says how many bytes of a device their
arguments, results and temporaries take. With N agents on a device, W of them at a time,

    bytes = fixed + kept * N + working * W,

and with L environments (lanes) in episodes at a time, bytes = fixed + lane * L. Both are exact but
for XLA's rounding, because every array of a program has an axis of agents or lanes, or neither.
"""

import json
import shlex
import sys
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
import tyro
from rich.console import Console

from benchmarks.experiment.config import Experiment, parse
from benchmarks.experiment.design import expand
from benchmarks.experiment.memory import check_memory, needs
from benchmarks.experiment.plan import BASE_GIB
from benchmarks.experiment.validate import check
from benchmarks.runtime.atomic import write_text
from benchmarks.runtime.command_line import read_some_options
from benchmarks.runtime.compilation import Program, Programs
from benchmarks.runtime.console import make_console
from benchmarks.runtime.guard import guarded
from benchmarks.runtime.run_folder import provenance
from benchmarks.runtime.tables import markdown_table, terminal_table
from benchmarks.stages.attack import AttackRunner
from benchmarks.stages.evaluator import EPISODES_PER_LANE
from benchmarks.stages.train import prepare_training
from jaxprune import devices
from jaxprune.envs import Environment
from jaxprune.ppo import initial_policy
from jaxprune.validation import InputError

GIB = 2**30
# Agents, or cells, that the smallest program processes at a time.
LEAST = 4
# Of a device's memory, what is left to whatever else needs some.
RESERVE = 0.1


@dataclass(frozen=True)
class Options:
    """What to measure; all other options are those of benchmarks.run."""

    env: Annotated[tuple[str, ...], tyro.conf.arg(metavar="TASK[:BACKEND] ...")] = ("hopper",)
    """Tasks, with a simulator where it is not the task's own."""
    out: Path | None = None
    """Folder for capacity.json and capacity.md."""


class Device(NamedTuple):
    """What agents are to fit on."""

    name: str
    gib: float
    platform: str  # decides how many lanes are stepped at a time
    parts: int = 1  # XLA devices that share the memory
    hosts: bool = False  # Python and the compiler are in the same memory


DEVICES = (
    Device("laptop, 4 GiB", 4, "cpu", parts=2, hosts=True),
    Device("H100, 80 GB", 79, "gpu"),
    Device("TPU v5e, 16 GB", 16, "tpu"),
    Device("TPU v6e, 32 GB", 32, "tpu"),
)


class Size(NamedTuple):
    """A program as it was compiled: for one device."""

    items: int  # agents, or lanes
    width: int  # of these at a time
    bytes: int


class Training(NamedTuple):
    """Bytes of the training program on one device."""

    fixed: float
    kept: float  # of every agent, between calls and over them
    working: float  # of every agent that is being trained at the moment


class Evaluation(NamedTuple):
    """Bytes of the evaluation program on one device."""

    fixed: float
    lane: float  # of every environment in an episode


class Capacity(NamedTuple):
    """What was found out about one task."""

    experiment: Experiment
    training: Training
    evaluation: Evaluation
    trained: list[Size]
    evaluated: list[Size]

    @property
    def name(self) -> str:
        """The task and its simulator."""
        return f"{self.experiment.env} ({self.experiment.backend})"


class Fit(NamedTuple):
    """What a device holds."""

    agents: int
    at_a_time: int
    lanes: int


@guarded("nothing was measured to the end")
def main(argv: Sequence[str]) -> int:
    """The command; returns its exit status."""
    console = make_console()
    options, rest = read_some_options(Options, argv, "benchmarks.capacity")
    command = shlex.join(["python", "-m", "benchmarks.capacity", *argv])
    measure(options, rest, command, console)
    return 0


def measure(options: Options, rest: Sequence[str], command: str, console: Console) -> None:
    """All tasks, printed and written.

    Raises:
        InputError: settings that no run could honour, or that train nothing; nothing was compiled.
    """
    devices.configure()
    asked = [task_of(text, rest) for text in options.env]
    found = []
    for experiment, env in asked:
        console.print(f"compiling {experiment.env} on {experiment.backend}")
        found.append(capacity(experiment, env))
    for title, rows in (("memory of one device", _memory_rows), (FIT_TITLE, _fit_rows)):
        console.print(terminal_table(title, *rows(found), left=("task",), wrap=True))
    console.print(_caveat())
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        facts = {"command": command, **provenance(), "measured": _caveat()}
        value = {**facts, "tasks": [_as_json(one) for one in found]}
        for name, text in (
            ("capacity.json", json.dumps(value, indent=1) + "\n"),
            ("capacity.md", markdown(found, command)),
        ):
            write_text(options.out / name, text)


def task_of(text: str, rest: Sequence[str]) -> tuple[Experiment, Environment]:
    """The experiment of `TASK[:BACKEND]`, resolved. Raises `InputError` if it trains nothing."""
    task, _, backend = text.partition(":")
    asked, _ = parse(["--env", task, *(["--backend", backend] if backend else []), *rest])
    if asked.policy is not None:
        raise InputError(
            f"policy {asked.policy} is not trained, and what training takes is measured: "
            "leave out --policy"
        )
    experiment, env, _ = check(asked)
    one_seed = replace(experiment, seeds=1, chunk_seeds=1)
    check_memory(needs(expand(one_seed), env.spec, seeds=1))
    return experiment, env


# --- measuring ------------------------------------------------------------------------------------


class Measuring(Programs):
    """Compiles one program, for its memory, and none of the others."""

    def __init__(self, name: str):
        super().__init__()
        self._name = name
        self.bytes = 0

    def compile(self, name: str, program: Any, *shapes: Any) -> Program:
        """Note the bytes of a device; the result is never awaited."""
        if name == self._name:
            stats = program.lower(*shapes).compile().memory_analysis()
            self.bytes = (
                stats.argument_size_in_bytes
                + stats.output_size_in_bytes
                - stats.alias_size_in_bytes
                + stats.temp_size_in_bytes
            )
        return Future()


def capacity(experiment: Experiment, env: Environment) -> Capacity:
    """Both programs of one task."""
    # Seeds at a time on a device, and in all. Of one or two agents XLA makes another program.
    least = -(-LEAST // len(expand(experiment).first(1).trainings))
    seeds = [(least, 2 * least), (2 * least, 4 * least), (2 * least, 8 * least)]
    trained = [training_size(experiment, env, *pair) for pair in seeds]
    evaluated = [evaluation_size(experiment, env, width) for width in (LEAST, 2 * LEAST)]
    return Capacity(
        experiment, fit_training(trained), fit_evaluation(evaluated), trained, evaluated
    )


def training_size(experiment: Experiment, env: Environment, width: int, seeds: int) -> Size:
    """The training program for so many seeds on a device, `width` of them at a time."""
    devices = len(jax.local_devices())
    agents = len(expand(experiment).first(1).trainings)
    lanes = width * agents * experiment.ppo.num_envs
    design = expand(replace(experiment, lanes=lanes))
    programs = Measuring("train")
    prepare_training(design, design.first(seeds * devices), env, programs, None)
    return Size(seeds * agents, width * agents, programs.bytes)


def evaluation_size(experiment: Experiment, env: Environment, width: int) -> Size:
    """The evaluation program, for one policy, with lanes for `width` cells on a device."""
    lanes = width * experiment.episodes
    one = jax.eval_shape(
        lambda key: initial_policy(experiment.ppo, env.spec, key), jax.random.key(0)
    )
    policy = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), one)
    programs, cells = Measuring("evaluate"), width * EPISODES_PER_LANE * len(jax.local_devices())
    experiment = replace(experiment, lanes=lanes)
    cases = expand(experiment).cases
    AttackRunner(experiment, cases, env, policy, cells, programs).evaluator.compile()
    return Size(lanes, lanes, programs.bytes)


def fit_training(sizes: Sequence[Size]) -> Training:
    """The line through three sizes."""
    terms = [[1, size.items, size.width] for size in sizes]
    return Training(*np.linalg.solve(terms, [size.bytes for size in sizes]).tolist())


def fit_evaluation(sizes: Sequence[Size]) -> Evaluation:
    """The line through two sizes."""
    terms = [[1, size.items] for size in sizes]
    return Evaluation(*np.linalg.solve(terms, [size.bytes for size in sizes]).tolist())


# --- what fits ------------------------------------------------------------------------------------


def fit(found: Capacity, device: Device) -> Fit:
    """Agents and lanes that a device holds, with `RESERVE` of its memory left.

    Agents are trained at most `LANES` environments at a time; more of them wait their turn, and
    take what is kept of them.
    """
    experiment, training, evaluation = found.experiment, found.training, found.evaluation
    assert experiment.backend is not None  # resolved
    base = BASE_GIB[experiment.backend] if device.hosts else 0
    share = ((1 - RESERVE) * device.gib - base) * GIB / device.parts
    most = max(devices.LANES[device.platform] // experiment.ppo.num_envs, 1)
    left = max(share - training.fixed, 0)
    agents = int(left / (training.kept + training.working))
    if agents > most:
        agents = int((left - most * training.working) / training.kept)
    lanes = int(max(share - evaluation.fixed, 0) / evaluation.lane)
    parts = device.parts
    return Fit(parts * agents, parts * min(agents, most), parts * lanes)


def _caveat() -> str:
    """On what the figures were measured."""
    device = jax.local_devices()[0]
    text = f"Memory as XLA assigns buffers for {device.device_kind}"
    if device.platform == "cpu":
        text += (
            ", not measured on the accelerators: a GPU's libraries need workspace, and a TPU pads "
            "the last two axes of an array to tiles of 8 x 128"
        )
    return f"{text}. {RESERVE:.0%} of a device is left free."


# --- tables ---------------------------------------------------------------------------------------


def _memory_rows(found: Sequence[Capacity]) -> tuple[list[str], list[list[str]]]:
    """Header, and a row per task."""
    header = ["task", "envs x unroll", "kept per agent", "working per agent", "per lane", "fixed"]
    rows = []
    for one in found:
        config = one.experiment.ppo
        bytes_ = (one.training.kept, one.training.working, one.evaluation.lane)
        fixed = max(one.training.fixed, one.evaluation.fixed)
        sizes = [human(x) for x in (*bytes_, fixed)]
        rows.append(
            [
                one.name,
                f"{config.num_envs} x {config.unroll}",
                *sizes,
            ]
        )
    return header, rows


def _fit_rows(found: Sequence[Capacity]) -> tuple[list[str], list[list[str]]]:
    """Header, and a row per task: agents (at a time) / lanes of every device."""
    rows = []
    for one in found:
        fits = [fit(one, device) for device in DEVICES]
        cells = [f"{about(x.agents)} ({x.at_a_time:,}) / {about(x.lanes)}" for x in fits]
        rows.append([one.name, *cells])
    return ["task", *(device.name for device in DEVICES)], rows


FIT_TITLE = "agents that fit (of these, trained at a time) / lanes that fit"


def markdown(found: Sequence[Capacity], command: str) -> str:
    """Both tables, and how they came about."""
    memory, fits = (markdown_table(*rows(found), left=1) for rows in (_memory_rows, _fit_rows))
    parts = [
        "# Capacity",
        f"    {command}",
        _caveat(),
        "\n".join(memory),
        f"{FIT_TITLE[0].upper()}{FIT_TITLE[1:]}:",
        "\n".join(fits),
    ]
    return "\n\n".join(parts) + "\n"


def _as_json(one: Capacity) -> dict[str, object]:
    """All of it."""
    return {
        "env": one.experiment.env,
        "backend": one.experiment.backend,
        "settings": one.experiment.settings(),
        "training": one.training._asdict(),
        "evaluation": one.evaluation._asdict(),
        "training_sizes": [size._asdict() for size in one.trained],
        "evaluation_sizes": [size._asdict() for size in one.evaluated],
        "fits": {device.name: fit(one, device)._asdict() for device in DEVICES},
    }


def about(count: int) -> str:
    """Two digits, rounded down: no more is known."""
    unit = 10 ** max(len(str(count)) - 2, 0)
    return f"{count // unit * unit:,}"


def human(count: float) -> str:
    """Bytes with three digits."""
    for unit, size in (("GiB", GIB), ("MiB", 2**20), ("KiB", 2**10)):
        if abs(count) >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} B"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
