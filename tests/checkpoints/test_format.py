"""The content of a checkpoint is checked: its version, its parts, what a resume needs of them."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.checkpoints import RESUMABLE, seal

from kqv.checkpoints.format import PARTS
from kqv.checkpoints.loading import load_checkpoint, load_latest
from kqv.checkpoints.single import save_checkpoint


def test_a_format_of_another_version_is_named(tmp_path: Path, refused: Callable) -> None:
    path = tmp_path / "ckpt.pt"
    torch.save({"format": "kqv 7"}, path)
    with refused(str(path), "'kqv 7'", "'kqv 1'"):
        load_checkpoint(seal(path))


@pytest.mark.parametrize("part", [part for part in PARTS if part != "text"])
def test_a_part_of_the_wrong_kind_is_refused(part: str, tmp_path: Path, refused: Callable) -> None:
    path = tmp_path / "ckpt.pt"
    save_checkpoint(path, {part: "rubbish"})
    with refused(str(path), part, "wrong kind"):
        load_checkpoint(path)


@pytest.mark.parametrize("part", RESUMABLE)
def test_a_resume_needs_every_part(part: str, tmp_path: Path, refused: Callable) -> None:
    without = {name: value for name, value in RESUMABLE.items() if name != part}
    save_checkpoint(tmp_path / "last.pt", without)
    with refused(str(tmp_path / "last.pt"), f"no {part}", "--init_from="):
        load_latest(str(tmp_path))


@pytest.mark.parametrize(
    "change",
    [
        {"iter_num": -1},
        {"iter_num": 10**600},
        {"skipped": -3},
        {"skipped_in_a_row": 10**600},
        {"best_val_loss": math.nan},
        {"best_val_loss": -math.inf},
        {"scaler": {"scale": math.nan}},
        {"scaler": {"scale": 10**600}},
        {"scaler": {"scale": "x"}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_numbers_that_no_run_has_are_refused(
    change: dict[str, Any], tmp_path: Path, refused: Callable
) -> None:
    save_checkpoint(tmp_path / "last.pt", RESUMABLE | change)
    with refused(str(tmp_path / "last.pt"), "numbers", "use another copy or train again"):
        load_latest(str(tmp_path))
