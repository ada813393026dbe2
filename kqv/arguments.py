"""The command line: options, config files and other words, from left to right, a later one wins.

    python train.py novel.txt config/small.py --n_layer=8

A word ending in `.py` is a config file: Python that is run once, whose plain names are assignments
(`n_layer = 8`). Only what was really given is returned, so that a resumed run can put it over the settings of
its checkpoint.
"""

import ast
import contextlib
import difflib
import io
import math
import os
import runpy
import shlex
import shutil
import sys
import traceback
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_origin, get_type_hints

import tyro  # a dataclass in, `--help`, conversions and choices out; small, typed, imports in 60 ms

from kqv.errors import UserError
from kqv.settings import NANOGPT, NANOGPT_FIXED

SYNONYMS = {"defaults": "like"}  # in a config file `defaults = "nanogpt"` reads better

# A config file that sets two of these is nanoGPT's: they are what its files set and what a tweak of
# kqv's seldom does. Each of its files sets wandb_log; kqv needs no lr_decay_iters.
NANOGPT_SIGNS = (
    "wandb_log", "eval_only", "always_save_checkpoint", "decay_lr", "lr_decay_iters", "min_lr"
)  # fmt: skip

# Options of the model and the optimizer that nanoGPT lacks: who sets one means kqv's.
FAMILY = (
    *NANOGPT_FIXED, "rope_base", "mlp_width", "attention_scale", "attention_score", "mask",
    "window", "muon_learning_rate", "muon_momentum", "cooldown",
)  # fmt: skip

_CONFIG = (tyro.conf.FlagConversionOff,)


def read_arguments(settings_class: type, arguments: Sequence[str], positional: str = "") -> tuple[dict[str, Any], list[str]]:
    """Read a command line into the options it sets and the words that are neither option nor config file.

    `positional` names those words in `--help`. Raises UserError for a name that is no option or a value
    of the wrong type. Exits with status 0 after `--help`.

    >>> read_arguments(TrainSettings, ["novel.txt", "--n_layer=8"])
    ({'n_layer': 8}, ['novel.txt'])
    """
    given: dict[str, Any] = {}
    words: list[str] = []
    queue = list(arguments)
    while queue:
        word = queue.pop(0)
        if word in ("-h", "--help"):
            usage = f"{Path(sys.argv[0]).name} {positional}".strip()
            tyro.cli(settings_class, args=["--help"], prog=usage, config=_CONFIG, use_underscores=True)
        elif word.startswith("--"):
            name, has_value, text = word[2:].partition("=")
            name = name.replace("-", "_")
            name = SYNONYMS.get(name, name)
            _check_name(settings_class, name, where=word)
            if not has_value:
                text = _separate_value(settings_class, name, queue)
            value = _convert(settings_class, name, text, where=f"--{name}={text}")
            # an option that collects (`stop`) adds to what is there
            given[name] = given.get(name, ()) + value if isinstance(value, tuple) else value
        elif word.endswith(".py"):
            given.update(_read_config(settings_class, Path(word)))
        else:
            words.append(word)
    return given, words


def read_settings(settings_class: type, arguments: Sequence[str], instead: str) -> tuple[Any, dict[str, Any]]:
    """The settings of a script that takes options and config files only, and those of them that were given. `instead` says
    how to write what a word alone could mean, with {} for the word.

    Raises UserError as `read_arguments` does, and for a word that is neither.
    """
    given, words = read_arguments(settings_class, arguments, "[CONFIG.py ...]")
    if words:
        raise UserError(f"{words[0]!r} is neither an option nor a config file: {instead.format(words[0])}")
    return settings_class(**given), given


def take_nanogpt_defaults(arguments: Sequence[str], given: dict[str, Any]) -> str:
    """Add like=nanogpt to `given` if a config file among the arguments is nanoGPT's, which relies
    on nanoGPT's defaults. Returns the line that says so, or "".

    Not where `like` was given, nor where another file or option sets a model or optimizer that
    nanoGPT lacks. A resumed run takes all settings from its checkpoint.
    """
    files = [word for word in arguments if word.endswith(".py") and not word.startswith("--")]
    signs = {file: _nanogpt_signs(Path(file)) for file in files}
    path = next((file for file in files if signs[file]), None)
    if path is None or "like" in given or given.get("init_from") == "resume":
        return ""
    reason = (
        f"{path} is a config file of nanoGPT's (it sets {', '.join(signs[path])}, "
        f"and nothing that nanoGPT lacks)"
    )
    if ours := [name for name in given if name in FAMILY]:
        return (
            f"{reason}, but {ours[0]} is an option of kqv's: kqv's defaults are taken; "
            f"for nanoGPT's add --like=nanogpt"
        )
    given["like"] = "nanogpt"
    return f"{reason}: nanoGPT's defaults are taken; for kqv's add --like=kqv"


def _nanogpt_signs(path: Path) -> list[str]:
    """The signs that a config file is nanoGPT's; none if it sets anything that nanoGPT lacks."""
    try:
        assigned = {name for name in _assigned(path) if not name.startswith("_")}
    except (OSError, SyntaxError, ValueError):  # the value of an option, and no config file
        return []
    signs = [name for name in NANOGPT_SIGNS if name in assigned]
    return signs if len(signs) > 1 and assigned <= NANOGPT.keys() else []


def check_types(settings_class: type, options: dict[str, Any], path: Path) -> None:
    """Raises UserError naming the checkpoint at `path` that the options come from if one of them is of the wrong type."""
    for name, hint in get_type_hints(settings_class).items():
        if name in options and not any(_is_a(kind, options[name]) for kind in _alternatives(hint)):
            raise UserError(f"{path} has {name}={str(options[name])[:50]}, and {name} takes {_describe(hint)}")


