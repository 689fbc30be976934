"""The sentences of a report, from made-up verdicts: each sort of run has the right words."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.analysis.verdict import Choice, Measured, Naive, SweetSpot, Verdict
from benchmarks.report.contents import Contents, gather
from benchmarks.report.findings import (
    details,
    free,
    name_of,
    number,
    percent,
    under_attack,
    verdict_lines,
)
from jaxprune.statistics import Interval
from tests.benchmarks.made_up import DENSE, LOSS, write_run

NOTHING = Naive(0.0, 0.0)


def measured(mean: float) -> Measured:
    return Measured(Interval(mean, mean - 1, mean + 1), np.full(6, mean))


def choice(sparsity: float, attacked: float = 790) -> Choice:
    found = measured(0)
    return Choice((sparsity,) * 2, found, measured(attacked), found, found, found, found)


def spot(*sparsities: float, tested: bool = True, share: float = 0.18, naive: Naive = NOTHING):
    best = choice(0.2)._replace(attacked_change=measured(140))
    return SweetSpot(tested, sparsities, 0.01, best, 1000 * share, share, 0.01, naive)


def verdict(**changes: Any) -> Verdict:
    """The example of the issue that asked for these sentences."""
    made = Verdict(
        method="magnitude",
        eps=0.1,
        unit="agents",
        replicates=6,
        attacks=5,
        strongest_dense="director",
        strongest_pruned="director",
        dense_clean=measured(2000),
        dense_attacked=measured(812),
        within_clean=choice(0.2),
        within_attacked=choice(0.1),
        sweet_spot=spot(),
        refuted=False,
        alone={"mad": spot(naive=Naive(0.4, 200.0))},
    )
    return made._replace(**changes)


def told(**changes: Any) -> str:
    made = verdict(**changes)
    return " ".join([free(made), *under_attack(made)])


def test_the_example_of_the_issue():
    assert told() == (
        "magnitude: 20 % of the weights can go within 5 % of the clean return (6 agents). Under "
        "the strongest of five attacks (director) the dense policies return 812, these 790: no "
        "sweet spot at this power; a gain of 18 % would have been found. Under MAD alone there "
        "would be none either. Chosen and reported on the same agents without a test, there would "
        "seem to be one at 40 % under MAD alone."
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"within_clean": choice(0)._replace(sparsities=(0.0, 0.8))},
            "magnitude: no part or 80 % (halves of the sample disagree) of the weights can go",
        ),
        ({"within_clean": choice(0)}, "magnitude: no part of the weights can go within 5 %"),
        ({"within_clean": choice(0)}, "the dense policies return 812: no sweet spot"),
        ({"unit": "episodes", "replicates": 128}, "(one agent, 128 episodes)"),
        ({"sweet_spot": spot(tested=False)}, "790: too few agents to test for a sweet spot."),
        ({"sweet_spot": spot(share=np.inf)}, "at this power, which could not have found any."),
        ({"sweet_spot": spot(0.3)}, "a sweet spot at 30 %, where pruned policies return 140 more"),
        ({"sweet_spot": spot(0.2, 0.3, 0.5)}, "a sweet spot between 20 % and 50 %"),
        ({"strongest_pruned": "mad"}, "(director on dense, mad on pruned policies)"),
        ({"strongest_dense": "tie", "strongest_pruned": "tie"}, "(several alike) the dense"),
        (
            {"within_clean": choice(0.2)._replace(sparsities=(0.2, 0.4))},
            "812, those with 20 % to 40 % removed 790:",
        ),
        ({"alone": {"mad": spot(0.4)}}, "Under MAD alone there would be one at 40 %."),
        ({"alone": {"mad": spot()}}, "Under MAD alone there would be none either."),
        (
            {"sweet_spot": spot(naive=Naive(0.3, 9.0))},
            "one at 40 % under MAD alone and at 30 % under the strongest attack.",
        ),
        ({"sweet_spot": spot(0.3), "alone": {"mad": spot()}}, "MAD alone there would be none."),
        # A test of a gain is of no use where a clean loss cannot be excluded.
        (
            {"sweet_spot": spot()._replace(resolvable_loss=0.104)},
            "of 18 % would be seen, and a clean loss of less than 10 % could not be excluded.",
        ),
        (
            {"within_clean": choice(0.2)._replace(clean=measured(100), dense_clean=measured(2000))},
            "(6 agents; the half that did not choose it lost more).",
        ),
        # 5 % of a negative return: an amount, because a share of it confuses
        (
            {"dense_clean": measured(-200)},
            "20 % of the weights can go with a clean return at most 10 below the dense -200",
        ),
        ({"refuted": True}, "no sparsity adds 10 % and keeps the clean return. Under MAD alone"),
        ({"sweet_spot": spot(share=0.004)}, "a gain of less than 1 % would have been found"),
        ({"dense_attacked": measured(-900)}, "a gain of 180 would have been found"),
    ],
)
def test_each_sort_of_run_has_its_words(changes: dict[str, Any], words: str):
    assert words in told(**changes)


def test_a_single_attack_has_no_strongest_and_is_not_compared_with_itself():
    words = told(attacks=1, strongest_dense="mad", strongest_pruned="mad")
    assert "Under MAD (PGD on KL) the dense policies return 812, these 790" in words
    assert "alone" not in words


def test_details_are_about_the_attacked_return_and_the_test():
    assert details(verdict()) == (
        "magnitude, eps 0.1: 10 % of the weights can go within 5 % of the attacked return. The "
        "best candidates for a sweet spot, 20 %, change it by 140 [139, 141] (p = 0.01 after "
        "correction)."
    )
    assert "sweet spot" not in details(verdict(sweet_spot=spot(tested=False)))


def test_numbers_in_words():
    assert [number(n) for n in (0, 1, 5, 10, 26)] == ["no", "one", "five", "ten", "26"]
    assert [percent(x) for x in (0.05, 0.333, 1)] == ["5 %", "33.3 %", "100 %"]


# --- of whole runs --------------------------------------------------------------------------------


def of_run(path: Path, **settings: Any) -> Contents:
    return gather(write_run(path / "run", **settings).path)


def test_a_group_of_sentences_per_method_with_every_radius(tmp_path: Path):
    contents = of_run(
        tmp_path, methods=("magnitude", "random"), attacks=("mad", "rs"), radii=(0.1, 0.2), seeds=6
    )
    found = list(verdict_lines(contents))
    assert [line.split(":")[0] for line in found] == ["magnitude", "random"]
    for line in found:
        assert line.count("within 5 %") == 1
        assert line.index("At eps 0.1: Under") < line.index("At eps 0.2: Under")
    names = [name_of(contents, panel) for panel in contents.panels]
    assert names == [f"{m}, eps {e}" for e in (0.1, 0.2) for m in ("magnitude", "random")]


def test_several_victims_say_which_one_the_verdict_is_about(tmp_path: Path):
    contents = of_run(tmp_path, victims=("deterministic", "stochastic"))
    assert next(verdict_lines(contents)) == "This verdict is about the deterministic policies."


def test_a_run_without_pruning_says_what_its_policies_do(tmp_path: Path):
    contents = of_run(tmp_path, methods=(), attacks=("mad", "rs"))
    clean = DENSE + 1  # of three seeds
    assert list(verdict_lines(contents)) == [
        f"dense: nothing was pruned. The policies return {clean:.0f} without an attack, "
        f"{clean - LOSS:.0f} under the strongest of two attacks (several alike)."
    ]
    assert name_of(contents, contents.panels[0]) == "dense"
