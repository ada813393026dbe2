"""Text files to token files: train.bin, val.bin and tokenizer.json in one folder.

    novel.txt ──kqv/reading.py──▶ pieces of text ──kqv/encoding.py──▶ train.bin (first 90 %), val.bin (the rest)

Text is read in pieces, so memory stays flat whatever its size: once to hash it, once to learn which characters there are
and how many, once to encode them (and once more to learn a vocabulary). What is unfinished stands in a folder named by the
hash, where the next process that is asked for the same goes on.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout  # the system's own locks, which end with their process

from kqv.bar import ReadingBar
from kqv.encoding import KEEP_EVERY, PROGRESS, Part, Progress, encode
from kqv.errors import UserError
from kqv.files import LARGEST_NOTE, read_small, replacing
from kqv.reading import PIECE, Texts, is_packed, joined, open_bytes, text_files
from kqv.tokenizer import CODE_POINTS, END, CharTokenizer, Tokenizer, load_tokenizer
from kqv.tokens import count_tokens, shard_files
from kqv.vocabularies import make_tokenizer, named_encoding

DATA = Path(__file__).resolve().parent.parent / "data"
TRAIN_SHARE = 0.9  # of the characters; nanoGPT's split
MOST_TO_VALIDATE = 10_000_000  # characters: more say nothing new, and the loss over all of them is measured at the end of a run
LEARN_FROM = 1 << 30  # characters that a vocabulary is learnt from: more tell nothing new, and take memory
LARGE = 1 << 26  # bytes of a file whose hash is remembered: it takes a second or more
ABANDONED = 7 * 24 * 3600  # seconds after which an unfinished preparation is removed


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


def open_texts(
    words: Sequence[str], encoding: str = "utf-8", tokenizer: Tokenizer | str = "char", text_field: str = "text"
) -> Dataset:
    """The dataset made of text files, folders of them, or `-` for standard input, in this order.

    The `tokenizer` is given, or made for the text if only its name is. The ids are kept under data/cache/ and used again
    while the texts hash to the same value.
    Raises UserError for a text that is missing, empty, not in this encoding or not in this vocabulary.
    """
    cache = DATA / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    for left in cache.glob("unfinished-*"):
        with suppress(OSError):  # another process may have finished it meanwhile
            if time.time() - left.stat().st_mtime > ABANDONED:
                shutil.rmtree(left) if left.is_dir() else left.unlink()
    with tempfile.TemporaryDirectory(dir=cache, prefix="unfinished-") as name:
        scratch = Path(name)
        try:
            texts = Texts([path for word in words for path in text_files(word, scratch)], encoding, text_field)
            stem = texts.paths[0].stem[:40]
            if isinstance(tokenizer, Tokenizer):  # of a checkpoint, which mostly was made for this very text
                folder = cache / f"{stem}-{_digest(texts, tokenizer.name, _hash)}"
                if folder.exists() and load_tokenizer(folder) == tokenizer:
                    return _existing(folder)
            digest = _digest(texts, tokenizer, _hash)
            folder = cache / f"{stem}-{digest}"
            if not folder.exists():
                _prepare(texts, folder, tokenizer, digest)
        except UserError as error:
            raise UserError(str(error).replace(str(scratch / "stdin"), "standard input")) from None
    return _existing(folder)


def prepare_dataset(
    paths: Sequence[Path],
    folder: Path,
    encoding: str = "utf-8",
    tokenizer: Tokenizer | str = "char",
    text_field: str = "text",
) -> Dataset:
    """Write train.bin, val.bin and tokenizer.json for these text files into `folder`.

    The `tokenizer` is given, or made for the text if only its name is.
    Raises UserError for a text that is missing, empty, not in this encoding or not in this vocabulary.
    """
    texts = Texts(paths, encoding, text_field)
    _prepare(texts, folder, tokenizer, _digest(texts, tokenizer, _stamp))
    return _existing(folder)


def prepare_documents(splits: Mapping[str, Iterable[str]], folder: Path, tokenizer: Tokenizer, key: str) -> Dataset:
    """The same for documents that are split already: `splits` has those of train, then those of val.

    They come in the same order each time, and `key` tells them from others: by it an unfinished preparation is found again.
    """
    digest = hashlib.sha256(repr((key, tokenizer.to_dict())).encode()).hexdigest()[:16]
    with _room(folder, digest) as room:
        parts = ((split, piece) for split, texts in splits.items() for piece in joined(texts))
        encode(parts, tokenizer, True, Progress.kept_in(room), room)
        _keep_vocabulary(tokenizer, room / "ids")
        _put(room / "ids", folder)
    return _existing(folder)


def _prepare(texts: Texts, folder: Path, tokenizer: Tokenizer | str, digest: str) -> None:
    """Write the ids of texts into `folder`, which appears whole if it is new."""
    new = not folder.exists()
    with _room(folder, digest) as room:
        if new and folder.exists():  # another process was first, with the same ids
            return
        began, progress = time.monotonic(), Progress.kept_in(room)
        if not progress.length:
            _survey(texts, progress)
            if time.monotonic() - began > KEEP_EVERY:
                progress.keep(room)
        if not progress.length:
            raise UserError(f"{', '.join(map(str, texts.paths))}: the text is empty, there is nothing to learn from")
        if isinstance(tokenizer, str):
            if (room / "ids" / "tokenizer.json").exists():
                tokenizer = load_tokenizer(room / "ids")
            else:  # what is learnt is learnt from the part to train on
                learn_from = takewhile(lambda part: part[0] == "train", _split(texts, progress, "learning", LEARN_FROM))
                tokenizer = make_tokenizer(tokenizer, progress.characters, (text for _, text in learn_from), texts.documents)
        if unknown := tokenizer.encode_known(progress.characters)[1]:
            raise UserError(
                f"the text has {len(unknown)} characters that the checkpoint's vocabulary has not, among them "
                f"{' '.join(map(repr, unknown[:5]))}: take them out of the text, or train from scratch"
            )
        _keep_vocabulary(tokenizer, room / "ids")
        encode(_split(texts, progress, "encoding"), tokenizer, texts.documents, progress, room)
        _put(room / "ids", folder)


def _survey(texts: Texts, progress: Progress) -> None:
    """Find out how long the texts are, which characters they have, and where the last document begins."""
    seen = np.zeros(CODE_POINTS, dtype=bool)
    ascii_seen = b""
    length = last_end = 0
    for path, text in texts.pieces("reading"):
        if text.isascii():  # methods of bytes are several times faster than look-ups in an array
            ascii_seen += bytes(set(text.encode().translate(None, delete=ascii_seen)))
        else:
            try:
                seen[np.frombuffer(text.encode("utf-32-le"), dtype="<u4")] = True
            except UnicodeEncodeError:
                raise UserError(f"{path} has half of a surrogate pair, which is no character: mend the text") from None
        if texts.documents and (end := text.rfind(END) + 1):
            before = text.rfind(END, 0, end - 1) + 1
            progress.last_document = length + before if before else last_end
            last_end = length + end
        length += len(text)
    seen[list(ascii_seen)] = True
    progress.length, progress.characters = length, "".join(map(chr, np.flatnonzero(seen)))


def _split(texts: Texts, progress: Progress, what: str, most: int = sys.maxsize) -> Iterator[Part]:
    """The texts in pieces, those to train on first: 90 % of the characters, or all but ten million, and on to the end of a
    document if there are several. (If that is in the last document, it is left to validate on.) Ends after `most` characters."""
    cut = max(int(progress.length * TRAIN_SHARE), progress.length - MOST_TO_VALIDATE)
    at_an_end = progress.last_document > 0
    if at_an_end:
        cut = min(cut, progress.last_document)
    at, split = 0, "train"
    for _, text in texts.pieces(what):
        if split == "train" and at + len(text) >= cut:
            end = text.find(END, max(0, cut - at - 1)) + 1 if at_an_end else cut - at
            if end or not at_an_end:
                yield split, text[:end]
                split, text, at = "val", text[end:], at + end
        yield split, text
        at += len(text)
        if at >= most:
            return


def _keep_vocabulary(tokenizer: Tokenizer, ids: Path) -> None:
    ids.mkdir(exist_ok=True)
    with replacing(ids / "tokenizer.json") as file:
        file.write(json.dumps(tokenizer.to_dict()).encode())


@contextmanager
def _room(folder: Path, digest: str) -> Iterator[Path]:
    """The unfinished preparation of a folder, kept from other processes meanwhile. It is removed when the block ends; a
    process that is killed, or ends when some work was kept but for a mistake of the user's, leaves it for the next."""
    room = (folder if folder.exists() else folder.parent) / f"unfinished-{digest}"
    room.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{room}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"another process is preparing the same text: waiting for it ({room})", file=sys.stderr)
        lock.acquire()
    try:
        room.mkdir(exist_ok=True)
        yield room
        shutil.rmtree(room, ignore_errors=True)
    except BaseException as error:
        if isinstance(error, UserError) or not (room / PROGRESS).exists():
            shutil.rmtree(room, ignore_errors=True)
        raise
    finally:
        with suppress(OSError):  # Windows keeps a file that is open
            os.unlink(lock.lock_file)
        lock.release()


