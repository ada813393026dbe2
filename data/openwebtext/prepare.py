"""OpenWebText in GPT-2's pieces of words, split as nanoGPT splits it: 9 thousand million tokens to train, 4 million to validate.

    python data/openwebtext/prepare.py                   fetches it from Hugging Face (pip install datasets)
    python data/openwebtext/prepare.py --input=FOLDER    takes .parquet or .jsonl files that you have already

The documents are shuffled; of 2000, one is for validation. After each stands <|endoftext|>.
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
from kqv.progress import ReadingBar
from kqv.text.datasets import prepare_documents
from kqv.text.registry import ENCODINGS, make_tokenizer

NAME = "Skylion007/openwebtext"
SIZES = "about 54 GB on this disk for a while, and 17 GB of ids"
LOADERS = {".parquet": "parquet", ".jsonl": "json"}  # what datasets calls the formats
VALIDATION_SHARE, SEED = 0.0005, 2357  # nanoGPT's split


@dataclass
class PrepareSettings:
    """Write OpenWebText's train.bin and val.bin (in files of at most 2 GB) and tokenizer.json beside this script."""

    input: str = ""
    """a folder of .parquet or .jsonl files with a field text, instead of fetching"""
    tokenizer: str = "gpt2"
    """gpt2, another encoding of tiktoken's, or bytes"""


def main(arguments: list[str]) -> None:
    """Get the documents, split them, write their ids. A run that was killed goes on where it was."""
    given, words = read_arguments(PrepareSettings, arguments)
    settings = PrepareSettings(**given)
    if words:
        raise UserError(
            f"{words[0]!r} is no option: a folder of files is named with --input={words[0]}"
        )
    if settings.tokenizer not in ("bytes", *ENCODINGS):
        names = ", ".join(ENCODINGS)
        raise UserError(
            f"tokenizer={settings.tokenizer} is learnt from a text: take bytes or one of {names}, or train.py FOLDER"
        )
    tokenizer = make_tokenizer(settings.tokenizer, "", [])
    documents = find_documents(settings.input)
    if "text" not in documents.column_names or len(documents) < 2:
        raise UserError(
            f"{settings.input or NAME}: there are no two documents with a field text, only {documents.column_names}"
        )
    split = documents.train_test_split(test_size=VALIDATION_SHARE, seed=SEED, shuffle=True)
    bar = ReadingBar("encoding", len(documents), "documents")
    splits = {"train": texts(split["train"], bar), "val": texts(split["test"], bar)}
    dataset = prepare_documents(splits, FOLDER, tokenizer, documents._fingerprint)
    bar.close()
    print(f"{FOLDER}: {dataset.train_tokens:,} tokens to train, {dataset.val_tokens:,} to validate")


def find_documents(folder: str) -> Any:
    """The documents as a table of the package datasets: of the files in a folder, or fetched.

    Raises UserError if they cannot be had.
    """
    # Its cache is kept here, where it is seen and can be deleted, not in the user's home; and it tells nobody.
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
        what: dict[str, Any] = dict(path=LOADERS[files[0].suffix], data_files=list(map(str, files)))
    else:
        print(
            f"fetching {NAME} from huggingface.co: {SIZES}; its cache is {os.environ['HF_HOME']}",
            file=sys.stderr,
        )
        what = dict(path=NAME, num_proc=core_count())
    try:
        return datasets.load_dataset(**what, split="train")
    except (
        Exception
    ) as error:  # of the network, of its server, of a format: the package raises many kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        advice = (
            "see that the files are whole"
            if folder
            else "try again where there is a network, or name --input=FOLDER"
        )
        raise UserError(f"{folder or NAME} cannot be had ({reason}): {advice}") from None


def texts(documents: Any, bar: ReadingBar) -> Iterator[str]:
    """The texts of a table in its order."""
    for batch in documents.select_columns(["text"]).iter(batch_size=1000):
        if not all(isinstance(text, str) for text in batch["text"]):
            raise UserError(
                f"a row after number {bar.done:,} has no text: take it out of the table"
            )
        yield from batch["text"]
        bar.move(bar.done + len(batch["text"]))


if __name__ == "__main__":
    run_script(main)
