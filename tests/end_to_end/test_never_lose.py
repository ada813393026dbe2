"""Whatever happens to a run, what it had saved is whole, and going on gives the run that would have been.

pytest tests/end_to_end/test_never_lose.py --kills=100     the same with more kills; takes some minutes
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

# Dropout and accumulation, so that a resume has to get their randomness right too; a checkpoint after each step.
OPTIONS = (
    TINY, "--log_interval=1", "--eval_interval=7", "--eval_iters=2", "--checkpoint_minutes=0.000001",
    "--dropout=0.2", "--gradient_accumulation_steps=2", "--batch_size=4",
)  # fmt: skip


def steps_done(folder):
    """The last step in the metrics, read while they are written."""
    found = re.findall(
        rb'^{"step": (\d+), .*}$', (folder / "metrics.jsonl").read_bytes(), re.MULTILINE
    )
    return int(found[-1]) if found else 0


def kill_somewhere(process, folder, chance):
    """SIGKILL at a moment that chance chooses: anywhere, or while a checkpoint is being written. Returns which, or that the
    run had finished before."""
    if chance.random() < 0.2:
        time.sleep(
            chance.uniform(0, 2)
        )  # while it starts, reads its checkpoint, or makes its first steps
        where = "anywhere"
    else:
        began = steps_done(folder) if (folder / "metrics.jsonl").exists() else 0
        target = began + chance.randrange(1, 20)
        while process.poll() is None and not (
            (folder / "metrics.jsonl").exists() and steps_done(folder) >= target
        ):
            time.sleep(0.001)
        where = "after a step"
        if chance.random() < 0.7:
            while process.poll() is None and not list(folder.glob(".*.pt.*.tmp")):
                pass
            time.sleep(chance.uniform(0, 0.004))  # writing takes some milliseconds
            where = "while writing" if list(folder.glob(".*.pt.*.tmp")) else "after writing"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode in (-signal.SIGKILL, 0)
    return where if process.returncode else "too late"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_run_that_is_killed_again_and_again_is_the_run_that_nothing_disturbed(
    shell, text, tmp_path, request, dtype
):
    kills = max(1, request.config.getoption("--kills") // 2)
    words = (text, *OPTIONS, f"--dtype={dtype}", f"--max_iters={20 * kills + 30}")
    done = shell.run("train.py", *words, f"--out_dir={tmp_path / 'straight'}")
    assert done.status == 0, done.stderr

    folder, chance, landed = tmp_path / "killed", random.Random(dtype), []
    folder.mkdir()
    for _ in range(kills):
        resume = any((folder / name).exists() for name in (LATEST, EARLIER))
        again = ("--init_from=resume",) if resume else words
        with shell.start(
            "train.py", *again, f"--out_dir={folder}", stderr=subprocess.DEVNULL
        ) as process:
            landed.append(kill_somewhere(process, folder, chance))
        for path in folder.glob("*.pt"):
            load_checkpoint(path)  # whole, or this raises
        if (folder / "metrics.jsonl").exists():
            steps = [line["step"] for line in metrics(folder)]
            assert steps == list(range(len(steps)))
    assert landed.count("too late") < len(landed) / 2, landed
    again = (
        ("--init_from=resume",)
        if any((folder / name).exists() for name in (LATEST, EARLIER))
        else words
    )
    done = shell.run("train.py", *again, f"--out_dir={folder}")
    assert done.status == 0, done.stderr
    for name in (BEST, LATEST):
        assert same_weights(folder / name, tmp_path / "straight" / name)
    assert untimed(metrics(folder)) == untimed(metrics(tmp_path / "straight"))


@pytest.fixture(scope="module")
def stopped(shell, text, tmp_path_factory):
    """A run of 40 steps that stopped itself after 20, and the same run undisturbed."""
    folder = tmp_path_factory.mktemp("stopped")
    words = (
        text,
        TINY,
        "--max_iters=40",
        "--eval_interval=10",
        "--log_interval=1",
        "--lr_decay_iters=40",
    )
    for name, more in {"straight": (), "stopped": ("--max_iters=20",)}.items():
        done = shell.run("train.py", *words, *more, f"--out_dir={folder / name}")
        assert done.status == 0, done.stderr
    return folder


@pytest.mark.parametrize("damage", ["a flipped bit", "cut short", "gone"])
def test_from_a_damaged_checkpoint_a_run_goes_on_with_the_one_before(
    shell, stopped, tmp_path, damage
):
    folder = tmp_path / "run"
    shutil.copytree(stopped / "stopped", folder)
    data = (folder / LATEST).read_bytes()
    (folder / LATEST).unlink()
    if damage != "gone":
        spoilt = (
            data[:3000] + bytes([data[3000] ^ 1]) + data[3001:]
            if damage == "a flipped bit"
            else data[:-1000]
        )
        (folder / LATEST).write_bytes(spoilt)
    done = shell.run("train.py", "--init_from=resume", "--max_iters=40", f"--out_dir={folder}")
    assert done.status == 0, done.stderr
    if damage != "gone":
        said = done.stderr.splitlines()[0]
        assert str(folder / LATEST) in said and str(folder / EARLIER) in said
        assert (folder / DAMAGED).read_bytes() == spoilt
    assert same_weights(folder / LATEST, stopped / "straight" / LATEST)
    assert [line["step"] for line in metrics(folder)] == list(range(41))


def test_a_second_ctrl_c_ends_a_run_at_once_and_harms_nothing(shell, stopped, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(stopped / "stopped", folder)
    began = (folder / "metrics.jsonl").stat().st_ino
    reader, writer = (
        full_pipe()
    )  # the run stands still at its first line, so only the second can end it
    try:
        with shell.start(
            "train.py", "--init_from=resume", "--max_iters=40", f"--out_dir={folder}", stderr=writer
        ) as process:
            while (
                folder / "metrics.jsonl"
            ).stat().st_ino == began:  # it is written anew when signals are caught already
                assert process.poll() is None
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            until = time.monotonic() + 60
            while (
                process.poll() is None and time.monotonic() < until
            ):  # the first one may be on its way
                time.sleep(0.2)
                process.send_signal(signal.SIGINT)
            assert process.wait(timeout=60) == 128 + signal.SIGINT
    finally:
        os.close(reader)
        os.close(writer)
    for path in folder.glob("*.pt"):
        load_checkpoint(path)
    done = shell.run("train.py", "--init_from=resume", "--max_iters=40", f"--out_dir={folder}")
    assert done.status == 0, done.stderr
    assert same_weights(folder / LATEST, stopped / "straight" / LATEST)


def test_a_checkpoint_of_the_first_version_goes_on_as_well(shell, stopped, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(stopped / "stopped", folder)
    state = load_checkpoint(folder / LATEST)
    newer = ("format", "text", "skipped", "skipped_in_a_row")
    save_checkpoint(
        folder / LATEST, {key: value for key, value in state.items() if key not in newer}
    )
    done = shell.run("train.py", "--init_from=resume", "--max_iters=40", f"--out_dir={folder}")
    assert done.status == 0, done.stderr
    assert same_weights(folder / LATEST, stopped / "straight" / LATEST)


def test_a_run_saves_by_the_clock_as_well(shell, text, tmp_path):
    words = (
        text,
        TINY,
        "--max_iters=100000",
        "--eval_interval=100000",
        "--checkpoint_minutes=0.003",
    )
    with shell.start(
        "train.py", *words, f"--out_dir={tmp_path}", stderr=subprocess.DEVNULL
    ) as process:
        seen = set()
        while len(seen - {0}) < 3:
            assert process.poll() is None
            if (tmp_path / EARLIER).exists():
                seen.add(
                    load_latest(str(tmp_path))[0]["iter_num"]
                )  # for a moment there is no last.pt
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        process.communicate()
    assert max(seen) < 100000  # no evaluation but the one at the beginning


def test_a_second_run_into_the_same_folder_is_refused_while_the_first_lives(shell, text, tmp_path):
    words = (text, TINY, "--max_iters=100000", f"--out_dir={tmp_path}")
    with shell.start("train.py", *words, stderr=subprocess.DEVNULL) as process:
        while not (tmp_path / "last.pt").exists():
            assert process.poll() is None
            time.sleep(0.05)
        for again in (words, ("--init_from=resume", f"--out_dir={tmp_path}")):
            done = shell.run("train.py", *again)
            assert done.status == 2 and done.stdout == ""
            assert "another run is writing" in done.stderr and len(done.stderr.splitlines()) == 1
        assert (
            shell.run("sample.py", f"--out_dir={tmp_path}", "--max_new_tokens=5").status == 0
        )  # reading disturbs nobody
        process.kill()
        process.communicate()
    assert (
        shell.run("train.py", "--init_from=resume", f"--out_dir={tmp_path}", "--max_iters=0").status
        == 0
    )


def test_another_text_is_not_taken_for_the_one_of_the_run(shell, stopped, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(stopped / "stopped", folder)
    (tmp_path / "other.txt").write_text("".join(reversed(SENTENCES)) * 5)
    done = shell.run(
        "train.py",
        tmp_path / "other.txt",
        "--init_from=resume",
        "--max_iters=40",
        f"--out_dir={folder}",
    )
    assert done.status == 2
    error = done.stderr.splitlines()[-1]
    assert "is not the text" in error and f"--init_from={folder}" in error
    assert metrics(folder) == metrics(stopped / "stopped")


# --- a full disk


def test_on_a_full_disk_a_run_goes_on_if_told_so_and_saves_when_there_is_room(
    shell, text, tmp_path
):
    words = (
        text,
        TINY,
        "--max_iters=30",
        "--eval_interval=10",
        "--log_interval=1",
        f"--out_dir={tmp_path}",
    )
    assert shell.run("train.py", *words, "--max_iters=10").status == 0
    before = (tmp_path / LATEST).read_bytes()
    on = ("--init_from=resume", f"--out_dir={tmp_path}", "--on_write_error=continue")
    done = shell.run("train.py", *on, "--max_iters=25", largest_file=20_000)
    assert (tmp_path / LATEST).read_bytes() == before
    failures = [line for line in done.stderr.splitlines() if "could not be written" in line]
    assert all("training goes on" in line for line in failures[:-1]) and len(failures) > 2
    # when there is no later try, the run has failed
    assert done.status == 1 and "Traceback" not in done.stderr and "goes on" not in failures[-1]
    done = shell.run("train.py", *on, "--max_iters=30")
    assert done.status == 0
    assert load_checkpoint(tmp_path / LATEST)["iter_num"] == 30
    assert [line["step"] for line in metrics(tmp_path)] == list(range(31))


@pytest.fixture
def small_drive(tmp_path):
    """A disk of a megabyte and a half."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    folder = tmp_path / "drive"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", folder], capture_output=True
    ).returncode:
        pytest.skip("this machine lets nobody mount")
    yield folder
    subprocess.run(["umount", folder], check=True)


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
    assert process.returncode == 1 and b"Traceback" not in stderr
    assert str(folder).encode() in stderr.splitlines()[-1]
    kept = {path.name: load_checkpoint(path)["iter_num"] for path in folder.glob("*.pt")}
    assert kept[LATEST] >= 50 and list(folder.glob(".*.tmp")) == []

    resume = ("--init_from=resume", f"--out_dir={folder}", f"--max_iters={kept[LATEST] + 50}")
    refused = shell.run("train.py", *resume)
    assert refused.status == 2 and "no space" in refused.stderr.splitlines()[-1]
    (small_drive / "ballast").unlink()
    assert shell.run("train.py", *resume).status == 0
    assert [line["step"] for line in metrics(folder)] == list(range(0, kept[LATEST] + 51, 10))


