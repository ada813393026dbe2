"""Text files to token files: train.bin, val.bin and tokenizer.json in one folder.

    novel.txt ──kqv/text/sources.py──▶ pieces of text ──kqv/text/tokenizing.py──▶ train.bin (first 90 %), val.bin (the rest)

Text is read in pieces, so memory stays flat whatever its size: once to hash it, once to learn which characters there are
and how many, once to encode them (and once more to learn a vocabulary). What is unfinished stands in a folder named by the
hash, where the next process that is asked for the same goes on.
"""

import hashlib
import json
import os
import secrets
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout  # the system's own locks, which end with their process

from kqv.errors import UserError
from kqv.files import LARGEST_NOTE, in_words, read_small, replacing, size_on_disk
from kqv.progress import ReadingBar
from kqv.project import DATA
from kqv.text.registry import make_tokenizer, named_encoding
from kqv.text.sources import (
    PIECE,
    Texts,
    check_unchanged,
    comes_once,
    enumerated,
    is_packed,
    joined,
    open_bytes,
    read_endings,
    text_files,
)
from kqv.text.token_files import count_bytes, shard_files
from kqv.text.tokenizer import (
    CODE_POINTS,
    END,
    CharTokenizer,
    Tokenizer,
    load_tokenizer,
    token_dtype,
)
from kqv.text.tokenizing import KEEP_EVERY, PROGRESS, SPLITS, Part, Progress, encode

TRAIN_SHARE = 0.9  # of the characters; nanoGPT's split
MOST_TO_VALIDATE = 10_000_000  # characters: more say nothing new, and the loss over all of them is measured at the end of a run
LEARN_FROM = (
    1 << 30
)  # characters that a vocabulary is learnt from: more tell nothing new, and take memory
LARGE = 1 << 26  # bytes of a file whose hash is remembered: it takes a second or more
ABANDONED = 7 * 24 * 3600  # seconds after which an unfinished preparation is removed
LARGE_CACHE = 10**9  # bytes of prepared texts that are worth a word
RECORD = "prepared.json"  # in a prepared folder: its sources, and how many tokens were written
# What a text may need to be read again: options and their defaults.
HOW_READ = {"--encoding=": "utf-8", "--text_field=": "text", "--endings=": ""}


@dataclass
class Dataset:
    """A prepared text: a folder with train.bin, val.bin and tokenizer.json."""

    folder: Path
    tokenizer: Tokenizer
    train_tokens: int
    val_tokens: int
    sources: Sequence[str] = ()
    """words of a command line that name its texts, if it was made of texts"""

    @property
    def name(self) -> str:
        """What --dataset= calls it: the path of the folder under data/, or all of it if it lies elsewhere."""
        return (
            self.folder.relative_to(DATA).as_posix()
            if self.folder.is_relative_to(DATA)
            else str(self.folder)
        )

    @property
    def title(self) -> str:
        """What its user calls it: the names of its texts, or of the folder under data/."""
        return title_of(self.sources) or self.name

    @property
    def vocab_size(self) -> int:
        """How many different tokens there are."""
        return self.tokenizer.vocab_size


def title_of(sources: Sequence[str]) -> str:
    """The names of texts, for people.

    >>> title_of(["/home/me/letters/", "/home/me/diary.txt", "--encoding=latin-1"])
    'letters/ and diary.txt'
    """
    texts = [word.removeprefix("--text=") for word in sources if not word.startswith((*HOW_READ,))]
    names = list(map(_name_of, texts))
    return enumerated([*names[:2], f"{len(names) - 2} more"] if len(names) > 3 else names)


def _name_of(text: str) -> str:
    if text == "-":
        return "standard input"
    path = Path(text)
    name = path.relative_to(DATA).as_posix() if path.is_relative_to(DATA) else path.name
    return name + "/" * text.endswith("/")


