"""A run that was stopped, killed or finished resumes exactly; its checkpoint can start another."""

import fcntl
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import termios
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from helpers.shell import (
    SENTENCES,
    TINY,
    Done,
    full_pipe,
    metrics,
    same_weights,
    untimed,
)

from kqv.checkpoints.loading import load_checkpoint
from kqv.checkpoints.restoring import restore_model

LENGTH = 320
# With dropout and gradient accumulation, whose random numbers a resume has to reproduce.
OPTIONS = (
    TINY, f"--max_iters={LENGTH}", "--eval_interval=50", "--log_interval=1",
    "--inner_figures=True", "--dropout=0.2", "--gradient_accumulation_steps=2", "--batch_size=4",
)  # fmt: skip


def stopped_after(done):
    """The step that the message names."""
    return int(re.search(rf"^stopped after step (\d+) of {LENGTH}", done.stdout, re.MULTILINE)[1])


def test_a_run_whose_output_is_no_longer_read_runs_to_its_end(shell, text, tmp_path):
    words = (text, TINY, "--max_iters=30", "--log_interval=1", f"--out_dir={tmp_path}")
    with shell.start("train.py", *words) as process:
        assert process.stderr.readline()
        process.stderr.close()
        process.stdout.close()
        process.wait()
    assert process.returncode == 0
    assert metrics(tmp_path)[-1]["step"] == 30


