"""Datasets: open a prepared one, or prepare text files and open what comes of it.

    novel.txt ──texts.py──▶ pieces of text ──preparation.py──▶ train.bin, val.bin, tokenizer.json

Texts named on the command line are prepared in data/cache (cache.py), where they are found again
as long as they hash to the same value.
"""

import hashlib
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from kqv.text.dataset_folders import Dataset, PairDataset, find_dataset, load_dataset, load_pairs
from kqv.text.formats import join_documents
from kqv.text.preparation import prepare_texts
from kqv.text.prepared import holds_pairs, put_in_place, save_record, save_tokenizer
from kqv.text.registry import find_vocabulary, load_tokenizer
from kqv.text.source_names import sources_of, title_of
from kqv.text.sources import STDIN_COPY, read_endings, text_files
from kqv.text.texts import Texts
from kqv.text.tokenizer import MASK, Tokenizer
from kqv.text.tokenizing import write_token_files
from kqv.text.unfinished import OUTPUT_FOLDER, Progress, locked_workspace, remove_abandoned

VALIDATION = b"validation"  # between the hashes of the files to train on and of those to validate
MAX_STEM = 40  # characters of a text's file name in the name of its cache folder


def open_dataset(
    name: str,
    tokenizer: Tokenizer | str = "",
    sources: Sequence[str] = (),
    again: str = "",
    target_tokenizer: Tokenizer | str = "",
) -> Dataset:
    """Open the dataset in data/NAME, prepared by its prepare.py if that has not been done yet.

    If `tokenizer` names another tokenizer than it was prepared with, its input.txt is prepared
    like any text. A tokenizer that is given is used where that of GPT-2 is needed.

    `sources` are those in a checkpoint that names the dataset; `again` is the command that
    prepares them again.

    Pairs come as a PairDataset, and only with the tokenizers that they were prepared with.

    Raises UserError if there is no such dataset, or no such text.
    """
    folder = _prepared_folder(name, sources, again)
    if holds_pairs(folder):
        return _load_named_pairs(folder, tokenizer, target_tokenizer, sources)
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


def _load_named_pairs(
    folder: Path,
    tokenizer: Tokenizer | str,
    target_tokenizer: Tokenizer | str,
    sources: Sequence[str],
) -> PairDataset:
    """The pairs in a folder. Raises UserError if other tokenizers are named than they have."""
    pairs = load_pairs(folder, sources)
    for option, named, made in (
        ("tokenizer", tokenizer, pairs.source_tokenizer),
        ("target_tokenizer", target_tokenizer, pairs.tokenizer),
    ):
        if isinstance(named, str) and named not in ("", made.name):
            raise UserError(
                f"{folder} has tokens of {made.name}: for --{option}={named} name files of pairs"
            )
    return pairs


