"""What a user can rely on when giving options: on the command line, in config files, in any order."""

import dataclasses
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kqv.errors import UserError
from kqv.options.aliases import ALSO_CALLED
from kqv.options.checks import check_training
from kqv.options.command_line import read_arguments, split_configs
from kqv.options.defaults import (
    FAMILY,
    NANOGPT_DEFAULTS,
    NANOGPT_FIXED,
    take_nanogpt_defaults,
    training_settings,
)
from kqv.options.option_types import option_types
from kqv.options.settings import SETTINGS, ExplainSettings, SampleSettings, TrainSettings
from kqv.project import ROOT
from model import GPT2, GPTConfig

TYPES = {
    field.name: get_type_hints(TrainSettings)[field.name]
    for field in dataclasses.fields(TrainSettings)
}
NUMBERS = [
    "0",
    "-1",
    "8",
    "1_0",
    " 8",
    "0x8",
    "1e3",
    "1e999",
    "nan",
    "-inf",
    "٣",
    "9" * 5000,
    "True",
    "None",
    "--help",
    "[8]",
]


def train_options(*arguments: str) -> dict[str, Any]:
    options, words = read_arguments(TrainSettings, arguments)
    assert words == []
    return options


def sample_options(*arguments: str) -> dict[str, Any]:
    options, words = read_arguments(SampleSettings, arguments)
    assert words == []
    return options


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., str]:
    """Write a config file; returns its path as a word of the command line."""

    def write(text: str, name: str = "config.py") -> str:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    return write


# --- the command line ---------------------------------------------------------------------------------------------


def test_without_arguments_nothing_is_set() -> None:
    assert read_arguments(TrainSettings, []) == ({}, [])


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (["--n_layer=8"], {"n_layer": 8}),
        (["--n_layer", "8"], {"n_layer": 8}),
        (["--n-layer", "8", "--batch-size=2"], {"n_layer": 8, "batch_size": 2}),
        (["--learning_rate", "-1"], {"learning_rate": -1.0}),
        (["--out_dir", "--bias"], {"out_dir": "--bias"}),
        (["--bias"], {"bias": True}),
        (["--bias", "--n_layer=8"], {"bias": True, "n_layer": 8}),
        (["--bias", "false", "--tie_weights", "True"], {"bias": False, "tie_weights": True}),
        (["--bias", "0"], {"bias": False}),
        (["--compile"], {"compile": True}),
        (["--compile", "auto"], {"compile": "auto"}),
        (["--attention_scale=0.5"], {"attention_scale": 0.5}),
        (["--attention_scale=dim"], {"attention_scale": "dim"}),
    ],
    ids=" ".join,
)
def test_an_option_is_written_in_all_the_usual_ways(
    arguments: list[str], options: dict[str, Any]
) -> None:
    assert train_options(*arguments) == options


@pytest.mark.parametrize("text", ["True", "true", "TRUE", "1"])
def test_a_switch_takes_true_and_false_in_words_and_numbers(text: str) -> None:
    opposite = {"1": "0"}.get(
        text, text.replace("True", "False").replace("true", "false").replace("TRUE", "FALSE")
    )
    for name in ("bias", "compile", "wandb_log"):
        assert train_options(f"--{name}={text}")[name] is True
        assert train_options(f"--{name}={opposite}")[name] is False


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("--dropout=0", 0.0),
        ("--learning_rate=1", 1.0),
        ("--min_lr=1e-4", 1e-4),
        ("--weight_decay=1", 1.0),
    ],
)
def test_a_whole_number_is_fine_where_nanogpt_wanted_a_point(argument: str, value: float) -> None:
    (given_value,) = train_options(argument).values()
    assert given_value == value and isinstance(given_value, float)


@pytest.mark.parametrize(
    "text",
    [
        "42",
        "4.2",
        "None",
        "True",
        "[1]",
        "{}",
        "a=b",
        "=",
        "",
        "--help",
        "-",
        '"quoted"',
        "two words",
        "\n",
        "config.py",
    ],
)
def test_text_stays_the_text_that_was_typed(text: str) -> None:
    assert sample_options(f"--start={text}") == {"start": text}
    assert sample_options("--start", text) == {"start": text}


