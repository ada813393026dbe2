"""One model on one text: what every format of explain.py shows.

`view_text` makes it of a decoder, `view_blanks` in blank_view.py of an encoder, `view_pair` in
pair_view.py of an encoder-decoder.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from kqv.errors import UserError
from kqv.generation.prompts import default_prompt
from kqv.generation.sampling import generate
from kqv.inside.figures import FIGURE_CONTEXT, HeadFigures, head_figures
from kqv.inside.labels import terminal_labels, token_label
from kqv.inside.trace import LayerTrace, Trace, record
from kqv.options.checks import LARGEST_SEED
from kqv.options.settings import SampleSettings
from kqv.text.tokenizer import MASK, Tokenizer
from model import GPT


class Tokens(NamedTuple):
    """A text that a model reads."""

    tokenizer: Tokenizer
    ids: list[int]

    @property
    def labels(self) -> list[str]:
        """Each token as a page shows it."""
        return [token_label(self.tokenizer, token) for token in self.ids]

    @property
    def terminal_labels(self) -> list[str]:
        """Each token as a terminal shows it."""
        return terminal_labels(self.tokenizer, self.ids)


@dataclass
class Part:
    """One kind of attention in a model, and the texts of its queries and of its keys."""

    kind: str
    """decoder, encoder, or cross: from a decoder to an encoder"""
    layers: list[LayerTrace]
    heads: Sequence[HeadFigures]
    queries: Tokens
    keys: Tokens


@dataclass(frozen=True)
class Reader:
    """A model, and the tokenizers of what it reads."""

    title: str
    """names the model"""
    model: GPT
    tokenizer: Tokenizer
    source_tokenizer: Tokenizer
    """of an encoder-decoder's source; of other models the same"""


@dataclass
class View:
    """A model and what it computed on the text, kind by kind of attention."""

    title: str
    model: GPT
    tokenizer: Tokenizer
    """of the text; of the target in an encoder-decoder"""
    trace: Trace
    parts: list[Part]
    """the last one is shown first"""

    @property
    def heads(self) -> Sequence[HeadFigures]:
        """The figures of the heads that are shown first."""
        return self.parts[-1].heads

    @property
    def blanks(self) -> list[int] | None:
        """Where an encoder, which predicts the token at each place, reads a blank. None for other
        models: they predict the next token."""
        if self.model.config.architecture != "encoder":
            return None
        mask = self.tokenizer.marker_id(MASK)
        return [place for place, token in enumerate(self.trace.ids) if token == mask]


def view_text(model: GPT, tokenizer: Tokenizer, text: str, title: str) -> View:
    """Run a model on a text. `title` names the model.

    Raises UserError if the text is empty, too long or of unknown characters, and if the model
    computes infinities or NaN.
    """
    ids = tokenizer.encode(text)
    check_length("text", ids, tokenizer, model.config.block_size, title)
    trace = record(model, ids, tokenizer.vocab_size)
    check_finite(trace, title)
    generated = record(model, generated_ids(model, tokenizer))
    newlines = {token for token in generated.ids if tokenizer.token_bytes(token).endswith(b"\n")}
    heads = head_figures(model, trace, generated, newlines)
    tokens = Tokens(tokenizer, ids)
    part = Part(model.config.architecture, trace.layers, heads, tokens, tokens)
    return View(title, model, tokenizer, trace, [part])


def check_length(
    what: str, ids: Sequence[int], tokenizer: Tokenizer, block_size: int, title: str
) -> None:
    """Raises UserError if a text is empty or longer than the model reads."""
    if not 0 < len(ids) <= block_size:
        unit = "characters" if tokenizer.kind == "char" else "tokens"
        raise UserError(f"the {what} has {len(ids)} {unit}, and {title} takes 1 to {block_size}")


def check_finite(trace: Trace, title: str) -> None:
    """Raises UserError if a model computed infinities or NaN."""
    scores = [layer.raw for layer in [*trace.encoder, *trace.layers, *trace.cross]]
    if not all(tensor.isfinite().all() for tensor in [*scores, trace.predictions]):
        raise UserError(f"{title} computes numbers that are not finite: there is nothing to show")


def untrained_model(model: GPT, checkpoint: Mapping[str, Any], path: Path) -> GPT:
    """The model as it was before training, from the seed in its checkpoint.

    Raises UserError if the checkpoint has no seed.
    """
    seed = checkpoint.get("config", {}).get("seed")
    if not isinstance(seed, int) or not 0 <= seed <= LARGEST_SEED:
        raise UserError(f"{path} does not record its seed: explain it without --step=0")
    torch.manual_seed(seed)  # as train.py does
    return GPT(model.config)


def readable_text(model: GPT, tokenizer: Tokenizer, text: str) -> str:
    """`text` if the model can process it, else one that it generates itself.

    A model of another alphabet, or with a short context, gets a text that fits it.
    """
    if not tokenizer.knows(text) or len(tokenizer.encode(text)) > model.config.block_size:
        text = tokenizer.decode(generated_ids(model, tokenizer, len(text)))
    # Encoding a generated text again may give more tokens than were generated.
    while len(tokenizer.encode(text)) > model.config.block_size:
        text = text[:-1]
    return text


def generated_ids(model: GPT, tokenizer: Tokenizer, length: int = FIGURE_CONTEXT) -> list[int]:
    """Token ids that the model generates, the same each time, at most block_size.

    Such a text shows what the model knows, and has lines if the model knows lines.
    """
    limit = model.config.block_size
    prompt = tokenizer.encode(default_prompt(tokenizer))[-limit:]
    settings = SampleSettings(max_new_tokens=max(0, min(length, limit) - len(prompt)))
    steps = generate(model.eval(), prompt, settings, vocab_size=tokenizer.vocab_size)
    return prompt + [tokens[0] for tokens, _ in steps]


def chosen_heads(view: View, layer: int, head: int) -> list[HeadFigures]:
    """For each kind of attention the head to show first, as `chosen_head` chooses it.

    An encoder may have fewer layers than the decoder: without the one asked for, any may be shown.
    Raises UserError if the kind that is shown first has no such head.
    """
    chosen = [chosen_head(view.heads, layer, head)]
    for part in view.parts[-2::-1]:
        has_layer = layer < len(part.layers)
        chosen.insert(0, chosen_head(part.heads, layer if has_layer else -1, head))
    return chosen


def chosen_head(heads: Sequence[HeadFigures], layer: int, head: int) -> HeadFigures:
    """The head to show first: of those asked for (-1 asks for any) the one of lowest entropy.

    Raises UserError if the model has no such head.
    """
    candidates = [
        figures for figures in heads if layer in (-1, figures.layer) and head in (-1, figures.head)
    ]
    if not candidates:
        last = heads[-1]
        raise UserError(f"this model has layers 0 to {last.layer} with heads 0 to {last.head}")
    return min(candidates, key=lambda figures: figures.entropy)
