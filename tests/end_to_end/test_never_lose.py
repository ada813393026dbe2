"""Whatever happens to a run, its checkpoints are whole and a resume gives the undisturbed run.

pytest tests/end_to_end/test_never_lose.py --kills=100     with more kills; takes some minutes
"""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.shell import SENTENCES, TINY, full_pipe, metrics, same_weights, untimed

from kqv.checkpoints.loading import load_checkpoint, load_latest
from kqv.checkpoints.single import save_checkpoint
from kqv.run_files import BEST, DAMAGED, EARLIER, LATEST

CHECKPOINT_EACH_STEP = "--checkpoint_minutes=0.000001"
# With dropout and gradient accumulation, whose random numbers a resume has to reproduce.
OPTIONS = (
    TINY, CHECKPOINT_EACH_STEP, "--log_interval=1", "--eval_interval=7", "--eval_iters=2",
    "--dropout=0.2", "--gradient_accumulation_steps=2", "--batch_size=4",
)  # fmt: skip


def steps_done(folder):
    """The last step in the metrics, read while they are written; 0 before the first."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return 0
    steps = re.findall(rb'^{"step": (\d+), .*}$', path.read_bytes(), re.MULTILINE)
    return int(steps[-1]) if steps else 0


def resume_words(folder, words):
    """The words that resume the run in a folder, or start it where it has no checkpoint."""
    resumable = any((folder / name).exists() for name in (LATEST, EARLIER))
    return ("--init_from=resume",) if resumable else words


def kill_at_random(process, folder, random):
    """SIGKILL at a random moment: at any time, after a step, or while a checkpoint is written.

    Returns whether the run was still there to be killed.
    """
    if random.random() < 0.2:
        time.sleep(random.uniform(0, 2))  # while it starts, loads, or makes its first steps
    else:
        target = steps_done(folder) + random.randrange(1, 20)
        while process.poll() is None and steps_done(folder) < target:
            time.sleep(0.001)
        if random.random() < 0.7:
            while process.poll() is None and not list(folder.glob(".*.pt.*.tmp")):
                pass
            time.sleep(random.uniform(0, 0.004))  # writing takes some milliseconds
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode in (-signal.SIGKILL, 0)
    return process.returncode != 0


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_run_that_is_killed_again_and_again_ends_as_the_undisturbed_one(
    shell, text, tmp_path, request, dtype
):
    kills = max(1, request.config.getoption("--kills") // 2)
    words = (text, *OPTIONS, f"--dtype={dtype}", f"--max_iters={20 * kills + 30}")
    shell.succeed("train.py", *words, f"--out_dir={tmp_path / 'straight'}")

    folder, seeded, killed = tmp_path / "killed", random.Random(dtype), 0
    folder.mkdir()
    for _ in range(kills):
        command = ("train.py", *resume_words(folder, words), f"--out_dir={folder}")
        with shell.start(*command, stderr=subprocess.DEVNULL) as process:
            killed += kill_at_random(process, folder, seeded)
        for path in folder.glob("*.pt"):
            load_checkpoint(path)  # whole, or this raises
        if (folder / "metrics.jsonl").exists():
            steps = [line["step"] for line in metrics(folder)]
            assert steps == list(range(len(steps)))
    assert killed > kills / 2  # the others had finished before
    shell.succeed("train.py", *resume_words(folder, words), f"--out_dir={folder}")
    for name in (BEST, LATEST):
        assert same_weights(folder / name, tmp_path / "straight" / name)
    assert untimed(metrics(folder)) == untimed(metrics(tmp_path / "straight"))


@pytest.fixture(scope="module")
def stopped(shell, text, tmp_path_factory):
    """A folder with a run of 40 steps (`straight`), and the same run ended after 20 (`stopped`)."""
    folder = tmp_path_factory.mktemp("stopped")
    intervals = ("--eval_interval=10", "--log_interval=1")
    words = (text, TINY, "--max_iters=40", "--lr_decay_iters=40", *intervals)
    for name, more in {"straight": (), "stopped": ("--max_iters=20",)}.items():
        shell.succeed("train.py", *words, *more, f"--out_dir={folder / name}")
    return folder


def damaged(data, damage):
    if damage == "cut short":
        return data[:-1000]
    return data[:3000] + bytes([data[3000] ^ 1]) + data[3001:]


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["a flipped bit", "cut short", "gone"])
def test_a_run_whose_latest_checkpoint_is_damaged_resumes_from_the_one_before(
    shell, stopped, tmp_path, damage
):
    folder = tmp_path / "run"
    shutil.copytree(stopped / "stopped", folder)
    data = (folder / LATEST).read_bytes()
    (folder / LATEST).unlink()
    if damage != "gone":
        (folder / LATEST).write_bytes(damaged(data, damage))
    done = shell.succeed("train.py", "--init_from=resume", "--max_iters=40", f"--out_dir={folder}")
    if damage != "gone":
        first_line = done.stderr.splitlines()[0]
        assert str(folder / LATEST) in first_line
        assert str(folder / EARLIER) in first_line
        assert (folder / DAMAGED).read_bytes() == damaged(data, damage)
    assert same_weights(folder / LATEST, stopped / "straight" / LATEST)
    assert [line["step"] for line in metrics(folder)] == list(range(41))


@pytest.mark.slow
def test_a_second_ctrl_c_ends_a_run_at_once_and_harms_nothing(shell, stopped, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(stopped / "stopped", folder)
    before = (folder / "metrics.jsonl").stat().st_ino
    resume = ("train.py", "--init_from=resume", "--max_iters=40", f"--out_dir={folder}")
    reader, writer = full_pipe()  # the run blocks at its first line, so only the second can end it
    try:
        with shell.start(*resume, stderr=writer) as process:
            # the file is replaced once signals are handled
            while (folder / "metrics.jsonl").stat().st_ino == before:
                assert process.poll() is None
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            deadline = time.monotonic() + 60
            # again and again: two signals at the same time count as one
            while process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.2)
                process.send_signal(signal.SIGINT)
            assert process.wait(timeout=60) == 128 + signal.SIGINT
    finally:
        os.close(reader)
        os.close(writer)
    for path in folder.glob("*.pt"):
        load_checkpoint(path)  # whole, or this raises
    shell.succeed(*resume)
    assert same_weights(folder / LATEST, stopped / "straight" / LATEST)


def test_a_checkpoint_of_the_first_version_can_be_resumed(shell, stopped, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(stopped / "stopped", folder)
    state = load_checkpoint(folder / LATEST)
    for newer in ("format", "text", "skipped", "skipped_in_a_row"):
        state.pop(newer, None)
    save_checkpoint(folder / LATEST, state)
    shell.succeed("train.py", "--init_from=resume", "--max_iters=40", f"--out_dir={folder}")
    assert same_weights(folder / LATEST, stopped / "straight" / LATEST)


def test_a_run_saves_by_the_clock_as_well(shell, text, tmp_path):
    no_evaluation = ("--max_iters=100000", "--eval_interval=100000")  # but that of step 0
    words = (text, TINY, *no_evaluation, "--checkpoint_minutes=0.003", f"--out_dir={tmp_path}")
    with shell.start("train.py", *words, stderr=subprocess.DEVNULL) as process:
        seen = set()
        while len(seen - {0}) < 3:
            assert process.poll() is None
            if (tmp_path / EARLIER).exists():  # load_latest reads it while there is no last.pt
                seen.add(load_latest(str(tmp_path))[0]["iter_num"])
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        process.communicate()
    assert max(seen) < 100000


@pytest.mark.slow
def test_a_second_run_into_the_same_folder_is_refused_while_the_first_lives(shell, text, tmp_path):
    words = (text, TINY, "--max_iters=100000", f"--out_dir={tmp_path}")
    with shell.start("train.py", *words, stderr=subprocess.DEVNULL) as process:
        while not (tmp_path / "last.pt").exists():
            assert process.poll() is None
            time.sleep(0.05)
        for again in (words, ("--init_from=resume", f"--out_dir={tmp_path}")):
            done = shell.run("train.py", *again)
            assert done.status == 2
            assert done.stdout == ""
            assert "another run is writing" in done.stderr
            assert len(done.stderr.splitlines()) == 1
        # reading is allowed
        shell.succeed("sample.py", f"--out_dir={tmp_path}", "--max_new_tokens=5")
        process.kill()
        process.communicate()
    shell.succeed("train.py", "--init_from=resume", f"--out_dir={tmp_path}", "--max_iters=0")


def test_a_run_is_not_resumed_with_another_text(shell, stopped, tmp_path):
    folder, other = tmp_path / "run", tmp_path / "other.txt"
    shutil.copytree(stopped / "stopped", folder)
    other.write_text("".join(reversed(SENTENCES)) * 5)
    resume = ("--init_from=resume", "--max_iters=40", f"--out_dir={folder}")
    done = shell.run("train.py", other, *resume)
    assert done.status == 2
    error = done.stderr.splitlines()[-1]
    assert "is not the text" in error
    assert f"--init_from={folder}" in error
    assert metrics(folder) == metrics(stopped / "stopped")


# --- a full disk


@pytest.mark.slow
def test_on_a_full_disk_a_run_trains_on_if_asked_to_and_saves_when_there_is_room(
    shell, text, tmp_path
):
    words = (text, TINY, "--eval_interval=10", "--log_interval=1", f"--out_dir={tmp_path}")
    shell.succeed("train.py", *words, "--max_iters=10")
    before = (tmp_path / LATEST).read_bytes()
    on = ("--init_from=resume", f"--out_dir={tmp_path}", "--on_write_error=continue")
    done = shell.run("train.py", *on, "--max_iters=25", largest_file=20_000)
    assert (tmp_path / LATEST).read_bytes() == before
    failures = [line for line in done.stderr.splitlines() if "could not be written" in line]
    assert len(failures) > 2
    assert all("training goes on" in line for line in failures[:-1])
    # after the last checkpoint there is no later try, so the run has failed
    assert "goes on" not in failures[-1]
    assert done.status == 1
    assert "Traceback" not in done.stderr
    shell.succeed("train.py", *on, "--max_iters=30")
    assert load_checkpoint(tmp_path / LATEST)["iter_num"] == 30
    assert [line["step"] for line in metrics(tmp_path)] == list(range(31))


@pytest.fixture
def small_drive(tmp_path):
    """A mounted disk of 1.5 MB."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    folder = tmp_path / "drive"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", folder]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this machine does not allow mounting")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.slow
