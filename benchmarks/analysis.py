"""From tables to curves, regret terms and sweet spots: numbers only, no drawing and no files."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.labels import Labels
from jaxprune.regret import decompose
from jaxprune.statistics import (
    Interval,
    area,
    bootstrap,
    bootstrap_mean,
    cvar,
    iqm,
    paired_difference,
    probability_of_improvement,
    simultaneous_band,
)

# A sweet spot by the smallest gap may cost this share of the dense clean return.
TOLERATED_LOSS = 0.05

# Of the statements that hold with high probability over the episodes.
CONFIDENCE = 0.95
# The name of the curve of each agent's strongest adversary, what is said of several as strong
# ones, and the share of CVaR.
WORST_OF, TIE, TAIL = "worst_of", "tie", 0.1
# Adversaries that are shown one by one; of more, these many.
SHOWN = 4
AREA = "the mean over the radii from 0 to the largest, by trapezoids"
# The "bound" of what an attack reached at visited states.
ATTACK_ROWS = "attack"

# Of every bootstrap: the same table gives the same report.
SEED = 0

Columns = dict[str, np.ndarray]


@dataclass(frozen=True)
class Curve:
    """Returns of one method under one attack and radius."""

    method: str
    attack: str
    eps: float
    sparsity: np.ndarray  # [S]
    returns: np.ndarray  # [seeds, S, episodes]
    discounted: np.ndarray  # [seeds, S, episodes], discounted returns
    distance: np.ndarray  # [seeds, S], the largest D that the adversary reached

    def interval(self, episodes: slice = slice(None)) -> Interval:
        """Mean over episodes and seeds with its bootstrap interval, `[S]`."""
        return replicated_interval(self.returns[:, :, episodes])


def replicates(*returns: np.ndarray) -> list[jax.Array]:
    """`[seeds, S, episodes]` each -> samples `[n, S]` each.

    Seeds are the replicates; where all have a single seed its episodes are, and the claim is then
    about that one policy.
    """
    if max(len(r) for r in returns) == 1:
        return [jnp.asarray(r[0].T) for r in returns]
    return [jnp.asarray(r.mean(-1)) for r in returns]


def episodes_of_all(*returns: np.ndarray) -> list[jax.Array]:
    """`[seeds, S, episodes]` each -> samples `[seeds * episodes, S]` each.

    For claims about these agents and no others: episodes are the replicates, each moved by what
    its agent differs from the mean of all, and stretched for the mean that this takes from them.
    """

    def samples(r: np.ndarray) -> jax.Array:
        seeds, levels, episodes = r.shape
        of_agent = r.mean(-1, keepdims=True)
        stretch = (episodes / (episodes - 1)) ** 0.5 if episodes > 1 else 1.0
        moved = of_agent.mean(0) + (r - of_agent) * (stretch if seeds > 1 else 1.0)
        return jnp.asarray(np.moveaxis(moved, 1, 2).reshape(seeds * episodes, levels))

    return [samples(r) for r in returns]


Sampling = Callable[..., list[jax.Array]]


def replicated_interval(returns: np.ndarray, sampling: Sampling = replicates) -> Interval:
    """`[seeds, S, episodes]` -> interval of the mean `[S]`."""
    return _as_numpy(bootstrap_mean(jax.random.key(SEED), *sampling(returns)))


def _as_numpy(interval: Interval) -> Interval:
    return Interval(*(np.asarray(x) for x in interval))


def curves(table: Columns) -> list[Curve]:
    """All curves of a returns table, the unpruned agents ("none") included."""
    found = []
    for method in dict.fromkeys(table["method"]):
        for attack in dict.fromkeys(table["attack"]):
            of_attack = (table["method"] == method) & (table["attack"] == attack)
            for eps in dict.fromkeys(table["eps"][of_attack]):
                rows = of_attack & (table["eps"] == eps)
                order = np.lexsort([table[k][rows] for k in ("episode", "sparsity", "seed")])
                part = {k: v[rows][order] for k, v in table.items()}
                sparsity = np.unique(part["sparsity"])
                shape = (len(np.unique(part["seed"])), len(sparsity), -1)
                found.append(
                    Curve(
                        str(method),
                        str(attack),
                        float(eps),
                        sparsity,
                        part["return"].reshape(shape),
                        part["return_discounted"].reshape(shape),
                        part["distance"].reshape(shape).max(-1),
                    )
                )
    return found


class Results(NamedTuple):
    """The curves of a run by what they are; a method is a label of `benchmarks.labels`."""

    by_key: dict[tuple[str, str, float], Curve]  # (method, attack, eps)
    methods: list[str]  # without the unpruned agents
    dense_of: dict[str, str]  # method -> the unpruned agents of its regime
    nested: dict[str, bool]  # method -> whether monotone bounds promise anything along its curve
    adversaries: list[tuple[str, float]]  # (attack, eps) without the clean run
    victim: str  # "deterministic" or "stochastic"

    def clean(self, method: str) -> Curve:
        """The curve without an adversary."""
        return self.by_key[method, "none", 0.0]

    def attacked(self, method: str, eps: float) -> list[Curve]:
        """The curves of every adversary of one radius."""
        return [self.by_key[method, a, e] for a, e in self.adversaries if e == eps]

    @property
    def radii(self) -> list[float]:
        """Radii of the adversaries, as asked for."""
        return list(dict.fromkeys(eps for _, eps in self.adversaries))

    def dense(self, method: str) -> Curve:
        """The clean curve (one point) of the unpruned agents that a method is compared with."""
        return self.clean(self.dense_of[method])

    def pruned_methods(self) -> list[str]:
        """Methods with a curve to show; the unpruned agents where there is no other."""
        return self.methods or list(dict.fromkeys(self.dense_of.values()))


def labelled(table: Columns, labels: Labels) -> Columns:
    """The table with the labels of its curves in place of the methods."""
    return {**table, "method": labels.column(table)} if table else table


def victims(table: Columns) -> list[str]:
    """How the policies of a table of returns acted; what is reported is about the first."""
    return list(map(str, dict.fromkeys(table["victim"])))


def of_victim(table: Columns, victim: str) -> Columns:
    """The rows about one victim."""
    return {name: column[table["victim"] == victim] for name, column in table.items()}


def collect(table: Columns, victim: str | None = None) -> Results:
    """Curves by key of one victim, by default the first, from a table of returns as written."""
    victim = victim or victims(table)[0]
    table = of_victim(table, victim)
    labels = Labels(table)
    named = labelled(table, labels)
    by_key = {(c.method, c.attack, c.eps): c for c in curves(named)}
    dense_of = labels.dense_of()
    unpruned = set(dense_of.values())
    methods = [m for m in dict.fromkeys(m for m, _, _ in by_key) if m not in unpruned]
    adversaries = list(dict.fromkeys((a, e) for _, a, e in by_key if a != "none"))
    nested = dict(zip(named["method"].tolist(), named["nested"].tolist(), strict=True))
    return Results(by_key, methods, dense_of, nested, adversaries, victim)


def reference(results: Results, method: str, quantity: str = "returns") -> float:
    """J_ref: the best mean clean return of an unpruned agent of the regime, not the optimum."""
    return float(getattr(results.dense(method), quantity).mean(-1).max())


class Halves(NamedTuple):
    """Episodes to choose on, and fresh ones to report; a single episode serves for both."""

    choose: slice
    judge: slice


def halves(results: Results) -> Halves:
    """The first half of the episodes and the second."""
    episodes = next(iter(results.by_key.values())).returns.shape[-1]
    return Halves(slice(0, max(episodes // 2, 1)), slice(episodes // 2, None))


class Worst(NamedTuple):
    """Every agent at every sparsity under the adversary that did best against it."""

    curve: Curve  # all episodes: those it was chosen on are too low, `halves(...).judge` is fair
    chosen: np.ndarray  # [seeds, S], names of adversaries; TIE where several did as much

    @property
    def label(self) -> str:
        """The adversary that was chosen most often."""
        names, counts = np.unique(self.chosen, return_counts=True)
        usual = str(names[counts.argmax()])
        return usual if len(names) == 1 else f"{usual} and {len(names) - 1} more"


def worst_of(results: Results, method: str, eps: float) -> Worst:
    """The adversary of radius eps with the lowest mean return, agent by agent.

    Chosen on the first half of the episodes, because the minimum of noisy means is too low on the
    episodes that picked it.
    """
    curves_ = results.attacked(method, eps)
    choose = halves(results).choose
    means = np.array([c.returns[:, :, choose].mean(-1) for c in curves_])  # [attacks, seeds, S]
    best = means.argmin(0)
    tied = (means == means.min(0)).sum(0) > 1

    def picked(quantity: str) -> np.ndarray:
        stacked = np.stack([getattr(c, quantity) for c in curves_])
        index = best[None] if stacked.ndim == 3 else best[None, ..., None]
        return np.take_along_axis(stacked, index, axis=0)[0]

    curve = Curve(
        method,
        WORST_OF,
        eps,
        curves_[0].sparsity,
        *(picked(quantity) for quantity in ("returns", "discounted", "distance")),
    )
    return Worst(curve, np.where(tied, TIE, np.array([c.attack for c in curves_])[best]))


def leading(results: Results, method: str, eps: float) -> list[Curve]:
    """The adversaries that are worth a line of their own: all, or of many the strongest."""
    found = results.attacked(method, eps)
    if len(found) <= SHOWN:
        return found
    return sorted(found, key=lambda c: c.returns.mean())[:SHOWN]


def sweep(results: Results, method: str) -> tuple[list[float], Interval, Interval]:
    """Radii from 0 up, the worst-of return at each, and the area under that curve.

    Returns:
        radii `[R]`, `Interval [R, S]` on fresh episodes, `Interval [S]`.
    """
    judge = halves(results).judge
    radii = [0.0, *sorted(results.radii)]
    returns = np.stack(
        [results.clean(method).returns[:, :, judge]]
        + [worst_of(results, method, eps).curve.returns[:, :, judge] for eps in radii[1:]]
    )  # [R, seeds, S, episodes]
    each = [replicated_interval(r) for r in returns]
    return (
        radii,
        Interval(*(np.stack(x) for x in zip(*each, strict=True))),
        replicated_interval(np.asarray(area(radii, returns))),
    )


def cvar_interval(returns: np.ndarray) -> Interval:
    """Mean of the worst tenth of the episodes, `[seeds, S, episodes] -> Interval [S]`.

    The seeds are the replicates; a single seed has no interval.
    """
    worst = np.asarray(cvar(returns, TAIL))[..., None]
    return replicated_interval(np.broadcast_to(worst, (*worst.shape[:2], 1)))


class Differences(NamedTuple):
    """J(pruned, attacked) - J(dense, attacked) against sparsity, of the same fresh episodes."""

    attack: str  # the usual one against the pruned policies
    sparsity: np.ndarray  # [S]
    interval: Interval  # [S], at each sparsity by itself
    band: Interval  # [S], of the whole curve at once


def differences(
    results: Results, method: str, eps: float, sampling: Sampling = replicates
) -> Differences:
    """What pruning gains or loses where both policies meet their strongest adversary."""
    worst, pruned, dense = _with_dense(results, method, eps)
    a, b = sampling(*np.broadcast_arrays(pruned, dense))
    band = simultaneous_band(jax.random.key(SEED), a - b, level=CONFIDENCE)
    interval = paired_difference(jax.random.key(SEED), a, b, level=CONFIDENCE)
    return Differences(worst.label, worst.curve.sparsity, _as_numpy(interval), _as_numpy(band))


class Improvement(NamedTuple):
    """P(J(pruned, attacked) > J(dense, attacked)) against sparsity, ties by half."""

    attack: str  # the usual one against the pruned policies
    sparsity: np.ndarray  # [S]
    probability: Interval  # [S]


def improvement(results: Results, method: str, eps: float) -> Improvement:
    """How likely an agent of the method withstands its strongest adversary better than a dense one.

    Of any two agents, or episodes of a single seed, on fresh episodes: not of pairs.
    """
    worst, pruned, dense = _with_dense(results, method, eps)
    of_sparsity = partial(probability_of_improvement, jax.random.key(SEED), level=CONFIDENCE)
    x, y = replicates(pruned, dense)
    found = jax.vmap(of_sparsity, in_axes=(1, None))(x, y)
    return Improvement(worst.label, worst.curve.sparsity, _as_numpy(found))


def _with_dense(results: Results, method: str, eps: float) -> tuple[Worst, np.ndarray, np.ndarray]:
    """The worst case of a method, its returns `[seeds, S, episodes]`, and those of no pruning."""
    worst, dense = (worst_of(results, m, eps) for m in (method, results.dense_of[method]))
    judge = halves(results).judge
    return worst, worst.curve.returns[..., judge], dense.curve.returns[..., judge]


class RegretCurve(NamedTuple):
    """The three terms against sparsity, `Interval [S]` each."""

    attack: str
    clean: Interval
    pruning: Interval
    robustness: Interval
    total: Interval
    agents: np.ndarray  # [seeds, S], the total of each


def regret_curve(
    results: Results, method: str, eps: float, quantity: str = "returns"
) -> RegretCurve:
    """The regret of one method, under the strongest adversary of radius eps.

    The terms are differences of the same episodes, fresh ones.

    Args:
        results: of a run.
        method: of pruning.
        eps: radius of the adversaries.
        quantity: of a `Curve`: "returns" or "discounted".
    """
    worst, judge = worst_of(results, method, eps), halves(results).judge
    terms = decompose(
        np.asarray(reference(results, method, quantity)),
        getattr(results.dense(method), quantity)[..., judge],  # [seeds, 1, episodes]
        getattr(results.clean(method), quantity)[..., judge],
        getattr(worst.curve, quantity)[..., judge],
    )
    parts = np.broadcast_arrays(*terms, terms.total)
    intervals = (replicated_interval(part) for part in parts)
    return RegretCurve(worst.label, *intervals, agents=parts[-1].mean(-1))


class SweetSpot(NamedTuple):
    """The sparsity that an objective picks, chosen on one half of the episodes."""

    objective: str
    sparsity: float
    clean: Interval  # [], of the other half of the episodes
    attacked: Interval  # [], likewise, under the strongest adversary
    dense_clean: Interval  # [], of the unpruned agents on that half
    dense_attacked: Interval


def sweet_spots(
    results: Results, method: str, eps: float, sampling: Sampling = replicates
) -> list[SweetSpot]:
    """The best sparsity by three objectives; sparsity 0 competes.

    Chosen on the first half of the episodes and reported on the second, because a maximum over
    noisy means is too good on the episodes that picked it. A single episode serves for both.
    """
    clean, worst = results.clean(method), worst_of(results, method, eps).curve
    choose, judge = halves(results)

    def mean(curve: Curve, part: slice) -> np.ndarray:
        return curve.returns[:, :, part].mean((0, 2))

    c, a = mean(clean, choose), mean(worst, choose)
    dense = results.dense(method).returns[:, :, choose].mean()
    affordable = c >= dense - TOLERATED_LOSS * abs(dense)
    objectives: dict[str, np.ndarray] = {
        "highest mean of clean and attacked": (c + a) / 2,
        "highest minimum of clean and attacked": np.minimum(c, a),
        f"smallest gap at no more than {TOLERATED_LOSS:.0%} clean loss": np.where(
            affordable, -(c - a), -np.inf
        ),
    }
    dense_worst = worst_of(results, results.dense_of[method], eps).curve
    clean_interval, attacked_interval, dense_clean, dense_attacked = (
        replicated_interval(curve.returns[:, :, judge], sampling)
        for curve in (clean, worst, results.dense(method), dense_worst)
    )
    pick: Callable[[Interval, int], Interval] = lambda x, i: Interval(*(v[i] for v in x))  # noqa: E731
    return [
        SweetSpot(
            objective,
            float(clean.sparsity[best]),
            pick(clean_interval, best),
            pick(attacked_interval, best),
            pick(dense_clean, 0),
            pick(dense_attacked, 0),
        )
        for objective, score in objectives.items()
        if np.isfinite(score).any()
        for best in [int(np.argmax(np.where(np.isfinite(score), score, -np.inf)))]
    ]


class BoundCurve(NamedTuple):
    """One bound on D against sparsity."""

    bound: str
    monotone: bool
    scope: str
    sparsity: np.ndarray  # [S]
    values: np.ndarray  # [seeds, S]
    unit: str


def bound_curves(
    table: Columns,
    method: str,
    eps: float,
    quantity: str = "D",
    scope: str | None = None,
    confidence: float | None = None,
) -> list[BoundCurve]:
    """The bounds of one method and radius from a certificates table.

    Args:
        table: of certificates.
        method: of pruning.
        eps: radius.
        quantity: what is bounded.
        scope: "global" or "local"; None for both.
        confidence: of the statements, NaN for estimates; None for any.
    """
    wanted = (table["method"] == method) & (table["eps"] == eps) & (table["quantity"] == quantity)
    wanted &= table["bound"] != ATTACK_ROWS
    if scope is not None:
        wanted &= table["scope"] == scope
    if confidence is not None:
        wanted &= np.isclose(table["confidence"], confidence, equal_nan=True)
    return [_bound_curve(table, wanted, bound) for bound in dict.fromkeys(table["bound"][wanted])]


def _bound_curve(table: Columns, wanted: np.ndarray, bound: str) -> BoundCurve:
    rows = wanted & (table["bound"] == bound)
    order = np.lexsort([table[k][rows] for k in ("sparsity", "seed")])
    part = {k: v[rows][order] for k, v in table.items()}
    sparsity = np.unique(part["sparsity"])
    values = part["value"].reshape(-1, len(sparsity))
    monotone, scope, unit = (part[k][0] for k in ("monotone", "scope", "unit"))
    return BoundCurve(str(bound), bool(monotone), str(scope), sparsity, values, str(unit))


class Bracket(NamedTuple):
    """Between what the attacked return must be, `[S]` each, means over the seeds."""

    unit: str  # "return" or "discounted return"
    sparsity: np.ndarray
    clean: np.ndarray  # measured
    reached: np.ndarray  # at most: the strongest attack found, on fresh episodes
    estimate: np.ndarray  # at least, without the allowance for chance
    floor: np.ndarray  # at least: the best certificate; NaN where there is none
    bound: str  # of the best certificate at the lowest sparsity


def bracket(results: Results, certificates: Columns, method: str, eps: float) -> Bracket | None:
    """The attacked return between the best certificate and the strongest attack.

    A mean over the seeds of floors that hold with some confidence holds with it too: episode i
    starts alike for all seeds, so that it is the floor of a mean over seeds, a little low. None
    where no certificate speaks about the policy as it acted: deterministic continuous actions, or
    rewards without a-priori bounds.
    """
    discounted = results.victim == "stochastic"
    quantity, unit = ("discounted", "discounted return") if discounted else ("returns", "return")
    judge = halves(results).judge
    clean, worst = (
        getattr(curve, quantity)[..., judge].mean((0, 2))
        for curve in (results.clean(method), worst_of(results, method, eps).curve)
    )
    floors: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # bound -> (estimate, statement)
    find = partial(bound_curves, certificates, method, eps)
    if discounted:
        stated = find("discounted_return_floor", confidence=CONFIDENCE)  # older runs have none
        holds = {b.bound: b.values.mean(0) for b in stated}
        gaps = [*find("value_gap"), *find("value_gap_on_policy", confidence=np.nan)]
        for gap in gaps:
            estimate = clean - gap.values.mean(0)
            floors[gap.bound] = estimate, holds.get(gap.bound, np.full_like(estimate, np.nan))
    else:
        for b, e in zip(
            find("return_floor", confidence=CONFIDENCE),
            find("return_floor", confidence=np.nan),
            strict=True,
        ):
            floors[b.bound] = (e.values.mean(0), b.values.mean(0))
    if not floors:
        return None
    best = max(floors, key=lambda name: floors[name][0][0])
    estimate, floor = (np.max([f[i] for f in floors.values()], axis=0) for i in (0, 1))
    sparsity = results.clean(method).sparsity
    return Bracket(unit, sparsity, clean, worst, estimate, floor, best)


def violations(
    results: Results, certificates: Columns, others: Sequence[Results] = ()
) -> list[str]:
    """Cells where an attack exceeded a certificate, of any victim: there must be none."""
    problems = []
    beyond = (certificates["quantity"] == "exceeded") & (certificates["value"] > 0)
    for row in np.flatnonzero(beyond):
        cell = {name: certificates[name][row] for name in ("value", "bound", "method", "eps")}
        text = "an attack exceeds {bound} at {value:g} visited states for {method} at eps {eps:g}"
        problems.append(text.format(**cell))
    for held in (results, *others):
        for (method, attack, eps), curve in held.by_key.items():
            # Local bounds hold where the clean policy went, and are compared there.
            for bound in bound_curves(certificates, method, eps, scope="global"):
                # The attack's D is a float32 figure; the bound is float64.
                excess = curve.distance - bound.values * (1 + 1e-4) - 1e-6
                if (excess > 0).any():
                    problems.append(f"{attack} exceeds {bound.bound} for {method} at eps {eps:g}")
    return list(dict.fromkeys(problems))


def divergences(table: Columns, by: Sequence[str]) -> dict[tuple[Any, ...], dict[float, int]]:
    """Diverged episodes of every group of rows that has any, by sparsity.

    Args:
        table: of returns (a flag per episode) or of training (a count per iteration).
        by: the columns whose values name a group.
    """
    found: dict[tuple[Any, ...], dict[float, int]] = {}
    counts = table.get("diverged", np.zeros(0, int))  # nothing was trained
    for row in np.flatnonzero(counts):
        group = found.setdefault(tuple(table[name][row] for name in by), {})
        sparsity = float(table["sparsity"][row])
        group[sparsity] = group.get(sparsity, 0) + int(counts[row])
    return {group: dict(sorted(at.items())) for group, at in found.items()}


def metrics(
    results: Results, certificates: Columns, others: Sequence[Results] = ()
) -> list[dict[str, Any]]:
    """The scalars that a gate compares: key, value, unit, direction, interval.

    The keys of other victims, of whom there are curves only, begin with their names.
    """
    rows: list[dict[str, Any]] = []

    def add(key: str, value: Interval, direction: str, unit: str = "return") -> None:
        mean, low, high = (float(x) for x in value)
        rows.append(
            {"key": key, "value": mean, "unit": unit, "direction": direction}
            | {"low": low, "high": high}
        )

    for prefix, held in [("", results), *((f"{other.victim}/", other) for other in others)]:
        for key, sparsity, curve, unit in _curves_of_metrics(held):
            for i, level in enumerate(sparsity):
                at = Interval(*(x[i] for x in curve))
                add(f"{prefix}{key}/sparsity={level:g}", at, "higher", unit)
    for key, value in _aggregates(results):
        add(key, value, "higher")
    for eps in results.radii:
        for method in results.pruned_methods():
            for spot in sweet_spots(results, method, eps):
                key = f"sweet_spot/{method}@{eps:g}/{spot.objective}"
                level = Interval(np.array(spot.sparsity), np.array(np.nan), np.array(np.nan))
                add(f"{key}/sparsity", level, "none", "fraction")
                add(f"{key}/clean", spot.clean, "higher")
                add(f"{key}/attacked", spot.attacked, "higher")
            for bound in bound_curves(certificates, method, eps):
                level = replicated_interval(bound.values.mean(1)[:, None, None])
                key = f"bound/{bound.bound}/{method}@{eps:g}/mean"
                add(key, Interval(*(x[0] for x in level)), "lower", bound.unit)
    return rows


def _curves_of_metrics(results: Results) -> Iterator[tuple[str, np.ndarray, Interval, str]]:
    """Key, sparsity `[S]`, `Interval [S]` and unit of everything that is better when higher."""
    for (method, attack, eps), curve in results.by_key.items():
        yield _key(method, attack, eps), curve.sparsity, curve.interval(), "return"
    judge = halves(results).judge
    for method in dict.fromkeys(method for method, _, _ in results.by_key):
        for eps in results.radii:
            worst = worst_of(results, method, eps).curve
            yield _key(method, WORST_OF, eps), worst.sparsity, worst.interval(judge), "return"
        if len(results.radii) > 1:
            _, _, under = sweep(results, method)
            yield f"area/{method}/{WORST_OF}", results.clean(method).sparsity, under, "return"
    for method in results.methods:
        for eps in results.radii:
            where = f"{method}/{WORST_OF}@{eps:g}"
            _, sparsity, _, band = differences(results, method, eps)
            yield f"difference_to_dense/{where}", sparsity, band, "return"
            _, sparsity, probability = improvement(results, method, eps)
            yield f"improvement_over_dense/{where}", sparsity, probability, "probability"


def _aggregates(results: Results) -> Iterator[tuple[str, Interval]]:
    """Every curve's mean over the sparsity grid, over seeds and episodes in three ways."""
    for (method, attack, eps), curve in results.by_key.items():
        of_grid = curve.returns.mean(1)  # [seeds, episodes]
        samples = of_grid if len(of_grid) > 1 else of_grid[0]
        for name, statistic in (("mean", jnp.mean), ("iqm", iqm), ("median", jnp.median)):
            value = bootstrap(
                jax.random.key(SEED), jnp.asarray(samples), statistic, level=CONFIDENCE
            )
            yield f"{_key(method, attack, eps)}/{name}", value


def _key(method: str, attack: str, eps: float) -> str:
    return f"return/{method}/{attack}" + (f"@{eps:g}" if attack != "none" else "")
