"""The files of a prepared dataset: how they are recorded, checked, and put in place.

train.bin  val.bin     token ids of each split (token_files.py)
tokenizer.json         what the ids mean
prepared.json          the sources, and how many tokens were written

Of pairs also:

train.index.bin  val.index.bin    where each pair begins (pair_splits.py)
source_tokenizer.json             what the ids of sources mean, if they have their own vocabulary
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kqv.errors import UserError
from kqv.files import MAX_NOTE_BYTES, read_small, replacing
from kqv.text.registry import SOURCE_TOKENIZER_FILE, TOKENIZER_FILE
from kqv.text.token_files import SPLITS, index_file, shard_files, split_bytes
from kqv.text.tokenizer import Tokenizer, token_dtype

RECORD_FILE = "prepared.json"
PAIR_COUNTS = {"train_pairs": "train", "val_pairs": "val"}  # in the record of pairs


def save_tokenizer(tokenizer: Tokenizer, folder: Path, name: str = TOKENIZER_FILE) -> None:
    """Write tokenizer.json into a folder, which is made if it does not exist."""
    folder.mkdir(exist_ok=True)
    with replacing(folder / name) as file:
        file.write(json.dumps(tokenizer.to_dict()).encode())


def save_record(
    folder: Path, sources: Sequence[str], tokens: Mapping[str, int], **of_pairs: int | str
) -> None:
    """Write prepared.json into a folder: the sources, and the number of tokens of each split.

    `of_pairs` has the number of pairs of each split (PAIR_COUNTS), and a remark.
    """
    record = {"sources": sources, **{split: tokens[split] for split in SPLITS}, **of_pairs}
    with replacing(folder / RECORD_FILE) as file:
        file.write(json.dumps(record).encode())


def read_record(folder: Path) -> dict[str, Any]:
    """The record of a preparation; {} if another program, or an older kqv, made the folder.

    Raises UserError for a damaged record.
    """
    path = folder / RECORD_FILE
    try:
        record = json.loads(read_small(path, MAX_NOTE_BYTES))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError):
        record = None
    if not isinstance(record, dict) or not _has_counts(record):
        raise UserError(f"{path} is damaged: delete it, or prepare the text again")
    return record


def holds_pairs(folder: Path) -> bool:
    """Whether a prepared folder holds pairs, and no text. Raises UserError if it is damaged."""
    record = read_record(folder)
    if not record and index_file(folder, "train").exists():
        raise UserError(f"{folder / RECORD_FILE} is missing: prepare the pairs again")
    return PAIR_COUNTS.keys() <= record.keys()


def _has_counts(record: Mapping[str, Any]) -> bool:
    counts = [*map(record.get, SPLITS), *(record[name] for name in PAIR_COUNTS if name in record)]
    return all(type(count) is int and count >= 0 for count in counts)


def check_token_counts(folder: Path, record: Mapping[str, Any], vocab_size: int) -> dict[str, int]:
    """The number of tokens of each split.

    Raises UserError if a split is missing, or has another size than its record says.
    """
    itemsize = np.dtype(token_dtype(vocab_size)).itemsize
    sizes = {split: split_bytes(folder / f"{split}.bin") for split in SPLITS}
    for split, size in sizes.items():
        if record and size != record[split] * itemsize:
            script, written = folder / "prepare.py", record[split] * itemsize
            remedy = f"run {script} again" if script.exists() else "prepare it again"
            raise UserError(
                f"{folder / split}.bin has {size:,} bytes, and {written:,} were written: "
                f"{remedy}, or delete {folder / RECORD_FILE} if the file is whole"
            )
    return {split: size // itemsize for split, size in sizes.items()}


def put_in_place(fresh: Path, folder: Path) -> None:
    """Move prepared files from the folder `fresh` to `folder`: all at once if `folder` is new.

    Otherwise the old files are removed first, val.bin before the others, and the new ones come one
    by one, val.bin last. So val.bin says that all is there; token ids and vocabulary of two texts
    never stand together; and a train.bin without a vocabulary is never the work of kqv.
    """
    if not folder.exists():
        fresh.rename(folder)
        return
    old = [*shard_files(folder / "val.bin"), folder / RECORD_FILE, folder / TOKENIZER_FILE]
    old.append(folder / SOURCE_TOKENIZER_FILE)
    for split in SPLITS:
        old += shard_files(index_file(folder, split))
    old += reversed(shard_files(folder / "train.bin")[1:])
    for path in old:
        path.unlink(missing_ok=True)
    for path in sorted(fresh.iterdir(), key=_order_of_arrival):
        os.replace(path, folder / path.name)


def _order_of_arrival(path: Path) -> tuple[bool, bool, str]:
    """train.bin first, which replaces the old one; val.bin last."""
    return path.name == "val.bin", path.name != "train.bin", path.name
