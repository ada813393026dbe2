"""compare.py as a user starts it: real runs of train.py, stopped, gone on with, failed."""

import dataclasses
import json
import re
import shlex
import shutil
import signal
import statistics
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers.pairs import write_pairs
from helpers.shell import (
    TINY_SETTINGS,
    Done,
    easy_text,
    fake_browser,
    metrics,
    same_weights,
    untimed,
)

from kqv.options.settings import CompareSettings
from kqv.training.run_folder import occupy

pytestmark = pytest.mark.slow

SEEDS = (1337, 1338)


def write_config(folder, name, *lines, docstring="Which is best?"):
    """A tiny configuration. Returns its path."""
    path = folder / f"{name}.py"
    path.write_text(f'"""{docstring}"""\n' + TINY_SETTINGS + "".join(f"{line}\n" for line in lines))
    return path


def run_folders(out_dir):
    """The folders of runs, by what their config.py says."""
    return {(path / "config.py").read_text(): path for path in (out_dir / "runs").iterdir()}


def folder_of(out_dir, line, seed=1337):
    """The folder of the run with this line in its settings; the default seed is not in them."""
    (folder,) = (
        path
        for text, path in run_folders(out_dir).items()
        if line in text.splitlines()
        and (f"seed = {seed}" in text.splitlines() if seed != 1337 else "seed =" not in text)
    )
    return folder


def stamps(folder):
    """What changes when a file below `folder` is written again."""
    return {
        path: (path.stat().st_mtime_ns, path.stat().st_ino)
        for path in folder.rglob("*")
        if path.is_file()
    }


@dataclass
class Compared:
    """A finished comparison: what was typed, what came of it."""

    configs: list[Path]
    words: tuple[object, ...]
    folder: Path
    done: Done


@pytest.fixture(scope="module")
def compared(shell, text, tmp_path_factory):
    """Two configurations with two seeds. Shared: tests leave its runs as they are."""
    folder = tmp_path_factory.mktemp("compared")
    configs = [
        write_config(folder, "heads_1", "n_head = 1"),
        write_config(folder, "heads_2", "n_head = 2", "out_dir = 'mine'"),
    ]
    words = (text, "--seeds=2", "--eval_interval=10", f"--out_dir={folder / 'out'}")
    done = shell.run("compare.py", *configs, *words)
    assert done.status == 0, done.stderr
    return Compared(configs, words, folder / "out", done)


def test_the_report_has_the_mean_over_the_seeds_of_the_loss_of_the_whole_split(compared):
    assert compared.done.stdout.splitlines()[:2] == [
        str(compared.folder / "report.html"),
        str(compared.folder / "report.md"),
    ]
    for heads in (1, 2):
        losses = [
            metrics(folder_of(compared.folder, f"n_head = {heads}", seed))[-1]["val_loss_full"]
            for seed in SEEDS
        ]
        expected = f"{statistics.mean(losses):.4f} ± {statistics.stdev(losses):.4f}"
        assert losses[0] != losses[1]
        assert f"| heads_{heads} | {expected} |" in (compared.folder / "report.md").read_text()
        assert (
            f"<td>heads_{heads}</td><td>{expected}</td>"
            in (compared.folder / "report.html").read_text()
        )
        assert re.search(
            rf"^heads_{heads} +[\d,]+ +{re.escape(expected)} ", compared.done.stdout, re.MULTILINE
        )


def test_a_run_is_the_one_that_train_py_makes_alone(shell, text, compared, tmp_path):
    words = ("--seed=1338", "--eval_interval=10", "--inner_figures=True", f"--out_dir={tmp_path}")
    assert shell.run("train.py", text, compared.configs[1], *words).status == 0
    folder = folder_of(compared.folder, "n_head = 2", 1338)
    assert same_weights(folder / "last.pt", tmp_path / "last.pt")
    assert untimed(metrics(folder)) == untimed(metrics(tmp_path))


def test_without_a_terminal_there_are_plain_lines(compared):
    lines = compared.done.stderr.splitlines()
    assert [line for line in lines if re.match(r"run \d of 4:", line)] == [
        f"run {number} of 4: heads_{heads}, seed {seed}, 20 steps"
        for number, (heads, seed) in enumerate(
            [(1, 1337), (1, 1338), (2, 1337), (2, 1338)], start=1
        )
    ]
    evaluated = [
        line
        for line in metrics(folder_of(compared.folder, "n_head = 2", 1338))
        if "val_loss" in line
    ]
    assert [line for line in lines if line.startswith("run 4 of 4 (")] == [
        f"run 4 of 4 (heads_2, seed 1338), step {line['step']} of 20: "
        f"validation loss {line['val_loss']:.4f} (estimate)"
        for line in evaluated
    ]


