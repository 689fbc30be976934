"""Labels name a curve by its method and by what tells it from the others of the run, no more."""

import numpy as np

from jaxprune.policy_io.labels import DENSE, PARTS, Labels

PLAIN = ("ppo", "none", "none", DENSE)


def table(*keys: tuple[str, str, str, str]) -> dict[str, np.ndarray]:
    """A row per curve."""
    columns = zip(PARTS, zip(*keys, strict=True), strict=True)
    return {name: np.array(column) for name, column in columns}


def named(*keys: tuple[str, str, str, str]) -> list[str]:
    labels, rows = Labels(table(*keys)), table(*keys)
    found = labels.column(rows).tolist()
    assert found == [labels.of(*key) for key in keys]
    assert len(set(found)) == len(set(keys))  # no two curves share a label
    return found


def test_methods_alone_have_their_names():
    curves = [("ppo", "magnitude", "global", "after"), ("ppo", "lamp/cubic", "erk", "endpoint")]
    assert named(PLAIN, *curves) == ["none", "magnitude", "lamp/cubic"]


def test_an_allocation_is_named_where_the_method_has_several():
    found = named(
        PLAIN,
        ("ppo", "magnitude", "global", "after"),
        ("ppo", "magnitude", "erk", "after"),
        ("ppo", "wanda", "uniform", "after"),
    )
    assert found == ["none", "magnitude global", "magnitude erk", "wanda"]


def test_a_mode_is_named_where_the_method_has_several():
    found = named(
        PLAIN,
        ("ppo", "micro", "global", "endpoint"),
        ("ppo", "micro", "global", "trajectory"),
        ("ppo", "set", "global", "endpoint"),
    )
    assert found == ["none", "micro (endpoint)", "micro (trajectory)", "set"]


def test_regimes_are_named_everywhere_where_there_are_several():
    found = named(
        PLAIN,
        ("sa_ppo", "none", "none", DENSE),
        ("ppo", "micro", "global", "endpoint"),
        ("sa_ppo", "micro", "erk", "trajectory"),
    )
    assert found == [
        "ppo none",
        "sa_ppo none",
        "ppo micro global (endpoint)",
        "sa_ppo micro erk (trajectory)",
    ]


def test_a_method_that_does_nothing_is_not_taken_for_the_unpruned_agents():
    """Its own curves, if it has any, are not alike with the dense agents'."""
    assert named(PLAIN, ("ppo", "narrow", "none", "endpoint")) == ["none", "narrow"]


def test_every_curve_is_compared_with_the_unpruned_agents_of_its_regime():
    one = Labels(table(PLAIN, ("ppo", "magnitude", "global", "after")))
    assert one.dense("ppo") == "none"
    assert one.dense_of() == {"none": "none", "magnitude": "none"}
    two = Labels(
        table(
            ("file", "none", "none", DENSE),
            PLAIN,
            ("file", "magnitude", "global", "after"),
            ("ppo", "magnitude", "global", "after"),
        )
    )
    assert two.dense_of() == {
        "file none": "file none",
        "ppo none": "ppo none",
        "file magnitude": "file none",
        "ppo magnitude": "ppo none",
    }


def test_rows_of_another_table_of_the_run_get_the_same_labels():
    """The table of training holds fewer curves, in another order."""
    labels = Labels(
        table(
            PLAIN,
            ("ppo", "micro", "global", "endpoint"),
            ("ppo", "micro", "erk", "endpoint"),
        )
    )
    rows = table(("ppo", "micro", "erk", "endpoint"), PLAIN, ("ppo", "micro", "erk", "endpoint"))
    assert labels.column(rows).tolist() == ["micro erk", "none", "micro erk"]