def _prepared_folder(name: str, sources: Sequence[str], again: str) -> Path:
    """The folder data/NAME, prepared by its prepare.py if that has not been done yet.

    The arguments are those of `open_dataset`. Raises UserError if there is no such dataset.
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
    return folder


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
    val_words: Sequence[str] = (),
) -> Dataset:
    """Prepare and open the texts that words of the command line name, in this order.

    A word is a file, a folder, or `-` for standard input; `endings` says which files of a folder
    are texts. `tokenizer` is one, or the name of one that is made for the text. The token files
    are kept in data/cache, and used again while the texts hash to the same value.

    If there are `val_words`, their texts are for validation, and all others are to train on. There
    need be no others if `tokenizer` is one: the training split is empty then.

    Raises UserError for a text that is missing, empty, not in its encoding or not in the
    vocabulary, and for one that changes while it is read.
    """
    check_something_to_train_on(words, tokenizer)
    sources = sources_of(words, encoding, text_field, endings, val_words)
    chosen = read_endings(endings)
    with cache_and_scratch() as (cache, scratch):
        paths = [path for word in words for path in text_files(word, scratch, chosen)]
        val_paths = [path for word in val_words for path in text_files(word, scratch, chosen)]
        texts, val = _both(paths, val_paths, encoding, text_field)
        dataset, is_new = _find_or_prepare(texts, val, tokenizer, sources, cache)
    if is_new:
        report_large_cache(cache)
    return dataset


def check_something_to_train_on(words: Sequence[str], tokenizer: Tokenizer | str) -> None:
    """Raises UserError if there is no text to make a tokenizer for."""
    if not words and isinstance(tokenizer, str):
        raise UserError("--val_text= names what to validate on: name what to train on, too")


@contextmanager
def cache_and_scratch() -> Iterator[tuple[Path, Path]]:
    """data/cache, and a new folder in it for copies of standard input, which is removed after.

    An error of the block names such a copy as "standard input".
    """
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    remove_abandoned(cache)
    unique = secrets.token_hex(KEY_LENGTH // 2)
    with locked_workspace(cache / unique, unique) as scratch:
        try:
            yield cache, scratch
        except UserError as error:
            copy = re.escape(str(scratch / STDIN_COPY)) + r"\d*"
            raise UserError(re.sub(copy, "standard input", str(error))) from None


def _both(
    paths: Sequence[Path], val_paths: Sequence[Path], encoding: str, text_field: str
) -> tuple[Texts, Texts | None]:
    """The texts to train on, and those to validate on if they are files of their own."""
    texts = Texts(paths, encoding, text_field, beside=val_paths)
    return texts, Texts(val_paths, encoding, text_field, beside=paths) if val_paths else None


def _find_or_prepare(
    texts: Texts,
    val: Texts | None,
    tokenizer: Tokenizer | str,
    sources: Sequence[str],
    cache: Path,
) -> tuple[Dataset, bool]:
    """The dataset of these texts in the cache, and whether it was prepared just now."""
    hashes, stem = hash_files(texts), [*texts.paths, *texts.beside][0].stem[:MAX_STEM]
    if val:
        hashes += [VALIDATION, *hash_files(val)]
    key = cache_key(texts, tokenizer, hashes)
    folder = cache / f"{stem}-{key}"
    if dataset := find_dataset(folder, sources):
        return dataset, False
    if isinstance(tokenizer, Tokenizer):
        # The tokenizer of a checkpoint was mostly made for this very text, which is found by the
        # name of the tokenizer.
        made_for_text = cache_key(texts, tokenizer.name, hashes)
        dataset = find_dataset(cache / f"{stem}-{made_for_text}", sources)
        # an encoder adds the mask
        if dataset and tokenizer in (dataset.tokenizer, dataset.tokenizer.with_markers(MASK)):
            return dataset, False
    prepare_folder(
        folder, key, "the text is",
        lambda workspace: prepare_texts(texts, val, tokenizer, sources, workspace),
        replace=False,
    )  # fmt: skip
    return load_dataset(folder, sources=sources), True


def prepare_dataset(
    paths: Sequence[Path],
    folder: Path,
    encoding: str = "utf-8",
    tokenizer: Tokenizer | str = "char",
    text_field: str = "text",
    val_paths: Sequence[Path] = (),
) -> Dataset:
    """Write train.bin, val.bin and tokenizer.json for text files into `folder`.

    `tokenizer` is one, or the name of one that is made for the text. If there are `val_paths`,
    they are for validation, and all others are to train on.

    Raises UserError for a text that is missing, empty, not in its encoding or not in the
    vocabulary.
    """
    texts, val = _both(paths, val_paths, encoding, text_field)
    stamps = file_stamps(texts)
    if val:
        stamps += [VALIDATION, *file_stamps(val)]
    key = cache_key(texts, tokenizer, stamps)
    prepare_folder(
        folder, key, "the text is",
        lambda workspace: prepare_texts(texts, val, tokenizer, [], workspace),
        replace=True,
    )  # fmt: skip
    return load_dataset(folder)


def file_stamps(texts: Texts) -> list[bytes]:
    """Name, size and date of each file.

    They change when a file does, which is enough to recognise unfinished work.
    """
    return [
        repr((str(path.resolve()), *stamp)).encode()
        for path, stamp in zip(texts.paths, texts.stamps, strict=True)
    ]


def prepare_documents(
    splits: Mapping[str, Iterable[str]], folder: Path, tokenizer: Tokenizer, key: str
) -> Dataset:
    """Write the same files for documents that are split already.

    `splits` has the documents of train, then those of val, in the same order at each call. `key`
    identifies them: unfinished work is recognised by it.
    """
    digest = hashlib.sha256(repr((key, tokenizer.to_dict())).encode()).hexdigest()[:KEY_LENGTH]

    def write(workspace: Path) -> None:
        parts = ((split, text) for split, docs in splits.items() for text in join_documents(docs))
        progress, output = Progress.load(workspace), workspace / OUTPUT_FOLDER
        write_token_files(parts, tokenizer, True, progress, workspace)
        save_tokenizer(tokenizer, output)
        save_record(output, [], {"train": progress.train, "val": progress.val})

    prepare_folder(folder, digest, "the documents are", write, replace=True)
    return load_dataset(folder)


def prepare_folder(
    folder: Path, key: str, what: str, write: Callable[[Path], None], replace: bool
) -> None:
    """Prepare a dataset in `folder`: write(workspace), then put its output in place.

    A valid dataset that is there stays, unless `replace`; that a damaged one is prepared again is
    said of `what`, the text or the pairs. Unfinished work is recognised by its `key`.
    """
    with locked_workspace(folder, key) as workspace:
        if folder.exists() and not replace:
            if find_dataset(folder):  # another process was first
                return
            print(f"{folder} is damaged: {what} prepared again", file=sys.stderr)
        write(workspace)
        put_in_place(workspace / OUTPUT_FOLDER, folder)