def _put(ids: Path, folder: Path) -> None:
    """Let prepared files take their place: the whole folder at once if it is new, else one by one.

    val.bin, which says that all is there, comes last, and what was there before goes first: ids and vocabulary of two texts
    never stand together, and a train.bin and val.bin without a vocabulary are not of our making.
    """
    if not folder.exists():
        ids.rename(folder)
        return
    before = [*shard_files(folder / "val.bin"), folder / "tokenizer.json", *shard_files(folder / "train.bin")[:0:-1]]
    for path in before:
        path.unlink(missing_ok=True)
    for path in sorted(ids.iterdir(), key=lambda path: (path.name == "val.bin", path.name != "train.bin", path.name)):
        os.replace(path, folder / path.name)


def _has_vocabulary(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("tokenizer.json", "meta.pkl"))


def _existing(folder: Path, given: Tokenizer | None = None) -> Dataset:
    if _has_vocabulary(folder):
        tokenizer = load_tokenizer(folder)
    else:
        print(f"{folder} has no vocabulary: its ids are taken for those of GPT-2, as nanoGPT does", file=sys.stderr)
        tokenizer = given if given and given.name == "gpt2" else named_encoding("gpt2")
    counts = [count_tokens(folder / name, tokenizer.vocab_size) for name in ("train.bin", "val.bin")]
    return Dataset(folder, tokenizer, *counts)


