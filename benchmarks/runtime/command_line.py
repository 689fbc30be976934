"""Command lines of all programs: options from a dataclass, every error one line."""

import contextlib
import io
import re
import shlex
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import is_dataclass, replace
from functools import partial
from pathlib import Path, PurePath
from typing import Any, TypeVar

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from jaxprune.policy_io.addresses import as_path, is_address, reaching
from jaxprune.validation import InputError, Range

Options = TypeVar("Options")

# How programs are started: as modules, or by the console command.
MODULES, CONSOLE = "python -m benchmarks.", "jaxprune "
_started_by: ContextVar[str] = ContextVar("started_by", default=MODULES)


def started_by(start: str) -> None:
    """From now on, programs call themselves and each other by `MODULES` or by `CONSOLE`."""
    _started_by.set(start)


def command(program: str, *words: str) -> str:
    """Returns the command line of a program, as a person would type it here."""
    return " ".join([f"{_started_by.get()}{program}", *map(shlex.quote, words)])


def _share(words: list[str]) -> float:
    text = words[0]
    return float(text[:-1]) / 100 if text.endswith("%") else float(text)


# A share that may be given in per cent.
SharePercent = PrimitiveConstructorSpec(
    nargs=1,
    metavar="SHARE|PERCENT%",
    instance_from_str=_share,
    is_instance=lambda value: isinstance(value, float),
    str_from_instance=lambda value: [f"{100 * value:g}%"],
)


def read_options(
    kind: type[Options],
    argv: Sequence[str],
    program: str,
    default: Options | None = None,
    addresses: bool = False,
) -> Options:
    """The options that a command line asks for. Their ranges are shown, and not yet checked.

    Args:
        kind: a dataclass.
        argv: the words after the name of the program.
        program: its name.
        default: where the options start from; None: the defaults of the dataclass.
        addresses: whether its paths may be of an object store.

    Raises:
        InputError: anything that is no option, or has no value of its type, in one line.
        SystemExit: after `--help`.
    """
    return _read(partial(tyro.cli, kind, default=default), argv, program, addresses)


def read_some_options(
    kind: type[Options], argv: Sequence[str], program: str
) -> tuple[Options, list[str]]:
    """The same, and the words that are none of these options."""
    return _read(partial(tyro.cli, kind, return_unknown_args=True), argv, program)


def _read(
    read: Callable[..., Any], argv: Sequence[str], program: str, addresses: bool = False
) -> Any:
    for word in argv:
        _check_word(re.sub(r"^--[\w.-]+=", "", word), program, addresses)
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors), REGISTRY:
            return read(args=list(argv), prog=command(program.removeprefix("benchmarks.")))
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
    text = re.sub(r"[─-╿]|\x1b\[[0-9;]*m", " ", errors.getvalue())  # box drawing and colours
    text = re.split(r"Argument helptext|For full helptext", text)[0]
    raise InputError(" ".join(text.split()) + " (see --help)") from None


def _check_word(word: str, program: str, addresses: bool) -> None:
    """Raises `InputError` for an address that is of no use here, or that nobody answers at."""
    if not is_address(word):
        return
    if not addresses:
        raise InputError(
            f"{word!r} is an address, and {program} reads and writes local paths: give one, and "
            "copy or mount what is elsewhere"
        )
    path = as_path(word)
    try:
        with reaching(path):
            path.exists()
    except OSError as error:
        raise InputError(
            f"{word!r} cannot be reached ({error.strerror}): correct the address or the "
            "credentials, or give a local path"
        ) from None


# The usual fields of a dataclass, each with its range after its description; paths may be of an
# object store.
REGISTRY = ConstructorRegistry()
_asking: ContextVar[bool] = ContextVar("asking", default=False)


@REGISTRY.struct_rule
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


@REGISTRY.primitive_rule
def _paths(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Path] | None:
    if info.type is not Path:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=lambda words: as_path(words[0]),
        is_instance=lambda path: isinstance(path, PurePath),
        str_from_instance=lambda path: [str(path)],
    )
