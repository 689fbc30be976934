"""What a run found, in sentences made from its numbers."""

from collections.abc import Iterator

from benchmarks.report.contents import ERROR, TOLERATED_LOSS, Choice, Contents, Verdict
from benchmarks.runtime.tables import interval_text


def preface(contents: Contents) -> Iterator[str]:
    """What the sentences are about, where that is not the method."""
    if contents.few_seeds:
        yield f"**{contents.few_seeds}**"
    elif contents.seeds == 1:
        yield "There is one policy: what follows is about it, and intervals are over its episodes."


def headlines(contents: Contents) -> Iterator[str]:
    """A sentence for every method and radius with a sparsity above 0."""
    for panel in contents.panels:
        if panel.verdict is not None:
            yield finding(panel.verdict)


def finding(verdict: Verdict) -> str:
    """How sparse for free, and whether pruning helps under attack."""
    clean, attacked = verdict.within_clean, verdict.sweet_spot
    dense, pruned = (interval_text(x.interval) for x in (clean.dense_attacked, clean.attacked))
    return (
        f"{verdict.method}, eps {verdict.eps:g}: {within(clean)} "
        f"({verdict.replicates} {verdict.unit}). Under the strongest of {verdict.attacks} attacks "
        f"({verdict.strongest_dense}) the dense policies keep {dense}, these {pruned}: "
        f"{sweet_spot(verdict)} Pruned less dense, attacked: "
        f"{interval_text(attacked.gain.interval)}."
    )


def within(choice: Choice) -> str:
    """The sparsest policy within the tolerated loss."""
    change = interval_text(choice.clean_change.interval)
    return (
        f"{choice.sparsity:.0%} of the weights can go within {TOLERATED_LOSS:.0%} of the clean "
        f"return, which changes by {change}"
    )


def sweet_spot(verdict: Verdict) -> str:
    """Whether there is a sweet spot, or what could have been found."""
    spot = verdict.sweet_spot
    if not spot.tested:
        return "too few replicates for a test of sweet spots."
    if spot.found:
        levels = ", ".join(f"{sparsity:g}" for sparsity in spot.sparsities)
        return f"a sweet spot at sparsity {levels} (p {spot.p_value:.2g}, below {ERROR:g})."
    return (
        f"no sweet spot at this power; a gain of {spot.detectable_share:.0%} would have been found."
    )
