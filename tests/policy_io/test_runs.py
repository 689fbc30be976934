"""Folders of runs: tables as they were written, policies as they were attacked."""

import jax
import numpy as np
import pytest

from jaxprune.policy_io import load_run
from jaxprune.pruning import mask_policy
from jaxprune.validation import InputError
from tests.policy_io.runs import GRID, write_run


def test_tables_and_policies_come_back(tmp_path):
    policies, masks = write_run(tmp_path)
    run = load_run(tmp_path)
    assert run.returns.to_pydict() == {"return": [1.0, 2.0]}
    agents, of_curve = run.agents()
    jax.tree.map(np.testing.assert_array_equal, agents.params, policies.params)
    assert set(of_curve) == {"magnitude"}
    for seed in (0, 1):
        for level, sparsity in enumerate(GRID):
            one = jax.tree.map(lambda x, seed=seed: x[seed], policies)
            kept = jax.tree.map(lambda x, at=(seed, level): x[at], masks)
            found = run.policy("magnitude", sparsity, seed, mode="after")
            expected = mask_policy(one, kept)
            jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)


def test_what_is_not_there(tmp_path):
    with pytest.raises(InputError, match="holds no run: give a folder"):
        load_run(tmp_path)
    write_run(tmp_path)
    run = load_run(tmp_path)
    with pytest.raises(InputError, match=r"training\.parquet is missing or damaged"):
        _ = run.training
    with pytest.raises(InputError, match=r"0 cells of method magnitude, sparsity 0\.3, seed 0: "):
        run.policy("magnitude", 0.3, 0)
    with pytest.raises(InputError, match=r"choose one of sparsity 0\.25, 0\.5; seed 0, 1"):
        run.policy("micro", 0.5, 0)
    with pytest.raises(InputError, match="no 'epsilon': choose from regime, method"):
        run.policy("magnitude", 0.5, 0, epsilon="0.1")
