"""What a user can rely on of the runs of a comparison: their clock and their values."""

from pathlib import Path

import pytest
from helpers.comparison import METRICS, made_up_configuration, made_up_run


def test_the_clock_goes_on_over_a_resume_and_counts_training_alone(tmp_path: Path) -> None:
    """wall_seconds starts anew when a run is resumed; the speed of each stretch of ten steps of ten
    tokens does not."""
    lines = [*METRICS, {"step": 30, "tokens_per_second": 50, "wall_seconds": 0.5}]
    run = made_up_run(tmp_path / "run", lines)
    assert run.seconds([0, 5, 10, 20, 30]) == pytest.approx([0, 0.5, 1, 1.5, 3.5])
    assert run.seconds([-1, 40]) == pytest.approx([0, 3.5])
    assert made_up_run(tmp_path / "none", []).seconds([0, 10]) == [0, 0]


def test_values_of_a_step_are_one_a_seed_and_those_of_a_layer_that_is_not_there_none(
    tmp_path: Path,
) -> None:
    two = made_up_configuration(tmp_path, "two", 1.5, 2.5)
    assert two.values("val_loss") == {0: [4.0, 4.0], 20: [2.0, 2.0]}
    assert two.values("raw_variance", 1) == {0: [10.0, 10.0], 20: [30.0, 30.0]}
    assert two.values("raw_variance", 2) == two.values("nothing") == {}


def test_losses_of_longer_tokens_are_per_character(tmp_path: Path) -> None:
    last = {**METRICS[2], "val_loss_full": 2.5, "val_loss_per_character": 1.25}
    run = made_up_run(tmp_path / "run", [*METRICS[:2], last])
    one = made_up_configuration(tmp_path, "one", 2.5)
    one.runs = [run]
    assert one.losses == [1.25]
    assert one.values("val_loss") == {0: [2.0], 20: [1.0]}


def test_the_clock_counts_the_tokens_of_pairs_as_train_py_has_counted_them(tmp_path: Path) -> None:
    run = made_up_run(tmp_path / "run", METRICS)
    (run.folder / "config.json").write_text('{"step_tokens": 40, "measured": "over the targets"}')
    assert run.seconds([10, 20]) == pytest.approx([4, 6])
    assert run.measured == "over the targets"
    for damaged in ("", "[1]", "{", "null"):
        other = made_up_run(tmp_path / f"damaged {damaged}", METRICS)
        (other.folder / "config.json").write_text(damaged)
        assert other.seconds([10, 20]) == pytest.approx([1, 1.5])
