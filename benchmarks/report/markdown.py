"""What a report says and in which order, as Markdown: one text for all its forms.

A line that is a picture, `![caption](NAME.png)`, is an interactive chart in report.html, and stays
in report.md where there is such a file.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from benchmarks.report.contents import GIF, QUANTITIES, SEEDS, Contents
from benchmarks.report.findings import details, name_of, verdict_lines
from benchmarks.report.rows import (
    adversary_rows,
    behaviour_rows,
    bound_rows,
    bracket_rows,
    change_rows,
    check_rows,
    compute_rows,
    cost_rows,
    judged_rows,
    main_rows,
    regret_rows,
    return_rows,
    sparsity_rows,
    sweep_rows,
)
from benchmarks.runtime.tables import markdown_table
from jaxprune.validation import MESSAGE, shown

FOOTNOTES = """\
- **Return**: undiscounted sum of the task's raw rewards; the policy acts with {victim}. Episode
  *i* starts from the same state in every cell, under every adversary.
- **Sparsity**: the fraction of the prunable weights removed, as it was asked for; counts are exact
  integers, and the tables hold what was achieved (whole neurons and N:M blocks only come near).
  By default the actor's kernels are prunable; biases, log_std and critic stay. With `global`
  allocation all kernels are ranked together, and every layer keeps `min_weights` (*at floor*: the
  layers where that was all).
- **What is left of the network**: *dead* hidden units reach no output, *constant* ones are reached
  by no input, a *disconnected* observation moves nothing. *Condition* is the largest ratio of
  singular values of a layer over the seeds (inf: rank deficient). *Compact* counts the parameters
  of a dense actor with equal outputs and without such units. Unstructured masks simulate sparsity:
  only structure (neurons, N:M) makes a policy smaller or faster.
- **eps**: radius of the l_inf ball around the *normalised* observation; the simulator sees the
  truth.
- **Intervals**: 95 %, over {unit}, none for fewer than five. Of returns: a Bayesian bootstrap that
  holds for every distribution between the lowest and the highest return of the run, so that agents
  that fall or hop do not fool it. Of differences in pairs: Student's. The change to the dense
  agents has a *band* that holds at all sparsities, for all methods and radii at once.{warning}