def sources_of(words: Sequence[str], encoding: str, text_field: str, endings: str) -> list[str]:
    """Words of a command line that name the same texts from any folder, with the options that
    they are read with."""
    sources = []
    for word in words:
        path = os.path.abspath(word) + "/" * os.path.isdir(word)
        if comes_once(word):
            sources.append("-")
        else:
            sources.append(f"--text={path}" if path.endswith(".py") else path)
    values = (encoding, text_field, endings)
    for (option, default), value in zip(HOW_READ.items(), values, strict=True):
        if value != default:
            sources.append(option + value)
    return sources


def known_sources(value: object) -> list[str]:
    """The sources that a file holds, without what cannot be a source: people paste them into a
    command, and a word that ends in .py would be a config file there, which is run."""

    def is_source(word: object) -> bool:
        if not isinstance(word, str):
            return False
        is_path = os.path.isabs(word) and not word.endswith(".py")
        return word == "-" or is_path or word.startswith(("--text=", *HOW_READ))

    return list(filter(is_source, value)) if isinstance(value, list) else []


def open_dataset(
    name: str, tokenizer: Tokenizer | str = "", sources: Sequence[str] = (), again: str = ""
) -> Dataset:
    """The dataset in data/NAME, prepared by its prepare.py if that has not been done yet. If another `tokenizer` is named
    than it was prepared with, its input.txt is taken as a text. (One that is given serves where GPT-2's is needed.)

    `sources` are those of a checkpoint that names the dataset; `again` is a command that prepares
    them again.

    Raises UserError if there is no such dataset, or no such text.
    """
    folder = DATA / name
    if sources and not _whole(folder):
        state = "damaged" if folder.exists() else "gone"
        raise UserError(
            f"the prepared ids of {title_of(sources)} are {state} ({folder}): "
            f"prepare the text again with {again}"
        )
    script = folder / "prepare.py"
    # val.bin is put in place last: where it is, all is.
    if not (folder / "val.bin").exists():
        # A name can come from a checkpoint, which must not choose what is run: only what lies in data/ is.
        if not script.exists() or not Path(os.path.abspath(folder)).is_relative_to(DATA):
            known = ", ".join(sorted(path.parent.name for path in DATA.glob("*/prepare.py")))
            raise UserError(
                f"no dataset {name} in {DATA}: name a text file, or --dataset= one of: {known}"
            )
        print(f"preparing {name} with {script}", file=sys.stderr)
        if status := subprocess.run([sys.executable, str(script)]).returncode:
            raise UserError(f"{script} ended with status {status}: see its message above")
    if not tokenizer:
        return _existing(folder, sources=sources)
    if not isinstance(tokenizer, str):
        return _existing(folder, tokenizer, sources)
    there = load_tokenizer(folder).name if _has_vocabulary(folder) else "gpt2"
    if tokenizer == there:
        return _existing(folder, sources=sources)
    if not (folder / "input.txt").exists():
        raise UserError(
            f"{folder} has tokens of {there} and no input.txt: for --tokenizer= name a text file"
        )
    return open_texts([str(folder / "input.txt")], tokenizer=tokenizer)