def test_a_disk_that_is_read_only_is_said_before_anything_is_done(shell, text, small_drive):
    subprocess.run(["mount", "-o", "remount,ro", small_drive], check=True)
    done = shell.run("train.py", text, TINY, f"--out_dir={small_drive / 'run'}")
    assert done.status == 2 and len(done.stderr.splitlines()) == 1
    assert "Read-only file system" in done.stderr and "--out_dir=" in done.stderr


# --- numbers that are not finite

# Runs train.py with a loss that is not finite in the steps that its first argument lists.
SPIKED = """
import sys
sys.path.insert(0, ".")
import model, torch, train
from kqv.errors import run_script
spikes, calls = [int(word) for word in sys.argv.pop(1).split(",")], iter(range(10**9))
real = model.cross_entropy

def cross_entropy(logits, targets):
    loss = real(logits, targets)
    return loss * float("nan") if torch.is_grad_enabled() and next(calls) in spikes else loss

model.cross_entropy = cross_entropy
run_script(train.main)
"""


@pytest.fixture(scope="module")
def spiked(shell):
    (shell.folder / "spiked.py").write_text(SPIKED)
    return lambda spikes, *words: shell.run("spiked.py", ",".join(map(str, spikes)), *words)


def test_a_spike_costs_one_step_and_is_told(spiked, text, tmp_path):
    done = spiked([12], text, TINY, "--max_iters=30", "--log_interval=1", f"--out_dir={tmp_path}")
    assert done.status == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if "not finite" in line] == [
        "step 13: the loss is not finite, so the update is skipped"
    ]
    lines = metrics(tmp_path)
    assert [line["step"] for line in lines if "train_loss" not in line] == [0, 13]
    assert all(line["skipped"] == 1 for line in lines[13:]) and not any(
        "skipped" in line for line in lines[:13]
    )
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert lines[-1]["train_loss"] < lines[1]["train_loss"]
    assert all(
        weights.isfinite().all() for weights in load_checkpoint(tmp_path / LATEST)["model"].values()
    )


