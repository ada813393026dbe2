"""Datasets of pairs: prepare files of pairs, and open what comes of it.

    words.tsv ──pair_files.py──▶ pairs ──pair_preparation.py──▶ train.bin, train.index.bin, ...

Files named on the command line are prepared in data/cache, like texts (datasets.py).
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from kqv.text.cache import KEY_LENGTH, describe_tokenizer, hash_files, report_large_cache
from kqv.text.dataset_folders import PairDataset, find_dataset, load_pairs
from kqv.text.datasets import (
    MAX_STEM,
    VALIDATION,
    cache_and_scratch,
    check_something_to_train_on,
    file_stamps,
    prepare_folder,
)
from kqv.text.pair_files import PAIR_ENDINGS, PairFiles
from kqv.text.pair_preparation import Chosen, PairTexts, prepare_pair_texts
from kqv.text.source_names import sources_of
from kqv.text.sources import read_endings, text_files
from kqv.text.tokenizer import Tokenizer


def open_pairs(
    words: Sequence[str],
    val_words: Sequence[str] = (),
    encoding: str = "utf-8",
    tokenizer: Tokenizer | str = "char",
    target_tokenizer: Tokenizer | str = "",
    source_field: str = "source",
    target_field: str = "target",
    endings: str = "",
) -> PairDataset:
    """Prepare and open the pairs that words of the command line name, in this order.

    A word is a file (pair_files.py), a folder with such files, or `-` for standard input. Without
    `val_words`, the first 90 % of the pairs are to train on. With them, all of `words` is, and
    there need be no words if tokenizers are given: the training split is empty then.

    `tokenizer` and `target_tokenizer` are those of a checkpoint, or names of tokenizers that are
    made for the pairs; without a `target_tokenizer` both sides have one vocabulary.

    Raises UserError for what is no pair, with file and line, and for files that are missing, not
    in their encoding, or change while they are read.
    """
    check_something_to_train_on(words, tokenizer)
    fields, chosen = (source_field, target_field), Chosen(tokenizer, target_tokenizer)
    sources = sources_of(words, encoding, "text", endings, val_words, fields)
    of_folder = read_endings(endings) or PAIR_ENDINGS
    with cache_and_scratch() as (cache, scratch):
        paths = [path for word in words for path in text_files(word, scratch, of_folder)]
        val_paths = [path for word in val_words for path in text_files(word, scratch, of_folder)]
        texts = _both(paths, val_paths, encoding, *fields)
        dataset, is_new = _find_or_prepare(texts, chosen, sources, cache)
    if is_new:
        report_large_cache(cache)
    return dataset


def prepare_pairs(
    paths: Sequence[Path],
    folder: Path,
    val_paths: Sequence[Path] = (),
    encoding: str = "utf-8",
    tokenizer: Tokenizer | str = "char",
    target_tokenizer: Tokenizer | str = "",
    source_field: str = "source",
    target_field: str = "target",
) -> PairDataset:
    """Write token files, index and tokenizers of pairs into `folder`; see `open_pairs`."""
    texts = _both(paths, val_paths, encoding, source_field, target_field)
    chosen = Chosen(tokenizer, target_tokenizer)
    stamps = file_stamps(texts.train.texts)
    if texts.val:
        stamps += [VALIDATION, *file_stamps(texts.val.texts)]
    key = pairs_key(texts, chosen, stamps)
    prepare_folder(
        folder, key, "the pairs are",
        lambda workspace: prepare_pair_texts(texts, chosen, [], workspace),
        replace=True,
    )  # fmt: skip
    return load_pairs(folder)


def pairs_key(texts: PairTexts, chosen: Chosen, of_files: Iterable[bytes]) -> str:
    """A hash of all that the ids depend on: the files, how they are read, the tokenizers.

    `of_files` has a hash or a stamp of each file.
    """
    train = texts.train
    how = (train.encoding, train.source_field, train.target_field)
    endings = [path.suffixes for path in texts.paths]
    tokenizers = [describe_tokenizer(each) for each in chosen]
    digest = hashlib.sha256(repr(("pairs", how, endings, tokenizers)).encode())
    for of_file in of_files:
        digest.update(of_file)
    return digest.hexdigest()[:KEY_LENGTH]


def _both(
    paths: Sequence[Path], val_paths: Sequence[Path], encoding: str, *fields: str
) -> PairTexts:
    """The pairs to train on, and those to validate on if they are files of their own."""
    val = PairFiles(val_paths, encoding, *fields) if val_paths else None
    return PairTexts(PairFiles(paths, encoding, *fields), val)


def _find_or_prepare(
    texts: PairTexts, chosen: Chosen, sources: Sequence[str], cache: Path
) -> tuple[PairDataset, bool]:
    """The dataset of these pairs in the cache, and whether it was prepared just now."""
    hashes, stem = hash_files(texts.train.texts), texts.paths[0].stem[:MAX_STEM]
    if texts.val:
        hashes += [VALIDATION, *hash_files(texts.val.texts)]
    key = pairs_key(texts, chosen, hashes)
    folder = cache / f"{stem}-{key}"
    if dataset := _find_pairs(folder, sources):
        return dataset, False
    if chosen.names != chosen:
        # The tokenizers of a checkpoint were mostly made for these very pairs, which are found by
        # the names of the tokenizers.
        made_for_pairs = pairs_key(texts, chosen.names, hashes)
        dataset = _find_pairs(cache / f"{stem}-{made_for_pairs}", sources)
        theirs = Chosen(chosen.source, chosen.target or chosen.source)
        if dataset and (dataset.source_tokenizer, dataset.tokenizer) == theirs:
            return dataset, False
    prepare_folder(
        folder, key, "the pairs are",
        lambda workspace: prepare_pair_texts(texts, chosen, sources, workspace),
        replace=False,
    )  # fmt: skip
    return load_pairs(folder, sources), True


def _find_pairs(folder: Path, sources: Sequence[str]) -> PairDataset | None:
    dataset = find_dataset(folder, sources)
    return dataset if isinstance(dataset, PairDataset) else None
