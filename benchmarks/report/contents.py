"""All that a report says, computed once from the tables of a run; its writers only lay it out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.analysis import bounds, curves, versus_dense, worst_case
from benchmarks.analysis.bounds import Behaviour, BoundCurve, Bracket, bound_curves, violations
from benchmarks.analysis.compute_cost import Stage, compute, total
from benchmarks.analysis.curves import TIE as TIE
from benchmarks.analysis.curves import USUAL as USUAL
from benchmarks.analysis.curves import (
    WORST_OF,
    Columns,
    Curve,
    Results,
    collect,
    cvar_interval,
    labelled,
    of_victim,
    replicated_interval,
)
from benchmarks.analysis.meaning import meaning_rows
from benchmarks.analysis.published import Comparison, compare
from benchmarks.analysis.sanity_checks import Check, Group, checks, divergences, warnings_of
from benchmarks.analysis.verdict import NEGLIGIBLE as NEGLIGIBLE
from benchmarks.analysis.verdict import TOLERATED_LOSS as TOLERATED_LOSS
from benchmarks.analysis.verdict import SweetSpot as SweetSpot
from benchmarks.analysis.verdict import Verdict, verdicts
from benchmarks.analysis.versus_dense import RegretCurve, improvement, regret_curve
from benchmarks.analysis.worst_case import SHOWN, Sweep, sweep, worst_of
from benchmarks.analysis.worst_case import most_common as most_common
from benchmarks.runtime.run_folder import Json, read_json, read_table
from jaxprune.attacks import facts_of, label_of
from jaxprune.devices import take
from jaxprune.policy_io.labels import Labels
from jaxprune.statistics import FEWEST, Interval

# Fewer training seeds than this say nothing about a method.
SEEDS = FEWEST
# What the terms of the regret are differences of.
QUANTITIES = ("returns", "discounted")
# What every count of diverged episodes is followed by.
DIVERGED = (
    "the simulator left the finite numbers and the episode ended there, with the return until then"
)
# The file that `benchmarks.render` writes.
GIF = "policies.gif"
# Tables that a report needs, and those that a run may lack.
NEEDED = ("returns", "certificates", "sparsity")
OPTIONAL = ("training", "attacks", "seconds", "diagnosis")
# Columns of the tables of attacks and of seconds.
SPENT = ("members", "queries", "gradients", "simulated", "env_steps")
SECONDS = ("prepare", "choose", "play")
# What is counted of the units of a network.
COUNTS = ("dead", "constant", "disconnected_obs", "compact")


class Line(NamedTuple):
    """Something that is measured against sparsity."""

    name: str
    interval: Interval  # [S]
    seeds: np.ndarray  # [seeds, S], means over the episodes

    @property
    def few(self) -> bool:
        """Whether the seeds are too few for an interval: then their range says more."""
        return 1 < len(self.seeds) < SEEDS

    @property
    def edges(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the ends of the interval, or the range of few seeds, `[S]` each."""
        if self.few:
            return self.seeds.min(0), self.seeds.max(0)
        return np.asarray(self.interval.low), np.asarray(self.interval.high)


class Proved(NamedTuple):
    """Holds what certificates say of one method at one radius."""

    bounds: list[BoundCurve]  # on D
    action_bounds: list[BoundCurve]  # on D in action units; empty of logits and of older runs
    behaviour: Behaviour | None  # of the same
    meaning: tuple[list[str], list[list[str]]]  # a table: where monotone bounds say anything
    tv: dict[str, np.ndarray]  # scope -> [S], the best bound on the total variation
    bracket: Bracket | None