def shell_command(script: str, *options: str, launcher: Sequence[str] = ()) -> str:
    """A command line that works where this one did: the same Python, the same folder. Python starts the `launcher` if there is
    one, and that the script."""
    python = "python" if shutil.which("python") == sys.executable else sys.executable
    here = os.getcwd() + os.sep
    path = str(Path(__file__).parent.parent / script).removeprefix(here)
    return shlex.join([python.removeprefix(here), *launcher, path, *options])


def _is_a(kind: Any, value: Any) -> bool:
    """Whether a value is of a type, or is the word that a Literal allows."""
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is kind if isinstance(kind, type) else type(value) is str and value == kind


def _separate_value(settings_class: type, name: str, queue: list[str]) -> str:
    """The value of `--name value` or, for a switch, `--name`."""
    alternatives = _alternatives(get_type_hints(settings_class)[name])
    written = ["true", "false", "1", "0", *(word for word in alternatives if isinstance(word, str))]
    if bool in alternatives and (not queue or queue[0].lower() not in written):
        return "True"
    if not queue:
        raise UserError(f"--{name} needs a value: write --{name}=VALUE")
    return queue.pop(0)


def _check_name(settings_class: type, name: str, where: str) -> None:
    """Raises UserError, with the nearest name, if there is no option `name`."""
    names = [field.name for field in fields(settings_class)]
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]}?" if near else "--help lists them all; a config's own names start with _"
        raise UserError(f"{where}: there is no option {name}; {hint}")


def _convert(settings_class: type, name: str, text: str, where: str) -> Any:
    """The value of option `name` written as `text`. Raises UserError if it is none."""
    hint = get_type_hints(settings_class)[name]
    if bool in _alternatives(hint):
        text = {"true": "True", "1": "True", "false": "False", "0": "False"}.get(text.lower(), text)
    try:
        # tyro explains a mistake in a box of several lines; ours is one line.
        with contextlib.redirect_stderr(io.StringIO()):
            parsed: Any = tyro.cli(settings_class, args=[f"--{name}={text}"], config=_CONFIG, use_underscores=True)
    except SystemExit:
        raise UserError(f"{where}: {name} takes {_describe(hint)}") from None
    value = getattr(parsed, name)
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where}: {name} takes a finite number")
    return value


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """The members of a union or a Literal, or the type alone."""
    parts = getattr(hint, "__args__", None) or (hint,)
    return tuple(member for part in parts for member in (_alternatives(part) if hasattr(part, "__args__") else (part,)))


def _describe(hint: Any) -> str:
    """A type in words.

    >>> _describe(Literal["dot", "squared"] | float)
    'dot, squared or a number'
    """
    names = {int: "a whole number", float: "a number", bool: "True or False", str: "text"}
    words = [names.get(member, str(member)) for member in _alternatives(hint)]
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _read_config(settings_class: type, path: Path) -> dict[str, Any]:
    """Run a config file and return the options it assigns. Names starting with `_` are its own business."""
    if not path.is_file():
        near = difflib.get_close_matches(str(path), map(str, path.parent.glob("*.py")), n=1)
        raise UserError(f"no config file {path}" + (f"; did you mean {near[0]}?" if near else ""))
    try:
        namespace = runpy.run_path(str(path))
    except (Exception, SystemExit) as error:  # the file is the user's program: whatever it raises is a mistake in it
        line = error.lineno if isinstance(error, SyntaxError) else _last_line(error, path)
        raise UserError(f"config file {path}, line {line}: {type(error).__name__}: {error}") from None
    # What the file imports (`from math import pi`) is there to make the values; what it assigns must be an option.
    assigned = _assigned(path)
    options: dict[str, Any] = {}
    known = {field.name for field in fields(settings_class)}
    for name, value in namespace.items():
        own = name in assigned and not name.startswith("_")
        name = SYNONYMS.get(name, name)
        if name in known or (own and isinstance(value, int | float | str | tuple | list)):
            where = f"config file {path}: {name} = {value!r}"
            _check_name(settings_class, name, where)
            options[name] = _config_value(settings_class, name, value, where)
    return options


def _assigned(path: Path) -> set[str]:
    """The names that a config file assigns, by its syntax tree: the file is not run."""
    names = (node for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.Name))
    return {name.id for name in names if isinstance(name.ctx, ast.Store)}


def _config_value(settings_class: type, name: str, value: Any, where: str) -> Any:
    """The option `name` assigned as a Python value. Raises UserError if it is of the wrong type."""
    hint = get_type_hints(settings_class)[name]
    if get_origin(hint) is tuple:
        items = value if isinstance(value, tuple | list) else (value,)
        if not all(isinstance(item, str) for item in items):
            raise UserError(f"{where}: {name} takes a text in quotes, or a list of them")
        return tuple(items)
    converted = _convert(settings_class, name, str(value), where)
    if isinstance(value, str) != isinstance(converted, str):
        quotes = "without quotes" if isinstance(value, str) else "in quotes"
        raise UserError(f"{where}: {name} takes {_describe(hint)}, {quotes}")
    return converted


def _last_line(error: BaseException, path: Path) -> int | None:
    """The line of the file at `path` that an error came through last."""
    frames = traceback.extract_tb(error.__traceback__)
    return next((frame.lineno for frame in reversed(frames) if frame.filename == str(path)), None)
