"""What a user can rely on of config files: options are read, mistakes named, programs not run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.options import FINITE, TYPES, is_a, train_options
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kqv.errors import UserError
from kqv.options.checks import check_training
from kqv.options.command_line import read_arguments
from kqv.options.config_files import read_variants
from kqv.options.settings import SampleSettings, TrainSettings
from kqv.project import CONFIGS


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
        "n_head": 6,
        "n_embd": 384,
        "learning_rate": 1.0,
        "min_lr": 1e-4,
        "out_dir": "out-6",
        "bias": False,
        "compile": "auto",
        "attention_scale": "dim",
    }


def test_the_config_files_of_the_project_are_good_and_read_without_a_word(
    capsys: pytest.CaptureFixture[str],
) -> None:
    files = sorted(CONFIGS.rglob("*.py"))
    assert files
    for file in files:
        for variant in read_variants(TrainSettings, file, ""):
            check_training(TrainSettings(**variant.options))
    assert capsys.readouterr() == ("", "")


# --- variants, for compare.py -------------------------------------------------------------------


VARIANTS = """
n_layer = 2
variants = {
    "one": {"about": "One head.", "n_head": 1, "defaults": "kqv"},
    "deep": {"n_layer": 8, "text": ["a.txt", "b.txt"]},
}
"""


def test_each_variant_has_the_options_of_the_file_and_its_own(
    config: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    one, deep = read_variants(TrainSettings, Path(config(VARIANTS)), "")
    assert (one.name, one.about) == ("one", "One head.")
    assert one.options == {"n_layer": 2, "n_head": 1, "like": "kqv"}
    assert (deep.name, deep.about) == ("deep", "")
    assert deep.options == {"n_layer": 8, "text": ("a.txt", "b.txt")}
    assert capsys.readouterr() == ("", "")


def test_a_file_without_variants_is_one_without_a_name(config: Callable[..., str]) -> None:
    (alone,) = read_variants(TrainSettings, Path(config("n_layer = 2\n")), "")
    assert (alone.name, alone.about, alone.options) == ("", "", {"n_layer": 2})


@pytest.mark.parametrize("settings_class", [TrainSettings, SampleSettings])
def test_a_file_with_variants_is_for_compare_py_alone(
    settings_class: type, config: Callable[..., str], refused: Callable
) -> None:
    path = config('variants = {"1": {"seed": 1}, "2": {"seed": 2}}\n')
    with refused(path, f"python compare.py {path}"):
        read_arguments(settings_class, [path])


@pytest.mark.parametrize(
    ("variants", "parts"),
    [
        ("{}", ["variants takes names"]),
        ("[{'n_head': 1}]", ["variants takes names"]),
        ("8", ["variants", "8"]),
        ("{'a': 8}", ["variants takes names"]),
        ("{'': {'n_head': 1}}", ["variants takes names"]),
        ("{8: {'n_head': 1}}", ["variants takes names"]),
        ("{'a': {8: 1}}", ["variants takes names"]),
        ("{'a': {'n_heads': 1}}", ["variant a: n_heads = 1", "did you mean n_head?"]),
        ("{'a': {'n_head': 'x'}}", ["variant a: n_head = 'x'", "a whole number"]),
        ("{'a': {'about': 8}}", ["variant a: about = 8", "a text in quotes"]),
        ("{'a': {'variants': {}}}", ["variant a: variants = {}", "no option variants"]),
    ],
)
def test_a_mistake_in_the_variants_is_one_line_that_names_file_and_variant(
    variants: str, parts: list[str], config: Callable[..., str], refused: Callable
) -> None:
    path = config(f"n_layer = 2\nvariants = {variants}\n")
    with refused(path, *parts):
        read_variants(TrainSettings, Path(path), "")


# --- mistakes -----------------------------------------------------------------------------------


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
            "class W:\n    @property\n    def __class__(self): raise ValueError\n"
            "x = W()\nn_layer = W()",
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
    "a program that computes": "def train(batch_size): pass\nclass Model: n_layer = 3\n"
    "n = [dropout for dropout in range(3)]\n",
    "a program that reads a text": "text = open('novel.txt').read()\nprint(text)\n",
    "a star import": "from turtle import *\nforward(100)\n",
    "a program with variants": "variants = {'a': {}}\nprint(variants)\n",
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
_sizes = {"small": 64}
bias = False
'the end'
"""
    assert read_arguments(TrainSettings, [config(text)])[1] == ["a.txt"]
    assert capsys.readouterr() == ("", "")


# --- properties: any value ------------------------------------------------------------------------


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
