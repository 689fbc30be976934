"""Result cards: what a run measured and proved about the policies of one method, as one JSON file.

python -m benchmarks.card results/RUN                              # into results/RUN/cards
python -m benchmarks.card results/RUN --out results/leaderboard    # and the page there
python -m benchmarks.card results/RUN --out results/leaderboard --check

There is a card for the dense agents, and one for each method at the sparsest that keeps its clean
return, or at --sparsity. A card is made from the tables of the run alone, so that anybody with the
run can make it again: --check does.
"""

import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from benchmarks.analysis.bounds import ATTACK_ROWS
from benchmarks.analysis.curves import Columns, Results, collect, labelled
from benchmarks.analysis.verdict import verdicts
from benchmarks.analysis.worst_case import most_common, worst_of
from benchmarks.report import html
from benchmarks.report.markdown import Section, text
from benchmarks.runtime.atomic import write_text
from benchmarks.runtime.command_line import command, read_options
from benchmarks.runtime.console import make_console
from benchmarks.runtime.guard import guarded
from benchmarks.runtime.run_folder import Json, check_finished, read_json, read_table
from benchmarks.runtime.tables import interval_text, markdown_table, plain
from jaxprune.policy_io.labels import Labels
from jaxprune.statistics import Interval
from jaxprune.validation import SPARSITY, InputError, check_ranges

FORMAT = 1
# What every card holds.
FIELDS = {
    "format": int,
    "run": str,
    "policy": dict,
    "eps": float,
    "victim": str,
    "agents": int,
    "episodes": int,
    "clean": dict,
    "worst_of": dict,
    "attacks": dict,
    "certificates": list,
    "command": str,
    "versions": dict,
    "files": dict,
}
BUDGET = ("members", "queries", "gradients", "simulated", "env_steps")
QUANTITIES = ("D", "TV", "return_floor", "discounted_return_floor")
PAGE = "README.md"
DIFFERENT = 1


@dataclass(frozen=True)
class Options:
    """Write a result card for every method of a run."""

    run: tyro.conf.Positional[Path]
    """Folder of a complete run."""
    out: Path | None = None
    """Folder of the cards, whose page is written too; default: RUN/cards."""
    sparsity: Annotated[float | None, SPARSITY] = None
    """Sparsity of the cards; default: of each method the sparsest within 5 % of clean."""
    check: bool = False
    """Write nothing: compare the cards that are there with the run."""


@guarded("nothing was written")
def main(argv: Sequence[str]) -> int:
    """The command; returns its exit status: 1 where --check finds a difference."""
    options = read_options(Options, argv, "benchmarks.card")
    check_ranges(options)
    folder = options.out or options.run / "cards"
    cards = {name_of(card): card for card in cards_of(options.run, options.sparsity)}
    console = make_console()
    if options.check:
        wrong = [name for name, card in cards.items() if not _is_there(folder / name, card)]
        for name in wrong:
            console.print(f"{folder / name} is not what {options.run} says", soft_wrap=True)
        return DIFFERENT if wrong else 0
    held = {name_of(card): card for card in read_cards(folder)} | cards
    for name, card in cards.items():
        write_text(folder / name, json.dumps(card, indent=1, allow_nan=False) + "\n")
    written = pages([held[name] for name in sorted(held)])
    for name, content in written.items():
        write_text(folder / name, content)
    console.print(f"wrote {', '.join([*cards, *written])} to {folder}", soft_wrap=True)
    return 0


# --- cards ----------------------------------------------------------------------------------------


