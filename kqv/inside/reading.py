"""What explain.py has models read: a text, or a source and its target."""

from collections.abc import Container

from kqv.errors import UserError
from kqv.generation.filling import mask_blanks
from kqv.generation.prompts import text_of
from kqv.inside.blank_view import readable_blanks, view_blanks
from kqv.inside.pair_view import Pair, pair_to_read, readable_source, view_pair
from kqv.inside.view import Reader, View, readable_text, view_text
from kqv.options.settings import ExplainSettings
from kqv.text.tokenizer import MASK


def what_to_read(reader: Reader, settings: ExplainSettings, given: Container[str]) -> str | Pair:
    """The text that models are to read or, for encoder-decoders, a source and its target. Blanks
    for an encoder are U+001A.

    Raises UserError for a target that the model does not have, and for a blank that it knows.
    """
    text = text_of(settings.text)
    target = text_of(settings.target) if "target" in given else None
    if reader.model.config.has_cross_attention:
        source = text.removesuffix("\n") if "text" in given else readable_source(reader, text)
        return pair_to_read(reader, source, target and target.removesuffix("\n"))
    if target is not None:
        raise UserError(
            f"--target= is the translation of an encoder-decoder, which {reader.title} is not: "
            f"leave it out"
        )
    if reader.model.config.architecture == "encoder":
        if "text" in given:
            return mask_blanks(reader.tokenizer, text, settings.blank)
        return readable_blanks(reader, text)
    return text if "text" in given else readable_text(reader.model, reader.tokenizer, text)


def look(reader: Reader, read: str | Pair) -> View:
    """Run a model on what it is to read. Raises UserError if it cannot."""
    translates = reader.model.config.has_cross_attention
    if isinstance(read, str) == translates:
        kinds = ("an encoder-decoder", "not") if translates else ("no encoder-decoder", "one")
        raise UserError(
            f"{reader.title} is {kinds[0]}, and the model beside it is {kinds[1]}: one page cannot "
            f"show both"
        )
    is_encoder = reader.model.config.architecture == "encoder"
    if MASK in read and not (translates or is_encoder or reader.tokenizer.knows(MASK)):
        raise UserError(
            f"{reader.title} is no encoder, and the text has blanks: one page cannot show both"
        )
    try:
        if not isinstance(read, str):
            return view_pair(reader, read)
        if is_encoder:
            return view_blanks(reader, read)
        return view_text(reader.model, reader.tokenizer, read, reader.title)
    except UserError as error:
        if reader.title in str(error):
            raise
        raise UserError(f"{reader.title}: {error}") from None  # which of two models it is
