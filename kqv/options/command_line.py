"""The command line: options, config files and other words, from left to right, a later one wins.

    python train.py novel.txt config/small.py --n_layer=8

A word ending in `.py` is a config file: Python that is run once, whose plain names are assignments
(`n_layer = 8`). It is parsed first: a file that sets no option is somebody's program, and is never run.
Only what was really given is returned, so that a resumed run can put it over the settings of
its checkpoint.
"""

import ast
import contextlib
import difflib
import importlib.metadata
import io
import math
import os
import platform
import runpy
import shlex
import sys
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import InitVar, fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

try:
    import tyro  # a dataclass in, `--help`, conversions and choices out; small, typed, imports in 60 ms
except ModuleNotFoundError:  # the first package that a script imports: none is installed
    raise SystemExit(
        "kqv's packages are missing: make train, or pip install -r requirements.txt"
    ) from None

from kqv import __version__
from kqv.errors import UserError
from kqv.options.settings import ALSO_CALLED, NAMES_OF_TEXTS, SETTINGS, WRITTEN
from kqv.project import DATA
from kqv.run_files import LATEST

SYNONYMS = {"defaults": "like"}  # in a config file `defaults = "nanogpt"` reads better

_CONFIG = (tyro.conf.FlagConversionOff,)
_DASHES = "-\N{EN DASH}\N{EM DASH}\N{MINUS SIGN}"  # the last three come with commands pasted from a document
_LONGEST = 60  # characters of a value that an error quotes


def read_arguments(
    settings_class: type, arguments: Sequence[str], positional: str = "", instead: str = ""
) -> tuple[dict[str, Any], list[str]]:
    """Read a command line into the options it sets and the words that are neither option nor config file, among them the
    values of an option that is no setting (`--text=`).

    `positional` names those words in `--help`; `instead` says what else a .py file could be for, with {} for the file.
    Raises UserError for a name that is no option or a value of the wrong type. Exits with status 0 after `--help` and
    `--version`.

    >>> read_arguments(TrainSettings, ["novel.txt", "--n_layer=8"])
    ({'n_layer': 8}, ['novel.txt'])
    """
    given: dict[str, Any] = {}
    words: list[str] = []
    settings = {field.name for field in fields(settings_class)}
    for name, text in _cut(settings_class, arguments):
        if text in ("-h", "--help") and not name:
            usage = f"{_script()} {positional}".strip()
            tyro.cli(
                settings_class, args=["--help"], prog=usage, config=_CONFIG, use_underscores=True
            )
        elif text == "--version" and not name:
            print(_versions())
            raise SystemExit(0)
        elif name and name not in settings:
            words.append(_not_empty(text))
        elif name:
            value = _convert(settings_class, name, text, where=f"--{name}={_brief(text)}")
            # an option that collects (`stop`) adds to what is there
            given[name] = given.get(name, ()) + value if isinstance(value, tuple) else value
        elif _is_config(text):
            options = _read_config(settings_class, Path(text), instead)
            for collected in options.keys() - settings:
                words += map(_not_empty, options.pop(collected))
            given |= options
        else:
            _check_word(settings_class, text)
            words.append(_not_empty(text))
    return given, words


def read_settings(
    settings_class: type, arguments: Sequence[str], prompt: str = ""
) -> tuple[Any, dict[str, Any]]:
    """The settings of a script that takes options and config files only, and those of them that were given. `prompt` is
    the option, if there is one, whose value a word alone could be.

    Raises UserError as `read_arguments` does, and for a word that is neither.
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
        raise UserError(f"{_brief(words[0])!r} is neither an option nor a config file: {instead}")
    return settings_class(**given), given


def split_configs(settings_class: type, arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The config files of a command line, and all that is not one. Raises UserError for a name that is no option."""
    cut = list(_cut(settings_class, arguments))
    configs = [text for name, text in cut if not name and _is_config(text)]
    others = [
        f"--{name}={text}" if name else text for name, text in cut if name or not _is_config(text)
    ]
    return configs, others


