"""What a run found, in sentences made from its verdicts.

One group of sentences per method: how much of the weights can go for free, what that does to the
return under attack, whether there is a sweet spot, and what MAD alone would have claimed.
"""

from collections.abc import Iterator

import numpy as np

from benchmarks.report.contents import (
    NEGLIGIBLE,
    TIE,
    TOLERATED_LOSS,
    USUAL,
    Contents,
    Panel,
    Verdict,
    most_common,
)
from benchmarks.runtime.tables import interval_text
from jaxprune.attacks import label_of

# Of a choice that others did not confirm.
BROKEN = "; the half that did not choose it lost more"
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def percent(share: float) -> str:
    """0.2 -> 20 %."""
    return f"{100 * share:.3g} %"


def _whole_percent(share: float) -> str:
    """0.174 -> 17 %, 0.004 -> less than 1 %."""
    return percent(round(share, 2)) if share >= 0.01 else "less than 1 %"


def number(count: int) -> str:
    """A small number as a word."""
    return NUMBERS[count] if count < len(NUMBERS) else str(count)


def name_of(contents: Contents, panel: Panel) -> str:
    """Returns what a panel is called: its method, and the radius where there are several."""
    name = panel.method if panel.pruned else _dense_name(panel.dense)
    return name if len(contents.radii) == 1 else f"{name}, eps {panel.eps:g}"


def _dense_name(label: str) -> str:
    """The label of unpruned agents without the word that stands for no pruning."""
    return " ".join(["dense", *label.split()[:-1]])


def verdict_lines(contents: Contents) -> Iterator[str]:
    """Yields a group of sentences per method, or per dense policy where nothing was pruned."""
    if contents.others:
        yield f"This verdict is about the {contents.victim} policies."
    for panels in contents.by_method.values():
        verdicts = [panel.verdict for panel in panels if panel.verdict is not None]
        if not verdicts:
            yield _dense_sentence(contents, panels)
            continue
        groups = [" ".join(under_attack(verdict)) for verdict in verdicts]
        if len(groups) > 1:
            groups = [f"At eps {v.eps:g}: {g}" for v, g in zip(verdicts, groups, strict=True)]
        yield " ".join([free(verdicts[0]), *groups])


def _dense_sentence(contents: Contents, panels: list[Panel]) -> str:
    """Returns what policies do that nobody pruned."""
    panel = panels[0]
    attacked = ", ".join(
        f"{float(p.dense_worst.mean):.0f} under {_attackers(len(p.attacks), most_common(p.chosen))}"
        + (f" at eps {p.eps:g}" if len(panels) > 1 else "")
        for p in panels
    )
    clean = f"{float(panel.dense_clean.mean):.0f} without an attack"
    return (
        f"{_dense_name(panel.dense)}: nothing was pruned. The policies return {clean}, {attacked}."
    )


def _attackers(count: int, name: str) -> str:
    """Returns the words for the strongest of so many attacks."""
    known = name.replace(TIE, "several alike")
    return label_of(name) if count == 1 else f"the strongest of {number(count)} attacks ({known})"


def free(verdict: Verdict) -> str:
    """Returns how much of the weights can go at next to no clean loss."""
    choice, dense = verdict.within_clean, float(verdict.dense_clean.interval.mean)
    allowed = f"within {percent(TOLERATED_LOSS)} of the clean return"
    if dense <= 0:  # a share of a negative return confuses
        loss = TOLERATED_LOSS * abs(dense)
        allowed = f"with a clean return at most {loss:.3g} below the dense {dense:.0f}"
    share = percent(choice.sparsity) if choice.sparsity else "no part"
    if max(choice.sparsities) > 0 == choice.sparsity:
        share = f"no part or {percent(max(choice.sparsities))} (halves of the sample disagree)"
    about = sample(verdict) + ("" if choice.keeps_clean else BROKEN)
    return f"{verdict.method}: {share} of the weights can go {allowed} ({about})."


