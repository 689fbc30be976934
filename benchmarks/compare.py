"""Compare runs: tasks, regimes and methods on one page.

python -m benchmarks.compare results/HOPPER results/WALKER --out results/comparison

A score is a return over the mean clean return of the dense agents of the same run and regime, so
that tasks can be averaged. Writes comparison.md, comparison.html and profiles.png.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from benchmarks.analysis.answers import Answer, answers
from benchmarks.analysis.curves import CONFIDENCE, SEED, USUAL, Results, collect
from benchmarks.analysis.verdict import SweetSpot
from benchmarks.analysis.worst_case import worst_of
from benchmarks.report import png_figures
from benchmarks.report.charts import Chart, Facet, Trace, style
from benchmarks.report.html import page
from benchmarks.report.markdown import Section, text
from benchmarks.runtime.atomic import write_text
from benchmarks.runtime.command_line import read_options
from benchmarks.runtime.console import make_console
from benchmarks.runtime.guard import guarded
from benchmarks.runtime.run_folder import read_table
from benchmarks.runtime.tables import interval_text, markdown_table, plain
from jaxprune.policy_io.labels import PARTS, Labels
from jaxprune.statistics import Interval, bootstrap, iqm
from jaxprune.statistics.choice import TOLERATED_LOSS, replicates
from jaxprune.validation import InputError

PROFILES = "profiles.png"
# Of the clean score, what a sparsity must keep to be the one of a profile.
KEPT = 1 - TOLERATED_LOSS


@dataclass(frozen=True)
class Options:
    """Compare runs: tasks, regimes and methods on one page."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of two or more runs."""
    out: Path = Path("results/comparison")
    """Folder of the page."""


class Run(NamedTuple):
    """A run as read."""

    name: str  # of its folder
    task: str
    results: Results
    own: Labels  # what its curves are called in the run
    shared: Labels  # and among all runs


class Scores(NamedTuple):
    """Scores of one curve at one sparsity in one run, in shares of the dense clean return."""

    task: str
    label: str
    sparsity: float
    eps: float
    clean: np.ndarray  # [n], replicates
    attacked: np.ndarray  # [n], under the strongest attack


class Row(NamedTuple):
    """One method at one sparsity, over all tasks that have it."""

    label: str
    sparsity: float
    tasks: list[str]
    clean: Interval  # IQM over agents and tasks
    attacked: Interval
    replicates: int  # of each task


@guarded("nothing was written")
def main(argv: Sequence[str]) -> int:
    """The command; returns its exit status."""
    options = read_options(Options, argv, "benchmarks.compare", addresses=True)
    if len(options.runs) < 2:
        raise InputError(f"{len(options.runs)} run is nothing to compare: give two or more folders")
    runs = runs_of(options.runs)
    scores = scores_of(runs)
    rows = list(rows_of(scores))
    answered = [_answer_cells(answer) for answer in answers({x.name: x.results for x in runs})]
    sections = list(_sections(options.runs, answered, scores, rows))
    options.out.mkdir(parents=True, exist_ok=True)
    charts = {PROFILES.removesuffix(".png"): profiles(scores, rows)}
    title = f"{len(options.runs)} runs compared"
    pictures = png_figures.draw(charts, options.out)
    for name, content in (
        ("comparison.md", text(title, sections, pictures)),
        ("comparison.html", page(title, sections, charts, {})),
    ):
        write_text(options.out / name, content)
    console = make_console()
    for line in markdown_table(ANSWERS, answered, left=2):
        console.print(line, markup=False, soft_wrap=True)
    console.print(f"wrote {options.out}/comparison.html", soft_wrap=True)
    return 0


# --- numbers --------------------------------------------------------------------------------------


