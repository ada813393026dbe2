"""An encoder-decoder on a source and its target.

    source ─▶ encoder ─▶ cross-attention ◀─ decoder ◀─ U+0002, then the target

The target is given, or what the model writes for the source.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from kqv.errors import UserError
from kqv.generation.translating import Translator
from kqv.inside.figures import cross_figures, self_figures
from kqv.inside.trace import record
from kqv.inside.view import Part, Reader, Tokens, View, check_finite, check_length
from kqv.options.settings import SampleSettings
from kqv.text.tokenizer import TARGET_BEGIN, Tokenizer
from model import GPT

SHORT = 5  # tokens of a source, if the model can read nothing of the text


class Pair(NamedTuple):
    """What an encoder-decoder reads."""

    source: str
    target: Tokens
    """with the marker U+0002 before it"""


def pair_to_read(reader: Reader, source: str, target: str | None) -> Pair:
    """The source and a target; if none is given, the one that the model writes.

    Raises UserError if one of them is too long or of unknown characters, or the source is empty.
    """
    model, tokenizer = reader.model, reader.tokenizer
    ids = source_ids(reader, source)
    if target is None:
        return Pair(source, Tokens(tokenizer, written_ids(model, tokenizer, ids)))
    return Pair(source, Tokens(tokenizer, target_ids(tokenizer, target)))


def view_pair(reader: Reader, pair: Pair) -> View:
    """Run an encoder-decoder on a pair.

    Raises UserError as `pair_to_read` does, and if the model computes infinities or NaN.
    """
    model, tokenizer, title = reader.model, reader.tokenizer, reader.title
    source = Tokens(reader.source_tokenizer, source_ids(reader, pair.source))
    target = pair.target
    if target.tokenizer != tokenizer:  # of the model that stands beside this one
        text = target.tokenizer.decode(target.ids[1:])
        target = Tokens(tokenizer, target_ids(tokenizer, text))
    longest = model.config.block_size - 1  # U+0002 stands before the target
    if len(target.ids) - 1 > longest:
        raise UserError(
            f"the target has {len(target.ids) - 1} tokens, and {title} takes at most {longest}"
        )
    trace = record(model, target.ids, tokenizer.vocab_size, source=source.ids)
    check_finite(trace, title)
    parts = [
        Part("encoder", trace.encoder, self_figures(trace.encoder), source, source),
        Part("decoder", trace.layers, self_figures(trace.layers), target, target),
        Part("cross", trace.cross, cross_figures(trace.cross), target, source),
    ]
    return View(title, model, tokenizer, trace, parts)


def source_ids(reader: Reader, source: str) -> list[int]:
    """A source as the encoder reads it. Raises UserError if it is empty, too long or unknown."""
    tokenizer = reader.source_tokenizer
    ids = tokenizer.encode(source)
    check_length("text", ids, tokenizer, reader.model.config.block_size, reader.title)
    return ids


def target_ids(tokenizer: Tokenizer, target: str) -> list[int]:
    """A target as the decoder reads it: after the marker U+0002."""
    return [tokenizer.marker_id(TARGET_BEGIN), *tokenizer.encode(target)]


def written_ids(model: GPT, tokenizer: Tokenizer, source: Sequence[int]) -> list[int]:
    """The target that a model writes for a source, the likeliest token at each step.

    It begins with the marker U+0002, and ends before U+0003 or at block_size.
    """
    greedy = SampleSettings(temperature=0.0)
    translator = Translator(model.eval(), tokenizer, greedy, torch.float32)
    *_, (target,) = translator.sample(translator.padded([source]))
    return [*target_ids(tokenizer, ""), *target.written][: model.config.block_size]


def readable_source(reader: Reader, text: str) -> str:
    """What an encoder-decoder can read of `text`, which was not made for it.

    Unknown characters are left out, and capitals are small if the model knows no capitals. If it
    knows nothing of the text, the first tokens of its vocabulary.
    """
    tokenizer = reader.source_tokenizer
    known, _ = tokenizer.encode_known(text if tokenizer.knows(text[:1]) else text.lower())
    ids = known or range(min(SHORT, tokenizer.vocab_size))
    source = tokenizer.decode(ids[: reader.model.config.block_size])
    # Encoding may give more tokens than there were.
    while len(tokenizer.encode(source)) > reader.model.config.block_size:
        source = source[:-1]
    return source
