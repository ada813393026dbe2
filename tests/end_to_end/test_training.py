"""train.py from a text file to a checkpoint, as a user runs it."""

import dataclasses
import json
import math
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import threading
from importlib.metadata import version

import pytest
from helpers.shell import SENTENCES, TINY, easy_text, metrics, prepared_text, same_weights, untimed

import kqv
from kqv.checkpoints.loading import load_checkpoint
from kqv.options.settings import SampleSettings, TrainSettings
from kqv.training.metrics import LAYER_MEASURES

FILES = ["ckpt.pt", "config.json", "earlier.pt", "last.pt", "loss.png", "metrics.jsonl"]
KEYS = {
    "step", "train_loss", "val_loss", "val_loss_full", "learning_rate", "grad_norm",
    "tokens_per_second", "wall_seconds",
}  # fmt: skip


def names_in(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def stamps(folder):
    """Time and inode of each file below a folder: one of them changes when it is written again."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in files}


def measured(done):
    """The validation loss that the script printed, as it printed it."""
    assert done.status == 0, done.stderr
    return re.search(r"^validation loss +(\d+\.\d{4}) nats", done.stdout, re.MULTILINE)[1]


# --- one run and what it leaves


def test_a_run_leaves_its_checkpoints_the_metrics_and_a_picture(trained):
    assert names_in(trained.folder) == FILES
    picture = (trained.folder / "loss.png").read_bytes()
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    assert picture[-8:-4] == b"IEND"


def test_a_run_ends_with_the_loss_and_where_everything_is(trained):
    loss, comparison, checkpoint, curve, sample = trained.done.stdout.splitlines()[-5:]
    pattern = r"validation loss +\d\.\d{4} nats per character \(\d\.\d{3} bits\), "
    assert re.fullmatch(pattern + "over the whole validation split", loss)
    guessing = f"{math.log(len(set(easy_text()))):.4f}"
    others = rf"for comparison +{guessing} by guessing, \d\.\d{{4}} by letter frequencies"
    assert re.fullmatch(others, comparison)
    folder = re.escape(str(trained.folder))
    assert re.fullmatch(rf"checkpoint +{folder}/ckpt\.pt \(step \d+\)", checkpoint)
    assert re.fullmatch(rf"curve +{folder}/loss\.png", curve)
    assert sample.startswith("to sample")


def test_the_sample_command_that_a_run_prints_writes_text(shell, trained):
    done = shell.run_printed(trained.done, "to sample")
    assert done.status == 0, done.stderr
    words = {word for sentence in SENTENCES for word in sentence.split()}
    written = done.stdout.split()
    assert len(written) > 50
    assert len(words & set(written)) > 5


def test_metrics_has_each_step_once_with_the_documented_keys(trained):
    lines = metrics(trained.folder)
    assert [line["step"] for line in lines] == list(range(0, 301, 10))
    assert set().union(*lines) == KEYS
    assert [line["step"] for line in lines if "val_loss" in line] == [0, 200, 300]
    assert [line["step"] for line in lines if "val_loss_full" in line] == [300]
    assert all("train_loss" in line for line in lines[1:])
    for line in lines:
        assert all(isinstance(value, int | float) for value in line.values())
        assert all(map(math.isfinite, line.values()))
    times = [line["wall_seconds"] for line in lines]
    assert times == sorted(times) and times[0] > 0


def test_config_json_says_what_the_run_is(trained):
    config = json.loads((trained.folder / "config.json").read_text())
    checkpoint = load_checkpoint(trained.folder / "ckpt.pt")
    assert config["kqv"] == kqv.__version__
    assert config["torch"] == version("torch")
    assert "animals" in config["text"]
    assert config["parameters"] == sum(w.numel() for w in checkpoint["model"].values())
    assert config["settings"] == json.loads(json.dumps(checkpoint["config"]))
    assert config["settings"]["max_iters"] == 300


def test_an_easy_text_is_learned(trained):
    lines = metrics(trained.folder)
    guessing = math.log(len(set(easy_text())))
    assert lines[0]["val_loss"] == pytest.approx(guessing, rel=1e-3)
    assert lines[-1]["train_loss"] < guessing / 5
    assert lines[-1]["val_loss_full"] < guessing / 5


# --- what a run says of itself


def test_a_run_says_how_often_it_reads_its_text(trained):
    tokens = int(re.search(r"([\d,]+) tokens of", trained.done.stderr)[1].replace(",", ""))
    passes = f"{38400 / tokens:.2f} passes over the {tokens:,} for training"
    assert f"300 steps read 38,400 characters: {passes}" in trained.done.stderr.splitlines()


@pytest.mark.slow
def test_a_text_that_is_large_for_the_model_gets_a_recipe_that_fits(shell, tmp_path):
    (tmp_path / "large.txt").write_text(easy_text(3000))
    done = shell.run("train.py", tmp_path / "large.txt", TINY, f"--out_dir={tmp_path / 'run'}")
    (remark,) = (line for line in done.stderr.splitlines() if "20 steps read" in line)
    recipe = shlex.split(re.search(r"add (.*) for 4.9 million parameters", remark)[1])
    assert (shell.folder / recipe[0]).exists()
    # the recipe can be typed as it is; here for fewer steps of a smaller model
    few = ("--max_iters=1", "--sample_chars=0", "--eval_iters=1")
    small = ("--n_layer=1", "--n_embd=16")
    shell.succeed("train.py", tmp_path / "large.txt", *recipe, *few, *small)


@pytest.fixture(scope="module")
def memorised(shell, tmp_path_factory):
    """A run that memorises 500 random characters."""
    folder = tmp_path_factory.mktemp("memorised")
    letters = random.Random(1).choices("abcdefghijklmnopqrstuvwxyz \n", k=500)
    (folder / "short.txt").write_text("".join(letters))
    words = ("--n_embd=64", "--max_iters=150", "--eval_interval=50", f"--out_dir={folder / 'run'}")
    done = shell.succeed("train.py", folder / "short.txt", TINY, *words)
    return folder / "run", done


@pytest.mark.slow
def test_overfitting_is_reported_when_it_happens_and_at_the_end(memorised):
    _, done = memorised
    pattern = r"validation loss has risen since step 0 \(\d\.\d\d → \d\.\d\d\) "
    pattern += r"while the training loss fell to \d\.\d\d"
    lines = done.stderr.splitlines()
    (place,) = (number for number, line in enumerate(lines) if re.match(pattern, line))
    assert any(line.startswith("step 150/") for line in lines[place:])
    assert "--dropout" in lines[place]
    assert re.search(rf"^overfitting +{pattern}", done.stdout, re.MULTILINE)


@pytest.mark.slow
def test_a_missing_ckpt_pt_is_explained_at_the_end_and_when_last_pt_is_sampled(shell, memorised):
    folder, done = memorised
    assert names_in(folder) == [name for name in FILES if name != "ckpt.pt"]
    remark = "no evaluation has yet beaten the untrained model, so there is no ckpt.pt"
    remark += "; sample.py takes last.pt"
    assert f"{folder / 'last.pt'} (step 150); {remark}\n" in done.stdout
    sampled = shell.run_printed(done, "to sample", "--max_new_tokens=5")
    assert sampled.status == 0
    assert sampled.stderr == f"{folder}: {remark}\n"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what the cores do")
def test_beside_busy_programs_threads_sleep_and_the_run_says_so(shell):
    """The command is a resume of nothing: it says the line first, and then ends soon."""
    cores = set(sorted(os.sched_getaffinity(0))[:2])
    command = (sys.executable, shell.folder / "train.py", "--device=cpu", "--init_from=resume")
    command += (f"--out_dir={shell.folder / 'missing'}",)
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        environment.pop(name, None)

    def pinned():
        os.sched_setaffinity(0, cores)

    def printed(**variables):
        options = {"env": environment | variables, "preexec_fn": pinned}
        done = subprocess.run(command, **options, capture_output=True, text=True)
        return done.stderr.splitlines()

    spin = [sys.executable, "-c", "while True: pass"]
    busy = [subprocess.Popen(spin, preexec_fn=pinned) for _ in range(4)]
    try:
        two_threads, one_thread = printed(), printed(OMP_NUM_THREADS="1")
    finally:
        for process in busy:
            process.kill()
            process.wait()
    remark, error = two_threads
    assert re.match(r"other programs use .* \(GOMP_SPINCOUNT=0\), ", remark)
    assert one_thread == [error]  # one thread waits for no other


# --- the same again


@pytest.fixture(scope="module")
def repeated(shell, trained, tmp_path_factory):
    """The command of `trained` again in a copy of its folder, in which the user keeps a picture."""
    folder = tmp_path_factory.mktemp("repeated") / "run"
    shutil.copytree(trained.folder, folder)
    (folder / "holiday.png").write_bytes(b"the user's own")
    before = stamps(shell.folder / "data")
    done = shell.succeed("train.py", *trained.words, f"--out_dir={folder}")
    return folder, done, (before, stamps(shell.folder / "data"))


@pytest.mark.slow
def test_an_earlier_run_is_moved_to_previous_and_a_line_says_so(trained, repeated):
    folder, done, _ = repeated
    earlier = folder / "previous" / "1"
    assert names_in(earlier) == FILES
    for name in FILES:
        assert (earlier / name).read_bytes() == (trained.folder / name).read_bytes()
    assert f"a run of 300 steps: it is in {earlier} now" in done.stderr


@pytest.mark.slow
def test_only_what_a_run_wrote_is_moved(repeated):
    folder, _, _ = repeated
    assert (folder / "holiday.png").read_bytes() == b"the user's own"
    assert names_in(folder / "previous" / "1") == FILES


@pytest.mark.slow
def test_the_same_command_gives_the_same_weights_and_metrics(repeated):
    folder, _, _ = repeated
    for name in ("ckpt.pt", "last.pt"):
        assert same_weights(folder / name, folder / "previous" / "1" / name)
    assert untimed(metrics(folder)) == untimed(metrics(folder / "previous" / "1"))


@pytest.mark.slow
def test_an_unchanged_text_is_not_tokenized_again(repeated):
    _, _, (before, after) = repeated
    assert before == after


# --- the figures of the layers


@pytest.mark.slow
def test_inner_figures_change_no_step_and_come_with_each_evaluation(shell, trained, tmp_path):
    shell.succeed("train.py", *trained.words, "--inner_figures=True", f"--out_dir={tmp_path}")
    assert same_weights(tmp_path / "last.pt", trained.folder / "last.pt")
    lines = untimed(metrics(tmp_path))
    figures = {}
    for line in lines:
        found = {key: line.pop(key) for key in LAYER_MEASURES if key in line}
        if found:
            figures[line["step"]] = found
    assert lines == untimed(metrics(trained.folder))
    assert list(figures) == [0, 200, 300]
    assert figures[0].keys() == set(LAYER_MEASURES) - {"grad_norm_layers"}
    assert figures[200].keys() == figures[300].keys() == set(LAYER_MEASURES)
    for found in figures.values():
        assert all(len(value) == 1 for value in found.values())  # TINY has one layer
    (grad_norm,) = (line["grad_norm"] for line in lines if line["step"] == 200)
    assert 0 < figures[200]["grad_norm_layers"][0] <= grad_norm


# --- texts


def evaluate(shell, trained, *words):
    """The validation loss of the trained model on a text."""
    start = f"--init_from={trained.folder}"
    return measured(shell.run("train.py", "--eval_only=True", start, *words))


def test_eval_only_prints_the_loss_of_the_checkpoint_and_writes_nothing(
    shell, trained, text, tmp_path
):
    before = stamps(trained.folder)
    loss = evaluate(shell, trained, text, f"--out_dir={tmp_path / 'new'}")
    assert loss == measured(trained.done)
    assert stamps(trained.folder) == before
    assert names_in(tmp_path) == []


def test_eval_only_takes_the_text_of_the_checkpoint_when_none_is_named(shell, trained):
    assert evaluate(shell, trained) == measured(trained.done)


def test_a_text_can_be_a_named_pipe(shell, trained, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(easy_text(),), daemon=True)
    writer.start()
    assert evaluate(shell, trained, pipe) == measured(trained.done)
    writer.join()


@pytest.mark.slow
def test_a_changed_text_is_read_again_even_if_its_size_and_time_are_the_same(
    shell, trained, tmp_path
):
    path = tmp_path / "letter.txt"
    path.write_text(easy_text())
    before = path.stat()
    first = evaluate(shell, trained, path)
    path.write_text(easy_text()[::-1])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert float(evaluate(shell, trained, path)) > 2 * float(first)


def test_files_and_folders_are_joined_to_one_text_in_their_order(shell, trained, tmp_path):
    book = tmp_path / "book"
    (book / "part").mkdir(parents=True)
    (tmp_path / "preface").write_text("The fox is old.\n" * 10)
    (book / "a.txt").write_text("The hen is shy.\n" * 10 + "The end")  # without a newline
    (book / "part" / "b.txt").write_text("The dog is big.\n" * 10)
    (book / "notes.md").write_text("not part of the text")
    evaluate(shell, trained, book / "part" / "b.txt", tmp_path / "preface", book)
    (folder,) = (shell.folder / "data" / "cache").glob("b-*")
    dog, fox, hen = ("The dog is big.\n" * 10, "The fox is old.\n" * 10, "The hen is shy.\n" * 10)
    assert prepared_text(folder) == f"{dog}{fox}{hen}The end\n{dog}"


@pytest.fixture(scope="module")
def shuffled(shell, text, tmp_path_factory):
    """The run of `trained` again, with the text as a Windows editor saves it, and with the words of
    the command in another order."""
    folder = tmp_path_factory.mktemp("shuffled")
    (folder / "windows.txt").write_bytes(
        b"\xef\xbb\xbf" + text.read_bytes().replace(b"\n", b"\r\n")
    )
    text, out_dir = folder / "windows.txt", f"--out_dir={folder / 'run'}"
    words = ("--n_embd=32", out_dir, TINY, "--max_iters=1", text, "--max_iters=300")
    shell.succeed("train.py", *words)
    return folder / "run"


@pytest.mark.slow
def test_words_come_in_any_order_and_a_later_option_wins(shuffled):
    checkpoint = load_checkpoint(shuffled / "last.pt")
    assert checkpoint["model_args"]["n_embd"] == 16  # the config file came after --n_embd=32
    assert checkpoint["iter_num"] == 300


@pytest.mark.slow
def test_a_byte_order_mark_and_windows_line_ends_change_nothing(trained, shuffled):
    assert same_weights(trained.folder / "last.pt", shuffled / "last.pt")


@pytest.mark.slow
def test_chinese_and_emoji_are_trained_on_and_sampled_in_a_folder_with_a_space(shell, tmp_path):
    poem = "小猫在睡觉。🐱\n小狗在叫。🐶🦴\n" * 40
    done = shell.succeed(
        "train.py", "-", TINY, "--sample_chars=30", f"--out_dir={tmp_path / 'my run'}", input=poem
    )
    sampled = shell.run_printed(done, "to sample", "--start=小猫", "--max_new_tokens=30")
    assert sampled.status == 0, sampled.stderr
    assert poem in map(prepared_text, (shell.folder / "data" / "cache").glob("stdin-*"))
    assert sampled.stdout.startswith("小猫")
    assert set(sampled.stdout) <= set(poem)
    assert len(sampled.stdout) == 2 + 30 + 1


def test_a_text_of_one_line_is_trained_on_and_sampled(shell, one_line):
    done = shell.run_printed(one_line.done, "to sample", "--max_new_tokens=30")
    assert done.status == 0, done.stderr
    assert len(done.stdout) == 1 + 30 + 1
    assert done.stdout.endswith("\n")
    assert set(done.stdout[:-1]) <= set("la li lu")


# --- options


PREPARE = """\
import sys
from pathlib import Path

here = Path(__file__).parent
sys.path.insert(0, str(here.parent.parent))
from kqv.text.datasets import prepare_dataset

(here / "input.txt").write_text({text!r})
prepare_dataset([here / "input.txt"], here)
"""


@pytest.mark.slow
def test_the_options_of_nanogpt_work_together_on_a_dataset_folder(shell, tmp_path):
    folder = shell.folder / "data" / "animals"
    folder.mkdir()
    (folder / "prepare.py").write_text(PREPARE.format(text=easy_text()))
    command = (
        "--dataset=animals --device=cpu --compile=False --eval_iters=2 --log_interval=1 "
        "--block_size=16 --batch_size=4 --n_layer=1 --n_head=2 --n_embd=16 --max_iters=5 "
        "--lr_decay_iters=5 --dropout=0.0"
    )
    shell.succeed("train.py", *shlex.split(command), f"--out_dir={tmp_path}")
    assert [line["step"] for line in metrics(tmp_path)] == [0, 1, 2, 3, 4, 5]
    shape = load_checkpoint(tmp_path / "ckpt.pt")["model_args"]
    given = {"block_size": 16, "n_layer": 1, "n_head": 2, "n_embd": 16}
    assert {name: shape[name] for name in given} == given


@pytest.mark.slow
def test_adamw_in_bfloat16_learns_without_a_warning(shell, text, tmp_path):
    options = ("--optimizer=adamw", "--dtype=bfloat16", "--max_iters=60")
    done = shell.succeed("train.py", text, TINY, *options, f"--out_dir={tmp_path}")
    lines = metrics(tmp_path)
    assert lines[-1]["val_loss_full"] < lines[0]["val_loss"] / 2
    assert len(load_checkpoint(tmp_path / "last.pt")["optimizer"]) == 1
    assert "bfloat16" in done.stderr
    assert "Warning" not in done.stderr


@pytest.mark.parametrize(
    ("script", "settings"), [("train.py", TrainSettings), ("sample.py", SampleSettings)]
)
def test_help_lists_every_option_and_does_not_wait_for_torch(shell, script, settings):
    done = shell.run(script, "--help", python=("-X", "importtime"))
    assert done.status == 0
    for field in dataclasses.fields(settings):
        assert f"--{field.name} " in done.stdout
    imported = {line.split("|")[-1].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "kqv" in imported
    assert not imported & {"torch", "numpy", "matplotlib"}
