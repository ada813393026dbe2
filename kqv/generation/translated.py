"""Write the targets of an encoder-decoder to standard output."""

import json
from collections.abc import Sequence

import torch

from kqv.errors import UserError
from kqv.generation.targets import Target
from kqv.generation.translating import Hypothesis, Translator, encode_source
from kqv.generation.writing import SEPARATOR, say_left_out, show
from kqv.options.settings import SampleSettings
from kqv.text.tokenizer import Tokenizer
from model import GPT


def write_translations(
    model: GPT,
    tokenizer: Tokenizer,
    source_tokenizer: Tokenizer,
    prompt: str,
    settings: SampleSettings,
    dtype: torch.dtype,
) -> None:
    """Translate a source, the first target shown as it is written, or with each_line every line.

    `tokenizer` is that of the targets, `dtype` the precision of the large matrices. Raises
    UserError for a source that is empty, too long or has characters that the model does not know.
    """
    translator = Translator(model, tokenizer, settings, dtype)
    lines = prompt.removesuffix("\n").split("\n")
    if settings.each_line:
        _write_lines(translator, source_tokenizer, lines)
        return
    if len(lines) > 1:
        raise UserError(
            f"the source has {len(lines)} lines: --each_line=True translates each of them"
        )
    ids = _encode(source_tokenizer, lines[0], settings, model.config.block_size)
    if settings.output == "text" and settings.beam_size == 1:
        _stream(translator, ids)
        return
    (found,) = translator.translate([ids])
    for number, hypothesis in enumerate(found):
        if settings.output == "jsonl":
            show(_as_json(lines[0], number, hypothesis, {}))
        else:
            show(hypothesis.text + "\n")


def _stream(translator: Translator, ids: Sequence[int]) -> None:
    """Show the first target as it is written, the others when all are done."""
    shown = ""
    targets: list[Target] = []
    for targets in translator.sample(translator.padded([ids])):
        text = translator.hypothesis(targets[0]).text.rstrip("\ufffd")  # half a character may come
        if text.startswith(shown):
            show(text[len(shown) :])
            shown = text
    first, *others = [translator.hypothesis(target).text for target in targets]
    show(first[len(shown) :] + "\n")
    for text in others:
        show(f"{SEPARATOR}\n{text}\n")


def _write_lines(translator: Translator, source_tokenizer: Tokenizer, lines: Sequence[str]) -> None:
    """Translate each line, in batches; an empty line is answered by an empty line.

    In text, several targets of a line stand side by side with tabs between them.
    """
    settings, block_size = translator.settings, translator.model.config.block_size
    sources = []
    for number, line in enumerate(lines, start=1):
        try:
            if line:
                sources.append(_encode(source_tokenizer, line, settings, block_size))
        except UserError as error:
            raise UserError(f"line {number}: {error}") from None
    targets = translator.translate(sources)
    for number, line in enumerate(lines, start=1):
        found = next(targets) if line else []
        if settings.output == "text":
            show("\t".join(each.text for each in found) + "\n")
            continue
        for sample, each in enumerate(found):
            show(_as_json(line, sample, each, {"line": number}))


def _encode(
    tokenizer: Tokenizer, text: str, settings: SampleSettings, block_size: int
) -> list[int]:
    if settings.unknown == "skip":
        ids, skipped = tokenizer.encode_known(text)
        if say_left_out(skipped):
            text = tokenizer.decode(ids)
    return encode_source(tokenizer, text, block_size)


def _as_json(source: str, number: int, found: Hypothesis, where: dict[str, int]) -> str:
    line = {
        **where,
        "sample": number,
        "source": source,
        "text": found.text,
        "score": found.score,
        "finish_reason": "stop" if found.finished else "length",
        "tokens": found.tokens,
        "log_probabilities": found.log_probabilities,
    }
    return json.dumps(line, ensure_ascii=False) + "\n"
