"""Types of options: what an option takes, whether a value fits, and how an error says so."""

import contextlib
import functools
import io
import math
import sys
from collections.abc import Mapping
from dataclasses import InitVar, field, make_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import tyro

from kqv.errors import UserError

TYRO_CONFIG = (tyro.conf.FlagConversionOff,)  # --flag=True, as in nanoGPT, not --flag/--no-flag
LONGEST_QUOTE = 60  # characters of a value that an error quotes

SWITCH_WORDS = {"true": "True", "1": "True", "false": "False", "0": "False"}


def option_types(settings_class: type) -> dict[str, Any]:
    """The type of each option by its name.

    An InitVar is an option too, one that is not kept among the settings.
    """
    hints = get_type_hints(settings_class)
    return {
        name: get_args(hint.type)[0] if isinstance(hint, InitVar) else hint
        for name, hint in hints.items()
    }


def alternatives(hint: Any) -> tuple[Any, ...]:
    """The members of a union and the words of a Literal, or the type itself.

    >>> alternatives(Literal["dot", "squared"] | float)
    ('dot', 'squared', <class 'float'>)
    """
    members: list[Any] = []
    for part in get_args(hint) or (hint,):
        members += alternatives(part) if get_args(part) else [part]
    return tuple(members)


def fits(value: Any, hint: Any) -> bool:
    """Whether a Python value is of an option's type: a whole number is fine for a float."""
    if get_origin(hint) is tuple:  # an option that may be given several times
        return type(value) is tuple and all(type(each) is str for each in value)
    return any(_is_a(member, value) for member in alternatives(hint))


def _is_a(member: Any, value: Any) -> bool:
    """Whether a value is of a type, or is the word that a Literal allows. False for NaN."""
    if member is float:
        return type(value) in (int, float) and abs(value) <= sys.float_info.max
    if member is int:
        return type(value) is int and abs(value) <= sys.float_info.max
    if isinstance(member, type):
        return type(value) is member
    return type(value) is str and value == member


def check_types(settings_class: type, values: Mapping[str, Any], path: Path | None = None) -> None:
    """Raises UserError for the first value that is not of its option's type.

    `path` is the file that the values were read from, if there is one.
    """
    for name, hint in option_types(settings_class).items():
        if name in values and not fits(values[name], hint):
            source = f"{path} has " if path else ""
            raise UserError(f"{source}{name}={shown(values[name])}: {name} takes {describe(hint)}")


def convert(settings_class: type, name: str, text: str, where: str) -> Any:
    """The value of option `name` written as `text`.

    Raises UserError, beginning with `where`, if it is none.
    """
    hint = option_types(settings_class)[name]
    if bool in alternatives(hint):
        text = SWITCH_WORDS.get(text.lower(), text)
    try:
        # tyro explains a mistake in a box of several lines; ours is one line.
        with contextlib.redirect_stderr(io.StringIO()):
            parsed: Any = tyro.cli(
                _only(settings_class, name),
                args=[f"--{name}={text}"],
                config=TYRO_CONFIG,
                use_underscores=True,
            )
    except SystemExit:
        advice = ""
        if text.startswith("="):
            advice = "; write no spaces around ="
        elif "," in text:
            advice = "; write 1000 or 0.5, no comma"
        raise UserError(f"{where}: {name} takes {describe(hint)}{advice}") from None
    value = getattr(parsed, name)
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where}: {name} takes a finite number")
    return value


@functools.cache
def _only(settings_class: type, name: str) -> type:
    """A dataclass with one option of the settings, which tyro reads ten times as fast as all."""
    option = settings_class.__dataclass_fields__[name]  # type: ignore[attr-defined]
    hint = option.type.type if isinstance(option.type, InitVar) else option.type
    return make_dataclass("Only", [(name, hint, field(default=option.default))])


def describe(hint: Any) -> str:
    """A type in words.

    >>> describe(Literal["dot", "squared"] | float)
    'dot, squared or a number'
    """
    names = {int: ["a whole number"], float: ["a number"], bool: ["True", "False"], str: ["text"]}
    if get_origin(hint) is tuple:
        return "texts"
    words = [word for member in alternatives(hint) for word in names.get(member, [str(member)])]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def quoted(text: str) -> str:
    """A text that the user wrote, shortened to fit into the line of an error."""
    line = " ".join(text.split()) if len(text.splitlines()) > 1 else text
    return line if len(line) <= LONGEST_QUOTE else line[:LONGEST_QUOTE] + "..."


def shown(value: Any) -> str:
    """A value as Python writes it, on one line; its type if it cannot be written.

    That happens to a number of more than 4,300 digits, and to a class of a config file whose
    `__repr__` fails.
    """
    try:
        return quoted(" ".join(repr(value).split()))
    except Exception:
        number = issubclass(type(value), int)
        return "a number of very many digits" if number else f"({type(value).__name__})"
