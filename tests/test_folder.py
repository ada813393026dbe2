"""What a user can rely on of out_dir: one run at a time, an earlier run kept, no start without room."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kqv.files import BEST, DAMAGED, EARLIER, LATEST, METRICS, TENSORBOARD, replacing
from kqv.folder import make_room, occupy

HOLDER = """
import sys
from pathlib import Path
from kqv.folder import occupy
lock = occupy(Path(sys.argv[1]))
print("in", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("end", ["ends", "is killed"])
def test_a_folder_is_one_runs_until_it(end: str, tmp_path: Path, refused: Callable) -> None:
    folder = tmp_path / "new" / "run"
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]) as process:
        assert process.stdout and process.stdout.readline() == b"in\n"
        with refused(f"out_dir={folder}", "another run", "--out_dir="):
            occupy(folder)
        if end == "is killed":
            process.kill()
        else:
            process.communicate(b"")
        process.wait()
        lock = occupy(folder)
    with refused("another run"):
        occupy(folder)
    del lock
    occupy(folder)


def test_a_place_that_cannot_be_a_folder_is_refused(tmp_path: Path, refused: Callable) -> None:
    (tmp_path / "file").write_text("text")
    with refused("file", "--out_dir="):
        occupy(tmp_path / "file")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path, refused: Callable) -> None:
    tmp_path.chmod(0o500)
    with refused("cannot be used", "Permission denied"):
        occupy(tmp_path)
    tmp_path.chmod(0o700)


def test_an_earlier_run_moves_aside_and_half_written_files_go(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (BEST, LATEST, EARLIER, METRICS, "notes.txt", f".{LATEST}.123.tmp"):
        (tmp_path / name).write_text(name)
    make_room(tmp_path, 10, resumed_from=tmp_path / LATEST)
    assert {path.name for path in tmp_path.iterdir()} == {BEST, LATEST, EARLIER, METRICS, "notes.txt"}
    make_room(tmp_path, 10, resumed_from=None)
    assert {path.name for path in tmp_path.iterdir()} == {"previous", "notes.txt"}
    assert {path.name: path.read_text() for path in (tmp_path / "previous").iterdir()} == {
        name: name for name in (BEST, LATEST, EARLIER, METRICS)
    }
    assert str(tmp_path / "previous") in capsys.readouterr().err


@pytest.mark.parametrize("whole", [EARLIER, BEST])
def test_a_damaged_checkpoint_does_not_take_the_place_of_a_good_one(whole: str, tmp_path: Path) -> None:
    for name in (LATEST, whole):
        (tmp_path / name).write_text(name)
    make_room(tmp_path, 10, resumed_from=tmp_path / whole)
    with replacing(tmp_path / LATEST, keep=tmp_path / EARLIER) as file:
        file.write(b"new")
        assert (tmp_path / whole).read_text() == whole and (tmp_path / DAMAGED).read_text() == LATEST
    assert (tmp_path / whole).read_text() == whole and (tmp_path / DAMAGED).read_text() == LATEST


def test_a_disk_that_is_too_small_is_said_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 10**6, 10**6))  # type: ignore[attr-defined]
    make_room(tmp_path, 10_000, resumed_from=None)
    with refused("no space", "48 MB", "1 MB"):
        make_room(tmp_path, 1_000_000, resumed_from=None)


def test_the_reports_of_an_earlier_run_move_aside_too(tmp_path: Path) -> None:
    for run in range(3):
        (tmp_path / TENSORBOARD).mkdir()
        (tmp_path / TENSORBOARD / f"events.{run}").touch()
        (tmp_path / BEST).touch()
        make_room(tmp_path, 1, None)
        assert [path.name for path in (tmp_path / "previous" / TENSORBOARD).iterdir()] == [f"events.{run}"]
        assert not (tmp_path / TENSORBOARD).exists()
