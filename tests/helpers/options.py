"""Reading options as the scripts do, and what values an option can have."""

import dataclasses
from typing import Any, Literal, get_args, get_origin, get_type_hints

from hypothesis import strategies as st

from kqv.options.command_line import read_arguments
from kqv.options.settings import SampleSettings, TrainSettings

TYPES = {
    field.name: get_type_hints(TrainSettings)[field.name]
    for field in dataclasses.fields(TrainSettings)
    if field.name != "val_text"
}
"""The options of train.py that are settings, with their types, but for one that collects."""
FINITE: dict[str, Any] = {"allow_nan": False, "allow_infinity": False}


def train_options(*arguments: str) -> dict[str, Any]:
    """The options of train.py that a command line without texts sets."""
    options, words = read_arguments(TrainSettings, arguments)
    assert words == []
    return options


def sample_options(*arguments: str) -> dict[str, Any]:
    """The options of sample.py that a command line sets."""
    options, words = read_arguments(SampleSettings, arguments)
    assert words == []
    return options


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    """All values of a type of option."""
    if get_origin(hint) is Literal:
        return st.sampled_from(get_args(hint))
    if members := get_args(hint):
        return st.one_of(*map(values_of, members))
    plain = {bool: st.booleans(), int: st.integers(), float: st.floats(**FINITE), str: st.text()}
    return plain[hint]


def is_a(value: Any, hint: Any) -> bool:
    """Whether a value is one of a type of option, and nothing that merely behaves like one."""
    if get_origin(hint) is Literal:
        return isinstance(value, str) and value in get_args(hint)
    if members := get_args(hint):
        return any(is_a(value, member) for member in members)
    return type(value) is hint
