"""Text files to token files: train.bin, val.bin and tokenizer.json in one folder.

    novel.txt ──read──▶ pieces of text ──look-up──▶ ids ──▶ train.bin (first 90 %), val.bin (the rest)

Text is read in pieces, so memory stays flat whatever its size: once to hash it, once to learn which
characters there are, once to encode them (twice if tokens are no characters, and once more to learn a vocabulary).
"""

import codecs
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from kqv.errors import UserError
from kqv.files import replacing
from kqv.tokenizer import CODE_POINTS, CharTokenizer, Tokenizer, load_tokenizer, token_dtype
from kqv.vocabularies import make_tokenizer, named_encoding

DATA = Path(__file__).resolve().parent.parent / "data"
PIECE = 1 << 20  # bytes read at a time
TRAIN_SHARE = 0.9  # of the characters; nanoGPT's split


@dataclass
class Dataset:
    """A prepared text: a folder with train.bin, val.bin and tokenizer.json."""

    folder: Path
    tokenizer: Tokenizer
    train_tokens: int
    val_tokens: int

    @property
    def name(self) -> str:
        """What --dataset= calls it: the path of the folder under data/, or all of it if it lies elsewhere."""
        return self.folder.relative_to(DATA).as_posix() if self.folder.is_relative_to(DATA) else str(self.folder)

    @property
    def vocab_size(self) -> int:
        """How many different tokens there are."""
        return self.tokenizer.vocab_size


def open_dataset(name: str, tokenizer: Tokenizer | str = "") -> Dataset:
    """The dataset in data/NAME, prepared by its prepare.py if that has not been done yet. If another `tokenizer` is named
    than it was prepared with, its input.txt is taken as a text. (One that is given serves where GPT-2's is needed.)

    Raises UserError if there is no such dataset, or no such text.
    """
    folder = DATA / name
    script = folder / "prepare.py"
    # val.bin is put in place last: where it is, all is.
    if not (folder / "val.bin").exists():
        # A name can come from a checkpoint, which must not choose what is run: only what lies in data/ is.
        if not script.exists() or not Path(os.path.abspath(folder)).is_relative_to(DATA):
            known = ", ".join(sorted(path.parent.name for path in DATA.glob("*/prepare.py")))
            raise UserError(f"no dataset {name} in {DATA}: name a text file, or --dataset= one of: {known}")
        print(f"preparing {name} with {script}", file=sys.stderr)
        if status := subprocess.run([sys.executable, str(script)]).returncode:
            raise UserError(f"{script} ended with status {status}: see its message above")
    if not tokenizer:
        return _existing(folder)
    if not isinstance(tokenizer, str):
        return _existing(folder, tokenizer)
    there = load_tokenizer(folder).name if _has_vocabulary(folder) else "gpt2"
    if tokenizer == there:
        return _existing(folder)
    if not (folder / "input.txt").exists():
        raise UserError(f"{folder} has tokens of {there} and no input.txt: for --tokenizer= name a text file")
    return open_texts([str(folder / "input.txt")], tokenizer=tokenizer)


def open_texts(words: Sequence[str], encoding: str = "utf-8", tokenizer: Tokenizer | str = "char") -> Dataset:
    """The dataset made of text files, folders of .txt files, or `-` for standard input, in this order.

    The `tokenizer` is given, or made for the text if only its name is. The ids are kept under data/cache/ and used again
    while the texts hash to the same value.
    Raises UserError for a text that is missing, empty, not in this encoding or not in this vocabulary.
    """
    cache = DATA / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    for left in cache.glob("unfinished-*"):  # by a process that was killed, if it is a day old
        if time.time() - left.stat().st_mtime > 24 * 3600:
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="unfinished-") as name:
        scratch = Path(name)
        try:
            paths = [path for word in words for path in _text_files(word, scratch)]
            folder = cache / f"{paths[0].stem[:40]}-{_digest(paths, encoding, tokenizer)}"
            if not folder.exists():
                # Prepared beside its place and renamed whole: a folder that exists is complete.
                prepare_dataset(paths, scratch / "ids", encoding, tokenizer)
                _rename_unless_there(scratch / "ids", folder)
        except UserError as error:
            raise UserError(str(error).replace(str(scratch / "stdin"), "standard input")) from None
    return _existing(folder)


