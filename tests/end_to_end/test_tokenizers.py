"""--tokenizer= from a text file to a page, and the traps of nanoGPT's data and command lines."""

import gzip
import json
import re

import numpy as np
import pytest
from helpers.shell import TINY, copy_project, easy_text, metrics

from kqv.checkpoints.loading import load_checkpoint
from kqv.text.registry import load_tokenizer, tokenizer_from_dict

pytestmark = pytest.mark.slow

POEM = easy_text() + "Das Kätzchen schläft. 🐱\n" * 40


@pytest.fixture(scope="module", params=["bytes", "bpe:300"])
def run(request, shell, tmp_path_factory):
    """A tiny model of other tokens than characters: its name, folder and what training said."""
    if request.param.startswith("bpe"):
        pytest.importorskip("rustbpe")
    folder = tmp_path_factory.mktemp("tokens") / "run"
    words = (
        "-",
        TINY,
        f"--tokenizer={request.param}",
        "--max_iters=60",
        "--sample_chars=10",
        f"--out_dir={folder}",
    )
    done = shell.run("train.py", *words, input=POEM)
    assert done.status == 0, done.stderr
    return request.param, folder, done


def test_a_run_tells_its_loss_per_token_and_per_character(run):
    _, folder, done = run
    pattern = r"^validation loss +(\S+) nats per token, (\S+) per character \((\S+) bits\)"
    token, character, bits = map(float, re.search(pattern, done.stdout, re.MULTILINE).groups())
    last = metrics(folder)[-1]
    assert last["val_loss_full"] == pytest.approx(token, abs=1e-4)
    assert last["val_loss_per_character"] == pytest.approx(character, abs=1e-4)
    assert bits == pytest.approx(character / np.log(2), abs=1e-3)


def test_a_checkpoint_has_all_that_sampling_needs(shell, run):
    name, folder, _ = run
    tokenizer = tokenizer_from_dict(load_checkpoint(folder / "ckpt.pt")["tokenizer"])
    assert tokenizer.name == name and tokenizer.vocab_size == {"bytes": 256, "bpe:300": 300}[name]
    done = shell.run(
        "sample.py", f"--out_dir={folder}", "--start=Das é 😀", "--max_new_tokens=40", "--stop=\n"
    )
    assert done.status == 0 and done.stdout.startswith("Das é 😀"), done.stderr
    lines = shell.run(
        "sample.py",
        f"--out_dir={folder}",
        "--max_new_tokens=40",
        "--num_samples=2",
        "--output=jsonl",
    )
    assert lines.status == 0 and len(lines.stdout.splitlines()) == 2, lines.stderr
    for line in map(json.loads, lines.stdout.splitlines()):
        assert (
            "".join(line["tokens"]) == line["text"]
            and len(line["tokens"]) == len(line["log_probabilities"]) == 40
        )


def test_the_inside_is_shown_by_tokens(shell, run):
    name, folder, _ = run
    text = "The red 🐱"
    shown = shell.run("explain.py", f"--out_dir={folder}", f"--text={text}", "--format=text")
    assert shown.status == 0, shown.stderr
    assert "a row for each token" in shown.stdout
    assert ("␣red → " in shown.stdout) == (name == "bpe:300")
    assert (r"\xf0 → " in shown.stdout) or name != "bytes"
    for form in ("html", "json"):
        shell.succeed("explain.py", f"--out_dir={folder}", f"--text={text}", f"--format={form}")
    numbers = json.loads((folder / "explain.json").read_text())
    tokenizer = tokenizer_from_dict(load_checkpoint(folder / "ckpt.pt")["tokenizer"])
    count = len(tokenizer.encode(text))
    assert len(numbers["layers"][0]["weights"][0]) == count
    assert len(numbers["vocabulary"]) == tokenizer.vocab_size


def test_a_run_is_resumed_with_its_own_tokenizer_only(shell, run):
    name, folder, _ = run
    done = shell.run("train.py", "--init_from=resume", f"--out_dir={folder}", "--tokenizer=char")
    assert done.status == 2
    assert done.stderr.endswith(
        f"has tokenizer={name}, which cannot become char: leave it out, or train from scratch\n"
    )
    done = shell.run(
        "train.py",
        "--init_from=resume",
        f"--out_dir={folder}",
        f"--tokenizer={name}",
        "--eval_only=True",
    )
    assert done.status == 0, done.stderr
    done = shell.run(
        "train.py",
        "-",
        f"--init_from={folder}",
        "--eval_only=True",
        input="Ein anderer Text. 山" * 90,
    )
    assert done.status == 0 and "nats per token" in done.stdout, done.stderr


