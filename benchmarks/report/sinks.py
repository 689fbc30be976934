"""Where a run can be watched: TensorBoard or Weights & Biases, fed from the tables.

A sink is told of a chunk's tables when they are complete: on the host, after the fact, never from
a compiled program. The agents of a chunk are one run of the tool, named after their seeds, and the
tool's own grouping shows their spread. The report is one more run. The tables remain the results;
nothing is read back.
"""

import hashlib
import importlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from matplotlib.image import imread

from jaxprune.policy_io.addresses import is_address
from jaxprune.policy_io.labels import PARTS, Labels
from jaxprune.validation import InputError, lookup

Table = Mapping[str, np.ndarray]
# The run of a tool that shows the report, among those of the chunks.
REPORT = "report"


class Sink(Protocol):
    """What is told of the tables of a run."""

    def record(self, stage: str, table: Table) -> None:
        """The table of one chunk, complete; `stage` is its name in `runtime.schemas.SCHEMAS`."""
        ...

    def close(self) -> None:
        """No more tables will come."""
        ...

    def report(self, folder: Path) -> None:
        """The report of the whole run is in its folder."""
        ...


class NoSink:
    """Tells nobody."""

    def record(self, stage: str, table: Table) -> None:
        """Nothing."""
        del stage, table  # nobody wants them

    def close(self) -> None:
        """Nothing."""

    def report(self, folder: Path) -> None:
        """Nothing."""
        del folder


class TensorBoard:
    """Event files in FOLDER/tensorboard, a run for every chunk.

    Args:
        folder: of the results.
        settings: unused; experiment.json has them.

    Raises:
        InputError: tensorboardX is not installed.
    """

    def __init__(self, folder: Path, settings: Mapping[str, object]):
        del settings
        self._tool = needed("tensorboardX", "tensorboard")
        self._folder = folder / "tensorboard"

    def record(self, stage: str, table: Table) -> None:
        """One event file, whole when this returns; steps are rounded to integers."""
        place = str(self._folder / run_name(table))
        with self._tool.SummaryWriter(logdir=place, filename_suffix=f".{stage}") as writer:
            for scalar in summaries(stage, table):
                writer.add_scalar(scalar.tag, scalar.value, round(scalar.step))

    def close(self) -> None:
        """Nothing: every file is whole."""

    def report(self, folder: Path) -> None:
        """The text and the pictures of the report."""
        with self._tool.SummaryWriter(logdir=str(self._folder / REPORT)) as writer:
            writer.add_text(REPORT, (folder / "report.md").read_text(encoding="utf-8"))
            for picture in sorted(folder.glob("*.png")):
                writer.add_image(picture.stem, imread(picture), dataformats="HWC")


class WeightsAndBiases:
    """Runs of the project "jaxprune", one for every chunk, grouped by the folder of the results.

    `WANDB_MODE=offline` keeps them in FOLDER/wandb until `wandb sync`. A run that is started again
    goes on under its old name, because its id follows from the settings and the seeds.

    Args:
        folder: of the results.
        settings: of the experiment, shown as the configuration of every run.

    Raises:
        InputError: wandb is not installed, or nobody is logged in.
    """

    def __init__(self, folder: Path, settings: Mapping[str, object]):
        self._tool = needed("wandb", "wandb")
        try:
            self._tool.login()
        except self._tool.Error as error:
            raise InputError(
                f"sink 'wandb' cannot log in ({error}): run `wandb login`, or set "
                "WANDB_MODE=offline"
            ) from None
        self._folder, self._settings = folder, dict(settings)
        text = json.dumps(self._settings, sort_keys=True)
        self._digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        self._run: Any = None

    def record(self, stage: str, table: Table) -> None:
        """One line for every step, with all the scalars of that step."""
        axis, lines = AXES.get(stage), {}
        for scalar in summaries(stage, table):
            lines.setdefault(scalar.step, {})[scalar.tag] = scalar.value
        if axis is None or not lines:
            return
        run = self._started(run_name(table))
        # Steps of the tool only ever rise; ours are a metric of their own.
        run.define_metric(f"{stage}/*", step_metric=axis)
        for step, values in sorted(lines.items()):
            run.log({axis: step, **values})

    def close(self) -> None:
        """Finish the run that is open."""
        if self._run is not None:
            self._run.finish()
        self._run = None

    def report(self, folder: Path) -> None:
        """The pictures of the report, and an artifact of its files and the tables."""
        run = self._started(REPORT)
        pictures = sorted(folder.glob("*.png"))
        run.log({picture.stem: self._tool.Image(str(picture)) for picture in pictures})
        artifact = self._tool.Artifact(f"{REPORT}-{self._digest}", type=REPORT)
        for file in sorted(folder.iterdir()):
            if file.suffix in (".html", ".json", ".md", ".parquet", ".png"):
                artifact.add_file(str(file))
        run.log_artifact(artifact)
        self.close()

    def _started(self, name: str) -> Any:
        """The run of a chunk; another one that is open is finished."""
        if self._run is not None and self._run.name == name:
            return self._run
        self.close()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._run = self._tool.init(
            project="jaxprune",
            group=self._folder.name,
            name=name,
            id=f"{self._digest}-{name}",
            resume="allow",
            dir=str(self._folder),
            config=self._settings,
        )
        return self._run


