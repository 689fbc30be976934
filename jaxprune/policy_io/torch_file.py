"""State dicts that torch.save wrote, read without PyTorch and without executing anything.

The file is a zip archive: `NAME/data.pkl` pickles a dictionary whose tensors point at the raw
numbers in `NAME/data/KEY`. The unpickler knows the five things such a dictionary is made of and
refuses all others; they build descriptions, which become arrays afterwards.
"""

import itertools
import math
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxprune.policy_io import inert, unpickle
from jaxprune.policy_io.files import Archive
from jaxprune.validation import InputError

# How a file of before PyTorch 1.6 starts: a pickle of a fixed number.
OLD_FORMAT = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
MAX_AXES = 32  # as numpy has
MAX_ENTRIES = 100  # of a checkpoint; a pickle may name one large dictionary under each of them
SAVE_ALONE = "torch.save(agent.state_dict(), FILE) and nothing else"
ITEMS = {"FloatStorage": "f4", "DoubleStorage": "f8", "HalfStorage": "f2"}


def old_format(source: str | Path) -> str:
    """The message for a file in PyTorch's format of before 1.6."""
    return (
        f"policy file {source} is in PyTorch's format of before version 1.6: load it there and "
        "torch.save the state dict again, in the default format, or write it with safetensors"
    )


