"""What a run found, in sentences made from its numbers.

"Pruning does not hurt robustness" is a claim about the return under attack: that of pruned agents
less that of the unpruned ones of the same seeds, each under its own strongest adversary, on
episodes that chose nothing. An interval of that difference below 0 refutes the claim at a sparsity;
one that reaches above 0 proves nothing, so the loss that it still allows is told beside.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from benchmarks.report.contents import Contents, Panel
from benchmarks.runtime.tables import interval_text

CLAIM = '"pruning does not hurt robustness"'


class Words(NamedTuple):
    """How an interval on one side of 0 is put."""

    refuted: str
    not_refuted: str
    surely: str


ENOUGH = Words("is refuted", "is not refuted", "certainly")
FEW = Words("looks refuted", "does not look refuted", "apparently")


def preface(contents: Contents) -> Iterator[str]:
    """What the sentences are about, where that is not the method."""
    if contents.few_seeds:
        yield (
            f"**{contents.few_seeds}** What follows is about these agents and no others: its "
            "intervals are over their episodes."
        )
    elif contents.seeds == 1:
        yield "There is one policy: what follows is about it, and intervals are over its episodes."


def headlines(contents: Contents) -> Iterator[str]:
    """Sentences, the most important first."""
    for panel in contents.panels:
        if (panel.sparsity > 0).any():
            yield claim(panel, FEW if contents.few_seeds else ENOUGH)
    for panel in contents.panels:
        if len(panel.sparsity) > 1:
            yield from sweet_spots(panel)


def sweet_spots(panel: Panel) -> Iterator[str]:
    """Every sparsity that an objective picks, with all the objectives that pick it."""
    for sparsity, spot in {spot.sparsity: spot for spot in panel.spots}.items():
        objectives = [s.objective for s in panel.spots if s.sparsity == sparsity]
        clean, attacked, dense_clean, dense_attacked = map(interval_text, spot[2:])
        yield (
            f"{panel.method}, eps {panel.eps:g}: sweet spot at sparsity {sparsity:g} "
            f"({'; '.join(objectives)}), with clean {clean} and attacked {attacked} on fresh "
            f"episodes (dense: {dense_clean} and {dense_attacked})."
        )


def claim(panel: Panel, words: Words) -> str:
    """Whether pruning hurts the return under attack, and at which sparsities.

    Args:
        panel: of one method and radius, with a sparsity above 0.
        words: how sure the intervals make us.
    """
    pruned = np.flatnonzero(panel.sparsity > 0)
    levels = panel.sparsity[pruned]
    mean, low, high = (np.asarray(x)[pruned] for x in panel.claimed)
    start = f"{panel.method}, eps {panel.eps:g}: "
    if np.isnan(low).all():
        return f"{start}whether {CLAIM} holds cannot be told from one episode of one agent."
    lower, higher = high < 0, low > 0
    safe = int(np.argmax(lower)) if lower.any() else len(levels)  # sparsities before the first loss
    if safe == 0:
        verdict = f"{words.refuted} already at the lowest sparsity, {levels[0]:g}"
    elif safe < len(levels):
        verdict = (
            f"{words.not_refuted} up to sparsity {levels[safe - 1]:g}, but at {levels[safe]:g}"
        )
    else:
        verdict = f"{words.not_refuted} at any sparsity up to {levels[-1]:g}"
    attacked = "return under the worst adversary" if len(panel.attacks) > 1 else "attacked return"
    return (
        f"{start}{CLAIM} {verdict}. The {attacked} is {words.surely} lower than that of the dense "
        f"agents ({interval_text(panel.dense_worst)}) at {spans(levels, lower)}, and "
        f"{words.surely} higher at {spans(levels, higher)}."
    ) + _allowance(panel, levels[:safe], low[:safe], mean[:safe])


def spans(levels: np.ndarray, chosen: np.ndarray) -> str:
    """The chosen ones of some increasing levels in words: neighbours as a range."""
    index = np.flatnonzero(chosen)
    if not index.size:
        return "no sparsity"
    if index.size == len(levels) > 1:
        return f"every sparsity from {levels[0]:g} to {levels[-1]:g}"
    runs: list[list[int]] = [[int(index[0])]]
    for before, now in pairwise(index.tolist()):
        runs[-1].append(now) if now == before + 1 else runs.append([now])
    return f"sparsity {', '.join(_span(levels[run]) for run in runs)}"


def _span(levels: np.ndarray) -> str:
    ends = [f"{levels[0]:g}", f"{levels[-1]:g}"]
    return ends[0] if len(levels) == 1 else (" to " if len(levels) > 2 else " and ").join(ends)


def _allowance(panel: Panel, levels: np.ndarray, low: np.ndarray, mean: np.ndarray) -> str:
    """The largest loss that the intervals leave possible where they refute nothing."""
    if not len(levels) or not np.isfinite(low).any():
        return ""
    worst = int(np.nanargmin(low))
    if low[worst] >= 0:
        return ""
    dense = float(panel.dense_worst.mean)
    share = f" ({-low[worst] / dense:.0%})" if dense > 0 else ""
    return (
        f" Not refuted is not proved: at sparsity {levels[worst]:g} the mean changes by "
        f"{mean[worst]:+.0f}, and the interval allows a loss of {-low[worst]:.0f}{share}."
    )
