"""Files that are read ahead: what they hold, in any order, and never more than a few in memory."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.runtime.read_ahead import AHEAD, ReadAhead


def leave(folder: Path, count: int) -> list[Path]:
    files = [folder / f"{number:03}" for number in range(count)]
    for file in files:
        file.write_text(file.name)
    return files


def test_every_file_is_what_it_holds_and_few_are_in_memory(tmp_path: Path):
    files, taken = leave(tmp_path, 3 * AHEAD), []

    def noted() -> Iterator[Path]:
        for file in files:
            taken.append(file)
            yield file

    with ReadAhead(noted()) as ahead:
        assert len(taken) == AHEAD
        for number, file in enumerate(files):
            assert ahead.contents(file).decode() == file.name
            assert len(taken) == min(len(files), AHEAD + number + 1)


def test_files_out_of_order_and_others_are_read_as_well(tmp_path: Path):
    files = leave(tmp_path, 2 * AHEAD)
    other = tmp_path / "other"
    other.write_text("other")
    with ReadAhead(files) as ahead:
        for file in (files[-1], other, *files[:-1]):
            assert ahead.contents(file).decode() == file.name


def test_an_error_is_raised_where_its_file_is_asked_for(tmp_path: Path):
    files = leave(tmp_path, 3)
    files[1].unlink()
    with ReadAhead(files) as ahead:
        assert ahead.contents(files[0]) == b"000"
        with pytest.raises(FileNotFoundError):
            ahead.contents(files[1])
        assert ahead.contents(files[2]) == b"002"


def test_what_nobody_asks_for_any_more_is_not_waited_for(tmp_path: Path):
    with pytest.raises(KeyError), ReadAhead(leave(tmp_path, 3 * AHEAD)):
        raise KeyError
