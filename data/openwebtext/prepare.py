"""OpenWebText in GPT-2's tokens, split like nanoGPT's: 9 billion to train, 4 million to validate.

    python data/openwebtext/prepare.py                   downloads it (pip install datasets)
    python data/openwebtext/prepare.py --input=FOLDER    reads .parquet or .jsonl files you have

The documents are shuffled, and one of 2000 is for validation. <|endoftext|> follows each document.
"""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parents[1]))  # a script sees its own folder, not the project's

from kqv.errors import UserError, run_script
from kqv.machine.load import core_count
from kqv.options.command_line import read_arguments
from kqv.progress import LongBar
from kqv.text.datasets import prepare_documents
from kqv.text.downloads import refuse_words
from kqv.text.registry import make_tokenizer
from kqv.text.tokenizer_names import TIKTOKEN_SIZES

NAME = "Skylion007/openwebtext"
DISK_SPACE = "about 54 GB on this disk for a while, and 17 GB of token ids"
LOADERS = {".parquet": "parquet", ".jsonl": "json"}  # the formats' names in the package datasets
VALIDATION_FRACTION, SEED = 0.0005, 2357  # nanoGPT's split
BATCH_DOCUMENTS = 1000  # that are read at a time


@dataclass
class PrepareSettings:
    """Write OpenWebText's train.bin, val.bin and tokenizer.json beside this script.

    A split is written in files of at most 2 GB.
    """

    input: str = ""
    """a folder of .parquet or .jsonl files with a field text, instead of the download"""
    tokenizer: str = "gpt2"
    """gpt2, another vocabulary of tiktoken, or bytes"""


def main(arguments: list[str]) -> None:
    """Get the documents, split them, write their token ids. A killed run can be continued."""
    given, words = read_arguments(PrepareSettings, arguments)
    settings = PrepareSettings(**given)
    refuse_words(words)
    if settings.tokenizer not in ("bytes", *TIKTOKEN_SIZES):
        names = ", ".join(TIKTOKEN_SIZES)
        raise UserError(
            f"tokenizer={settings.tokenizer} is trained on a text: use bytes or one of {names}, "
            f"or train.py FOLDER"
        )
    tokenizer = make_tokenizer(settings.tokenizer, "", [])
    documents = find_documents(settings.input)
    if "text" not in documents.column_names or len(documents) < 2:
        raise UserError(
            f"{settings.input or NAME}: there are no two documents with a field text, only "
            f"{documents.column_names}"
        )
    split = documents.train_test_split(test_size=VALIDATION_FRACTION, seed=SEED, shuffle=True)
    bar = LongBar("tokenizing", len(documents), "documents")
    splits = {"train": texts(split["train"], bar), "val": texts(split["test"], bar)}
    dataset = prepare_documents(splits, FOLDER, tokenizer, documents._fingerprint)
    bar.close()
    print(f"{FOLDER}: {dataset.train_tokens:,} tokens to train, {dataset.val_tokens:,} to validate")


def find_documents(folder: str) -> Any:
    """The documents as a table of the package datasets, from the files of a folder or downloaded.

    Raises UserError if they cannot be had.
    """
    # Keep its cache here, where it is seen and can be deleted, instead of in the user's home, and
    # send no telemetry.
    os.environ.setdefault("HF_HOME", str(FOLDER / "cache"))
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        import datasets
    except ImportError:
        raise UserError("this needs the package datasets: pip install datasets") from None
    if folder:
        files = sorted(path for path in Path(folder).rglob("*") if path.suffix in LOADERS)
        if not files or len({path.suffix for path in files}) > 1:
            raise UserError(f"{folder} is no folder of .parquet files, nor of .jsonl files")
        source: dict[str, Any] = {
            "path": LOADERS[files[0].suffix],
            "data_files": [str(path) for path in files],
        }
        advice = "check that the files are whole"
    else:
        print(
            f"downloading {NAME} from huggingface.co: {DISK_SPACE}; "
            f"its cache is {os.environ['HF_HOME']}",
            file=sys.stderr,
        )
        source = {"path": NAME, "num_proc": core_count()}
        advice = "try again where there is a network, or name --input=FOLDER"
    try:
        return datasets.load_dataset(**source, split="train")
    except Exception as error:  # network, server, format: the package raises many kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{folder or NAME} cannot be loaded ({reason}): {advice}") from None


def texts(documents: Any, bar: LongBar) -> Iterator[str]:
    """The texts of a table, in its order. Raises UserError for a row without text."""
    for batch in documents.select_columns(["text"]).iter(batch_size=BATCH_DOCUMENTS):
        if not all(isinstance(text, str) for text in batch["text"]):
            raise UserError(
                f"a row after number {bar.done:,} has no text: remove it from the table"
            )
        yield from batch["text"]
        bar.move(bar.done + len(batch["text"]))


if __name__ == "__main__":
    run_script(main)
