"""What a user can rely on of a comparison: its means, its clock, its groups; and that each experiment of config/ is one."""

import json
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch

from kqv.comparison.pictures import label, styles
from kqv.comparison.report import Picture, Sample, Table, section, write_report
from kqv.comparison.runs import FACTS, Configuration, Run, change, docstring, loss, loss_table
from kqv.options.checks import check_training
from kqv.options.command_line import read_arguments
from kqv.options.settings import TrainSettings
from kqv.project import ROOT as PROJECT
from model import GPT, GPTConfig

EXPERIMENTS = sorted((PROJECT / "config" / "experiments").glob("*.py"))
LINES: list[dict[str, Any]] = [
    {"step": 0, "val_loss": 4.0, "raw_variance": [8.0, 10.0], "wall_seconds": 1.0},
    {"step": 10, "tokens_per_second": 100, "wall_seconds": 2.0},
    {
        "step": 20,
        "tokens_per_second": 200,
        "val_loss": 2.0,
        "raw_variance": [20.0, 30.0],
        "val_loss_full": 2.5,
    },
]
PNG = b"\x89PNG\r\n\x1a\n"


def run(folder: Path, lines: list[dict[str, Any]], **settings: Any) -> Run:
    """A run with these metrics, finished if they have the loss of the whole split."""
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if lines and "val_loss_full" in lines[-1]:
        facts = {"parameters": 1234, "sample": "Where?\n", "machine": "a laptop", "torch": "2"}
        (folder / FACTS).write_text(json.dumps(facts))
    return Run(
        TrainSettings(
            out_dir=str(folder), max_iters=20, batch_size=2, block_size=5, n_layer=2, **settings
        )
    )


def configuration(folder: Path, name: str, *losses: float, **changes: Any) -> Configuration:
    """A configuration whose seeds ended with these losses."""
    runs = [
        run(folder / f"{name}-{seed}", [*LINES[:2], {**LINES[2], "val_loss_full": loss}], seed=seed)
        for seed, loss in enumerate(losses)
    ]
    return Configuration(name, f"Why {name}?\n\nIt is {name}.", changes, runs[0].settings, runs)


def test_the_loss_is_the_mean_of_the_seeds_and_their_sample_standard_deviation(
    tmp_path: Path,
) -> None:
    assert loss(configuration(tmp_path, "one", 2.5)) == "2.5000"
    losses = [1.5, 1.75, 2.5]
    assert (
        loss(configuration(tmp_path, "three", *losses))
        == f"{statistics.mean(losses):.4f} ± {statistics.stdev(losses):.4f}"
    )


def test_a_run_that_did_not_finish_is_said_and_has_no_part_in_the_mean(tmp_path: Path) -> None:
    two = configuration(tmp_path, "two", 1.5, 2.5)
    (two.runs[1].folder / FACTS).unlink()
    assert loss(two) == "1.5000 (1 of 2 not finished)"
    (two.runs[0].folder / FACTS).unlink()
    assert loss(two) == "not finished" and "not finished" in loss_table([two])
    section("two", [two])


def test_the_clock_goes_on_over_a_resume_and_counts_training_alone(tmp_path: Path) -> None:
    """wall_seconds begins anew when a run is resumed; the speed of each stretch of ten steps of ten tokens does not."""
    lines = [*LINES, {"step": 30, "tokens_per_second": 50, "wall_seconds": 0.5}]
    assert run(tmp_path / "run", lines).seconds([0, 5, 10, 20, 30]) == pytest.approx(
        [0, 0.5, 1, 1.5, 3.5]
    )
    assert run(tmp_path / "none", []).seconds([0, 10]) == [0, 0]


def test_the_figures_are_told_before_and_after_training(tmp_path: Path) -> None:
    assert change(configuration(tmp_path, "two", 1.5, 2.5), "raw_variance") == "9 → 25"
    assert change(configuration(tmp_path, "one", 1.5), "entropy") == "– → –"


def test_values_of_a_step_are_one_a_seed_and_those_of_a_layer_that_is_not_there_none(
    tmp_path: Path,
) -> None:
    two = configuration(tmp_path, "two", 1.5, 2.5)
    assert two.values("val_loss") == {0: [4.0, 4.0], 20: [2.0, 2.0]}
    assert two.values("raw_variance", 1) == {0: [10.0, 10.0], 20: [30.0, 30.0]}
    assert two.values("raw_variance", 2) == two.values("nothing") == {}


@pytest.mark.parametrize(
    ("name", "group"),
    [("scale_dk8_sqrt", "scale_dk8"), ("heads_4", "heads"), ("mine", "configurations"), ("a/b_c/d.py", "configurations"),
     ("a/b_c/e_f.py", "e")],
)  # fmt: skip
def test_a_group_is_the_name_without_its_last_word(name: str, group: str) -> None:
    assert Configuration(name, "", {}, TrainSettings()).group == group


