"""All that a report says, computed once from the tables of a run; its writers only lay it out."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.analysis import bounds, curves, versus_dense, worst_case
from benchmarks.analysis.bounds import BoundCurve, Bracket, bound_curves, violations
from benchmarks.analysis.compute_cost import Stage, compute
from benchmarks.analysis.curves import (
    WORST_OF,
    Columns,
    Results,
    Sampling,
    collect,
    cvar_interval,
    episodes_of_all,
    labelled,
    replicated_interval,
    replicates,
)
from benchmarks.analysis.metrics import divergences
from benchmarks.analysis.published import Comparison, compare
from benchmarks.analysis.sanity_checks import Check, checks, warnings_of
from benchmarks.analysis.versus_dense import (
    RegretCurve,
    SweetSpot,
    improvement,
    regret_curve,
    sweet_spots,
)
from benchmarks.analysis.worst_case import SHOWN, halves, worst_of
from benchmarks.experiment.labels import Labels
from benchmarks.runtime.run_folder import read_json, read_table
from jaxprune.statistics import Interval

# Fewer training seeds than this say little about a method.
SEEDS = 5
# What the terms of the regret are differences of.
QUANTITIES = ("returns", "discounted")
# What every count of diverged episodes is followed by.
DIVERGED = (
    "the simulator left the finite numbers and the episode ended there, with the return until then"
)
# The file that `benchmarks.render` writes.
GIF = "policies.gif"


class Line(NamedTuple):
    """Something that is measured against sparsity."""

    name: str
    interval: Interval  # [S]
    seeds: np.ndarray  # [seeds, S], means over the episodes


class Panel(NamedTuple):
    """What is known of one method at one radius."""

    method: str
    eps: float
    sparsity: np.ndarray  # [S]
    clean: Line
    attacks: list[Line]  # of many, the strongest first
    worst: Line  # of all adversaries, on fresh episodes
    cvar: Interval  # [S], of the same episodes
    change: Line  # the worst-of return less that of the unpruned agents, in pairs; a band
    claimed: Interval  # [S], the same in words: of these agents alone where they are few
    better: Interval  # [S], P(a pruned agent does better than a dense one), each at its worst
    dense_clean: Interval  # [], in words
    dense_worst: Interval  # [], in words, fresh episodes
    bounds: list[BoundCurve]  # on D
    tv: dict[str, np.ndarray]  # scope -> [S], the best bound on the total variation
    reached: list[Line]  # D, by the attacks in the same order; its intervals are empty
    regrets: dict[str, RegretCurve]  # by quantity
    bracket: Bracket | None
    spots: list[SweetSpot]  # in words

    @property
    def shown(self) -> int:
        """How many of the attacks are worth a line of their own."""
        return min(len(self.attacks), SHOWN)


class Judged(NamedTuple):
    """Returns of one method at one radius, all on the fresh episodes."""

    method: str
    eps: float
    sparsity: np.ndarray  # [S]
    lines: list[Line]  # clean, worst of all, and the adversaries that the panel shows


class Other(NamedTuple):
    """The same agents, acting in another way."""

    results: Results
    judged: list[Judged]  # in the order of the panels


class Evidence(NamedTuple):
    """Of one run; but for `others`, of its first victim."""

    title: str  # task and simulator
    regime: str
    seeds: int  # of the curve that has the most
    described: dict[str, Any]  # experiment.json
    results: Results
    panels: list[Panel]  # by radius, then method
    others: list[Other]
    certificates: Columns
    training: Columns  # empty where nothing was trained
    attacks: Columns  # of all victims; empty for runs of older versions, as is the next one
    seconds: Columns
    sparsity: Columns
    checks: list[Check]
    problems: list[str]
    compute: list[Stage]
    comparison: Comparison | None
    pictures: list[str]  # files beside the report that are no figures of ours

    @property
    def few_seeds(self) -> str:
        """What has to be said about the number of seeds; nothing where it suffices."""
        if self.seeds >= SEEDS or (self.regime == "file" and self.seeds == 1):
            return ""
        return (
            f"With {self.seeds} seed{'s' if self.seeds > 1 else ''} the intervals are "
            f"{'very wide' if self.seeds > 1 else 'unknown, or those of one agent'}; use --seeds "
            "10 for a claim about a method."
        )

    @property
    def warnings(self) -> list[str]:
        """All that a reader has to know before believing the numbers."""
        return [*self.problems, *([self.few_seeds] if self.few_seeds else [])]


def sampling(seeds: int) -> Sampling:
    """What sentences are about: the method, or these agents alone where they are few."""
    return replicates if seeds >= SEEDS else episodes_of_all


def gather(folder: Path) -> Evidence:
    """The evidence of a run folder.

    Raises:
        InputError: a table is missing, damaged or of another version.
    """
    names = ("returns", "certificates", "sparsity")
    returns, certificates, sparsity = (read_table(folder, name) for name in names)
    training, attacks, seconds, diagnosis = (
        read_table(folder, name) if (folder / f"{name}.parquet").exists() else {}
        for name in ("training", "attacks", "seconds", "diagnosis")
    )
    described = read_json(folder / "experiment.json")
    results, *others = (collect(returns, name) for name in curves.victims(returns))
    labels = Labels(returns)
    seeds = max(len(curve.returns) for curve in results.by_key.values())
    words = sampling(seeds)
    task, simulator = str(returns["env"][0]), str(returns["backend"][0])
    regime = str(returns["regime"][0])
    returns, training, certificates, sparsity, diagnosis = (
        labelled(table, labels) for table in (returns, training, certificates, sparsity, diagnosis)
    )
    checked = checks(results, diagnosis)
    found = warnings(results, returns, training, certificates, others)
    panels = [
        panel(results, certificates, method, eps, words)
        for eps in results.radii
        for method in results.pruned_methods()
    ]
    return Evidence(
        title=f"{task} ({simulator})",
        regime=regime,
        seeds=seeds,
        described=described,
        results=results,
        panels=panels,
        others=[Other(held, [judged(held, panel) for panel in panels]) for held in others],
        certificates=certificates,
        training=training,
        attacks=attacks,
        seconds=seconds,
        sparsity=sparsity,
        checks=checked,
        problems=[*found, *warnings_of(checked)],
        compute=compute(returns, training, attacks, sparsity, described.get("settings", {})),
        comparison=compare(results, task),
        pictures=[GIF] if (folder / GIF).exists() else [],
    )


def panel(
    results: Results,
    certificates: Columns,
    method: str,
    eps: float,
    words: Sampling = replicates,
) -> Panel:
    """All curves of one method at one radius; `words` decides what sentences are about."""
    judge = halves(results).judge
    worst = worst_of(results, method, eps).curve
    dense = worst_of(results, results.dense_of[method], eps).curve
    clean = results.clean(method)
    attacked = results.attacked(method, eps)
    leading = worst_case.leading(results, method, eps)
    attacked = [*leading, *(c for c in attacked if c.attack not in {x.attack for x in leading})]
    fresh, reference = (curve.returns[:, :, judge] for curve in (worst, dense))
    empty = Interval(*[np.full(len(clean.sparsity), np.nan)] * 3)
    return Panel(
        method=method,
        eps=eps,
        sparsity=clean.sparsity,
        clean=_line("none", clean.returns),
        attacks=[_line(curve.attack, curve.returns) for curve in attacked],
        worst=_line(WORST_OF, fresh),
        cvar=cvar_interval(fresh),
        change=Line(
            "change",
            versus_dense.differences(results, method, eps).band,
            (fresh - reference).mean(-1),
        ),
        claimed=versus_dense.differences(results, method, eps, words).band,
        better=improvement(results, method, eps).probability,
        dense_clean=_first(replicated_interval(results.dense(method).returns, words)),
        dense_worst=_first(replicated_interval(reference, words)),
        bounds=bound_curves(certificates, method, eps),
        tv={
            scope: np.min([curve.values.mean(0) for curve in curves], axis=0)
            for scope in ("global", "local")
            if (curves := bound_curves(certificates, method, eps, "TV", scope))
        },
        reached=[Line(curve.attack, empty, curve.distance) for curve in attacked],
        regrets={name: regret_curve(results, method, eps, name) for name in QUANTITIES},
        bracket=bounds.bracket(results, certificates, method, eps),
        spots=sweet_spots(results, method, eps, words),
    )


def judged(results: Results, panel: Panel) -> Judged:
    """What a panel shows of the first victim, of another one."""
    method, eps, judge = panel.method, panel.eps, halves(results).judge
    shown = [
        results.clean(method),
        worst_of(results, method, eps).curve,
        *(results.by_key[method, line.name, eps] for line in panel.attacks[: panel.shown]),
    ]
    lines = [_line(curve.attack, curve.returns[:, :, judge]) for curve in shown]
    return Judged(method, eps, panel.sparsity, lines)


def _line(name: str, returns: np.ndarray) -> Line:
    """`[seeds, S, episodes]` -> a line."""
    return Line(name, replicated_interval(returns), returns.mean(-1))


def _first(interval: Interval) -> Interval:
    """`[1]` -> `[]`."""
    return Interval(*(x[0] for x in interval))


def warnings(
    results: Results,
    returns: Columns,
    training: Columns,
    certificates: Columns,
    others: Sequence[Results] = (),
) -> Iterator[str]:
    """What a reader has to know before believing the numbers; `training` may be empty."""
    broken = int((~np.isfinite(returns["return"])).sum())
    if broken:
        yield f"{broken} of {len(returns['return'])} episodes have a return that is not finite"
    attacked = divergences(returns, ("method", "attack", "eps", "victim"))
    if attacked:
        yield _divergence_warning(attacked, len(returns["return"]), "episodes", results.victim)
    trained = divergences(training, ("method",))
    if trained:
        yield _divergence_warning(trained, int(training["episodes"].sum()), "training episodes")
    for problem in violations(results, certificates, others):
        yield f"{problem}: a bound or an attack is wrong, please report this"


def _divergence_warning(
    found: dict[tuple[Any, ...], dict[float, int]], of: int, what: str, first: str = ""
) -> str:
    """How many, what it means, and where: (method) or (method, attack, eps, victim), by sparsity.

    The victim is named where it is not the first.
    """
    places = []
    for (method, *adversary), counts in found.items():
        dense = str(method).split()[-1] == "none"
        words = [str(method).replace("none", "dense") if dense else str(method)]
        if adversary:
            attack, eps, victim = adversary
            words.append("clean" if attack == "none" else f"{attack} at eps {eps:g}")
            words += [] if victim == first else [f"{victim} policy"]
        at = [str(n) if dense else f"{n} at sparsity {s:g}" for s, n in counts.items()]
        places.append(f"{', '.join(words)}: {', '.join(at)}")
    total = sum(sum(counts.values()) for counts in found.values())
    return f"{total} of {of} {what} diverged: {DIVERGED} ({'; '.join(places)})"
