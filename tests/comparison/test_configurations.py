"""What a user can rely on of configurations: their names, groups and variants; and that each file
in config/experiments/ is one question."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kqv.comparison.configurations import docstring, group_of, read_configurations, run_of
from kqv.options.model_options import ModelOptions
from kqv.project import CONFIGS
from model import GPT, GPTConfig

EXPERIMENTS = sorted((CONFIGS / "experiments").rglob("*.py"))
VARIANTS = '''"""Which is best?

All of them are small.
"""

n_embd = 16
n_layer = 1

variants = {
    "one": {"about": "One head.", "n_head": 1},
    "deep": {"n_head": 2, "n_layer": 3, "text": "deep.txt"},
}
'''


def write(path: Path, text: str) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("name", "group"),
    [("scale_dk8_sqrt", "scale_dk8"), ("heads_4", "heads"), ("mine", "configurations")],
)
def test_a_group_is_the_name_without_its_last_word(name: str, group: str, tmp_path: Path) -> None:
    (each,) = read_configurations([write(tmp_path / f"{name}.py", "n_layer = 1\n")], {})
    assert (each.name, each.group) == (name, group) and group_of(name) == group


def test_configurations_of_the_same_name_are_told_apart_by_their_path(tmp_path: Path) -> None:
    paths = [write(tmp_path / folder / "a_b.py", "n_layer = 1\n") for folder in ("x", "y")]
    paths += [write(tmp_path / folder / "many.py", VARIANTS) for folder in ("x", "y")]
    configurations = read_configurations([*paths, paths[0]], {})
    assert [each.name for each in configurations] == [
        *paths[:2],
        *(f"{path}:{name}" for path in paths[2:] for name in ("one", "deep")),
    ]
    assert [each.group for each in configurations] == ["a", "a"] + ["many"] * 4


def test_pairs_are_for_an_encoder_decoder_unless_a_configuration_says_otherwise(
    tmp_path: Path,
) -> None:
    plain = write(tmp_path / "plain.py", "n_layer = 1\n")
    text = write(tmp_path / "text.py", "architecture = 'decoder'\n")
    named = write(tmp_path / "named.py", "text = 'words.tsv'\n")
    configurations = read_configurations([plain, text], {}, ["words.tsv"])
    assert [each.settings.architecture for each in configurations] == ["encoder_decoder", "decoder"]
    (own,) = read_configurations([named], {})
    assert own.settings.architecture == "encoder_decoder"
    (other,) = read_configurations([named], {}, ["novel.txt"])
    assert other.settings.architecture == "decoder"


def test_the_docstring_is_read_and_nothing_is_run(tmp_path: Path) -> None:
    path = write(tmp_path / "a.py", '"""Why?\nReally?\n\nThis one.\n"""\n\nraise SystemExit(1)\n')
    assert docstring(Path(path)) == "Why?\nReally?\n\nThis one."
    (tmp_path / "a.py").write_text("n_layer = 1\n")
    assert docstring(tmp_path / "a.py") == docstring(tmp_path / "none.py") == ""


def test_variants_are_configurations_that_share_what_the_file_sets(tmp_path: Path) -> None:
    path = write(tmp_path / "heads.py", VARIANTS)
    one, deep = read_configurations([path], {"n_embd": 32, "dropout": 0.1})
    assert (one.name, one.group, one.question) == ("heads_one", "heads", "Which is best?")
    assert (deep.name, deep.group, deep.question) == ("heads_deep", "heads", "Which is best?")
    assert (one.remark, deep.remark) == ("One head.", "All of them are small.")
    # Options of the command line override those of the file.
    assert one.changes == {"n_embd": 32, "n_layer": 1, "n_head": 1}
    assert deep.changes == {"n_embd": 32, "n_layer": 3, "n_head": 2}
    assert (one.texts, deep.texts) == ([], ["deep.txt"])
    assert (deep.settings.n_layer, deep.settings.dropout) == (3, 0.1)


def test_a_mistake_in_a_variant_names_the_file_and_the_variant(
    tmp_path: Path, refused: Callable
) -> None:
    path = write(tmp_path / "heads.py", 'variants = {"five": {"n_head": 5}}\n')
    with refused(f"{path}, variant five: n_embd=128 does not divide"):
        read_configurations([path], {})


def test_a_run_has_the_same_folder_whatever_its_configuration_is_called(tmp_path: Path) -> None:
    alone = write(tmp_path / "alone.py", "n_embd = 16\nn_layer = 1\nn_head = 1\n")
    paths = [write(tmp_path / "heads.py", VARIANTS), alone]
    one, deep, same = read_configurations(paths, {})
    folders = [run_of(each.settings, 7, tmp_path).folder for each in (one, deep, same)]
    assert folders[0] == folders[2] != folders[1]
    assert run_of(one.settings, 8, tmp_path).folder not in folders


# --- config/experiments --------------------------------------------------------------------------


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_is_possible_says_what_it_asks_and_what_its_variants_are(path: Path) -> None:
    configurations = read_configurations([str(path)], {})
    assert len(configurations) > 1
    for each in configurations:
        assert each.group == path.stem and each.name.startswith(f"{path.stem}_")
        assert "?" in each.question and each.remark
        assert {"max_iters", "eval_interval"} < each.changes.keys()
        shape = {name: getattr(each.settings, name) for name in ModelOptions.__dataclass_fields__}
        model = GPT(GPTConfig(vocab_size=65, **shape))
        ids = torch.zeros(1, each.settings.block_size, dtype=torch.int64)
        source = ids if model.config.has_cross_attention else None
        assert torch.isfinite(model(ids, source=source)).all()


def test_the_shapes_have_about_as_many_parameters() -> None:
    counts = []
    for each in read_configurations([str(CONFIGS / "experiments" / "shape.py")], {}):
        shape = {name: getattr(each.settings, name) for name in ModelOptions.__dataclass_fields__}
        counts.append(GPT(GPTConfig(vocab_size=65, **shape)).parameter_count())
    assert len(counts) == 3 and max(counts) < 1.05 * min(counts)