def test_what_is_finished_is_not_trained_again_and_what_has_changed_is(shell, compared, tmp_path):
    """The second configuration is the first by another name now, then another one."""
    folder = shutil.copytree(compared.folder, tmp_path / "out")
    words = (*compared.words, f"--out_dir={folder}")
    before = stamps(folder / "runs")
    same = write_config(
        tmp_path, "heads_one", "n_head = 1", "eval_interval = 10", docstring="Other words."
    )
    done = shell.run("compare.py", compared.configs[0], same, *words)
    assert done.status == 0 and done.stderr == ""
    assert stamps(folder / "runs") == before
    losses = re.findall(
        r"^\| heads_\w+ \| (\S+ ± \S+) \|", (folder / "report.md").read_text(), re.MULTILINE
    )
    assert len(losses) == 2 and losses[0] == losses[1]
    write_config(tmp_path, "heads_one", "n_head = 1", "eval_interval = 10", "learning_rate = 0.01")
    done = shell.run("compare.py", compared.configs[0], same, *words, "--seeds=1")
    assert done.status == 0 and re.findall("^run.*:.*steps$", done.stderr, re.MULTILINE) == [
        "run 1 of 1: heads_one, seed 1337, 20 steps"
    ]
    assert before.items() <= stamps(folder / "runs").items()
    assert metrics(folder_of(folder, "learning_rate = 0.01"))[-1]["step"] == 20


def test_at_a_terminal_the_report_opens_in_the_browser(shell, compared, tmp_path):
    folder = shutil.copytree(compared.folder, tmp_path / "out")
    browser, shown = fake_browser(tmp_path)
    done = shell.run_at_terminal(
        "compare.py", *compared.configs, *compared.words, f"--out_dir={folder}", **browser
    )
    assert done.status == 0 and str(folder / "report.html") in done.stdout
    assert shown.read_text() == f"{(folder / 'report.html').as_uri()}\n"


def test_at_a_terminal_the_bar_counts_the_steps_of_all_runs_and_names_the_one_that_is_made(
    shell, text, tmp_path
):
    configs = [
        write_config(tmp_path, f"heads_{heads}", f"n_head = {heads}", "log_interval = 1")
        for heads in (1, 2)
    ]
    done = shell.run_at_terminal(
        "compare.py", *configs, text, f"--out_dir={tmp_path / 'out'}", "--open=False"
    )
    assert done.status == 0
    last = r"steps of all runs: 40/40 .*, run 2 of 2 \(heads_2, seed 1337\), step 20 of 20: loss"
    assert re.search(last, done.stdout)


# --- stopped


STEPS = 800  # nothing holds the run back while a signal is on its way
LONG = (f"max_iters = {STEPS}", "eval_interval = 100", "eval_iters = 2", "log_interval = 20")


@pytest.fixture(scope="module")
def stopped(shell, text, tmp_path_factory):
    """A comparison stopped by Ctrl-C, resumed and stopped by SIGTERM, and finished by the command
    that it prints."""
    folder = tmp_path_factory.mktemp("stopped") / "my comparison"
    folder.mkdir()
    config = write_config(folder, "long_run", *LONG)
    words = (config, text, f"--out_dir={folder / 'out'}")
    interrupted = shell.signal_at(
        "run 1 of 1 (long_run, seed 1337), step 0 of", signal.SIGINT, *words, script="compare.py"
    )
    (run,) = (folder / "out" / "runs").iterdir()
    steps = [metrics(run)[-1]["step"]]
    later = f"run 1 of 1 (long_run, seed 1337), step {steps[0] // 100 * 100 + 100:,} of"
    terminated = shell.signal_at(later, signal.SIGTERM, *words, script="compare.py")
    steps.append(metrics(run)[-1]["step"])
    return folder, run, interrupted, terminated, steps, shell.run_printed(terminated, "  ")