def runs_of(paths: Sequence[Path]) -> list[Run]:
    """Returns the runs, their curves called so that no two share a name.

    Raises:
        InputError: a table is missing or damaged, or two folders have the same name.
    """
    tables = [read_table(path, "returns") for path in paths]
    names = [path.name for path in paths]
    if twice := next((x for x in names if names.count(x) > 1), None):
        raise InputError(
            f"two folders are called {twice!r}: rename one, runs are told by their names"
        )
    shared = Labels({name: np.concatenate([table[name] for table in tables]) for name in PARTS})
    return [
        Run(name, str(table["env"][0]), collect(table), Labels(table), shared)
        for name, table in zip(names, tables, strict=True)
    ]


def scores_of(runs: Sequence[Run]) -> list[Scores]:
    """Returns the scores of all runs. Raises `InputError` where dense agents return 0."""
    return [x for run in runs for key in run.own.keys for x in _of_curve(run, key)]


def _of_curve(run: Run, key: tuple[str, ...]) -> Iterator[Scores]:
    """Yields the scores of a curve at the first radius of its run."""
    results, own = run.results, run.own.of(*key)
    eps = results.radii[0]
    unit = float(results.clean(results.dense_of[own]).returns.mean())
    if not unit:
        raise InputError(f"the dense agents of {run.name} return 0: scores are shares of that")
    clean, worst = results.clean(own), worst_of(results, own, eps).curve
    (clean_samples,), (attacked,) = replicates(clean.returns), replicates(worst.returns)
    for i, level in enumerate(clean.sparsity.tolist()):
        samples = clean_samples[:, i] / abs(unit), attacked[:, i] / abs(unit)
        yield Scores(run.task, run.shared.of(*key), level, eps, *samples)


def rows_of(scores: Sequence[Scores]) -> Iterator[Row]:
    """Yields the IQM of every method and sparsity over agents and tasks, with its interval.

    Agents are resampled within each task (Agarwal et al. 2021, arXiv 2108.13264). Where tasks have
    different numbers of agents, the first of each count.
    """
    labels = list(dict.fromkeys(x.label for x in scores))
    found = {(x.label, x.sparsity) for x in scores}
    for label, sparsity in sorted(found, key=lambda key: (labels.index(key[0]), key[1])):
        alike = [x for x in scores if (x.label, x.sparsity) == (label, sparsity)]
        n = min(len(x.clean) for x in alike)
        clean, attacked = (
            bootstrap(
                jax.random.key(SEED),
                jnp.stack([getattr(x, name)[:n] for x in alike], axis=1),
                iqm,
                level=CONFIDENCE,
                stratified=True,
            )
            for name in ("clean", "attacked")
        )
        tasks = list(dict.fromkeys(x.task for x in alike))
        yield Row(label, sparsity, tasks, clean, attacked, n)


def profiles(scores: Sequence[Scores], rows: Sequence[Row]) -> Chart:
    """Returns the share of agents and tasks above every score under attack, a line per method.

    Source: performance profiles of Agarwal et al. 2021 (arXiv 2108.13264).
    """
    lines = {
        f"{row.label} at {row.sparsity:g}": np.sort(
            np.concatenate([x.attacked for x in scores if x[1:3] == row[:2]])
        )
        for row in _best_of_methods(rows)
    }
    highest = max(float(values[-1]) for values in lines.values())
    grid = np.linspace(0, highest, 200)
    traces = [
        Trace(name, grid, 1 - np.searchsorted(values, grid, "right") / len(values), *style(i))
        for i, (name, values) in enumerate(lines.items())
    ]
    facet = Facet("all tasks", traces)
    return Chart("Performance profiles", [facet], "share above", "score under attack")


def _best_of_methods(rows: Sequence[Row]) -> list[Row]:
    """Returns a row per method: the best under attack of those that keep the clean score."""

    def rank(row: Row) -> tuple[int, bool, float]:
        return len(row.tasks), float(row.clean.mean) >= KEPT, float(row.attacked.mean)

    best = {row.label: row for row in sorted(rows, key=rank)}
    return [best[label] for label in dict.fromkeys(row.label for row in rows)]


# --- words ----------------------------------------------------------------------------------------

