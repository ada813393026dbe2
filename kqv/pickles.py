"""Plain data out of a pickle, read by a machine that can make nothing else.

A pickle is a program for a machine with a stack. Python's machine calls whatever the program names.
torch's calls what is on a list, and the list has `bytearray`: 30 bytes take 4 GB. This one knows
numbers, texts, lists, tuples, dictionaries, and what its caller hands it: its time and its memory
are in proportion to the pickle.
"""

import pickle
import pickletools
from collections.abc import Callable, Mapping
from typing import Any

MOST_STEPS = 1 << 20  # of one pickle; a million take about a second and 100 MB

# What pushes its own argument, and what pushes a new value.
_VALUES = {
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE", "BINFLOAT", "FLOAT"),
    *("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1"),
}
_NEW: dict[str, Callable[[], Any]] = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
}
_PUT = {"BINPUT", "LONG_BINPUT", "PUT"}
_GET = {"BINGET", "LONG_BINGET", "GET"}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_CODE = {"INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"}  # make objects


def read_pickle(
    data: bytes,
    known: Mapping[str, Any] | None = None,
    persistent: Callable[[Any], Any] | None = None,
    most: int = MOST_STEPS,
) -> Any:
    """The data in a pickle of any protocol that takes at most so many steps.

    `known` has what a name ("module name") stands for: a value, or a function that may be called.
    `persistent` makes what a persistent id stands for. Attributes of dictionaries are left out.

    Raises pickle.UnpicklingError if another name is named, with the name, and any other error for
    what is no pickle of plain data.

    >>> read_pickle(pickle.dumps({"a": [1, (2.5, None)]}))
    {'a': [1, (2.5, None)]}
    """
    stack: list[Any] = []
    below: list[list[Any]] = []  # the stacks under each mark
    memo: dict[Any, Any] = {}
    argument: Any

    def popped(count: int) -> list[Any]:
        if count > len(stack):
            raise ValueError("there is less on the stack")
        items = stack[len(stack) - count :]
        del stack[len(stack) - count :]
        return items

    for step, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        name = opcode.name
        if step == most:
            raise ValueError(f"it takes more than {most:,} steps")
        if name in _PUT:
            memo[argument] = stack[-1]
        elif name in _VALUES:
            stack.append(argument)
        elif name in _GET:
            stack.append(memo[argument])
        elif name in _NEW:
            stack.append(_NEW[name]())
        elif name in _TUPLES:
            stack.append(tuple(popped(_TUPLES[name])))
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name == "MARK":
            below.append(stack)
            stack = []
        elif name in ("TUPLE", "LIST", "DICT", "APPENDS", "SETITEMS"):
            items, stack = stack, below.pop()
            if name == "TUPLE":
                stack.append(tuple(items))
            elif name == "LIST":
                stack.append(items)
            elif name == "APPENDS":
                _extend(stack[-1], items)
            else:
                if name == "DICT":
                    stack.append({})
                _set(stack[-1], items)
        elif name == "APPEND":
            items = popped(1)
            _extend(stack[-1], items)
        elif name == "SETITEM":
            items = popped(2)
            _set(stack[-1], items)
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            if name == "STACK_GLOBAL":
                argument = "{} {}".format(*popped(2))
            if not known or argument not in known:
                raise pickle.UnpicklingError(".".join(argument.split())[:100])
            stack.append(known[argument])
        elif name == "REDUCE":
            function, arguments = popped(2)
            # Of what can be on the stack, only the functions of `known` can be called.
            stack.append(function(*arguments))
        elif name == "BUILD":
            popped(1)
            if type(stack[-1]) is not dict:
                raise pickle.UnpicklingError("BUILD")
        elif name == "BINPERSID" and persistent:
            stack.append(persistent(popped(1)[0]))
        elif name == "STOP":
            (result,) = stack
            return result
        elif name in _CODE:
            raise pickle.UnpicklingError(name)
        elif name not in ("PROTO", "FRAME"):
            raise ValueError(f"{name} makes no plain data")
    raise ValueError("it has no end")


def _extend(target: Any, items: list[Any]) -> None:
    if type(target) is not list:
        raise ValueError("only a list has items")
    target.extend(items)


def _set(target: Any, items: list[Any]) -> None:
    keys, values = items[::2], items[1::2]
    # No tuples: the hash of nested ones goes as deep as they do, which ends the process.
    if type(target) is not dict or not all(isinstance(key, str | int | float) for key in keys):
        raise ValueError("only a dictionary has keys, which are texts or numbers")
    target.update(zip(keys, values, strict=True))