class Panel(NamedTuple):
    """Holds the numbers of one method at one radius."""

    method: str
    eps: float
    dense: str  # the unpruned agents that it is compared with
    nested: bool  # whether monotone bounds promise anything along its curve
    sparsity: np.ndarray  # [S]
    levels: np.ndarray  # [L], the same with 0 in front, for the main lines
    main: dict[str, Line]  # [L], what answers the question: clean, MAD, worst of all
    clean: Line
    attacks: list[Line]  # of many, the strongest first
    worst: Line  # of all adversaries
    every: dict[str, np.ndarray]  # clean, the strongest adversary first, worst of -> [S]
    chosen: np.ndarray  # [folds * seeds, S], the adversary that is the worst
    cvar: Interval  # [S], of the same episodes
    change: Line  # the worst-of return less that of the unpruned agents, in pairs; a band
    better: Interval  # [S], P(a pruned agent does better than a dense one), each at its worst
    dense_clean: Interval  # []
    dense_worst: Interval  # []
    proved: Proved
    reached: list[Line]  # D, by the attacks in the same order; its intervals are empty
    regrets: dict[str, RegretCurve]  # by quantity
    verdict: Verdict | None  # None where nothing is pruned

    @property
    def pruned(self) -> bool:
        """Whether it is about pruned agents."""
        return self.method != self.dense

    @property
    def shown(self) -> int:
        """How many of the attacks are worth a line of their own."""
        return min(len(self.attacks), SHOWN)


class Dense(NamedTuple):
    """The unpruned agents of one regime."""

    name: str
    clean: Interval  # []
    worst: dict[float, list[Interval]]  # radius -> [] of every victim
    reference: float  # J_ref


class Remains(NamedTuple):
    """Holds what one method leaves of the network, means over the seeds."""

    sparsity: np.ndarray  # [S], as it was asked for
    achieved: np.ndarray  # [S]
    everything: np.ndarray  # [S], the share of all parameters
    layers: list[str]  # of the actor
    shares: np.ndarray  # [layers, S], how sparse each is
    floor: np.ndarray  # [S], layers that are at their floor
    condition: np.ndarray  # [S], the largest
    counts: dict[str, np.ndarray]  # of `COUNTS` -> [S]


class Cost(NamedTuple):
    """Holds the harm and the budget of one adversary at one radius."""

    attack: str
    eps: float
    about: str
    mean: float  # return over all cells
    share: float  # of the cells for which it alone was the strongest
    spent: list[np.integer]  # of `SPENT`
    seconds: list[float]  # of `SECONDS`, per cell; empty where they are not known


class Judged(NamedTuple):
    """Returns of one method at one radius."""

    method: str
    eps: float
    sparsity: np.ndarray  # [S]
    lines: list[Line]  # clean, worst of all, and the adversaries that the panel shows


class Other(NamedTuple):
    """Holds the numbers of the same agents, acting in another way."""

    victim: str
    judged: list[Judged]  # in the order of the panels
    costs: list[Cost]  # empty where they are not known


class Contents(NamedTuple):
    """All that a report says of one run; but for `others`, of its first victim."""

    title: str  # task and simulator
    regime: str
    victim: str
    seeds: int  # of the curve that has the most
    radii: list[float]
    described: Json  # experiment.json
    dense: list[Dense]
    panels: list[Panel]  # by radius, then method
    sweeps: dict[str, Sweep]  # by method; empty for a single radius
    others: list[Other]
    units: dict[str, str]  # of the certificates, by quantity
    training: Columns  # empty where nothing was trained
    costs: list[Cost]  # empty where they are not known
    remains: dict[str, Remains]  # by method
    checks: list[Check]
    problems: list[str]
    compute: list[Stage]  # the total last
    comparison: Comparison | None
    pictures: list[str]  # files beside the report that are no figures of ours

    @property
    def pruned(self) -> bool:
        """Whether anything was pruned."""
        return any(panel.pruned for panel in self.panels)

    @property
    def by_radius(self) -> list[list[Panel]]:
        """Returns the panels of every radius."""
        return [[panel for panel in self.panels if panel.eps == eps] for eps in self.radii]

    @property
    def by_method(self) -> dict[str, list[Panel]]:
        """Returns the panels of every method."""
        methods = dict.fromkeys(panel.method for panel in self.panels)
        return {name: [p for p in self.panels if p.method == name] for name in methods}

    @property
    def size(self) -> str:
        """Returns how many agents there are, in words."""
        return "1 agent" if self.seeds == 1 else f"{self.seeds} agents"

    @property
    def few_seeds(self) -> str:
        """Returns a warning about too few seeds; empty where they suffice."""
        if self.seeds >= SEEDS or (self.regime == "file" and self.seeds == 1):
            return ""
        return (
            f"The run has {self.size}, and a statement about a method needs at least {SEEDS}: "
            "use --seeds 10."
        )

    @property
    def warnings(self) -> list[str]:
        """All that a reader has to know before believing the numbers."""
        return [*self.problems, *([self.few_seeds] if self.few_seeds else [])]