def test_a_disk_that_fills_up_ends_a_run_and_costs_nothing_that_was_saved(shell, text, small_drive):
    folder = small_drive / "run"
    words = (text, TINY, "--max_iters=100000", "--eval_interval=50", f"--out_dir={folder}")
    with shell.start("train.py", *words, stderr=subprocess.PIPE) as process:
        while not (folder / EARLIER).exists():
            assert process.poll() is None
            process.stderr.readline()
        with (small_drive / "ballast").open("wb", buffering=0) as ballast, pytest.raises(OSError):
            while True:
                ballast.write(bytes(4096))
        _, stderr = process.communicate()
    assert process.returncode == 1
    assert b"Traceback" not in stderr
    assert str(folder).encode() in stderr.splitlines()[-1]
    saved = {path.name: load_checkpoint(path)["iter_num"] for path in folder.glob("*.pt")}
    assert saved[LATEST] >= 50
    assert list(folder.glob(".*.tmp")) == []

    resume = ("--init_from=resume", f"--out_dir={folder}", f"--max_iters={saved[LATEST] + 50}")
    refused = shell.run("train.py", *resume)
    assert refused.status == 2
    assert "no space" in refused.stderr.splitlines()[-1]
    (small_drive / "ballast").unlink()
    shell.succeed("train.py", *resume)
    assert [line["step"] for line in metrics(folder)] == list(range(0, saved[LATEST] + 51, 10))