@pytest.mark.parametrize("name", ["char", "bpe:300"])
def test_documents_are_trained_on_each_window_once_an_epoch(shell, tmp_path, name):
    if name.startswith("bpe"):
        pytest.importorskip("rustbpe")
    documents = tmp_path / "documents.jsonl.gz"
    lines = [json.dumps({"body": line}) for line in easy_text().splitlines()]
    documents.write_bytes(gzip.compress("\n".join(lines).encode()))
    words = (
        documents,
        TINY,
        f"--tokenizer={name}",
        "--text_field=body",
        "--order=epoch",
        f"--out_dir={tmp_path / 'run'}",
    )
    done = shell.run("train.py", *words)
    assert done.status == 0, done.stderr
    tokenizer = tokenizer_from_dict(load_checkpoint(tmp_path / "run" / "ckpt.pt")["tokenizer"])
    end = tokenizer.encode("\u0003")[0] if name == "char" else tokenizer.special["<|endoftext|>"]
    cache = shell.folder / "data" / "cache"
    (folder,) = (
        path for path in cache.glob("documents.jsonl-*") if load_tokenizer(path) == tokenizer
    )
    assert sum(
        np.fromfile(folder / f"{part}.bin", np.uint16).tolist().count(end)
        for part in ("train", "val")
    ) == len(lines)
    missing = shell.run("train.py", documents, TINY, f"--out_dir={tmp_path / 'other'}")
    assert missing.status == 2 and len(missing.stderr.splitlines()) == 1
    assert (
        "line 1: there is no text under 'text'; it has body: name one with --text_field="
        in missing.stderr
    )


MISTAKES = {
    "gpt3": ["did you mean gpt2?"],
    "bpe:100": ["257", "bpe:1024"],
    "gpt2": ["https://", "vocab.bpe as", "TIKTOKEN_CACHE_DIR="],
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_tokenizer_that_is_not_available_is_one_line(shell, text, tmp_path, name, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "cache"))
    done = shell.run("train.py", text, TINY, f"--tokenizer={name}", f"--out_dir={tmp_path / 'run'}")
    assert done.status == 2 and "Traceback" not in done.stderr
    for part in ["train.py: ", f"tokenizer={name}", *MISTAKES[name]]:
        assert part in done.stderr.splitlines()[-1]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["char", "bytes"])
def test_characters_and_bytes_do_not_wait_for_tiktoken(shell, text, tmp_path, name):
    words = (text, TINY, f"--tokenizer={name}", "--max_iters=1", f"--out_dir={tmp_path}")
    done = shell.run("train.py", *words, python=("-X", "importtime"))
    assert done.status == 0
    imported = {line.split("|")[-1].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "torch" in imported and not imported & {
        "tiktoken",
        "rustbpe",
        "wandb",
        "tensorboard",
        "requests",
    }


# --- nanoGPT's data folders, configs and command lines --------------------------------------------


def test_a_folder_of_gpt2s_ids_asks_for_gpt2s_files_where_they_are_missing(
    shell, tmp_path, monkeypatch
):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    folder = shell.folder / "data" / "gpt2_ids"
    folder.mkdir()
    for name in ("train.bin", "val.bin"):
        np.arange(500, dtype=np.uint16).tofile(folder / name)
    done = shell.run("train.py", TINY, "--dataset=gpt2_ids", f"--out_dir={tmp_path / 'run'}")
    assert done.status == 2 and "taken for those of GPT-2" in done.stderr
    assert "encoder.json as" in done.stderr.splitlines()[-1]


CONFIG = """
import time
from math import *
import os.path as where

out_dir = {folder!r}
eval_interval = 5
wandb_run_name = 'ft-' + str(time.time())
max_iters = 5 * 2
device = 'cpu'
compile = False
decay_lr = False
learning_rate = 1
dropout = 0
"""


def test_a_config_may_import_and_numbers_may_be_whole(shell, text, tmp_path):
    config = tmp_path / "finetune.py"
    config.write_text(CONFIG.format(folder=str(tmp_path / "run")))
    done = shell.run(
        "train.py",
        text,
        TINY,
        config,
        "--dropout=0",
        "--learning_rate=1",
        "--bias=1",
        "--grad_clip=0",
    )
    assert done.status == 0, done.stderr
    settings = load_checkpoint(tmp_path / "run" / "last.pt")["config"]
    assert (
        settings["learning_rate"] == 1.0 and settings["dropout"] == 0.0 and settings["bias"] is True
    )
    assert settings["wandb_run_name"].startswith("ft-") and settings["max_iters"] == 10


def test_a_prompt_is_text_whatever_it_looks_like(shell, run):
    done = shell.run(
        "sample.py", f"--out_dir={run[1]}", "--start=42=--start=7", "--max_new_tokens=0"
    )
    assert (done.status, done.stdout) == (0, "42=--start=7\n"), done.stderr


def test_shakespeare_in_gpt2s_tokens_says_which_file_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "cache"))
    shell = copy_project(tmp_path / "kqv")
    characters = shell.folder / "data" / "shakespeare_char"
    for name, content in {
        "input.txt": b"a" * 99,
        "train.bin": b"\0" * 99,
        "val.bin": b"\0" * 9,
    }.items():
        (characters / name).write_bytes(content)
    (characters / "tokenizer.json").write_text('{"kind": "char", "characters": "a"}')
    done = shell.run("data/shakespeare/prepare.py")
    assert done.status == 2 and "Traceback" not in done.stderr
    assert str(tmp_path / "cache") in done.stderr.splitlines()[-1]
    assert [path.name for path in (shell.folder / "data" / "shakespeare").iterdir()] == [
        "prepare.py"
    ]
