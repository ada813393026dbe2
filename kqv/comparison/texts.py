"""The texts of a comparison, prepared once per tokenizer before anything is trained."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from kqv.comparison.runs import Configuration
from kqv.options.settings import CompareSettings
from kqv.text.datasets import Dataset, open_dataset, open_texts


def prepare_texts(
    configurations: Sequence[Configuration],
    settings: CompareSettings,
    given: dict[str, Any],
    words: Sequence[str],
) -> Dataset:
    """Prepare the text of each configuration, and name it there. Returns the first dataset.

    The text is `words` of the command line, or else what the configuration names; `given` are the
    options of the command line. Raises UserError for a text that cannot be read.
    """
    prepared: dict[tuple[str, ...], Dataset] = {}
    for each in configurations:
        tokenizer = str(each.changes.get("tokenizer", given.get("tokenizer", "")))
        texts = words or each.texts
        key = (tokenizer, "" if texts else each.settings.dataset, *texts)
        if key not in prepared and texts:
            how = (settings.encoding, tokenizer or "char", settings.text_field, settings.endings)
            prepared[key] = open_texts(texts, *how)
        elif key not in prepared:
            prepared[key] = open_dataset(each.settings.dataset, tokenizer)
        each.settings = replace(each.settings, dataset=prepared[key].name, endings="")
        each.text = prepared[key].title
    return next(iter(prepared.values()))
