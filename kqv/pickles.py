"""Read plain data from a pickle without running anything in it.

A pickle is a program for a stack machine. Python's machine calls whatever the program names;
torch's calls what is on a list, and `bytearray` is on it: 30 bytes can allocate 4 GB. The machine
here knows numbers, strings, lists, tuples and dictionaries, and what its caller hands it, so time
and memory are proportional to the size of the pickle.
"""

import pickle
import pickletools
from collections.abc import Callable, Mapping
from typing import Any

MAX_STEPS = 1 << 20  # opcodes of one pickle; a million take about a second and 100 MB

# Opcodes by what they do: push their argument, push a new value, write or read the memo, ...
_PUSH_ARGUMENT = {
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE", "BINFLOAT", "FLOAT"),
    *("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1"),
}
_PUSH_NEW: dict[str, Callable[[], Any]] = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
}
_PUT = {"BINPUT", "LONG_BINPUT", "PUT"}
_GET = {"BINGET", "LONG_BINGET", "GET"}
_TUPLE_OF = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_COLLECT = {"TUPLE", "LIST", "DICT", "APPENDS", "SETITEMS"}  # take all items above the last mark
_MAKE_OBJECT = {"INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"}
_IGNORE = {"PROTO", "FRAME"}


def read_pickle(
    data: bytes,
    known: Mapping[str, Any] | None = None,
    persistent: Callable[[Any], Any] | None = None,
    max_steps: int = MAX_STEPS,
) -> Any:
    """The data in a pickle of any protocol.

    `known` maps a global ("module name") to a value, or to a function that the pickle may call.
    `persistent` makes a value from a persistent id. Attributes of dictionaries are dropped.

    Raises pickle.UnpicklingError with the name if another global is named, and any other error
    if it is no pickle of plain data, or takes more than `max_steps` opcodes.

    >>> read_pickle(pickle.dumps({"a": [1, (2.5, None)]}))
    {'a': [1, (2.5, None)]}
    """
    machine = _Machine(known or {}, persistent)
    for step, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        if step == max_steps:
            raise ValueError(f"it takes more than {max_steps:,} steps")
        if opcode.name == "STOP":
            (result,) = machine.stack
            return result
        machine.run(opcode.name, argument)
    raise ValueError("it has no end")


class _Machine:
    """The stack machine: a stack, the stacks below each mark, and a memo of values."""

    def __init__(self, known: Mapping[str, Any], persistent: Callable[[Any], Any] | None) -> None:
        self.known = known
        self.persistent = persistent
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[Any, Any] = {}

    def run(self, name: str, argument: Any) -> None:
        """One opcode. Raises for one that makes no plain data."""
        stack = self.stack
        if name in _PUT:
            self.memo[argument] = stack[-1]
        elif name in _PUSH_ARGUMENT:
            stack.append(argument)
        elif name in _GET:
            stack.append(self.memo[argument])
        elif name in _PUSH_NEW:
            stack.append(_PUSH_NEW[name]())
        elif name in _TUPLE_OF:
            stack.append(tuple(self._pop(_TUPLE_OF[name])))
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name == "MARK":
            self.below.append(stack)
            self.stack = []
        elif name in _COLLECT:
            self._collect(name)
        elif name == "APPEND":
            items = self._pop(1)
            _extend(stack[-1], items)
        elif name == "SETITEM":
            items = self._pop(2)
            _update(stack[-1], items)
        else:
            self._run_global(name, argument)

    def _run_global(self, name: str, argument: Any) -> None:
        """The opcodes that name, call or build something, of which only `known` is done."""
        if name in ("GLOBAL", "STACK_GLOBAL"):
            if name == "STACK_GLOBAL":
                argument = "{} {}".format(*self._pop(2))
            if argument not in self.known:
                raise pickle.UnpicklingError(".".join(argument.split())[:100])
            self.stack.append(self.known[argument])
        elif name == "REDUCE":
            function, arguments = self._pop(2)
            # The only callables that can be on the stack are those of `known`.
            self.stack.append(function(*arguments))
        elif name == "BUILD":
            self._pop(1)
            if type(self.stack[-1]) is not dict:
                raise pickle.UnpicklingError("BUILD")
        elif name == "BINPERSID" and self.persistent:
            self.stack.append(self.persistent(self._pop(1)[0]))
        elif name in _MAKE_OBJECT:
            raise pickle.UnpicklingError(name)
        elif name not in _IGNORE:
            raise ValueError(f"{name} makes no plain data")

    def _pop(self, count: int) -> list[Any]:
        if count > len(self.stack):
            raise ValueError("there is less on the stack")
        items = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return items

    def _collect(self, name: str) -> None:
        """Make a container of all items above the last mark, or add them to the one below it."""
        items, self.stack = self.stack, self.below.pop()
        if name == "TUPLE":
            self.stack.append(tuple(items))
        elif name == "LIST":
            self.stack.append(items)
        elif name == "APPENDS":
            _extend(self.stack[-1], items)
        else:
            if name == "DICT":
                self.stack.append({})
            _update(self.stack[-1], items)


def _extend(target: Any, items: list[Any]) -> None:
    if type(target) is not list:
        raise ValueError("only a list has items")
    target.extend(items)


def _update(target: Any, items: list[Any]) -> None:
    keys, values = items[::2], items[1::2]
    # No tuples as keys: hashing deeply nested ones overflows the C stack and ends the process.
    if type(target) is not dict or not all(isinstance(key, str | int | float) for key in keys):
        raise ValueError("only a dictionary has keys, which are strings or numbers")
    target.update(zip(keys, values, strict=True))
