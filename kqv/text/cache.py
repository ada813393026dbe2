"""The cache of prepared texts, data/cache: its keys, the hashes of files, its size.

data/cache/NAME-KEY/      a prepared text; the key is a hash of all that its ids depend on
data/cache/hashes.json    hashes of large files, with the size and date each file had
"""

import hashlib
import json
import os
import shlex
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from kqv import project
from kqv.files import MAX_NOTE_BYTES, read_small, replacing
from kqv.progress import LongBar
from kqv.sizes import format_bytes, size_on_disk
from kqv.text import formats
from kqv.text.characters import CharTokenizer
from kqv.text.formats import is_compressed
from kqv.text.texts import Texts, check_unchanged, open_bytes
from kqv.text.tokenizer import Tokenizer

HASHES_FILE = "hashes.json"
REMEMBER_HASH_FROM = 1 << 26  # bytes of a file; to hash more takes a second or longer
LARGE_CACHE = 10**9  # bytes; a larger cache is reported
KEY_LENGTH = 16  # hexadecimal digits


def cache_folder() -> Path:
    """The folder of all cached texts."""
    return project.DATA / "cache"


def cache_key(texts: Texts, tokenizer: Tokenizer | str, of_files: Iterable[bytes]) -> str:
    """A hash of all that the ids depend on: the texts, how they are read, the tokenizer.

    `of_files` has a hash or a stamp of each file; `tokenizer` is one, or the name of one that is
    made for the text.
    """
    of_tokenizer = describe_tokenizer(tokenizer)
    digest = hashlib.sha256(repr((texts.encoding, of_tokenizer)).encode())
    if texts.documents or any(map(is_compressed, texts.paths)):
        digest.update(repr(([path.suffixes for path in texts.paths], texts.text_field)).encode())
    for of_file in of_files:
        digest.update(of_file)
    return digest.hexdigest()[:KEY_LENGTH]


def describe_tokenizer(tokenizer: Tokenizer | str) -> Any:
    """Plain data that tell a tokenizer, or the name of one, from any other."""
    if isinstance(tokenizer, CharTokenizer):
        return tokenizer.characters
    if isinstance(tokenizer, Tokenizer):
        return tokenizer.to_dict()
    return (tokenizer,) if tokenizer != "char" else None


def hash_files(texts: Texts) -> list[bytes]:
    """The SHA-256 of each file. Raises UserError if one has changed since its stamp was taken."""
    stamps, bar = texts.stamps, LongBar("hashing", texts.bytes)
    hashes = [_hash_file(path, stamp, bar) for path, stamp in zip(texts.paths, stamps, strict=True)]
    bar.close()
    return hashes


def _hash_file(path: Path, stamp: list[int], bar: LongBar) -> bytes:
    """The SHA-256 of a file; of a large one it is remembered while size and date stay the same.

    Raises UserError if they differ from the stamp.
    """
    is_large = stamp[0] >= REMEMBER_HASH_FROM
    with open_bytes(path) as file:
        remembered = _read_hashes() if is_large else {}
        with suppress(ValueError, TypeError):  # a damaged entry
            *before, found = remembered.get(str(path.resolve()), [None])
            if before == stamp:
                return bytes.fromhex(found)
        digest = hashlib.sha256()
        while data := file.read(formats.PIECE_SIZE):
            digest.update(data)
            bar.move(bar.done + len(data))
        check_unchanged(path, file, stamp)
    if is_large:
        remembered[str(path.resolve())] = [*stamp, digest.hexdigest()]
        _save_hashes(remembered)
    return digest.digest()


def _read_hashes() -> dict[str, Any]:
    try:
        hashes = json.loads(read_small(cache_folder() / HASHES_FILE, MAX_NOTE_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return hashes if isinstance(hashes, dict) else {}


def _save_hashes(hashes: dict[str, Any]) -> None:
    hashes = {name: value for name, value in hashes.items() if Path(name).exists()}
    path = cache_folder() / HASHES_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(json.dumps(hashes).encode())


def report_large_cache(cache: Path) -> None:
    """Print one line if the cache fills the disk, with the command that deletes it."""
    size = 0
    with suppress(OSError):  # another process may write or remove files meanwhile
        size = size_on_disk(cache)
    if size > LARGE_CACHE:
        name = str(cache).removeprefix(os.getcwd() + os.sep)
        print(
            f"{name} holds {format_bytes(size)} of prepared texts; delete it at any time "
            f"({shlex.join(['rm', '-r', name])}), they are made again when needed",
            file=sys.stderr,
        )
