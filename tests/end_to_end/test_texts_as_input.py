"""Texts and datasets as a user meets them: what is read is said, what is damaged is named."""

import re
import shutil
import signal
import subprocess
import time
from contextlib import suppress

import pytest
from helpers.shell import TINY, easy_text, prepared_text

pytestmark = pytest.mark.slow

SHORT = (TINY, "--max_iters=4")


@pytest.fixture
def novel(tmp_path, shell):
    """A text that no other test has prepared, and nothing else in the cache."""
    shutil.rmtree(shell.folder / "data" / "cache", ignore_errors=True)
    path = tmp_path / "my novel.txt"
    path.write_text(easy_text() + f"Once upon a time in {tmp_path.name}.\n")
    return path


def train(shell, tmp_path, *words):
    done = shell.run("train.py", *words, *SHORT, f"--out_dir={tmp_path / 'run'}")
    assert done.status == 0, done.stderr
    return done


def cached(shell):
    (folder,) = (path for path in (shell.folder / "data" / "cache").iterdir() if path.is_dir())
    return folder


def said(done, start):
    (line,) = (line for line in done.stderr.splitlines() if line.startswith(start))
    return line


def command_in(line, words):
    """The command that a message ends with."""
    return line.partition(words)[2]


def test_a_text_is_called_by_its_name_at_the_start_and_when_a_run_goes_on(shell, novel, tmp_path):
    for words in ((novel,), ("--init_from=resume", "--max_iters=6")):
        done = shell.run(
            "train.py", *words, *(SHORT if novel in words else ()), f"--out_dir={tmp_path / 'run'}"
        )
        assert done.status == 0, done.stderr
        assert re.search(r"parameters; [\d,]+ tokens of my novel\.txt, \d+ different", done.stderr)
        assert "cache/" not in done.stderr + done.stdout


@pytest.mark.parametrize(
    "words", [("--init_from=resume", "--max_iters=6"), ("--init_from=run", "--max_iters=2")]
)
def test_where_prepared_texts_were_deleted_the_run_says_the_command_that_helps(
    shell, novel, tmp_path, words
):
    train(shell, tmp_path, novel)
    shutil.rmtree(shell.folder / "data" / "cache")
    words = [word.replace("=run", f"={tmp_path / 'run'}") for word in words]
    out_dir = tmp_path / ("run" if "resume" in words[0] else "tuned")
    done = shell.run("train.py", *words, f"--out_dir={out_dir}")
    assert done.status == 2 and len(done.stderr.splitlines()) == 1
    assert "the prepared ids of my novel.txt are gone" in done.stderr and str(novel) in done.stderr
    command = command_in(done.stderr, "prepare the text again with ")
    again = subprocess.run(command, shell=True, cwd=shell.folder, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "tokens of my novel.txt" in again.stderr


def test_another_text_than_the_runs_is_refused_by_its_name(shell, novel, tmp_path):
    train(shell, tmp_path, novel)
    other = tmp_path / "other.txt"
    other.write_text(novel.read_text()[::-1])
    done = shell.run("train.py", other, "--init_from=resume", f"--out_dir={tmp_path / 'run'}")
    assert done.status == 2 and "other.txt is not the text that the run in" in done.stderr


def test_of_a_folder_the_hidden_is_not_read_and_one_line_says_so(shell, tmp_path, novel):
    letters = tmp_path / "letters"
    for name, text in {
        "a.txt": easy_text(),
        "notes.md": "# no",
        ".secret/key.txt": "my password",
        ".venv/x.txt": "no",
    }.items():
        (letters / name).parent.mkdir(parents=True, exist_ok=True)
        (letters / name).write_text(text)
    done = train(shell, tmp_path, letters)
    line = said(done, f"{letters}: ")
    assert line.endswith(
        "reading 1 .txt file; skipped 1 .md and 2 hidden folders; "
        "--endings=md,py reads these endings instead"
    )
    assert "tokens of letters/, " in done.stderr
    assert prepared_text(cached(shell)) == easy_text()


def test_train_and_compare_read_the_endings_that_are_named(shell, tmp_path, novel):
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.md").write_text(easy_text())
    (source / "b.py").write_text("raise SystemExit('a text is never run')\n")
    (source / "c.txt").write_text("not this\n")
    text = easy_text() + "raise SystemExit('a text is never run')\n"
    done = train(shell, tmp_path, source, "--endings=md,py")
    assert said(done, f"{source}: ").endswith("reading 1 .md and 1 .py files; skipped 1 .txt")
    assert prepared_text(cached(shell)) == text
    (tmp_path / "a_config.py").write_text(
        "max_iters = 2\nn_layer = 1\nn_embd = 16\nblock_size = 16\nbatch_size = 4\n"
    )
    words = (tmp_path / "a_config.py", source, "--endings=.md,.py", f"--out_dir={tmp_path / 'out'}")
    done = shell.run("compare.py", *words)
    assert done.status == 0, done.stderr
    assert prepared_text(cached(shell)) == text
    assert "Trained on source/ with seed" in (tmp_path / "out" / "report.md").read_text()


def test_endings_without_a_folder_are_refused(shell, novel):
    for words in (("train.py", novel), ("train.py",), ("compare.py", TINY, novel)):
        done = shell.run(*words, "--endings=md")
        assert done.status == 2 and "endings chooses among the files of a folder" in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_damaged_ids_are_made_again_when_the_text_is_named_and_else_refused_with_the_command(
    shell, novel, tmp_path
):
    train(shell, tmp_path, novel)
    ids = cached(shell) / "train.bin"
    whole = ids.read_bytes()
    ids.write_bytes(whole[:1000])
    done = shell.run(
        "train.py", "--init_from=resume", "--max_iters=6", f"--out_dir={tmp_path / 'run'}"
    )
    assert done.status == 2 and "the prepared ids of my novel.txt are damaged" in done.stderr
    done = train(shell, tmp_path, novel)
    assert said(done, str(cached(shell))).endswith("is damaged: the text is prepared again")
    assert ids.read_bytes() == whole


def test_ids_that_are_cut_short_during_a_run_end_it_with_one_line(shell, novel, tmp_path):
    words = (
        novel,
        TINY,
        "--max_iters=100_000",
        "--log_interval=1",
        f"--out_dir={tmp_path / 'run'}",
    )
    with shell.start("train.py", *words) as process:
        said = b""
        while not (line := process.stderr.readline()).startswith(b"step 30/"):
            said += line
            assert line, said.decode()
        (cached(shell) / "train.bin").write_bytes(b"")
        _, stderr = process.communicate()
    assert process.returncode == 1
    assert b"train.bin was cut short while it was read, to 0 of" in stderr.splitlines()[-1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_standard_input_is_read_leaves_no_copy_of_it(shell, novel, number):
    cache = shell.folder / "data" / "cache"
    with shell.start("train.py", "-", stdin=subprocess.PIPE) as process:
        process.stdin.write(b"my secret " * 1000)
        while not [path for path in cache.glob("unfinished-*/stdin") if path.stat().st_size]:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        with suppress(BrokenPipeError):  # a signal just before a read waits for its end
            process.stdin.write(b"more of it")
        process.wait()
    assert process.returncode == 128 + number
    assert list(cache.iterdir()) == []