def option_types(settings_class: type) -> dict[str, Any]:
    """The type of each option by its name. An InitVar is an option too: one that is not kept among the settings."""
    hints = get_type_hints(settings_class)
    return {
        name: get_args(hint.type)[0] if isinstance(hint, InitVar) else hint
        for name, hint in hints.items()
    }


def check_types(settings_class: type, options: dict[str, Any], path: Path) -> None:
    """Raises UserError naming the checkpoint at `path` that the options come from if one of them is of the wrong type."""
    for name, hint in option_types(settings_class).items():
        if name in options and not any(_is_a(kind, options[name]) for kind in _alternatives(hint)):
            raise UserError(
                f"{path} has {name}={_shown(options[name])}, and {name} takes {_describe(hint)}"
            )


def check_declared(config_class: type, settings_class: type) -> None:
    """Check that the settings declare each option of a model (docs/code.md), as the model declares it.

    Raises UserError naming the option of `config_class` that is missing, or whose type or default differs.
    """
    settings, hints = (
        {field.name: field for field in fields(settings_class)},
        get_type_hints(settings_class),
    )
    where = f"{settings_class.__name__} in kqv/options/settings.py"
    for option in fields(config_class):
        name = option.name
        if name == "vocab_size":  # known once the text is
            continue
        if name not in settings:
            raise UserError(
                f"model.py has an option {name}: add it to {where}, with the default {option.default!r}"
            )
        ours, its = (_kinds(hint) for hint in (hints[name], get_type_hints(config_class)[name]))
        if ours != its or repr(settings[name].default) != repr(option.default):
            raise UserError(
                f"option {name} has one type or default in model.py and another in {where}: make them equal"
            )


def _kinds(hint: Any) -> set[type]:
    """The types of a hint, its words being str."""
    return {str if isinstance(member, str) else member for member in _alternatives(hint)}


