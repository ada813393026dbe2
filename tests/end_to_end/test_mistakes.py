"""A mistake is one line that says what to do, and status 2; no traceback, and nothing is lost."""

import os
import pickle
import re
import shlex
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from helpers.hostile import Hostile
from helpers.shell import TINY, TINY_SETTINGS, metrics

from kqv import __version__
from kqv.checkpoints.loading import load_checkpoint


def assert_one_line(done, *words, status=2):
    assert done.status == status, done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    for word in words:
        assert word in done.stderr
    assert done.stdout == ""


# --- options: found before torch is imported


WRONG_OPTIONS = {
    "train.py --n_laier=3": ["n_laier", "n_layer"],
    "train.py --n_layer=three": ["n_layer", "three", "whole number"],
    "train.py --n_layer": ["--n_layer=VALUE"],
    "train.py --dtype=float8": ["float8", "float32", "bfloat16"],
    "train.py --bias=perhaps": ["bias", "True or False"],
    "train.py --max_iters=-1": ["max_iters", "0 or more"],
    "train.py --learning_rate=nan": ["learning_rate", "finite"],
    "train.py --n_embd=36 --n_head=5": ["--n_head=6", "--n_embd=40"],
    "train.py --n_embd=12 --n_head=4": ["d_k", "odd", "--n_embd=24", "--position=learned"],
    "train.py --seed=18446744073709551616": ["seed"],
    "sample.py --temprature=1": ["temprature", "temperature"],
    "sample.py --temperature=-1": ["temperature", "0 or more"],
    "sample.py --repetition_penalty=1e39": ["repetition_penalty", "100"],
    "sample.py --top_p=0": ["top_p", "--top_k=1"],
    "sample.py 'Once upon'": ["--start='Once upon'"],
    "train.py --learning_rate=1e9": ["learning_rate=1000000000.0", "--learning_rate=0.02"],
    "train.py --n_layer=1000000": ["n_layer=1000000", "1 to 1,000"],
    "train.py --n_layer=1000000 --dry_run=True": ["n_layer=1000000", "1 to 1,000"],
    "train.py --compile=novel.txt": ["compile takes auto, True or False"],
    "train.py --lr=1e-3": ["did you mean learning_rate?"],
    "train.py --data_dir=data/mine": ["train.py novel.txt", "--dataset=NAME"],
    "train.py --resume": ["write --init_from=resume"],
    "train.py --tokenizer=chars": ["did you mean char? (all: char, bytes"],
    "train.py --mask_rate=uniform": ["--architecture=encoder", "leave it out"],
    "train.py --architecture=encoder --beam_size=3": ["--architecture=encoder_decoder"],
    "train.py ''": ["the name of a text is empty"],
    "sample.py --prompt=Once": ["did you mean start?"],
    "sample.py --max_tokens=5": ["did you mean max_new_tokens?"],
    "sample.py config": ["--out_dir=config"],
    "sample.py train.py": ["train.py", "sets no option", "--start=FILE:train.py"],
    "explain.py data/shakespeare_char/differences.json": [
        "--text=FILE:data/shakespeare_char/differences.json"
    ],
    "export.py out/ckpt.pt": ["--out_dir=out/ckpt.pt"],
    "compare.py --seed=1 sample.py": ["sample.py", "sets no option", "--text=sample.py"],
    "benchmarks/bench.py --input=novel.txt": ["--input", "--help"],
}


@pytest.mark.parametrize("command", WRONG_OPTIONS)
def test_a_wrong_option_is_named_with_what_to_write_instead(shell, command):
    assert_one_line(shell.run(*shlex.split(command)), *WRONG_OPTIONS[command])


WRONG_LINES = {
    "n_laier = 3": ["n_laier", "n_layer"],
    "n_layer = 'three'": ["n_layer", "whole number"],
    "learning_rate = '1e-3'": ["learning_rate", "without quotes"],
    "n_layer = = 3": ["line 2", "SyntaxError"],
    "n_layer = 1 / 0": ["line 2", "ZeroDivisionError"],
}


