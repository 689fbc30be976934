"""Cards: made from tables alone, refused for what is not complete, made again by anybody."""

import json
from pathlib import Path

import pytest

from benchmarks import card
from benchmarks.runtime.run_folder import checksum
from tests.benchmarks.made_up import DENSE, LOSS, write_run

RESULTS = Path(__file__).parents[2] / "results"
LEADERBOARD = RESULTS / "leaderboard"


def complete(path: Path, **settings) -> Path:
    """A made-up run that says that it is complete."""
    folder = write_run(path, **settings)
    tables = sorted(path.glob("*.parquet"))
    files = {table.name: checksum(table) for table in tables} | {"agents": "0" * 64}
    folder.describe({"command": "run", "files": files})
    return path


def test_a_card_says_what_the_tables_say(tmp_path):
    run = complete(tmp_path / "run", attacks=("mad", "rs"))
    dense, pruned = card.cards_of(run, None), card.cards_of(run, 0.3)
    (only,) = dense  # no sparsity of this run is within 5 %
    assert only["policy"]["label"] == "none" and only["policy"]["sparsity"] == 0
    (found,) = pruned
    assert found["policy"]["task"] == "hopper" and found["policy"]["seeds"] == [0, 1, 2]
    assert found["policy"]["agents_sha256"] == "0" * 64
    assert found["clean"] == {"mean": pytest.approx(0.7 * DENSE + 1), "low": None, "high": None}
    assert found["worst_of"]["mean"] == pytest.approx(0.7 * DENSE - LOSS + 1)
    assert found["attacks"]["rs"]["env_steps"] == 1000 and found["attacks"]["mad"]["queries"] == 7


def test_cards_are_written_shown_and_checked(tmp_path, capsys):
    run = complete(tmp_path / "run", seeds=6)
    words = [str(run), "--out", str(tmp_path / "cards"), "--sparsity", "0.3"]
    assert card.main(words) == 0
    (path,) = (tmp_path / "cards").glob("*.json")
    assert (
        "| ppo magnitude | spring | run | mad | 0.3 | 0.1 | 1 | 70"
        in (tmp_path / "cards" / "README.md").read_text()
    )
    assert card.main([*words, "--check"]) == 0
    held = json.loads(path.read_text())
    held["worst_of"]["mean"] *= 1.01
    path.write_text(json.dumps(held))
    capsys.readouterr()
    assert card.main([*words, "--check"]) == card.DIFFERENT
    assert "is not what" in capsys.readouterr().out


def test_what_is_not_complete_gets_no_card(tmp_path, capsys):
    run = write_run(tmp_path / "run").path
    assert card.main([str(run)]) == 2
    assert "is not finished" in capsys.readouterr().err and not (run / "cards").exists()
    complete(tmp_path / "other")
    (tmp_path / "other" / "returns.parquet").write_bytes(b"")
    assert card.main([str(tmp_path / "other")]) == 2
    assert "returns.parquet is missing or damaged" in capsys.readouterr().err
    assert card.main([str(complete(tmp_path / "third")), "--sparsity", "0.31"]) == 2
    assert "choose from 0, 0.3, 0.6, 0.9" in capsys.readouterr().err


def test_what_is_no_card_is_refused(tmp_path, capsys):
    run = complete(tmp_path / "run")
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards" / "x.json").write_text('{"format": 1}')
    assert card.main([str(run), "--out", str(tmp_path / "cards")]) == 2
    assert "x.json is no card of format 1 (see 'run')" in capsys.readouterr().err


def test_the_cards_of_the_leaderboard_are_what_their_runs_say():
    cards = card.read_cards(LEADERBOARD)
    assert cards
    for name, content in card.pages(cards).items():
        assert (LEADERBOARD / name).read_text() == content
    for held in cards:
        (run,), level = RESULTS.glob(f"*/{held['run']}"), held["policy"]["sparsity"]
        again = {card.name_of(x): x for x in card.cards_of(run, level)}
        assert card._is_there(LEADERBOARD / card.name_of(held), again[card.name_of(held)])