@pytest.fixture(scope="module")
def straight(shell, text, tmp_path_factory):
    """The folder of an undisturbed run; renamed, so that no copy writes to it by its path."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    shell.succeed("train.py", text, *OPTIONS, f"--out_dir={folder}")
    return folder.rename(folder.with_name("kept"))


@dataclass
class Pieces:
    """The same run in four pieces."""

    folder: Path
    interrupted: Done
    interrupted_at: int
    """step of its last.pt"""
    killed: Done
    terminated: Done
    terminated_at: int
    finished: Done


@pytest.fixture(scope="module")
def pieces(shell, text, tmp_path_factory):
    """Ctrl-C after step 40, SIGKILL after step 140, SIGTERM after step 230. The run can be 80
    steps ahead of the line that was read: so many lines fit into its short pipe."""
    folder = tmp_path_factory.mktemp("pieces") / "run"
    resume = ("--init_from=resume", f"--out_dir={folder}")
    interrupted = shell.signal_at(
        "step 40/", signal.SIGINT, text, *OPTIONS, f"--out_dir={folder}", pause=1
    )
    interrupted_at = load_checkpoint(folder / "last.pt")["iter_num"]
    killed = shell.signal_at("step 140/", signal.SIGKILL, *resume)
    terminated = shell.signal_at("step 230/", signal.SIGTERM, *resume)
    terminated_at = load_checkpoint(folder / "last.pt")["iter_num"]
    finished = shell.run_printed(terminated, "  ")
    return Pieces(folder, interrupted, interrupted_at, killed, terminated, terminated_at, finished)


@pytest.mark.slow
def test_ctrl_c_saves_the_step_that_it_names_and_ends_with_130(pieces):
    assert pieces.interrupted.status == 130
    assert pieces.interrupted_at == stopped_after(pieces.interrupted) >= 40
    assert "Traceback" not in pieces.interrupted.stderr
    assert str(pieces.folder / "last.pt") in pieces.interrupted.stdout


@pytest.mark.slow
def test_sigterm_saves_the_step_that_it_names_and_ends_with_143(pieces):
    assert pieces.terminated.status == 143
    assert pieces.terminated_at == stopped_after(pieces.terminated) >= 230
    assert "Traceback" not in pieces.terminated.stderr


@pytest.mark.slow
def test_the_command_that_a_stopped_run_prints_resumes_it_to_its_end(pieces):
    assert pieces.finished.status == 0, pieces.finished.stderr
    assert load_checkpoint(pieces.folder / "last.pt")["iter_num"] == LENGTH


@pytest.mark.slow
def test_a_run_in_pieces_ends_with_the_same_weights_bit_for_bit(straight, pieces):
    assert pieces.killed.status == -signal.SIGKILL
    assert same_weights(pieces.folder / "last.pt", straight / "last.pt")
    assert same_weights(pieces.folder / "ckpt.pt", straight / "ckpt.pt")


@pytest.mark.slow
def test_a_run_in_pieces_has_each_step_once_with_the_same_metrics(straight, pieces):
    assert [line["step"] for line in metrics(pieces.folder)] == list(range(LENGTH + 1))
    assert untimed(metrics(pieces.folder)) == untimed(metrics(straight))


@pytest.mark.slow
def test_resuming_a_finished_run_changes_nothing(shell, straight, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(straight, folder)
    done = shell.succeed("train.py", "--init_from=resume", f"--out_dir={folder}")
    assert same_weights(folder / "last.pt", straight / "last.pt")
    assert same_weights(folder / "ckpt.pt", straight / "ckpt.pt")
    assert untimed(metrics(folder)) == untimed(metrics(straight))
    start = f"the run in {folder} is finished (step {LENGTH}): "
    (line,) = (line for line in done.stderr.splitlines() if line.startswith(start))
    assert f"--out_dir={folder} --max_iters={2 * LENGTH} trains on" in line
    assert "sample.py" in line


@pytest.fixture(scope="module")
def longer(shell, straight, tmp_path_factory):
    """The run `straight`, moved and resumed for 20 more steps at rates that ruin the model."""
    # the default out_dir, seen from the folder above
    folder = tmp_path_factory.mktemp("longer") / "out"
    shutil.copytree(straight, folder)
    rates = ("--decay_lr=False", "--learning_rate=1", "--muon_learning_rate=1")
    shell.succeed(
        "train.py", "--init_from=resume", f"--max_iters={LENGTH + 20}", *rates, cwd=folder.parent
    )
    return folder


@pytest.mark.slow
def test_a_larger_max_iters_resumes_a_finished_run_wherever_its_folder_is_now(longer):
    assert load_checkpoint(longer / "last.pt")["iter_num"] == LENGTH + 20
    assert [line["step"] for line in metrics(longer)] == list(range(LENGTH + 21))


@pytest.mark.slow
def test_a_resumed_run_that_gets_worse_keeps_its_best_checkpoint(straight, longer):
    losses = [line["val_loss"] for line in metrics(longer) if "val_loss" in line]
    assert losses[-1] > 2 * losses[-2]
    assert same_weights(longer / "ckpt.pt", straight / "ckpt.pt")


@pytest.mark.slow
def test_ctrl_c_is_answered_before_the_step_is_done(pieces):
    lines = pieces.interrupted.stderr.splitlines()
    assert "stopping after this step; Ctrl-C again ends now" in lines


@pytest.mark.slow
def test_a_run_whose_terminal_closes_saves_and_ends_with_129(shell, text, tmp_path):
    master, terminal = os.openpty()

    def take_terminal():
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)

    script, out_dir = shell.folder / "train.py", f"--out_dir={tmp_path}"
    command = [sys.executable, script, text, *OPTIONS, "--max_iters=1000000", out_dir]
    with subprocess.Popen(
        command,
        cwd=shell.folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        preexec_fn=take_terminal,
    ) as process:
        try:
            os.close(terminal)
            said = b""
            while b"step 50: validation" not in said:
                said += os.read(master, 1000)
            os.close(master)
            assert process.wait(timeout=600) == 128 + signal.SIGHUP
        finally:
            process.kill()
    saved = load_checkpoint(tmp_path / "last.pt")["iter_num"]
    assert saved >= 50
    assert metrics(tmp_path)[-1]["step"] == saved


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "status"),
    [("train.py", -2), ("sample.py", 130), ("explain.py", -2), ("export.py", -2)],
)
@pytest.mark.parametrize("library", ["numpy", "libtorch_cpu"])
def test_ctrl_c_while_libraries_are_loaded_ends_a_script_silently(
    shell, trained, tmp_path, script, status, library
):
    out_dir = tmp_path if script == "train.py" else trained.folder
    with shell.start(script, f"--out_dir={out_dir}") as process:
        while library not in Path(f"/proc/{process.pid}/maps").read_text():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate()
    assert (process.returncode, stdout, stderr) == (status, b"", b"")


def waits(process):
    """Whether a process waits for more of its standard input."""
    system_call = Path(f"/proc/{process.pid}/syscall").read_text()
    return system_call.startswith("0 0x0 ")  # read(0, ...)


@pytest.mark.slow
def test_sigterm_while_a_text_is_read_from_standard_input_leaves_no_copy_of_it(shell, tmp_path):
    cache = shell.folder / "data" / "cache"
    with shell.start("train.py", "-", f"--out_dir={tmp_path}", stdin=subprocess.PIPE) as process:
        process.stdin.write(b"secret\n" * 100)
        while not (copies := list(cache.glob("unfinished-*/stdin"))) or not waits(process):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=600) == 143
    assert not copies[0].parent.exists()


@pytest.mark.slow
def test_a_folder_that_is_moved_away_during_a_run_ends_the_run_with_a_checkpoint(
    shell, text, tmp_path
):
    folder = tmp_path / "run"
    words = (text, *OPTIONS, "--max_iters=1000000", f"--out_dir={folder}")
    with shell.start("train.py", *words) as process:
        while not process.stderr.readline().startswith(b"step 40/"):
            assert process.poll() is None
        folder.rename(tmp_path / "elsewhere")
        while process.stderr.readline():
            pass
        assert process.wait(timeout=600) == 1
    shell.succeed("train.py", "--init_from=resume", f"--out_dir={folder}", "--max_iters=60")


@pytest.mark.slow
def test_a_run_stopped_before_its_first_step_can_be_resumed(shell, text, tmp_path):
    folder = tmp_path / "my run"
    words = (text, TINY, f"--max_iters={LENGTH}", f"--out_dir={folder}")
    reader, writer = full_pipe()  # the run blocks at its first line
    with shell.start("train.py", *words, stderr=writer) as process:
        os.close(writer)
        while not (folder / "metrics.jsonl").exists() and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        with os.fdopen(reader, "rb") as stderr:
            said = stderr.read().decode().lstrip(".")
        done = Done(process.wait(), process.stdout.read().decode(), said)
    assert done.status == 143
    assert "Traceback" not in done.stderr
    # a signal takes effect at the end of a step
    assert load_checkpoint(folder / "last.pt")["iter_num"] == stopped_after(done) == 1
    assert shlex.split(done.stdout.splitlines()[-1])[-1] == f"--out_dir={folder}"
    resumed = shell.run_printed(done, "  ")
    assert resumed.status == 0, resumed.stderr
    assert load_checkpoint(folder / "last.pt")["iter_num"] == LENGTH


@pytest.mark.slow
def test_a_run_stopped_before_its_first_evaluation_is_sampled_from_last_pt(shell, text, tmp_path):
    words = (text, *OPTIONS, "--eval_interval=1000", f"--out_dir={tmp_path}")
    done = shell.signal_at("step 40/", signal.SIGINT, *words, pause=1)
    assert done.status == 130
    assert not (tmp_path / "ckpt.pt").exists()  # an untrained model is never the best
    assert "there is no ckpt.pt; sample.py takes last.pt" in done.stdout
    words = (f"--out_dir={tmp_path}", "--temperature=0", "--max_new_tokens=100")
    sampled = shell.succeed("sample.py", *words)
    assert sampled.stdout.count(" ") > 5
    assert "there is no ckpt.pt; sample.py takes last.pt" in sampled.stderr


def test_ctrl_c_ends_a_sample_without_a_traceback(shell, trained):
    words = (f"--out_dir={trained.folder}", "--max_new_tokens=10000000")
    with shell.start("sample.py", *words) as process:
        for _ in range(50):
            assert process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate()
    assert process.returncode == 130
    assert len(stderr.splitlines()) <= 1
    assert b"Traceback" not in stderr


@pytest.mark.slow
def test_fine_tuning_starts_at_the_loss_of_the_checkpoint_and_lowers_it(shell, trained, tmp_path):
    other = tmp_path / "other.txt"
    sentences = (sentence.replace(" sits on the ", " sits in the old ") for sentence in SENTENCES)
    other.write_text("".join(sentences) * 3)
    rates = ("--learning_rate=0.001", "--muon_learning_rate=0.01")
    start, out_dir = trained.folder / "ckpt.pt", tmp_path / "tuned"
    words = (other, f"--init_from={start}", *rates, "--max_iters=60", "--eval_iters=1000")
    shell.succeed("train.py", *words, f"--out_dir={out_dir}")

    # The same loss computed here: the last tenth of the text, in windows of block_size.
    state = load_checkpoint(trained.folder / "ckpt.pt")
    model, tokenizer = restore_model(state, trained.folder)
    text = other.read_text()
    ids = torch.tensor(tokenizer.encode(text[int(0.9 * len(text)) :]))
    windows = ids[: len(ids) // 16 * 16].view(-1, 16)
    with torch.no_grad():
        logits = model.eval()(windows[:, :-1]).transpose(1, 2)
    loss = torch.nn.functional.cross_entropy(logits, windows[:, 1:])

    lines = metrics(tmp_path / "tuned")
    assert lines[0]["val_loss"] == pytest.approx(float(loss), rel=0.1)
    untrained = math.log(tokenizer.vocab_size)
    assert abs(lines[0]["val_loss"] - untrained) > 0.5
    assert lines[-1]["val_loss_full"] < 0.7 * lines[0]["val_loss"]
    assert load_checkpoint(tmp_path / "tuned" / "ckpt.pt")["tokenizer"] == state["tokenizer"]
