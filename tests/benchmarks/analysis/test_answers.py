"""Answers of several made-up runs, whose p-values are known."""

from pathlib import Path

import pytest

from benchmarks.analysis import answers as module
from benchmarks.analysis.answers import answers
from benchmarks.analysis.curves import collect
from benchmarks.analysis.verdict import verdicts
from benchmarks.runtime.run_folder import read_table
from tests.benchmarks.made_up import write_run


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    path: Path = write_run(tmp_path_factory.mktemp("runs") / "hopper", seeds=6).path
    return collect(read_table(path, "returns"))


@pytest.fixture
def with_p_values(results, monkeypatch):
    """Verdicts of a run, with these p-values of sweet spots."""
    (own, *_) = verdicts(results).values()

    def of(values):
        queue = iter(values)

        def verdicts_of(_):
            spots = [own.sweet_spot._replace(tested=True, p_value=p) for p in next(queue)]
            return dict(enumerate(own._replace(sweet_spot=spot) for spot in spots))

        monkeypatch.setattr(module, "verdicts", verdicts_of)
        return list(answers({str(i): results for i in range(len(values))}))

    return of


def test_p_values_are_corrected_over_runs_by_holm(with_p_values):
    found = with_p_values([[0.01, 0.2], [0.04], [0.03]])
    expected = [0.03, 0.6, 0.06, 0.06]
    assert [x.p_value for x in found] == pytest.approx(expected)
    assert [x.answer == "yes" for x in found] == [True, False, False, False]


def test_a_p_value_of_zero_leaves_the_others_corrected(with_p_values):
    found = with_p_values([[0.0, 0.02], [0.04]])
    assert [x.p_value for x in found] == pytest.approx([0.0, 0.04, 0.04])


def test_one_run_is_told_as_it_is(with_p_values):
    assert [x.p_value for x in with_p_values([[0.04, 0.5]])] == pytest.approx([0.04, 0.5])
    assert [x.p_value for x in with_p_values([[0.0, 0.5]])] == pytest.approx([0.0, 0.5])


def test_what_dense_agents_return_under_mad_is_told(results):
    (found, *_) = answers({"run": results})
    dense = results.by_key[results.dense_of[found.verdict.method], "mad", found.verdict.eps]
    assert found.usual is not None
    assert float(found.usual.mean) == pytest.approx(dense.returns.mean())
