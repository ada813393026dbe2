"""What a user can rely on when giving options on the command line, in any order."""

import dataclasses
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any, get_type_hints

import pytest
from helpers.options import TYPES, is_a, sample_options, train_options, values_of
from hypothesis import given, settings
from hypothesis import strategies as st

from kqv.errors import UserError
from kqv.options.checks import check_training
from kqv.options.command_line import read_arguments, split_configs
from kqv.options.settings import SETTINGS, ExplainSettings, SampleSettings, TrainSettings
from kqv.project import ROOT

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


def test_validation_files_add_up(config: Callable[..., str]) -> None:
    given = train_options(config("val_text = 'x.de'"), "--val_text=x.en")
    assert given == {"val_text": ("x.de", "x.en")}
    check_training(TrainSettings(**given))


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
            shown = "(repeatable)" if field.default == () else f"(default: {default})"
            assert shown in of_option[field.name]


def test_options_are_read_without_waiting_for_torch() -> None:
    check = """
import sys
from kqv.options.command_line import read_arguments
from kqv.options.checks import check_training
from kqv.options.settings import TrainSettings
arguments = ["novel.txt", "config/shakespeare_cpu.py", "--n_layer=8"]
given, words = read_arguments(TrainSettings, arguments)
check_training(TrainSettings(**given))
assert given["n_layer"] == 8 and words == ["novel.txt"] and "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=True)


def test_the_version_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for settings_class in SETTINGS.values():
        with pytest.raises(SystemExit) as ended:
            read_arguments(settings_class, ["--version"])
        assert not ended.value.code
        assert re.fullmatch(r"kqv \S+, torch \S+, Python [\d.]+\S*\n", capsys.readouterr().out)


# --- properties: any option, any value ------------------------------------------------------------


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
