"""out_dir holds one run at a time; earlier runs are kept; no run starts on a disk that is full."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from kqv.errors import UserError
from kqv.files import replacing
from kqv.project import ROOT
from kqv.run_files import BEST, CONFIG, CURVE, DAMAGED, EARLIER, LATEST, METRICS, TENSORBOARD
from kqv.training.run_folder import make_room, occupy

HOLDER = """
import sys
from pathlib import Path
from kqv.training.run_folder import occupy
with occupy(Path(sys.argv[1])):
    print("in", flush=True)
    sys.stdin.read()
"""


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def enter(folder: Path) -> None:
    """Lock a folder and release it."""
    with occupy(folder):
        pass


@pytest.mark.parametrize("end", ["ends", "is killed"])
def test_a_folder_belongs_to_one_run_until_that_run(
    end: str, tmp_path: Path, refused: Callable
) -> None:
    folder = tmp_path / "new" / "run"
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    ) as process:
        assert process.stdout and process.stdout.readline() == b"in\n"
        with refused(f"out_dir={folder}", "another run", "--out_dir="):
            enter(folder)
        if end == "is killed":
            process.kill()
        else:
            process.communicate(b"")
        process.wait()
    with occupy(folder), refused("another run"):
        enter(folder)
    enter(folder)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path, refused: Callable) -> None:
    (tmp_path / "file").write_text("text")
    with refused("file", "--out_dir="):
        enter(tmp_path / "file")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path, refused: Callable) -> None:
    tmp_path.chmod(0o500)
    with refused("cannot be used", "Permission denied"):
        enter(tmp_path)
    tmp_path.chmod(0o700)


def test_an_earlier_run_moves_aside_and_half_written_files_are_deleted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (BEST, LATEST, EARLIER, "notes.txt", f".{LATEST}.123.tmp"):
        (tmp_path / name).write_text(name)
    (tmp_path / METRICS).write_text('{"step": 1200, "train_loss": 1.5}\n')
    make_room(tmp_path, 10, resumed_from=tmp_path / LATEST)
    assert names_in(tmp_path) == {BEST, LATEST, EARLIER, METRICS, "notes.txt"}
    make_room(tmp_path, 10, resumed_from=None)
    assert names_in(tmp_path) == {"previous", "notes.txt"}
    assert names_in(tmp_path / "previous" / "1") == {BEST, LATEST, EARLIER, METRICS}
    assert (tmp_path / "previous" / "1" / BEST).read_text() == BEST
    message = capsys.readouterr().err
    assert f"a run of 1,200 steps: it is in {tmp_path / 'previous' / '1'} now" in message
    assert "rm -r" in message


def test_no_number_of_starts_deletes_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "previous").mkdir()
    (tmp_path / "previous" / BEST).write_text("by a version that kept one run")
    (tmp_path / "previous" / "holiday").mkdir()
    for run in range(1, 12):
        (tmp_path / BEST).write_bytes(b"." * 1_000_000 * run)
        make_room(tmp_path, 1, None)
        assert f"{run}.0 MB" in capsys.readouterr().err
    for run in range(1, 12):
        assert (tmp_path / "previous" / str(run) / BEST).stat().st_size == 1_000_000 * run
    assert (tmp_path / "previous" / BEST).exists()


def test_pages_and_exports_of_a_run_move_with_it(tmp_path: Path) -> None:
    made = {"explain.html", "explain.json", "model.gguf", "huggingface", CONFIG, CURVE}
    for name in made:
        (tmp_path / name).write_text("of the first run")
    (tmp_path / LATEST).touch()
    make_room(tmp_path, 1, None)
    assert names_in(tmp_path) == {"previous"}
    assert names_in(tmp_path / "previous" / "1") == made | {LATEST}


class Killed(BaseException):
    """In place of a SIGKILL: nothing in the code catches it."""


@pytest.mark.parametrize(
    "failure", [Killed(), OSError(5, "Input/output error")], ids=["killed", "refused by the disk"]
)
@pytest.mark.parametrize("renames", range(6))
def test_a_move_that_is_interrupted_anywhere_loses_no_file(
    renames: int, failure: BaseException, tmp_path: Path
) -> None:
    """The rename after the first `renames` ones fails. There are four files to move, and then their
    folder gets its number."""
    run = {BEST: "best", LATEST: "latest", METRICS: '{"step": 5}', "explain.html": "page"}
    (tmp_path / "previous" / "1").mkdir(parents=True)
    (tmp_path / "previous" / "1" / BEST).write_text("an older run")
    for name, content in run.items():
        (tmp_path / name).write_text(content)
    with failing_rename(renames, failure), suppress(Killed, UserError), occupy(tmp_path):
        make_room(tmp_path, 1, None)
    enter(tmp_path)  # as a resume does: the run is where it was, or moved as a whole
    folder = tmp_path / "previous" / "2" if renames == 5 else tmp_path
    assert {name: (folder / name).read_text() for name in run} == run
    make_room(tmp_path, 1, None)
    assert names_in(tmp_path) - {".lock"} == {"previous"}
    assert names_in(tmp_path / "previous") == {"1", "2"}
    assert {path.name: path.read_text() for path in (tmp_path / "previous" / "2").iterdir()} == run
    assert (tmp_path / "previous" / "1" / BEST).read_text() == "an older run"


@contextmanager
def failing_rename(successes: int, failure: BaseException) -> Iterator[None]:
    """Let os.rename raise `failure` after so many successful calls."""
    real, results = os.rename, iter([None] * successes)

    def rename(*paths: object, **options: object) -> None:
        if next(results, failure):
            raise failure
        real(*paths, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "rename", rename)
        yield


def test_another_programs_config_json_is_not_written_over(
    tmp_path: Path, refused: Callable
) -> None:
    (tmp_path / CONFIG).write_text('{"model_type": "gpt2"}')
    (tmp_path / "model.safetensors").write_text("weights")
    with refused("config.json", "--out_dir="):
        make_room(tmp_path, 1, None)
    assert names_in(tmp_path) == {CONFIG, "model.safetensors"}
    # of a run that was killed before its first step
    (tmp_path / CONFIG).write_text('{"kqv": "0.9.0"}')
    make_room(tmp_path, 1, None)
    assert names_in(tmp_path) == {CONFIG, "model.safetensors"}


def test_a_file_made_since_an_interrupted_move_is_not_overwritten(tmp_path: Path) -> None:
    moving = tmp_path / "previous" / ".moving"
    moving.mkdir(parents=True)
    (moving / "explain.html").write_text("before")
    (moving / LATEST).write_text("latest")
    (tmp_path / "explain.html").write_text("after")
    enter(tmp_path)
    assert (tmp_path / "explain.html").read_text() == "after"
    assert (tmp_path / LATEST).read_text() == "latest"
    assert (tmp_path / "previous" / "1" / "explain.html").read_text() == "before"


@pytest.mark.parametrize("good", [EARLIER, BEST])
def test_a_damaged_checkpoint_does_not_replace_the_good_one_before_it(
    good: str, tmp_path: Path
) -> None:
    for name in (LATEST, good):
        (tmp_path / name).write_text(name)
    make_room(tmp_path, 10, resumed_from=tmp_path / good)
    with replacing(tmp_path / LATEST, keep=tmp_path / EARLIER) as file:
        file.write(b"new")
        assert (tmp_path / good).read_text() == good
        assert (tmp_path / DAMAGED).read_text() == LATEST
    assert (tmp_path / good).read_text() == good
    assert (tmp_path / DAMAGED).read_text() == LATEST


def test_a_disk_that_is_too_small_is_reported_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**6))
    make_room(tmp_path, 10_000, resumed_from=None)
    with refused("no space", "48 MB", "1 MB"):
        make_room(tmp_path, 1_000_000, resumed_from=None)


def test_the_tensorboard_folder_of_an_earlier_run_moves_aside_too(tmp_path: Path) -> None:
    for run in range(1, 4):
        (tmp_path / TENSORBOARD).mkdir()
        (tmp_path / TENSORBOARD / f"events.{run}").touch()
        (tmp_path / BEST).touch()
        make_room(tmp_path, 1, None)
        assert names_in(tmp_path / "previous" / str(run) / TENSORBOARD) == {f"events.{run}"}
        assert not (tmp_path / TENSORBOARD).exists()
