"""Under torchrun a run is the same whatever the world size, and whatever happens to its ranks."""

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

pytestmark = pytest.mark.slow

# float32 and a low rate, so that the order of summation makes little difference; a width that three
# ranks do not divide; biases and a tied head.
OPTIONS = (
    TINY, "--dtype=float32", "--norm=layernorm", "--bias=True", "--tie_weights=True",
    "--learning_rate=2e-3", "--n_layer=2", "--n_embd=20", "--max_iters=30", "--batch_size=12",
    "--eval_interval=10", "--eval_iters=3", "--log_interval=1",
)  # fmt: skip
# The same global batch in micro-batches.
ACCUMULATED = ("--batch_size=4", "--gradient_accumulation_steps=3")


def names_in(folder):
    return {path.name for path in folder.iterdir()}


@pytest.fixture(scope="module")
def alone(shell, text, tmp_path_factory):
    """The folder of a run of one rank."""
    folder = tmp_path_factory.mktemp("alone")
    shell.succeed("train.py", text, *OPTIONS, f"--out_dir={folder}")
    return folder


@pytest.fixture(scope="module")
def sharded(shell, text, tmp_path_factory):
    """The folder of the same run, sharded over two ranks."""
    folder = tmp_path_factory.mktemp("sharded")
    shell.succeed(
        "train.py", text, *OPTIONS, "--fsdp=True", f"--out_dir={folder}", python=torchrun(2)
    )
    return folder


@pytest.mark.parametrize(
    ("world_size", "fsdp", "accumulated"),
    [(3, True, False), (4, False, False), (2, False, True), (2, True, True)],
)
def test_several_ranks_read_the_same_batches_and_have_the_same_losses(
    shell, text, alone, tmp_path, world_size, fsdp, accumulated
):
    words = (text, *OPTIONS, f"--fsdp={fsdp}", *(ACCUMULATED if accumulated else ()))
    out_dir = f"--out_dir={tmp_path / 'run'}"
    done = shell.succeed("train.py", *words, out_dir, python=torchrun(world_size))
    one, several = metrics(alone), metrics(tmp_path / "run")
    assert [line["step"] for line in one] == [line["step"] for line in several] == list(range(31))
    keys = ["train_loss", "val_loss_full"]
    if not accumulated:  # the estimate's windows depend on the batch size
        keys.append("val_loss")
    for key in keys:
        losses = [line.get(key) for line in several]
        assert losses == pytest.approx([line.get(key) for line in one], abs=1e-4), key
    assert done.stdout.count("validation loss") == 1  # rank 0 prints
    assert names_in(tmp_path / "run") == names_in(alone)


def test_two_machines_train_one_model_without_a_shared_disk(shell, text, alone, tmp_path):
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
    assert b"validation loss" in said[0]
    # torch 2.10 itself prints lines of Gloo
    assert not [line for line in silence[0].splitlines() if not line.startswith(b"[Gloo]")]
    assert not (tmp_path / "1").exists()
    folders = (alone, tmp_path / "0")
    one, two = ([line["train_loss"] for line in metrics(folder)[1:7]] for folder in folders)
    assert one == pytest.approx(two, abs=1e-4)


def test_dropout_differs_between_ranks(shell, tmp_path):
    """All windows are the same, so two ranks can differ from one rank by their dropout only."""
    (tmp_path / "a.txt").write_text("a" * 2000)
    options = ("--tokenizer=bytes", "--dtype=float32", "--dropout=0.5", "--log_interval=1")
    words = (tmp_path / "a.txt", TINY, *options)
    losses = []
    for world_size, python in ((1, ()), (2, torchrun(2))):
        folder = tmp_path / str(world_size)
        shell.succeed(
            "train.py", *words, f"--batch_size={world_size}", f"--out_dir={folder}", python=python
        )
        losses.append([line["train_loss"] for line in metrics(folder)[1:]])
    one, two = losses
    assert one[0] == pytest.approx(
        two[0], abs=1e-5
    )  # an untrained model predicts the same whatever is dropped
    assert max(abs(a - b) for a, b in zip(one, two, strict=True)) > 1e-3


def test_a_sharded_run_measures_the_same_figures_of_its_layers_as_one_rank(shell, text, tmp_path):
    looks = ("--eval_interval=2", "--inner_figures=True", "--sample_chars=9")
    words = (text, *OPTIONS, *looks, "--max_iters=4", "--dtype=bfloat16")
    for name, more, python in (("one", (), ()), ("two", ("--fsdp=True",), torchrun(2))):
        shell.succeed("train.py", *words, *more, f"--out_dir={tmp_path / name}", python=python)
    one, two = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    assert [line.keys() for line in one] == [line.keys() for line in two]
    before, before_of_two = one[0], two[0]  # the first step
    layered = [name for name, value in before.items() if isinstance(value, list)]
    assert layered
    for name in layered:
        assert before[name] == pytest.approx(before_of_two[name], rel=1e-5), name


