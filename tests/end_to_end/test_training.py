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
    "step", "train_loss", "val_loss", "val_loss_full", "learning_rate", "grad_norm", "tokens_per_second", "wall_seconds",
}  # fmt: skip


def names_in(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def stamps(folder):
    """What changes when a file below `folder` is written again."""
    return {
        path: (path.stat().st_mtime_ns, path.stat().st_ino)
        for path in folder.rglob("*")
        if path.is_file()
    }


def measured(done):
    """The validation loss that the script printed, as it printed it."""
    assert done.status == 0, done.stderr
    return re.search(r"^validation loss +(\d+\.\d{4}) nats", done.stdout, re.MULTILINE)[1]


# --- one run and what it leaves


def test_a_run_leaves_its_checkpoints_the_metrics_and_a_picture(trained):
    assert names_in(trained.folder) == FILES
    picture = (trained.folder / "loss.png").read_bytes()
    assert picture.startswith(b"\x89PNG\r\n\x1a\n") and picture[-8:-4] == b"IEND"


def test_a_run_ends_with_the_loss_and_where_everything_is(trained):
    loss, comparison, checkpoint, curve, sample = trained.done.stdout.splitlines()[-5:]
    pattern = r"validation loss +\d\.\d{4} nats per character \(\d\.\d{3} bits\), over the whole validation split"
    assert re.fullmatch(pattern, loss)
    guessing = f"{math.log(len(set(easy_text()))):.4f}"
    others = rf"for comparison +{guessing} by guessing, \d\.\d{{4}} by letter frequencies"
    assert re.fullmatch(others, comparison)
    assert re.fullmatch(
        rf"checkpoint +{re.escape(str(trained.folder))}/ckpt\.pt \(step \d+\)", checkpoint
    )
    assert re.fullmatch(rf"curve +{re.escape(str(trained.folder))}/loss\.png", curve)
    assert sample.startswith("to sample")


def test_the_sample_command_that_a_run_prints_writes_text(shell, trained):
    done = shell.run_printed(trained.done, "to sample")
    assert done.status == 0, done.stderr
    words = {word for sentence in SENTENCES for word in sentence.split()}
    written = done.stdout.split()
    assert len(written) > 50 and len(words & set(written)) > 5


def test_metrics_has_each_step_once_with_the_documented_keys(trained):
    lines = metrics(trained.folder)
    assert [line["step"] for line in lines] == list(range(0, 301, 10))
    assert set().union(*lines) == KEYS
    assert [line["step"] for line in lines if "val_loss" in line] == [0, 200, 300]
    assert [line["step"] for line in lines if "val_loss_full" in line] == [300]
    assert all("train_loss" in line for line in lines[1:])
    assert all(
        isinstance(value, int | float) and math.isfinite(value)
        for line in lines
        for value in line.values()
    )
    times = [line["wall_seconds"] for line in lines]
    assert times == sorted(times) and times[0] > 0


def test_config_json_says_what_the_run_is(trained):
    config = json.loads((trained.folder / "config.json").read_text())
    assert config["kqv"] == kqv.__version__ and config["torch"] == version("torch")
    assert "animals" in config["text"]
    assert config["parameters"] == sum(
        w.numel() for w in load_checkpoint(trained.folder / "ckpt.pt")["model"].values()
    )
    assert config["settings"] == load_checkpoint(trained.folder / "ckpt.pt")["config"]
    assert config["settings"]["max_iters"] == 300


def test_an_easy_text_is_learnt(trained):
    lines = metrics(trained.folder)
    guessing = math.log(len(set(easy_text())))
    assert lines[0]["val_loss"] == pytest.approx(guessing, rel=1e-3)
    assert lines[-1]["train_loss"] < guessing / 5
    assert lines[-1]["val_loss_full"] < guessing / 5


# --- what it says of itself


def test_a_run_says_how_often_it_reads_its_text(trained):
    tokens = int(re.search(r"([\d,]+) tokens of", trained.done.stderr)[1].replace(",", ""))
    passes = f"{38400 / tokens:.2f} passes over the {tokens:,} for training"
    assert f"300 steps read 38,400 characters: {passes}" in trained.done.stderr.splitlines()


def test_a_text_that_is_large_for_the_model_gets_a_recipe_that_fits(shell, tmp_path):
    (tmp_path / "large.txt").write_text(easy_text(3000))
    done = shell.run("train.py", tmp_path / "large.txt", TINY, f"--out_dir={tmp_path / 'run'}")
    (said,) = (line for line in done.stderr.splitlines() if "20 steps read" in line)
    words = shlex.split(re.search(r"add (.*) for 4.9 million parameters", said)[1])
    assert (shell.folder / words[0]).exists()
    # what is advised can be typed as it is
    words += ["--max_iters=1", "--sample_chars=0", "--n_layer=1", "--n_embd=16", "--eval_iters=1"]
    assert shell.run("train.py", tmp_path / "large.txt", *words, cwd=shell.folder).status == 0


@pytest.fixture(scope="module")
def memorised(shell, tmp_path_factory):
    """A run that learns 500 characters without any order by heart."""
    folder = tmp_path_factory.mktemp("memorised")
    letters = random.Random(1).choices("abcdefghijklmnopqrstuvwxyz \n", k=500)
    (folder / "short.txt").write_text("".join(letters))
    words = ("--n_embd=64", "--max_iters=150", "--eval_interval=50", f"--out_dir={folder / 'run'}")
    done = shell.run("train.py", folder / "short.txt", TINY, *words)
    assert done.status == 0, done.stderr
    return folder / "run", done


def test_a_model_that_memorises_its_text_is_told_of_when_it_happens_and_at_the_end(memorised):
    _, done = memorised
    pattern = r"validation loss has risen since step 0 \(\d\.\d\d → \d\.\d\d\) "
    pattern += r"while the training loss fell to \d\.\d\d"
    lines = done.stderr.splitlines()
    (said,) = (number for number, line in enumerate(lines) if re.match(pattern, line))
    assert any(line.startswith("step 150/") for line in lines[said:])
    assert "--dropout" in lines[said]
    assert re.search(rf"^overfitting +{pattern}", done.stdout, re.MULTILINE)


def test_why_there_is_no_ckpt_pt_is_said_at_the_end_and_when_last_pt_is_used(shell, memorised):
    folder, done = memorised
    assert names_in(folder) == [name for name in FILES if name != "ckpt.pt"]
    said = "no evaluation has beaten the untrained model, so there is no ckpt.pt"
    said += "; sample.py takes last.pt"
    assert f"{folder / 'last.pt'} (step 150); {said}\n" in done.stdout
    sampled = shell.run_printed(done, "to sample", "--max_new_tokens=5")
    assert sampled.status == 0 and sampled.stderr == f"{folder}: {said}\n"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what the cores do")
def test_beside_busy_programs_threads_sleep_and_the_run_says_so(shell):
    cores = set(sorted(os.sched_getaffinity(0))[:2])
    script = shell.folder / "train.py"
    command = (sys.executable, script, "--dry_run=True", "--rate=1", "--device=cpu")
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        environment.pop(name, None)

    def dry_run(**variables):
        return subprocess.run(
            command, env=environment | variables, preexec_fn=pinned, capture_output=True, text=True
        )

    def pinned():
        os.sched_setaffinity(0, cores)

    spin = [sys.executable, "-c", "while True: pass"]
    busy = [subprocess.Popen(spin, preexec_fn=pinned) for _ in range(4)]
    try:
        done, one_thread = dry_run(), dry_run(OMP_NUM_THREADS="1")
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"other programs use .* \(GOMP_SPINCOUNT=0\), .*\n", done.stderr)
    assert (one_thread.returncode, one_thread.stderr) == (0, "")  # one waits for nobody


