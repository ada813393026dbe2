"""Config files become configurations to compare, each with runs in folders named by content."""

import ast
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from kqv.comparison.runs import Configuration, Run
from kqv.errors import UserError
from kqv.options.checks import check_pair_options, check_training
from kqv.options.config_files import Variant, read_variants
from kqv.options.defaults import take_nanogpt_defaults, training_settings
from kqv.options.settings import TrainSettings
from kqv.progress import say_once
from kqv.training.request import take_pairs

UNGROUPED = "configurations"  # the group of those whose names have one word
AS_TEXT = "to train on it write --text={}"  # what else a .py file could be for

# Options of the comparison itself, which do not override those of the configurations.
COMPARISON_OPTIONS = ("out_dir", "seed", "seeds", "open")
# Options that do not change what is trained.
NOT_IDENTITY = (
    "out_dir", "encoding", "endings", "init_from", "eval_only", "checkpoint_minutes",
    "on_write_error", "sample_chars", "inner_figures", "tensorboard", "wandb_log",
    "wandb_project", "wandb_run_name", "dry_run", "rate", "activation_checkpointing",
)  # fmt: skip


def read_configurations(
    paths: Sequence[str], overrides: dict[str, Any], words: Sequence[str] = ()
) -> list[Configuration]:
    """The configurations of these files, with the options of the command line over them; `words`
    are the texts that it names.

    Their runs are still to be named. Raises UserError naming the file if no run can have its
    settings.
    """
    configurations = [
        (path, _configuration(path, variant, overrides, words))
        for path in dict.fromkeys(paths)
        for variant in read_variants(TrainSettings, Path(path), AS_TEXT)
    ]
    names = [each.name for _, each in configurations]
    for path, each in configurations:
        if names.count(each.name) > 1:  # in two folders
            variant_name = each.name.removeprefix(Path(path).stem).removeprefix("_")
            each.name = f"{path}:{variant_name}" if variant_name else path
    return [each for _, each in configurations]


def _configuration(
    path: str, variant: Variant, overrides: dict[str, Any], words: Sequence[str]
) -> Configuration:
    own = dict(variant.options)
    texts = list(own.pop("text", ()))
    options = {**own, **overrides}
    if remark := take_nanogpt_defaults([path], options):  # adds `like` to the options
        print(remark, file=sys.stderr)
    if remark := take_pairs(options, words or texts):  # adds `architecture`
        say_once(remark)
    settings = training_settings(options)
    try:
        check_training(settings)
        check_pair_options(settings)
        if settings.init_from != "scratch" or settings.eval_only or settings.dry_run:
            raise UserError(
                "what is compared is trained from scratch: leave out init_from, eval_only and "
                "dry_run"
            )
    except UserError as error:
        where = f"{path}, variant {variant.name}" if variant.name else path
        raise UserError(f"{where}: {error}") from None
    ignored = (*COMPARISON_OPTIONS, *NOT_IDENTITY)
    changes = {
        name: getattr(settings, name)
        for name in options
        if (name in own or name not in overrides) and name not in ignored
    }
    stem = Path(path).stem
    question, _, rest = docstring(Path(path)).partition("\n\n")
    return Configuration(
        name=f"{stem}_{variant.name}" if variant.name else stem,
        group=stem if variant.name else group_of(stem),
        question=question,
        remark=variant.about or rest,
        changes=changes,
        settings=settings,
        texts=texts,
    )


def group_of(name: str) -> str:
    """The group of a configuration that is a file of its own: its name without the last word.

    >>> group_of("scale_dk8_sqrt"), group_of("mine")
    ('scale_dk8', 'configurations')
    """
    return name.rpartition("_")[0] or UNGROUPED


def docstring(path: Path) -> str:
    """The docstring of a config file, which is parsed, not run; "" if it has none."""
    try:
        return ast.get_docstring(ast.parse(path.read_bytes())) or ""
    except (OSError, SyntaxError, ValueError):
        return ""


def run_of(settings: TrainSettings, seed: int, out_dir: Path) -> Run:
    """The run of a configuration with a seed.

    Its folder is named by a digest of everything that decides what is trained, so that a finished
    run is found again, whatever its configuration is called.
    """
    settings = replace(settings, seed=seed, sample_chars=0, inner_figures=True)
    identity = {name: value for name, value in asdict(settings).items() if name not in NOT_IDENTITY}
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    return Run(replace(settings, out_dir=str(out_dir / "runs" / digest)))