SINKS: dict[str, Callable[[Path, Mapping[str, object]], Sink]] = {
    "none": lambda folder, settings: NoSink(),
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
}


def make_sink(name: str, folder: Path, settings: Mapping[str, object]) -> Sink:
    """The sink called `name`, one of `SINKS`; nothing is written yet.

    Args:
        name: of the sink.
        folder: of the results.
        settings: of the experiment, JSON values.

    Raises:
        InputError: an unknown name, a package that is not installed, nobody logged in, or no local
            folder for the files of a sink.
    """
    if name != "none" and is_address(folder):
        raise InputError(
            f"sink {name!r} keeps files beside the tables, and {folder} is an address: give a "
            "local --out, or choose sink 'none'"
        )
    return lookup(SINKS, name, "sink")(folder, settings)


def needed(module: str, extra: str) -> Any:
    """A module of an optional extra. Raises `InputError` where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise InputError(
            f"sink {extra!r} needs the package {module}, which is not installed: "
            f"pip install 'jaxprune[{extra}]', or choose sink 'none'"
        ) from None


# --- what is told ---------------------------------------------------------------------------------

# What scalars of a stage are drawn against; other stages have none.
AXES = {"training": "env_steps", "returns": "sparsity_percent", "certificates": "sparsity_percent"}
LEARNING = ("episode_return", "policy_loss", "value_loss", "entropy", "kl", "robust")


class Scalar(NamedTuple):
    """One point of one curve."""

    tag: str  # STAGE/QUANTITY/LABEL
    step: float  # on the axis of the stage
    value: float  # finite


def run_name(table: Table) -> str:
    """What the tool calls a chunk: its seeds."""
    first, last = np.min(table["seed"]), np.max(table["seed"])
    return f"seeds-{first}-{last}"


def summaries(stage: str, table: Table) -> Iterator[Scalar]:
    """Means over agents (and episodes) of a table, curve by curve, in the order of the table.

    Training against env steps; returns by victim, attack and eps, and certificates by bound,
    quantity and eps, against the sparsity that was asked for, in percent. What is not a number (a
    return before any episode has ended) has no part in a mean; what is not finite is not told.
    """
    if stage not in AXES:
        return
    labelled = {**table, "label": Labels({name: table[name] for name in PARTS}).column(table)}
    for tag, step, value in _POINTS[stage](labelled):
        if value is not None and np.isfinite(value):
            yield Scalar(re.sub(r"[^-/\w.]+", "_", f"{stage}/{tag}").strip("_"), step, value)


Points = Iterator[tuple[str, float, float | None]]


def _training(table: Table) -> Points:
    names = (*LEARNING, "sparsity_now")
    for row in _means(table, ("label", "env_steps"), names):
        for name in names:
            yield f"{name}/{row['label']}", row["env_steps"], row[f"{name}_mean"]


def _returns(table: Table) -> Points:
    for row in _means(table, ("victim", "attack", "eps", "label", "sparsity"), ("return",)):
        tag = f"{row['victim']}/{row['attack']}_eps_{row['eps']:g}/{row['label']}"
        yield tag, 100 * row["sparsity"], row["return_mean"]


def _certificates(table: Table) -> Points:
    keys = ("bound", "quantity", "eps", "label", "sparsity")
    for row in _means(table, keys, ("value",)):
        tag = f"{row['bound']}_{row['quantity']}_eps_{row['eps']:g}/{row['label']}"
        yield tag, 100 * row["sparsity"], row["value_mean"]


_POINTS: dict[str, Callable[[Table], Points]] = {
    "training": _training,
    "returns": _returns,
    "certificates": _certificates,
}


def _means(table: Table, keys: Sequence[str], names: Sequence[str]) -> list[dict[str, Any]]:
    """Means of columns over the rows with equal keys, None where there is no number."""
    arrays = {name: pa.array(table[name], from_pandas=True) for name in (*keys, *names)}
    groups = pa.table(arrays).group_by(list(keys), use_threads=False)  # in order of appearance
    return groups.aggregate([(name, "mean") for name in names]).to_pylist()
