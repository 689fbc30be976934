"""Certificates against sparsity, beside what an attack reached."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from benchmarks.analysis.curves import CONFIDENCE, Columns, Results
from benchmarks.analysis.meaning import Meaning, where_meaningful
from benchmarks.analysis.worst_case import worst_of

# The "bound" of what an attack reached at visited states.
ATTACK_ROWS = "attack"
# D in action units, and the standard deviation of the action along the trajectory.
ACTION_DISTANCE, ACTION_SPREAD = "D_action", "action_sd"


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


class Behaviour(NamedTuple):
    """Holds what the policy does where it goes, in action units, `[S]` each, means over seeds."""

    sparsity: np.ndarray
    spread: np.ndarray  # standard deviation of the action along the trajectory
    moved: np.ndarray  # mean D that an attack found there
    f: tuple[np.ndarray, np.ndarray]  # F: at least by attack, at most by the best local bound

    @property
    def sensitivity(self) -> np.ndarray:
        """D over what the policy does, NaN where it does nothing."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.spread > 0, self.moved / self.spread, np.nan)


def behaviour(certificates: Columns, method: str, eps: float) -> Behaviour | None:
    """Returns D in action units beside what the policy does; None of logits and of older runs.

    All under the discounted visitation of the pruned policy's own unattacked episodes.
    """
    wanted = (certificates["method"] == method) & (certificates["eps"] == eps)
    attack = wanted & (certificates["bound"] == ATTACK_ROWS)

    def of(quantity: str) -> np.ndarray:
        rows = attack & (certificates["quantity"] == quantity)
        return _bound_curve(certificates, rows, ATTACK_ROWS).values.mean(0)

    if not (attack & (certificates["quantity"] == ACTION_SPREAD)).any():
        return None
    local = bound_curves(certificates, method, eps, "TV_mean", scope="local")
    at_most = np.min([curve.values.mean(0) for curve in local], axis=0)
    moved, f = of(f"{ACTION_DISTANCE}_mean"), (of("TV_mean"), at_most)
    return Behaviour(local[0].sparsity, of(ACTION_SPREAD), moved, f)


def meaning(results: Results, certificates: Columns, method: str, eps: float) -> list[Meaning]:
    """Returns where the monotone bounds of one method say anything; see `where_meaningful`."""
    tv = {
        curve.bound: curve.values.mean(0)
        for curve in bound_curves(certificates, method, eps, "TV", scope="global")
        if curve.monotone
    }
    clean, done = results.clean(method), behaviour(certificates, method, eps)
    spread = np.full(len(clean.sparsity), np.nan) if done is None else done.spread
    return where_meaningful(clean.sparsity, tv, clean.returns.mean((0, 2)), spread)


class Bracket(NamedTuple):
    """Between what the attacked return must be, `[S]` each, means over the seeds."""

    unit: str  # "return" or "discounted return"
    sparsity: np.ndarray
    clean: np.ndarray  # measured
    reached: np.ndarray  # at most: the strongest attack found
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
    clean, worst = (
        getattr(curve, quantity).mean((0, 2))
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
