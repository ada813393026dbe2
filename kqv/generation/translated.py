"""Write the targets of an encoder-decoder to standard output."""

import json
from collections.abc import Sequence

import torch

from kqv.errors import UserError
from kqv.generation.targets import Target
from kqv.generation.translating import Hypothesis, Translator, check_source
from kqv.generation.writing import SEPARATOR, say_left_out, show
from kqv.options.settings import SampleSettings
from kqv.progress import say_once
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
    source = prompt.removesuffix("\n")
    lines = source.split("\n")
    if settings.each_line is True:
        _write_lines(translator, source_tokenizer, lines)
        return
    if len(lines) > 1 and settings.each_line == "auto":
        raise UserError(
            f"the source has {len(lines)} lines: --each_line=True translates each of them, "
            f"--each_line=False all as one source"
        )
    ids = _encode(source_tokenizer, source, settings)
    check_source(ids, model.config.block_size)
    if settings.output == "text" and settings.beam_size == 1:
        _stream(translator, ids)
        return
    (found,) = translator.translate([ids])
    for number, hypothesis in enumerate(found):
        if settings.output == "jsonl":
            show(_as_json(source, number, hypothesis, {}))
        else:
            show(hypothesis.text + "\n")
    _say_cut(translator, found)


def _stream(translator: Translator, ids: Sequence[int]) -> None:
    """Show the first target as it is written, the others when all are done."""
    shown = ""
    targets: list[Target] = []
    for targets in translator.sample(translator.padded([ids])):
        # Of the last character, bytes or the letters of a syllable may be still to come.
        text = translator.hypothesis(targets[0]).text[:-1]
        show(text[len(shown) :])
        shown = text
    found = [translator.hypothesis(target) for target in targets]
    show(found[0].text[len(shown) :] + "\n")
    for hypothesis in found[1:]:
        show(f"{SEPARATOR}\n{hypothesis.text}\n")
    _say_cut(translator, found)


def _write_lines(translator: Translator, source_tokenizer: Tokenizer, lines: Sequence[str]) -> None:
    """Translate each line, in batches.

    In text an empty line is answered by an empty line, and several targets of a line stand side by
    side, with tabs between them.
    """
    settings, block_size = translator.settings, translator.model.config.block_size
    sources: list[list[int]] = []
    for number, line in enumerate(lines, start=1):
        try:
            ids = _encode(source_tokenizer, line, settings)
            if ids:
                check_source(ids, block_size)
            sources.append(ids)
        except UserError as error:
            raise UserError(f"line {number}: {error}") from None
    targets = translator.translate([ids for ids in sources if ids])
    for number, (line, ids) in enumerate(zip(lines, sources, strict=True), start=1):
        found = next(targets) if ids else []
        _say_cut(translator, found)
        if settings.output == "text":
            texts = [each.text for each in found]
            if any("\n" in text or "\t" in text for text in texts):
                say_once("a target has a line end or a tab: --output=jsonl keeps targets apart")
            show("\t".join(texts) + "\n")
            continue
        for sample, each in enumerate(found):
            show(_as_json(line, sample, each, {"line": number}))


def _encode(tokenizer: Tokenizer, text: str, settings: SampleSettings) -> list[int]:
    """The ids of a source, with unknown=skip of what the vocabulary has."""
    if settings.unknown == "error":
        return tokenizer.encode(text)
    ids, skipped = tokenizer.encode_known(text)
    say_left_out(skipped)
    return ids


def _say_cut(translator: Translator, found: Sequence[Hypothesis]) -> None:
    """Say once that a target is as long as the model writes, and not as long as was asked for."""
    longest = translator.model.config.block_size
    if translator.settings.max_new_tokens > longest and not all(each.finished for each in found):
        say_once(
            f"a target is cut after block_size={longest} tokens, the most that the model writes"
        )


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