def _cut(settings_class: type, arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
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
        _check_name(settings_class, name, where=_brief(word))
        yield name, text if has_value else _separate_value(settings_class, name, queue)


def _is_config(word: str) -> bool:
    return word.endswith(".py") and "://" not in word


def _check_word(settings_class: type, word: str) -> None:
    """Raises UserError for a word that is a checkpoint, or no file but like an option or the value of one."""
    options, name = option_types(settings_class), word.lstrip(_DASHES)
    if (
        "dataset" in options
        and word
        and (word.endswith(".pt") or os.path.exists(Path(word) / LATEST))
    ):
        raise UserError(
            f"{word} is a checkpoint, not a text; to start from it write --init_from={word}"
        )
    if word == "-" or os.path.exists(word):
        return
    instead = ""
    if name != word:
        instead = f"--{_brief(name)}"
    elif word in options:
        instead = f"--{word}=VALUE"
    elif word in ("help", "version"):
        instead = f"--{word}"
    elif word in WRITTEN and "init_from" in options:
        instead = WRITTEN[word]
    elif word and "dataset" in options and os.path.exists(DATA / word / "prepare.py"):
        instead = f"--dataset={word}"
    if instead:
        raise UserError(f"there is no file {_brief(word)}; to set an option write {instead}")


def _not_empty(word: str) -> str:
    """Raises UserError for nothing, which a path takes for this folder."""
    if not word:
        raise UserError("the name of a text is empty: is a variable of the shell not set?")
    return word


def _script() -> str:
    return Path(sys.argv[0]).name


def _versions() -> str:
    """What an error report needs, of torch without importing it."""
    try:
        torch = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        torch = "not installed"
    return f"kqv {__version__}, torch {torch}, Python {platform.python_version()}"


def _brief(text: str) -> str:
    """A text of the user's as part of a line."""
    line = " ".join(text.split()) if len(text.splitlines()) > 1 else text
    return line if len(line) <= _LONGEST else line[:_LONGEST] + "..."


def _shown(value: Any) -> str:
    """A value as Python writes it, on one line; its kind if it cannot be written, such as a number of 5,000 digits."""
    try:
        return _brief(" ".join(repr(value).split()))
    except Exception:
        return (
            "a number of very many digits"
            if issubclass(type(value), int)
            else f"({type(value).__name__})"
        )


def _is_a(kind: Any, value: Any) -> bool:
    """Whether a value is of a type, or is the word that a Literal allows."""
    if kind is float:
        return type(value) in (int, float) and abs(value) <= sys.float_info.max  # not nan either
    if kind is int:
        return type(value) is int and abs(value) <= sys.float_info.max
    return type(value) is kind if isinstance(kind, type) else type(value) is str and value == kind


def _separate_value(settings_class: type, name: str, queue: list[str]) -> str:
    """The value of `--name value` or, for a switch, `--name`."""
    alternatives = _alternatives(option_types(settings_class)[name])
    written = ["true", "false", "1", "0", *(word for word in alternatives if isinstance(word, str))]
    if bool in alternatives and (not queue or queue[0].lower() not in written):
        return "True"
    if not queue:
        raise UserError(f"--{name} needs a value: write --{name}=VALUE")
    return queue.pop(0)


def _check_name(settings_class: type, name: str, where: str, more: str = "") -> None:
    """Raises UserError, with the nearest name and what `more` there is to say, if there is no option `name`."""
    if name not in option_types(settings_class):
        hint = (
            _meant(settings_class, name)
            or "--help lists them all; a config's own names start with _"
        )
        raise UserError(f"{where}: there is no option {_brief(name)}; {hint}{more}")


def _meant(settings_class: type, name: str) -> str:
    """What somebody may have meant by a name that is no option: what others call one of ours, the option of another script,
    a slip of the pen. Nothing if there is no such thing."""
    options, called = [field.name for field in fields(settings_class)], name.lower()
    if "dataset" in options and called in NAMES_OF_TEXTS.split():
        return "a text is named alone, as in train.py novel.txt; --dataset=NAME is a folder under data/"
    if called in ("config", "config_file", "cfg", "c"):
        return f"a config file is named alone, as in {_script()} config/mine.py"
    if called.startswith("no_") and called[3:] in options:
        return f"write --{called[3:]}=False"
    if called in WRITTEN and WRITTEN[called][2:].partition("=")[0] in options:
        return f"write {WRITTEN[called]}"
    if called in options:
        return f"did you mean {called}?"
    if near := _also_called(options, called):
        return f"did you mean {near}?"
    for script, others in SETTINGS.items():
        names = [field.name for field in fields(others)]
        if found := called if called in names else _also_called(names, called):
            return f"{found} is an option of {script}"
    near = next(
        iter(difflib.get_close_matches(called[:_LONGEST], option_types(settings_class), n=1)), ""
    )
    return f"did you mean {near}?" if near else ""


def _also_called(options: Sequence[str], name: str) -> str:
    return next(
        (
            option
            for option, names in ALSO_CALLED.items()
            if option in options and name in names.split()
        ),
        "",
    )


def _convert(settings_class: type, name: str, text: str, where: str) -> Any:
    """The value of option `name` written as `text`. Raises UserError if it is none."""
    hint = option_types(settings_class)[name]
    if bool in _alternatives(hint):
        text = {"true": "True", "1": "True", "false": "False", "0": "False"}.get(text.lower(), text)
    try:
        # tyro explains a mistake in a box of several lines; ours is one line.
        with contextlib.redirect_stderr(io.StringIO()):
            parsed: Any = tyro.cli(
                settings_class, args=[f"--{name}={text}"], config=_CONFIG, use_underscores=True
            )
    except SystemExit:
        how = (
            "; write no spaces around ="
            if text.startswith("=")
            else "; write 1000 or 0.5, no comma"
            if "," in text
            else ""
        )
        raise UserError(f"{where}: {name} takes {_describe(hint)}{how}") from None
    value = getattr(parsed, name)
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where}: {name} takes a finite number")
    return value


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """The members of a union or a Literal, or the type alone."""
    parts = getattr(hint, "__args__", None) or (hint,)
    return tuple(
        member
        for part in parts
        for member in (_alternatives(part) if hasattr(part, "__args__") else (part,))
    )