def cards_of(path: Path, sparsity: float | None = None) -> Iterator[Json]:
    """Yields the cards of a run, a radius after the other.

    Raises:
        InputError: the run is not complete, a table is damaged, or nothing has this sparsity.
    """
    described = read_json(path / "experiment.json")
    check_finished(path, described, ".parquet")
    tables = {name: read_table(path, name) for name in ("returns", "certificates", "attacks")}
    labels, results = Labels(tables["returns"]), collect(tables["returns"])
    named = {name: labelled(table, labels) for name, table in tables.items()}
    found = 0
    for eps in results.radii:
        for label, level in _policies(results, eps, sparsity):
            found += 1
            yield {
                "format": FORMAT,
                "run": path.name,
                "policy": _policy(named["returns"], label, level, described),
                "eps": eps,
                "victim": results.victim,
                **_returns(results, label, level, eps),
                "attacks": _attacks(results, named["attacks"], label, level, eps),
                "certificates": list(_certificates(named["certificates"], label, level, eps)),
                **{name: described.get(name) for name in ("command", "versions", "git", "code")},
                "files": {k: v for k, v in described["files"].items() if k.endswith(".parquet")},
            }
    if not found:
        levels = sorted(set(tables["returns"]["sparsity"].tolist()))
        told = ", ".join(f"{level:g}" for level in levels)
        raise InputError(f"{path} has no policy of sparsity {sparsity}: choose from {told}")


def _policies(results: Results, eps: float, sparsity: float | None) -> Iterator[tuple[str, float]]:
    """Yields labels of curves, with a sparsity of each; the unpruned agents first."""
    for label in dict.fromkeys(results.dense_of.values()):
        if not sparsity:
            yield label, 0.0
    for (label, radius), verdict in verdicts(results).items():
        level = verdict.within_clean.sparsity if sparsity is None else sparsity
        if radius == eps and level and level in results.clean(label).sparsity:
            yield label, float(level)


def _policy(returns: Columns, label: str, level: float, described: Json) -> Json:
    rows = (returns["method"] == label) & (returns["sparsity"] == level)
    first = {name: returns[name][rows][0] for name in ("env", "backend", "regime", "allocation")}
    settings = described["settings"]
    return {
        "task": first["env"],
        "backend": first["backend"],
        "label": label,
        "regime": first["regime"],
        "allocation": first["allocation"],
        "mode": returns["mode"][rows][0],
        "sparsity": level,
        "sparsity_achieved": float(returns["sparsity_achieved"][rows].mean()),
        "seeds": np.unique(returns["seed"][rows]).tolist(),
        "agents_sha256": described["files"].get("agents"),
        "policy_sha256": settings.get("policy_sha256"),
    }


def _returns(results: Results, label: str, level: float, eps: float) -> Json:
    clean, worst = results.clean(label), worst_of(results, label, eps)
    at = int(np.flatnonzero(clean.sparsity == level)[0])
    return {
        "agents": len(clean.returns),
        "episodes": clean.returns.shape[-1],
        "clean": _interval(results.interval(clean), at),
        "worst_of": _interval(results.interval(worst.curve), at)
        | {"attack": most_common(worst.chosen[:, at])},
    }


def _attacks(results: Results, attacks: Columns, label: str, level: float, eps: float) -> Json:
    """Returns every attack with the mean return under it and what it spent."""
    found = {}
    for curve in results.attacked(label, eps):
        rows = np.flatnonzero(
            (attacks["method"] == label)
            & (attacks["sparsity"] == level)
            & (attacks["attack"] == curve.attack)
            & (attacks["eps"] == eps)
            & (attacks["victim"] == results.victim)
        )
        at = int(np.flatnonzero(curve.sparsity == level)[0])
        budget = {name: int(attacks[name][rows[0]]) for name in BUDGET}
        found[curve.attack] = {"mean": float(curve.returns[:, at].mean()), **budget}
    return found


def _certificates(certificates: Columns, label: str, level: float, eps: float) -> Iterator[Json]:
    """Yields every statement, the mean over the agents."""
    rows = (certificates["method"] == label) & (certificates["sparsity"] == level)
    rows &= (certificates["eps"] == eps) & (certificates["bound"] != ATTACK_ROWS)
    rows &= np.isin(certificates["quantity"], QUANTITIES) & np.isfinite(certificates["confidence"])
    names = ("bound", "quantity", "scope", "unit", "confidence", "monotone")
    keys = list(zip(*(certificates[name][rows].tolist() for name in names), strict=True))
    values = certificates["value"][rows]
    for key in dict.fromkeys(keys):
        value = float(np.mean([v for v, k in zip(values, keys, strict=True) if k == key]))
        yield dict(zip(names, key, strict=True)) | {"value": value}