@pytest.mark.slow
def test_a_read_only_disk_is_reported_before_anything_is_done(shell, text, small_drive):
    subprocess.run(["mount", "-o", "remount,ro", small_drive], check=True)
    done = shell.run("train.py", text, TINY, f"--out_dir={small_drive / 'run'}")
    assert done.status == 2
    assert len(done.stderr.splitlines()) == 1
    assert "Read-only file system" in done.stderr
    assert "--out_dir=" in done.stderr


# --- numbers that are not finite

# Runs train.py with a loss that is not finite in the steps that its first argument lists.
SPIKED = """
import sys
sys.path.insert(0, ".")
import torch, train
from kqv import kernels
from kqv.errors import run_script
spikes, calls = [int(word) for word in sys.argv.pop(1).split(",")], iter(range(10**9))
real = kernels.cross_entropy

def cross_entropy(*inputs):
    loss = real(*inputs)
    return loss * float("nan") if torch.is_grad_enabled() and next(calls) in spikes else loss

kernels.cross_entropy = cross_entropy
run_script(train.main)
"""


@pytest.fixture(scope="module")
def spiked(shell):
    (shell.folder / "spiked.py").write_text(SPIKED)
    return lambda spikes, *words: shell.run("spiked.py", ",".join(map(str, spikes)), *words)


