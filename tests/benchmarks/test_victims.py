"""Policies that act in several ways in one run: each as in a run of its own, by one program."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from benchmarks.experiment.design import expand
from benchmarks.experiment.plan import learned, make_plan
from benchmarks.runtime.schemas import SCHEMAS
from benchmarks.stages import attack, pipeline
from benchmarks.stages.results import Results
from tests.benchmarks.blocks import BLOCKS, ENV
from tests.policies import drawn_policy
from tests.quiet import quiet_work

DETERMINISTIC, STOCHASTIC = BLOCKS.victim
BOTH = replace(BLOCKS, eps=(0.1, 0.2))
PLAYED = ("returns", "attacks")  # tables with rows of every victim


class Runs(NamedTuple):
    """Tables of the run of both victims, and of a run of each."""

    both: Results
    alone: dict[str, Results]
    prepared_for: list[bool]  # whether the victim drew its actions, in the run of both


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    original, prepared_for = attack.prepared, []

    def counting(attack, victims):
        if attack.prepare is not None:
            prepared_for.append(victims.stochastic)
        return original(attack, victims)

    def run(*names: str) -> Results:
        work = quiet_work(tmp_path_factory.mktemp("-".join(names)))
        return pipeline.run(expand(replace(BOTH, victim=names)), ENV, None, work)

    attack.prepared = counting
    try:
        both = run(*BOTH.victim)
    finally:
        attack.prepared = original
    return Runs(both, {name: run(name) for name in BOTH.victim}, prepared_for)


@pytest.mark.parametrize("victim", BOTH.victim)
def test_the_rows_of_a_victim_are_those_of_its_own_run(runs: Runs, victim: str):
    for name in PLAYED:
        table, alone = (x.tables[name] for x in (runs.both, runs.alone[victim]))
        assert set(table) == set(SCHEMAS[name].names)
        for column, values in alone.items():
            np.testing.assert_array_equal(table[column][table["victim"] == victim], values)
    returns = runs.both.tables["returns"]["return"]
    first = runs.both.tables["returns"]["victim"] == victim
    assert not np.array_equal(returns[first], returns[~first])


def test_everything_else_is_about_the_first_victim(runs: Runs):
    for name in runs.both.tables.keys() - {*PLAYED, "seconds"}:
        table, alone = (x.tables[name] for x in (runs.both, runs.alone[DETERMINISTIC]))
        for column, values in alone.items():
            np.testing.assert_array_equal(table[column], values, err_msg=f"{name} {column}")


def test_seconds_are_of_each_victim(runs: Runs):
    seconds = runs.both.tables["seconds"]
    assert set(seconds) == set(SCHEMAS["seconds"].names)
    rows = zip(*(seconds[name].tolist() for name in ("attack", "eps", "victim")), strict=True)
    assert list(rows) == expand(BOTH).cases


def test_adversaries_learn_against_the_victim_as_it_acts(runs: Runs):
    """Once for both radii of each victim, in each of two blocks."""
    assert runs.prepared_for == [False, True] * 2


def test_a_second_victim_compiles_nothing(runs: Runs, tmp_path: Path):
    """After the runs of `runs`, whose adversaries have compiled what they need."""
    del runs
    found = {}
    for names in (BOTH.victim, BOTH.victim[:1]):
        work = quiet_work(tmp_path / "-".join(names))
        found[names] = pipeline.run(expand(replace(BOTH, victim=names)), ENV, None, work).facts
    both, one = found.values()
    assert set(one["programs"]) == set(both["programs"]) == {"init", "train", "evaluate"}
    assert both["compilations"] == one["compilations"] > 0


def test_an_interrupted_run_goes_on_where_it_was(runs: Runs, tmp_path: Path):
    """Interrupted after every third chunk."""

    class KilledError(Exception):
        pass

    finished = 0

    def stop() -> None:
        nonlocal finished
        finished += 1
        if finished % 3 == 0:
            raise KilledError

    # In each of two blocks: training, 5 cases of 2 victims, certificates and diagnosis at 2
    # radii, accounts.
    chunks = 2 * (1 + 5 * 2 + 2 + 2 + 1)
    for _ in range(chunks // 3):
        with pytest.raises(KilledError):
            pipeline.run(expand(BOTH), ENV, None, quiet_work(tmp_path, stop))
    found = pipeline.run(expand(BOTH), ENV, None, quiet_work(tmp_path, stop)).tables
    assert finished == chunks
    for name in found.keys() - {"seconds"}:
        for column, values in runs.both.tables[name].items():
            assert np.asarray(found[name][column]).tobytes() == np.asarray(values).tobytes(), name


def test_episodes_start_alike_under_every_victim(tmp_path: Path):
    """A policy with next to no noise acts alike either way, so that equal starts show."""
    policy = drawn_policy(2, 2, (8,))
    silent = policy.params._replace(log_std=np.full(2, -30, np.float32))
    policy = policy.replace(params=silent)
    given = replace(BOTH, policy=Path("given.npz"), methods=("magnitude",), attacks=("mad",))
    design = expand(given.resolved(ENV))
    returns = pipeline.run(design, ENV, policy, quiet_work(tmp_path)).tables["returns"]
    mine, theirs = (returns["return"][returns["victim"] == name] for name in BOTH.victim)
    assert np.ptp(mine) > 0.1
    np.testing.assert_allclose(mine, theirs, rtol=1e-4)


def test_the_plan_counts_every_victim(tmp_path: Path):
    """What is learned, chosen and played is twice that of one victim."""
    one = replace(BOTH, victim=(STOCHASTIC,))
    twice, once = (learned(expand(asked), ENV.spec) for asked in (BOTH, one))
    assert twice == tuple(2 * amount for amount in once) and twice[0] > 0
    both, alone = (make_plan(expand(asked), ENV, tmp_path) for asked in (BOTH, one))
    assert both.amounts.episodes == 2 * alone.amounts.episodes == 2 * 10 * 5 * 4
    assert "none, mad, rs (deterministic, stochastic): 400 episodes" in both.text
