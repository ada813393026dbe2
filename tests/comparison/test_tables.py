"""What a user can rely on of the numbers of a comparison: their means, and what is missing."""

import statistics
from pathlib import Path

from helpers.comparison import made_up_configuration

from kqv.comparison.report import section
from kqv.comparison.runs import FACTS
from kqv.comparison.tables import change, loss, loss_table


def test_the_loss_is_the_mean_of_the_seeds_and_their_sample_standard_deviation(
    tmp_path: Path,
) -> None:
    assert loss(made_up_configuration(tmp_path, "one", 2.5)) == "2.5000"
    losses = [1.5, 1.75, 2.5]
    expected = f"{statistics.mean(losses):.4f} ± {statistics.stdev(losses):.4f}"
    assert loss(made_up_configuration(tmp_path, "three", *losses)) == expected


def test_a_run_that_did_not_finish_is_said_and_has_no_part_in_the_mean(tmp_path: Path) -> None:
    two = made_up_configuration(tmp_path, "two", 1.5, 2.5)
    (two.runs[1].folder / FACTS).unlink()
    assert loss(two) == "1.5000 (1 of 2 not finished)"
    (two.runs[0].folder / FACTS).unlink()
    assert loss(two) == "not finished" and "not finished" in loss_table([two])
    section("two", [two])


def test_measures_of_the_layers_are_told_before_and_after_training(tmp_path: Path) -> None:
    assert change(made_up_configuration(tmp_path, "two", 1.5, 2.5), "raw_variance") == "9 → 25"
    assert change(made_up_configuration(tmp_path, "one", 1.5), "entropy") == "– → –"
