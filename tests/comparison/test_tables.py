"""What a user can rely on of the numbers of a comparison: their means, and what is missing."""

import statistics
from dataclasses import replace
from pathlib import Path

from helpers.comparison import made_up_configuration

from kqv.comparison.report import section
from kqv.comparison.runs import FACTS
from kqv.comparison.tables import change, loss, loss_table, measured


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


def test_losses_that_measure_different_things_are_not_put_side_by_side_without_a_word(
    tmp_path: Path,
) -> None:
    each = {name: made_up_configuration(tmp_path, name, 1.5) for name in ("causal", "bound")}
    for name, kind in (("causal", "over the whole"), ("bound", "an upper bound, over masks")):
        (each[name].runs[0].folder / "config.json").write_text(f'{{"measured": "{kind}"}}')
    assert measured([each["causal"]]) == ""
    each["bound"].settings = replace(each["bound"].settings, architecture="encoder")
    assert measured([each["bound"]]) == "The loss is an upper bound, over masks."
    both = measured([*each.values()])
    assert "causal is over the whole; that of bound is an upper bound" in both
    assert loss_table([*each.values()]).endswith(both)
    assert any(both in getattr(part, "text", "") for part in section("a", [*each.values()]))