def _interval(interval: Interval, at: int) -> dict[str, float | None]:
    found = {name: float(x[at]) for name, x in interval._asdict().items()}
    return {name: x if math.isfinite(x) else None for name, x in found.items()}


def name_of(card: Json) -> str:
    """Returns the name of the file of a card."""
    policy = card["policy"]
    words = [card["run"], policy["label"], f"{policy['sparsity']:g}", f"eps{card['eps']:g}"]
    return "_".join(word.replace(" ", "-").replace("/", "-") for word in words) + ".json"


# --- the page -------------------------------------------------------------------------------------


def read_cards(folder: Path) -> list[Json]:
    """Returns the cards of a folder.

    Raises:
        InputError: a file is no card.
    """
    return [_read_card(path) for path in sorted(folder.glob("*.json"))]


def _read_card(path: Path) -> Json:
    """Returns one card.

    Raises:
        InputError: it is none, or of another format.
    """
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise InputError(f"{path} is no card: write it with {command('card', 'RUN')}") from None
    known = isinstance(card, dict) and card.get("format") == FORMAT
    wrong = [
        name for name, kind in FIELDS.items() if not known or not isinstance(card.get(name), kind)
    ]
    if wrong:
        raise InputError(
            f"{path} is no card of format {FORMAT} (see {wrong[0]!r}): write it with "
            f"{command('card', 'RUN')}"
        )
    return card


def _is_there(path: Path, card: Json) -> bool:
    """Whether a file holds this card, to rounding."""
    return path.exists() and _alike(_read_card(path), json.loads(json.dumps(card)))


def _alike(a: object, b: object) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_alike(a[name], b[name]) for name in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_alike, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9)
    return a == b


def pages(cards: Sequence[Json]) -> dict[str, str]:
    """Returns the pages of a folder of cards by file name, the same in Markdown and in HTML."""
    title, sections = "Leaderboard", list(_sections(cards))
    return {PAGE: text(title, sections, ()), "index.html": html.page(title, sections, {}, {})}


def _sections(cards: Sequence[Json]) -> Iterator[Section]:
    """Yields how to read the tables, and a table per task, the most robust first."""
    yield Section("How to read it", list(INTRODUCTION), folded=False)
    for task in sorted({card["policy"]["task"] for card in cards}):
        of_task = [card for card in cards if card["policy"]["task"] == task]
        ordered = sorted(of_task, key=lambda card: (card["eps"], -card["worst_of"]["mean"]))
        table = markdown_table(HEADER, map(_row, ordered), left=4)
        yield Section(plain(task), table, folded=False)


INTRODUCTION = (
    "One row per card: the policies of one method at one sparsity, the most robust first. *Worst",
    "of* is the return under the strongest of the attacks, chosen on other episodes. Brackets are",
    "95 % intervals over the agents. Rows compare only at equal eps, and a battery with fewer",
    "attacks, or with smaller budgets, makes a policy look more robust: see the cards.",
    "",
    "To hand in a card: `jaxprune card results/RUN --out results/leaderboard` writes the cards of",
    "a complete run and this page. Commit them with the tables of the run (all but `agents/`) in",
    "`results/reference/RUN` (those of the study are in `results/study`); with `--check` anybody",
    "can compute them again.",
)
HEADER = (
    "method",
    "backend",
    "run",
    "strongest",
    "sparsity",
    "eps",
    "attacks",
    "clean",
    "worst of",
)


def _row(card: Json) -> list[str]:
    policy = card["policy"]
    name, regime = policy["label"], policy["regime"]
    if policy["policy_sha256"] is None and not name.startswith(f"{regime} "):
        name = f"{regime} {name}"  # trained in a run of one regime
    name += " (dense)" if policy["mode"] == "dense" else ""
    words = [plain(x) for x in (name, policy["backend"], card["run"], card["worst_of"]["attack"])]
    numbers = [f"{policy['sparsity']:g}", f"{card['eps']:g}", str(len(card["attacks"]))]
    returns = [[card[name][x] for x in Interval._fields] for name in ("clean", "worst_of")]
    return [*words, *numbers, *(interval_text(Interval(*x)) for x in returns)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