@pytest.mark.parametrize("line", WRONG_LINES)
def test_a_mistake_in_a_config_file_is_named_with_the_file(shell, tmp_path, line):
    config = tmp_path / "mine.py"
    config.write_text(f"# my settings\n{line}\n")
    done = shell.run("train.py", config)
    assert_one_line(done, str(config), *WRONG_LINES[line])


@pytest.mark.parametrize(
    "script",
    ["train.py", "sample.py", "explain.py", "compare.py", "export.py", "benchmarks/bench.py"],
)
def test_each_script_says_its_version(shell, script):
    done = shell.run(script, "--version")
    assert done.status == 0 and done.stderr == ""
    assert re.fullmatch(
        rf"kqv {re.escape(__version__)}, torch {re.escape(torch.__version__)}, Python 3\.\S+\n",
        done.stdout,
    )


# --- a program is not a config


@pytest.mark.slow
def test_a_program_is_not_run_as_a_config_and_can_be_trained_on(shell, tmp_path):
    program, proof = tmp_path / "mycode.py", tmp_path / "proof"
    lines = "".join(f"value_{number} = {number} * {number}\n" for number in range(60))
    program.write_text(f"open({str(proof)!r}, 'w')\n{lines}")
    done = shell.run("train.py", program, TINY, f"--out_dir={tmp_path / 'out'}")
    assert_one_line(
        done, "mycode.py sets no option of train.py", "was not run", f"--text={program}"
    )

    done = shell.run("train.py", f"--text={program}", TINY, f"--out_dir={tmp_path / 'out'}")
    assert done.status == 0, done.stderr
    assert not proof.exists() and "mycode" in done.stderr
    kept = load_checkpoint(tmp_path / "out" / "last.pt")["config"]
    assert "text" not in kept and str(program) not in kept.values()
    program.unlink()  # a resume reads what was made of it
    done = shell.run(
        "train.py", "--init_from=resume", "--max_iters=22", f"--out_dir={tmp_path / 'out'}"
    )
    assert done.status == 0, done.stderr


@pytest.mark.slow
def test_a_config_that_does_more_than_set_options_is_told_so_before_it_runs(shell, text, tmp_path):
    config = tmp_path / "mine.py"
    config.write_text("# mine\nmax_iters = 1\nimport sys\nprint('it runs', file=sys.stderr)\n")
    done = shell.run("train.py", text, TINY, config, f"--out_dir={tmp_path / 'out'}")
    assert done.status == 0
    told = f"{config} does more than set options (line 3: import sys): it is run as Python"
    assert done.stderr.splitlines()[:2] == [told, "it runs"]
    assert (
        "more than set options"
        not in shell.run("train.py", text, TINY, "--dry_run=True", "--rate=1").stderr
    )


@pytest.mark.slow
def test_a_comparison_reads_a_named_text_and_those_of_its_configs(shell, text, tmp_path):
    program = tmp_path / "code.py"
    program.write_text("def double(x):\n    return 2 * x\n" * 60)
    for name, line in {"one": "", "two": f"text = {str(text)!r}\n"}.items():
        (tmp_path / f"{name}.py").write_text(TINY_SETTINGS + "max_iters = 2\n" + line)
    configs, out = [tmp_path / "one.py", tmp_path / "two.py"], tmp_path / "out"
    done = shell.run("compare.py", configs[0], f"--text={program}", f"--out_dir={out}")
    assert done.status == 0, done.stderr
    done = shell.run("compare.py", configs[1], f"--out_dir={out}")
    assert done.status == 0, done.stderr
    datasets = [
        re.search("^dataset = '(.*)'$", path.read_text(), re.MULTILINE)[1]
        for path in out.glob("runs/*/config.py")
    ]
    assert sorted(name.rpartition("-")[0] for name in datasets) == ["cache/animals", "cache/code"]
    # the command's text is laid over the config's: the same run as the first
    done = shell.run("compare.py", configs[1], f"--text={program}", f"--out_dir={out}")
    assert done.status == 0 and len(list(out.glob("runs/*"))) == 2, done.stderr


