"""What tests of several programs look at."""

from pathlib import Path

import pytest

from tests.benchmarks.small_run import THREE_METHODS, start


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was started by a person and left alone."""
    folder = tmp_path_factory.mktemp("small") / "run"
    result = start(f"{THREE_METHODS} --out {folder}")
    assert result.returncode == 0, result.stderr
    assert "\nmicro: " in result.stdout and "report.html" in result.stdout.splitlines()[-1]
    return folder