def gather(folder: Path) -> Contents:
    """Returns the contents of the report of a run folder.

    Raises:
        InputError: a table is missing, damaged or of another version.
    """
    there = [name for name in OPTIONAL if (folder / f"{name}.parquet").exists()]
    tables = {name: read_table(folder, name) for name in (*NEEDED, *there)}
    pictures = [GIF] if (folder / GIF).exists() else []
    return contents(tables, read_json(folder / "experiment.json"), pictures)


def contents(
    tables: Mapping[str, Columns], described: Json, pictures: Sequence[str] = ()
) -> Contents:
    """Computes all that a report says from the tables of a run and its experiment.json."""
    labels = Labels(tables["returns"])
    reference = described.get("settings", {}).get("reference")
    victims = [
        collect(tables["returns"], name, reference) for name in curves.victims(tables["returns"])
    ]
    results, *others = victims
    returns, certificates, sparsity, training, diagnosis = (
        labelled(tables.get(name, {}), labels) for name in (*NEEDED, "training", "diagnosis")
    )
    attacks, seconds = (tables.get(name, {}) for name in ("attacks", "seconds"))
    methods = results.pruned_methods()
    unpruned = {x: dense(victims, x) for x in dict.fromkeys(results.dense_of.values())}
    checked = checks(results, diagnosis)
    problems = warnings(results, returns, training, certificates, others)
    stages = compute(returns, training, attacks, sparsity, described.get("settings", {}))
    panels = _panels_of(results, certificates, unpruned)
    return Contents(
        title=f"{returns['env'][0]} ({returns['backend'][0]})",
        regime=str(returns["regime"][0]),
        victim=results.victim,
        seeds=max(len(curve.returns) for curve in results.by_key.values()),
        radii=results.radii,
        described=described,
        dense=list(unpruned.values()),
        panels=panels,
        sweeps={x: sweep(results, x) for x in methods} if len(results.radii) > 1 else {},
        others=[other(held, panels, attacks, seconds) for held in others],
        units=units(certificates),
        training=training,
        costs=costs(results, attacks, seconds),
        remains={method: remains(sparsity, method) for method in methods},
        checks=checked,
        problems=[*problems, *warnings_of(checked)],
        compute=[*stages, total(stages)] if len(stages) > 1 else stages,
        comparison=compare(results, str(returns["env"][0])),
        pictures=list(pictures),
    )


def _panels_of(
    results: Results, certificates: Columns, unpruned: Mapping[str, Dense]
) -> list[Panel]:
    """Returns the panels of every radius and method, in this order."""
    found = verdicts(results)
    return [
        panel(
            results,
            certificates,
            method,
            eps,
            unpruned[results.dense_of[method]],
            found.get((method, eps)),
        )
        for eps in results.radii
        for method in results.pruned_methods()
    ]


