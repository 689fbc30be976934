"""What a report says in words, what it counts, and what it is compared with."""

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from benchmarks.analysis import worst_case
from benchmarks.analysis.compute_cost import compute, total
from benchmarks.analysis.curves import Results, collect, victims
from benchmarks.analysis.published import OURS, STRONGEST, compare, published
from benchmarks.report.contents import Contents, gather, warnings
from benchmarks.report.findings import verdict_lines
from benchmarks.report.markdown import sections
from benchmarks.report.write import write_report
from benchmarks.runtime.run_folder import RunFolder, read_table
from jaxprune.ppo.robust import STEPS
from tests.benchmarks.made_up import (
    DENSE,
    EPISODES,
    LEVELS,
    LOSS,
    NOISE,
    SETTINGS,
    SIZES,
    write_run,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seeds; the learned attack has two members; the published radius of Hopper."""
    path = tmp_path_factory.mktemp("contents") / "run"
    return write_run(path, "gym/Hopper-v4", attacks=("mad", "rs"), radii=(0.075, 0.2)).path


@pytest.fixture(scope="module")
def contents(folder: Path) -> Contents:
    return gather(folder)


def test_every_worst_case_is_evaluated_once(both: Path, monkeypatch: pytest.MonkeyPatch):
    """Of two methods, two radii and two victims, for all that the report holds."""
    evaluated, evaluate = [], worst_case._evaluated

    def counting(results: Results, method: str, eps: float) -> worst_case.Worst:
        evaluated.append((results.victim, method, eps))
        return evaluate(results, method, eps)

    monkeypatch.setattr(worst_case, "_evaluated", counting)
    write_report(RunFolder(both, SETTINGS), Console(quiet=True))
    assert len(evaluated) == len(set(evaluated)) == 8


# --- words ----------------------------------------------------------------------------------------


def test_the_difference_to_dense_agents_is_paired(contents: Contents):
    """Seeds and episodes drop out of it, so that nothing is left but what pruning does."""
    for panel in contents.panels:
        expected = -DENSE * np.array(LEVELS)
        np.testing.assert_allclose(panel.change.seeds, np.tile(expected, (3, 1)), atol=1e-3)
        assert not panel.change.interval.available.any()
        np.testing.assert_allclose(panel.dense_worst.mean, DENSE - 10 * LOSS * panel.eps + 1)


def test_too_few_seeds_are_a_warning(contents: Contents):
    assert contents.few_seeds == (
        "The run has 3 agents, and a statement about a method needs at least 5: use --seeds 10."
    )
    assert contents.few_seeds in contents.warnings
    assert not contents._replace(seeds=5).few_seeds
    assert not contents._replace(seeds=1, regime="file").few_seeds


def test_all_forms_of_the_report_hold_the_verdict_in_their_order(folder: Path, contents: Contents):
    console = Console(width=1000, highlight=False)
    with console.capture() as printed:
        write_report(RunFolder(folder, SETTINGS), console)
    text, html = ((folder / f"report.{kind}").read_text() for kind in ("md", "html"))
    found = list(verdict_lines(contents))
    for line in found:
        assert f"- {line}\n" in text
        assert line in printed.get()
    assert printed.get().strip().endswith(found[-1])
    order = ["Verdict", "Return", "The numbers", "Warnings", "Each attack", "How to read this"]
    assert re.findall("\n## (.*)\n", text)[:5] == order[:5]
    for before, now in pairwise(order):
        assert html.index(f"<h2>{before}</h2>") < html.index(f"<h2>{now}</h2>")
    assert "<summary><h2>Each attack</h2></summary>" in html
    assert "| training | 1,800 | 5.4e+06 |" in text
    assert '<td style="text-align:right">5.4e+06</td>' in html
    assert "](change.png)" not in text and "](returns.png)" in text
    assert not list(folder.glob(".*"))


def test_the_terminal_shows_five_columns_in_eighty_characters(folder: Path, contents: Contents):
    console = Console(width=80, highlight=False)
    with console.capture() as printed:
        write_report(RunFolder(folder, SETTINGS), console)
    lines = printed.get().splitlines()
    (header, _) = (line for line in lines if line.startswith("┃"))
    names = [name.strip() for name in header.strip("┃").split("┃")]
    assert names == ["sparsity", "clean", "MAD", "worst of 2 attacks", "change"]
    rows = [line for line in lines if line.startswith("│")]
    assert len(rows) == len(contents.panels) * len(LEVELS)
    assert max(map(len, lines)) <= 80
    assert not any("…" in line for line in lines)


# --- compute --------------------------------------------------------------------------------------


def test_compute_follows_its_formulas(folder: Path):
    names = ("returns", "training", "attacks", "sparsity")
    tables = [read_table(folder, name) for name in names]
    stages = {stage.name: stage for stage in compute(*tables, SETTINGS)}
    actor, critic = SIZES["actor"], SIZES["critic"]
    cells = 3 * (1 + len(LEVELS))

    training = stages["training"]
    assert training.env_steps == 3 * 600  # the last iteration of each of three seeds
    assert training.flops == 1800 * (2 + 3 * 6) * (actor + critic)
    learning = stages["learning adversaries"]
    assert learning.env_steps == cells * 1000  # one preparation serves both radii
    assert learning.flops == cells * 1000 * (2 * actor + 2 * 2 * 6 * critic)  # two members
    choosing = stages["choosing their members"]
    assert choosing.env_steps == cells * 2 * 2 * (3 * 3 + 2) * 20  # three rounds of 3, finalists 2
    assert choosing.flops == choosing.env_steps * 2 * actor * (3 + 7 + 150)
    evaluation, episodes = stages["evaluation"], cells * EPISODES
    assert evaluation.env_steps == episodes * 20 * 5
    assert evaluation.flops == episodes * 20 * 2 * actor * (3 + 4 * (3 + 7 + 150))
    assert total(list(stages.values())).env_steps == sum(s.env_steps for s in stages.values())


def test_the_regulariser_of_sa_ppo_is_counted(folder: Path):
    names = ("returns", "training", "attacks", "sparsity")
    returns, training, attacks, sparsity = (read_table(folder, name) for name in names)
    robust = training | {"regime": np.array(["sa_ppo"] * len(training["regime"]), object)}
    settings = SETTINGS | {"ppo": {"epochs": 3, "regulariser": "pgd"}}
    plain, sa = (
        compute(returns, table, attacks, sparsity, settings)[0] for table in (training, robust)
    )
    assert sa.flops - plain.flops == 1800 * 3 * (STEPS + 1) * 6 * SIZES["actor"]


def test_what_cannot_be_known_is_said(folder: Path):
    returns, sparsity = (read_table(folder, name) for name in ("returns", "sparsity"))
    (only,) = compute(returns, {}, {}, sparsity, {})
    assert only.name == "evaluation" and np.isnan(only.flops)


# --- published numbers ----------------------------------------------------------------------------


def test_every_published_attack_has_one_of_ours():
    assert {row.task for row in published()} == {"hopper", "walker2d", "halfcheetah", "ant"}
    assert {row.attack for row in published()} == {*OURS, STRONGEST}
    assert all(row.source for row in published())


def test_published_numbers_of_the_task_and_radius(folder: Path):
    results = collect(read_table(folder, "returns"))
    found = compare(results, "gym/Hopper-v4")
    assert found is not None
    rows = {row[0]: dict(zip(found.header, row, strict=True)) for row in found.rows}
    assert rows["natural"]["ppo (SA-MDP)"] == "3168 +- 542"
    assert rows["natural"]["here, dense"] == "1001"
    assert rows["mad"]["here, dense"] == "mad: 926"
    assert rows["rs"]["here, dense"] == "rs: 926"
    assert rows["rs_mad"]["here, dense"] == ""
    assert rows["strongest"]["here, dense"] == "worst of: 926"
    assert "the models, rewards and endings of the published ones" in found.note


def test_at_another_radius_only_clean_returns_compare(folder: Path):
    results = collect(read_table(folder, "returns"))
    found = compare(results, "walker2d")
    assert found is not None
    assert [row[0] for row in found.rows] == ["natural"]
    assert "give --eps 0.05" in found.note
    assert "The task is Brax's own" in found.note
    halfcheetah = compare(results, "gym/HalfCheetah-v5")
    assert halfcheetah is not None and "Version 5" in halfcheetah.note
    assert compare(results, "cartpole") is None


# --- several victims ------------------------------------------------------------------------------

BOTH = ("deterministic", "stochastic")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of `folder`, with policies that act in two ways."""
    path = tmp_path_factory.mktemp("victims") / "run"
    attacks, radii = ("mad", "rs"), (0.075, 0.2)
    return write_run(path, "gym/Hopper-v4", attacks=attacks, radii=radii, victims=BOTH).path


def test_all_but_one_section_is_about_the_first_victim(both: Path, contents: Contents):
    told, expected = ({s.title: s.lines for s in sections(e)} for e in (gather(both), contents))
    del told["As a stochastic policy"], told["Compute"], expected["Compute"]
    first, *verdict = told["Verdict"]
    assert first == "- This verdict is about the deterministic policies."
    verdict[-1] = verdict[-1].replace("deterministic and stochastic", "deterministic")
    assert told | {"Verdict": verdict} == expected


def test_another_victim_has_its_tables(both: Path):
    """NOISE lower without an adversary, twice that with one, on the episodes that judge."""
    contents = gather(both)
    (other,) = contents.others
    assert other.victim == "stochastic"
    assert [(x.method, x.eps) for x in other.judged] == [("magnitude", 0.075), ("magnitude", 0.2)]
    (found,) = [s for s in sections(contents) if s.title == "As a stochastic policy"]
    section = "\n".join(found.lines)
    assert "actions drawn from its distribution" in section
    for eps in (0.075, 0.2):
        title = f"### magnitude as a stochastic policy, eps {eps:g}\n"
        rows = section.split(title)[1].strip().split("\n\n")[0].splitlines()
        assert rows[0] == "| sparsity | clean | worst of | mad | rs |"
        for row, level in zip(rows[2:], LEVELS, strict=True):
            clean = DENSE * (1 - level) - NOISE + 1  # the mean over the seeds
            attacked = clean - NOISE - 10 * LOSS * eps
            told = [cell.split("(")[0].strip() for cell in row.strip("|").split("|")]
            assert told == [f"{level:g}", f"{clean:.0f}", *[f"{attacked:.0f}"] * 3]
    cost = section.split("### What the attacks on the stochastic policy cost\n")[1]
    mean = DENSE * (1 - np.mean([0, *LEVELS])) + 1 - 2 * NOISE - 10 * LOSS * 0.2  # of 5 x 3 cells
    assert f"| rs | 0.2 | Robust Sarsa | {mean:.0f} |" in cost


def test_all_forms_of_the_report_hold_every_victim(both: Path):
    write_report(RunFolder(both, SETTINGS), Console(quiet=True))
    text, html = ((both / f"report.{kind}").read_text() for kind in ("md", "html"))
    assert "## As a stochastic policy\n" in text and "As a stochastic policy</h2>" in html


def test_compute_counts_every_victim(both: Path, folder: Path):
    names = ("returns", "training", "attacks", "sparsity")
    ours, theirs = (
        {s.name: s for s in compute(*(read_table(x, name) for name in names), SETTINGS)}
        for x in (both, folder)
    )
    for name in ours:
        times = 1 if name == "training" else 2
        assert ours[name].env_steps == times * theirs[name].env_steps
        assert ours[name].flops == pytest.approx(times * theirs[name].flops)


def test_a_warning_names_the_victim_that_is_not_the_first(both: Path):
    """The policy diverges once as each, and an attack beyond a bound is wrong for any."""
    returns, training, certificates = (
        read_table(both, name) for name in ("returns", "training", "certificates")
    )
    at = (returns["method"] == "none") & (returns["attack"] == "mad") & (returns["eps"] == 0.2)
    at &= (returns["seed"] == 0) & (returns["episode"] == 0)
    beyond = np.where(at & (returns["victim"] == "stochastic"), 99.0, returns["distance"])
    returns |= {"diverged": at, "distance": beyond}
    first, other = (collect(returns, name) for name in victims(returns))
    diverged, wrong = warnings(first, returns, training, certificates, [other])
    assert "(dense, mad at eps 0.2: 1; dense, mad at eps 0.2, stochastic policy: 1)" in diverged
    assert wrong.startswith("mad exceeds path for none at eps 0.2: ")
