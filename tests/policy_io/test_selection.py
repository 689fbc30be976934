"""Selection of a policy from made-up runs whose answers are known."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxprune.policy_io import Run, load_run
from jaxprune.policy_io.run_arrays import DIMS, grid_of
from jaxprune.validation import InputError
from tests.benchmarks.made_up import DENSE, EPISODES, LEVELS, LOSS, write_run

ATTACKED = DENSE - LOSS  # at eps 0.1


def made_up(path: Path, **settings: Any) -> Run:
    return load_run(write_run(path, **settings).path)


def test_a_selection_by_hand(tmp_path):
    """At sparsity s the clean return falls by s, the attacked one by s * 1000 / 900."""
    found = made_up(tmp_path, seeds=6).best(clean_loss=0.35, attacked_loss=0.35)
    assert (found.label, found.sparsity, found.eps) == ("magnitude", 0.3, 0.1)
    assert found.replicates == "agents" and found.choice.sparsities == (0.3, 0.3)
    assert found.choice.clean_change.interval.mean == pytest.approx(-300)
    assert found.choice.attacked_change.interval.mean == pytest.approx(-300)
    assert found.choice.dense_attacked.interval.mean == pytest.approx(ATTACKED + 2.5)
    assert found.agent.seed == 5  # of the highest returns
    assert found.agent.clean_change.each.tolist() == [-300, -300]  # half of the episodes
    assert found.agent.attacked == pytest.approx(ATTACKED - 300 + 5)
    told = {(x.quantity, x.scope): (x.bound, x.value) for x in found.certified}
    assert told == {}  # what is no statement (a confidence of NaN) is none


@pytest.mark.parametrize(
    ("clean", "attacked", "sparsity"),
    [(0.7, 0.7, 0.6), (0.7, 0.4, 0.3), (0.35, 0.9, 0.3), (2, 2, 0.9)],
)
def test_both_limits_hold(tmp_path, clean, attacked, sparsity):
    assert made_up(tmp_path).best(clean, attacked).sparsity == sparsity


def test_where_nothing_qualifies_the_message_says_what_failed(tmp_path):
    run = made_up(tmp_path)
    both = (
        r"magnitude at sparsity 0\.3 comes nearest, and exceeds clean-loss 0\.05 by 2\d\.\d points "
        r"and attacked-loss 0\.05 by 28\.\d points; allow more"
    )
    with pytest.raises(InputError, match=f"nothing qualifies.*{both}"):
        run.best()
    with pytest.raises(InputError, match=r"exceeds attacked-loss 0\.05 by 28\.\d points;"):
        run.best(clean_loss=0.5)
    with pytest.raises(InputError, match="clean_loss -1 is outside"):
        run.best(clean_loss=-1)


def test_the_sparsest_of_all_methods_or_one_of_them(tmp_path):
    """Of as sparse ones the best under attack: the second method loses 40 more at 0.6."""
    folder = write_run(tmp_path, methods=("magnitude", "micro"), seeds=4)
    run = load_run(folder.path)
    table = {name: run.returns[name].to_numpy().copy() for name in run.returns.column_names}
    worse = (table["method"] == "magnitude") & (table["sparsity"] == 0.6)
    table["return"][worse] -= 40
    folder.write_table("returns", table)
    assert run.best(0.7, 0.9).label == "micro"
    assert run.best(0.7, 0.9, method="magnitude").label == "magnitude"
    with pytest.raises(InputError, match="no method 'lamp': choose from magnitude, micro"):
        run.best(method="lamp")


def test_of_one_agent_the_episodes_are_the_replicates(tmp_path):
    found = made_up(tmp_path, seeds=1).best(0.4, 0.4)
    assert found.replicates == "episodes" and len(found.choice.clean.each) == EPISODES
    assert (found.sparsity, found.agent.seed) == (0.3, 0)


def test_the_agent_and_the_radius_that_are_asked_for(tmp_path):
    run = made_up(tmp_path, radii=(0.2, 0.1))
    assert run.best(0.4, 0.4).eps == 0.1
    assert run.best(0.4, 0.4, eps=0.2, seed=1).agent.seed == 1
    with pytest.raises(InputError, match=r"no attack at eps 0\.3: choose from 0\.1, 0\.2"):
        run.best(0.4, 0.4, eps=0.3)
    with pytest.raises(InputError, match="no agent of seed 7: choose from 0, 1, 2"):
        run.best(0.4, 0.4, seed=7)


def test_regimes_are_selected_from_one_by_one(tmp_path):
    folder = write_run(tmp_path)
    run = load_run(folder.path)
    one = {name: run.returns[name].to_numpy() for name in run.returns.column_names}
    other = one | {"regime": np.full(len(one["seed"]), "sa_ppo", object)}
    both = {name: np.concatenate([one[name], other[name]]) for name in one}
    folder.write_table("returns", both)
    with pytest.raises(InputError, match="name one of ppo magnitude, sa_ppo magnitude"):
        run.best(0.4, 0.4)
    assert run.best(0.4, 0.4, method="sa_ppo magnitude").sparsity == 0.3


def test_what_removes_nothing_is_no_candidate(tmp_path):
    """Rescaled weights have a sparsity in the table, and none in truth."""
    folder = write_run(tmp_path, methods=("magnitude", "rescaled"))
    run = load_run(folder.path)
    table = {name: run.returns[name].to_numpy().copy() for name in run.returns.column_names}
    rescaled = table["method"] == "rescaled"
    table["sparsity_achieved"][rescaled] = 0
    table["return"][rescaled] = 2 * DENSE
    folder.write_table("returns", table)
    assert run.best(0.4, 0.4).label == "magnitude"


def test_a_grid_holds_every_episode(tmp_path):
    run = made_up(tmp_path, methods=("magnitude", "micro"), attacks=("mad", "rs"))
    grid = grid_of(run.returns)
    assert list(grid.coords) == list(DIMS)
    places = {dim: {x: i for i, x in enumerate(grid.coords[dim].tolist())} for dim in DIMS}
    rows = run.returns.to_pylist()
    assert np.isfinite(grid.values).sum() == len(rows)
    for row in rows[::7]:
        place = tuple(places[dim][(row | {"curve": row["method"]})[dim]] for dim in DIMS)
        assert grid.values[place] == row["return"]


def test_xarray_has_the_axes_of_a_run(tmp_path):
    pytest.importorskip("xarray", reason="the extra `notebook` is not installed")
    run = made_up(tmp_path)
    data = run.to_xarray()
    assert data["return"].dims == DIMS
    clean = data["return"].sel(curve="magnitude", attack="none", eps=0.0).mean(("seed", "episode"))
    np.testing.assert_allclose(clean, [DENSE * (1 - level) + 1 for level in LEVELS])


def test_rliable_takes_the_scores(tmp_path):
    scores = made_up(tmp_path).to_rliable("mad")
    assert scores["none 0"].shape == (3, 1)
    expected = (ATTACKED - 0.3 * DENSE + np.arange(3)) / (DENSE + 1)
    np.testing.assert_allclose(scores["magnitude 0.3"][:, 0], expected)


def test_a_selection_is_judged_by_replicates_that_did_not_choose_it(tmp_path):
    """By chance every policy of the first half keeps its return at 0.9; the others tell."""
    folder = write_run(tmp_path, seeds=6)
    run = load_run(folder.path)
    table = {name: run.returns[name].to_numpy().copy() for name in run.returns.column_names}
    lucky = (table["seed"] < 3) & (table["method"] == "magnitude")
    table["return"][lucky] += DENSE * table["sparsity"][lucky]
    folder.write_table("returns", table)
    found = run.best(0.35, 0.35)
    assert found.choice.sparsities == (0.9, 0.3) and found.sparsity == 0.3
    # Three that did not choose 0.9 lose 900 there, three that did not choose 0.3 lose nothing.
    assert found.choice.clean_change.each.tolist() == [0, 0, 0, -900, -900, -900]


def test_names_are_in_the_order_of_the_table(tmp_path):
    """As in a report: a tie between attacks goes to the first that was asked for."""
    coords = grid_of(made_up(tmp_path, attacks=("rs", "mad")).returns).coords
    assert coords["attack"].tolist() == ["none", "rs", "mad"]
    assert coords["curve"].tolist() == ["none", "magnitude"]
