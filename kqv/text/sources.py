"""Which files a word of the command line stands for: a file, a folder, or standard input."""

import os
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kqv.errors import UserError
from kqv.text import formats
from kqv.text.formats import TEXT_ENDINGS, is_compressed, is_text_file, uncompressed_name
from kqv.text.texts import MAX_NAME_SHOWN, open_bytes

STDIN_COPY = "stdin"  # file name of the copy of standard input
KINDS_LISTED = 5  # kinds of files named in one line


def text_files(word: str, scratch: Path, endings: Sequence[str] = ()) -> list[Path]:
    """The files that a word of the command line stands for.

    Of a folder these are the files with one of `endings`, or with the usual endings if there are
    none. What can be read only once is copied to the folder `scratch`.

    Raises UserError for a web address, and for a folder without texts.
    """
    path = Path(word)
    if "://" in word and not path.exists():
        name = shlex.quote(word.partition("?")[0].rstrip("/").rpartition("/")[2] or "text.txt")
        address = word[:MAX_NAME_SHOWN]
        raise UserError(
            f"{address} is an address, and nothing is downloaded: "
            f"curl -Lo {name} {shlex.quote(address)}, then python train.py {name}"
        )
    if can_be_read_once(word):
        # Two pipes may be named, such as the two files of pairs.
        others = len([*scratch.glob(f"{STDIN_COPY}*")])
        copy = scratch / f"{STDIN_COPY}{others or ''}"
        stream: Any = sys.stdin.buffer if word == "-" else open_bytes(path)
        with copy.open("wb") as file, stream as source:
            # read1 makes one system call, so a signal is handled between two of them.
            while data := source.read1(formats.PIECE_SIZE):
                file.write(data)
        return [copy]
    return _files_below(path, tuple(endings)) if path.is_dir() else [path]


def can_be_read_once(word: str) -> bool:
    """Whether a word means standard input or a named pipe, such as a shell's <(command)."""
    return word == "-" or Path(word).is_fifo()


def read_endings(option: str) -> tuple[str, ...]:
    """The endings in the value of --endings=. Raises UserError if one is empty.

    >>> read_endings("md, .py")
    ('.md', '.py')
    """
    names = [word.strip().lstrip("*").lstrip(".") for word in option.split(",")] if option else []
    if not all(names):
        raise UserError(f"endings={option} has an empty one: write it like --endings=md,py")
    return tuple(f".{name}" for name in names)


def _files_below(folder: Path, endings: tuple[str, ...]) -> list[Path]:
    """The text files in a folder and its subfolders, sorted by path.

    One line on stderr says what is read and what is skipped: hidden files and folders (.git,
    .venv), linked folders, other endings.

    Raises UserError if there is no text, or a subfolder cannot be read.
    """
    found: list[Path] = []
    read: Counter[str] = Counter()
    skipped: Counter[str] = Counter()
    for place, subfolders, names in os.walk(folder, onerror=_refuse_folder):
        for name in [*subfolders]:
            hidden = name.startswith(".")
            linked = os.path.islink(os.path.join(place, name))  # a link may lead into a circle
            if hidden or linked:
                skipped["hidden folder" if hidden else "linked folder"] += 1
                subfolders.remove(name)
        for path in (Path(place, name) for name in names):
            if path.name.startswith("."):
                skipped["hidden file"] += 1
            elif not path.is_file():
                skipped["broken link" if path.is_symlink() else "special file"] += 1
            elif _has_ending(path, endings) if endings else is_text_file(path):
                read[_kind(path)] += 1
                found.append(path)
            else:
                skipped[_kind(path)] += 1
    if not found:
        raise UserError(_no_text(folder, endings, skipped))
    _print_what_is_read(folder, endings, read, skipped)
    return sorted(found)


def _refuse_folder(error: OSError) -> None:
    raise UserError(
        f"{error.filename} cannot be read: {error.strerror}; make it readable, or name the texts "
        f"beside it"
    )


def _has_ending(path: Path, endings: tuple[str, ...]) -> bool:
    return path.name.endswith(endings) or uncompressed_name(path).name.endswith(endings)


def _no_text(folder: Path, endings: tuple[str, ...], skipped: Counter[str]) -> str:
    others = _endings_in(skipped)
    message = f"{folder} has no {enumerate_words(endings or TEXT_ENDINGS, 'or')} files"
    if skipped:
        message += f", but {_count_kinds(skipped)}"
    if others:
        message += f": --endings={others[0][1:]} reads files with that ending"
    return message


def _print_what_is_read(
    folder: Path, endings: tuple[str, ...], read: Counter[str], skipped: Counter[str]
) -> None:
    line = f"{folder}: reading {_count_kinds(read)} file{'s' if read.total() > 1 else ''}"
    if skipped:
        line += f"; skipped {_count_kinds(skipped)}"
    if _endings_in(skipped) and not endings:
        line += "; --endings=md,py reads these endings instead"
    print(line, file=sys.stderr)


def _kind(path: Path) -> str:
    endings = path.suffixes[-2:] if is_compressed(path) else path.suffixes[-1:]
    return "".join(endings) or "extensionless file"


def _endings_in(kinds: Counter[str]) -> list[str]:
    """The endings among kinds of files, the most frequent first."""
    endings = [kind for kind in kinds if kind.startswith(".")]
    return sorted(endings, key=lambda ending: (-kinds[ending], ending))


def _count_kinds(kinds: Counter[str]) -> str:
    """How many files and folders of which kinds.

    >>> _count_kinds(Counter({".md": 40, "hidden folder": 2}))
    '40 .md and 2 hidden folders'
    """
    endings = _endings_in(kinds)
    words = [f"{kinds[ending]} {ending}" for ending in endings[:KINDS_LISTED]]
    if rest := endings[KINDS_LISTED:]:
        words.append(f"{sum(kinds[ending] for ending in rest)} of other kinds")
    for kind in sorted(kinds.keys() - endings):
        words.append(f"{kinds[kind]} {kind}{'s' if kinds[kind] > 1 else ''}")
    return enumerate_words(words)


def enumerate_words(words: Sequence[str], last: str = "and") -> str:
    """Words as a sentence lists them.

    >>> enumerate_words(["a.txt", "b.txt", "c.txt"])
    'a.txt, b.txt and c.txt'
    """
    return f" {last} ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
