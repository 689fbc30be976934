"""What a report says and in which order, as lines of Markdown: one text for all its forms.

A line that is a picture, `![caption](file.png)`, is an interactive chart in report.html, and stays
in report.md where there is such a file.
"""

from collections.abc import Iterator, Mapping

from benchmarks.report.contents import GIF, QUANTITIES, Contents, Dense, Panel
from benchmarks.report.findings import headlines, preface
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
    regret_rows,
    return_rows,
    sparsity_rows,
    sweep_rows,
)
from benchmarks.runtime.tables import interval_text, markdown_table
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
PROVENANCE = ("command", "device", "cores", "python", "git", "versions", "programs", "stages")


def lines(contents: Contents) -> Iterator[str]:
    """The whole report."""
    yield from (f"# What pruning does to the robustness of {contents.title}", "")
    yield from (_where(contents), "")
    findings = [*preface(contents), *_dense(contents), *headlines(contents)]
    yield from _list("Findings", findings)
    yield from _list("Warnings", contents.warnings)
    yield from _returns(contents)
    if contents.pruned:
        yield from _worst(contents)
    if GIF in contents.pictures:
        yield from ("## What it looks like", "", f"![Dense and pruned policies]({GIF})", "")
    yield from _others(contents)
    yield from _certificates(contents)
    yield from _regret(contents)
    if contents.training:
        yield from ("## Training", "", "![Return while training](training.png)", "")
    yield from _sparsity(contents)
    yield from sections(contents)
    yield from _published(contents)
    yield from ("## How to read this", "", _footnotes(contents))
    yield from ("## Compute", "", *markdown_table(*compute_rows(contents.compute)), "")
    described = contents.described
    facts = [
        f"{name}: {shown(_told(described[name]), MESSAGE)}"
        for name in PROVENANCE
        if described.get(name)
    ]
    yield from _list("Provenance", facts)


def _where(contents: Contents) -> str:
    """Who made the numbers, in a line without a date."""
    described = contents.described
    radii = ", ".join(f"{eps:g}" for eps in contents.radii)
    words = [f"{contents.seeds} seed{'s' if contents.seeds > 1 else ''}", f"eps {radii}"]
    words += [f"{' and '.join(victims(contents))} policy"]
    words += [f"on {shown(described['device'])}"] if "device" in described else []
    words += [f"jaxprune {shown(described['git'])}"] if described.get("git") else []
    return "*" + ", ".join(words) + "*"


def _list(title: str, items: list[str]) -> list[str]:
    return [f"## {title}", "", *(f"- {item}" for item in items), ""] if items else []


def _dense(contents: Contents) -> Iterator[str]:
    for dense in contents.dense:
        alone = len(contents.dense) == 1
        called = "Dense" if alone else f"Dense ({dense.name.removesuffix(' none')})"
        yield f"{called}, clean: {interval_text(dense.clean)}."
        if contents.others:
            worst = [f"at eps {x:g} {_dense_worst(contents, dense, x)}" for x in contents.radii]
            yield f"{called}, under the worst adversary of each: {'; '.join(worst)}."


def _dense_worst(contents: Contents, dense: Dense, eps: float) -> str:
    """The worst-of return, victim by victim."""
    found = zip(dense.worst[eps], victims(contents), strict=True)
    return ", ".join(f"{interval_text(x)} as a {victim} policy" for x, victim in found)


def victims(contents: Contents) -> list[str]:
    """Returns how the policies acted, the first victim first."""
    return [contents.victim, *(other.victim for other in contents.others)]


def _each(title: str, panel: Panel) -> list[str]:
    return [f"### {title} of {panel.method}, eps = {panel.eps:g}", ""]


def _returns(contents: Contents) -> Iterator[str]:
    yield from ("## Return under attack", "", "![Return against sparsity](returns.png)", "")
    for panel in contents.panels:
        yield from _each("Returns", panel)
        yield from (*markdown_table(*return_rows(panel)), "")


def _worst(contents: Contents) -> Iterator[str]:
    """Against the dense agents."""
    yield from ("## The worst of all adversaries", "")
    yield from ("![Return under each agent's worst adversary](worst.png)", "")
    yield (
        "What pruning changes: the return under each agent's worst adversary, less that of the "
        "dense agents of the same seeds on the same episodes. The band holds at all sparsities, "
        "for all methods and radii at once; P is the share of pairs in which a pruned agent does "
        "better than a dense one, ties by half."
    )
    yield from ("", "![Change to the dense agents](change.png)", "")
    for panels in contents.by_radius:
        yield from (f"### Change to the dense agents, eps = {panels[0].eps:g}", "")
        yield from (*markdown_table(*change_rows(panels)), "")


