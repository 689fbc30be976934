"""The table of sparsity against counts by hand, on a network of four hidden units."""

from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

from benchmarks.experiment import PRESETS, Experiment
from benchmarks.runtime.arrays import part
from benchmarks.runtime.schemas import SCHEMAS
from benchmarks.stages.base import Population, Row
from benchmarks.stages.sparsity import accounted
from jaxprune.cells import Cell
from jaxprune.envs import EnvSpec, make_env
from jaxprune.pruning import Scope, dense
from tests.policies import drawn_agents
from tests.quiet import Silent

SPEC = make_env("cartpole").spec
SETTINGS = replace(PRESETS["smoke"], ppo=replace(PRESETS["smoke"].ppo, scope=Scope(min_weights=3)))
LAYERS = [f"{network}/layer_{i}/kernel" for network in ("actor", "critic") for i in range(2)]
LINES = [*LAYERS, "actor", "critic", "all"]


def population(bad: float | None = None) -> Population:
    """Agent 0 without and with pruning, agent 1 with the same masks (and a weight that is `bad`).

    Three inputs, of which the last is cut off; hidden unit 2 reaches no output, and unit 3 is
    reached by no input and alone leads to output 1.
    """
    policy = drawn_agents((2,), 3, 2, (4,))
    keep = jax.device_get(dense(jax.tree.map(lambda x: x[0], policy.params)))
    first, last = np.zeros((3, 4), bool), np.zeros((4, 2), bool)
    first[:2, :3] = True
    last[[0, 1, 3], [0, 0, 1]] = True
    actor = {
        name: {**keep.actor[name], "kernel": kernel}
        for name, kernel in (("layer_0", first), ("layer_1", last))
    }
    if bad is not None:
        kernel = policy.params.actor["layer_0"]["kernel"].copy()
        kernel[1, 0, 0] = bad
        policy.params.actor["layer_0"]["kernel"] = kernel
    pruned = keep._replace(actor=actor)
    masks = jax.tree.map(lambda *leaves: np.stack(leaves), keep, pruned, pruned)
    rows = [
        Row(0, "ppo", "none", "none", "dense", 0.0, 0.0, True),
        Row(0, "ppo", "magnitude", "global", "after", 0.5, 11 / 20, True),
        Row(1, "ppo", "magnitude", "global", "after", 0.5, 11 / 20, True),
    ]
    return Population(policy, rows, Cell(np.array([0, 0, 1]), masks), 0)


def table_of(settings: Experiment, spec: EnvSpec, people: Population) -> dict[str, Any]:
    """What the stage tells of a population."""
    return part("sparsity", accounted(settings.ppo.scope, spec, people, Silent()))


def lines(table: dict[str, Any], cell: int) -> dict[str, dict[str, Any]]:
    """The lines of one cell by layer."""
    at = range(cell * len(LINES), (cell + 1) * len(LINES))
    return {str(table["layer"][i]): {name: x[i] for name, x in table.items()} for i in at}


@pytest.fixture(scope="module")
def table() -> dict[str, Any]:
    return table_of(SETTINGS, SPEC, population())


def column(table: dict[str, Any], cell: int, name: str) -> list[Any]:
    return [line[name] for line in lines(table, cell).values()]


def test_a_line_per_cell_and_layer_network_and_all_of_it(table):
    assert set(table) == set(SCHEMAS["sparsity"].names)
    assert table["layer"].tolist() == LINES * 3
    assert table["env"].tolist() == ["cartpole"] * 21
    assert table["seed"].tolist() == [0] * 14 + [1] * 7
    assert table["method"].tolist() == ["none"] * 7 + ["magnitude"] * 14
    np.testing.assert_array_equal(table["sparsity_achieved"], [0] * 7 + [11 / 20] * 14)