# --- the same again


@pytest.fixture(scope="module")
def repeated(shell, trained, tmp_path_factory):
    """The command of `trained` once more in a copy of its folder, where the user keeps a picture too."""
    folder = tmp_path_factory.mktemp("repeated") / "run"
    shutil.copytree(trained.folder, folder)
    (folder / "holiday.png").write_bytes(b"the user's own")
    before = stamps(shell.folder / "data")
    done = shell.run("train.py", *trained.words, f"--out_dir={folder}")
    assert done.status == 0, done.stderr
    return folder, done, (before, stamps(shell.folder / "data"))


def test_an_earlier_run_is_moved_to_previous_and_said_so(trained, repeated):
    folder, done, _ = repeated
    assert set(FILES) <= set(names_in(folder / "previous" / "1"))
    for name in FILES:
        assert (folder / "previous" / "1" / name).read_bytes() == (
            trained.folder / name
        ).read_bytes()
    assert f"a run of 300 steps: it is in {folder / 'previous' / '1'} now" in done.stderr


def test_only_what_a_run_wrote_is_moved(repeated):
    folder, _, _ = repeated
    assert (folder / "holiday.png").read_bytes() == b"the user's own"
    assert names_in(folder / "previous" / "1") == FILES


def test_the_same_command_gives_the_same_weights_and_metrics(repeated):
    folder, _, _ = repeated
    for name in ("ckpt.pt", "last.pt"):
        assert same_weights(folder / name, folder / "previous" / "1" / name)
    assert untimed(metrics(folder)) == untimed(metrics(folder / "previous" / "1"))


