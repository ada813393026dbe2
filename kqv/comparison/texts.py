"""The texts and pairs of a comparison, prepared once per tokenizer before anything is trained."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from kqv.comparison.runs import Configuration
from kqv.text.datasets import Dataset
from kqv.training.data import open_named

# Settings that decide how the files that are named are read, and what their tokens are.
READING = (
    "encoding", "endings", "text_field", "source_field", "target_field", "val_text", "tokenizer",
    "target_tokenizer",
)  # fmt: skip


def prepare_texts(
    configurations: Sequence[Configuration], given: dict[str, Any], words: Sequence[str]
) -> Dataset:
    """Prepare the text or the pairs of each configuration, and name them there. Returns the first
    dataset.

    The text is `words` of the command line, or else what the configuration names; `given` are the
    options of the command line. Raises UserError for a text that cannot be read.
    """
    prepared: dict[tuple[Any, ...], Dataset] = {}
    for each in configurations:
        texts, settings = words or each.texts, each.settings
        chosen = {**given, **each.changes}
        pairs = settings.architecture == "encoder_decoder"
        key = (
            *("" if texts else settings.dataset, *texts, pairs, chosen.get("tokenizer")),
            *(getattr(settings, name) for name in READING),
        )
        if key not in prepared:
            prepared[key] = open_named(texts, settings, chosen)
        # What a run reads is now a dataset, with the split and the tokenizers that it has.
        each.settings = replace(settings, dataset=prepared[key].name, endings="", val_text=())
        each.text = prepared[key].title
    return next(iter(prepared.values()))