def test_nine_spikes_in_a_row_are_survived_and_ten_end_the_run_with_what_was_good(
    spiked, shell, text, tmp_path
):
    words = (
        text,
        TINY,
        "--max_iters=40",
        "--eval_interval=5",
        "--checkpoint_minutes=0.000001",
        f"--out_dir={tmp_path}",
    )
    assert spiked(range(12, 21), *words).status == 0
    done = spiked(range(12, 22), *words)
    assert done.status == 1 and "Traceback" not in done.stderr
    error = done.stderr.splitlines()[-1]
    assert "diverged" in error and str(tmp_path / LATEST) in error and "--learning_rate=" in error
    state = load_checkpoint(tmp_path / LATEST)
    assert state["iter_num"] == 12 and state["skipped"] == 0
    assert metrics(tmp_path)[-1]["skipped"] == 10
    assert shell.run("train.py", "--init_from=resume", f"--out_dir={tmp_path}").status == 0


def test_a_run_with_spikes_that_is_stopped_among_them_ends_as_the_undisturbed_one(
    spiked, text, tmp_path
):
    spikes = [5, 6, 7, 20]
    words = (text, TINY, "--max_iters=30", "--lr_decay_iters=30", "--log_interval=1")
    assert spiked(spikes, *words, f"--out_dir={tmp_path / 'straight'}").status == 0
    assert spiked(spikes, *words, "--max_iters=7", f"--out_dir={tmp_path / 'pieces'}").status == 0
    # max_iters=7 ended in the middle of spikes, where nothing good could be kept: it goes on from before them
    first = load_checkpoint(tmp_path / "pieces" / LATEST)["iter_num"]
    rest = [step - first for step in spikes if step >= first]
    done = spiked(rest, "--init_from=resume", "--max_iters=30", f"--out_dir={tmp_path / 'pieces'}")
    assert done.status == 0, done.stderr
    assert same_weights(tmp_path / "pieces" / LATEST, tmp_path / "straight" / LATEST)