def test_nothing_is_missing_of_an_unpruned_agent(table):
    sizes = [12, 8, 12, 4, 20, 16, 20 + 6 + 16 + 5 + 2]  # all: with biases and log_std
    assert column(table, 0, "size") == column(table, 0, "kept") == sizes
    for name in ("layer_sparsity", "at_floor", "dead", "constant"):
        assert not any(column(table, 0, name))
    for name in ("disconnected_obs", "disconnected_outputs"):
        assert not any(column(table, 0, name))
    # Kernels and biases of a network of 3, 4 and 2 (1) units.
    assert column(table, 0, "compact") == [0, 0, 0, 0, 26, 21, 0]
    kernel = np.asarray(population().policy.params.actor["layer_0"]["kernel"][0], np.float64)
    condition = lines(table, 0)["actor/layer_0/kernel"]["condition"]
    assert condition == pytest.approx(np.linalg.cond(kernel), rel=1e-6)


def test_counts_of_a_pruned_agent_are_those_by_hand(table):
    for cell in (1, 2):
        assert column(table, cell, "kept") == [6, 3, 12, 4, 9, 16, 49 - 11]
        np.testing.assert_allclose(
            column(table, cell, "layer_sparsity"), [6 / 12, 5 / 8, 0, 0, 11 / 20, 0, 11 / 49]
        )
        # Of the units that a layer feeds; of a network's hidden ones.
        assert column(table, cell, "dead") == [1, 0, 0, 0, 1, 0, 0]
        assert column(table, cell, "constant") == [1, 1, 0, 0, 1, 0, 0]
        assert column(table, cell, "disconnected_obs") == [0, 0, 0, 0, 1, 0, 0]
        assert column(table, cell, "disconnected_outputs") == [0, 0, 0, 0, 1, 0, 0]
        # Units 0 and 1 are left: 3 x 2 + 2 and 2 x 2 + 2.
        assert column(table, cell, "compact") == [0, 0, 0, 0, 14, 21, 0]
        assert np.isinf(lines(table, cell)["actor/layer_0/kernel"]["condition"])


def test_bytes_of_an_actor_of_3_4_and_2_units_by_hand(table):
    """20 weights and 6 biases, 9 of the weights left; a row of either kernel starts at one byte."""
    actor = [lines(table, cell)["actor"] for cell in range(3)]
    assert [line["bytes_dense"] for line in actor] == [4 * 26] * 3
    assert [line["bytes_rows"] for line in actor] == [5 * 20 + 24 + 8] + [5 * 9 + 24 + 8] * 2
    assert [line["bytes_compact"] for line in actor] == [4 * 26] + [4 * 14] * 2
    assert [line["bytes_int8"] for line in actor] == [20 + 2 * 24] * 3
    assert all(1 < line["bytes_int8_rows"] <= 2 * 9 + 2 * 24 + 8 for line in actor[1:])
    assert column(table, 0, "bytes_dense") == [0, 0, 0, 0, 4 * 26, 4 * 21, 0]


def test_only_prunable_layers_are_at_the_floor(table):
    """Three weights are left of the actor's last layer, and min_weights is 3."""
    assert column(table, 1, "at_floor") == [False, True, False, False, False, False, False]
    roomy = replace(SETTINGS, ppo=replace(SETTINGS.ppo, scope=Scope(min_weights=4)))
    found = table_of(roomy, SPEC, population())
    assert column(found, 1, "at_floor") == [False, True, False, False, False, False, False]
    both = replace(SETTINGS, ppo=replace(SETTINGS.ppo, scope=Scope("both", min_weights=4)))
    found = table_of(both, SPEC, population())
    assert column(found, 1, "at_floor") == [False, True, False, True, False, False, False]


def test_networks_and_everything_have_no_condition_number(table):
    for cell in range(3):
        for name in ("actor", "critic", "all"):
            assert np.isnan(lines(table, cell)[name]["condition"])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_policy_that_diverged_has_counts_but_no_condition_and_no_smaller_copy(table, bad: float):
    found = table_of(SETTINGS, SPEC, population(bad))
    assert np.isnan(column(found, 2, "condition")).all()
    assert not any(column(found, 2, "compact")) and not any(column(found, 2, "bytes_rows"))
    for name in ("size", "kept", "dead", "constant", "disconnected_obs", "at_floor"):
        assert column(found, 2, name) == column(table, 2, name)
    for cell in (0, 1):  # the agents beside it are untouched
        for name in found:
            np.testing.assert_array_equal(column(found, cell, name), column(table, cell, name))
