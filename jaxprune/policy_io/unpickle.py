"""Pickles of strangers, read in bounded memory and time; nothing that they name is imported.

Python's own unpickler takes what a pickle says for true: nine bytes make it allocate gigabytes, and
nested tuples that are keys of a dictionary keep it hashing for ever. Here every operation makes at
most one object, no larger than the bytes it was read from, and there are few of them.
"""

import pickletools
from typing import Any

MAX_BYTES = 2**26
MAX_OPERATIONS = 20_000  # of what is read here the largest has a few thousand
MAX_ARGUMENTS = 100

_MARK = object()
_NUMBERS = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT")
_TEXTS = ("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")
_BYTES = ("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8")
_OLD_TEXTS = ("STRING", "BINSTRING", "SHORT_BINSTRING")
_ARGUMENT = frozenset((*_NUMBERS, *_TEXTS, *_BYTES, *_OLD_TEXTS))
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_EMPTY = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": list}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_NOTHING = frozenset(("PROTO", "FRAME"))


class Unpickler:
    """Reads one pickle, as `pickle.Unpickler` does, with the same two methods to override.

    Sets become lists or tuples of their items. Only what `find_class` returned is ever called.
    """

    def __init__(self, data: bytes):
        self._data = data
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """Returns what stands for a class or function."""
        raise ValueError(f"{module_name}.{global_name} is not known")

    def persistent_load(self, pid: object) -> Any:
        """Returns what stands for an object that is kept outside of the pickle."""
        raise ValueError("nothing is kept outside of this pickle")

    def load(self) -> Any:
        """Returns what the pickle holds.

        Raises:
            Exception: of any kind, if it is damaged, too large, or uses operations or keys of
                dictionaries that no file read here needs.
        """
        if len(self._data) > MAX_BYTES:
            raise ValueError(f"a pickle of more than {MAX_BYTES} bytes")
        for count, (operation, argument, _) in enumerate(pickletools.genops(self._data)):
            if count >= MAX_OPERATIONS:
                raise ValueError(f"a pickle of more than {MAX_OPERATIONS} operations")
            if operation.name == "STOP":
                break
            self._execute(operation.name, argument)
        return self._pop()

    def _execute(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in _ARGUMENT:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in _TUPLES:
            items = [self._pop() for _ in range(_TUPLES[name])]
            stack.append(tuple(reversed(items)))
        elif name not in _NOTHING:
            self._execute_rest(name, argument)

    def _execute_rest(self, name: str, argument: Any) -> None:
        stack, memo = self._stack, self._memo
        match name:
            case "MARK":
                stack.append(_MARK)
            case "POP":
                stack.pop()
            case "POP_MARK":
                self._pop_to_mark()
            case "DUP":
                stack.append(self._top())
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memo[argument] = self._top()
            case "MEMOIZE":
                memo[len(memo)] = self._top()
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "TUPLE" | "FROZENSET":
                stack.append(tuple(self._pop_to_mark()))
            case "LIST":
                stack.append(self._pop_to_mark())
            case "DICT":
                items = self._pop_to_mark()
                stack.append({})
                self._set_items(items)
            case "APPEND":
                item = self._pop()
                self._top().extend([item])
            case "APPENDS" | "ADDITEMS":
                items = self._pop_to_mark()
                self._top().extend(items)
            case "SETITEM":
                value, key = self._pop(), self._pop()
                self._set_items([key, value])
            case "SETITEMS":
                self._set_items(self._pop_to_mark())
            case "GLOBAL":
                stack.append(self.find_class(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                global_name, module_name = self._pop(), self._pop()
                if not (isinstance(module_name, str) and isinstance(global_name, str)):
                    raise ValueError("a class whose name is no text")
                stack.append(self.find_class(module_name, global_name))
            case "INST":
                called = self.find_class(*argument.split(" ", 1))
                self._call(called, tuple(self._pop_to_mark()))
            case "OBJ":
                called, *arguments = self._pop_to_mark()
                self._call(called, tuple(arguments))
            case "REDUCE" | "NEWOBJ":
                arguments, called = self._pop(), self._pop()
                self._call(called, arguments)
            case "NEWOBJ_EX":
                _, arguments, called = self._pop(), self._pop(), self._pop()
                self._call(called, arguments)
            case "BUILD":
                state, built = self._pop(), self._top()
                type(built).__setstate__(built, state)
            case "PERSID" | "BINPERSID":
                stack.append(self.persistent_load(self._pop() if name != "PERSID" else argument))
            case _:
                raise ValueError(f"{name} has no place in this pickle")

    def _top(self) -> Any:
        if self._stack[-1] is _MARK:
            raise ValueError("a mark where a value belongs")
        return self._stack[-1]

    def _pop(self) -> Any:
        top = self._top()
        del self._stack[-1]
        return top

    def _pop_to_mark(self) -> list[Any]:
        """Takes away the values above the last mark, and the mark."""
        items: list[Any] = []
        while (item := self._stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    def _call(self, called: Any, arguments: Any) -> None:
        # The same arguments can be handed out again and again, and each call copies them.
        if not isinstance(arguments, tuple) or len(arguments) > MAX_ARGUMENTS:
            raise ValueError("arguments that are no short tuple")
        self._stack.append(called(*arguments))

    def _set_items(self, items: list[Any]) -> None:
        """Sets keys and values, which alternate, in what is on top."""
        top = self._top()
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Hashing a container is not bounded, and equal hashes of long numbers can be forged.
            if not (isinstance(key, str) or (isinstance(key, int) and key.bit_length() <= 64)):
                raise ValueError(f"a key of type {type(key).__name__}")
            top[key] = value