def panel(
    results: Results,
    certificates: Columns,
    method: str,
    eps: float,
    dense: Dense,
    verdict: Verdict | None,
) -> Panel:
    """All curves of one method at one radius."""
    clean = results.clean(method)
    worst, reference = (worst_of(results, name, eps) for name in (method, dense.name))
    strongest = sorted(results.attacked(method, eps), key=lambda c: c.returns.mean())
    every = {"clean": clean, **{c.attack: c for c in strongest}, WORST_OF: worst.curve}
    leading = worst_case.leading(results, method, eps)
    ordered = {c.attack: c for c in (*leading, *results.attacked(method, eps))}
    attacked = ordered.values()  # of many, the strongest first
    band = versus_dense.differences(results, method, eps)
    empty = Interval(*[np.full(len(clean.sparsity), np.nan)] * 3)
    return Panel(
        method=method,
        eps=eps,
        dense=dense.name,
        nested=results.nested[method],
        sparsity=clean.sparsity,
        levels=np.union1d(0, clean.sparsity),
        main=_main(results, method, eps),
        clean=_line(results, clean),
        attacks=[_line(results, curve) for curve in attacked],
        worst=_line(results, worst.curve),
        every={name: c.returns.mean((0, 2)) for name, c in every.items()},
        chosen=worst.chosen,
        cvar=cvar_interval(worst.curve.returns, results.limits()),
        change=Line("change", band, (worst.curve.returns - reference.curve.returns).mean(-1)),
        better=improvement(results, method, eps),
        dense_clean=dense.clean,
        dense_worst=dense.worst[eps][0],
        proved=_proved(results, certificates, method, eps, float(dense.clean.mean)),
        reached=[Line(curve.attack, empty, curve.distance) for curve in attacked],
        regrets={name: regret_curve(results, method, eps, name) for name in QUANTITIES},
        verdict=verdict,
    )


def _main(results: Results, method: str, eps: float) -> dict[str, Line]:
    """Name -> clean, MAD and worst of all, each from the dense agents at sparsity 0 on."""
    attacks = [curve.attack for curve in results.attacked(method, eps)]
    worst = f"worst of {len(attacks)} attacks" if len(attacks) > 1 else label_of(attacks[0])
    curves: dict[str, Callable[[str], Curve]] = {"clean": results.clean}
    if USUAL in attacks and len(attacks) > 1:
        curves["MAD"] = lambda label: results.by_key[label, USUAL, eps]
    curves[worst] = lambda label: worst_of(results, label, eps).curve
    dense = [] if 0 in results.clean(method).sparsity else [results.dense_of[method]]
    returns = {
        name: np.concatenate([curve(x).returns for x in (*dense, method)], axis=1)
        for name, curve in curves.items()
    }
    return {
        name: Line(name, replicated_interval(x, results.limits()), x.mean(-1))
        for name, x in returns.items()
    }


def _proved(
    results: Results, certificates: Columns, method: str, eps: float, dense_clean: float
) -> Proved:
    """Holds what certificates say; `dense_clean` is a return."""
    find = partial(bound_curves, certificates, method, eps)
    behaviour = bounds.behaviour(certificates, method, eps)
    spread = np.nan if behaviour is None else float(behaviour.spread[0])
    meaning = bounds.meaning(results, certificates, method, eps)
    return Proved(
        bounds=find(),
        action_bounds=find(bounds.ACTION_DISTANCE),
        behaviour=behaviour,
        meaning=meaning_rows(meaning, dense_clean, spread),
        tv={
            scope: np.min([curve.values.mean(0) for curve in found], axis=0)
            for scope in ("global", "local")
            if (found := find("TV", scope))
        },
        bracket=bounds.bracket(results, certificates, method, eps),
    )


def dense(victims: Sequence[Results], name: str) -> Dense:
    """Returns what is said of unpruned agents; J_ref is that of the first victim."""
    first = victims[0]
    worst = {
        eps: [take(x.interval(worst_of(x, name, eps).curve), 0) for x in victims]
        for eps in first.radii
    }
    clean = take(first.interval(first.clean(name)), 0)
    return Dense(name, clean, worst, curves.reference(first, name))


def units(certificates: Columns) -> dict[str, str]:
    """Returns the unit of every quantity in the table of certificates."""
    return dict(zip(certificates["quantity"], map(str, certificates["unit"]), strict=True))


