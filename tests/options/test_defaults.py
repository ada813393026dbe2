"""What a user can rely on of --like=nanogpt, and of nanoGPT's own config files."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from helpers.options import TYPES, train_options

from kqv.options.command_line import read_arguments
from kqv.options.defaults import (
    KQV_OPTIONS,
    NANOGPT_DEFAULTS,
    NANOGPT_FIXED,
    take_nanogpt_defaults,
    training_settings,
)
from kqv.options.model_options import ModelOptions
from kqv.options.settings import TrainSettings
from kqv.project import CONFIGS
from model import GPT2

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
    nanogpt_s = {"train_gpt2.py", "train_shakespeare_char.py"}
    for file in CONFIGS.glob("*.py"):
        given, line = taken(str(file))
        assert line == "" and given.get("like") == ("nanogpt" if file.name in nanogpt_s else None)


@pytest.mark.parametrize("name", ["train_gpt2", "train_shakespeare_char"])
def test_our_copies_of_nanogpt_s_config_files_are_what_they_copy(name: str) -> None:
    file = CONFIGS / f"{name}.py"
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
    model = {field.name for field in dataclasses.fields(ModelOptions)}
    assert model <= NANOGPT_DEFAULTS.keys() | set(KQV_OPTIONS)
    assert not NANOGPT_DEFAULTS.keys() & set(KQV_OPTIONS)