def _digest(texts: Texts, tokenizer: Tokenizer | str, of_file: Callable[[Path, ReadingBar], bytes]) -> str:
    """What the ids depend on, in 16 characters: the texts, by a hash or a stamp, how they are read, the tokenizer."""
    key: Any = None
    if isinstance(tokenizer, CharTokenizer):
        key = tokenizer.characters
    elif tokenizer != "char":
        key = (tokenizer,) if isinstance(tokenizer, str) else tokenizer.to_dict()
    digest = hashlib.sha256(repr((texts.encoding, key)).encode())
    if texts.documents or any(map(is_packed, texts.paths)):
        digest.update(repr(([path.suffixes for path in texts.paths], texts.text_field)).encode())
    bar = ReadingBar("hashing", texts.bytes)
    for path in texts.paths:
        digest.update(of_file(path, bar))
    bar.close()
    return digest.hexdigest()[:16]


def _stamp(path: Path, _: ReadingBar) -> bytes:
    """What changes when a file does, where that is enough: its name, size and date."""
    with open_bytes(path) as file:
        state = os.fstat(file.fileno())
    return repr((str(path.resolve()), state.st_size, state.st_mtime_ns)).encode()


def _hash(path: Path, bar: ReadingBar) -> bytes:
    """The SHA-256 of a file. That of a large one is remembered while its size and date are the same."""
    with open_bytes(path) as file:
        state = os.fstat(file.fileno())
        stamp, known = [state.st_size, state.st_mtime_ns], DATA / "cache" / "hashes.json"
        try:
            remembered = json.loads(read_small(known, LARGEST_NOTE)) if state.st_size >= LARGE else {}
            *before, found = remembered.get(str(path.resolve()), [None])
            if before == stamp:
                return bytes.fromhex(found)
        except (OSError, ValueError, TypeError, AttributeError):
            remembered = {}
        digest = hashlib.sha256()
        while piece := file.read(PIECE):
            digest.update(piece)
            bar.move(bar.done + len(piece))
        state = os.fstat(file.fileno())
    if state.st_size >= LARGE and stamp == [state.st_size, state.st_mtime_ns]:
        remembered = {name: value for name, value in remembered.items() if Path(name).exists()}
        remembered[str(path.resolve())] = [*stamp, digest.hexdigest()]
        known.parent.mkdir(parents=True, exist_ok=True)
        with replacing(known) as notes:
            notes.write(json.dumps(remembered).encode())
    return digest.digest()
