"""Curves of returns against sparsity, and their intervals."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxprune.policy_io.labels import Labels
from jaxprune.statistics import Interval, bounded_mean, cvar
from jaxprune.statistics.choice import Limits, replicates

# Of the statements that hold with high probability over the episodes.
CONFIDENCE = 0.95
# The name of the curve of each agent's strongest adversary, what is said of several as strong
# ones, and the share of CVaR.
WORST_OF, TIE, TAIL = "worst_of", "tie", 0.1

# The attack of most papers, by which an answer is compared with theirs.
USUAL = "mad"

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


def replicated_interval(returns: np.ndarray, limits: Limits) -> Interval:
    """`[seeds, S, episodes]` -> interval of the mean `[S]`, for anything a return can be."""
    (samples,) = replicates(np.where(np.isfinite(returns), returns, np.nan))
    return bounded_mean(samples, limits, level=CONFIDENCE, seed=SEED)


def as_numpy(interval: Interval) -> Interval:
    """Returns the interval as NumPy arrays."""
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


@dataclass(frozen=True)
class Results:
    """The curves of a run by what they are; methods are labels of `policy_io.labels`."""

    by_key: dict[tuple[str, str, float], Curve]  # (method, attack, eps)
    methods: list[str]  # without the unpruned agents
    dense_of: dict[str, str]  # method -> the unpruned agents of its regime
    nested: dict[str, bool]  # method -> whether monotone bounds promise anything along its curve
    adversaries: list[tuple[str, float]]  # (attack, eps) without the clean run
    victim: str  # "deterministic" or "stochastic"
    reference: float | None = None  # J_ref that was asked for
    # (method, eps) -> `Worst`, each evaluated once, by `worst_case.worst_of`
    worst_cases: dict[tuple[str, float], Any] = field(default_factory=dict, init=False, repr=False)

    def limits(self, quantity: str = "returns") -> Limits:
        """The lowest and the highest return of any episode of the run: what a return can be.

        Args:
            quantity: of a `Curve`: "returns" or "discounted".
        """
        values = [getattr(curve, quantity) for curve in self.by_key.values()]
        finite = [x[np.isfinite(x)] for x in values]
        lowest = min(float(x.min(initial=np.inf)) for x in finite)
        return lowest, max(float(x.max(initial=lowest)) for x in finite)

    def interval(self, curve: Curve) -> Interval:
        """Mean over episodes and seeds with its interval, `[S]`."""
        return replicated_interval(curve.returns, self.limits())

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


def collect(table: Columns, victim: str | None = None, reference: float | None = None) -> Results:
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
    return Results(by_key, methods, dense_of, nested, adversaries, victim, reference)


def reference(results: Results, method: str, quantity: str = "returns") -> float:
    """J_ref: the mean clean return of the unpruned agents of the regime, not the optimum.

    The best of them would rise with the number of seeds. A number that was asked for takes its
    place among undiscounted returns.
    """
    if results.reference is not None and quantity == "returns":
        return results.reference
    return float(getattr(results.dense(method), quantity).mean())


def cvar_interval(returns: np.ndarray, limits: Limits) -> Interval:
    """Mean of the worst tenth of the episodes, `[seeds, S, episodes] -> Interval [S]`.

    The seeds are the replicates; a single seed has no interval.
    """
    return bounded_mean(np.asarray(cvar(returns, TAIL)), limits, level=CONFIDENCE, seed=SEED)