def test_the_ids_of_an_unchanged_text_are_not_made_again(repeated):
    _, _, (before, after) = repeated
    assert before == after


# --- the figures of the layers


def test_inner_figures_change_no_step_and_stand_at_each_evaluation(shell, trained, tmp_path):
    done = shell.run("train.py", *trained.words, "--inner_figures=True", f"--out_dir={tmp_path}")
    assert done.status == 0, done.stderr
    assert same_weights(tmp_path / "last.pt", trained.folder / "last.pt")
    lines = untimed(metrics(tmp_path))
    figures = {
        line["step"]: {key: line.pop(key) for key in LAYER_MEASURES if key in line}
        for line in lines
    }
    assert lines == untimed(metrics(trained.folder))
    assert {step: set(found) for step, found in figures.items() if found} == {
        0: set(LAYER_MEASURES) - {"grad_norm_layers"}, 200: set(LAYER_MEASURES), 300: set(LAYER_MEASURES),
    }  # fmt: skip
    assert all(
        len(value) == 1 for found in figures.values() for value in found.values()
    )  # TINY has one layer
    assert (
        0
        < figures[200]["grad_norm_layers"][0]
        <= next(line["grad_norm"] for line in lines if line["step"] == 200)
    )


# --- which words make which text


def evaluate(shell, trained, *words, **options):
    return measured(
        shell.run(
            "train.py", "--eval_only=True", f"--init_from={trained.folder}", *words, **options
        )
    )


def test_eval_only_prints_the_loss_of_the_checkpoint_and_writes_nothing(
    shell, trained, text, tmp_path
):
    before = stamps(trained.folder)
    loss = evaluate(shell, trained, text, f"--out_dir={tmp_path / 'new'}")
    assert loss == measured(trained.done)
    assert stamps(trained.folder) == before
    assert names_in(tmp_path) == []


def test_a_checkpoint_is_measured_on_its_own_text_when_none_is_named(shell, trained):
    assert evaluate(shell, trained) == measured(trained.done)


def test_a_named_pipe_is_a_text_too(shell, trained, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(easy_text(),), daemon=True)
    writer.start()
    assert evaluate(shell, trained, pipe) == measured(trained.done)
    writer.join()


def test_a_changed_text_is_read_anew_even_if_size_and_date_are_the_same(shell, trained, tmp_path):
    path = tmp_path / "letter.txt"
    path.write_text(easy_text())
    before = path.stat()
    first = evaluate(shell, trained, path)
    path.write_text(easy_text()[::-1])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert float(evaluate(shell, trained, path)) > 2 * float(first)


