"""Families of named members (environments, scores, attacks, bounds), and what users get wrong."""

import difflib
from collections.abc import Mapping
from typing import TypeVar

Member = TypeVar("Member")


class InputError(ValueError):
    """Input that a person can mend: the one-line message names value, allowed values and remedy."""


def lookup(family: Mapping[str, Member], name: str, kind: str) -> Member:
    """The member of `family` called `name`.

    Args:
        family: the registry, by name.
        name: the member wanted.
        kind: what the family holds, for the message: "attack", "env", ...

    Raises:
        InputError: no such member; the message lists them all and the nearest one.
    """
    if isinstance(name, str) and name in family:
        return family[name]
    spelled = {str(member).lower(): member for member in family}
    near = difflib.get_close_matches(str(name).lower(), spelled, n=1)
    hint = f"; did you mean {spelled[near[0]]!r}?" if near else ""
    raise InputError(f"unknown {kind} {name!r}: choose from {', '.join(family)}{hint}")
