"""What a user of torchrun can rely on: whatever the number of processes, and whatever happens to them, it is the same run."""

import hashlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from helpers.shell import TINY, metrics, same_weights, torchrun, untimed

from kqv.checkpoints.loading import load_checkpoint
from kqv.run_files import BEST, EARLIER, LATEST

# float32 and a calm rate, for then sums in another order make little difference; rows that do not divide by 3; both norms, and
# a tied head.
OPTIONS = (
    TINY, "--dtype=float32", "--norm=layernorm", "--bias=True", "--tie_weights=True", "--learning_rate=2e-3", "--n_layer=2",
    "--n_embd=20", "--max_iters=30", "--batch_size=12", "--eval_interval=10", "--eval_iters=3", "--log_interval=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def alone(shell, text, tmp_path_factory):
    """The folder of a run of one process."""
    folder = tmp_path_factory.mktemp("alone")
    done = shell.run("train.py", text, *OPTIONS, f"--out_dir={folder}")
    assert done.status == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def sharded(shell, text, tmp_path_factory):
    """The folder of the same run, sharded over two processes."""
    folder = tmp_path_factory.mktemp("sharded")
    done = shell.run(
        "train.py", text, *OPTIONS, "--fsdp=True", f"--out_dir={folder}", python=torchrun(2)
    )
    assert done.status == 0, done.stderr
    return folder


IN_PARTS = (
    "--batch_size=4",
    "--gradient_accumulation_steps=3",
)  # the same windows of a step in several micro-batches


@pytest.mark.parametrize(
    "processes, more",
    [(2, ()), (3, ("--fsdp=True",)), (4, ()), (2, IN_PARTS), (2, ("--fsdp=True", *IN_PARTS))],
)
def test_so_many_processes_read_the_same_batches_and_have_the_same_losses(
    shell, text, alone, tmp_path, processes, more
):
    done = shell.run(
        "train.py",
        text,
        *OPTIONS,
        *more,
        f"--out_dir={tmp_path / 'run'}",
        python=torchrun(processes),
    )
    assert done.status == 0, done.stderr
    one, other = metrics(alone), metrics(tmp_path / "run")
    assert [line["step"] for line in one] == [line["step"] for line in other] == list(range(31))
    for key in ("train_loss", "val_loss_full", *([] if more[-2:] == IN_PARTS else ["val_loss"])):
        assert [line.get(key) for line in one] == pytest.approx(
            [line.get(key) for line in other], abs=1e-4
        ), key
    assert done.stdout.count("validation loss") == 1  # one process speaks
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == sorted(
        path.name for path in alone.iterdir()
    )


def test_two_machines_train_one_model_and_share_no_disk(shell, text, alone, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = ("--master_addr=127.0.0.1", f"--master_port={port}")
    nodes = ("-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1", *address)
    words = (text, *OPTIONS, "--max_iters=12")
    with (
        shell.start(
            "train.py", *words, f"--out_dir={tmp_path / '0'}", python=(*nodes, "--node_rank=0")
        ) as first,
        shell.start(
            "train.py", *words, f"--out_dir={tmp_path / '1'}", python=(*nodes, "--node_rank=1")
        ) as second,
    ):
        said, silence = first.communicate(), second.communicate()
    assert first.returncode == second.returncode == 0, said[1] + silence[1]
    words = [
        line for line in silence[0].splitlines() if not line.startswith(b"[Gloo]")
    ]  # torch 2.10 speaks itself
    assert b"validation loss" in said[0] and not words and not (tmp_path / "1").exists()
    one, other = (
        [line["train_loss"] for line in metrics(folder)[1:7]] for folder in (alone, tmp_path / "0")
    )
    assert one == pytest.approx(other, abs=1e-4)


def test_a_run_with_dropout_is_repeatable(shell, text, tmp_path):
    words = (text, *OPTIONS, "--dropout=0.2", "--max_iters=5", "--gradient_accumulation_steps=2")
    for name in ("one", "other"):
        assert (
            shell.run("train.py", *words, f"--out_dir={tmp_path / name}", python=torchrun(2)).status
            == 0
        )
    assert same_weights(tmp_path / "one" / LATEST, tmp_path / "other" / LATEST)


def test_dropout_differs_between_processes(shell, tmp_path):
    """All windows are the same, so only by what they drop do two processes learn other than one of them alone."""
    (tmp_path / "a.txt").write_text("a" * 2000)
    words = (
        tmp_path / "a.txt",
        TINY,
        "--tokenizer=bytes",
        "--dtype=float32",
        "--dropout=0.5",
        "--log_interval=1",
    )
    losses = []
    for processes, python in ((1, ()), (2, torchrun(2))):
        folder = tmp_path / str(processes)
        done = shell.run(
            "train.py", *words, f"--batch_size={processes}", f"--out_dir={folder}", python=python
        )
        assert done.status == 0, done.stderr
        losses.append([line["train_loss"] for line in metrics(folder)[1:]])
    one, two = losses
    assert one[0] == pytest.approx(two[0], abs=1e-5)  # nothing has been learnt yet
    assert max(abs(a - b) for a, b in zip(one, two, strict=True)) > 1e-3


def test_a_sharded_run_tells_the_same_of_its_layers_as_one_process(shell, text, tmp_path):
    words = (
        text,
        *OPTIONS,
        "--max_iters=4",
        "--eval_interval=2",
        "--dtype=bfloat16",
        "--inner_figures=True",
        "--sample_chars=9",
    )
    for name, more, python in (("one", (), ()), ("two", ("--fsdp=True",), torchrun(2))):
        done = shell.run("train.py", *words, *more, f"--out_dir={tmp_path / name}", python=python)
        assert done.status == 0, done.stderr
    one, two = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    assert [line.keys() for line in one] == [line.keys() for line in two]
    layered = [name for name, value in one[0].items() if isinstance(value, list)]
    assert layered
    for name in layered:  # before the first step
        assert one[0][name] == pytest.approx(two[0][name], rel=1e-5), name


# --- sharded checkpoints


def test_a_sharded_checkpoint_is_used_as_any_other(shell, text, alone, sharded):
    assert (sharded / LATEST / "state.json").exists()
    words = ("--max_new_tokens=40", "--dtype=float32")
    one, other = (
        shell.run("sample.py", f"--out_dir={folder}", *words) for folder in (alone, sharded)
    )
    assert one.status == 0 and one == other
    words = (text, f"--init_from={sharded}", "--eval_only=True", "--fsdp=True", "--dtype=float32")
    done = shell.run("train.py", *words, python=torchrun(2))
    assert done.status == 0 and f"{metrics(alone)[-1]['val_loss_full']:.4f}" in done.stdout


def test_a_sharded_run_goes_on_in_another_number_of_processes(shell, sharded, tmp_path):
    lines = {}
    for processes in (1, 3):
        folder = tmp_path / str(processes)
        shutil.copytree(sharded, folder)
        python = torchrun(processes) if processes > 1 else ()
        done = shell.run(
            "train.py", "--init_from=resume", "--max_iters=40", f"--out_dir={folder}", python=python
        )
        assert done.status == 0, done.stderr
        lines[processes] = [line["train_loss"] for line in metrics(folder)[1:]]
    assert lines[1] == pytest.approx(lines[3], abs=1e-4) and len(lines[1]) == 40


def test_export_makes_one_file_of_a_sharded_checkpoint_and_a_run_goes_on_from_it(
    shell, sharded, tmp_path
):
    done = shell.run(
        "export.py",
        f"--out_dir={sharded / LATEST}",
        "--format=checkpoint",
        f"--to={tmp_path / 'whole' / LATEST}",
    )
    assert done.status == 0, done.stderr
    assert (tmp_path / "whole" / LATEST).is_file()
    state, parts = load_checkpoint(tmp_path / "whole" / LATEST), load_checkpoint(sharded / LATEST)
    assert state.keys() == parts.keys() and same_weights(
        tmp_path / "whole" / LATEST, sharded / LATEST
    )
    shutil.copytree(sharded, tmp_path / "sharded")
    for folder, fsdp in (("whole", False), ("sharded", True)):
        words = (
            "--init_from=resume",
            "--max_iters=35",
            f"--fsdp={fsdp}",
            f"--out_dir={tmp_path / folder}",
        )
        assert shell.run("train.py", *words).status == 0
    one, other = (
        metrics(tmp_path / folder)[-1]["val_loss_full"] for folder in ("whole", "sharded")
    )
    assert one == pytest.approx(other, abs=1e-5)


@pytest.mark.parametrize("damage", ["a flipped bit", "a shard gone", "no state"])
def test_a_damaged_sharded_checkpoint_is_passed_over_for_the_one_before(
    shell, sharded, tmp_path, damage
):
    folder = tmp_path / "run"
    shutil.copytree(sharded, folder)
    shard = next((folder / LATEST).glob("*.safetensors"))
    if damage == "a flipped bit":
        data = bytearray(shard.read_bytes())
        data[-9] ^= 4
        shard.write_bytes(data)
    else:
        (shard if damage == "a shard gone" else folder / LATEST / "state.json").unlink()
    done = shell.run("train.py", "--init_from=resume", f"--out_dir={folder}")
    assert done.status == 0 and "Traceback" not in done.stderr
    assert str(folder / LATEST) in done.stderr and f"{folder / EARLIER}" in done.stderr
    assert load_checkpoint(folder / LATEST)["iter_num"] == 30
    again, before = ([line.get("train_loss") for line in metrics(run)] for run in (folder, sharded))
    assert again == pytest.approx(before, abs=1e-4)  # of two processes then, of one now


def test_a_sharded_checkpoint_with_a_flipped_bit_or_a_claim_to_more_than_it_holds_is_refused(
    sharded, tmp_path, refused
):
    folder = tmp_path / "last.pt"
    shutil.copytree(sharded / LATEST, folder)
    sealed = (folder / "state.json").read_bytes()
    for place in range(0, len(sealed), 37):
        (folder / "state.json").write_bytes(
            sealed[:place] + bytes([sealed[place] ^ 1]) + sealed[place + 1 :]
        )
        with refused(str(folder), "damaged"):
            load_checkpoint(folder)

    state = json.loads(json.loads(sealed)["state"])
    for wrong in ({"weights": [10**12]}, {"weights": "many"}, {"model_args": 3}):
        text = json.dumps(state | wrong)
        (folder / "state.json").write_text(
            json.dumps({"sha256": hashlib.sha256(text.encode()).hexdigest(), "state": text})
        )
        with refused(str(folder), "damaged"):
            load_checkpoint(folder)

    shard = next(folder.glob("*.safetensors"))
    data = shard.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    places = json.loads(header["__metadata__"]["DCP_SHARDING_INFO"])
    places["model.embedding.weight"]["saved_offsets"][0] = 10**12
    header["__metadata__"]["DCP_SHARDING_INFO"] = json.dumps(places)
    shard.write_bytes(
        len(json.dumps(header)).to_bytes(8, "little")
        + json.dumps(header).encode()
        + data[8 + length :]
    )
    state["files"][shard.name] = hashlib.sha256(shard.read_bytes()).hexdigest()
    text = json.dumps(state)
    (folder / "state.json").write_text(
        json.dumps({"sha256": hashlib.sha256(text.encode()).hexdigest(), "state": text})
    )
    with refused(str(folder), "damaged"):
        load_checkpoint(folder)


# --- when a process ends


def ranks(folder, count):
    """The processes of a run by rank: those that torchrun started with this folder."""
    found, until = {}, time.monotonic() + 60
    while len(found) < count:
        assert time.monotonic() < until, f"there are ranks {sorted(found)} only of {count}"
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                command, environment = (
                    Path("/proc", pid, name).read_bytes() for name in ("cmdline", "environ")
                )
            except OSError:
                continue
            if f"--out_dir={folder}\0".encode() in command and (
                rank := re.search(rb"(?:^|\0)RANK=(\d+)\0", environment)
            ):
                found[int(rank[1])] = int(pid)
    return found


def wait_for_step(folder, step):
    """Wait until a run has done a step."""
    until = time.monotonic() + 60
    while (
        not (folder / "metrics.jsonl").exists()
        or f'"step": {step},' not in (folder / "metrics.jsonl").read_text()
    ):
        assert time.monotonic() < until
        time.sleep(0.002)


LONG = (
    *OPTIONS,
    "--max_iters=120",
    "--checkpoint_minutes=0.000001",
)  # a checkpoint after each step


@pytest.mark.parametrize("fsdp, share", [(False, 3), (True, 6)])
def test_processes_that_are_killed_are_started_anew_for_the_very_same_run(
    shell, text, tmp_path, request, fsdp, share
):
    kills = max(1, request.config.getoption("--kills") // share)
    words = (text, *LONG, f"--max_iters={20 * kills + 40}", f"--fsdp={fsdp}")
    done = shell.run("train.py", *words, f"--out_dir={tmp_path / 'straight'}", python=torchrun(2))
    assert done.status == 0, done.stderr
    folder, chance, again = (
        tmp_path / "killed",
        random.Random(fsdp),
        torchrun(2, f"--max-restarts={kills}"),
    )
    with shell.start(
        "train.py", *words, f"--out_dir={folder}", stderr=subprocess.DEVNULL, python=again
    ) as process:
        for kill in range(kills):
            wait_for_step(folder, 20 * kill + chance.randrange(2, 20))
            time.sleep(chance.uniform(0, 0.01))
            os.kill(ranks(folder, 2)[chance.randrange(2)], signal.SIGKILL)
        stdout, _ = process.communicate()
    assert process.returncode == 0 and b"validation loss" in stdout
    assert untimed(metrics(folder)) == untimed(metrics(tmp_path / "straight"))
    for name in (BEST, LATEST):
        assert same_weights(folder / name, tmp_path / "straight" / name)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_dies_ends_the_run_in_seconds_with_one_message_and_a_whole_checkpoint(
    shell, text, tmp_path, rank
):
    words = (text, *LONG, "--max_iters=100000", f"--out_dir={tmp_path}")
    with shell.start("train.py", *words, python=torchrun(2), stderr=subprocess.PIPE) as process:
        os.set_blocking(process.stderr.fileno(), True)
        said = b""
        while b"step 20/" not in said:
            said += (line := process.stderr.readline())
            assert line, f"the run ended before step 20:\n{said.decode()}"
        began = time.monotonic()
        os.kill(ranks(tmp_path, 2)[rank], signal.SIGKILL)
        said += process.stderr.read()
        assert (
            process.wait() == 1 and time.monotonic() - began < 60
        )  # gloo itself waits half an hour
    lines = [line for line in said.decode().splitlines() if line.startswith("train.py: ")]
    assert len(lines) == 1 and "another process" in lines[0] and "--init_from=resume" in lines[0]
    kept = load_checkpoint(tmp_path / LATEST)["iter_num"]
    assert kept >= 19
    done = shell.run(
        "train.py", "--init_from=resume", f"--max_iters={kept + 3}", f"--out_dir={tmp_path}"
    )
    assert done.status == 0
    assert [line["step"] for line in metrics(tmp_path)] == list(range(kept + 4))


def test_when_torchrun_is_told_to_stop_all_stop_after_the_same_step_and_keep_it(
    shell, text, tmp_path
):
    words = (text, *OPTIONS, "--max_iters=100000", f"--out_dir={tmp_path}")
    with shell.start("train.py", *words, python=torchrun(2)) as process:
        while not (line := process.stderr.readline()).startswith(b"step 20/"):
            assert line, "the run ended before step 20"
        process.send_signal(signal.SIGTERM)
        stdout, _ = process.communicate()
    step = int(re.search(rb"stopped after step (\d+)", stdout)[1])
    assert load_checkpoint(tmp_path / LATEST)["iter_num"] == step == metrics(tmp_path)[-1]["step"]
    assert b"torch.distributed.run --standalone --nproc_per_node=2" in stdout


@pytest.mark.parametrize(
    "words, part",
    [(["--n_embd=7"], "n_head"), (["missing.txt"], "missing.txt"), (["--batch_size=1"], "--batch_size=2"),
     (["--backend=nccl"], "--backend=gloo"), (["--init_from=resume"], "no checkpoint")],
)  # fmt: skip
def test_a_mistake_is_told_once_and_leaves_nothing(shell, text, tmp_path, words, part):
    out_dir = tmp_path / "run"
    first = [] if "missing.txt" in words else [text]
    done = shell.run(
        "train.py", *first, *OPTIONS, *words, f"--out_dir={out_dir}", python=torchrun(2)
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("train.py: ")]
    assert done.status == 1 and len(lines) == 1 and part in lines[0]
    assert not out_dir.exists()
