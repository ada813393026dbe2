"""kqv/training/remarks.py: what a run says when it is slow or bad, and that it says nothing where all is
well."""

import json
import math
from pathlib import Path

import pytest

from kqv.machine.load import Usage
from kqv.options.command_line import read_arguments
from kqv.options.settings import TrainSettings
from kqv.training import remarks
from kqv.training.remarks import (
    Overfitting,
    Pace,
    checkpoint_remarks,
    duration,
    finished_remark,
    overfits,
    passes_remark,
)

# --- time and passes


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.4, "0 seconds"), (90, "90 seconds"), (300, "5 minutes"), (5400, "90 minutes"), (9000, "2.5 hours"),
        (40 * 3600, "40 hours"), (100 * 3600, "4.2 days"), (600 * 86400, "600 days"), (8.911e5 * 3600, "102 years"),
    ],
)  # fmt: skip
def test_a_time_is_said_in_the_unit_that_a_person_would_take(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def passes(tokens: int, parameters: int = 650_000, can_grow: bool = True, **options: object) -> str:
    settings = TrainSettings(**options)
    return passes_remark(
        settings,
        tokens,
        "characters",
        parameters,
        settings.batch_size * settings.block_size,
        can_grow,
    )


def test_the_default_run_says_how_often_it_reads_its_text_and_no_more() -> None:
    assert (
        passes(1_003_854)
        == "1,000 steps read 2.0 million characters: 2.04 passes over the 1.0 million for training"
    )


def test_a_large_text_gets_a_recipe_that_reads_it_once() -> None:
    said = passes(27_000_000, out_dir="out-big")
    assert (
        "1,000 steps read 2.0 million characters: 0.08 passes over the 27 million for training"
        in said
    )
    assert (
        "shakespeare_cpu.py --dropout=0 --max_iters=6592 --out_dir=out-big" in said
        and "45 minutes" in said
    )
    assert 6592 * remarks.RECIPE_STEP >= 27_000_000


def test_a_large_text_for_a_model_whose_shape_is_given_gets_more_steps() -> None:
    for said in (passes(27_000_000, can_grow=False), passes(270_000_000, parameters=5_000_000)):
        assert "shakespeare_cpu" not in said and "reads it once" in said
    assert "--max_iters=13184 " in passes(27_000_000, can_grow=False)


def test_a_tiny_text_is_told_to_be_learnt_by_heart() -> None:
    said = passes(450)
    assert (
        "4,551 passes over the 450 for training" in said
        and "--max_iters=4," in said
        and "--dropout=0.2" in said
    )
    assert "a higher --dropout" in passes(450, dropout=0.1)


def test_a_short_trial_of_a_usual_text_gets_no_advice() -> None:
    assert passes(1_003_854, max_iters=20).endswith("0.04 passes over the 1.0 million for training")
    assert "less than 0.01 passes" in passes(1_003_854, max_iters=1)
    assert "0.00 passes" in passes(1_003_854, max_iters=0)


def test_what_is_said_of_the_recipe_is_what_its_file_says() -> None:
    given, _ = read_arguments(TrainSettings, [str(remarks.RECIPE)])
    assert given["batch_size"] * given["block_size"] == remarks.RECIPE_STEP
    assert given["max_iters"] * remarks.RECIPE_STEP / remarks.RECIPE_SPEED == pytest.approx(
        6.9 * 60, rel=0.01
    )


# --- overfitting


def seen(*lines: tuple[int, float, float | None]) -> list[str]:
    """What is said at each of the evaluations (step, training loss, validation loss)."""
    watch = Overfitting(TrainSettings())
    return [
        watch.see(
            {
                "step": step,
                **({"val_loss": val} if val else {}),
                **({"train_loss": train} if train else {}),
            }
        )
        for step, train, val in lines
    ]


def test_a_model_that_memorises_is_told_of_when_it_happens_and_once() -> None:
    said = seen((0, 0, 3.74), (10, 2.9, None), (20, 0.9, 4.61), (40, 0.3, 5.9), (60, 0.1, 6.6))
    assert said[0] == said[1] == said[3] == said[4] == ""
    assert said[2].startswith(
        "validation loss has risen since step 0 (3.74 → 4.61) while the training loss fell to 1.90"
    )
    assert "--dropout=0.2" in said[2] and "\n" not in said[2]


def test_a_run_that_overfits_in_the_end_says_so_however_well_it_began() -> None:
    said = seen((0, 0, 4.17), (200, 1.9, 1.8), (400, 1.3, 1.50), (600, 1.1, 1.52), (800, 0.9, 1.62))
    assert said[:4] == [""] * 4 and "since step 400 (1.50 → 1.62)" in said[4]


@pytest.mark.parametrize(
    "lines",
    [
        [
            (0, 0, 4.17),
            (200, 1.9, 1.80),
            (400, 1.4, 1.55),
            (600, 1.3, 1.57),
        ],  # within what an estimate may rise
        [(0, 0, 4.17), (200, 1.9, 1.80), (400, 3.0, 3.10), (600, 6.0, 6.50)],  # diverges
        [(0, 0, 4.17), (200, 1.7, 1.90), (400, 1.6, 2.00)],  # both nearly the same
        [(0, 0, 4.17), (200, 0.03, 0.02), (400, 0.01, 0.03)],  # an easy text, learnt
        [
            (0, 0, 2.00),
            (200, 2.5, 2.60),
            (400, 2.2, 2.30),
        ],  # fine-tuning on another text begins with a jump
    ],
)
def test_noise_divergence_and_easy_texts_are_not_taken_for_memorising(
    lines: list[tuple[int, float, float]],
) -> None:
    assert not any(seen(*lines))


def test_a_loss_that_is_not_finite_is_no_overfitting() -> None:
    assert not overfits(math.nan, 1.5, 0.5, 1.4) and not overfits(4.0, 1.5, math.nan, 1.4)


def test_what_is_said_at_the_end_is_what_holds_then() -> None:
    watch = Overfitting(TrainSettings())
    for step, train, val in ((0, 4.0, 3.74), (20, 0.9, 4.61)):
        watch.see({"step": step, "train_loss": train, "val_loss": val})
    assert "since step 0" in watch.remark
    watch.see({"step": 40, "train_loss": 0.8, "val_loss": 3.5})  # it has found its way
    assert watch.remark == ""


# --- speed


class Clock:
    """A clock and cores that a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, threads: int = 2) -> None:
        for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
            monkeypatch.delenv(name, raising=False)
        self.now = self.busy = self.own = 0.0
        monkeypatch.setattr("kqv.training.remarks.time.perf_counter", lambda: self.now)
        monkeypatch.setattr(remarks, "usage", lambda: Usage(self.now, self.busy, self.own))
        monkeypatch.setattr(remarks, "core_count", lambda: 2)
        monkeypatch.setattr("sys.platform", "linux")
        self.pace = Pace(threads, "python train.py --init_from=resume --out_dir=out")

    def run(self, seconds: int, speed: float, others: float = 0.0) -> list[str]:
        """A report a second at this speed, while others use so many cores. What is said."""
        said = []
        for _ in range(seconds):
            self.now, self.busy, self.own = self.now + 1, self.busy + 2, self.own + 2 - others
            said.append(self.pace.see(speed))
        return [line for line in said if line]


def test_training_that_has_become_slow_beside_others_says_so_once_with_the_command_that_helps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch)
    assert clock.run(60, 55_600) == [] and clock.run(10, 4_200, others=1.4) == []
    (said,) = clock.run(60, 4_200, others=1.4)
    assert said == (
        "training is slow, 4,200 tokens/s after 55,600: other programs use 1.4 of 2 cores; Ctrl-C, then "
        "GOMP_SPINCOUNT=0 python train.py --init_from=resume --out_dir=out"
    )
    assert clock.run(60, 55_600) == [] and clock.run(60, 1_000, others=2) == []


def test_a_machine_that_slows_down_by_itself_is_told_from_one_that_is_shared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch)
    clock.run(60, 50_000)
    (said,) = clock.run(60, 20_000, others=0.1)
    assert "no other program uses the cores" in said and "GOMP" not in said


def test_one_thread_gets_no_advice_on_how_threads_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, threads=1)
    clock.run(60, 50_000)
    (said,) = clock.run(60, 20_000, others=1.5)
    assert said.endswith("other programs use 1.5 of 2 cores")


@pytest.mark.parametrize(
    "speeds",
    [
        [(60, 50_000), (60, 27_000)],  # slower, but not by half
        [(60, 50_000), (12, 5_000), (60, 50_000)],  # for a moment
        [(60, 20_000), (1, 200_000), (60, 20_000)],  # one report that is much too fast
        [(200, 4_200)],  # slow from the beginning
    ],
)
def test_ordinary_ups_and_downs_of_the_speed_are_not_worth_a_word(
    speeds: list[tuple[int, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    assert [
        said for seconds, speed in speeds for said in clock.run(seconds, speed, others=1.0)
    ] == []


# --- checkpoints and resumes


def remarks_on(name: str, step: object, **config: object) -> list[str]:
    checkpoint = {"iter_num": step, "config": {"max_iters": 1000, "init_from": "scratch", **config}}
    return checkpoint_remarks(checkpoint, Path("out") / name, "out")


def test_a_model_of_few_steps_is_called_hardly_trained() -> None:
    (said,) = remarks_on("ckpt.pt", 1)
    assert (
        said.startswith("out/ckpt.pt is hardly trained: it is of step 1 of 1,000; ")
        and "--init_from=resume" in said
    )
    (said,) = remarks_on("ckpt.pt", 1, max_iters=1)
    assert "step 1 of 1;" in said and "--max_iters=1000" in said
    assert (
        remarks_on("ckpt.pt", 99)
        and not remarks_on("ckpt.pt", 100)
        and not remarks_on("ckpt.pt", 20, max_iters=20)
    )


def test_nothing_is_said_of_models_that_others_trained_or_that_began_with_trained_weights() -> None:
    assert remarks_on("ckpt.pt", 1, init_from="gpt2") == []
    for foreign in (
        {},
        {"iter_num": 0},
        {"iter_num": 5, "nanogpt": True, "config": {"max_iters": 5000}},
    ):
        assert checkpoint_remarks(foreign, Path("model/config.json"), "model") == []
    assert checkpoint_remarks({"iter_num": 5, "config": json}, Path("out/ckpt.pt"), "out") == []


def test_last_pt_in_place_of_ckpt_pt_is_explained_unless_it_was_asked_for() -> None:
    (said,) = remarks_on("last.pt", 500)
    assert (
        said
        == "out: no evaluation has beaten the untrained model, so there is no ckpt.pt; sample.py takes last.pt"
    )
    checkpoint = {"iter_num": 500, "config": {"max_iters": 1000}}
    assert checkpoint_remarks(checkpoint, Path("out/last.pt"), "out/last.pt") == []


def test_a_finished_run_is_told_how_to_go_on_and_how_to_sample() -> None:
    said = finished_remark(1000, 1000, "out", "python train.py --init_from=resume --out_dir=out")
    assert (
        "finished (step 1,000 of 1,000)" in said
        and "--out_dir=out --max_iters=2000 trains on" in said
    )
    assert "sample.py --out_dir=out writes text" in said
    assert "--max_iters=1000 " in finished_remark(0, 0, "out", "x")
    assert "--max_iters=2000 " in finished_remark(1000, 500, "out", "x")