def _others(contents: Contents) -> Iterator[str]:
    """The victims that nothing else is about."""
    for victim, judged, costs in contents.others:
        yield from (f"## As a {victim} policy", "")
        yield OTHERS.format(victim=VICTIM_NOTES[victim], first=contents.victim)
        yield ""
        for found in judged:
            yield from (f"### {found.method} as a {victim} policy, eps = {found.eps:g}", "")
            yield from (*markdown_table(*judged_rows(found)), "")
        if costs:
            yield from (f"### What the adversaries of the {victim} policy cost", "")
            yield from (*markdown_table(*cost_rows(costs)), "")


def _certificates(contents: Contents) -> Iterator[str]:
    yield from ("## Certificates", "", "![What can move the policy](certificates.png)", "")
    for panel in contents.panels:
        yield from _each("Certificates", panel)
        yield from (*markdown_table(*bound_rows(panel)), "")
        if panel.behaviour is not None:
            yield from ("In action units, beside what the policy does where it goes:", "")
            yield from (*markdown_table(*behaviour_rows(panel)), "")
        if panel.meaning[1]:
            yield from ("Where a monotone bound says anything:", "")
            yield from (*markdown_table(*panel.meaning, left=1), "")
        found = panel.bracket
        if found is None:
            yield "No certificate bounds the return of this policy as it acted (see below)."
        else:
            yield (
                f"Where the attacked return is, by attack and certificate ({found.bound} at first):"
            )
            yield from ("", *markdown_table(*bracket_rows(found)))
        yield ""


def _regret(contents: Contents) -> Iterator[str]:
    yield from ("## Regret", "", "![Regret to the reference](regret.png)", "")
    for panel in contents.panels:
        for quantity, title in REGRETS.items():
            yield from _each(title, panel)
            rows = regret_rows(panel.sparsity, panel.regrets[quantity])
            yield from (*markdown_table(*rows), "")


def _sparsity(contents: Contents) -> Iterator[str]:
    yield from ("## What is left of the network", "", "![Sparsity by layer](layers.png)", "")
    for method, found in contents.remains.items():
        yield from (f"### What {method} leaves of the network", "")
        yield from (*markdown_table(*sparsity_rows(found)), "")


def _published(contents: Contents) -> Iterator[str]:
    found = contents.comparison
    if found is not None:
        yield from ("## Beside published numbers", "", found.note, "")
        yield from (*markdown_table(found.header, found.rows), "")


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


INTRODUCTION = """\
What an adversary may spend decides what it finds. *Queries* are forward passes of a policy or a
critic, *gradients* those of one, *simulated* steps of the simulator, all per attacked step; *env
steps* are what the preparation of all *members* takes per victim. Seconds are of this run, per
cell, those of the preparation with what was not compiled ahead. The member that a cell meets was
chosen on other episodes. *Worst for* is the share of cells, and halves of their
episodes, for which it alone was the strongest."""
CHECKS = """\
An attack that is too weak, or a policy whose gradients tell nothing, looks like robustness. What
follows would tell; a NO is repeated among the warnings with its meaning."""


def sections(contents: Contents) -> Iterator[str]:
    """Yields the sections about the adversaries, as lines of Markdown."""
    if contents.sweeps:
        yield from ("## Against eps", "")
        yield from (f"Worst-of return; the area is {AREA}.", "")
        yield from ("![Worst-of return against eps](sweep.png)", "")
        for method, found in contents.sweeps.items():
            yield from (f"{method}:", "", *markdown_table(*sweep_rows(found)), "")
    if contents.checks:
        yield from ("## Sanity checks", "", CHECKS, "")
        yield from (*markdown_table(*check_rows(contents.checks)), "")
    for panel in (panel for panels in contents.by_method.values() for panel in panels):
        if len(panel.attacks) > panel.shown:
            yield from (f"## Every adversary of {panel.method}, eps = {panel.eps:g}", "")
            yield from (*markdown_table(*adversary_rows(panel)), "")
    if contents.costs:
        yield from ("## What the adversaries cost", "", INTRODUCTION, "")
        yield from (*markdown_table(*cost_rows(contents.costs)), "")