def test_a_later_word_wins_wherever_the_words_stand(config: Callable[..., str]) -> None:
    four, six = config("n_layer = 4; n_head = 4", "four.py"), config("n_layer = 6", "six.py")
    assert train_options("--n_layer=2", "--n_layer=3")["n_layer"] == 3
    assert train_options(four, "--n_layer=2") == {"n_layer": 2, "n_head": 4}
    assert train_options("--n_layer=2", four) == {"n_layer": 4, "n_head": 4}
    assert train_options(four, six) == {"n_layer": 6, "n_head": 4}
    assert train_options(six, four) == {"n_layer": 4, "n_head": 4}


def test_texts_stand_anywhere_among_the_options_and_keep_their_order(
    config: Callable[..., str],
) -> None:
    four = config("n_layer = 4")
    options, words = read_arguments(
        TrainSettings, ["b.txt", "--bias", "a", four, "-", "--n_head", "2", "folder/", "b.txt"]
    )
    assert words == ["b.txt", "a", "-", "folder/", "b.txt"]
    assert options == {"bias": True, "n_layer": 4, "n_head": 2}


def test_a_named_text_is_a_text_whatever_its_name_and_stands_in_its_place(
    config: Callable[..., str],
) -> None:
    words = [
        "a.txt",
        "--text=mycode.py",
        "--n_layer=2",
        "b.txt",
        "--text",
        "other.py",
        config("text = ['c.py', 'd.txt']"),
        "-",
    ]
    assert read_arguments(TrainSettings, words) == (
        {"n_layer": 2}, ["a.txt", "mycode.py", "b.txt", "other.py", "c.py", "d.txt", "-"],
    )  # fmt: skip
    assert read_arguments(TrainSettings, [config("text = 'novel.txt'")]) == ({}, ["novel.txt"])


def test_a_named_text_is_never_among_the_settings() -> None:
    assert "text" not in dataclasses.asdict(
        TrainSettings(**read_arguments(TrainSettings, ["--text=mycode.py"])[0])
    )
    assert read_arguments(ExplainSettings, ["--text=To be"]) == (
        {"text": "To be"},
        [],
    )  # there it is a setting


def test_the_config_files_of_a_command_line_are_told_from_texts_and_values() -> None:
    words = ["a.py", "--text", "b.py", "--out_dir=c.py", "d.txt", "--bias", "e.py"]
    assert split_configs(TrainSettings, words) == (
        ["a.py", "e.py"],
        ["--text=b.py", "--out_dir=c.py", "d.txt", "--bias=True"],
    )


def test_stop_strings_add_up(config: Callable[..., str]) -> None:
    assert sample_options("--stop=a b", "--stop", "--", "--stop=\n") == {
        "stop": ("a b", "--", "\n")
    }
    assert sample_options(config("stop = ['x', 'y']"), "--stop=z") == {"stop": ("x", "y", "z")}
    assert sample_options(config("stop = 'END'")) == {"stop": ("END",)}


