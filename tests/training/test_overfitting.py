"""What a user can rely on of a run that overfits: it is said when it happens, once, and only then."""

import math

import pytest

from kqv.options.settings import TrainSettings
from kqv.training.overfitting import Overfitting, overfits


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