def prepare_dataset(
    paths: Sequence[Path], folder: Path, encoding: str = "utf-8", tokenizer: Tokenizer | str = "char"
) -> Dataset:
    """Write train.bin, val.bin and tokenizer.json for these text files into `folder`.

    The `tokenizer` is given, or made for the text if only its name is.
    Raises UserError for a text that is missing, empty, not in this encoding or not in this vocabulary.
    """
    length, characters = _survey(paths, encoding)
    if not length:
        raise UserError(f"{', '.join(map(str, paths))}: the text is empty, there is nothing to learn from")
    cut = int(length * TRAIN_SHARE)
    if isinstance(tokenizer, str):  # what is learnt is learnt from the part to train on
        tokenizer = make_tokenizer(tokenizer, characters, _part(paths, encoding, 0, cut))
    if unknown := tokenizer.encode_known(characters)[1]:
        raise UserError(
            f"the text has {len(unknown)} characters that the checkpoint's vocabulary has not, among them "
            f"{' '.join(map(repr, unknown[:5]))}: take them out of the text, or train from scratch"
        )

    folder.mkdir(parents=True, exist_ok=True)
    # val.bin, which says that all is there, comes last, and what was there before goes first: ids and vocabulary of two
    # texts never stand together, and a train.bin and val.bin without a vocabulary are not of our making.
    with replacing(folder / "val.bin") as val:
        with replacing(folder / "train.bin") as train:
            if isinstance(tokenizer, CharTokenizer):
                _write_characters(_code_points(paths, encoding), tokenizer, cut, train, val)
            else:
                _write_tokens(_part(paths, encoding, 0, cut), tokenizer, train)
                _write_tokens(_part(paths, encoding, cut, length), tokenizer, val)
            for name in ("val.bin", "tokenizer.json"):
                (folder / name).unlink(missing_ok=True)
        with replacing(folder / "tokenizer.json") as file:
            file.write(json.dumps(tokenizer.to_dict()).encode())
    return _existing(folder)


def _survey(paths: Sequence[Path], encoding: str) -> tuple[int, str]:
    """How many characters the texts have, and the different ones in the order of code points."""
    seen = np.zeros(CODE_POINTS, dtype=bool)
    ascii_seen = b""
    length = 0
    for points in _code_points(paths, encoding):
        if points.dtype == np.uint8:  # ASCII: methods of bytes are several times faster than look-ups in an array
            ascii_seen += bytes(set(points.tobytes().translate(None, delete=ascii_seen)))
        else:
            seen[points] = True
        length += len(points)
    seen[list(ascii_seen)] = True
    return length, "".join(map(chr, np.flatnonzero(seen)))


def _write_characters(
    pieces: Iterable[np.ndarray], tokenizer: CharTokenizer, left: int, train: BinaryIO, val: BinaryIO
) -> None:
    """The ids of characters, by look-up: the first `left` to `train`, the others to `val`."""
    table = tokenizer.id_table()
    ascii_table = table[:256].astype(np.uint8).tobytes() if table[:128].max() < 256 else None  # ids that fit into a byte
    # A thread writes while the next piece is looked up: on a big text writing takes most of the time.
    with ThreadPoolExecutor(1) as writer:
        written: list[Future[int]] = []
        for points in pieces:
            if points.dtype == np.uint8 and ascii_table:
                ids = np.frombuffer(points.tobytes().translate(ascii_table), dtype=np.uint8).astype(table.dtype)
            else:
                ids = table[points]
            for future in written:  # no more than one piece waits, and an error is met here
                future.result()
            written = [writer.submit(train.write, ids[:left].data), writer.submit(val.write, ids[left:].data)]
            left = max(0, left - len(ids))
        for future in written:
            future.result()


def _write_tokens(pieces: Iterable[str], tokenizer: Tokenizer, file: BinaryIO) -> None:
    """The ids of a text whose tokens are no characters. It is cut where that makes no difference."""
    if tokenizer.kind == "bpe":
        from kqv.bpe import safe_pieces  # imports tiktoken

        pieces = safe_pieces(pieces)
    dtype = token_dtype(tokenizer.vocab_size)
    for text in pieces:
        file.write(np.array(tokenizer.encode(text), dtype=dtype).data)


def _part(paths: Sequence[Path], encoding: str, start: int, end: int) -> Iterator[str]:
    """The characters from `start` to `end` of the texts, in pieces."""
    at = 0
    for _, text in _texts(paths, encoding):
        if piece := text[max(0, start - at) : max(0, end - at)]:
            yield piece
        at += len(text)
        if at >= end:
            return


def _has_vocabulary(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("tokenizer.json", "meta.pkl"))