def test_the_docstring_is_read_and_nothing_is_run(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text('"""Why?\nReally?\n\nThis one.\n"""\n\nraise SystemExit(1)\n')
    each = Configuration("a", docstring(file), {}, TrainSettings())
    assert (each.question, each.remark) == ("Why?\nReally?", "This one.")
    file.write_text("n_layer = 1\n")
    assert docstring(file) == docstring(tmp_path / "none.py") == ""


def test_a_section_has_the_question_what_differs_and_pictures(tmp_path: Path) -> None:
    members = [
        configuration(tmp_path, "a_x", 1.5, 2.0, n_layer=2, mask="causal"),
        configuration(tmp_path, "a_y", 3.0, n_layer=2),
    ]
    parts = section("a", members)
    assert [part.html() for part in parts[:3]] == [
        "<p>Why a_x?</p>",
        "<p>Why a_y?</p>",
        "<p>All have n_layer = 2.</p>",
    ]
    tables = [part for part in parts if isinstance(part, Table)]
    first = dict(zip(tables[0].headers, tables[0].rows[0], strict=True))
    assert first == {
        "configuration": "a_x", "validation loss": "1.7500 ± 0.3536", "bits per character": "2.525", "parameters": "1,234",
        "seconds of training": "1.5", "tokens/s": "133", "what it changes": "mask = 'causal'", "what it is": "It is a_x.",
    }  # fmt: skip
    assert tables[1].rows[0][:3] == ["a_x", "32", "9 → 25"]
    pictures = [part for part in parts if isinstance(part, Picture)]
    assert len(pictures) == 2 and all(part.png.startswith(PNG) for part in pictures)
    assert [part.name for part in parts if isinstance(part, Sample)] == [
        "a_x, seed 0",
        "a_y, seed 0",
    ]


HOSTILE = [
    "_x",
    "$a^$ $\\frac$",
    "<img src=x>_a",
    "小猫_🐱",
    "a\nb_c",
    "../../up_a",
    "a" * 200 + "_b",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_any_name_is_drawn_and_written(name: str, tmp_path: Path) -> None:
    each = configuration(tmp_path, "a", 1.5)
    each.name = name
    (tmp_path / "out").mkdir()
    page, report = write_report([each], tmp_path / "out", "")
    pictures = list((tmp_path / "out" / "pictures").iterdir())
    assert len(pictures) == 2 and all(path.read_bytes().startswith(PNG) for path in pictures)
    assert all(f"(pictures/{path.name})" in report.read_text() for path in pictures)
    assert "<img src=x" not in page.read_text() + report.read_text()
    assert not list(tmp_path.glob("*.png"))


def test_no_two_of_many_lines_look_the_same() -> None:
    assert len({tuple(style.values()) for style in styles(32)}) == 32 and len(styles(40)) == 40
    assert len({style["color"] for style in styles(8)}) == 8 and {
        style["linestyle"] for style in styles(8)
    } == {"-"}


def test_names_are_no_formulas() -> None:
    assert label("$x^$") == r"\$x^\$" and not label("_x").startswith("_")


# --- config/experiments


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_is_possible_says_what_it_asks_and_what_it_is(path: Path) -> None:
    given, _ = read_arguments(TrainSettings, [str(path)])
    settings = TrainSettings(**given)
    check_training(settings)
    assert {"max_iters", "eval_interval"} < set(given)
    each = Configuration(path.stem, docstring(path), given, settings)
    assert "?" in each.question and each.remark
    others = [
        docstring(other)
        for other in EXPERIMENTS
        if Configuration(other.stem, "", {}, settings).group == each.group
    ]
    assert len(others) > 1 and {other.partition("\n\n")[0] for other in others} == {each.question}
    shape = {
        name: value
        for name, value in vars(settings).items()
        if name in GPTConfig.__dataclass_fields__
    }
    model = GPT(GPTConfig(vocab_size=65, **shape))
    assert torch.isfinite(model(torch.zeros(1, settings.block_size, dtype=torch.int64))).all()


def test_the_shapes_have_about_as_many_parameters() -> None:
    counts = []
    for path in EXPERIMENTS:
        if path.stem.startswith("shape_"):
            given, _ = read_arguments(TrainSettings, [str(path)])
            counts.append(
                GPT(
                    GPTConfig(vocab_size=65, n_layer=given["n_layer"], n_embd=given["n_embd"])
                ).parameter_count()
            )
    assert len(counts) == 3 and max(counts) < 1.05 * min(counts)