def remains(table: Columns, method: str) -> Remains:
    """Returns what a method leaves of the network, from the table of sparsity."""
    rows = {name: column[table["method"] == method] for name, column in table.items()}
    names = [str(x) for x in dict.fromkeys(rows["layer"]) if str(x).startswith("actor/")]
    levels = np.unique(rows["sparsity"])

    def means(layer: str, column: str) -> np.ndarray:
        of_layer = rows["layer"] == layer
        found = [rows[column][(rows["sparsity"] == level) & of_layer] for level in levels]
        return np.array([x.mean() for x in found])

    condition = [
        np.max([rows["condition"][(rows["sparsity"] == x) & (rows["layer"] == n)] for n in names])
        for x in levels
    ]
    return Remains(
        sparsity=levels,
        achieved=means("actor", "sparsity_achieved"),
        everything=means("all", "layer_sparsity"),
        layers=names,
        shares=np.array([means(name, "layer_sparsity") for name in names]),
        floor=np.sum([means(name, "at_floor") for name in names], axis=0),
        condition=np.array(condition),
        counts={name: means("actor", name) for name in COUNTS},
    )


def costs(results: Results, attacks: Columns, seconds: Columns) -> list[Cost]:
    """Returns what every adversary of one victim spent; nothing without the table of attacks."""
    if not attacks:
        return []
    attacks, seconds = (of_victim(table, results.victim) for table in (attacks, seconds))
    methods = list(dict.fromkeys(method for method, _, _ in results.by_key))
    found = []
    for name, eps in [("none", 0.0), *results.adversaries]:
        rows = (attacks["attack"] == name) & (attacks["eps"] == eps)
        if not rows.any():
            continue
        first = int(np.argmax(rows))
        returns = [results.by_key[method, name, eps].returns for method in methods]
        mean = np.concatenate([r.mean(-1).ravel() for r in returns]).mean()
        about = facts_of(name).about
        if attacks["warm_start"][first]:
            about += "; each sparsity started from the one below"
        share = np.nan
        if name != "none":
            chosen = [worst_of(results, method, eps).chosen.ravel() for method in methods]
            share = float((np.concatenate(chosen) == name).mean())
        spent = [attacks[column][first] for column in SPENT]
        each = _per_cell(seconds, name, eps, int(rows.sum())) if seconds else []
        found.append(Cost(name, eps, about, float(mean), share, spent, each))
    return found


def _per_cell(seconds: Columns, name: str, eps: float, cells: int) -> list[float]:
    """Seconds per cell to prepare, to choose and to play one adversary of one radius."""
    rows = (seconds["attack"] == name) & (seconds["eps"] == eps)
    return [seconds[column][rows].sum() / cells for column in SECONDS]


def other(results: Results, panels: Sequence[Panel], attacks: Columns, seconds: Columns) -> Other:
    """Returns what is said of another victim than the first."""
    played = [judged(results, panel) for panel in panels]
    return Other(results.victim, played, costs(results, attacks, seconds))


def judged(results: Results, panel: Panel) -> Judged:
    """Returns for another victim what a panel shows of the first."""
    method, eps = panel.method, panel.eps
    shown = [
        results.clean(method),
        worst_of(results, method, eps).curve,
        *(results.by_key[method, line.name, eps] for line in panel.attacks[: panel.shown]),
    ]
    return Judged(method, eps, panel.sparsity, [_line(results, curve) for curve in shown])


def _line(results: Results, curve: Curve) -> Line:
    return Line(curve.attack, results.interval(curve), curve.returns.mean(-1))


def warnings(
    results: Results,
    returns: Columns,
    training: Columns,
    certificates: Columns,
    others: Sequence[Results] = (),
) -> Iterator[str]:
    """Yields what a reader has to know before believing the numbers; `training` may be empty."""
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
    found: dict[Group, dict[float, int]], of: int, what: str, first: str = ""
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