def _existing(folder: Path, given: Tokenizer | None = None) -> Dataset:
    if _has_vocabulary(folder):
        tokenizer = load_tokenizer(folder)
    else:
        print(f"{folder} has no vocabulary: its ids are taken for those of GPT-2, as nanoGPT does", file=sys.stderr)
        tokenizer = given if given and given.name == "gpt2" else named_encoding("gpt2")
    itemsize = np.dtype(token_dtype(tokenizer.vocab_size)).itemsize
    counts = [(folder / name).stat().st_size // itemsize for name in ("train.bin", "val.bin")]
    return Dataset(folder, tokenizer, *counts)


def _digest(paths: Sequence[Path], encoding: str, tokenizer: Tokenizer | str) -> str:
    """What the ids depend on, in 16 characters: the bytes of the texts, their encoding, the tokenizer."""
    key: Any = None
    if isinstance(tokenizer, CharTokenizer):
        key = tokenizer.characters
    elif tokenizer != "char":
        key = (tokenizer,) if isinstance(tokenizer, str) else tokenizer.to_dict()
    digest = hashlib.sha256(repr((encoding, key)).encode())
    for path in paths:
        with _open(path) as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def _rename_unless_there(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except OSError:
        if not target.exists():  # else another process was first, with the same ids
            raise


def _text_files(word: str, scratch: Path) -> list[Path]:
    """The files that a word of the command line stands for. What can be read only once is copied to `scratch`."""
    path = Path(word)
    if word == "-" or path.is_fifo():  # a shell's <(command) is a named pipe
        copy = scratch / "stdin"
        with copy.open("wb") as file, (sys.stdin.buffer if word == "-" else _open(path)) as source:
            shutil.copyfileobj(source, file)
        return [copy]
    if path.is_dir():
        files = sorted(file for file in path.rglob("*.txt") if file.is_file())
        if not files:
            raise UserError(f"{path} has no .txt files")
        return files
    return [path]


def _open(path: Path) -> io.BufferedReader:
    try:
        return path.open("rb")
    except FileNotFoundError:
        hint = f"; to set an option write --{str(path).lstrip('-')}" if "=" in path.name else ""
        raise UserError(f"no such file or folder: {path}{hint}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def _code_points(paths: Sequence[Path], encoding: str) -> Iterator[np.ndarray]:
    """The characters of the texts as arrays of code points: uint8 where a piece is ASCII, else uint32."""
    for path, text in _texts(paths, encoding):
        if text.isascii():
            yield np.frombuffer(text.encode(), dtype=np.uint8)
            continue
        try:
            yield np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
        except UnicodeEncodeError:
            raise UserError(f"{path} has half of a surrogate pair, which is no character: mend the text") from None


def _texts(paths: Sequence[Path], encoding: str) -> Iterator[tuple[Path, str]]:
    """The texts in pieces, each with the file that it is from.

    A byte order mark is dropped, every line end becomes a newline, and a file that does not end with one
    gets one if more text follows.
    """
    last = "\n"
    for path in paths:
        for i, text in enumerate(_decoded(path, encoding)):
            joint = "\n" if i == 0 and last != "\n" else ""
            last = text[-1]
            yield path, joint + text


def _decoded(path: Path, encoding: str) -> Iterator[str]:
    """The text of one file in pieces, none of them empty."""
    try:
        "".encode(encoding)  # Python also has codecs that make no text, such as hex: this refuses them
    except (LookupError, ValueError):
        raise UserError(f"there is no encoding {encoding!r}; common ones are utf-8, utf-16, latin-1, cp1252") from None
    newlines = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder(encoding)(), translate=True)
    fed, byte_order_mark = 0, "\ufeff"
    with _open(path) as file:
        while True:
            piece = file.read(PIECE)
            fed += len(piece)
            try:
                text = newlines.decode(piece, final=not piece)
            except UnicodeDecodeError as error:
                # The decoder saw what it had kept from earlier pieces, then this one: count from the end.
                offset = fed - len(error.object) + error.start
                raise UserError(
                    f"{path} is not {encoding}: byte 0x{error.object[error.start]:02X} at offset {offset}; "
                    f"name its encoding, for example --encoding=latin-1"
                ) from None
            except UnicodeError as error:
                raise UserError(f"{path} is not {encoding}: {error}; name its encoding with --encoding=") from None
            if text:
                text, byte_order_mark = text.removeprefix(byte_order_mark), ""  # only the first can be one
            if text:
                yield text
            if not piece:
                return