def read_state_dict(data: bytes, source: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a state dict by name; a broken file raises anything.

    Args:
        data: what the file holds.
        source: what to call it in messages.

    Raises:
        InputError: it holds no state dict, alone or as the only one of a checkpoint such as
            {"model_weights": ..., "args": ...}, or is in the old format.
    """
    if data.startswith(OLD_FORMAT):
        raise InputError(old_format(source))
    with Archive(data, source) as archive:
        root = _root(archive)
        held = _Unpickler(archive.read(f"{root}data.pkl"), source).load()
        return _arrays(_state_dict(held, source), archive, root)


def read_checkpoint(
    data: bytes, parts: Sequence[str], source: str | Path
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, Any]]:
    """The state dicts of a checkpoint by their names in it, and what else it holds.

    Objects of other classes are `Inert`: they remember what the pickle says of them. A broken file
    raises anything.

    Args:
        data: what the file holds.
        parts: names of state dicts; one that is not there is empty.
        source: what to call it in messages.
    """
    with Archive(data, source) as archive:
        root = _root(archive)
        held = _CheckpointUnpickler(archive.read(f"{root}data.pkl"), source).load()
        found = {name: _arrays(held.pop(name, {}), archive, root) for name in parts}
        return found, held


class _Tensor(NamedTuple):
    """What the pickle says of a tensor, unverified."""

    item: str  # numpy's name of the type, without the byte order
    key: str  # of the file with the numbers
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _StateDict(dict[Any, Any]):
    """Stands for an OrderedDict; modules attach a version number to theirs, which is dropped."""

    def __setstate__(self, state: object) -> None:
        del state


class _Builder:
    """A callable for the unpickler that a pickle cannot alter."""

    def __init__(self, build: Callable[..., Any]):
        self.build = build

    def __call__(self, *args: object) -> Any:
        return self.build(*args)

    def __setstate__(self, state: object) -> None:
        del state


def _ordered_dict() -> _StateDict:
    return _StateDict()


def _tensor(
    storage: tuple[str, str], offset: int, size: Any, stride: Any, grad: bool, hooks: object
) -> _Tensor:
    del grad, hooks
    # Shapes that a pickle shares among its tensors, or nests, must not add up.
    if len(size) > MAX_AXES or not all(isinstance(n, int) for n in (*size, *stride)):
        raise ValueError("no shape")
    return _Tensor(*storage, offset, size, stride)


def _parameter(tensor: _Tensor, grad: bool, hooks: object) -> _Tensor:
    del grad, hooks
    return tensor


BUILDERS = {
    "collections.OrderedDict": _Builder(_ordered_dict),
    "torch._utils._rebuild_tensor_v2": _Builder(_tensor),
    "torch._utils._rebuild_parameter": _Builder(_parameter),
}


class _Unpickler(unpickle.Unpickler):
    """Builds `_Tensor`s and dictionaries of them."""

    def __init__(self, data: bytes, source: str | Path):
        super().__init__(data)
        self.source = source

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """The builder behind a name of the pickle; for a storage, the type of its items."""
        asked = f"{module_name}.{global_name}"
        if asked in BUILDERS:
            return BUILDERS[asked]
        if module_name == "torch" and global_name in ITEMS:
            return ITEMS[global_name]
        raise InputError(
            f"policy file {self.source} asks for {asked!r}, and a state dict is made of "
            f"{', '.join(ITEMS)} only: nothing was executed; save agent.state_dict() as floats"
        )

    def persistent_load(self, pid: Any) -> tuple[str, str]:
        """Where a tensor's numbers are: ("storage", type, key, device, length) -> (type, key)."""
        kind, item, key, _, _ = pid
        if kind != "storage":
            raise ValueError("unknown persistent id")
        if not (isinstance(item, str) and isinstance(key, str)):
            raise ValueError("a storage without type or name")
        return item, key


class _CheckpointUnpickler(_Unpickler):
    """Builds stand-ins for what a state dict is not made of."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """A builder, the type of a storage's items ("": not known), or an `Inert` class."""
        asked = f"{module_name}.{global_name}"
        if module_name == "torch" and global_name.endswith("Storage"):
            return ITEMS.get(global_name, "")
        return BUILDERS.get(asked) or inert.stand_in(asked)


def _root(archive: Archive) -> str:
    """What the names of all members start with."""
    (root,) = (n.removesuffix("data.pkl") for n in archive.names if _is_pickle(n))
    return root


def _state_dict(held: object, source: str | Path) -> dict[str, _Tensor]:
    """The tensors by name: all that a file holds, or the one dictionary of them in a checkpoint.

    Raises:
        InputError: there is none, or more than one.
    """
    if not isinstance(held, dict):
        raise InputError(f"policy file {source} is no state dict: {SAVE_ALONE}")
    strangers = [name for name, value in held.items() if not isinstance(value, _Tensor)]
    if not strangers:
        return held
    inner = {
        name: value
        for name, value in itertools.islice(held.items(), MAX_ENTRIES)
        if isinstance(value, dict) and value and all(isinstance(x, _Tensor) for x in value.values())
    }
    if len(inner) == 1 and len(strangers) == len(held) <= MAX_ENTRIES:
        return next(iter(inner.values()))
    found = "is no tensor" if len(inner) < 2 else "is one of several dictionaries of tensors"
    raise InputError(
        f"policy file {source} is no state dict ({(list(inner) or strangers)[0]!r} {found}): "
        f"{SAVE_ALONE}"
    )


def _arrays(named: dict[str, _Tensor], archive: Archive, root: str) -> dict[str, np.ndarray]:
    order = ">" if _is_big_endian(archive, root) else "<"
    return {name: _array(tensor, archive, root, order) for name, tensor in named.items()}


def _array(tensor: _Tensor, archive: Archive, root: str, order: str) -> np.ndarray:
    """The numbers of a tensor; numpy checks that size and strides stay inside them."""
    item = np.dtype(order + tensor.item)
    numbers = archive.read(f"{root}data/{tensor.key}")
    if math.prod(tensor.size) * item.itemsize > len(numbers):
        raise ValueError(f"{tensor.size} is more than {len(numbers)} bytes hold")
    strides = [item.itemsize * step for step in tensor.stride]
    view = np.ndarray(tensor.size, item, numbers, item.itemsize * tensor.offset, strides)
    return view.astype(item.newbyteorder("="))


def _is_pickle(name: str) -> bool:
    return name.endswith("/data.pkl")


def _is_big_endian(archive: Archive, root: str) -> bool:
    name = f"{root}byteorder"
    return name in archive.names and archive.read(name) == b"big"
