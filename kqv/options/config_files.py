"""Config files: Python that is run once, whose plain names are assignments (`n_layer = 8`).

A file is parsed before it is run. One that sets no option is somebody's program, and is never run.

A config file for compare.py may hold several configurations, its variants:

    max_iters = 300
    variants = {
        "one": {"about": "1 head of d_k = 128.", "n_head": 1},
        "four": {"about": "4 heads of d_k = 32.", "n_head": 4},
    }
"""

import ast
import difflib
import os
import runpy
import shlex
import sys
import traceback
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_origin

from kqv.errors import UserError
from kqv.options.aliases import SYNONYMS, check_name, script_name, suggestion
from kqv.options.option_types import convert, describe, option_types, quoted, shown

VARIANTS = "variants"  # the name of a config file that only compare.py understands
ABOUT = "about"  # what a variant is, beside its options
LONGEST_MESSAGE = 200  # characters of another program's error that ours quotes

# A file made of these alone gives names to values of literals, names and arithmetic.
PLAIN_NODES = (
    ast.Module, ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Pass, ast.Name, ast.Constant,
    ast.Tuple, ast.List, ast.Dict, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp,
    ast.JoinedStr, ast.FormattedValue, ast.expr_context, ast.operator, ast.unaryop, ast.boolop,
    ast.cmpop,
)  # fmt: skip
# What is inside these has names of its own.
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.comprehension)


@dataclass
class Variant:
    """One configuration of a config file; of a file without variants, with an empty name."""

    name: str
    about: str
    options: dict[str, Any]


def read_config(settings_class: type, path: Path, instead: str) -> dict[str, Any]:
    """Run a config file and return the options it assigns. Names starting with `_` are its own.

    `instead` says what else a .py file could be for, with {} for the file. Raises UserError, and
    does not run it, if it is not Python, sets no option, or gives a value to an unknown name.
    Raises UserError if it has variants.
    """
    options, variants = _run(settings_class, path, instead)
    if variants:
        name = shlex.quote(str(path))
        raise UserError(
            f"{path} has variants, which compare.py trains side by side: python compare.py {name}"
        )
    return options


def read_variants(settings_class: type, path: Path, instead: str) -> list[Variant]:
    """All configurations of a config file, each with the options that the file sets for all.

    Raises UserError as `read_config` does, and for variants that are malformed.
    """
    options, variants = _run(settings_class, path, instead)
    if not variants:
        return [Variant("", "", options)]
    for variant in variants:
        variant.options = {**options, **variant.options}
    return variants


def assigned_names(path: Path) -> set[str]:
    """The public names that a config file assigns; none for what is no Python file.

    It is parsed, not run.
    """
    try:
        tree = _parse(path, "")
    except UserError:
        return set()
    return {name for name in _assigned(tree) if not name.startswith("_")}


# --- before it is run ----------------------------------------------------------------------------


def _parse(path: Path, instead: str) -> ast.Module:
    """The syntax tree of a config file. Raises UserError if it is not there, or not Python."""
    if os.path.isdir(path):
        raise UserError(f"{path} is a folder, no config file{_otherwise(path, instead)}")
    if not os.path.isfile(path):
        near = difflib.get_close_matches(str(path), map(str, path.parent.glob("*.py")), n=1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"no config file {str(path)[:LONGEST_MESSAGE]}{meant}")
    try:
        return ast.parse(path.read_bytes())
    except OSError as error:
        raise UserError(f"config file {path} cannot be read: {error.strerror}") from None
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line, message = "", " ".join(str(error).split())
        if isinstance(error, SyntaxError):
            line = f", line {error.lineno}" if error.lineno else ""
            message = error.msg.partition(";")[0]
        raise UserError(
            f"config file {path}{line}: {type(error).__name__}: {message}"
            f"{_otherwise(path, instead)}"
        ) from None


def _otherwise(path: Path, instead: str) -> str:
    """The end of a message about a file that is no config file: what to write instead."""
    advice = instead.format(shlex.quote(str(path))) if instead else "--help lists the options"
    return f"; {advice}"


def _check_is_config(settings_class: type, tree: ast.Module, path: Path, instead: str) -> None:
    """Refuse a file that sets no option, and one that gives a plain value to an unknown name."""
    plain = _first_line_beyond_assignments(tree) is None
    # Many a program has a `text` or `variants`: only in a plain file do these make it a config.
    known = {field.name for field in fields(settings_class)}
    if plain:
        known = {*option_types(settings_class), VARIANTS}
    assigned = _assigned(tree)
    if not known & {SYNONYMS.get(name, name) for name in (*assigned, *_imported(tree))}:
        public = [name for name in assigned if plain and not name.startswith("_")]
        meant = ((name, suggestion(settings_class, name)) for name in public)
        hint = next((f" ({name}: {advice})" for name, advice in meant if advice), "")
        raise UserError(
            f"{path} sets no option of {script_name()}{hint}: it was not run"
            f"{_otherwise(path, instead)}"
        )
    for name, value, line in _constants(tree):
        where = f"config file {path}, line {line}: {name} = {shown(value)}"
        more = "" if plain else _otherwise(path, instead)
        check_name(settings_class, SYNONYMS.get(name, name), where, more)


def _outside_functions(tree: ast.Module) -> Iterator[ast.AST]:
    """The nodes of a file, breadth first, without those inside a function or class."""
    queue: deque[ast.AST] = deque([tree])
    while queue:
        node = queue.popleft()
        yield node
        if not isinstance(node, SCOPES):
            queue.extend(ast.iter_child_nodes(node))