# --- sharded checkpoints


def test_a_sharded_checkpoint_is_used_as_any_other(shell, text, alone, sharded):
    assert (sharded / LATEST / "state.json").exists()
    words = ("--max_new_tokens=40", "--dtype=float32")
    one, other = (
        shell.run("sample.py", f"--out_dir={folder}", *words) for folder in (alone, sharded)
    )
    assert one.status == 0
    assert one == other
    words = (text, f"--init_from={sharded}", "--eval_only=True", "--fsdp=True", "--dtype=float32")
    done = shell.succeed("train.py", *words, python=torchrun(2))
    assert f"{metrics(alone)[-1]['val_loss_full']:.4f}" in done.stdout


def test_a_sharded_run_is_resumed_with_another_world_size(shell, sharded, tmp_path):
    lines = {}
    for world_size in (1, 3):
        folder = tmp_path / str(world_size)
        shutil.copytree(sharded, folder)
        python = torchrun(world_size) if world_size > 1 else ()
        shell.succeed(
            "train.py", "--init_from=resume", "--max_iters=40", f"--out_dir={folder}", python=python
        )
        lines[world_size] = [line["train_loss"] for line in metrics(folder)[1:]]
    assert len(lines[1]) == 40
    assert lines[1] == pytest.approx(lines[3], abs=1e-4)


def test_export_makes_one_file_of_a_sharded_checkpoint_and_a_run_is_resumed_from_it(
    shell, sharded, tmp_path
):
    shell.succeed(
        "export.py",
        f"--out_dir={sharded / LATEST}",
        "--format=checkpoint",
        f"--to={tmp_path / 'whole' / LATEST}",
    )
    whole = tmp_path / "whole" / LATEST
    assert whole.is_file()
    assert load_checkpoint(whole).keys() == load_checkpoint(sharded / LATEST).keys()
    assert same_weights(whole, sharded / LATEST)
    shutil.copytree(sharded, tmp_path / "sharded")
    for folder, fsdp in (("whole", False), ("sharded", True)):
        resume = ("--init_from=resume", f"--out_dir={tmp_path / folder}", "--max_iters=35")
        shell.succeed("train.py", *resume, f"--fsdp={fsdp}")
    one, other = (
        metrics(tmp_path / folder)[-1]["val_loss_full"] for folder in ("whole", "sharded")
    )
    assert one == pytest.approx(other, abs=1e-5)


@pytest.mark.parametrize("damage", ["a flipped bit", "a shard gone", "no state"])
def test_a_run_whose_sharded_checkpoint_is_damaged_resumes_from_the_one_before(
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
    done = shell.succeed("train.py", "--init_from=resume", f"--out_dir={folder}")
    assert "Traceback" not in done.stderr
    assert str(folder / LATEST) in done.stderr
    assert str(folder / EARLIER) in done.stderr
    assert load_checkpoint(folder / LATEST)["iter_num"] == 30
    again, before = ([line.get("train_loss") for line in metrics(run)] for run in (folder, sharded))
    assert again == pytest.approx(before, abs=1e-4)  # of two ranks then, of one now


def write_sealed(path, state):
    """Write a state.json with its checksum."""
    digest = hashlib.sha256(state.encode()).hexdigest()
    path.write_text(json.dumps({"sha256": digest, "state": state}))


def test_a_sharded_checkpoint_that_was_changed_or_claims_more_than_it_holds_is_refused(
    sharded, tmp_path, refused
):
    folder = tmp_path / "last.pt"
    shutil.copytree(sharded / LATEST, folder)
    sealed = (folder / "state.json").read_bytes()
    for place in range(0, len(sealed), 37):
        flipped = bytes([sealed[place] ^ 1])
        (folder / "state.json").write_bytes(sealed[:place] + flipped + sealed[place + 1 :])
        with refused(str(folder), "damaged"):
            load_checkpoint(folder)

    state = json.loads(json.loads(sealed)["state"])
    for wrong in ({"weights": [10**12]}, {"weights": "many"}, {"model_args": 3}):
        text = json.dumps(state | wrong)
        write_sealed(folder / "state.json", text)
        with refused(str(folder), "damaged"):
            load_checkpoint(folder)

    shard = next(folder.glob("*.safetensors"))
    data = shard.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    places = json.loads(header["__metadata__"]["DCP_SHARDING_INFO"])
    places["model.embedding.weight"]["saved_offsets"][0] = 10**12
    header["__metadata__"]["DCP_SHARDING_INFO"] = json.dumps(places)
    changed = json.dumps(header).encode()
    shard.write_bytes(len(changed).to_bytes(8, "little") + changed + data[8 + length :])
    state["files"][shard.name] = hashlib.sha256(shard.read_bytes()).hexdigest()
    text = json.dumps(state)
    write_sealed(folder / "state.json", text)
    with refused(str(folder), "damaged"):
        load_checkpoint(folder)


# --- when a process ends


def process_ids(folder, world_size):
    """The process id of each rank of the run in a folder, once all are there."""
    found, deadline = {}, time.monotonic() + 60
    while len(found) < world_size:
        assert time.monotonic() < deadline, f"only ranks {sorted(found)} of {world_size} are there"
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                command, environment = (
                    Path("/proc", pid, name).read_bytes() for name in ("cmdline", "environ")
                )
            except OSError:
                continue
            rank = re.search(rb"(?:^|\0)RANK=(\d+)\0", environment)
            if rank and f"--out_dir={folder}\0".encode() in command:
                found[int(rank[1])] = int(pid)
    return found


def wait_for_step(folder, step):
    """Wait until a run has done a step."""
    path, deadline = folder / "metrics.jsonl", time.monotonic() + 60
    while not path.exists() or f'"step": {step},' not in path.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.002)


