"""A run says when it begins to overfit, once, and says nothing otherwise."""

import math

import pytest

from kqv.options.settings import TrainSettings
from kqv.training.overfitting import Overfitting, overfits

Evaluation = tuple[int, float | None, float | None]  # step, training loss, validation loss


def remarks_at(*evaluations: Evaluation) -> list[str]:
    """The remark at each of these lines of metrics.jsonl."""
    watch, remarks = Overfitting(TrainSettings()), []
    for step, train_loss, val_loss in evaluations:
        line = {"step": step, "train_loss": train_loss, "val_loss": val_loss}
        remarks.append(watch.see({key: value for key, value in line.items() if value is not None}))
    return remarks


def test_a_model_that_memorises_is_reported_when_it_happens_and_once() -> None:
    remarks = remarks_at(
        (0, None, 3.74), (10, 2.9, None), (20, 0.9, 4.61), (40, 0.3, 5.9), (60, 0.1, 6.6)
    )
    remark = remarks.pop(2)
    assert remarks == [""] * 4
    assert remark.startswith(
        "validation loss has risen since step 0 (3.74 → 4.61) while the training loss fell to 1.90"
    )
    assert "--dropout=0.2" in remark
    assert "\n" not in remark


def test_a_run_that_overfits_late_is_reported_with_the_step_of_its_best_loss() -> None:
    *before, last = remarks_at(
        (0, None, 4.17), (200, 1.9, 1.8), (400, 1.3, 1.50), (600, 1.1, 1.52), (800, 0.9, 1.62)
    )
    assert before == [""] * 4
    assert "since step 400 (1.50 → 1.62)" in last


HARMLESS = {
    "a rise within the noise": [
        (0, None, 4.17), (200, 1.9, 1.80), (400, 1.4, 1.55), (600, 1.3, 1.57),
    ],
    "divergence": [(0, None, 4.17), (200, 1.9, 1.80), (400, 3.0, 3.10), (600, 6.0, 6.50)],
    "no gap between the losses": [(0, None, 4.17), (200, 1.7, 1.90), (400, 1.6, 2.00)],
    "an easy text": [(0, None, 4.17), (200, 0.03, 0.02), (400, 0.01, 0.03)],
    "a jump when fine-tuning begins": [(0, None, 2.00), (200, 2.5, 2.60), (400, 2.2, 2.30)],
}  # fmt: skip


@pytest.mark.parametrize("evaluations", HARMLESS.values(), ids=HARMLESS)
def test_what_is_not_overfitting_is_not_reported(evaluations: list[Evaluation]) -> None:
    assert not any(remarks_at(*evaluations))


def test_a_loss_that_is_not_finite_is_not_overfitting() -> None:
    assert not overfits(math.nan, 1.5, 0.5, 1.4)
    assert not overfits(4.0, 1.5, math.nan, 1.4)


def test_the_remark_at_the_end_is_about_the_last_evaluation() -> None:
    watch = Overfitting(TrainSettings())
    for step, train, val in ((0, 4.0, 3.74), (20, 0.9, 4.61)):
        watch.see({"step": step, "train_loss": train, "val_loss": val})
    assert "since step 0" in watch.remark
    watch.see({"step": 40, "train_loss": 0.8, "val_loss": 3.5})  # a new best loss
    assert watch.remark == ""
