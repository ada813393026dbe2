"""What a user can rely on of prepared folders: they are whole, or known not to be."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from helpers.texts import text_of, write

from kqv.text.datasets import load_dataset, open_dataset, prepare_dataset


def test_token_ids_and_vocabulary_of_two_texts_never_stand_together(
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

        with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
            patch.setattr(os, "replace", replace)
            prepare_dataset([after], folder)
        if (folder / "val.bin").exists():
            assert text_of(load_dataset(folder)) in ("abc" * 100, "uvwxyz" * 100)
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
