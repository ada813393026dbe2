"""The sources of a dataset: words of a command line that name its texts, and the title of them.

["novel.txt"] ──▶ ["/home/me/novel.txt"] ──▶ "novel.txt"
"""

import os
from collections.abc import Sequence
from pathlib import Path

from kqv import project
from kqv.text.sources import can_be_read_once, enumerate_words

# Options that may be needed to read a text again, with their defaults.
READING_OPTIONS = {
    "--encoding=": "utf-8",
    "--text_field=": "text",
    "--endings=": "",
    "--source_field=": "source",
    "--target_field=": "target",
}
VAL_TEXT = "--val_text="  # names a text to validate on
TITLE_NAMES = 3  # texts named in a title; of more than these, the first two and how many more


def sources_of(
    words: Sequence[str],
    encoding: str,
    text_field: str,
    endings: str,
    val_words: Sequence[str] = (),
    fields: tuple[str, str] = ("source", "target"),
) -> list[str]:
    """Words of a command line that name the same texts from any folder, with the options that
    they are read with; `fields` are those of pairs."""
    sources = []
    for word in words:
        path = _absolute(word)  # a word that ends in .py would be a config file
        sources.append(f"--text={path}" if path.endswith(".py") else path)
    sources += [VAL_TEXT + _absolute(word) for word in val_words]
    values = (encoding, text_field, endings, *fields)
    for (option, default), value in zip(READING_OPTIONS.items(), values, strict=True):
        if value != default:
            sources.append(option + value)
    return sources


def _absolute(word: str) -> str:
    """The path of a text from any folder; that of a folder ends with a slash."""
    if can_be_read_once(word):
        return "-"
    return os.path.abspath(word) + ("/" if os.path.isdir(word) else "")


def known_sources(value: object) -> list[str]:
    """The sources in a file, without what cannot be one.

    Users paste them into a command, where a word that ends in .py is a config file, which is run.
    """
    return [word for word in value if _is_source(word)] if isinstance(value, list) else []


def _is_source(word: object) -> bool:
    if not isinstance(word, str):
        return False
    is_path = os.path.isabs(word) and not word.endswith(".py")
    return word == "-" or is_path or word.startswith(("--text=", VAL_TEXT, *READING_OPTIONS))


def title_of(sources: Sequence[str]) -> str:
    """The names of texts, for people.

    >>> title_of(["/home/me/letters/", "/home/me/diary.txt", "--encoding=latin-1"])
    'letters/ and diary.txt'
    """
    texts = [word for word in sources if not word.startswith((VAL_TEXT, *READING_OPTIONS))]
    names = [_name_of(word.removeprefix("--text=")) for word in texts]
    if len(names) > TITLE_NAMES:
        names = [*names[: TITLE_NAMES - 1], f"{len(names) - (TITLE_NAMES - 1)} more"]
    return enumerate_words(names)


def _name_of(text: str) -> str:
    if text == "-":
        return "standard input"
    path = Path(text)
    in_data = path.is_relative_to(project.DATA)
    name = path.relative_to(project.DATA).as_posix() if in_data else path.name
    return f"{name}/" if text.endswith("/") else name
