"""Sanity checks of a robustness evaluation: whether its attacks are as strong as they claim to be.

A pruned network may mask its gradients and only seem robust. Every check is a comparison that a
sound evaluation cannot lose (after Carlini et al. 2019, arXiv 1902.06705, and Athalye et al. 2018,
arXiv 1802.00420): one for every method and radius, where its worst case is named.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from statistics import NormalDist
from typing import NamedTuple, TypeAlias

import numpy as np

from benchmarks.analysis.curves import Columns, Curve, Results
from jaxprune.attacks import WHITE_BOXES, facts_of
from jaxprune.evaluation.gradient_masking import Diagnosis

# Chance may account for so many standard errors of a mean difference, and what is certain but
# below this share of the clean return is not worth a warning.
ERRORS, RELEVANT = 2.0, 0.02
# What names rows that belong together.
Group: TypeAlias = tuple[str | float, ...]

# A D below this is a float32 rounding error, or moves nothing.
ROUNDING = 1e-4


class Check(NamedTuple):
    """One comparison, at its worst."""

    name: str
    passed: bool
    value: float
    limit: float  # the largest value that passes
    where: str
    meaning: str  # of a failure, with {value} and {where}, and what to do about it


class _Rule(NamedTuple):
    """What is asked of the statements about each cell; NaN of `optional` is no statement."""

    name: str
    limit: float
    value: Callable[[dict[str, np.ndarray]], np.ndarray]
    meaning: str
    optional: bool = False


# By name of the check: the family of attacks that know less than a white box.
RIVALS = {
    "white box at least as strong as transfer": (
        "transfer",
        "An attack made for another policy lowers the return by {value:.3g} more than one made "
        "for this policy {where}. The gradients may be masked: believe the transferred attack, "
        "and give the others more steps and restarts.",
    ),
    "white box at least as strong as gradient-free search": (
        "search",
        "A search without gradients lowers the return by {value:.3g} more than the gradient "
        "attacks {where}. The gradients may be masked: believe the search, and give the gradient "
        "attacks more steps and restarts.",
    ),
    "white box at least as strong as noise": (
        "noise",
        "Noise lowers the return by {value:.3g} more than the attacks {where}. The attacks aim at "
        "the wrong thing: add attacks on the return, such as director, and give them more steps.",
    ),
}
GROWTH = (
    "stronger with eps",
    "An attack leaves {value:.3g} more return in a larger ball, which holds the smaller one "
    "{where}. Give the attack more steps, restarts or a longer training.",
)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return above / np.maximum(below, ROUNDING)


RULES = [
    _Rule(
        "gradient attack at least as strong as corners",
        1.02,
        lambda told: _ratio(told["corners"], told["gradient"]),
        "Random corners of the ball move the policy {value:.3g} times as far as the gradient "
        "attack does {where}. Give the attack more restarts; if that does not help, the gradients "
        "are masked.",
    ),
    _Rule(
        "gradient attack has converged",
        1.1,
        lambda told: _ratio(told["doubled"], told["gradient"]),
        "Twice the steps and restarts move the policy {value:.3g} times as far {where}. The "
        "robustness is overstated: give the gradient attack more steps and restarts.",
    ),
    _Rule(
        "gradients exist",
        0.5,
        lambda told: told["zero_gradient"],
        "The policy has no gradient in a share of {value:.3g} of the coordinates that its weights "
        "connect to the action {where}. Its units are dead or saturated: use attacks without "
        "gradients.",
    ),
    _Rule(
        "objective is a number",
        0.0,
        lambda told: told["undefined"],
        "The policy overflows at a share of {value:.3g} of the corners of the ball {where}. No "
        "attack sees what it does there: its robustness is not known.",
    ),
    _Rule(
        "gradient at least as strong as transfer in D",
        1.02,
        lambda told: _ratio(told["transferred"], told["gradient"]),
        "A perturbation made for another policy moves this one {value:.3g} times as far as its "
        "own does {where}. Give the gradient attack more restarts; if that does not help, the "
        "gradients are masked.",
        optional=True,
    ),
]


def diagnosis_statements(diagnosis: Diagnosis) -> dict[str, np.ndarray]:
    """What is told about each cell: means over its states, `[..., n]` -> `[...]`."""
    told = zip(diagnosis._fields, np.broadcast_arrays(*diagnosis), strict=True)
    return {name: np.asarray(np.mean(x, axis=-1, dtype=np.float64)) for name, x in told}


def checks(results: Results, diagnosis: Columns) -> list[Check]:
    """All that can be checked, by name, method and radius.

    Returns are compared in pairs, since episode i starts alike under every adversary. A difference
    of means over seeds and episodes may be `ERRORS` standard errors above 0, or `RELEVANT` of the
    unpruned agents' clean return; more standard errors where a check takes the worst of several
    differences, so that chance fails it no more often than a single one (Bonferroni). One episode
    of one seed has no standard error, and is not checked.

    Args:
        results: of a run.
        diagnosis: the table with the quantities of `diagnosis_statements`, its methods labelled;
            {} for none.
    """
    methods = list(dict.fromkeys(method for method, _, _ in results.by_key))
    radii = sorted(results.radii)
    found: list[Check | None] = []
    for method in methods:
        for smaller, larger in pairwise(radii):
            found.append(_grows(results, method, smaller, larger))
    for name in RIVALS:
        found += [_beats(results, name, method, eps) for method in methods for eps in radii]
    for rule in RULES if diagnosis else []:
        groups = dict.fromkeys(zip(diagnosis["method"], diagnosis["eps"], strict=True))
        found += [_told(diagnosis, rule, method, eps) for method, eps in groups if eps > 0]
    return [check for check in found if check is not None]


def warnings_of(found: Sequence[Check]) -> Iterator[str]:
    """Yields what every failed check means."""
    for check in found:
        if not check.passed:
            where = f"({check.where}; at most {check.limit:.3g} is sound)"
            yield check.meaning.format(value=check.value, where=where)


# --- returns --------------------------------------------------------------------------------------


def divergences(table: Columns, by: Sequence[str]) -> dict[Group, dict[float, int]]:
    """Diverged episodes of every group of rows that has any, by sparsity.

    Args:
        table: of returns (a flag per episode) or of training (a count per iteration).
        by: the columns whose values name a group.
    """
    found: dict[Group, dict[float, int]] = {}
    counts = table.get("diverged", np.zeros(0, int))  # nothing was trained
    for row in np.flatnonzero(counts):
        group = found.setdefault(tuple(table[name][row] for name in by), {})
        sparsity = float(table["sparsity"][row])
        group[sparsity] = group.get(sparsity, 0) + int(counts[row])
    return {group: dict(sorted(at.items())) for group, at in found.items()}


class _Pair(NamedTuple):
    """Two curves whose returns are compared: the first should nowhere be above the second."""

    expected: Curve
    other: Curve
    words: str


def _grows(results: Results, method: str, smaller: float, larger: float) -> Check | None:
    """Every attack at a radius and at the next smaller one."""
    by_key = results.by_key
    pairs = [
        _Pair(by_key[method, attack, larger], by_key[method, attack, smaller], words)
        for attack in dict.fromkeys(attack for attack, _ in results.adversaries)
        if {(method, attack, smaller), (method, attack, larger)} <= by_key.keys()
        for words in [f"{attack} beside eps {smaller:g}"]
    ]
    name, meaning = GROWTH
    return _worst_pair(
        name, meaning, method, larger, [[pair] for pair in pairs], _worth(results, method)
    )


def _beats(results: Results, name: str, method: str, eps: float) -> Check | None:
    """The strongest white box of each sparsity, beside every rival."""
    family, meaning = RIVALS[name]
    curves = results.attacked(method, eps)
    whites = [curve for curve in curves if facts_of(curve.attack).family in WHITE_BOXES]
    groups = [
        [_Pair(white, rival, f"{white.attack} beside {rival.attack}") for white in whites]
        for rival in curves
        if facts_of(rival.attack).family == family
    ]
    return _worst_pair(
        name, meaning, method, eps, groups if whites else [], _worth(results, method)
    )


def _worth(results: Results, method: str) -> float:
    """A difference of returns that matters."""
    return RELEVANT * abs(float(results.dense(method).returns.mean()))


def _worst_pair(
    name: str,
    meaning: str,
    method: str,
    eps: float,
    groups: Sequence[Sequence[_Pair]],
    worth: float,
) -> Check | None:
    """The check of the worst group and sparsity; a group is as good as its lowest `expected`.

    Differences up to `worth` pass, however certain they are.
    """
    if not groups or groups[0][0].expected.returns[:, 0].size < 2:
        return None
    levels = len(groups[0][0].expected.sparsity)
    errors = _errors(len(groups) * levels)
    cases = []
    for group in groups:
        for i in range(levels):
            pair = min(group, key=lambda pair, i=i: pair.expected.returns[:, i].mean())
            difference = pair.expected.returns[:, i] - pair.other.returns[:, i]
            chance = errors * difference.std(ddof=1) / difference.size**0.5
            where = f"{method}, eps {eps:g}, sparsity {pair.expected.sparsity[i]:g}, {pair.words}"
            cases.append((difference.mean(), max(chance, worth), where))
    value, limit, where = max(cases, key=lambda case: case[0] - case[1])
    return Check(name, bool(value <= limit), float(value), float(limit), where, meaning)


def _errors(comparisons: int) -> float:
    """Standard errors that the largest of so many differences exceeds as rarely as one `ERRORS`."""
    return -NormalDist().inv_cdf(NormalDist().cdf(-ERRORS) / comparisons)


# --- diagnosis ------------------------------------------------------------------------------------


def _told(table: Columns, rule: _Rule, method: str, eps: float) -> Check | None:
    """The check of the worst cell."""
    rows = np.flatnonzero((table["method"] == method) & (table["eps"] == eps))
    # Cells in one order for every quantity.
    rows = rows[np.lexsort([table[name][rows] for name in ("sparsity", "seed", "quantity")])]
    sparsity, seed, quantity, value = (
        table[name][rows] for name in ("sparsity", "seed", "quantity", "value")
    )
    told = {str(name): value[quantity == name] for name in dict.fromkeys(quantity)}
    values = rule.value(told)
    if rule.optional and np.isnan(values).all():
        return None
    worst = int(np.nanargmax(values) if rule.optional else np.argmax(values))
    where = f"{method}, eps {eps:g}, sparsity {sparsity[worst]:g}, seed {seed[worst]}"
    value = float(values[worst])
    return Check(rule.name, value <= rule.limit, value, rule.limit, where, rule.meaning)