def open_texts(
    words: Sequence[str],
    encoding: str = "utf-8",
    tokenizer: Tokenizer | str = "char",
    text_field: str = "text",
    endings: str = "",
) -> Dataset:
    """The dataset made of text files, folders of them, or `-` for standard input, in this order.

    The `tokenizer` is given, or made for the text if only its name is. `endings` says which files of
    a folder are texts. The ids are kept under data/cache/ and used again while the texts hash to the
    same value.

    Raises UserError for a text that is missing, empty, not in this encoding or not in this
    vocabulary, and for one that changes meanwhile.
    """
    cache = DATA / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    _clean(cache)
    sources = sources_of(words, encoding, text_field, endings)
    copies = secrets.token_hex(8)
    with _room(cache / copies, copies) as scratch:
        try:
            chosen = read_endings(endings)
            files = [path for word in words for path in text_files(word, scratch, chosen)]
            texts = Texts(files, encoding, text_field)
            hashes = _hashes(texts)
            stem = texts.paths[0].stem[:40]
            digest = _digest(texts, tokenizer, hashes)
            if dataset := _whole(cache / f"{stem}-{digest}", sources):
                return dataset
            if isinstance(
                tokenizer, Tokenizer
            ):  # of a checkpoint, which mostly was made for this very text
                named = _digest(texts, tokenizer.name, hashes)
                dataset = _whole(cache / f"{stem}-{named}", sources)
                if dataset and dataset.tokenizer == tokenizer:
                    return dataset
            dataset = _prepare(texts, cache / f"{stem}-{digest}", tokenizer, digest, sources)
        except UserError as error:
            raise UserError(str(error).replace(str(scratch / "stdin"), "standard input")) from None
    _say_if_large(cache)
    return dataset


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
    # Name, size and date change when a file does: here that is enough.
    stamps = [
        repr((str(path.resolve()), *stamp)).encode()
        for path, stamp in zip(paths, texts.stamps, strict=True)
    ]
    digest = _digest(texts, tokenizer, stamps)
    return _prepare(texts, folder, tokenizer, digest, anew=folder.exists())


def prepare_documents(
    splits: Mapping[str, Iterable[str]], folder: Path, tokenizer: Tokenizer, key: str
) -> Dataset:
    """The same for documents that are split already: `splits` has those of train, then those of val.

    They come in the same order each time, and `key` tells them from others: by it an unfinished preparation is found again.
    """
    digest = hashlib.sha256(repr((key, tokenizer.to_dict())).encode()).hexdigest()[:16]
    with _room(folder, digest) as room:
        parts = ((split, piece) for split, texts in splits.items() for piece in joined(texts))
        progress = Progress.kept_in(room)
        encode(parts, tokenizer, True, progress, room)
        _keep_vocabulary(tokenizer, room / "ids")
        _keep_record(progress, [], room / "ids")
        _put(room / "ids", folder)
    return _existing(folder)


def _prepare(
    texts: Texts,
    folder: Path,
    tokenizer: Tokenizer | str,
    digest: str,
    sources: Sequence[str] = (),
    anew: bool = False,
) -> Dataset:
    """Write the ids of texts into `folder`, which appears whole if it is new. One that is there
    stays, unless it is damaged or to be made `anew`."""
    with _room(folder, digest) as room:
        if not anew and folder.exists():
            if dataset := _whole(folder, sources):  # another process was first, with the same ids
                return dataset
            print(f"{folder} is damaged: the text is prepared again", file=sys.stderr)
        began, progress = time.monotonic(), Progress.kept_in(room)
        if not progress.length:
            _survey(texts, progress)
            if time.monotonic() - began > KEEP_EVERY:
                progress.keep(room)
        if not progress.length:
            raise UserError(
                f"{', '.join(map(str, texts.paths))}: the text is empty, there is nothing to learn from"
            )
        if isinstance(tokenizer, str):
            if (room / "ids" / "tokenizer.json").exists():
                tokenizer = load_tokenizer(room / "ids")
            else:  # what is learnt is learnt from the part to train on
                learn_from = takewhile(
                    lambda part: part[0] == "train", _split(texts, progress, "learning", LEARN_FROM)
                )
                tokenizer = make_tokenizer(
                    tokenizer,
                    progress.characters,
                    (text for _, text in learn_from),
                    texts.documents,
                )
        if unknown := tokenizer.encode_known(progress.characters)[1]:
            raise UserError(
                f"the text has {len(unknown)} characters that the checkpoint's vocabulary has not, among them "
                f"{' '.join(map(repr, unknown[:5]))}: take them out of the text, or train from scratch"
            )
        _keep_vocabulary(tokenizer, room / "ids")
        encode(_split(texts, progress, "encoding"), tokenizer, texts.documents, progress, room)
        if progress.done != progress.length:
            raise UserError(
                f"the text changed while it was read: it had {progress.length:,} characters, then "
                f"{progress.done:,}; run the command again when it has settled"
            )
        _keep_record(progress, sources, room / "ids")
        _put(room / "ids", folder)
    return _existing(folder, sources=sources)


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
                raise UserError(
                    f"{path} has half of a surrogate pair, which is no character: mend the text"
                ) from None
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


