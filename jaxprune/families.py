"""Families of named members (environments, scores, attacks, bounds), and what users get wrong."""

import difflib
from collections.abc import Mapping
from typing import TypeVar

Member = TypeVar("Member")


# Characters of a message, and of a name or a value that a file holds.
MESSAGE, NAME = 4000, 200


def shown(value: object, limit: int = NAME) -> str:
    """Returns text of unknown origin as one harmless line, whatever a terminal makes of it.

    What is not printable (control and formatting characters, line ends, halves of surrogate pairs)
    is escaped as Python writes it, and the middle of what is longer than `limit` is left out.
    """
    text = str(value)
    if len(text) > limit:
        text = f"{text[: limit // 2]}...{text[-limit // 2 :]}"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class InputError(ValueError):
    """Input that a person can mend: the one-line message names value, allowed values and remedy.

    Values come from files and command lines, so that the message is made one line here.
    """

    def __init__(self, message: str):
        super().__init__(shown(message, MESSAGE))


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
