"""What a user can rely on of the checks: what no model or run can have is refused by name, before
anything starts."""

import math
import re
import sys
from collections.abc import Callable
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kqv.errors import UserError
from kqv.options.checks import check_architecture, check_sampling, check_training
from kqv.options.settings import SampleSettings, TrainSettings


@pytest.mark.parametrize(
    ("name", "wrong", "nearest_right"),
    [
        ("n_layer", 0, 1), ("n_head", 0, 1), ("n_head", -4, 1), ("n_embd", 0, 4 * 2),
        ("block_size", 0, 1), ("batch_size", 0, 1), ("gradient_accumulation_steps", 0, 1),
        ("eval_interval", 0, 1), ("eval_iters", 0, 1), ("log_interval", 0, 1),
        ("max_iters", -1, 0), ("warmup_iters", -1, 0), ("lr_decay_iters", -1, 0),
        ("window", -1, 0), ("mlp_width", -1, 0), ("sample_chars", -1, 0),
        ("rope_base", 0.5, 1.0), ("attention_scale", 2.0**41, 2.0**40),
        ("seed", -1, 0), ("seed", 2**64, 2**32), ("learning_rate", -1e-9, 0.0),
        ("muon_learning_rate", -1.0, 0.0), ("min_lr", -1.0, 0.0),
        ("weight_decay", -0.1, 0.0), ("grad_clip", -1.0, 0.0),
        ("dropout", 1.0, 0.999), ("dropout", -0.1, 0.0),
        ("beta1", 1.0, 0.0), ("beta2", 1.0, 0.0), ("beta1", -0.5, 0.0),
        ("cooldown", 1.01, 1.0), ("cooldown", -0.01, 0.0),
    ],
)  # fmt: skip
def test_an_impossible_setting_is_refused_by_name(
    name: str, wrong: Any, nearest_right: Any, refused: Callable
) -> None:
    with refused(f"{name}={wrong}"):
        check_training(TrainSettings(**{name: wrong}))
    check_training(TrainSettings(**{name: nearest_right}))


@pytest.mark.parametrize("name", ["learning_rate", "muon_learning_rate", "min_lr"])
@pytest.mark.parametrize("rate", [1.1, 1e9, 1e300])
def test_a_rate_with_which_nothing_is_learnt_is_refused_with_one_that_works(
    name: str, rate: float, refused: Callable
) -> None:
    usual = getattr(TrainSettings(), name)
    with refused(f"{name}={rate}", f"--{name}={usual}"):
        check_training(TrainSettings(**{name: rate}))
    check_training(TrainSettings(**{name: usual}))


@pytest.mark.parametrize(
    "options",
    [
        {"n_layer": 1_000_000},
        {"n_embd": 2**40, "n_head": 1},
        {"n_head": 2**40, "n_embd": 2**41},
        {"batch_size": 10**12},
        {"block_size": 10**12},
        {"max_iters": 10**5000},
        {"sample_chars": 10**5000},
        {"lr_decay_iters": 10**5000},
    ],
    ids=lambda options: " ".join(options),
)
def test_a_size_that_no_machine_has_is_refused_at_once(
    options: dict[str, int], refused: Callable
) -> None:
    for dry_run in (False, True):
        with refused(next(iter(options))):
            check_training(TrainSettings(**options, dry_run=dry_run))


@pytest.mark.parametrize("name", ["out_dir", "dataset", "init_from"])
def test_an_empty_name_does_not_mean_this_folder(name: str, refused: Callable) -> None:
    with refused(f"{name}= is empty"):
        check_training(TrainSettings(**{name: ""}))


@pytest.mark.parametrize(
    ("written", "meant"), [("resum", "resume"), ("gtp2", "gpt2"), ("scrach", "scratch")]
)
def test_a_slip_in_what_to_start_from_is_named(written: str, meant: str, refused: Callable) -> None:
    with refused(f"did you mean {meant}?"):
        check_training(TrainSettings(init_from=written))


def test_the_defaults_are_possible() -> None:
    check_training(TrainSettings())
    check_sampling(SampleSettings())


@given(
    st.integers(1, 400),
    st.integers(1, 64),
    st.sampled_from(get_args(get_type_hints(TrainSettings)["position"])),
)
@example(130, 4, "rope")
@example(9, 4, "rope")
@example(5, 1, "rope")
def test_heads_that_do_not_fit_are_refused_with_numbers_that_do(
    n_embd: int, n_head: int, position: str
) -> None:
    options = {"n_embd": n_embd, "n_head": n_head, "position": position}
    try:
        check_training(TrainSettings(**options))
        assert n_embd % n_head == 0 and (position != "rope" or n_embd // n_head % 2 == 0)
    except UserError as error:
        assert n_embd % n_head or position == "rope"
        advice = re.findall(r"--(n_head|n_embd|position)=(\w+)", str(error))
        assert advice
        for name, value in advice:
            check_training(
                TrainSettings(**{**options, name: value if name == "position" else int(value)})
            )


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("num_samples", 0),
        ("max_new_tokens", -1),
        ("temperature", -0.1),
        ("top_k", -1),
        ("seed", -1),
        ("seed", 2**64),
        ("top_p", 0.0),
        ("top_p", -0.1),
        ("top_p", 1.1),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", -1.0),
        ("stop", ("x", "")),
        ("blank", ""),
        ("blank", "__"),
        ("denoise_steps", -1),
    ],
)
def test_an_impossible_sampling_option_is_refused_by_name(
    name: str, wrong: Any, refused: Callable
) -> None:
    with refused(name):
        check_sampling(SampleSettings(**{name: wrong}))


def test_an_option_that_means_nothing_to_an_architecture_is_refused_by_name(
    refused: Callable,
) -> None:
    for name in ("past_block", "repetition_penalty", "stop"):
        check_architecture([name, "top_k"], "decoder")
        with refused(f"--{name}=", "architecture=encoder", "leave it out"):
            check_architecture(["top_k", name], "encoder")
    for name in ("blank", "denoise_steps"):
        check_architecture([name, "top_k"], "encoder")
        with refused(f"--{name}=", "--architecture=encoder,", "architecture=decoder"):
            check_architecture([name], "decoder")


def test_the_limits_of_sampling_are_possible() -> None:
    check_sampling(
        SampleSettings(temperature=0.0, top_k=0, top_p=math.ulp(0), min_p=1.0, max_new_tokens=0)
    )


def test_a_missing_wandb_is_said_before_the_run_starts(
    monkeypatch: pytest.MonkeyPatch, refused: Callable
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with refused("wandb_log", "pip install wandb"):
        check_training(TrainSettings(wandb_log=True))
