"""What users get wrong, said in one line: names of registries, ranges of numbers.

    rate: Annotated[float, Range(0, 1, "()")] = 0.1

`lookup` finds the member of a registry. `check_ranges` compares a configuration with what its
fields say, `check_arguments` the arguments of a function with what its parameters say.
"""

import difflib
import math
import numbers
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

import jax
import numpy as np

from jaxprune.types import OBS_CLIP

Member = TypeVar("Member")


# Of a family with more members than these, a message does not list them.
FEW = 8
# What is unknown, and the list that a person finds it in.
LISTED = {
    "attack": "attacks",
    "bound": "bounds",
    "env": "envs",
    "pruning method": "methods",
    "regime": "regimes",
}

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
        InputError: no such member; the message has the nearest ones, then the others: all of a
            small family, of a large one where they are listed.
    """
    if isinstance(name, str) and name in family:
        return family[name]
    spelled = {str(member).lower(): str(member) for member in family}
    near = [spelled[x] for x in difflib.get_close_matches(str(name).lower(), spelled, n=2)]
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    told = ", ".join(family)
    if len(family) > FEW and kind in LISTED:
        told = f"those that `jaxprune list {LISTED[kind]}` prints"
    raise InputError(f"unknown {kind} {name!r}: {hint}choose from {told}")


@dataclass(frozen=True)
class Range:
    """An interval; of a list, what each of its elements may be."""

    low: float
    high: float
    ends: str = "[]"
    """Which ends belong to it, in the usual notation."""
    whole: bool = False
    """Whether only integers do."""
    most: int = 20
    """Elements of a list, at most."""

    def __contains__(self, value: Any) -> bool:
        above = self.low <= value if self.ends[0] == "[" else self.low < value
        return bool(above and (value <= self.high if self.ends[1] == "]" else value < self.high))

    def __str__(self) -> str:
        if self.whole:
            return f"{self.low} .. {self.high}"
        return f"{self.ends[0]}{self.low:g}, {self.high:g}{self.ends[1]}"


def at_least(low: int, high: int = 2**31 - 1, most: int = 20) -> Range:
    """The integers from `low` on; to 2^31 - 1, which the tables can hold."""
    return Range(low, high, whole=True, most=most)


COUNT = at_least(1)
# `jax.random.key` takes other integers modulo 2^32.
SEED = Range(0, 2**32 - 1, whole=True)
FRACTION = Range(0, 1)
SPARSITY = Range(0, 1, "[)", most=1000)
# Discounted bounds divide by 1 - gamma.
DISCOUNT = Range(0, 1, "[)")
LEARNING_RATE = Range(0, 1, "(]")
# Of terms of a loss; more, and the squared norm of a gradient leaves float32.
WEIGHT = Range(0, 1000)
FACTOR = Range(0, 1000, "(]")
LOG_STD = Range(-10, 5)
# In normalised units, to which observations are clipped unless a policy says otherwise.
RADIUS = Range(0, OBS_CLIP, most=100)
ANY_RADIUS = Range(0, math.inf, "[)")
FINITE = Range(-math.inf, math.inf, "()")

# Configurations whose settings have no prefix on the command line.
UNNAMED = ("attack", "ppo", "hyper", "scope")
# Arguments that are configurations.
CONFIGURATIONS = ("config", "hyper", "scope")


def check_ranges(config: Any, section: str = "") -> None:
    """Compare the fields of a configuration, and of those inside it, with their types and ranges.

    Args:
        config: a dataclass.
        section: its name, for the message: "mad", "adversary", ...

    Raises:
        InputError: one that is outside, of another type, or a list that is too long, or empty
            where its default is not.
    """
    defaults = {field.name: field.default for field in fields(config)}
    for name, kind in _kinds(type(config)).items():
        value, told = getattr(config, name), f"{section} {name}".lstrip()
        _check(told, value, kind)
        if is_dataclass(value):
            check_ranges(value, name if section or name not in UNNAMED else "")
        elif kind.allowed and isinstance(value, tuple) and not value and defaults[name] != ():
            raise InputError(f"{told} is empty: give one or more numbers in {kind.allowed}")


def check_arguments(function: Callable[..., Any], given: Mapping[str, object]) -> None:
    """Compare the arguments of a call, and configurations among them, with the parameters.

    Args:
        function: whose parameters are annotated.
        given: by name: `locals()`, in the first statement of the function.

    Raises:
        InputError: one that is outside its range, or of another type.
    """
    for name, kind in _kinds(function).items():
        if name in given:
            _check(name, given[name], kind)
            if name in CONFIGURATIONS and given[name] is not None:
                check_ranges(given[name])


class _Kind(NamedTuple):
    """What an annotation says."""

    types: tuple[Any, ...]  # of the value, a class each; empty where it may be anything
    allowed: Range | None
    texts: bool  # whether there are strings among the numbers


@cache
def _kinds(annotated: object) -> dict[str, _Kind]:
    """By name, of the fields of a dataclass or the parameters of a function."""
    hints = get_type_hints(annotated, include_extras=True)
    return {name: _kind(hint) for name, hint in hints.items() if name != "return"}


def _kind(hint: object) -> _Kind:
    base, *notes = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    allowed = next((note for note in notes if isinstance(note, Range)), None)
    members = get_args(base) if get_origin(base) in (Union, UnionType) else (base,)
    types = tuple(get_origin(member) or member for member in members)
    if not all(isinstance(x, type) for x in types):
        types = ()
    return _Kind(types, allowed, str in _parts(base))


def _parts(hint: object) -> Iterator[Any]:
    """The hint and what it is made of."""
    yield hint
    for part in get_args(hint):
        yield from _parts(part)


def _check(name: str, value: object, kind: _Kind) -> None:
    """Raises `InputError` unless one value is what its annotation says."""
    if value is None and NoneType in kind.types:
        return
    if kind.allowed is not None:
        _check_numbers(name, value, kind, kind.allowed)
    elif jax.Array in kind.types and np.ndarray not in kind.types:  # no other arrays are asked for
        _check_key(name, value)
    elif np.ndarray in kind.types:
        if not np.issubdtype(np.asarray(value).dtype, np.number):
            raise InputError(f"{name} {_short(value)} is no array of numbers: give one")
    elif kind.types and not any(_is(value, x) for x in kind.types):
        wanted = " or ".join(x.__name__ for x in kind.types if x is not NoneType)
        raise InputError(f"{name} {_short(value)} is a {type(value).__name__}: give a {wanted}")


def _check_key(name: str, value: Any) -> None:
    dtype = getattr(value, "dtype", np.dtype(object))
    if np.shape(value) or not jax.numpy.issubdtype(dtype, jax.dtypes.prng_key):
        raise InputError(f"{name} {_short(value)} is no key: give jax.random.key(0), for example")


def _is(value: object, kind: type) -> bool:
    if not getattr(kind, "_is_protocol", False):
        return isinstance(value, kind)
    members = {*vars(kind), *vars(kind).get("__annotations__", {})}
    return all(hasattr(value, name) for name in members if not name.startswith("_"))


def _check_numbers(name: str, value: object, kind: _Kind, allowed: Range) -> None:
    if tuple in kind.types and not isinstance(value, tuple):  # settings are keys of caches
        raise InputError(f"{name} {_short(value)} is a {type(value).__name__}: give a tuple")
    elements = [value] if set(kind.types) <= {int, float, NoneType} else list(_elements(value))
    if tuple in kind.types and len(elements) > allowed.most:
        raise InputError(f"{name} has {len(elements)} elements: give at most {allowed.most}")
    for element in elements:
        if isinstance(element, str) and kind.texts:
            continue
        if isinstance(element, np.ndarray | jax.Array) and element.ndim == 0:
            element = element.item()
        problem = _problem(element, allowed)
        if problem is not None:
            raise InputError(f"{name} {_short(element)} is {problem}")


def _problem(value: Any, allowed: Range) -> str | None:
    """What is wrong with a number, and the remedy."""
    kind, wanted = (numbers.Integral, "integer") if allowed.whole else (numbers.Real, "number")
    if not isinstance(value, kind) or isinstance(value, bool):
        return f"no {wanted}: give one in {allowed}"
    if value in allowed:
        return None
    if allowed.whole and value < allowed.low:
        return f"below {allowed.low}: give one in {allowed}"
    return f"outside {allowed}: give one inside"


def _elements(value: object) -> Iterator[Any]:
    """The elements of lists inside of lists, and of arrays."""
    if isinstance(value, np.ndarray | jax.Array) and value.ndim:
        value = np.asarray(value).ravel().tolist()
    if isinstance(value, tuple | list):
        for part in value:
            yield from _elements(part)
    else:
        yield value


def _short(value: object) -> str:
    """On one line."""
    text = " ".join((repr(value) if isinstance(value, str) else str(value)).split())
    return text if len(text) <= 60 else text[:57] + "..."
