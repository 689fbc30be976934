"""Pickles read without executing anything: what they ask for is remembered, not built.

Every class or function that the pickle names becomes an `Inert`, also numpy's own; `array` reads
numbers back out of what the pickle would have told numpy.
"""

from typing import Any

import numpy as np

from jaxprune.policy_io import unpickle

NUMBERS = ("f2", "f4", "f8", "i4", "i8", "u4", "u8")


class Inert:
    """What a pickle wanted to call, with its arguments and its state."""

    asked = ""  # "module.name"
    args: tuple[Any, ...] = ()
    state: Any = None

    def __new__(cls, *args: object, **kwargs: object) -> "Inert":
        """What calling the class or function comes to."""
        del kwargs
        self = super().__new__(cls)
        self.args = args
        return self

    def __setstate__(self, state: object) -> None:
        self.state = state

    def __setitem__(self, key: object, value: object) -> None:  # dictionaries of other classes
        del key, value

    def extend(self, items: Any) -> None:
        """Lists of other classes: their items are dropped."""
        del items


class _Unpickler(unpickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        return stand_in(f"{module_name}.{global_name}")


def stand_in(asked: str) -> type[Inert]:
    """A class of its own, so that what one pickle does to it reaches nothing else."""
    return type("Inert", (Inert,), {"asked": asked})


def load(data: bytes) -> Any:
    """What the pickle holds; anything but plain Python values is an `Inert`."""
    return _Unpickler(data).load()


def array(value: Any) -> np.ndarray:
    """The numbers of a pickled Python number, numpy scalar, or array of numpy or JAX.

    Raises:
        ValueError, TypeError: it is something else.
    """
    if isinstance(value, int | float):  # shared lists in lists would make arrays without end
        return np.asarray(value, np.float64)
    if not isinstance(value, Inert):
        raise TypeError(f"{type(value).__name__} is no number")
    match value.asked.rpartition(".")[2]:
        case "scalar":  # multiarray.scalar(dtype, bytes)
            dtype, data = value.args
            shape, order = (), "C"
        case "_reconstruct":  # state: version, shape, dtype, whether Fortran order, bytes
            _, shape, dtype, fortran, data = value.state
            order = "F" if fortran else "C"
        case "_reconstruct_array" | "reconstruct_device_array":  # of JAX: numpy's, and its type
            _, shape, dtype, fortran, data = value.args[2]
            order = "F" if fortran else "C"
        case "_frombuffer":  # numeric._frombuffer(bytes, dtype, shape, order)
            data, dtype, shape, order = value.args
        case other:
            raise TypeError(f"{other} is no array")
    return np.frombuffer(_bytes(data), _dtype(dtype)).reshape(shape, order=order)


def _bytes(value: Any) -> Any:
    """Bytes as they are, or as protocol 2 has them: _codecs.encode(text, "latin1")."""
    if isinstance(value, Inert) and value.asked == "_codecs.encode":
        return value.args[0].encode("latin1")
    return value


def _dtype(value: Inert) -> np.dtype:
    """numpy.dtype("f8", False, True) with state (3, "<", ...): the name and its byte order."""
    name, order = value.args[0], value.state[1]
    if name not in NUMBERS or order not in ("<", ">", "=", "|"):
        raise TypeError("no type of numbers")
    return np.dtype(order + name)
