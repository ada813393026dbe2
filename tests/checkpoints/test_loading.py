"""A folder means the checkpoint to use or, to resume, the newest that is intact."""

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.checkpoints import RESUMABLE

from kqv.checkpoints.loading import find_checkpoint, load_latest
from kqv.checkpoints.single import save_checkpoint


def test_a_folder_means_the_first_of_its_checkpoints_and_a_file_itself(
    tmp_path: Path, refused: Callable
) -> None:
    folder, best, last = str(tmp_path), tmp_path / "ckpt.pt", tmp_path / "last.pt"
    names = ("ckpt.pt", "last.pt")
    with refused(folder, "ckpt.pt or last.pt", "train.py"):
        find_checkpoint(folder, names)
    last.touch()
    assert find_checkpoint(folder, names) == last
    best.touch()
    assert find_checkpoint(folder, names) == best
    assert find_checkpoint(folder, ("last.pt", "ckpt.pt")) == last
    assert find_checkpoint(str(last), names) == last


def spoil(path: Path, damage: str) -> None:
    data = path.read_bytes()
    damaged = {
        "flipped": data[:500] + bytes([data[500] ^ 4]) + data[501:],
        "cut": data[:-100],
        "empty": b"",
    }
    path.unlink()
    if damage != "gone":
        path.write_bytes(damaged[damage])


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "gone"])
def test_a_run_resumes_from_the_newest_checkpoint_that_is_intact(
    damage: str, tmp_path: Path, refused: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["last.pt", "earlier.pt", "ckpt.pt"]
    for iter_num, name in enumerate(names):
        save_checkpoint(tmp_path / name, {**RESUMABLE, "iter_num": iter_num})
    for number, bad in enumerate(names[:2]):
        spoil(tmp_path / bad, damage)
        state, path = load_latest(str(tmp_path))
        assert state["iter_num"] == number + 1 and path.name == names[number + 1]
        said = capsys.readouterr().err
        assert damage == "gone" or (str(tmp_path / bad) in said and str(path) in said)
    spoil(tmp_path / "ckpt.pt", damage)
    with refused(str(tmp_path)):
        load_latest(str(tmp_path))
