"""The remarks of a run: each is made where it helps, and none where all is well."""

import json
from pathlib import Path

import pytest

from kqv.options.command_line import read_arguments
from kqv.options.settings import TrainSettings
from kqv.training import remarks
from kqv.training.remarks import (
    checkpoint_remarks,
    duration,
    finished_remark,
    passes_remark,
)

# --- time and passes


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 seconds"),
        (90, "90 seconds"),
        (300, "5 minutes"),
        (5400, "90 minutes"),
        (9000, "2.5 hours"),
        (40 * 3600, "40 hours"),
        (100 * 3600, "4.2 days"),
        (600 * 86400, "600 days"),
        (8.911e5 * 3600, "102 years"),
    ],
)
def test_a_duration_is_given_in_the_unit_that_a_person_would_take(
    seconds: float, text: str
) -> None:
    assert duration(seconds) == text


def passes(tokens: int, parameters: int = 650_000, can_grow: bool = True, **options: object) -> str:
    """The remark about a text of so many tokens, with the default settings but for `options`."""
    settings = TrainSettings(**options)
    step_tokens = settings.batch_size * settings.block_size
    return passes_remark(settings, tokens, "characters", parameters, step_tokens, can_grow)


def test_the_default_run_says_how_often_it_reads_its_text_and_no_more() -> None:
    assert passes(1_003_854) == (
        "1,000 steps read 2.0 million characters: 2.04 passes over the 1.0 million for training"
    )


def test_a_large_text_gets_a_recipe_that_reads_it_once() -> None:
    remark = passes(27_000_000, out_dir="out-big")
    for part in (
        "1,000 steps read 2.0 million characters: 0.08 passes over the 27 million for training",
        "shakespeare_cpu.py --dropout=0 --max_iters=6592 --out_dir=out-big",
        "45 minutes",
    ):
        assert part in remark
    assert 6592 * remarks.RECIPE_STEP >= 27_000_000


def test_a_large_text_for_a_model_of_a_given_shape_gets_more_steps() -> None:
    for remark in (passes(27_000_000, can_grow=False), passes(270_000_000, parameters=5_000_000)):
        assert "shakespeare_cpu" not in remark
        assert "reads it once" in remark
    assert "--max_iters=13184 " in passes(27_000_000, can_grow=False)


def test_a_tiny_text_gets_a_warning_that_it_will_be_memorised() -> None:
    remark = passes(450)
    for part in ("4,551 passes over the 450 for training", "--max_iters=4,", "--dropout=0.2"):
        assert part in remark
    assert "a higher --dropout" in passes(450, dropout=0.1)


def test_a_short_trial_of_a_usual_text_gets_no_advice() -> None:
    assert passes(1_003_854, max_iters=20).endswith("0.04 passes over the 1.0 million for training")
    assert "less than 0.01 passes" in passes(1_003_854, max_iters=1)
    assert "0.00 passes" in passes(1_003_854, max_iters=0)


def test_the_numbers_of_the_recipe_are_those_of_its_file() -> None:
    given, _ = read_arguments(TrainSettings, [str(remarks.RECIPE)])
    assert given["batch_size"] * given["block_size"] == remarks.RECIPE_STEP
    seconds = given["max_iters"] * remarks.RECIPE_STEP / remarks.RECIPE_SPEED
    assert seconds == pytest.approx(6.9 * 60, rel=0.01)


# --- checkpoints and resumes


def remarks_on(name: str, step: object, **config: object) -> list[str]:
    checkpoint = {"iter_num": step, "config": {"max_iters": 1000, "init_from": "scratch", **config}}
    return checkpoint_remarks(checkpoint, Path("out") / name, "out")


def test_a_model_of_few_steps_is_called_hardly_trained() -> None:
    (remark,) = remarks_on("ckpt.pt", 1)
    assert remark.startswith("out/ckpt.pt is hardly trained: it is of step 1 of 1,000; ")
    assert "--init_from=resume" in remark
    (remark,) = remarks_on("ckpt.pt", 1, max_iters=1)
    assert "step 1 of 1;" in remark
    assert "--max_iters=1000" in remark


def test_a_tenth_of_the_default_steps_or_all_that_were_asked_for_are_enough() -> None:
    assert remarks_on("ckpt.pt", 99)
    assert not remarks_on("ckpt.pt", 100)
    assert not remarks_on("ckpt.pt", 20, max_iters=20)


def test_models_of_other_programs_and_fine_tuned_ones_are_not_called_hardly_trained() -> None:
    assert remarks_on("ckpt.pt", 1, init_from="gpt2") == []
    nanogpts = {"iter_num": 5, "nanogpt": True, "config": {"max_iters": 5000}}
    for checkpoint in ({}, {"iter_num": 0}, nanogpts):
        assert checkpoint_remarks(checkpoint, Path("model/config.json"), "model") == []
    malformed = {"iter_num": 5, "config": json}
    assert checkpoint_remarks(malformed, Path("out/ckpt.pt"), "out") == []


def test_last_pt_in_place_of_ckpt_pt_is_explained_unless_it_was_asked_for() -> None:
    (remark,) = remarks_on("last.pt", 500)
    assert remark == (
        "out: no evaluation has yet beaten the untrained model, so there is no ckpt.pt; "
        "sample.py takes last.pt"
    )
    checkpoint = {"iter_num": 500, "config": {"max_iters": 1000}}
    assert checkpoint_remarks(checkpoint, Path("out/last.pt"), "out/last.pt") == []


def test_a_finished_run_says_how_to_train_on_and_how_to_sample() -> None:
    remark = finished_remark(1000, 1000, "out", "python train.py --init_from=resume --out_dir=out")
    for part in (
        "finished (step 1,000)",
        "--out_dir=out --max_iters=2000 trains on",
        "sample.py --out_dir=out writes text",
    ):
        assert part in remark
    assert "--max_iters=1000 " in finished_remark(0, 0, "out", "x")
    assert "--max_iters=2000 " in finished_remark(1000, 500, "out", "x")