def test_text_that_lacks_quotes_in_a_config_file_is_not_told_to_leave_them_out(shell, tmp_path):
    config = tmp_path / "mine.py"
    config.write_text("out_dir = 5\n")
    done = shell.run("train.py", config)
    assert_one_line(done, "out_dir = 5", "text")
    assert "without quotes" not in done.stderr


def test_a_misspelt_config_file_gets_a_suggestion(shell, tmp_path):
    (tmp_path / "small.py").write_text("n_layer = 1\n")
    assert_one_line(
        shell.run("train.py", tmp_path / "smal.py"), "smal.py", str(tmp_path / "small.py")
    )


# --- texts, folders, devices


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A folder of texts that cannot be trained on, which no run may change."""
    folder = tmp_path_factory.mktemp("bad_texts")
    (folder / "empty.txt").write_text("")
    (folder / "short.txt").write_text("Too short.")
    (folder / "latin.txt").write_bytes("a café\n".encode("latin-1") * 100)
    (folder / "excel.txt").write_text("a café\n" * 100, encoding="utf-16")
    (folder / "greek.txt").write_text("αβγδ " * 100)
    (folder / "no_texts").mkdir()
    (folder / "no_texts" / "notes.md").write_text("no .txt file")
    return folder


UNTRAINABLE = {
    "TEXTS/empty.txt": ["empty.txt", "the text is empty"],
    "TEXTS/short.txt": [
        "the text is too short: its training split has 9",
        "take a longer text",
        "--block_size=8",
    ],
    "TEXTS/short.txt --block_size=8": ["its validation split has 1", "take a longer text"],
    "TEXTS/latin.txt": ["latin.txt", "0xE9", "offset 5", "--encoding"],
    "TEXTS/latin.txt --encoding=utf-16": ["latin.txt", "utf-16"],
    "TEXTS/excel.txt": ["excel.txt", "0xFF", "--encoding=utf-16"],
    "--architecture=encoder_decoder": ["learns from pairs", "pairs.tsv"],
    "TEXTS/nowhere.txt": ["nowhere.txt", "no such file"],
    "TEXTS/no_texts": ["no_texts", "no .txt, .jsonl or .parquet files"],
    "-n_layer=3": ["write --n_layer=3"],
    "https://example.org/books/novel.txt": [
        "nothing is downloaded",
        "curl -Lo novel.txt https://",
        "python train.py novel.txt",
    ],
    "TEXTS/grek.txt": ["grek.txt", "did you mean", "greek.txt?"],
    "--text=~/novel.txt": ["no such file or folder: ~/novel.txt", "without the ~"],
    "TRAINED": ["is a checkpoint, not a text", "--init_from="],
    "GOOD --n_embd=1048576 --n_layer=1000": ["GB of memory", "lower --n_embd"],
    "GOOD --n_embd=1048576 --n_layer=1000 --eval_only=True": [
        "this model takes more than",
        "lower --n_embd",
    ],
    "GOOD --out_dir=": ["out_dir= is empty"],
    "--dataset=nowhere": ["nowhere", "shakespeare_char"],
    "GOOD --device=banana": ["banana", "--device=cpu"],
    "GOOD --device=meta": ["meta", "--device=cpu"],
    "GOOD --out_dir=GOOD": ["animals.txt", "--out_dir"],
    "--init_from=resume --out_dir=TEXTS/no_texts": ["no_texts", "no checkpoint", "python train.py"],
    "TEXTS/greek.txt --init_from=TRAINED": ["'α'", "train from scratch"],
    "GOOD --init_from=TRAINED --n_layer=2": ["n_layer=1", "cannot become 2"],
}


@pytest.mark.slow
@pytest.mark.parametrize("words", UNTRAINABLE)
def test_what_cannot_be_trained_on_is_named_with_what_to_do(
    shell, text, texts, trained, tmp_path, words
):
    hints = UNTRAINABLE[words]
    for name, path in {"TEXTS": texts, "GOOD": text, "TRAINED": trained.folder}.items():
        words = words.replace(name, str(path))
    # an --out_dir= among the words comes later and wins
    assert_one_line(shell.run("train.py", f"--out_dir={tmp_path / 'out'}", *words.split()), *hints)
    assert list(tmp_path.iterdir()) == []


def test_cuda_on_a_machine_without_it_is_a_mistake(shell, trained):
    assert_one_line(
        shell.run("sample.py", f"--out_dir={trained.folder}", "--device=cuda"),
        "cuda",
        "--device=cpu",
    )


@pytest.mark.parametrize("data", [b"", b"caf\xe9"], ids=["empty", "not UTF-8"])
def test_a_mistake_in_piped_text_is_named_as_standard_input(shell, data):
    assert_one_line(shell.run("train.py", "-", input=data), "standard input")


OPTIONAL = {
    "--wandb_log=True": ("wandb_log", "wandb"),
    "--tensorboard=True": ("tensorboard", "tensorboard"),
    "--tokenizer=gpt2": ("tokenizer=gpt2", "tiktoken"),
    "--tokenizer=bpe:300": ("tokenizer=bpe:300", "rustbpe"),
}


@pytest.mark.parametrize("option", OPTIONAL)
def test_a_missing_optional_package_is_named_and_the_earlier_run_stays(
    shell, text, trained, tmp_path, option
):
    folder = tmp_path / "run"
    shutil.copytree(trained.folder, folder)
    what, package = OPTIONAL[option]
    # A config is Python: this one makes the package look missing.
    (tmp_path / "hide.py").write_text(
        "seed = 1337\nimport importlib.util as _util\n"
        f"_util.find_spec = lambda name: name != {package!r}\n"
    )
    done = shell.run("train.py", text, TINY, tmp_path / "hide.py", option, f"--out_dir={folder}")
    assert done.status == 2
    assert (
        done.stderr.splitlines()[-1]
        == f"train.py: {what} needs the package {package}: pip install {package}"
    )
    assert "Traceback" not in done.stderr
    assert metrics(folder) == metrics(trained.folder)
    assert (folder / "ckpt.pt").exists()


# --- prompts


BAD_PROMPTS = {
    "The ☃ red": ["'☃'", "U+2603", "position 4"],
    "": ["prompt is empty", "--start="],
    "FILE:TEXTS/latin.txt": ["latin.txt", "not UTF-8", "0xE9", "offset 5"],
}


@pytest.mark.parametrize("start", BAD_PROMPTS)
def test_a_prompt_that_cannot_be_used_is_explained(shell, trained, texts, start):
    prompt = start.replace("TEXTS", str(texts))
    assert_one_line(
        shell.run("sample.py", f"--out_dir={trained.folder}", f"--start={prompt}"),
        *BAD_PROMPTS[start],
    )


# --- checkpoints


def spoil(kind: str, good: Path, bad: Path, proof: Path) -> None:
    """Write to `bad` what became of the checkpoint `good`."""
    data = bytearray(good.read_bytes())
    if kind == "truncated":
        bad.write_bytes(data[: len(data) // 2])
    elif kind == "one bit of a weight flipped":
        with zipfile.ZipFile(good) as archive:
            largest = max(archive.infolist(), key=lambda member: member.file_size)
        data[largest.header_offset + largest.file_size // 2] ^= 1
        bad.write_bytes(data)
    elif kind == "one bit of the table of contents flipped":
        entry = data.rindex(b"PK\x01\x02")
        data[entry + 10] ^= 8  # "stored" becomes "deflated"
        bad.write_bytes(data)
    elif kind == "a text":
        bad.write_text("No checkpoint at all.\n" * 100)
    elif kind == "a pickle that runs code":
        bad.write_bytes(pickle.dumps(Hostile(proof)))
    elif kind == "a checkpoint that runs code":
        torch.save({**load_checkpoint(good), "extra": Hostile(proof)}, bad)
    elif kind == "309 bytes that take 5 GB":
        bomb = b"\x80\x02ctorch\nSize\ncbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R\x85R."
        with zipfile.ZipFile(bad, "w") as archive:
            archive.writestr("archive/data.PKL", bomb)
    elif kind == "a named pipe":
        os.mkfifo(bad)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "kind"),
    [
        ("sample.py --out_dir=BAD", "truncated"),
        ("sample.py --out_dir=BAD", "one bit of a weight flipped"),
        ("sample.py --out_dir=BAD", "one bit of the table of contents flipped"),
        ("sample.py --out_dir=BAD", "a text"),
        ("sample.py --out_dir=BAD", "a checkpoint that runs code"),
        ("sample.py --out_dir=BAD", "309 bytes that take 5 GB"),
        ("sample.py --out_dir=BAD", "a named pipe"),
        ("explain.py --out_dir=BAD", "a named pipe"),
        ("train.py --init_from=BAD", "one bit of a weight flipped"),
        ("train.py --init_from=BAD", "a pickle that runs code"),
        ("train.py --init_from=BAD", "a checkpoint that runs code"),
    ],
)
def test_a_bad_checkpoint_is_refused_and_nothing_in_it_is_run(
    shell, trained, tmp_path, command, kind
):
    bad, proof = tmp_path / "bad.pt", tmp_path / "proof"
    spoil(kind, trained.folder / "ckpt.pt", bad, proof)
    done = shell.run(*command.replace("BAD", str(bad)).split())
    assert_one_line(done, str(bad))
    assert not proof.exists()


# --- the machine's trouble


@pytest.mark.slow
def test_a_full_disk_costs_only_the_steps_since_the_last_checkpoint(shell, trained, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trained.folder, folder)
    words = ("--init_from=resume", "--max_iters=400", f"--out_dir={folder}")
    done = shell.run(
        "train.py", *words, largest_file=20_000
    )  # room for the metrics, not for a checkpoint
    assert done.status == 1
    assert "Traceback" not in done.stderr
    error = done.stderr.splitlines()[-1]
    for word in ["train.py: ", "ckpt.pt", "is kept", "--init_from=resume", str(folder)]:
        assert word in error
    for name in ("ckpt.pt", "last.pt"):
        assert (folder / name).read_bytes() == (trained.folder / name).read_bytes()
    assert sorted(path.name for path in folder.glob("[!.]*")) == sorted(
        path.name for path in trained.folder.glob("[!.]*")
    )
    assert list(folder.glob(".*.tmp")) == []


@pytest.mark.slow
def test_a_full_disk_at_the_first_checkpoint_does_not_advise_a_resume(shell, text, tmp_path):
    done = shell.run("train.py", text, TINY, f"--out_dir={tmp_path}", largest_file=20_000)
    assert done.status == 1
    assert "Traceback" not in done.stderr
    error = done.stderr.splitlines()[-1]
    assert "last.pt" in error and "no checkpoint was saved yet" in error
    assert "resume" not in error


@pytest.mark.parametrize(
    "script",
    ["train.py", "sample.py", "explain.py", "compare.py", "export.py", "benchmarks/bench.py"],
)
def test_without_the_packages_a_script_says_how_to_install_them(shell, script):
    done = shell.run(script, python=("-S",))
    assert done.status == 1 and done.stdout == ""
    assert (
        done.stderr
        == "kqv's packages are missing: make train, or pip install -r requirements.txt\n"
    )