def test_ctrl_c_and_sigterm_keep_the_run_and_say_the_command_that_goes_on(stopped, text):
    folder, _, interrupted, terminated, steps, _ = stopped
    assert (interrupted.status, terminated.status) == (130, 143)
    assert steps[0] < steps[1] < STEPS
    for done in (interrupted, terminated):
        command = shlex.split(done.stdout.splitlines()[-1])
        assert str(folder / "long_run.py") in command and f"--out_dir={folder / 'out'}" in command
        assert str(text) in command
        assert "Traceback" not in done.stderr


def test_the_run_goes_on_and_ends_as_if_it_had_not_been_stopped(shell, text, stopped, tmp_path):
    folder, run, _, _, _, finished = stopped
    assert finished.status == 0, finished.stderr
    assert (
        shell.run(
            "train.py",
            text,
            folder / "long_run.py",
            "--inner_figures=True",
            f"--out_dir={tmp_path}",
        ).status
        == 0
    )
    assert same_weights(run / "last.pt", tmp_path / "last.pt")
    assert untimed(metrics(run)) == untimed(metrics(tmp_path))


# --- failed, and hostile


HOSTILE = "</script><img src=x onerror=alert(1)>"


def test_a_run_that_fails_is_one_line_and_costs_the_others_nothing_and_no_text_does_anything(
    shell, tmp_path
):
    (tmp_path / "hostile.txt").write_text(f"{HOSTILE}\n" * 200)
    good = write_config(
        tmp_path,
        "a_<b onclick=x>",
        "max_iters = 60",
        docstring=f"Why {HOSTILE}?\n\nThis | is {HOSTILE}",
    )
    bad = write_config(tmp_path, "a_bad", "block_size = 2000")
    done = shell.run(
        "compare.py", bad, good, tmp_path / "hostile.txt", f"--out_dir={tmp_path / 'out'}"
    )
    assert done.status == 1 and "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert (
        last.startswith("compare.py: a_bad, seed 1337: the text is too short")
        and "block_size" in last
    )
    page, report = ((tmp_path / "out" / name).read_text() for name in ("report.html", "report.md"))
    assert "| a_bad | not finished |" in report and "<td>a_bad</td><td>not finished</td>" in page
    assert "Why &lt;/script&gt;&lt;img" in page and "Why &lt;/script>&lt;img" in report
    indented = re.compile("^    .*", re.MULTILINE)  # a sample in Markdown
    for content in (page, indented.sub("", report)):
        assert not re.search("<(script|/script|img src=x|b )", content)
    sample = page[page.index("<pre>") : page.index("</pre>")]
    assert "&lt;img src=x onerror" in sample and "<" not in sample[5:]  # it has learnt its text