def _describe(hint: Any) -> str:
    """A type in words.

    >>> _describe(Literal["dot", "squared"] | float)
    'dot, squared or a number'
    """
    names = {int: ["a whole number"], float: ["a number"], bool: ["True", "False"], str: ["text"]}
    words = [word for member in _alternatives(hint) for word in names.get(member, [str(member)])]
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


# --- config files --------------------------------------------------------------------------------------------------


def _read_config(settings_class: type, path: Path, instead: str) -> dict[str, Any]:
    """Run a config file and return the options it assigns. Names starting with `_` are its own business.

    Raises UserError, and does not run it, if it is not Python, sets no option, or sets what is none to a plain value.
    """
    tree = _parse(path, instead)
    _check_options(settings_class, tree, path, instead)
    if (line := _first_beyond_options(tree)) and os.environ.get(
        "LOCAL_RANK", "0"
    ) == "0":  # of torchrun's processes, one
        there = path.read_text(errors="replace").split("\n")[line - 1].strip()
        print(
            f"{path} does more than set options (line {line}: {_brief(there)}): it is run as Python",
            file=sys.stderr,
        )
    # What the file imports (`from math import pi`) is there to make the values; what it assigns must be an option.
    assigned, options = _assigned(tree), {}
    for name, value in _run(path).items():
        own = name in assigned and not name.startswith("_")
        name = SYNONYMS.get(name, name)
        if name in option_types(settings_class) or (
            own and issubclass(type(value), int | float | str | tuple | list)
        ):
            where = f"config file {path}: {name} = {_shown(value)}"
            _check_name(settings_class, name, where)
            options[name] = _config_value(settings_class, name, value, where)
    return options


def assigned_names(path: Path) -> set[str]:
    """The options that a config file assigns, from its syntax tree; none for what is no Python file."""
    try:
        return {name for name in _assigned(_parse(path, "")) if not name.startswith("_")}
    except UserError:
        return set()


def _parse(path: Path, instead: str) -> ast.Module:
    """The syntax tree of a config file. Raises UserError if it is not there, or not Python."""
    if os.path.isdir(path):
        raise UserError(f"{path} is a folder, no config file{_if_no_config(path, instead)}")
    if not os.path.isfile(path):
        near = difflib.get_close_matches(str(path), map(str, path.parent.glob("*.py")), n=1)
        raise UserError(
            f"no config file {str(path)[:200]}" + (f"; did you mean {near[0]}?" if near else "")
        )
    try:
        return ast.parse(path.read_bytes())
    except OSError as error:
        raise UserError(f"config file {path} cannot be read: {error.strerror}") from None
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        what = (
            error.msg.partition(";")[0]
            if isinstance(error, SyntaxError)
            else " ".join(str(error).split())
        )
        raise UserError(
            f"config file {path}{line}: {type(error).__name__}: {what}{_if_no_config(path, instead)}"
        ) from None


def _check_options(settings_class: type, tree: ast.Module, path: Path, instead: str) -> None:
    """Raises UserError for a file that sets no option, or gives a plain value to a name that is none."""
    # Many a program reads a `text`: where a file does more than set options, that alone makes it no config.
    plain, settings = (
        not _first_beyond_options(tree),
        [field.name for field in fields(settings_class)],
    )
    assigned, known = _assigned(tree), set(option_types(settings_class) if plain else settings)
    imported = {alias.asname or alias.name for node in _outside_functions(tree)
                if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names}  # fmt: skip
    if not known & {SYNONYMS.get(name, name) for name in (*assigned, *imported)}:
        meant = (
            (name, _meant(settings_class, name))
            for name in assigned
            if plain and not name.startswith("_")
        )
        near = next((f" ({name}: {hint})" for name, hint in meant if hint), "")
        raise UserError(
            f"{path} sets no option of {_script()}{near}: it was not run{_if_no_config(path, instead)}"
        )
    for node in _outside_functions(tree):
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Constant):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name) and not target.id.startswith("_"):
                    where = f"config file {path}, line {node.lineno}: {target.id} = {_shown(node.value.value)}"
                    name = SYNONYMS.get(target.id, target.id)
                    _check_name(
                        settings_class, name, where, "" if plain else _if_no_config(path, instead)
                    )