@pytest.mark.parametrize(
    ("argument", "parts"),
    [
        ("--n_layr=8", ["n_layr", "did you mean n_layer?"]),
        ("--dropuot=0.1", ["dropuot", "did you mean dropout?"]),
        ("--xyzzy", ["xyzzy", "--help"]),
        ("--", ["--help"]),
        ("--=3", ["--help"]),
        ("--n_layer", ["n_layer", "needs a value", "--n_layer="]),
        ("--n_layer=", ["n_layer", "a whole number"]),
        ("--n_layer=8.0", ["n_layer=8.0", "a whole number"]),
        ("--n_layer=True", ["n_layer=True", "a whole number"]),
        ("--dropout=none", ["dropout=none", "a number"]),
        ("--learning_rate=nan", ["learning_rate=nan", "finite"]),
        ("--attention_scale=inf", ["attention_scale=inf", "finite"]),
        ("--bias=yes", ["bias=yes", "True or False"]),
        ("--compile=never", ["compile=never", "auto, True or False"]),
        ("--compile=novel.txt", ["compile takes auto, True or False"]),
        ("--mask=casual", ["mask=casual", "causal, none or future"]),
        ("--attention_scale=cube", ["sqrt, dim, none or a number"]),
        ("--N_LAYER=3", ["did you mean n_layer?"]),
        ("--lr=1e-3", ["did you mean learning_rate?"]),
        ("--epochs=3", ["did you mean max_iters?"]),
        ("--steps=3", ["did you mean max_iters?"]),
        ("--iterations=3", ["did you mean max_iters?"]),
        ("--model=m", ["did you mean out_dir?"]),
        ("--data=novel.txt", ["train.py novel.txt", "--dataset=NAME"]),
        ("--data_dir=data", ["train.py novel.txt", "--dataset=NAME"]),
        ("--input=novel.txt", ["train.py novel.txt", "--dataset=NAME"]),
        ("--file=novel.txt", ["train.py novel.txt", "--dataset=NAME"]),
        ("--resume", ["write --init_from=resume"]),
        ("--gpu=0", ["write --device=cuda"]),
        ("--no_compile", ["write --compile=False"]),
        ("--config=mine.py", ["a config file is named alone"]),
        ("--temperature=1", ["temperature is an option of sample.py"]),
        ("--prompt=To be", ["start is an option of sample.py"]),
        ("--learning_rate=0,001", ["no comma"]),
        ("--text=", ["the name of a text is empty"]),
        ("", ["the name of a text is empty"]),
        ("-n_layer=3", ["write --n_layer=3"]),
        ("\N{EM DASH}n_layer=3", ["write --n_layer=3"]),  # as a text processor makes of two
        ("n_layer", ["write --n_layer=VALUE"]),
        ("resume", ["write --init_from=resume"]),
        ("shakespeare_char", ["write --dataset=shakespeare_char"]),
        ("ckpt.pt", ["a checkpoint, not a text", "--init_from=ckpt.pt"]),
        (f"--n_layer={'9' * 5000}", ["--n_layer=999", "a whole number"]),
        (f"--{'x' * 5000}", ["there is no option xxx", "--help"]),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_wrong_option_is_one_line_that_says_what_to_write(
    argument: str, parts: list[str], refused: Callable
) -> None:
    with refused(*parts):
        read_arguments(TrainSettings, [argument])


@pytest.mark.parametrize(
    ("argument", "meant"),
    [
        ("--prompt=x", "start"), ("--text=x", "start"), ("--length=5", "max_new_tokens"), ("--max_tokens=5", "max_new_tokens"),
        ("--temp=1", "temperature"), ("--model=out", "out_dir"), ("--checkpoint=out", "out_dir"), ("--n=3", "num_samples"),
    ],
)  # fmt: skip
def test_what_other_programs_call_an_option_of_sampling_is_understood(
    argument: str, meant: str, refused: Callable
) -> None:
    with refused(f"did you mean {meant}?"):
        read_arguments(SampleSettings, [argument])


def test_only_options_that_there_are_have_other_names() -> None:
    assert set(ALSO_CALLED) <= {
        name for settings_class in SETTINGS.values() for name in option_types(settings_class)
    }


def test_help_names_every_option_with_its_default_and_ends_well(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for word in ("--help", "-h"):
        with pytest.raises(SystemExit) as ended:
            read_arguments(TrainSettings, ["--n_layer=8", word], "[TEXT ...]")
        assert not ended.value.code
        printed = capsys.readouterr().out
        assert "[TEXT ...]" in printed
        words = " ".join(printed.replace("│", " ").split())  # out of the box
        of_option = dict(part.split(" ", 1) for part in words.split(" --")[1:])
        for field in dataclasses.fields(TrainSettings):
            default = repr("") if field.default == "" else field.default
            assert f"(default: {default})" in of_option[field.name]


def test_options_are_read_without_waiting_for_torch() -> None:
    check = """
import sys
from kqv.options.command_line import read_arguments
from kqv.options.checks import check_training
from kqv.options.settings import TrainSettings
given, words = read_arguments(TrainSettings, ["novel.txt", "config/shakespeare_cpu.py", "--n_layer=8"])
check_training(TrainSettings(**given))
assert given["n_layer"] == 8 and words == ["novel.txt"] and "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=True)


# --- config files -------------------------------------------------------------------------------------------------


def test_a_config_file_is_python_of_which_only_plain_assignments_count(
    config: Callable[..., str],
) -> None:
    text = """
import math, os
from pathlib import Path
from dataclasses import dataclass

_heads = 6
def double(x): return 2 * x
class Shape: width = 64
halve = lambda x: x // 2

n_head = _heads
n_embd = double(Shape.width) * 3  # 384
learning_rate = 1  # a float all the same
min_lr = math.sqrt(1e-8)
out_dir = f"out-{n_head}"
bias = not True
compile = "auto"
attention_scale = "dim"
"""
    assert train_options(config(text)) == {
        "n_head": 6, "n_embd": 384, "learning_rate": 1.0, "min_lr": 1e-4, "out_dir": "out-6", "bias": False,
        "compile": "auto", "attention_scale": "dim",
    }  # fmt: skip


def test_the_config_files_of_the_project_are_good() -> None:
    files = sorted((ROOT / "config").rglob("*.py"))
    assert files
    for file in files:
        check_training(TrainSettings(**train_options(str(file))))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("n_layr = 8", ["n_layr", "did you mean n_layer?"]),
        ("n_head = 2\nn_layr = 8", ["line 2", "n_layr = 8", "did you mean n_layer?"]),
        ("n_layer = 8\nxyzzy = 8", ["line 2", "xyzzy = 8", "--help"]),
        ("xyzzy = 8", ["sets no option", "was not run"]),
        (f"n_layer = {'9' * 5000}", ["line 1", "5000 digits"]),
        ("n_layer = 10 ** 5000", ["very many digits", "a whole number"]),
        ("learning_rate = 10 ** 5000", ["very many digits", "a number"]),
        (f"_x = 0x{'f' * 5000}\nn_layer = _x", ["very many digits"]),
        (
            "class W:\n    def __repr__(self): raise ValueError\nn_layer = W()",
            ["n_layer = (W)", "a whole number"],
        ),
        (
            "class W(str):\n    def __repr__(self): raise ValueError\nn_layer = W('x')",
            ["n_layer = (W)", "a whole number"],
        ),
        (
            "class E(Exception):\n    def __str__(self): raise ValueError\nn_layer = 3\nraise E",
            ["line 4", "E: "],
        ),
        ("class E(BaseException): pass\nn_layer = 3\nraise E('why')", ["line 3", "E: why"]),
        (
            "class W:\n    @property\n    def __class__(self): raise ValueError\nx = W()\nn_layer = W()",
            ["n_layer"],
        ),
        ("_f = lambda: _f()\nn_layer = _f()", ["RecursionError"]),
        ("n_layer = 8.0", ["n_layer = 8.0", "a whole number"]),
        ("n_layer = '8'", ["n_layer = '8'", "a whole number", "without quotes"]),
        ("dropout = '0.1'", ["dropout = '0.1'", "a number", "without quotes"]),
        ("bias = 'True'", ["bias = 'True'", "True or False", "without quotes"]),
        ("out_dir = 5", ["out_dir = 5", "text"]),
        ("n_layer = None", ["n_layer = None", "a whole number"]),
        ("dropout = 0.1,", ["dropout = (0.1,)", "a number"]),
        ("n_layer = [8]", ["n_layer = [8]", "a whole number"]),
        ("out_dir = ['out']", ["out_dir = ['out']", "text"]),
        ("learning_rate = float('inf')", ["learning_rate = inf", "finite"]),
        ("mask = 'casual'", ["mask = 'casual'", "causal, none or future"]),
        ("n_layer = 8\nn_head = (", ["line 2", "SyntaxError"]),
        ("n_layer = 8\n\nn_head = 1 / 0", ["line 3", "ZeroDivisionError"]),
        ("def heads():\n    return 1 / 0\n\nn_head = heads()", ["line 2", "ZeroDivisionError"]),
        ("n_layer = 8\nn_head = heads", ["line 2", "NameError", "heads"]),
        ("n_layer = 8\nimport no_such_module", ["line 2", "no_such_module"]),
        ("n_layer = 8\nimport json\njson.loads('{')", ["line 3", "JSONDecodeError"]),
        ("n_layer = 8\nopen('no such file')", ["line 2", "no such file"]),
        ("n_layer = 8\nraise SystemExit('stop')", ["line 2", "stop"]),
        ("\0", ["null"]),
    ],
)
def test_a_mistake_in_a_config_file_is_one_line_that_names_the_file(
    text: str, parts: list[str], config: Callable[..., str], refused: Callable
) -> None:
    path = config(text)
    with refused(path, *parts):
        read_arguments(TrainSettings, [path])


def test_a_missing_config_file_is_named_with_the_nearest_one(
    config: Callable[..., str], refused: Callable
) -> None:
    path = config("n_layer = 8", "small.py")
    with refused("smal.py", f"did you mean {path}?"):
        read_arguments(TrainSettings, [path.replace("small", "smal")])


PROGRAMS = {
    "a program": "import os\nprint('hello')\nsize = 640\n",
    "a program that computes": "def train(batch_size): pass\nclass Model: n_layer = 3\nn = [dropout for dropout in range(3)]\n",
    "a program that reads a text": "text = open('novel.txt').read()\nprint(text)\n",
    "a star import": "from turtle import *\nforward(100)\n",
    "constants": "SIZE = 640\n",
    "no Python": "It was a dark night.\n",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_python_file_that_sets_no_option_is_never_run(
    name: str,
    config: Callable[..., str],
    tmp_path: Path,
    refused: Callable,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = config(PROGRAMS[name] + f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with refused(path, f"to train on it write --text={path}"):
        read_arguments(TrainSettings, [path], instead="to train on it write --text={}")
    assert not (tmp_path / "ran").exists() and capsys.readouterr() == ("", "")


def test_the_names_of_a_program_are_not_taken_for_slips_of_the_pen(
    config: Callable[..., str], refused: Callable
) -> None:
    with refused("sets no option", "did you mean seed?"):
        read_arguments(TrainSettings, [config("seeed = 3\n")])
    with refused("it was not run"):
        read_arguments(TrainSettings, [config("import os\nseeed = 3\n")])


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("import time\nn_layer = 3", "(line 1: import time)"),
        ("n_layer = 3\nout_dir = 'out' + str(n_layer)", "(line 2: out_dir = 'out' + str(n_layer))"),
        ("n_layer = 3\nfor _i in (1, 2):\n    n_layer += _i", "(line 2: for _i in (1, 2):)"),
        ("n_layer = 3\ndef _f():\n    return 3", "(line 2: def _f():)"),
        ("n_layer = 3\nn_head = (4\n    + int('4'))", "(line 3: + int('4')))"),
        ("n_layer = 3\nif n_layer:\n    n_head = 3", "(line 2: if n_layer:)"),
    ],
)
def test_a_config_that_is_a_program_is_told_so_before_it_runs(
    text: str,
    line: str,
    config: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = config(f"{text}\n_says = print('runs')\n")
    read_arguments(TrainSettings, [path])
    assert capsys.readouterr() == (
        "runs\n",
        f"{path} does more than set options {line}: it is run as Python\n",
    )
    monkeypatch.setenv("LOCAL_RANK", "1")  # of the processes that torchrun starts, one says it
    read_arguments(TrainSettings, [path])
    assert capsys.readouterr().err == ""


def test_a_config_that_only_sets_options_is_read_without_a_word(
    config: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    text = """
'''Why.'''
# how
_width: int = 64
n_embd = _width * 2
n_layer, n_head = 2, (4)
n_layer += 1
learning_rate = 1e-3 if n_layer > 2 and not _width < 3 else -0.1
out_dir = f"out-{n_layer}"
text = ["a.txt"]
bias = False
'the end'
"""
    assert read_arguments(TrainSettings, [config(text)])[1] == ["a.txt"]
    for file in sorted((ROOT / "config").rglob("*.py")):
        read_arguments(TrainSettings, [str(file)])
    assert capsys.readouterr() == ("", "")


def test_the_version_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for settings_class in SETTINGS.values():
        with pytest.raises(SystemExit) as ended:
            read_arguments(settings_class, ["--version"])
        assert not ended.value.code
        assert re.fullmatch(r"kqv \S+, torch \S+, Python [\d.]+\S*\n", capsys.readouterr().out)


# --- nanoGPT's defaults, and its config files ----------------------------------------------------

# What each of the config files in nanoGPT's config/ sets.
EVAL: dict[str, Any] = dict(batch_size=8, eval_iters=500, eval_only=True, wandb_log=False)
NANOGPT_CONFIGS: dict[str, dict[str, Any]] = {
    "eval_gpt2": EVAL | {"init_from": "gpt2"},
    "eval_gpt2_medium": EVAL | {"init_from": "gpt2-medium"},
    "eval_gpt2_large": EVAL | {"init_from": "gpt2-large"},
    "eval_gpt2_xl": EVAL | {"init_from": "gpt2-xl"},
    "finetune_shakespeare": dict(
        out_dir="out-shakespeare", eval_interval=5, eval_iters=40, wandb_log=False,
        wandb_project="shakespeare", wandb_run_name="ft-1", dataset="shakespeare",
        init_from="gpt2-xl", always_save_checkpoint=False, batch_size=1,
        gradient_accumulation_steps=32, max_iters=20, learning_rate=3e-5, decay_lr=False,
    ),
    "train_gpt2": dict(
        wandb_log=True, wandb_project="owt", wandb_run_name="gpt2-124M", batch_size=12,
        block_size=1024, gradient_accumulation_steps=40, max_iters=600_000, lr_decay_iters=600_000,
        eval_interval=1000, eval_iters=200, log_interval=10, weight_decay=0.1,
    ),
    "train_shakespeare_char": dict(
        out_dir="out-shakespeare-char", eval_interval=250, eval_iters=200, log_interval=10,
        always_save_checkpoint=False, wandb_log=False, wandb_project="shakespeare-char",
        wandb_run_name="mini-gpt", dataset="shakespeare_char", gradient_accumulation_steps=1,
        batch_size=64, block_size=256, n_layer=6, n_head=6, n_embd=384, dropout=0.2,
        learning_rate=1e-3, max_iters=5000, lr_decay_iters=5000, min_lr=1e-4, beta2=0.99,
        warmup_iters=100,
    ),
}  # fmt: skip


def assignments(settings: dict[str, Any]) -> str:
    return "".join(f"{name} = {value!r}\n" for name, value in settings.items())


def taken(*words: str) -> tuple[dict[str, Any], str]:
    """What train.py makes of a command line: what is given in the end, and the line it says."""
    given, _ = read_arguments(TrainSettings, words)
    return given, take_nanogpt_defaults(words, given)


@pytest.mark.parametrize("name", NANOGPT_CONFIGS)
def test_a_config_file_of_nanogpt_s_is_recognised_and_gets_its_defaults(
    name: str, config: Callable[..., str]
) -> None:
    path = config("import time\n" + assignments(NANOGPT_CONFIGS[name]), f"{name}.py")
    given, line = taken(path)
    assert line.startswith(path) and len(line.splitlines()) == 1
    assert "wandb_log" in line and "--like=kqv" in line
    settings = vars(training_settings(given))
    for option, value in (NANOGPT_DEFAULTS | NANOGPT_FIXED | NANOGPT_CONFIGS[name]).items():
        assert settings[option] == value, option


@pytest.mark.parametrize("words", [("--like=kqv",), ("--like=nanogpt",), ("--init_from=resume",)])
def test_who_says_what_is_meant_hears_nothing_of_nanogpt(
    words: tuple[str, ...], config: Callable[..., str]
) -> None:
    path = config(assignments(NANOGPT_CONFIGS["train_gpt2"]))
    given, line = taken(path, *words)
    assert line == "" and given == {**NANOGPT_CONFIGS["train_gpt2"], **train_options(*words)}


@pytest.mark.parametrize("option", ["--qk_norm=True", "--optimizer=muon", "--window=8"])
def test_an_option_that_nanogpt_lacks_keeps_our_defaults_and_that_is_said(
    option: str, config: Callable[..., str]
) -> None:
    given, line = taken(config(assignments(NANOGPT_CONFIGS["train_gpt2"])), option)
    assert "like" not in given
    assert option[2:].partition("=")[0] in line and "--like=nanogpt" in line


TWEAKS = [
    "n_layer = 6\nn_embd = 192\nn_head = 6\ndropout = 0.1",
    "n_layer = 4\nmax_iters = 300\nbatch_size = 16\neval_interval = 50\nlearning_rate = 0.01",
    "wandb_log = False\nwandb_project = 'mine'\nwandb_run_name = 'a'\nbatch_size = 4",
    "wandb_log = False\ngradient_accumulation_steps = 4",
    "min_lr = 1e-4\nbeta2 = 0.99\nlearning_rate = 1e-3",
    "wandb_log = False\nmin_lr = 1e-4\nposition = 'rope'",  # two signs, but nanoGPT has no position
    "wandb_log = False\nmin_lr = 1e-4\nsample_chars = 0",
]


@pytest.mark.parametrize("text", TWEAKS)
def test_a_tweak_of_ours_is_not_taken_for_nanogpt_s(text: str, config: Callable[..., str]) -> None:
    given, line = taken(config(text))
    assert line == "" and "like" not in given


def test_our_own_config_files_say_themselves_what_they_are_like() -> None:
    folder = ROOT / "config"
    nanogpt_s = {"train_gpt2.py", "train_shakespeare_char.py"}
    for file in folder.rglob("*.py"):
        given, line = taken(str(file))
        assert line == "" and given.get("like") == ("nanogpt" if file.name in nanogpt_s else None)


@pytest.mark.parametrize("name", ["train_gpt2", "train_shakespeare_char"])
def test_our_copies_of_nanogpt_s_config_files_are_what_they_copy(name: str) -> None:
    file = ROOT / "config" / f"{name}.py"
    settings = vars(training_settings(train_options(str(file))))
    ours = {"wandb_log": False, "out_dir": settings["out_dir"]}  # nothing is sent anywhere unasked
    for option, value in (NANOGPT_DEFAULTS | NANOGPT_FIXED | NANOGPT_CONFIGS[name] | ours).items():
        assert settings[option] == value, option


def test_nanogpt_s_defaults_lie_under_all_that_is_given_wherever_it_stands(
    config: Callable[..., str],
) -> None:
    small = config("n_layer = 4\ndefaults = 'nanogpt'\nn_head = 4", "small.py")
    options = ["--n_embd=64", "--n_layer=4", "--n_head=4", "--like=nanogpt"]
    for words in (["--n_embd=64", small], [small, "--n_embd=64"], options):
        given = train_options(*words)
        assert given == {"n_layer": 4, "n_head": 4, "n_embd": 64, "like": "nanogpt"}
        settings = training_settings(given)
        assert (settings.n_layer, settings.n_embd, settings.block_size) == (4, 64, 1024)
        assert settings.optimizer == "adamw"
    ours = training_settings(train_options(small, "--like=kqv"))
    assert ours.block_size == TrainSettings().block_size
    assert train_options("--defaults=nanogpt") == {"like": "nanogpt"}


def test_nanogpt_s_options_are_ours_too_and_each_other_option_of_the_model_is_a_family_s() -> None:
    assert NANOGPT_DEFAULTS.keys() | NANOGPT_FIXED.keys() <= TYPES.keys()
    assert {name: NANOGPT_FIXED[name] for name in GPT2} == GPT2
    model = {field.name for field in dataclasses.fields(GPTConfig)} - {"vocab_size"}
    assert model <= NANOGPT_DEFAULTS.keys() | set(FAMILY) and not NANOGPT_DEFAULTS.keys() & set(
        FAMILY
    )


# --- properties: any option, any value ------------------------------------------------------------------------------


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    """All values of a type of option."""
    if get_origin(hint) is Literal:
        return st.sampled_from(get_args(hint))
    if members := get_args(hint):
        return st.one_of(*map(values_of, members))
    return {
        bool: st.booleans(), int: st.integers(), float: st.floats(allow_nan=False, allow_infinity=False), str: st.text(),
    }[hint]  # fmt: skip


def is_a(value: Any, hint: Any) -> bool:
    """Whether a value is one of a type of option, and nothing that merely behaves like one."""
    if get_origin(hint) is Literal:
        return isinstance(value, str) and value in get_args(hint)
    if members := get_args(hint):
        return any(is_a(value, member) for member in members)
    return type(value) is hint


@pytest.mark.parametrize("name", TYPES)
def test_every_value_comes_back_as_it_was_written(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "written.py"

    @settings(max_examples=6)
    @given(values_of(TYPES[name]))
    def check(value: Any) -> None:
        path.write_text(f"{name} = {value!r}\n", encoding="utf-8")
        for arguments in ([f"--{name}={value}"], [f"--{name}", str(value)], [str(path)]):
            read = train_options(*arguments)
            assert read == {name: value} and type(read[name]) is type(value)

    check()


@settings(max_examples=200)
@given(
    st.sampled_from(list(TYPES)),
    st.one_of(st.text(), st.sampled_from(NUMBERS), st.integers(-(10**6), 10**6).map(str)),
)
def test_any_text_as_a_value_is_taken_or_refused_in_one_line(name: str, text: str) -> None:
    try:
        options = train_options(f"--{name}={text}")
        assert is_a(options[name], TYPES[name])
        check_training(TrainSettings(**options))
    except UserError as error:
        assert name in str(error)
        assert not text.isprintable() or len(str(error).splitlines()) == 1


@settings(max_examples=200)
@given(
    st.lists(
        st.text()
        | st.text().map("--{}".format)
        | st.sampled_from(["--interactive", "--top_k", "--stop", "--start"])
    )
)
def test_any_words_at_all_are_taken_or_refused(words: list[str]) -> None:
    words = [
        word
        for word in words
        if word not in ("-h", "--help", "--version") and not word.endswith(".py")
    ]
    try:
        options, texts = read_arguments(SampleSettings, words)
        assert set(options) <= set(get_type_hints(SampleSettings)) and set(texts) <= set(words)
    except UserError as error:
        assert str(error)


FINITE = {"allow_nan": False, "allow_infinity": False}
PLAIN = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(**FINITE)
    | st.text()
    | st.binary()
    | st.complex_numbers(**FINITE)
)
ANYTHING = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(st.text(), inner),
    max_leaves=3,
)


@settings(max_examples=200)
@given(name=st.sampled_from(list(TYPES)), value=ANYTHING)
@example(name="dropout", value=(0.1,))
@example(name="out_dir", value=["out"])
@example(name="bias", value=1.0)
def test_any_value_in_a_config_file_is_taken_or_refused(
    name: str, value: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "anything.py"
    path.write_text(f"{name} = {value!r}\n", encoding="utf-8")
    try:
        assert is_a(train_options(str(path))[name], TYPES[name])
    except UserError as error:
        assert str(path) in str(error) and name in str(error) and len(str(error).splitlines()) == 1
