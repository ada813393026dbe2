"""Encoders and encoder-decoders train as decoders do: killed, resumed, and shared by several ranks,
a run is the same run."""

import random
import re
import shutil
import signal

import pytest
from helpers.shell import TINY, metrics, same_weights, torchrun, untimed

from kqv.checkpoints.loading import load_checkpoint
from kqv.run_files import LATEST

pytestmark = pytest.mark.slow

# What is learned, and the options for it; two vocabularies give the encoder its own embedding.
OBJECTIVES = {
    "pairs": (),
    "two vocabularies": ("--target_tokenizer=symbols", "--label_smoothing=0.1"),
    "masked": ("--architecture=encoder",),
    "diffusion": ("--architecture=encoder", "--mask_rate=uniform"),
}
# float32 and a low rate, so that the order of summation makes little difference.
OPTIONS = (
    TINY, "--dtype=float32", "--learning_rate=2e-3", "--n_layer=2", "--n_embd=20",
    "--block_size=40", "--batch_size=12", "--max_iters=12", "--eval_interval=6", "--eval_iters=3",
    "--log_interval=1",
)  # fmt: skip


def command(objective, text, dates):
    """The words of a command line that learn the objective."""
    is_text = objective in ("masked", "diffusion")
    return (text if is_text else dates, *OPTIONS, *OBJECTIVES[objective])


@pytest.mark.parametrize("objective", ["two vocabularies", "masked"])
def test_several_ranks_have_the_losses_of_one(shell, text, dates, tmp_path, objective):
    words = command(objective, text, dates)
    runs = {
        "alone": ((), ()),
        "replicated": (("--batch_size=3", "--gradient_accumulation_steps=4"), torchrun(2)),
        "sharded": (("--fsdp=True",), torchrun(2)),
    }
    for name, (more, python) in runs.items():
        out_dir = f"--out_dir={tmp_path / name}"
        shell.succeed("train.py", *words, *more, out_dir, python=python)
    for key in ("train_loss", "val_loss_full"):
        alone, *others = ([line.get(key) for line in metrics(tmp_path / name)] for name in runs)
        assert others == [pytest.approx(alone, abs=1e-4)] * 2, key

    # A sharded checkpoint is used as any other: measured, and resumed by one rank.
    loss = f"{metrics(tmp_path / 'alone')[-1]['val_loss_full']:.4f}"
    folder = f"--out_dir={tmp_path / 'sharded'}"
    measured = shell.succeed("train.py", "--init_from=resume", "--eval_only=True", folder)
    assert loss in measured.stdout
    shell.succeed("train.py", "--init_from=resume", "--max_iters=14", folder)
    whole, sharded = (load_checkpoint(tmp_path / name / LATEST) for name in ("alone", "sharded"))
    assert whole["model"].keys() == sharded["model"].keys()
    assert sharded["iter_num"] == 14


def test_an_encoder_goes_on_with_the_same_masks_when_its_text_is_prepared_again(shell, tmp_path):
    (tmp_path / "own.txt").write_text("to be or not to be, that is it\n" * 99)
    words = (tmp_path / "own.txt", *OPTIONS, *OBJECTIVES["masked"])
    shell.succeed("train.py", *words, "--max_iters=6", f"--out_dir={tmp_path / 'straight'}")
    shutil.copytree(tmp_path / "straight", tmp_path / "again")
    resume = (*words, "--init_from=resume")
    shell.succeed("train.py", *resume, f"--out_dir={tmp_path / 'straight'}")
    for folder in (shell.folder / "data" / "cache").glob("own-*"):
        shutil.rmtree(folder)
    shell.succeed("train.py", *resume, f"--out_dir={tmp_path / 'again'}")
    assert same_weights(tmp_path / "straight" / LATEST, tmp_path / "again" / LATEST)


@pytest.mark.parametrize("objective", ["pairs", "diffusion"])
def test_a_run_that_is_killed_ends_as_the_undisturbed_one(shell, text, dates, tmp_path, objective):
    words = (
        *command(objective, text, dates), "--dtype=bfloat16", "--dropout=0.2",
        "--gradient_accumulation_steps=2", "--checkpoint_minutes=0.000001", "--max_iters=30",
    )  # fmt: skip
    shell.succeed("train.py", *words, f"--out_dir={tmp_path / 'straight'}")
    folder, step = tmp_path / "killed", random.Random(objective).randrange(3, 25)
    with shell.start("train.py", *words, f"--out_dir={folder}") as process:
        while not (line := process.stderr.readline()).startswith(f"step {step}/".encode()):
            assert line, f"the run ended before step {step}"
        process.send_signal(signal.SIGKILL)
    resume = ("train.py", "--init_from=resume", f"--out_dir={folder}")
    shell.succeed(*resume)
    assert same_weights(folder / LATEST, tmp_path / "straight" / LATEST)
    assert untimed(metrics(folder)) == untimed(metrics(tmp_path / "straight"))


@pytest.mark.parametrize("objective", ["pairs"])
def test_a_stopped_run_says_how_to_go_on_and_ends_as_the_undisturbed_one(
    shell, text, dates, tmp_path, objective
):
    words = (*command(objective, text, dates), "--max_iters=30")
    shell.succeed("train.py", *words, f"--out_dir={tmp_path / 'straight'}")
    folder = tmp_path / "stopped"
    done = shell.signal_at("step 9/", signal.SIGTERM, *words, f"--out_dir={folder}")
    assert done.status == 143
    assert re.search(r"stopped after step \d+ of 30", done.stdout)
    finished = shell.run_printed(done, "  ")
    assert finished.status == 0, finished.stderr
    assert same_weights(folder / LATEST, tmp_path / "straight" / LATEST)
    assert untimed(metrics(folder)) == untimed(metrics(tmp_path / "straight"))
