"""Datasets: open a prepared one, or prepare text files and open what comes of it.

    novel.txt ──texts.py──▶ pieces of text ──preparation.py──▶ train.bin, val.bin, tokenizer.json

Texts named on the command line are prepared in data/cache (cache.py), where they are found again
as long as they hash to the same value.
"""

import hashlib
import os
import secrets
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kqv import project
from kqv.errors import UserError
from kqv.text.cache import (
    KEY_LENGTH,
    cache_folder,
    cache_key,
    hash_files,
    report_large_cache,
)
from kqv.text.formats import join_documents
from kqv.text.preparation import prepare_texts
from kqv.text.prepared import (
    check_token_counts,
    put_in_place,
    read_record,
    save_record,
    save_tokenizer,
)
from kqv.text.registry import find_vocabulary, load_tokenizer
from kqv.text.source_names import known_sources, sources_of, title_of
from kqv.text.sources import STDIN_COPY, read_endings, text_files
from kqv.text.texts import Texts
from kqv.text.tiktoken_files import load_tiktoken
from kqv.text.tokenizer import Tokenizer
from kqv.text.tokenizing import write_token_files
from kqv.text.unfinished import OUTPUT_FOLDER, Progress, locked_workspace, remove_abandoned

MAX_STEM = 40  # characters of a text's file name in the name of its cache folder


@dataclass
class Dataset:
    """A prepared text: a folder with train.bin, val.bin and tokenizer.json."""

    folder: Path
    tokenizer: Tokenizer
    train_tokens: int
    val_tokens: int
    sources: Sequence[str] = ()
    """words of a command line that name its texts, if it was made from texts"""

    @property
    def name(self) -> str:
        """The value of --dataset=: the path below data/, or the whole path outside of it."""
        if self.folder.is_relative_to(project.DATA):
            return self.folder.relative_to(project.DATA).as_posix()
        return str(self.folder)

    @property
    def title(self) -> str:
        """Its name for people: the names of its texts, or else of the dataset."""
        return title_of(self.sources) or self.name

    @property
    def vocab_size(self) -> int:
        """Number of different tokens."""
        return self.tokenizer.vocab_size


def open_dataset(
    name: str, tokenizer: Tokenizer | str = "", sources: Sequence[str] = (), again: str = ""
) -> Dataset:
    """Open the dataset in data/NAME, prepared by its prepare.py if that has not been done yet.

    If `tokenizer` names another tokenizer than it was prepared with, its input.txt is prepared
    like any text. A tokenizer that is given is used where that of GPT-2 is needed.

    `sources` are those in a checkpoint that names the dataset; `again` is the command that
    prepares them again.

    Raises UserError if there is no such dataset, or no such text.
    """
    folder = project.DATA / name
    if sources and not find_dataset(folder):
        state = "damaged" if folder.exists() else "gone"
        raise UserError(
            f"the prepared ids of {title_of(sources)} are {state} ({folder}): "
            f"prepare the text again with {again}"
        )
    if not (folder / "val.bin").exists():  # it is put in place last
        _run_prepare_script(name, folder)
    if isinstance(tokenizer, Tokenizer):
        return load_dataset(folder, tokenizer, sources)
    prepared_with = load_tokenizer(folder).name if find_vocabulary(folder) else "gpt2"
    if tokenizer in ("", prepared_with):
        return load_dataset(folder, sources=sources)
    if not (folder / "input.txt").exists():
        raise UserError(
            f"{folder} has tokens of {prepared_with} and no input.txt: "
            f"for --tokenizer= name a text file"
        )
    return open_texts([str(folder / "input.txt")], tokenizer=tokenizer)


def _run_prepare_script(name: str, folder: Path) -> None:
    """Run the prepare.py of a dataset. Raises UserError if it has none, or it fails."""
    script = folder / "prepare.py"
    # The name can come from a checkpoint, which must not choose what is run: only scripts below
    # data/ are.
    if not script.exists() or not Path(os.path.abspath(folder)).is_relative_to(project.DATA):
        known = ", ".join(sorted(path.parent.name for path in project.DATA.glob("*/prepare.py")))
        raise UserError(
            f"no dataset {name} in {project.DATA}: name a text file, or --dataset= one of: {known}"
        )
    print(f"preparing {name} with {script}", file=sys.stderr)
    if status := subprocess.run([sys.executable, str(script)]).returncode:
        raise UserError(f"{script} ended with status {status}: see its message above")


