"""Curves of returns against sparsity, and their bootstrap intervals."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.experiment.labels import Labels
from jaxprune.statistics import Interval, bootstrap_mean, cvar

# Of the statements that hold with high probability over the episodes.
CONFIDENCE = 0.95
# The name of the curve of each agent's strongest adversary, what is said of several as strong
# ones, and the share of CVaR.
WORST_OF, TIE, TAIL = "worst_of", "tie", 0.1

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
    return as_numpy(bootstrap_mean(jax.random.key(SEED), *sampling(returns)))


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
    """The curves of a run by what they are; methods are labels of `experiment.labels`."""

    by_key: dict[tuple[str, str, float], Curve]  # (method, attack, eps)
    methods: list[str]  # without the unpruned agents
    dense_of: dict[str, str]  # method -> the unpruned agents of its regime
    nested: dict[str, bool]  # method -> whether monotone bounds promise anything along its curve
    adversaries: list[tuple[str, float]]  # (attack, eps) without the clean run
    victim: str  # "deterministic" or "stochastic"
    # (method, eps) -> `Worst`, each evaluated once, by `worst_case.worst_of`
    worst_cases: dict[tuple[str, float], Any] = field(default_factory=dict, init=False, repr=False)

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


def cvar_interval(returns: np.ndarray) -> Interval:
    """Mean of the worst tenth of the episodes, `[seeds, S, episodes] -> Interval [S]`.

    The seeds are the replicates; a single seed has no interval.
    """
    worst = np.asarray(cvar(returns, TAIL))[..., None]
    return replicated_interval(np.broadcast_to(worst, (*worst.shape[:2], 1)))
