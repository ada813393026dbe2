"""One model on one text: what every format of explain.py shows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kqv.errors import UserError
from kqv.generation.prompts import default_prompt
from kqv.generation.sampling import generate
from kqv.inside.figures import FIGURE_CONTEXT, HeadFigures, head_figures
from kqv.inside.trace import Trace, record
from kqv.options.checks import LARGEST_SEED
from kqv.options.settings import SampleSettings
from kqv.text.tokenizer import Tokenizer
from model import GPT


@dataclass
class View:
    """A model, what it computed on the text, and the figures of its heads."""

    title: str
    model: GPT
    tokenizer: Tokenizer
    trace: Trace
    heads: list[HeadFigures]


def view_text(model: GPT, tokenizer: Tokenizer, text: str, title: str) -> View:
    """Run a model on a text. `title` names the model.

    Raises UserError if the text is empty, too long or of unknown characters, and if the model
    computes infinities or NaN.
    """
    ids = tokenizer.encode(text)
    if not 0 < len(ids) <= model.config.block_size:
        unit = "characters" if tokenizer.kind == "char" else "tokens"
        raise UserError(
            f"the text has {len(ids)} {unit}, and {title} takes 1 to {model.config.block_size}"
        )
    trace = record(model, ids, tokenizer.vocab_size)
    scores = [layer.raw for layer in trace.layers]
    if not all(tensor.isfinite().all() for tensor in [*scores, trace.predictions]):
        raise UserError(f"{title} computes numbers that are not finite: there is nothing to show")
    generated = record(model, generated_ids(model, tokenizer))
    newlines = {token for token in generated.ids if tokenizer.token_bytes(token).endswith(b"\n")}
    return View(title, model, tokenizer, trace, head_figures(model, trace, generated, newlines))


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
