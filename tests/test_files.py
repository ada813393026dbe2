"""What a user can rely on of every file kqv writes: the old one or the new one, never a half."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kqv.files import read_small, replacing
from kqv.project import ROOT

OLD, NEW = b"old content", b"new and longer content"


@pytest.fixture(params=["over an old file", "where there was none"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "file.bin"
    if request.param == "over an old file":
        path.write_bytes(OLD)
    return path


def content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def test_the_new_file_appears_whole_when_the_block_ends(path: Path) -> None:
    before = content(path)
    with replacing(path) as file:
        file.write(NEW[:5])
        file.flush()
        assert content(path) == before
        file.write(NEW[5:])
    assert content(path) == NEW
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, MemoryError])
def test_after_an_error_all_is_as_it_was(path: Path, error: type[BaseException]) -> None:
    before, files = content(path), list(path.parent.iterdir())
    with pytest.raises(error), replacing(path) as file:
        file.write(NEW)
        raise error
    assert content(path) == before and list(path.parent.iterdir()) == files


@pytest.mark.skipif(os.name != "posix", reason="there is no such signal on Windows")
def test_a_killed_process_leaves_the_old_file(path: Path) -> None:
    before = content(path)
    script = f"""
import os, signal
from pathlib import Path
from kqv.files import replacing
with replacing(Path({str(path)!r})) as file:
    file.write({NEW!r}); file.flush(); os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    assert content(path) == before


def test_a_folder_that_is_missing_is_an_error_and_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "missing" / "file.bin"):
        pass
    assert list(tmp_path.iterdir()) == []


# --- what is read whole -------------------------------------------------------------------------


def test_a_small_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100_000)
    assert read_small(path, 100_000) == b"x" * 100_000
    with pytest.raises(OSError, match="more than 99,999 bytes"):
        read_small(path, 99_999)


@pytest.mark.skipif(os.name != "posix", reason="needs named pipes")
def test_a_device_or_a_pipe_is_no_file_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    for name, word in (("pipe", "pipe"), ("link", "device"), ("", "folder")):
        with pytest.raises(OSError, match=word):
            read_small(tmp_path / name, 10)
