"""An encoder on a text with blanks: what it would put into each."""

from kqv.generation.filling import encode_masked, fill_text
from kqv.inside.figures import self_figures
from kqv.inside.trace import record
from kqv.inside.view import Part, Reader, Tokens, View, check_finite, check_length
from kqv.options.settings import SampleSettings
from kqv.text.tokenizer import MASK

FIRST_BLANK, BLANK_DISTANCE = 5, 8  # characters of a text that nobody has given blanks
FILLING_STEPS = 16  # for a text that the model writes itself


def view_blanks(reader: Reader, text: str) -> View:
    """Run an encoder on a text in which U+001A stands for each blank.

    Raises UserError if the text is empty, too long or of unknown characters, and if the model
    computes infinities or NaN.
    """
    model, tokenizer, title = reader.model, reader.tokenizer, reader.title
    tokens = Tokens(tokenizer, encode_masked(tokenizer, text))
    check_length("text", tokens.ids, tokenizer, model.config.block_size, title)
    trace = record(model, tokens.ids, tokenizer.vocab_size)
    check_finite(trace, title)
    part = Part("encoder", trace.layers, self_figures(trace.layers), tokens, tokens)
    return View(title, model, tokenizer, trace, [part])


def readable_blanks(reader: Reader, text: str) -> str:
    """`text` with some blanks, as U+001A, if the model can read it, else one that it writes."""
    tokenizer, block_size = reader.tokenizer, reader.model.config.block_size
    if not tokenizer.knows(text) or len(tokenizer.encode(text)) > block_size:
        settings = SampleSettings(
            max_new_tokens=min(len(text), block_size), denoise_steps=FILLING_STEPS
        )
        text = fill_text(reader.model.eval(), tokenizer, "", settings)
    # What the model wrote may have more tokens when it is encoded, and blanks cut byte pairs.
    while len(encode_masked(tokenizer, with_blanks(text))) > block_size:
        text = text[:-1]
    return with_blanks(text)


def with_blanks(text: str) -> str:
    """A text with U+001A instead of some of its characters, at least one.

    >>> with_blanks("a mat").encode(), with_blanks("").encode()
    (b'a ma\\x1a', b'\\x1a')
    """
    characters = list(text) or [""]
    for place in range(min(FIRST_BLANK, len(characters) - 1), len(characters), BLANK_DISTANCE):
        characters[place] = MASK
    return "".join(characters)
