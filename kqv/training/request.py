"""What a command line of train.py asks for: read and checked before torch is imported."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from kqv.errors import UserError
from kqv.machine.launching import Launch
from kqv.machine.load import sleep_where_crowded
from kqv.options.checks import (
    check_architecture,
    check_endings,
    check_pair_options,
    check_training,
)
from kqv.options.command_line import read_arguments, split_configs
from kqv.options.defaults import take_nanogpt_defaults, training_settings
from kqv.options.settings import TrainSettings
from kqv.project import CONFIGS
from kqv.text.tokenizer_names import check_tokenizer_name

GPU_RECIPE = CONFIGS / "gpu.py"


@dataclass(frozen=True)
class Request:
    """The options of a run, and what of them was typed."""

    settings: TrainSettings
    given: dict[str, Any]
    """the options that were given; a resumed run takes all others from its checkpoint"""
    texts: list[str]
    """text files and folders that were named"""
    arguments: Sequence[str]
    """the command line as it was typed"""

    def given_too(self, **options: Any) -> "Request":
        """The same request as if these options had been given, too."""
        given = {**self.given, **options}
        return replace(self, settings=training_settings(given), given=given)

    def takes_gpu_recipe(self) -> bool:
        """Whether a run on a GPU takes config/gpu.py. The defaults are a recipe for a CPU; a config
        file or --like=nanogpt is a recipe, too."""
        named = self.settings.like == "nanogpt" or split_configs(TrainSettings, self.arguments)[0]
        return self.settings.init_from == "scratch" and not named

    def with_gpu_recipe(self) -> "Request":
        """The same request on top of config/gpu.py."""
        recipe, _ = read_arguments(TrainSettings, [str(GPU_RECIPE)])
        request = self.given_too(**{**recipe, **self.given})
        check_training(request.settings)
        return request


def names_pairs(words: Sequence[str]) -> bool:
    """Whether words of a command line name pairs, which a .tsv file does.

    >>> names_pairs(["words.tsv.gz"]), names_pairs(["words.jsonl"]), names_pairs(["de", "en"])
    (True, False, False)
    """
    plain = (word.removesuffix(".gz").removesuffix(".zst") for word in words)
    return any(word.endswith(".tsv") for word in plain)


def take_pairs(given: dict[str, Any], texts: Sequence[str]) -> str:
    """Add architecture=encoder_decoder to `given` if the texts are pairs, which .tsv files are.
    Returns the line that says so, or ""."""
    if "architecture" in given or not names_pairs(texts):
        return ""
    given["architecture"] = "encoder_decoder"
    return (
        "a .tsv file has pairs, which an encoder-decoder learns to translate; "
        "--architecture=decoder reads it as a text"
    )


def read_request(arguments: Sequence[str], launch: Launch) -> Request:
    """Read and check a command line. Where the machine is crowded, prepares torch's threads for it.

    Raises UserError for a mistake.
    """
    given, texts = read_arguments(
        TrainSettings, arguments, "[TEXT ...] [CONFIG.py ...]", "to train on it write --text={}"
    )
    remark = take_nanogpt_defaults(arguments, given) or take_pairs(given, texts)
    settings = training_settings(given)
    check_training(settings)
    if settings.init_from == "scratch":  # a checkpoint brings its own tokenizer
        check_architecture(given, settings.architecture)
        check_pair_options(settings)
        check_tokenizer_name(settings.tokenizer)
        if settings.target_tokenizer:
            check_tokenizer_name(settings.target_tokenizer)
    check_endings(given.get("endings", ""), texts)
    if launch.world_size > 1 and "-" in texts:
        raise UserError(
            "standard input can be read by one process only: write the text to a file, and "
            "name that"
        )
    crowded = sleep_where_crowded(settings.device)
    if launch.is_main:
        for line in filter(None, (remark, crowded)):
            print(line, file=sys.stderr)
    return Request(settings, given, texts, arguments)