def open_texts(
    words: Sequence[str],
    encoding: str = "utf-8",
    tokenizer: Tokenizer | str = "char",
    text_field: str = "text",
    endings: str = "",
) -> Dataset:
    """Prepare and open the texts that words of the command line name, in this order.

    A word is a file, a folder, or `-` for standard input; `endings` says which files of a folder
    are texts. `tokenizer` is one, or the name of one that is made for the text. The token files
    are kept in data/cache, and used again while the texts hash to the same value.

    Raises UserError for a text that is missing, empty, not in its encoding or not in the
    vocabulary, and for one that changes while it is read.
    """
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    remove_abandoned(cache)
    sources = sources_of(words, encoding, text_field, endings)
    unique = secrets.token_hex(KEY_LENGTH // 2)
    with locked_workspace(cache / unique, unique) as scratch:
        try:
            chosen = read_endings(endings)
            files = [path for word in words for path in text_files(word, scratch, chosen)]
            texts = Texts(files, encoding, text_field)
            dataset, is_new = _find_or_prepare(texts, tokenizer, sources, cache)
        except UserError as error:
            message = str(error).replace(str(scratch / STDIN_COPY), "standard input")
            raise UserError(message) from None
    if is_new:
        report_large_cache(cache)
    return dataset


def _find_or_prepare(
    texts: Texts, tokenizer: Tokenizer | str, sources: Sequence[str], cache: Path
) -> tuple[Dataset, bool]:
    """The dataset of these texts in the cache, and whether it was prepared just now."""
    hashes, stem = hash_files(texts), texts.paths[0].stem[:MAX_STEM]
    key = cache_key(texts, tokenizer, hashes)
    folder = cache / f"{stem}-{key}"
    if dataset := find_dataset(folder, sources):
        return dataset, False
    if isinstance(tokenizer, Tokenizer):
        # The tokenizer of a checkpoint was mostly made for this very text, which is found by the
        # name of the tokenizer.
        made_for_text = cache_key(texts, tokenizer.name, hashes)
        dataset = find_dataset(cache / f"{stem}-{made_for_text}", sources)
        if dataset and dataset.tokenizer == tokenizer:
            return dataset, False
    return _prepare(texts, folder, tokenizer, key, sources), True


def prepare_dataset(
    paths: Sequence[Path],
    folder: Path,
    encoding: str = "utf-8",
    tokenizer: Tokenizer | str = "char",
    text_field: str = "text",
) -> Dataset:
    """Write train.bin, val.bin and tokenizer.json for text files into `folder`.

    `tokenizer` is one, or the name of one that is made for the text.

    Raises UserError for a text that is missing, empty, not in its encoding or not in the
    vocabulary.
    """
    texts = Texts(paths, encoding, text_field)
    # Name, size and date change when a file does, which is enough to recognise unfinished work.
    stamps = [
        repr((str(path.resolve()), *stamp)).encode()
        for path, stamp in zip(paths, texts.stamps, strict=True)
    ]
    key = cache_key(texts, tokenizer, stamps)
    return _prepare(texts, folder, tokenizer, key, replace=folder.exists())


def prepare_documents(
    splits: Mapping[str, Iterable[str]], folder: Path, tokenizer: Tokenizer, key: str
) -> Dataset:
    """Write the same files for documents that are split already.

    `splits` has the documents of train, then those of val, in the same order at each call. `key`
    identifies them: unfinished work is recognised by it.
    """
    digest = hashlib.sha256(repr((key, tokenizer.to_dict())).encode()).hexdigest()[:KEY_LENGTH]
    with locked_workspace(folder, digest) as workspace:
        parts = ((split, text) for split, docs in splits.items() for text in join_documents(docs))
        progress, output = Progress.load(workspace), workspace / OUTPUT_FOLDER
        write_token_files(parts, tokenizer, True, progress, workspace)
        save_tokenizer(tokenizer, output)
        save_record(output, [], {"train": progress.train, "val": progress.val})
        put_in_place(output, folder)
    return load_dataset(folder)


def _prepare(
    texts: Texts,
    folder: Path,
    tokenizer: Tokenizer | str,
    key: str,
    sources: Sequence[str] = (),
    replace: bool = False,
) -> Dataset:
    """Prepare texts in `folder`. A valid dataset that is there stays, unless `replace`."""
    with locked_workspace(folder, key) as workspace:
        if folder.exists() and not replace:
            if dataset := find_dataset(folder, sources):  # another process was first
                return dataset
            print(f"{folder} is damaged: the text is prepared again", file=sys.stderr)
        prepare_texts(texts, tokenizer, sources, workspace)
        put_in_place(workspace / OUTPUT_FOLDER, folder)
    return load_dataset(folder, sources=sources)


def load_dataset(
    folder: Path, given: Tokenizer | None = None, sources: Sequence[str] = ()
) -> Dataset:
    """The dataset in a prepared folder; `given` is a tokenizer at hand. Raises UserError if it is
    damaged."""
    record = read_record(folder)
    if find_vocabulary(folder) or record:
        tokenizer = load_tokenizer(folder)
    else:
        print(
            f"{folder} has no vocabulary: its ids are taken for those of GPT-2, as nanoGPT does",
            file=sys.stderr,
        )
        tokenizer = given if given and given.name == "gpt2" else load_tiktoken("gpt2")
    tokens = check_token_counts(folder, record, tokenizer.vocab_size)
    sources = sources or known_sources(record.get("sources"))
    return Dataset(folder, tokenizer, tokens["train"], tokens["val"], sources)


def find_dataset(folder: Path, sources: Sequence[str] = ()) -> Dataset | None:
    """The dataset in a folder of the cache; None if there is none, or it is damaged."""
    with suppress(UserError):
        return load_dataset(folder, sources=sources) if find_vocabulary(folder) else None
    return None