- **D**: how far the action distribution moves, in {distance}. Attacks give lower bounds,
  certificates upper bounds. *Monotone* bounds can never rise when weights are removed; the others
  can and do. That is about nested masks of the *same* weights: where weights were trained after
  pruning, as by every method of training, or where masks are not nested, it promises nothing along
  the curve, and the tables say so (`nested`). Global bounds hold everywhere; for local ones the
  largest value over the visited states is shown, and the tables hold the mean under the discounted
  visitation too (`D_mean`, `TV_mean`: the paper's F) and what an attack reached at the same states
  (bound `attack`).
- **TV**: the bound on the total variation of the action distribution that follows from D. The
  *vacuity* in the tables is the value bound over the trivial one: at 1 the certificate says
  nothing about the return. Both hold for the stochastic policy.{value}
- **Attacked return, at least**: for drawn actions the clean return less the certified value gap
  (of the largest TV, or of F from the visited states); for the likeliest of discrete actions what
  was earned before the first state at which the action could change. The first figure is the
  estimate, the second holds with 95 % confidence over the episodes of each policy (of the clean
  return and of the gap 97.5 % each, or more where the best of several bounds is shown). Two
  different deterministic continuous actions have total variation 1, so that there is no such
  certificate.
- **Regret**: J_ref - J(attacked, pruned) in three terms. J_ref = {reference} is the mean
  of the dense agents of the regime, or the `--reference` that was given; not the optimum.
- **Worst of**: every agent at every sparsity under the adversary that did most harm: each half of
  the episodes is reported under the one that the other half chose. *CVaR 10 %* is the mean of the
  worst tenth of the episodes. Members of learned attacks were chosen on other episodes.
- **Sweet spot**: a sparsity with a higher attacked return than the dense agents (in pairs) and a
  clean one that is at most 5 % lower. Chosen on half of {unit}, tested on the other half, and back;
  corrected for all tests of this report, so that at most one report in twenty announces one where
  there is none. *Within 5 %* is chosen and judged likewise.
- **Compute**: env steps are the simulator's. FLOPs are those of the networks: 2 per weight and
  forward pass, a gradient counts as 3 forward passes, and masked weights count as any other,
  because masks only simulate sparsity. Physics, certificates and diagnosis are not counted;
  `benchmarks/analysis/compute_cost.py` holds the formulas.
"""
VICTIM_NOTES = {
    "deterministic": "its mean (or likeliest action)",
    "stochastic": "actions drawn from its distribution",
}
OTHERS = """\
The same agents, where the policy acts with {victim}. Its adversaries were prepared and chosen
against a policy that acts like this, and its episodes start from the same states. All other
sections, certificates of the return included, are about the {first} policy."""
# By the quantity in the table of certificates.
VALUE_NOTES = {
    "value_gap": "The tables hold the value gap too.",
    "value_gap_clipped": (
        "The rewards of this task have no a-priori bounds, so the value gap in the tables is that "
        "of the {unit}."
    ),
}
REGRETS = dict(
    zip(QUANTITIES, ("Regret terms", "Regret terms of the discounted return"), strict=True)
)
AREA = "the mean over the radii from 0 to the largest, by trapezoids"
FILM = "Dense and pruned policies"
PROVENANCE = ("command", "device", "cores", "python", "git", "versions", "programs", "stages")


INTRODUCTION = """\
What an adversary may spend decides what it finds. *Queries* are forward passes of a policy or a
critic, *gradients* those of one, *simulated* steps of the simulator, all per attacked step; *env
steps* are what the preparation of all *members* takes per victim. Seconds are of this run, per
cell, those of the preparation with its compilation. The member that a cell meets was
chosen on other episodes. *Worst for* is the share of cells, and halves of their episodes, for which
it alone was the strongest."""
CHECKS = """\
An attack that is too weak, or a policy whose gradients tell nothing, looks like robustness. What
follows would tell; a NO is repeated among the warnings with its meaning."""
PICTURE = re.compile(r"!\[.*\]\((.+)\)")


class Section(NamedTuple):
    """A heading and what is below it."""

    title: str
    lines: list[str]
    folded: bool = True  # in report.html, until a reader opens it


def heading(contents: Contents) -> str:
    """Returns the title of the report."""
    return f"What pruning does to the robustness of {contents.title}"


def text(title: str, sections: Sequence[Section], files: Sequence[str]) -> str:
    """Returns report.md; pictures that are no files beside it are left out."""
    lines = [f"# {title}", ""]
    for section in sections:
        lines += [f"## {section.title}", "", *section.lines, ""]
    found = [(line, PICTURE.fullmatch(line)) for line in lines]
    kept = [line for line, picture in found if picture is None or picture[1] in files]
    return "\n".join(kept) + "\n"


def sections(contents: Contents) -> list[Section]:
    """Returns the whole report: the verdict, its figure and its table, doubts, and the details."""
    verdict = [*_items(verdict_lines(contents)), "", _where(contents)]
    found = [
        Section("Verdict", verdict, folded=False),
        Section(
            "Return",
            _picture("Return against sparsity", "returns.png", contents.pruned),
            folded=False,
        ),
        Section("The numbers", list(_numbers(contents)), folded=False),
        Section("Warnings", _items(contents.warnings), folded=False),
        Section("What it looks like", _picture(FILM, GIF, GIF in contents.pictures), folded=False),
        Section("Each attack", list(_attacks(contents)), folded=contents.pruned),
        Section("What pruning changes under attack", list(_change(contents))),
        *_others(contents),
        Section("Against eps", list(_sweeps(contents))),
        Section("What is proved", list(_certificates(contents))),
        Section("Regret", list(_regret(contents))),
        Section(
            "Training", ["![Return while training](training.png)"] if contents.training else []
        ),
        Section("What is left of the network", list(_sparsity(contents))),
        Section("Sanity checks", list(_checks(contents))),
        Section("What the attacks cost", list(_costs(contents))),
        Section("Beside published numbers", list(_published(contents))),
        Section("How to read this", [_footnotes(contents)]),
        Section("Compute", markdown_table(*compute_rows(contents.compute))),
        Section("Provenance", _items(_provenance(contents))),
    ]
    return [section for section in found if section.lines]


def _where(contents: Contents) -> str:
    """Who made the numbers, in a line without a date."""
    described = contents.described
    radii = ", ".join(f"{eps:g}" for eps in contents.radii)
    words = [contents.size, f"eps {radii}"]
    words += [f"{' and '.join(victims(contents))} policy"]
    words += [f"on {shown(described['device'])}"] if "device" in described else []
    words += [f"jaxprune {shown(described['git'])}"] if described.get("git") else []
    return "*" + ", ".join(words) + "*"


def _items(sentences: Iterable[str]) -> list[str]:
    return [f"- {sentence}" for sentence in sentences]


def victims(contents: Contents) -> list[str]:
    """Returns how the policies acted, the first victim first."""
    return [contents.victim, *(other.victim for other in contents.others)]


def _numbers(contents: Contents) -> Iterator[str]:
    """The main table of every method and radius."""
    few = 1 < contents.seeds < SEEDS
    spread = "the range of the agents" if few else "a 95 % interval"
    yield f"Mean return per episode with {spread}. *Change*: the worst-of return of the pruned"
    yield "policies less that of the dense policies of the same seeds in the same episodes."
    if contents.seeds >= SEEDS:
        yield "The intervals of few agents are wide: an agent that was not trained could return as"
        yield "little or as much as any episode of this run."
    for panel in contents.panels:
        yield from ("", f"### {name_of(contents, panel)}", "", *markdown_table(*main_rows(panel)))


def _picture(caption: str, file: str, there: bool = True) -> list[str]:
    return [f"![{caption}]({file})"] if there else []


def _attacks(contents: Contents) -> Iterator[str]:
    """Return under each attack."""
    yield "![Return under each attack](attacks.png)"
    for panel in contents.panels:
        yield from ("", f"### Return under attack, {name_of(contents, panel)}", "")
        yield from markdown_table(*return_rows(panel))
        if len(panel.attacks) > panel.shown:
            yield from ("", f"### Every attack, {name_of(contents, panel)}", "")
            yield from markdown_table(*adversary_rows(panel))


def _change(contents: Contents) -> Iterator[str]:
    """Against the dense agents."""
    if not contents.pruned:
        return
    yield (
        "The return under each agent's worst attack, less that of the dense agents of the same "
        "seeds in the same episodes. The band holds for all sparsities, methods and radii at once. "
        "P is the share of pairs in which a pruned agent returns more than a dense one; ties count "
        "by half."
    )
    found = [panel.verdict for panel in contents.panels if panel.verdict is not None]
    yield from ("", *_items(map(details, found)))
    yield from ("", "![Change of the return under attack](change.png)")
    for panels in contents.by_radius:
        yield from ("", f"### Change, eps {panels[0].eps:g}", "")
        yield from markdown_table(*change_rows(panels))


def _others(contents: Contents) -> Iterator[Section]:
    """The victims that nothing else is about."""
    for victim, judged, costs in contents.others:
        lines = [OTHERS.format(victim=VICTIM_NOTES[victim], first=contents.victim)]
        for found in judged:
            lines += ["", f"### {found.method} as a {victim} policy, eps {found.eps:g}", ""]
            lines += markdown_table(*judged_rows(found))
        if costs:
            lines += ["", f"### What the attacks on the {victim} policy cost", ""]
            lines += markdown_table(*cost_rows(costs))
        yield Section(f"As a {victim} policy", lines)


def _sweeps(contents: Contents) -> Iterator[str]:
    """Return against eps."""
    if not contents.sweeps:
        return
    yield f"The return under the worst attack; the area is {AREA}."
    yield from ("", "![Worst-of return against eps](sweep.png)")
    for method, found in contents.sweeps.items():
        yield from ("", f"### {method} against eps", "", *markdown_table(*sweep_rows(found)))


def _certificates(contents: Contents) -> Iterator[str]:
    """Bounds, and what they say of the return."""
    yield "![What can move the policy](certificates.png)"
    for panel in contents.panels:
        proved = panel.proved
        yield from ("", f"### Bounds, {name_of(contents, panel)}", "")
        yield from (*markdown_table(*bound_rows(proved)), "")
        if proved.behaviour is not None:
            yield from ("In action units, beside what the policy does where it goes:", "")
            yield from (*markdown_table(*behaviour_rows(proved)), "")
        if proved.meaning[1]:
            yield from ("Where a monotone bound says anything:", "")
            yield from (*markdown_table(*proved.meaning, left=1), "")
        if proved.bracket is None:
            yield "No certificate bounds the return of this policy as it acted (see below)."
        else:
            yield f"Attacks show what the return is at most, certificates ({proved.bracket.bound}"
            yield "at first) what it is at least:"
            yield from ("", *markdown_table(*bracket_rows(proved.bracket)))


def _regret(contents: Contents) -> Iterator[str]:
    """Its terms."""
    yield "![Regret to the reference](regret.png)"
    for panel in contents.panels:
        for quantity, title in REGRETS.items():
            yield from ("", f"### {title}, {name_of(contents, panel)}", "")
            yield from markdown_table(*regret_rows(panel.sparsity, panel.regrets[quantity]))


def _sparsity(contents: Contents) -> Iterator[str]:
    """What is left."""
    yield "![Sparsity of each layer](layers.png)"
    for method, found in contents.remains.items():
        yield from ("", f"### What {method} leaves of the network", "")
        yield from markdown_table(*sparsity_rows(found))


def _checks(contents: Contents) -> Iterator[str]:
    if contents.checks:
        yield from (CHECKS, "", *markdown_table(*check_rows(contents.checks)))


def _costs(contents: Contents) -> Iterator[str]:
    if contents.costs:
        yield from (INTRODUCTION, "", *markdown_table(*cost_rows(contents.costs)))


def _published(contents: Contents) -> Iterator[str]:
    if (found := contents.comparison) is not None:
        yield from (found.note, "", *markdown_table(found.header, found.rows))


def _provenance(contents: Contents) -> Iterator[str]:
    for name in PROVENANCE:
        if contents.described.get(name):
            yield f"{name}: {shown(_told(contents.described[name]), MESSAGE)}"


def _footnotes(contents: Contents) -> str:
    return FOOTNOTES.format(
        unit="training seeds" if contents.seeds > 1 else "episodes of the one policy",
        warning=f" {contents.few_seeds}" if contents.few_seeds else "",
        distance=contents.units["D"],
        victim=VICTIM_NOTES[contents.victim],
        reference=", ".join(f"{dense.reference:.1f}" for dense in contents.dense),
        value=value_note(contents.units),
    )


def value_note(units: Mapping[str, str]) -> str:
    """Returns the rewards for which the value gap holds, from the units of the certificates."""
    found = [f" {n.format(unit=units[name])}" for name, n in VALUE_NOTES.items() if name in units]
    return "".join(found)


def _told(value: object) -> str:
    """A fact of experiment.json; what is named is listed."""
    if not isinstance(value, dict):
        return f"`{value}`"
    return ", ".join(f"{name} {item}" for name, item in value.items())
