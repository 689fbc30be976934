"""What surrounds a program: devices, switches of JAX's, encodings, folders of the user."""

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from jaxprune import devices
from jaxprune.validation import InputError


def dry_run(out: str, **environment: str):
    """A fresh process of `benchmarks.run` that stops at its plan."""
    words = ["-m", "benchmarks.run", "--preset", "smoke", "--dry-run", "--out", out]
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("JAX_PLATFORM")}
    return subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        env=inherited | environment,
        cwd=Path(__file__).parents[3],
        timeout=120,
    )


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"JAX_PLATFORMS": "bogus"}, ["JAX_PLATFORMS=bogus", "set it to cpu"]),
        ({"JAX_NUMPY_DTYPE_PROMOTION": "strict"}, ["JAX_NUMPY_DTYPE_PROMOTION=strict", "unset it"]),
    ],
)
def test_what_jax_cannot_do_here_is_one_line(environment, named, tmp_path):
    done = dry_run(str(tmp_path / "out"), **environment)
    told = done.stderr.decode()
    assert done.returncode == 2
    assert told.startswith("error: ") and told.count("\n") == 1
    assert all(part in told for part in named)


def test_a_path_that_the_encoding_lacks_is_escaped(tmp_path):
    done = dry_run(str(tmp_path / "h\u00f6pper"), PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert rb"h\xf6pper" in done.stdout


@pytest.fixture
def homeless(monkeypatch):
    """A user of whom the system knows no home directory."""

    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(devices.Path, "home", home)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)


def test_a_home_directory_is_needed_for_the_default_cache_only(homeless, monkeypatch):
    with pytest.raises(InputError, match="set JAX_COMPILATION_CACHE_DIR"):
        devices.default_cache()
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    assert devices.default_cache() == Path("cache/jaxprune/xla")


@pytest.mark.parametrize("name", devices.LENIENT)
def test_every_strict_switch_is_named(name, monkeypatch):
    strict = {"jax_numpy_dtype_promotion": "strict", "jax_numpy_rank_promotion": "raise"}

    class Config:
        def __getattr__(self, asked):
            return strict.get(asked, True) if asked == name else devices.LENIENT[asked]

    monkeypatch.setattr(devices.jax, "config", Config())
    with pytest.raises(InputError, match=f"{name.upper()}={strict.get(name, True)} makes JAX"):
        devices.check_devices()


ANYWHERE = ("run", "gate.__main__", "merge", "report.__main__")


@pytest.mark.parametrize("option", ["", "--out="])
@pytest.mark.parametrize("program", [*ANYWHERE, "render.__main__", "tightness"])
def test_an_address_is_not_taken_for_a_folder(program, option, tmp_path, monkeypatch, capsys):
    """`Path` would make `ftp:/host` of it, below the current folder."""
    monkeypatch.chdir(tmp_path)
    main = import_module(f"benchmarks.{program}").main
    scheme = "ftp" if program in ANYWHERE else "s3"
    assert main([f"{option}{scheme}://bucket/run"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "address" in told and "local path" in told
    assert not list(tmp_path.iterdir())