def _keep_record(progress: Progress, sources: Sequence[str], ids: Path) -> None:
    record = {"sources": sources, "train": progress.train, "val": progress.val}
    with replacing(ids / RECORD) as file:
        file.write(json.dumps(record).encode())


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
        print(
            f"another process is preparing the same text: waiting for it ({room})", file=sys.stderr
        )
        lock.acquire()
    try:
        room.mkdir(exist_ok=True)
        yield room
        shutil.rmtree(room, ignore_errors=True)
    except BaseException as error:
        if isinstance(error, UserError) or not (room / PROGRESS).exists():
            shutil.rmtree(room, ignore_errors=True)
        else:
            kept = "what was prepared of the text is kept: the same command goes on there"
            print(kept, file=sys.stderr)
        raise
    finally:
        with suppress(OSError):  # Windows keeps a file that is open
            os.unlink(lock.lock_file)
        lock.release()


def _clean(cache: Path) -> None:
    """Remove what killed processes left behind: copies of standard input, and preparations that had
    not got far, at once; others after a week. What a running process works on is locked."""

    def is_useful(left: Path) -> bool:
        return (left / PROGRESS).exists() and time.time() - left.stat().st_mtime < ABANDONED

    # each has a folder, a lock file, or both
    for left in {path.with_suffix("") for path in cache.glob("unfinished-*")}:
        with suppress(OSError, Timeout):
            if is_useful(left):
                continue
            with FileLock(f"{left}.lock").acquire(timeout=0) as lock:
                if not is_useful(left):
                    shutil.rmtree(left, ignore_errors=True)
                    os.unlink(lock.lock_file)


def _say_if_large(cache: Path) -> None:
    """One line where prepared texts fill the disk."""
    size = 0
    with suppress(OSError):  # another process may put or remove files meanwhile
        size = size_on_disk(cache)
    if size > LARGE_CACHE:
        name = str(cache).removeprefix(os.getcwd() + os.sep)
        print(
            f"{name} holds {in_words(size)} of prepared texts; delete it at any time "
            f"({shlex.join(['rm', '-r', name])}), they are made again when needed",
            file=sys.stderr,
        )


def _put(ids: Path, folder: Path) -> None:
    """Let prepared files take their place: the whole folder at once if it is new, else one by one.

    val.bin, which says that all is there, comes last, and what was there before goes first: ids and vocabulary of two texts
    never stand together, and a train.bin and val.bin without a vocabulary are not of our making.
    """
    if not folder.exists():
        ids.rename(folder)
        return
    before = [*shard_files(folder / "val.bin"), folder / RECORD, folder / "tokenizer.json"]
    before += shard_files(folder / "train.bin")[:0:-1]
    for path in before:
        path.unlink(missing_ok=True)
    for path in sorted(
        ids.iterdir(),
        key=lambda path: (path.name == "val.bin", path.name != "train.bin", path.name),
    ):
        os.replace(path, folder / path.name)


def _has_vocabulary(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("tokenizer.json", "meta.pkl"))