def _if_no_config(path: Path, instead: str) -> str:
    return "; " + (
        instead.format(shlex.quote(str(path))) if instead else "--help lists the options"
    )


def _outside_functions(tree: ast.Module) -> Iterator[ast.AST]:
    """The nodes of a file but for what is inside a function or a class."""
    todo: deque[ast.AST] = deque([tree])
    while todo:
        yield (node := todo.popleft())
        if not isinstance(
            node,
            ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda | ast.comprehension,
        ):
            todo.extend(ast.iter_child_nodes(node))


def _assigned(tree: ast.Module) -> dict[str, None]:
    """The names that a file assigns, in their order."""
    names = (node for node in _outside_functions(tree) if isinstance(node, ast.Name))
    return {name.id: None for name in names if isinstance(name.ctx, ast.Store)}


_SETS_OPTIONS = (
    ast.Module, ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Pass, ast.Name, ast.Constant, ast.Tuple, ast.List, ast.BinOp,
    ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.JoinedStr, ast.FormattedValue, ast.expr_context, ast.operator,
    ast.unaryop, ast.boolop, ast.cmpop,
)  # fmt: skip


def _first_beyond_options(tree: ast.Module) -> int:
    """The first line that does more than give names a value of literals, names and arithmetic; 0 if there is none."""
    texts = {
        node
        for node in tree.body
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }  # the docstring
    beyond = (
        node for node in ast.walk(tree) if not isinstance(node, _SETS_OPTIONS) and node not in texts
    )
    return min((node.lineno for node in beyond if hasattr(node, "lineno")), default=0)


def _run(path: Path) -> dict[str, Any]:
    """The names that a file has when it has been run. Raises UserError for whatever it raises, for it is the user's program."""
    try:
        return runpy.run_path(str(path))
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        line = error.lineno if isinstance(error, SyntaxError) else _last_line(error, path)
        raise UserError(
            f"config file {path}{f', line {line}' if line else ''}: {_said(error)}"
        ) from None


def _said(error: BaseException) -> str:
    """An error in words. Its class can be the user's, and its text raise another."""
    try:
        text = " ".join(str(error).split())
    except Exception:
        text = "(no message)"
    return f"{type(error).__name__}: {text[:200]}"


def _config_value(settings_class: type, name: str, value: Any, where: str) -> Any:
    """The option `name` assigned as a Python value. Raises UserError if it is of the wrong type."""
    hint, is_text = option_types(settings_class)[name], issubclass(type(value), str)
    if get_origin(hint) is tuple:
        items = list(value) if type(value) in (tuple, list) else [value]
        if not all(issubclass(type(item), str) for item in items):
            raise UserError(f"{where}: {name} takes a text in quotes, or a list of them")
        return tuple(
            map(str.__str__, items)
        )  # a class of the file's own could show itself as anything
    try:
        text = str.__str__(value) if is_text else str(value)
    except (
        Exception
    ):  # a whole number of more digits than Python writes, or what a class of the file's own does
        raise UserError(
            f"{where}: {name} takes {_describe(hint)}, and this cannot be written out"
        ) from None
    converted = _convert(settings_class, name, text, where)
    if is_text != isinstance(converted, str):
        quotes = "without quotes" if is_text else "in quotes"
        raise UserError(f"{where}: {name} takes {_describe(hint)}, {quotes}")
    return converted


def _last_line(error: BaseException, path: Path) -> int | None:
    """The line of the file at `path` that an error came through last."""
    frames = traceback.extract_tb(error.__traceback__)
    return next((frame.lineno for frame in reversed(frames) if frame.filename == str(path)), None)
