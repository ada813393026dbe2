"""The command line: options, config files and other words, in any order; a later one wins.

    python train.py novel.txt config/small.py --n_layer=8

A word ending in `.py` is a config file (see config_files.py). Only the options that were really
given are returned, so that a resumed run can put them over the settings of its checkpoint.
"""

import importlib.metadata
import os
import platform
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import tyro  # makes --help, conversions and choices from a dataclass; imports in 60 ms

from kqv import __version__
from kqv.errors import UserError
from kqv.options.aliases import SYNONYMS, check_name, meant_option, script_name
from kqv.options.config_files import read_config
from kqv.options.option_types import TYRO_CONFIG, alternatives, convert, option_types, quoted
from kqv.run_files import LATEST


def read_arguments(
    settings_class: type, arguments: Sequence[str], positional: str = "", instead: str = ""
) -> tuple[dict[str, Any], list[str]]:
    """The options that a command line sets, and its words that are neither option nor config file.

    The values of an option that is no setting (`--text=`) are among the words. `positional` names
    the words in `--help`; `instead` says what else a .py file could be for, with {} for the file.
    Raises UserError for a name that is no option or a value of the wrong type. Exits with status 0
    after `--help` and `--version`.

    >>> read_arguments(TrainSettings, ["novel.txt", "--n_layer=8"])
    ({'n_layer': 8}, ['novel.txt'])
    """
    given: dict[str, Any] = {}
    words: list[str] = []
    settings = {field.name for field in fields(settings_class)}
    for name, text in _split(settings_class, arguments):
        if name and name not in settings:
            words.append(_not_empty(text))
        elif name:
            value = convert(settings_class, name, text, where=f"--{name}={quoted(text)}")
            if isinstance(value, tuple):  # an option that collects (`stop`)
                value = given.get(name, ()) + value
            given[name] = value
        elif text in ("-h", "--help"):
            _print_help(settings_class, positional)
        elif text == "--version":
            print(_versions())
            raise SystemExit(0)
        elif is_config(text):
            options = read_config(settings_class, Path(text), instead)
            for not_kept in options.keys() - settings:
                words += map(_not_empty, options.pop(not_kept))
            given |= options
        else:
            _check_word(settings_class, text)
            words.append(_not_empty(text))
    return given, words


def read_settings(
    settings_class: type, arguments: Sequence[str], prompt: str = ""
) -> tuple[Any, dict[str, Any]]:
    """The settings of a script that takes options and config files only, and which were given.

    `prompt` is the option, if there is one, whose value a word alone could be. Raises UserError as
    `read_arguments` does, and for a word that is neither option nor config file.
    """
    as_file = f"a prompt in a file is given as --{prompt}=FILE:{{}}" if prompt else ""
    given, words = read_arguments(settings_class, arguments, "[CONFIG.py ...]", as_file)
    if words:
        word = shlex.quote(words[0])
        instead = f"a prompt is given as --{prompt}={word}"
        if not prompt or os.path.isdir(words[0]) or words[0].endswith(".pt"):
            instead = f"a checkpoint is named by --out_dir={word}"
        elif os.path.isfile(words[0]):
            instead = as_file.format(word)
        raise UserError(f"{quoted(words[0])!r} is neither an option nor a config file: {instead}")
    return settings_class(**given), given


def split_configs(settings_class: type, arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The config files of a command line, and all its other words.

    Raises UserError for a name that is no option.
    """
    configs: list[str] = []
    others: list[str] = []
    for name, text in _split(settings_class, arguments):
        if name:
            others.append(f"--{name}={text}")
        else:
            (configs if is_config(text) else others).append(text)
    return configs, others


def is_config(word: str) -> bool:
    """Whether a word of the command line names a config file, and no Python file on the web."""
    return word.endswith(".py") and "://" not in word


def _split(settings_class: type, arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The options of a command line as (name, value), and its other words as ("", word)."""
    queue = list(arguments)
    while queue:
        word = queue.pop(0)
        if not word.startswith("--") or word in ("--help", "--version"):
            yield "", word
            continue
        name, has_value, text = word[2:].partition("=")
        name = name.replace("-", "_")
        name = SYNONYMS.get(name, name)
        check_name(settings_class, name, where=quoted(word))
        yield name, text if has_value else _separate_value(settings_class, name, queue)


def _separate_value(settings_class: type, name: str, queue: list[str]) -> str:
    """The value of `--name value` or, for a switch, `--name`."""
    members = alternatives(option_types(settings_class)[name])
    switch_values = ["true", "false", "1", "0", *(m for m in members if isinstance(m, str))]
    if bool in members and (not queue or queue[0].lower() not in switch_values):
        return "True"
    if not queue:
        raise UserError(f"--{name} needs a value: write --{name}=VALUE")
    return queue.pop(0)


def _check_word(settings_class: type, word: str) -> None:
    """Refuse a checkpoint as a text, and a word that is no file but much like an option."""
    if word == "-" or not word:
        return
    is_checkpoint = word.endswith(".pt") or os.path.exists(Path(word) / LATEST)
    if "dataset" in option_types(settings_class) and is_checkpoint:
        raise UserError(
            f"{word} is a checkpoint, not a text; to start from it write --init_from={word}"
        )
    if not os.path.exists(word) and (option := meant_option(settings_class, word)):
        raise UserError(f"there is no file {quoted(word)}; to set an option write {option}")


def _not_empty(word: str) -> str:
    """Refuse an empty name, which a path would take for the current folder."""
    if not word:
        raise UserError("the name of a text is empty: is a variable of the shell not set?")
    return word


def _print_help(settings_class: type, positional: str) -> None:
    """Print --help and exit with status 0."""
    usage = f"{script_name()} {positional}".strip()
    tyro.cli(settings_class, args=["--help"], prog=usage, config=TYRO_CONFIG, use_underscores=True)


def _versions() -> str:
    """What a bug report needs, without importing torch."""
    try:
        torch = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        torch = "not installed"
    return f"kqv {__version__}, torch {torch}, Python {platform.python_version()}"
