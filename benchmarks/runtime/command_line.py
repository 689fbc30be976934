"""Command lines of all programs: options from a dataclass, every error one line."""

import contextlib
import io
import re
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import is_dataclass, replace
from functools import partial
from typing import Any, TypeVar

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from jaxprune.validation import InputError, Range

Options = TypeVar("Options")
# An address such as gs://bucket/folder, by itself or after an option's `=`.
SCHEME = re.compile(r"(?:--[\w.-]+=)?([A-Za-z][\w+.-]+)://.*", re.DOTALL)


def read_options(
    kind: type[Options], argv: Sequence[str], program: str, default: Options | None = None
) -> Options:
    """The options that a command line asks for. Their ranges are shown, and not yet checked.

    Args:
        kind: a dataclass.
        argv: the words after the name of the program.
        program: its name.
        default: where the options start from; None: the defaults of the dataclass.

    Raises:
        InputError: anything that is no option, or has no value of its type, in one line.
        SystemExit: after `--help`.
    """
    return _read(partial(tyro.cli, kind, default=default), argv, program)


def read_some_options(
    kind: type[Options], argv: Sequence[str], program: str
) -> tuple[Options, list[str]]:
    """The same, and the words that are none of these options."""
    return _read(partial(tyro.cli, kind, return_unknown_args=True), argv, program)


def _read(read: Callable[..., Any], argv: Sequence[str], program: str) -> Any:
    for word in argv:
        found = SCHEME.fullmatch(word)
        if found:  # `Path` would make a local folder of it
            raise InputError(
                f"{word!r} is a {found[1]} address, and only paths of mounted file systems are "
                "read and written: give a local path, and copy or mount what is elsewhere"
            )
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors), RANGES_IN_HELP:
            return read(args=list(argv), prog=program)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
    text = re.sub(r"[─-╿]|\x1b\[[0-9;]*m", " ", errors.getvalue())  # box drawing and colours
    text = re.split(r"Argument helptext|For full helptext", text)[0]
    raise InputError(" ".join(text.split()) + " (see --help)") from None


# The usual fields of a dataclass, each with its range after its description.
RANGES_IN_HELP = ConstructorRegistry()
_asking: ContextVar[bool] = ContextVar("asking", default=False)


@RANGES_IN_HELP.struct_rule
def _with_ranges(info: StructTypeInfo) -> StructConstructorSpec | None:
    if not is_dataclass(info.type) or _asking.get():
        return None
    token = _asking.set(True)  # for the rule that is used without this one
    try:
        usual = ConstructorRegistry.get_struct_spec(info)
    finally:
        _asking.reset(token)
    if not isinstance(usual, StructConstructorSpec):
        return None
    return replace(usual, fields=tuple(map(_with_range, usual.fields)))


def _with_range(field: StructFieldSpec) -> StructFieldSpec:
    found = [note for note in getattr(field.type, "__metadata__", ()) if isinstance(note, Range)]
    if not found:
        return field

    def text() -> str:
        usual = field.helptext() if callable(field.helptext) else field.helptext
        return f"{usual or ''} In {found[0]}.".lstrip()

    return replace(field, helptext=text)