def _assigned(tree: ast.Module) -> list[str]:
    """The names that a file assigns."""
    return [
        node.id
        for node in _outside_functions(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    ]


def _imported(tree: ast.Module) -> list[str]:
    """The names that a file imports."""
    return [
        alias.asname or alias.name
        for node in _outside_functions(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    ]


def _constants(tree: ast.Module) -> Iterator[tuple[str, Any, int]]:
    """The public names that a file gives a constant: name, value, line."""
    for node in _outside_functions(tree):
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Constant):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name) and not target.id.startswith("_"):
                    yield target.id, node.value.value, node.lineno


def _first_line_beyond_assignments(tree: ast.Module) -> int | None:
    """The first line that does more than assign plain values to names; None if there is none."""
    texts = [
        node
        for node in tree.body
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    ]  # the docstring, and other strings that stand alone
    lines = [
        node.lineno
        for node in ast.walk(tree)
        if not isinstance(node, PLAIN_NODES) and node not in texts and hasattr(node, "lineno")
    ]
    return min(lines, default=None)


# --- when it is run ------------------------------------------------------------------------------


def _run(settings_class: type, path: Path, instead: str) -> tuple[dict[str, Any], list[Variant]]:
    """The options that a config file assigns, and its variants."""
    tree = _parse(path, instead)
    _check_is_config(settings_class, tree, path, instead)
    _announce_program(tree, path)
    # What the file imports (`from math import pi`) is there to make the values; what it assigns
    # must be an option.
    assigned = set(_assigned(tree))
    options: dict[str, Any] = {}
    variants: list[Variant] = []
    for name, value in _execute(path).items():
        if name == VARIANTS:
            variants = _variants(settings_class, value, f"config file {path}")
            continue
        is_public = name in assigned and not name.startswith("_")
        is_plain = issubclass(type(value), int | float | str | tuple | list)
        name = SYNONYMS.get(name, name)
        if name in option_types(settings_class) or (is_public and is_plain):
            options[name] = _option(settings_class, name, value, f"config file {path}")
    return options, variants


def _announce_program(tree: ast.Module, path: Path) -> None:
    """Say on stderr that a file does more than set options, before it is run."""
    line = _first_line_beyond_assignments(tree)
    if line is None or os.environ.get("LOCAL_RANK", "0") != "0":
        return
    source = path.read_text(errors="replace").split("\n")[line - 1].strip()
    print(
        f"{path} does more than set options (line {line}: {quoted(source)}): it is run as Python",
        file=sys.stderr,
    )


def _execute(path: Path) -> dict[str, Any]:
    """The names that a file has after it was run.

    Raises UserError for whatever it raises, because it is the user's program.
    """
    try:
        return runpy.run_path(str(path))
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        line = error.lineno if isinstance(error, SyntaxError) else _last_line(error, path)
        where = f"config file {path}{f', line {line}' if line else ''}"
        raise UserError(f"{where}: {_message(error)}") from None


def _last_line(error: BaseException, path: Path) -> int | None:
    """The line of the file at `path` where an error left it."""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == str(path)
    ]
    return lines[-1] if lines else None


def _message(error: BaseException) -> str:
    """An error in words. Its class can be the user's, and fail to make a string."""
    try:
        text = " ".join(str(error).split())
    except Exception:
        text = "(no message)"
    return f"{type(error).__name__}: {text[:LONGEST_MESSAGE]}"


def _option(settings_class: type, name: str, value: Any, where: str) -> Any:
    """Option `name` assigned as a Python value. Raises UserError if there is no such option, or
    the value is of the wrong type."""
    where = f"{where}: {name} = {shown(value)}"
    check_name(settings_class, name, where)
    hint = option_types(settings_class)[name]
    if get_origin(hint) is tuple:
        return _texts(name, value, where)
    is_text = issubclass(type(value), str)
    try:
        # A class of the file's own could show itself as anything: take the characters it has.
        text = str.__str__(value) if is_text else str(value)
    except Exception:  # a whole number of more digits than Python writes, or a class that fails
        raise UserError(
            f"{where}: {name} takes {describe(hint)}, and this cannot be written out"
        ) from None
    converted = convert(settings_class, name, text, where)
    if is_text != isinstance(converted, str):
        quotes = "without quotes" if is_text else "in quotes"
        raise UserError(f"{where}: {name} takes {describe(hint)}, {quotes}")
    return converted


def _texts(name: str, value: Any, where: str) -> tuple[str, ...]:
    """The value of an option that collects texts: one, or a list of them."""
    items = list(value) if type(value) in (tuple, list) else [value]
    if not all(issubclass(type(item), str) for item in items):
        raise UserError(f"{where}: {name} takes a text in quotes, or a list of them")
    return tuple(map(str.__str__, items))


def _variants(settings_class: type, value: Any, where: str) -> list[Variant]:
    """The variants of a config file. Raises UserError for anything but a dictionary of those."""
    entries = list(value.items()) if type(value) is dict else []
    well_formed = all(
        type(name) is str and name and type(of) is dict and all(type(key) is str for key in of)
        for name, of in entries
    )
    if not entries or not well_formed:
        raise UserError(
            f"{where}: variants takes names with the options of each, "
            f'{{"one": {{"n_head": 1}}, "four": {{"n_head": 4}}}}'
        )
    found = []
    for name, assignments in entries:
        inside = f"{where}, variant {quoted(name)}"
        about = assignments.pop(ABOUT, "")
        if type(about) is not str:
            raise UserError(f"{inside}: {ABOUT} = {shown(about)}: {ABOUT} takes a text in quotes")
        options = {}
        for key, setting in assignments.items():
            option = SYNONYMS.get(key, key)
            options[option] = _option(settings_class, option, setting, inside)
        found.append(Variant(name, about, options))
    return found