def test_a_loss_that_is_not_finite_skips_one_update_and_is_reported(spiked, text, tmp_path):
    done = spiked([12], text, TINY, "--max_iters=30", "--log_interval=1", f"--out_dir={tmp_path}")
    assert done.status == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if "not finite" in line] == [
        "step 13: the loss is not finite, so the update is skipped"
    ]
    lines = metrics(tmp_path)
    assert [line["step"] for line in lines if "train_loss" not in line] == [0, 13]
    assert [line.get("skipped") for line in lines] == [None] * 13 + [1] * 18
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert lines[-1]["train_loss"] < lines[1]["train_loss"]
    weights = load_checkpoint(tmp_path / LATEST)["model"]
    assert all(weight.isfinite().all() for weight in weights.values())


@pytest.mark.slow
def test_nine_skipped_steps_in_a_row_are_survived_and_ten_end_the_run_with_a_good_checkpoint(
    spiked, shell, text, tmp_path
):
    words = (text, TINY, "--max_iters=40", "--eval_interval=5", CHECKPOINT_EACH_STEP)
    assert spiked(range(12, 21), *words, f"--out_dir={tmp_path}").status == 0
    done = spiked(range(12, 22), *words, f"--out_dir={tmp_path}")
    assert done.status == 1
    assert "Traceback" not in done.stderr
    error = done.stderr.splitlines()[-1]
    for part in ("diverged", str(tmp_path / LATEST), "--learning_rate="):
        assert part in error
    state = load_checkpoint(tmp_path / LATEST)
    assert (state["iter_num"], state["skipped"]) == (12, 0)
    assert metrics(tmp_path)[-1]["skipped"] == 10
    shell.succeed("train.py", "--init_from=resume", f"--out_dir={tmp_path}")


@pytest.mark.slow
def test_a_run_that_ends_among_skipped_steps_is_resumed_as_the_undisturbed_one(
    spiked, text, tmp_path
):
    spikes = [5, 6, 7, 20]
    words = (text, TINY, "--max_iters=30", "--lr_decay_iters=30", "--log_interval=1")
    assert spiked(spikes, *words, f"--out_dir={tmp_path / 'straight'}").status == 0
    assert spiked(spikes, *words, "--max_iters=7", f"--out_dir={tmp_path / 'pieces'}").status == 0
    # step 7 is among the skipped ones, so the last checkpoint is from before them
    first = load_checkpoint(tmp_path / "pieces" / LATEST)["iter_num"]
    rest = [step - first for step in spikes if step >= first]
    done = spiked(rest, "--init_from=resume", "--max_iters=30", f"--out_dir={tmp_path / 'pieces'}")
    assert done.status == 0, done.stderr
    assert same_weights(tmp_path / "pieces" / LATEST, tmp_path / "straight" / LATEST)


@pytest.mark.slow
def test_a_run_that_diverges_ends_with_one_line_and_a_checkpoint_from_before(shell, text, tmp_path):
    rates = ("--learning_rate=1", "--muon_learning_rate=1", "--weight_decay=1e6")
    rates += ("--decay_lr=False", "--warmup_iters=0")
    done = shell.run("train.py", text, TINY, "--max_iters=200", *rates, f"--out_dir={tmp_path}")
    assert done.status == 1
    assert "Traceback" not in done.stderr
    assert "diverged" in done.stderr.splitlines()[-1]
    load_checkpoint(tmp_path / LATEST)


# --- memory


@pytest.mark.slow
def test_memory_and_open_files_stay_flat(shell, text, tmp_path):
    intervals = ("--eval_interval=50", "--log_interval=10")
    words = (text, TINY, "--max_iters=1000000", *intervals, f"--out_dir={tmp_path}")
    with shell.start("train.py", *words, stderr=subprocess.DEVNULL) as process:
        used = []
        for target in (500, 1500):
            while steps_done(tmp_path) < target:
                assert process.poll() is None
                time.sleep(0.02)
            used.append(usage(process.pid))
    (memory, files), (later_memory, later_files) = used
    assert later_memory < memory + 8_000
    assert abs(later_files - files) <= 3  # a checkpoint may be open at the moment


def usage(pid):
    """Resident kilobytes and open files of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]), len(os.listdir(f"/proc/{pid}/fd"))
