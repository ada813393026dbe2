"""Text files, small tokenizers and prepared datasets for tests."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kqv.text import formats, texts
from kqv.text.datasets import Dataset
from kqv.text.token_files import open_tokens


def write(path: Path, content: str | bytes) -> Path:
    """A file with this content, line ends as they are."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def write_json_lines(path: Path, documents: list[str]) -> Path:
    """A file of documents, under the field text."""
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    return path


@contextmanager
def reading_pieces_of(size: int) -> Iterator[None]:
    """Read texts so many bytes at a time instead of a million, and do not wait for the clock.

    (No text is changed within a step of the clock of file times: nothing needs to be waited for.)
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(formats, "PIECE_SIZE", size)
        patch.setattr(texts, "FILE_TIME_STEP", 0.0)
        yield


def ids_of(dataset: Dataset) -> tuple[list[int], list[int]]:
    """The token ids in train.bin and in val.bin, whose numbers the dataset knows."""
    train, val = (
        open_tokens(dataset.folder / f"{split}.bin", dataset.vocab_size, 0)[:].tolist()
        if (dataset.folder / f"{split}.bin").stat().st_size
        else []
        for split in ("train", "val")
    )
    assert (len(train), len(val)) == (dataset.train_tokens, dataset.val_tokens)
    return train, val


def texts_of(dataset: Dataset) -> tuple[str, str]:
    """The text in train.bin and in val.bin."""
    train, val = ids_of(dataset)
    return dataset.tokenizer.decode(train), dataset.tokenizer.decode(val)


def text_of(dataset: Dataset) -> str:
    """All of its text."""
    return "".join(texts_of(dataset))


def nanogpt_meta(characters: str) -> dict[str, object]:
    """What nanoGPT's prepare.py writes into meta.pkl."""
    return {
        "vocab_size": len(characters),
        "itos": dict(enumerate(characters)),
        "stoi": {character: i for i, character in enumerate(characters)},
    }


def modification_times(folder: Path) -> dict[str, int]:
    """The modification time of each file in a folder, in nanoseconds."""
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