def sample(verdict: Verdict) -> str:
    """Returns what the verdict is about: so many agents, or episodes of one."""
    if verdict.unit == "agents":
        return f"{verdict.replicates} agents"
    return f"one agent, {verdict.replicates} episodes"


def under_attack(verdict: Verdict) -> Iterator[str]:
    """Yields the sentences about the attacked return, sweet spots, and MAD alone."""
    choice, name = verdict.within_clean, verdict.strongest_dense
    if verdict.strongest_pruned != name:
        name += f" on dense, {verdict.strongest_pruned} on pruned policies"
    dense = f"{float(verdict.dense_attacked.interval.mean):.0f}"
    words = f"Under {_attackers(verdict.attacks, name)} the dense policies return {dense}"
    if choice.sparsity:
        low, high = map(percent, (min(choice.sparsities), max(choice.sparsities)))
        these = "these" if low == high else f"those with {low} to {high} removed"
        words += f", {these} {float(choice.attacked.interval.mean):.0f}"
    yield f"{words}: {sweet_spot(verdict)}."
    if verdict.attacks > 1 and USUAL in verdict.alone:
        yield from filter(None, [alone(verdict)])


def sweet_spot(verdict: Verdict) -> str:
    """Returns whether there is a sweet spot, and which one would have been found."""
    spot = verdict.sweet_spot
    if not spot.tested:
        return f"too few {verdict.unit} to test for a sweet spot"
    if spot.found:
        gain = f"{float(spot.gain.interval.mean):.0f}"
        low, high = percent(min(spot.sparsities)), percent(max(spot.sparsities))
        where = f"at {low}" if low == high else f"between {low} and {high}"
        return f"a sweet spot {where}, where pruned policies return {gain} more"
    if verdict.refuted:
        return f"no sweet spot: no sparsity adds {percent(NEGLIGIBLE)} and keeps the clean return"
    if not np.isfinite(spot.detectable):
        return "no sweet spot at this power, which could not have found any"
    dense = float(verdict.dense_attacked.interval.mean)
    gain = _whole_percent(spot.detectable_share) if dense > 0 else f"{spot.detectable:.3g}"
    if not spot.resolvable_loss > TOLERATED_LOSS:  # NaN: the dense policies return 0
        return f"no sweet spot at this power; a gain of {gain} would have been found"
    loss = _whole_percent(spot.resolvable_loss)
    return (
        f"no sweet spot at this power, at which a gain of {gain} would be seen, and a clean loss "
        f"of less than {loss} could not be excluded"
    )


def details(verdict: Verdict) -> str:
    """Returns what was chosen and tested beside the verdict, for who wants to know."""
    within, spot = verdict.within_attacked, verdict.sweet_spot
    share = percent(within.sparsity) if within.sparsity else "No part"
    words = (
        f"{share} of the weights can go within {percent(TOLERATED_LOSS)} of the attacked return"
        f"{'' if within.keeps_attacked else BROKEN}."
    )
    if spot.tested:
        best = " and ".join(dict.fromkeys(map(percent, spot.choice.sparsities)))
        gain = interval_text(spot.gain.interval)
        words += f" The best candidates for a sweet spot, {best}, change it by {gain}"
        words += f" (p = {spot.p_value:.2g} after correction)."
    return f"{verdict.method}, eps {verdict.eps:g}: {words}"


def alone(verdict: Verdict) -> str:
    """Returns what MAD alone would have claimed; untested claims stand beside each other."""
    mad, worst = verdict.alone[USUAL], verdict.sweet_spot
    if mad.found:
        return f"Under MAD alone there would be one at {percent(min(mad.sparsities))}."
    either = "" if worst.found else " either"
    tested = f"Under MAD alone there would be none{either}. " if mad.tested else ""
    seeming = [
        f"at {percent(spot.naive.sparsity)} under {name}"
        for name, spot in (("MAD alone", mad), ("the strongest attack", worst))
        if spot.naive.gain > 0 and not spot.found
    ]
    if seeming:
        tested += f"Chosen and reported on the same {verdict.unit} without a test, there would "
        tested += f"seem to be one {' and '.join(seeming)}."
    return tested.strip()
