"""A name is looked up in one place, and the message for a wrong one is worth reading."""

import re

import pytest

from jaxprune.attacks import ATTACKS
from jaxprune.certify import BOUNDS, TOTAL_VARIATION
from jaxprune.envs.registry import TASKS
from jaxprune.policy import ACTIVATIONS, HEADS
from jaxprune.pruning import ALLOCATIONS, METHODS, SCHEDULES
from jaxprune.pruning.scores import SCORES
from jaxprune.validation import LISTED, InputError, lookup, shown

FAMILIES = {
    "activation": ACTIVATIONS,
    "allocation": ALLOCATIONS,
    "attack": ATTACKS,
    "bound": BOUNDS,
    "divergence": TOTAL_VARIATION,
    "env": TASKS,
    "head": HEADS,
    "pruning method": METHODS,
    "schedule": SCHEDULES,
    "score": SCORES,
}


def test_a_member_is_found_by_its_name():
    family = {"one": 1, "two": 2}
    assert lookup(family, "two", "number") == 2


def test_the_message_names_all_and_the_nearest():
    with pytest.raises(InputError) as error:
        lookup({"magnitude": 1, "random": 2}, "magnitud", "score")
    expected = "unknown score 'magnitud': did you mean 'magnitude'? choose from magnitude, random"
    assert str(error.value) == expected


def test_no_hint_where_nothing_is_near():
    with pytest.raises(InputError) as error:
        lookup({"magnitude": 1, "random": 2}, "xyz", "score")
    assert str(error.value) == "unknown score 'xyz': choose from magnitude, random"


def test_the_error_hides_no_other():
    """`InputError` is a ValueError, raised on its own: no KeyError behind it."""
    assert issubclass(InputError, ValueError)
    with pytest.raises(InputError) as error:
        lookup({}, "x", "score")
    assert error.value.__cause__ is None and error.value.__context__ is None


@pytest.mark.parametrize("name", [None, 3, ("a",)])
def test_a_name_that_is_no_string(name):
    with pytest.raises(InputError, match="unknown score"):
        lookup({"magnitude": 1}, name, "score")


@pytest.mark.parametrize("kind", FAMILIES)
def test_contract_of_every_registry(kind):
    """Names that a shell takes without quotes; every member is found.

    Lower case, but for tasks of another suite, which keep their own name after that of the suite.
    """
    family = FAMILIES[kind]
    assert family
    for name, member in family.items():
        assert re.fullmatch(r"[a-z0-9_]+|(gym|dmc)/[A-Za-z0-9-]+", name)
        assert lookup(family, name, kind) is member
    with pytest.raises(InputError, match=f"unknown {kind} 'no such'") as error:
        lookup(family, "no such", kind)
    told = str(error.value)
    assert all(name in told for name in family) or f"jaxprune list {LISTED[kind]}" in told
    assert "\n" not in told


def test_the_nearest_name_is_told_whatever_its_case():
    with pytest.raises(InputError, match="did you mean 'mad'"):
        lookup(ATTACKS, "MAD", "attack")
    with pytest.raises(InputError, match=r"unknown attack None: .* choose from those that"):
        lookup(ATTACKS, None, "attack")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\x1b[31m\n::error::b", r"a\x1b[31m\n::error::b"),
        ("a\u202eb\u2028\ud800\x85", r"a\u202eb\u2028\ud800\x85"),
        ("\U000e0001", r"\U000e0001"),
        ("Größe 1 \u00b1 2", "Größe 1 \u00b1 2"),
        ("a" * 201, "a" * 100 + "..." + "a" * 100),
        (3, "3"),
    ],
)
def test_text_of_files_becomes_one_harmless_line(text, line):
    assert shown(text) == line
    assert str(InputError(f"{text}: mend it")).isprintable()


def test_a_long_name_leaves_room_for_the_remedy():
    with pytest.raises(InputError, match=r"^unknown score 'xx.*\.\.\..*choose from one$"):
        lookup({"one": 1}, "x" * 10**6, "score")