UNTESTED = "not tested"
ANSWERS = (
    "run",
    "method",
    "agents",
    "sweet spot",
    "p",
    "under MAD alone",
    "untested, under MAD",
    "dense, clean",
    "dense, MAD",
    "dense, worst of all",
    "sparsest within 5 %",
    "worst of all there",
)
HEADER = ("method", "sparsity", "tasks", "agents", "clean IQM", "attacked IQM")


def _answer_cells(answer: Answer) -> list[str]:
    verdict = answer.verdict
    usual = verdict.alone.get(USUAL)
    return [
        plain(answer.run),
        plain(verdict.method),
        str(verdict.replicates),
        answer.answer if verdict.sweet_spot.tested else UNTESTED,
        f"{answer.p_value:.2g}" if verdict.sweet_spot.tested else "",
        "" if usual is None else _usual_answer(usual),
        "" if usual is None else f"{usual.naive.gain:+.0f} at {usual.naive.sparsity:g}",
        interval_text(verdict.dense_clean.interval),
        "" if answer.usual is None else interval_text(answer.usual),
        interval_text(verdict.dense_attacked.interval),
        f"{verdict.within_clean.sparsity:g}",
        interval_text(verdict.within_clean.attacked.interval),
    ]


def _usual_answer(spot: SweetSpot) -> str:
    return UNTESTED if not spot.tested else "yes" if spot.found else "none found"


def _cells(row: Row) -> list[str]:
    numbers = [f"{row.sparsity:g}", str(len(row.tasks)), str(row.replicates)]
    return [plain(row.label), *numbers, *(interval_text(x, 3) for x in (row.clean, row.attacked))]


def _sections(
    paths: Sequence[Path],
    answered: Sequence[Sequence[str]],
    scores: Sequence[Scores],
    rows: Sequence[Row],
) -> Iterator[Section]:
    """Yields the page."""
    table = markdown_table(ANSWERS, answered, left=2)
    yield Section("Is there a sweet spot?", [*ANSWERED, "", *table], folded=False)
    table = markdown_table(HEADER, map(_cells, rows), left=1)
    yield Section("Over all tasks", [*OVERALL, "", *table], folded=False)
    picture = f"![Performance profiles]({PROFILES})"
    yield Section("Performance profiles", [*PROFILED, "", picture], folded=False)
    means = [
        [plain(x.task), plain(x.label), *(f"{y:.3g}" for y in (x.sparsity, x.eps)), *_means(x)]
        for x in scores
    ]
    header = ("task", "method", "sparsity", "eps", "clean", "attacked")
    yield Section("Each task", markdown_table(header, means, left=2))
    yield Section("Runs", [f"- `{plain(path)}`" for path in paths])


def _means(scores: Scores) -> list[str]:
    return [f"{x.mean():.3f}" for x in (scores.clean, scores.attacked)]


ANSWERED = (
    "A sweet spot: pruned policies return more under the strongest attack than the dense ones that",
    "they come from, and at most 5 % less without an attack. *p* is corrected for all runs of this",
    "page. *No*: simultaneous 95 % bands exclude a gain of 10 % or the kept clean return at every",
    "sparsity. *Under MAD alone*: the same test with MAD for the strongest attack. *Untested*: the",
    "gain of the best sparsity under MAD, chosen and told on the same agents.",
)
OVERALL = (
    "Interquartile mean of the scores of all agents and tasks, with 95 % intervals from five",
    "agents on. A score is a return over the mean clean return of the dense agents of the same run",
    "and regime. *Attacked* is under the strongest attack, chosen on other episodes, at the first",
    "radius of a run. Of tasks with different numbers of agents, as many as the fewest count. Rows",
    "compare only over the same tasks, attacks and radii. Click a heading to sort.",
)
PROFILED = (
    "Share of agents and tasks with more than a score, under the strongest attack. Each method is",
    "at the sparsity with the best attacked score of those that most tasks have and that keep 95 %",
    "of the clean score. It was chosen on the same agents, so its line is a little too good.",
)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
