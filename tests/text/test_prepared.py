"""What a user can rely on of prepared folders: they are whole, or known not to be."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.texts import write

from kqv.text.datasets import open_dataset, prepare_dataset
from kqv.text.registry import load_tokenizer


def test_ids_and_vocabulary_of_two_texts_never_stand_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable
) -> None:
    """A second preparation of a folder dies after each file that it puts in place."""
    before, after = (
        write(tmp_path / "before.txt", "abc" * 100),
        write(tmp_path / "after.txt", "uvwxyz" * 100),
    )
    for deaths in range(4):
        folder = tmp_path / str(deaths)
        prepare_dataset([before], folder)
        left = iter(range(deaths))

        def replace(old: str, new: str, real: Callable = os.replace, left: Any = left) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt
            real(old, new)

        monkeypatch.setattr(os, "replace", replace)
        with contextlib.suppress(KeyboardInterrupt):
            prepare_dataset([after], folder)
        monkeypatch.undo()
        if (folder / "val.bin").exists():
            tokenizer, ids = (
                load_tokenizer(folder),
                [np.fromfile(folder / name, np.uint16) for name in ("train.bin", "val.bin")],
            )
            assert tokenizer.decode(np.concatenate(ids)) in ("abc" * 100, "uvwxyz" * 100)
        else:  # a folder without val.bin is prepared again
            with refused("no dataset", "name a text file"):
                open_dataset(str(folder))


def test_ids_of_a_dataset_that_are_cut_short_are_refused_with_what_helps(
    data: Path, refused: Callable
) -> None:
    folder = data / "own"
    folder.mkdir(parents=True)
    prepare_dataset([write(folder / "input.txt", "to be or not to be" * 9)], folder)
    assert open_dataset("own").title == "own"
    os.truncate(folder / "train.bin", 100)
    with refused(
        f"{folder / 'train'}.bin has 100 bytes, and 290 were written",
        "prepare it again",
        "prepared.json",
    ):
        open_dataset("own")
    write(folder / "prepare.py", "")
    with refused(f"run {folder / 'prepare.py'} again"):
        open_dataset("own")
