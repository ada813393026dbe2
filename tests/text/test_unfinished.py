"""What a user can rely on of big texts: killed is not lost, stopped leaves nothing secret."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from helpers.texts import write_json_lines

from kqv.project import ROOT
from kqv.text.datasets import open_texts
from kqv.text.unfinished import locked_workspace

# Prepares a text, and saves the progress after each piece.
SCRIPT = """
import os, signal, sys
from pathlib import Path
from kqv import project
from kqv.text import formats, tokenizing
from kqv.text.unfinished import Progress
from kqv.text.datasets import open_texts
from kqv.signals import end_by_exception

end_by_exception()

def save_or_die(progress, workspace, save=Progress.save):
    if progress.done > int(sys.argv[4]):
        os.kill(os.getpid(), int(sys.argv[5]))
    save(progress, workspace)

Progress.save = save_or_die
project.DATA, tokenizing.SAVE_INTERVAL, formats.PIECE_SIZE = Path(sys.argv[1]), 0.0, 1 << 16
print(open_texts([sys.argv[2]], tokenizer=sys.argv[3]).folder)
"""


@contextmanager
def preparing(
    data: Path, path: Path | str, tokenizer: str, most: int = 10**9, number: int = signal.SIGKILL
) -> Iterator[subprocess.Popen[str]]:
    """A process that prepares a text.

    It sends itself a signal before it saves that more than `most` characters are done.
    """
    arguments = [str(data), str(path), tokenizer, str(most), str(int(number))]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments],
        cwd=ROOT,
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's & ignores it
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("tokenizer", ["char", "bpe:300"])
def test_a_killed_preparation_is_continued_where_it_was(
    tokenizer: str, tmp_path: Path, data: Path
) -> None:
    if tokenizer != "char":
        pytest.importorskip("rustbpe")
    path = write_json_lines(
        tmp_path / "x.jsonl", [f"The cat number {i} sat on the mat.\n" * 40 for i in range(600)]
    )
    expected = open_texts([str(path)], tokenizer=tokenizer)

    with preparing(tmp_path / "killed", path, tokenizer, most=200_000) as process:
        process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    (note,) = (tmp_path / "killed").glob("cache/unfinished-*/progress.json")
    kept = json.loads(note.read_text())
    before, size = kept["done"], 2 if tokenizer != "char" else 1
    assert 0 < before <= 200_000
    assert (note.parent / "ids" / "train.bin").stat().st_size > size * kept["train"]
    with (
        preparing(tmp_path / "killed", path, tokenizer) as process,
        preparing(tmp_path / "killed", path, tokenizer) as other,
    ):
        said = [process.communicate(timeout=60), other.communicate(timeout=60)]
    folder, again = (Path(stdout.strip()) for stdout, _ in said)
    assert folder == again and f"{before:,} characters are done" in said[0][1] + said[1][1]
    for name in ("train.bin", "val.bin", "tokenizer.json"):
        assert (folder / name).read_bytes() == (expected.folder / name).read_bytes()
    names = {"train.bin", "val.bin", "tokenizer.json", "prepared.json"}
    assert {file.name for file in folder.iterdir()} == names
    assert not list(folder.parent.glob("unfinished-*/*"))


def test_a_second_process_waits_for_the_first_and_finds_its_work(
    tmp_path: Path, data: Path
) -> None:
    (tmp_path / "x.txt").write_text("the cat sat " * 2000)
    digest = open_texts([str(tmp_path / "x.txt")]).folder.name.removeprefix("x-")
    there = tmp_path / "other" / "cache"
    there.mkdir(parents=True)
    with ExitStack() as stack:
        with locked_workspace(there / f"x-{digest}", digest):
            process = stack.enter_context(preparing(tmp_path / "other", tmp_path / "x.txt", "char"))
            assert "another process is preparing the same text" in process.stderr.readline()
            os.rename(data / "cache" / f"x-{digest}", there / f"x-{digest}")
            stamp = (there / f"x-{digest}" / "val.bin").stat()
        stdout, stderr = process.communicate()
    assert (Path(stdout.strip()), stderr) == (there / f"x-{digest}", "")
    assert (there / f"x-{digest}" / "val.bin").stat() == stamp
    assert list(there.iterdir()) == [there / f"x-{digest}"]


def test_what_was_abandoned_is_removed_after_a_week_and_not_before(
    tmp_path: Path, data: Path
) -> None:
    (tmp_path / "x.txt").write_text("the cat sat")
    left = [data / "cache" / f"unfinished-{name}" for name in ("new", "old")]
    for folder, days in zip(left, (6, 8), strict=True):
        folder.mkdir(parents=True)
        (folder / "progress.json").touch()
        then = time.time() - days * 24 * 3600
        os.utime(folder, (then, then))
    open_texts([str(tmp_path / "x.txt")])
    assert left[0].exists() and not left[1].exists()


def test_what_another_process_works_on_stays_whatever_a_clock_says(
    tmp_path: Path, data: Path
) -> None:
    (tmp_path / "x.txt").write_text("the cat sat")
    cache = data / "cache"
    cache.mkdir(parents=True)
    with locked_workspace(cache / "y", "running") as workspace:
        os.utime(workspace, (0, 0))
        open_texts([str(tmp_path / "x.txt")])
        assert workspace.exists() and Path(f"{workspace}.lock").exists()
    assert not list(cache.glob("unfinished-*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_preparation_is_continued_and_says_so(number: int, tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("The cat sat on the mat.\n" * 20_000)
    with preparing(tmp_path / "stopped", path, "char", most=200_000, number=number) as process:
        _, said = process.communicate(timeout=60)
    assert process.returncode == (-signal.SIGINT if number == signal.SIGINT else 128 + number)
    assert "the same command continues there" in said
    (note,) = (tmp_path / "stopped").glob("cache/unfinished-*/progress.json")
    assert json.loads(note.read_text())["done"] > 0
    with preparing(tmp_path / "stopped", path, "char") as process:
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0 and "continuing what was prepared before" in said


def test_the_copy_of_standard_input_is_gone_when_a_process_is_stopped_or_the_next_one_starts(
    tmp_path: Path,
) -> None:
    cache = tmp_path / "data" / "cache"
    for number in (signal.SIGTERM, signal.SIGKILL):
        with preparing(tmp_path / "data", "-", "char") as process:
            process.stdin.write("my secret " * 100_000)
            process.stdin.flush()
            while not [path for path in cache.glob("unfinished-*/stdin") if path.stat().st_size]:
                assert process.poll() is None
                time.sleep(0.01)
            process.send_signal(number)
            with suppress(
                BrokenPipeError
            ):  # a signal that comes just before a read waits for its end
                os.write(process.stdin.fileno(), b"more of it")
            process.wait(timeout=60)
        # Nobody can handle SIGKILL.
        assert bool(list(cache.iterdir())) == (number == signal.SIGKILL)
    (tmp_path / "x.txt").write_text("the cat sat")
    with preparing(tmp_path / "data", tmp_path / "x.txt", "char") as process:
        folder = Path(process.communicate(timeout=60)[0].strip())
    assert list(cache.iterdir()) == [folder]