CHECKPOINT_EACH_STEP = "--checkpoint_minutes=0.000001"


@pytest.mark.parametrize(("learned", "fsdp", "share"), [("dates", False, 3), ("text", True, 6)])
def test_ranks_that_are_killed_are_restarted_and_continue_the_same_run(
    shell, tmp_path, request, learned, fsdp, share
):
    kills = max(1, request.config.getoption("--kills") // share)
    options = (CHECKPOINT_EACH_STEP, f"--max_iters={12 * kills + 6}", f"--fsdp={fsdp}")
    options += ("--block_size=40", "--dropout=0.2", "--gradient_accumulation_steps=2")
    words = (request.getfixturevalue(learned), *OPTIONS, *options)
    shell.succeed("train.py", *words, f"--out_dir={tmp_path / 'straight'}", python=torchrun(2))
    folder, chance = tmp_path / "killed", random.Random(fsdp)
    command = ("train.py", *words, f"--out_dir={folder}")
    restarting = torchrun(2, f"--max-restarts={kills}")
    with shell.start(*command, stderr=subprocess.DEVNULL, python=restarting) as process:
        for kill in range(kills):
            wait_for_step(folder, 12 * kill + chance.randrange(2, 12))
            time.sleep(chance.uniform(0, 0.01))
            os.kill(process_ids(folder, 2)[chance.randrange(2)], signal.SIGKILL)
        stdout, _ = process.communicate()
    assert process.returncode == 0
    assert b"validation loss" in stdout
    assert untimed(metrics(folder)) == untimed(metrics(tmp_path / "straight"))
    for name in (BEST, LATEST):
        assert same_weights(folder / name, tmp_path / "straight" / name)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_dies_ends_the_run_in_seconds_with_one_error_and_a_whole_checkpoint(
    shell, text, tmp_path, rank
):
    options = (CHECKPOINT_EACH_STEP, "--max_iters=100000", f"--out_dir={tmp_path}")
    words = (text, *OPTIONS, *options)
    with shell.start("train.py", *words, python=torchrun(2), stderr=subprocess.PIPE) as process:
        os.set_blocking(process.stderr.fileno(), True)
        said = b""
        while b"step 20/" not in said:
            said += (line := process.stderr.readline())
            assert line, f"the run ended before step 20:\n{said.decode()}"
        began = time.monotonic()
        os.kill(process_ids(tmp_path, 2)[rank], signal.SIGKILL)
        said += process.stderr.read()
        assert process.wait() == 1
        assert time.monotonic() - began < 60  # gloo itself waits half an hour
    lines = [line for line in said.decode().splitlines() if line.startswith("train.py: ")]
    assert len(lines) == 1
    assert "another process" in lines[0]
    assert "--init_from=resume" in lines[0]
    saved = load_checkpoint(tmp_path / LATEST)["iter_num"]
    assert saved >= 19
    resume = ("--init_from=resume", f"--max_iters={saved + 3}", f"--out_dir={tmp_path}")
    shell.succeed("train.py", *resume)
    assert [line["step"] for line in metrics(tmp_path)] == list(range(saved + 4))


def test_when_torchrun_is_stopped_all_ranks_stop_after_the_same_step_and_save_it(
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
    ("mistake", "part"),
    [
        ("--n_embd=7", "n_head"),
        ("missing.txt", "missing.txt"),
        ("--batch_size=1", "--batch_size=2"),
        ("--backend=nccl", "--backend=gloo"),
        ("--init_from=resume", "no checkpoint"),
    ],
)
def test_a_mistake_is_reported_once_and_leaves_nothing(shell, text, tmp_path, mistake, part):
    out_dir = tmp_path / "run"
    texts = [] if mistake == "missing.txt" else [text]
    words = (*texts, *OPTIONS, mistake, f"--out_dir={out_dir}")
    done = shell.run("train.py", *words, python=torchrun(2))
    lines = [line for line in done.stderr.splitlines() if line.startswith("train.py: ")]
    assert done.status == 1
    assert len(lines) == 1
    assert part in lines[0]
    assert not out_dir.exists()