def _existing(folder: Path, given: Tokenizer | None = None, sources: Sequence[str] = ()) -> Dataset:
    """The dataset in a prepared folder. Raises UserError if it is damaged."""
    record = _record(folder)
    if _has_vocabulary(folder) or record:
        tokenizer = load_tokenizer(folder)
    else:
        print(
            f"{folder} has no vocabulary: its ids are taken for those of GPT-2, as nanoGPT does",
            file=sys.stderr,
        )
        tokenizer = given if given and given.name == "gpt2" else named_encoding("gpt2")
    itemsize = np.dtype(token_dtype(tokenizer.vocab_size)).itemsize
    sizes = {split: count_bytes(folder / f"{split}.bin") for split in SPLITS}
    for split, size in sizes.items():
        if record and size != record[split] * itemsize:
            script, written = folder / "prepare.py", record[split] * itemsize
            raise UserError(
                f"{folder / split}.bin has {size:,} bytes, and {written:,} were written: "
                f"{f'run {script}' if script.exists() else 'prepare it'} again, "
                f"or delete {folder / RECORD} if the file is whole"
            )
    train, val = (size // itemsize for size in sizes.values())
    return Dataset(folder, tokenizer, train, val, sources or known_sources(record.get("sources")))


def _whole(folder: Path, sources: Sequence[str] = ()) -> Dataset | None:
    """The dataset in a folder of the cache, if it is there and not damaged."""
    with suppress(UserError):
        return _existing(folder, sources=sources) if _has_vocabulary(folder) else None
    return None


def _record(folder: Path) -> dict[str, Any]:
    """What was written down of a preparation; nothing where another program, or an older kqv, made
    the folder. Raises UserError for a damaged record."""
    path = folder / RECORD
    try:
        record = json.loads(read_small(path, LARGEST_NOTE))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError):
        record = None
    if not isinstance(record, dict) or not all(type(record.get(split)) is int for split in SPLITS):
        raise UserError(f"{path} is damaged: delete it, or prepare the text again")
    return record


def _digest(texts: Texts, tokenizer: Tokenizer | str, of_files: Iterable[bytes]) -> str:
    """What the ids depend on, in 16 characters: the texts (a hash or a stamp each), how they are
    read, the tokenizer."""
    key: Any = None
    if isinstance(tokenizer, CharTokenizer):
        key = tokenizer.characters
    elif tokenizer != "char":
        key = (tokenizer,) if isinstance(tokenizer, str) else tokenizer.to_dict()
    digest = hashlib.sha256(repr((texts.encoding, key)).encode())
    if texts.documents or any(map(is_packed, texts.paths)):
        digest.update(repr(([path.suffixes for path in texts.paths], texts.text_field)).encode())
    for of_file in of_files:
        digest.update(of_file)
    return digest.hexdigest()[:16]


def _hashes(texts: Texts) -> list[bytes]:
    """The SHA-256 of each file."""
    stamps, bar = texts.stamps, ReadingBar("hashing", texts.bytes)
    hashes = [_hash(path, stamp, bar) for path, stamp in zip(texts.paths, stamps, strict=True)]
    bar.close()
    return hashes


def _hash(path: Path, stamp: list[int], bar: ReadingBar) -> bytes:
    """The SHA-256 of a file. Of a large one it is remembered while its size and date are the same.

    Raises UserError if they are not those of the stamp.
    """
    known, large = DATA / "cache" / "hashes.json", stamp[0] >= LARGE
    with open_bytes(path) as file:
        try:
            remembered = json.loads(read_small(known, LARGEST_NOTE)) if large else {}
            *before, found = remembered.get(str(path.resolve()), [None])
            if before == stamp:
                return bytes.fromhex(found)
        except (OSError, ValueError, TypeError, AttributeError):
            remembered = {}
        digest = hashlib.sha256()
        while piece := file.read(PIECE):
            digest.update(piece)
            bar.move(bar.done + len(piece))
        check_unchanged(path, file, stamp)
    if large:
        remembered = {name: value for name, value in remembered.items() if Path(name).exists()}
        remembered[str(path.resolve())] = [*stamp, digest.hexdigest()]
        known.parent.mkdir(parents=True, exist_ok=True)
        with replacing(known) as notes:
            notes.write(json.dumps(remembered).encode())
    return digest.digest()