def test_files_and_folders_are_one_text_in_the_order_given(shell, trained, tmp_path):
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
    """The run of `trained` again: a text as Windows editors save it, the words of the command in another order."""
    folder = tmp_path_factory.mktemp("shuffled")
    (folder / "windows.txt").write_bytes(
        b"\xef\xbb\xbf" + text.read_bytes().replace(b"\n", b"\r\n")
    )
    words = (
        "--n_embd=32",
        f"--out_dir={folder / 'run'}",
        TINY,
        "--max_iters=1",
        folder / "windows.txt",
        "--max_iters=300",
    )
    done = shell.run("train.py", *words)
    assert done.status == 0, done.stderr
    return folder / "run"


def test_words_come_in_any_order_and_later_ones_win(shuffled):
    checkpoint = load_checkpoint(shuffled / "last.pt")
    assert checkpoint["model_args"]["n_embd"] == 16  # the config file came after --n_embd=32
    assert checkpoint["iter_num"] == 300


def test_a_byte_order_mark_and_windows_line_ends_change_nothing(trained, shuffled):
    assert same_weights(trained.folder / "last.pt", shuffled / "last.pt")


def test_chinese_and_emoji_are_trained_on_and_sampled_in_a_folder_with_a_space(shell, tmp_path):
    poem = "小猫在睡觉。🐱\n小狗在叫。🐶🦴\n" * 40
    done = shell.run(
        "train.py", "-", TINY, "--sample_chars=30", f"--out_dir={tmp_path / 'my run'}", input=poem
    )
    assert done.status == 0, done.stderr
    sampled = shell.run_printed(done, "to sample", "--start=小猫", "--max_new_tokens=30")
    assert sampled.status == 0, sampled.stderr
    assert poem in map(prepared_text, (shell.folder / "data" / "cache").glob("stdin-*"))
    assert sampled.stdout.startswith("小猫")
    assert set(sampled.stdout) <= set(poem) and len(sampled.stdout) == 2 + 30 + 1


def test_a_text_of_one_line_is_trained_on_and_sampled(shell, one_line):
    done = shell.run_printed(one_line.done, "to sample", "--max_new_tokens=30")
    assert done.status == 0, done.stderr
    assert len(done.stdout) == 1 + 30 + 1 and done.stdout.endswith("\n")
    assert set(done.stdout[:-1]) <= set("la li lu")


# --- options


def test_the_flags_of_nanogpt_work_together_on_a_dataset_folder(shell, tmp_path):
    folder = shell.folder / "data" / "animals"
    folder.mkdir()
    (folder / "prepare.py").write_text(
        "import sys\nfrom pathlib import Path\n\nhere = Path(__file__).parent\nsys.path.insert(0, str(here.parent.parent))\n"
        "from kqv.text.datasets import prepare_dataset\n\n"
        f"(here / 'input.txt').write_text({easy_text()!r})\nprepare_dataset([here / 'input.txt'], here)\n"
    )
    command = (
        "--dataset=animals --device=cpu --compile=False --eval_iters=2 --log_interval=1 --block_size=16 --batch_size=4 "
        "--n_layer=1 --n_head=2 --n_embd=16 --max_iters=5 --lr_decay_iters=5 --dropout=0.0"
    )
    done = shell.run("train.py", *shlex.split(command), f"--out_dir={tmp_path}")
    assert done.status == 0, done.stderr
    assert [line["step"] for line in metrics(tmp_path)] == [0, 1, 2, 3, 4, 5]
    shape = load_checkpoint(tmp_path / "ckpt.pt")["model_args"]
    assert (shape["block_size"], shape["n_layer"], shape["n_head"], shape["n_embd"]) == (
        16,
        1,
        2,
        16,
    )


def test_adamw_in_bfloat16_learns_without_a_warning(shell, text, tmp_path):
    done = shell.run(
        "train.py",
        text,
        TINY,
        "--optimizer=adamw",
        "--dtype=bfloat16",
        "--max_iters=60",
        f"--out_dir={tmp_path}",
    )
    assert done.status == 0, done.stderr
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
