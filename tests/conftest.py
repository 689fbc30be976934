"""Every test runs on two fake CPU devices, with float32 defaults and warnings as errors."""

import os
from pathlib import Path

import jax
import pytest
from hypothesis import settings

from jaxprune import devices

devices.configure(cpu_devices=2)
settings.register_profile("suite", deadline=None, derandomize=True)
settings.load_profile("suite")

MAPS = Path("/proc/self/maps")
SHARED = Path(os.environ.get("JAXPRUNE_SHARED", Path(__file__).parents[2] / "shared"))


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Every compiled program holds memory maps, and Linux allows a process 65,530 of them."""
    yield
    if not MAPS.exists() or MAPS.read_bytes().count(b"\n") > 30_000:
        jax.clear_caches()


@pytest.fixture(scope="session")
def published() -> Path:
    """The folder of policies that other people trained."""
    folder = SHARED / "published"
    if not folder.is_dir():
        pytest.skip(f"no published policies at {folder}; point JAXPRUNE_SHARED at the folder")
    return folder