@pytest.mark.parametrize(
    ("words", "status", "hint"),
    [
        ([], 2, "name the configurations"),
        (["good.py", "none.py"], 2, "no config file none.py"),
        (["good.py", "unknown.py"], 2, "did you mean n_head?"),
        (["good.py", "impossible.py"], 2, "impossible.py: n_embd=16 does not divide"),
        (["good.py", "resumed.py"], 2, "resumed.py: what is compared is trained from scratch"),
        (["good.py", "--eval_only=True"], 2, "trained from scratch"),
        (["good.py", "--seeds=0"], 2, "seeds=0 must be 1 or more"),
        (["good.py", "--seed=4611686018427387904"], 2, "seed="),
        (["good.py", "--n_heads=2"], 2, "did you mean n_head?"),
        (
            ["good.py", "--target_tokenizer=char"],
            2,
            "good.py: --target_tokenizer=char is for pairs",
        ),
        (["good.py", "--val_text=a.txt"], 2, "name what to train on, too"),
        (["good.py", "none.txt"], 2, "no such file or folder: none.txt"),
        (["good.py", "--dataset=none"], 2, "no dataset none"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_trained(shell, tmp_path, words, status, hint):
    write_config(tmp_path, "good")
    write_config(tmp_path, "unknown", "n_heads = 2")
    write_config(tmp_path, "impossible", "n_head = 3")
    write_config(tmp_path, "resumed", "init_from = 'resume'")
    done = shell.run("compare.py", *words, cwd=tmp_path)
    assert (
        done.status == status
        and hint in done.stderr
        and len(done.stderr.splitlines()) == 1
        and done.stdout == ""
    )
    assert not (tmp_path / "out-compare").exists()


def test_a_second_comparison_in_the_same_folder_is_refused(shell, text, tmp_path):
    with occupy(tmp_path / "out"):
        done = shell.run(
            "compare.py", write_config(tmp_path, "a"), text, f"--out_dir={tmp_path / 'out'}"
        )
    assert (
        done.status == 2
        and "another run is writing to" in done.stderr
        and len(done.stderr.splitlines()) == 1
    )


def test_help_lists_every_option_and_does_not_wait_for_torch(shell):
    done = shell.run("compare.py", "--help", python=("-X", "importtime"))
    assert done.status == 0
    for field in dataclasses.fields(CompareSettings):
        assert f"--{field.name} " in done.stdout
    imported = {line.split("|")[-1].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "kqv" in imported and not imported & {"torch", "numpy", "matplotlib"}


def test_a_text_can_come_from_standard_input(shell, tmp_path):
    config = write_config(tmp_path, "a", "max_iters = 2")
    done = shell.run("compare.py", "-", config, f"--out_dir={tmp_path / 'out'}", input=easy_text())
    assert done.status == 0, done.stderr
    assert "Trained on standard input with" in (tmp_path / "out" / "report.md").read_text()


def test_pairs_are_compared_on_validation_pairs_of_their_own_and_opened_once(shell, tmp_path):
    config = write_config(
        tmp_path, "depth", "max_iters = 4", 'variants = {"one": {}, "two": {"encoder_layers": 2}}'
    )
    train, val = (
        write_pairs(tmp_path / f"{name}.tsv", [(word, word[::-1]) for word in words])
        for name, words in (
            ("train", ["abc", "abba", "cab", "cabac"] * 9),
            ("val", ["baba", "acc"]),
        )
    )
    words = (config, train, f"--val_text={val}", f"--out_dir={tmp_path / 'out'}")
    done = shell.succeed("compare.py", *words)
    assert done.stderr.count("an encoder-decoder learns to translate") == 1
    assert (
        done.stdout.splitlines()[-1]
        == "The loss is over the targets of the whole validation split."
    )
    speeds = []
    for folder in run_folders(tmp_path / "out").values():
        written = json.loads((folder / "config.json").read_text())
        assert written["step_tokens"] == 8 * 8.5  # two sides of 3.75 letters, and an end
        assert written["settings"]["architecture"] == "encoder_decoder"
        last = metrics(folder)[-1]
        speeds.append(last["tokens_per_second"])
        assert len(last["entropy"]) == len(last["raw_variance"]) == 1  # of cross-attention
    assert len(speeds) == 2
    report = (tmp_path / "out" / "report.md").read_text()
    assert all(f"    {word} ─▶" in report for word in ("baba", "acc"))
    again = shell.succeed("compare.py", *words)
    assert again.stdout == done.stdout and "run 1" not in again.stderr


def test_a_bound_and_a_loss_of_masked_characters_are_told_from_a_decoders_loss(
    shell, text, tmp_path
):
    variants = {
        "causal": {"architecture": "decoder"},
        "masked": {"architecture": "encoder"},
        "diffusion": {"architecture": "encoder", "mask_rate": "uniform"},
    }
    config = write_config(tmp_path, "reading", "max_iters = 4", f"variants = {variants!r}")
    done = shell.succeed("compare.py", config, text, f"--out_dir={tmp_path / 'out'}")
    for part in ("Not all losses", "reading_diffusion is an upper bound", "reading_masked is over"):
        assert part in done.stdout.splitlines()[-1]
    for folder in run_folders(tmp_path / "out").values():
        assert {"raw_variance", "entropy"} <= metrics(folder)[-1].keys()


def test_different_tokens_are_compared_by_their_loss_per_character(shell, text, tmp_path):
    configs = [
        write_config(tmp_path, f"tokens_{name}", f'tokenizer = "{name}"')
        for name in ("char", "bytes")
    ]
    (tmp_path / "text.txt").write_text(text.read_text().replace("e", "é"))  # two bytes
    done = shell.run("compare.py", *configs, tmp_path / "text.txt", f"--out_dir={tmp_path}")
    assert done.status == 0, done.stderr
    last = metrics(folder_of(tmp_path, "tokenizer = 'bytes'"))[-1]
    assert last["val_loss_per_character"] > 1.05 * last["val_loss_full"]
    (row,) = (line for line in done.stdout.splitlines() if line.startswith("tokens_bytes "))
    assert f"{last['val_loss_per_character']:.4f}" in row