def test_rates_that_ruin_a_model_end_in_one_line(shell, text, tmp_path):
    rates = (
        "--learning_rate=1",
        "--muon_learning_rate=1",
        "--weight_decay=1e6",
        "--decay_lr=False",
        "--warmup_iters=0",
    )
    done = shell.run("train.py", text, TINY, "--max_iters=200", *rates, f"--out_dir={tmp_path}")
    assert done.status == 1 and "Traceback" not in done.stderr
    assert "diverged" in done.stderr.splitlines()[-1]
    load_checkpoint(tmp_path / LATEST)


# --- memory


def test_memory_and_open_files_stay_flat(shell, text, tmp_path):
    words = (
        text,
        TINY,
        "--max_iters=1000000",
        "--eval_interval=50",
        "--log_interval=10",
        f"--out_dir={tmp_path}",
    )
    with shell.start("train.py", *words, stderr=subprocess.DEVNULL) as process:
        used = []
        for target in (500, 1500):
            while not ((tmp_path / "metrics.jsonl").exists() and steps_done(tmp_path) >= target):
                assert process.poll() is None
                time.sleep(0.02)
            used.append(usage(process.pid))
    (memory, files), (later_memory, later_files) = used
    assert (
        later_memory < memory + 8_000 and abs(later_files - files) <= 3
    )  # a checkpoint may be open at the moment


def usage(pid):
    """Resident kilobytes and open files of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]), len(os.listdir(f"/proc/{pid}/fd"))
