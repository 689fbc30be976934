"""The notebook of benchmarks/notebooks/ runs from top to bottom, on a made-up run."""

from pathlib import Path

import jax
import pytest

from jaxprune.policy_io import save_agents
from jaxprune.pruning import dense, prune
from tests.benchmarks.made_up import LEVELS, write_run
from tests.policies import drawn_agents

NOTEBOOK = Path(__file__).parents[1] / "benchmarks" / "notebooks" / "from_a_run.ipynb"
SEEDS = 3


def write_cartpole_run(path: Path) -> None:
    """Made-up tables beside agents of cartpole that were never trained."""
    write_run(path, env="cartpole", seeds=SEEDS)
    policies = drawn_agents((SEEDS,), 4, 2, discrete=True)
    masks = jax.device_get(prune(policies, "magnitude", LEVELS))  # [seeds, sparsities]
    flat = jax.tree.map(lambda x: x.reshape(SEEDS * len(LEVELS), *x.shape[2:]), masks)
    save_agents(path / "agents", policies, {"none": dense(policies.params), "magnitude": flat})


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path):
    nbclient = pytest.importorskip("nbclient", reason="the extra `notebook` is not installed")
    nbformat = pytest.importorskip("nbformat", reason="the extra `notebook` is not installed")
    pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    write_cartpole_run(tmp_path / "results" / "smoke")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, resources=resources).execute()
    assert (tmp_path / "policy.onnx").exists()


def test_the_notebook_holds_no_outputs():
    nbformat = pytest.importorskip("nbformat", reason="the extra `notebook` is not installed")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells)
